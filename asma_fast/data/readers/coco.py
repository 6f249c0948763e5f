"""Poses in COCO's formats (cocodataset.org, keypoint results and annotations): one JSON file a clip, 17 joints, 2-D."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asma_fast.data.clip import Clip
from asma_fast.data.errors import FormatError, short
from asma_fast.data.readers.clip_files import PoseFiles
from asma_fast.data.readers.json_file import load_json, plain_numbers

_MAX_SIDE = 1_000_000


class Coco(PoseFiles):
    """``*.json``: a list of results, or an object of ``images`` and ``annotations``.

    Results are ``{"image_id": …, "category_id": 1, "keypoints": [x, y, score, …], "score": …}``. The images in the
    order of their ids (numbers, or texts such as ``"12.jpg"`` by the numbers in them) are the frames: an image without
    a result is not in such a list and so no frame. With ``images`` each of them is one, and ``width`` and ``height``,
    where given, are the clip's ``image_size``. Bodies of an image are ordered by ``score``, the highest first, or stand
    as in the file where none has any. In annotations the third number of a joint is its visibility (0 not labelled, 1
    hidden, 2 visible), kept as such.
    """

    dataset = "coco"
    skeleton = "coco"
    pattern = re.compile(r"[^.].*\.json", re.DOTALL)

    def read(self, path: Path, bodies: str) -> Clip:
        record = load_json(path)
        images: list[Any] | None = None
        if isinstance(record, dict) and isinstance(record.get("annotations"), list):
            images, record = record.get("images"), record["annotations"]
            if not isinstance(images, list):
                raise FormatError(path, "a list 'images' beside 'annotations'", short(images))
        if not isinstance(record, list):
            raise FormatError(path, "a JSON list of results, or 'images' and 'annotations'", short(record))
        found: dict[int | str, list[tuple[float | None, NDArray[np.float64]]]] = defaultdict(list)
        for entry in record:
            image = _id(path, entry, "image_id")
            score = entry.get("score")
            if score is not None and (type(score) not in (int, float) or not -1e9 < score < 1e9):
                raise FormatError(path, "a number for 'score'", short(score))
            pose = plain_numbers(path, entry.get("keypoints"), (51,), "keypoints").reshape(17, 3)
            people = found[image]
            if np.count_nonzero(pose):  # a person annotated without any joint takes nobody's place
                people.append((score, pose))
        if len({score is None for people in found.values() for score, _ in people}) > 1:
            raise FormatError(path, "a 'score' for every body or for none", "some without")
        categories = {short(entry.get("category_id")) for entry in record}
        if len(categories) > 1:
            raise FormatError(path, "one category_id, that of people", f"{sorted(categories)[:5]}")
        known = {_id(path, image, "id") for image in images or ()}
        if images is not None:
            if len(known) < len(images):
                raise FormatError(path, "distinct ids of images", f"{len(images)} images, {len(known)} ids")
            if not known >= set(found):
                raise FormatError(path, "image_ids of 'images'", short(next(iter(set(found) - known))))
        order = _ordered(path, set(found) | known)
        poses: list[Sequence[NDArray[np.float64]]] = []
        for key in order:
            people = sorted(found.get(key, ()), key=lambda one: -(one[0] or 0))
            poses.append([pose for _, pose in people])
        return self.scored(path, self.frames(path, poses, 3, bodies), image_size=_size(path, images or ()))


def _id(path: Path, entry: Any, field: str) -> int | str:
    found = entry.get(field) if isinstance(entry, dict) else None
    if type(found) is not int and not isinstance(found, str):
        raise FormatError(path, f"objects with '{field}', a number or a text", short(entry))
    return found


def _ordered(path: Path, ids: set[int | str]) -> list[int | str]:
    if len({type(one) for one in ids}) > 1:
        raise FormatError(path, "image ids that are all numbers, or all texts", "both")

    def place(one: int | str) -> tuple[list[tuple[int, str]], int | str]:
        parts = re.split("([0-9]+)", one) if isinstance(one, str) else []
        return [(len(part.lstrip("0")) if i % 2 else 0, part.lstrip("0") if i % 2 else part) for i, part in
                enumerate(parts)], one  # fmt: skip

    return sorted(ids, key=place)


def _size(path: Path, images: Sequence[Any]) -> tuple[int, int] | None:
    sizes = {(short(image.get("width")), short(image.get("height"))) for image in images}
    if len(sizes) > 1:
        raise FormatError(path, "images of one size", f"{sorted(sizes)[:3]}")
    if not images or (images[0].get("width") is None and images[0].get("height") is None):
        return None
    width, height = images[0].get("width"), images[0].get("height")
    if not all(type(side) is int and 1 <= side <= _MAX_SIDE for side in (width, height)):
        raise FormatError(path, f"width and height from 1 to {_MAX_SIDE:,}", f"{short(width)}, {short(height)}")
    return width, height
