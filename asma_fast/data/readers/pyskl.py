"""Annotation files of PYSKL (Duan et al., ACM MM 2022) and MMAction2: one pickle of clips, in an image or in space."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from asma_fast.data.clip import Clip, ClipInfo, SplitRule
from asma_fast.data.errors import FormatError
from asma_fast.data.pickles import load_pickle, shown
from asma_fast.data.preprocessing import Preprocessing
from asma_fast.data.readers.base import Job, Plan
from asma_fast.data.readers.ready_made import (
    MOST_CLASSES,
    ReadyMade,
    class_names,
    each,
    float32_frames,
    groups,
    left_out,
    ntu_numbers,
    numbered,
    span,
    split_by_names,
    token_of,
    whole_number,
)
from asma_fast.layouts import LAYOUTS
from asma_fast.skeleton import Skeleton

if TYPE_CHECKING:
    from asma_fast.data.prepare import PrepareConfig

EXTRA = "asma_fast"
"""Key under which ``convert`` keeps what the format has no place for; PYSKL does not look at it."""
MOST_BODIES = 64
MOST_JOINTS = 1000
_LAYOUTS = {(17, 2): "coco", (25, 3): "ntu-rgb+d-pyskl"}
_PART = re.compile(r"(?P<name>.*?)_?(?P<part>train|val|test)(?P<number>\d*)")


class Pyskl(ReadyMade):
    """``{"split": {name: [frame_dir, …]}, "annotations": [{frame_dir, label, total_frames, keypoint, …}, …]}``, or the
    plain list of annotations.

    ``keypoint`` is ``(M, T, V, C)``; 17 joints in an image are ``coco``, 25 in space ``ntu-rgb+d-pyskl``, others need
    ``layout``. ``keypoint_score (M, T, V)`` follows the coordinates as a channel, and joints of present bodies with a
    lower score than ``min_score`` are marked missing. M is the most of any clip, others are filled up with zeros.
    Lists ``NAME_train`` with ``NAME_val`` or ``NAME_test`` make the split NAME; ``train`` with ``val`` or ``test``,
    ``published``; ``train1`` with ``test1``, ``split1``. Where both val and test exist, the latter is ``NAME_test``.
    """

    options = frozenset({"fps", "min_score", "layout"})
    dataset = "pyskl"
    skeleton = "coco"
    bodies = 0
    classes = ()
    pattern = re.compile(r".+\.(pkl|pickle)")

    def __init__(self) -> None:
        self._skeleton = Skeleton.named(self.skeleton)
        self._file: Path | None = None
        self._loaded: list[dict[str, Any]] | None = None
        self._lists: dict[str, tuple[frozenset[str], frozenset[str]]] = {}
        self._names: tuple[str, ...] = ()
        self._scored = False

    def layout(self) -> Skeleton:
        return self._skeleton

    def plan(self, config: PrepareConfig) -> Plan:
        path = config.source
        if path is None or not path.is_file():
            raise ValueError(f"source must be an annotation file of PYSKL's, a .pkl; got {path}")
        self._file = path
        content = load_pickle(path)
        about = content if isinstance(content, dict) else {"annotations": content}
        self._loaded = self._checked(path, about.get("annotations"), content)
        self._lists = _split_lists(path, about.get("split", {}))
        self._learn(path, about.get(EXTRA, {}), config.layout)
        exclude = left_out(config)
        names = [annotation["frame_dir"] for annotation in self._loaded]
        kept = [index for index, name in enumerate(names) if name not in exclude]
        jobs = []
        for group in groups(kept, {i for i in kept if self._flaw(self._loaded[i])}):
            token = token_of(path, group, config.fps, config.min_score, config.layout)
            job = partial(self._read, group, config.fps or None, config.min_score)
            jobs.append(Job(f"{path.name}, {span(group)}", token, job))
        if not jobs:
            raise ValueError(f"{path} holds no clip; {len(names)} excluded")
        return Plan(tuple(jobs), (), tuple(name for name in names if name in exclude))

    def protocol(self, clips: Collection[ClipInfo]) -> tuple[tuple[str, ...], Mapping[str, SplitRule]]:
        """The file's own class names, or NTU's where names and labels are, else numbers; the file's splits."""
        splits = {name: split_by_names(*parts) for name, parts in self._lists.items()}
        most = max((clip.label for clip in clips if clip.label is not None), default=-1)
        if self._names:
            return (*self._names, *numbered(most + 1)[len(self._names) :]), splits
        return class_names(clips), splits

    def _checked(self, path: Path, annotations: Any, content: Any) -> list[dict[str, Any]]:
        """The annotations, all with a name and an array."""
        if not isinstance(annotations, list):
            raise FormatError(path, "a dict with 'annotations', or a list of them", f"a {type(content).__name__}")
        bytes_found = 0
        for index, annotation in enumerate(annotations):
            if not isinstance(annotation, dict):
                raise FormatError(path, "annotations that are dicts", f"a {type(annotation).__name__} at {index}")
            name = annotation.get("frame_dir")
            if not isinstance(name, str) or not name:
                raise FormatError(path, f"a frame_dir in annotation {index}", shown(name))
            points = annotation.get("keypoint")
            if not isinstance(points, np.ndarray):
                found = (
                    f"keys {', '.join(map(str, list(annotation)[:12]))}" if points is None else type(points).__name__
                )
                raise FormatError(path, f"an array 'keypoint' in every annotation, such as {name!r}", found[:200])
            bytes_found += points.nbytes
        if not annotations:
            raise FormatError(path, "annotations", "an empty list")
        if bytes_found > 16 * path.stat().st_size:  # one array under many names, which would fill a disk
            raise FormatError(path, "an array of its own in every annotation", "arrays that share their bytes")
        return annotations

    def _learn(self, path: Path, extra: Any, layout: str | None) -> None:
        """Layout, bodies, scores, classes and preprocessing."""
        assert self._loaded is not None
        extra = extra if isinstance(extra, dict) else {}
        sound = [annotation["keypoint"] for annotation in self._loaded if annotation["keypoint"].ndim == 4]
        if not sound:
            raise FormatError(path, "keypoint of shape (M, T, V, C)", f"{self._loaded[0]['keypoint'].shape}")
        joints, channels = sound[0].shape[2:]
        try:
            self._skeleton = _layout(path, extra.get("skeleton"), layout, joints, channels)
            names, applied = extra.get("classes", []), extra.get("preprocessing")
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise TypeError(f"class names, got {shown(names)}")
            if applied is not None and not (isinstance(applied, dict) and _is_plain(applied)):
                raise TypeError(f"preprocessing, got {shown(applied)}")
            self._names = tuple(names)
            self.applied = None if applied is None else Preprocessing.from_dict(applied)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            if isinstance(error, FormatError) or layout is not None:
                raise
            raise FormatError(path, f"what convert wrote under {EXTRA!r}", str(error)[:100]) from None
        if len(set(self._names)) != len(self._names) or len(self._names) > MOST_CLASSES:
            raise FormatError(path, "distinct class names", f"{len(self._names)} names")
        self.skeleton = self._skeleton.name  # type: ignore[misc]
        self.sided = extra.get("sided") is True  # type: ignore[misc]
        self._scored = any(annotation.get("keypoint_score") is not None for annotation in self._loaded)
        self.bodies = max(min(len(points), MOST_BODIES) for points in sound)  # type: ignore[misc]

    def _flaw(self, annotation: dict[str, Any]) -> tuple[str, str] | None:
        """What the format expects of an annotation and what is there instead; None where it is sound."""
        points, score = annotation["keypoint"], annotation.get("keypoint_score")
        wanted = (len(self._skeleton), self._skeleton.dimensions)
        if points.ndim != 4 or points.shape[2:] != wanted or 0 in points.shape or len(points) > MOST_BODIES:
            return f"keypoint of shape (M, T, {wanted[0]}, {wanted[1]}), M from 1 to {MOST_BODIES}", str(points.shape)
        frames = annotation.get("total_frames", points.shape[1])
        if isinstance(frames, bool) or not isinstance(frames, (int, np.integer)) or frames != points.shape[1]:
            return f"total_frames {points.shape[1]}, as keypoint has", shown(frames)
        if self._scored and (not isinstance(score, np.ndarray) or score.shape != points.shape[:3]):
            return f"keypoint_score of shape {points.shape[:3]}", str(getattr(score, "shape", type(score).__name__))
        labels = annotation.get("frame_labels")
        if labels is not None and (not isinstance(labels, np.ndarray) or labels.shape != points.shape[1:2]):
            return f"frame_labels of shape {points.shape[1:2]}", str(getattr(labels, "shape", type(labels).__name__))
        if not np.count_nonzero(points):
            return "a body in some frame", f"none in {points.shape[1]} frames"
        return None

    def _read(self, group: Sequence[int], fps: float | None, min_score: float) -> list[Clip | ValueError]:
        path, loaded = self._file, self._loaded
        assert path is not None
        assert loaded is not None
        return each(lambda index: self._clip(path, loaded[index], fps, min_score), group)

    def _clip(self, path: Path, annotation: dict[str, Any], fps: float | None, min_score: float) -> Clip:
        name, points = annotation["frame_dir"], annotation["keypoint"]
        flaw = self._flaw(annotation)
        if flaw is not None:
            raise FormatError(path, f"{flaw[0]} in clip {name!r}", flaw[1])
        count, length, joints, dimensions = points.shape
        frames = np.zeros((self.bodies, length, joints, dimensions + self._scored), np.float32)
        frames[:count, ..., :dimensions] = float32_frames(path, name, points)
        missing = None
        if self._scored:
            score = frames[:count, ..., dimensions] = float32_frames(path, name, annotation["keypoint_score"])
            missing = np.zeros(frames.shape[:3], bool)
            missing[:count] = ~(score >= min_score) & points.any(axis=(2, 3))[..., None]
        subject, camera = ntu_numbers(name)
        number = partial(_optional_number, path, annotation)
        return Clip(
            frames,
            self._skeleton.name,
            label=number("label", MOST_CLASSES),
            subject=number("subject") if "subject" in annotation else subject,
            camera=number("camera") if "camera" in annotation else camera,
            name=name,
            fps=_fps(path, annotation) or fps,
            preprocessing=self.applied,
            missing=missing,
            frame_labels=_frame_labels(path, annotation),
            image_size=_image_size(path, annotation) if dimensions == 2 else None,
        )


def _layout(path: Path, own: Any, asked: str | None, joints: int, channels: int) -> Skeleton:
    """The layout asked for, or the file's own, or that of as many joints."""
    if asked is not None:
        return Skeleton.named(asked)
    if own is not None:
        if not isinstance(own, dict) or not _is_plain(own) or len(own.get("joints", ())) != joints:
            raise FormatError(path, f"a layout of {joints} joints", shown(own))
        skeleton = Skeleton(**own)
        if skeleton != LAYOUTS.get(skeleton.name, skeleton):
            raise FormatError(path, "a layout with a name of its own", f"{skeleton.name!r}, another layout's")
        return skeleton
    if (joints, channels) not in _LAYOUTS:
        known = ", ".join(f"{v} joints in {c} dimensions ({name})" for (v, c), name in _LAYOUTS.items())
        raise FormatError(path, f"{known}, or a layout named by --layout", f"{joints} joints in {channels}")
    return Skeleton.named(_LAYOUTS[joints, channels])


def _is_plain(value: object, depth: int = 4) -> bool:
    """Whether a value is small and made of numbers, strings and what holds them."""
    if isinstance(value, (dict, list, tuple)):
        entries = value.values() if isinstance(value, dict) else value
        return depth > 0 and len(value) <= 4 * MOST_JOINTS and all(_is_plain(entry, depth - 1) for entry in entries)
    return isinstance(value, (str, int, type(None)))


def _split_lists(path: Path, lists: Any) -> dict[str, tuple[frozenset[str], frozenset[str]]]:
    """Split → the names that train and that test."""
    if not isinstance(lists, dict):
        raise FormatError(path, "a dict 'split'", f"a {type(lists).__name__}")
    found: dict[str, dict[str, frozenset[str]]] = {}
    for key, names in lists.items():
        match = _PART.fullmatch(key) if isinstance(key, str) else None
        if match is None:
            raise FormatError(path, "splits whose names end in train, val or test", shown(key))
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise FormatError(path, f"a list of clip names for split {key!r}", f"a {type(names).__name__}")
        number = match["number"] if match["name"] or not match["number"] else f"split{match['number']}"
        found.setdefault(match["name"] + number or "published", {})[match["part"]] = frozenset(names)
    splits = {}
    for name, parts in found.items():
        train = parts.get("train", frozenset())
        splits[name] = (train, parts.get("val", parts.get("test", frozenset())))
        if "val" in parts and "test" in parts:
            splits[f"{name}_test"] = (train, parts["test"])
    return splits


def _optional_number(path: Path, annotation: dict[str, Any], key: str, below: int = 2**63) -> int | None:
    value = annotation.get(key)
    return None if value is None else whole_number(path, f"{key} of clip {annotation['frame_dir']!r}", value, below)


def _fps(path: Path, annotation: dict[str, Any]) -> float | None:
    value = annotation.get("fps")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e6:
        raise FormatError(path, f"frames a second of clip {annotation['frame_dir']!r}", shown(value))
    return float(value)


def _frame_labels(path: Path, annotation: dict[str, Any]) -> NDArray[np.int64] | None:
    labels = annotation.get("frame_labels")
    if labels is None:
        return None
    if labels.dtype.kind not in "iu" or labels.min() < -1 or labels.max() >= MOST_CLASSES:
        raise FormatError(path, f"frame_labels from -1 in clip {annotation['frame_dir']!r}", str(labels[:5])[:60])
    return np.array(labels, np.int64)


def _image_size(path: Path, annotation: dict[str, Any]) -> tuple[int, int] | None:
    """``(width, height)`` of PYSKL's ``(height, width)``."""
    shape = annotation.get("img_shape")
    if shape is None:
        return None
    sound = (
        isinstance(shape, (tuple, list)) and len(shape) == 2 and all(isinstance(n, (int, np.integer)) for n in shape)
    )
    if not sound or not all(0 < int(n) < 2**31 for n in shape):
        raise FormatError(path, f"img_shape (height, width) of clip {annotation['frame_dir']!r}", shown(shape))
    return int(shape[1]), int(shape[0])
