"""OpenPose (Cao et al., TPAMI 2021): JSON, a folder a clip and a file a frame; or Kinetics-skeleton, a file a clip."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from asma_fast.data.clip import Clip, ClipInfo, SplitRule
from asma_fast.data.errors import FormatError, printable, short
from asma_fast.data.labels_csv import MAX_CLASSES
from asma_fast.data.readers.base import state_of
from asma_fast.data.readers.clip_files import PoseFiles, Recording, first_and_length
from asma_fast.data.readers.json_file import load_json, plain_numbers

if TYPE_CHECKING:
    from asma_fast.data.prepare import PrepareConfig

_FRAME = re.compile(r"(?P<name>([^.].*?)?)_?(?P<number>[0-9]+)_keypoints\.json", re.DOTALL)
# Where BODY_25 has the joints of the COCO model's 18.
_OF_BODY_25 = (*range(8), *range(9, 19))


class OpenPose(PoseFiles):
    """``NAME_000000000000_keypoints.json``, a file a frame, a folder a clip; or ``*.json`` of Kinetics-skeleton.

    The folder that is read holds clip folders at any depth, or is one itself. A clip has its folder's name (that of its
    files where the folder is the one that is read); files of several NAMEs in one folder are several clips,
    ``FOLDER/NAME``. Frames are ordered by number; the first number there is frame 0, and a number left out is a frame
    without a body, within the bounds of :func:`first_and_length`.

    Joints are the 18 of OpenPose's COCO model, coordinates as in the file (pixels, unless OpenPose was told otherwise;
    Kinetics-skeleton has shares of the image), the score behind them. **Of BODY_25 the middle of the hips and the six
    points of the feet are dropped**; the other 18 are those of the COCO model. Hands and face are not read.

    Kinetics-skeleton (Yan et al., AAAI 2018): ``{"data": [{"frame_index": 1, "skeleton": [{"pose": [x, y, …], "score":
    […]}]}], "label": NAME, "label_index": NUMBER}``. Its labels count where there is no labels.csv.
    """

    dataset = "openpose"
    skeleton = "openpose"
    pattern = re.compile(r"([^.].*)?[0-9]_keypoints\.json|[^.].*\.json", re.DOTALL)

    def __init__(self) -> None:
        super().__init__()
        self._classes: dict[int, str] = {}

    def recordings(self, folder: Path, paths: Collection[Path]) -> tuple[list[Recording], list[str]]:
        clips: dict[tuple[Path, str], list[tuple[int, Path]]] = defaultdict(list)
        whole, rest = [], []
        for path in paths:
            frame = _FRAME.fullmatch(path.name)
            if frame is not None:
                clips[path.parent, frame["name"]].append((int(frame["number"]), path))
            elif path.name.endswith(("_keypoints.json", "_label.json")):  # a picture's, Kinetics' table of labels
                rest.append(printable(path.relative_to(folder).as_posix()))
            else:
                whole.append(path)
        found, ignored = super().recordings(folder, whole)
        names = Counter(parent for parent, _ in clips)
        for (parent, name), frames in clips.items():
            source = printable(parent.relative_to(folder).as_posix())
            if parent == folder:
                source = printable(name or folder.resolve().name)
            elif names[parent] > 1:
                source = f"{source}/{printable(name)}"
            files = [path for _, path in sorted(frames)]
            state = hashlib.blake2b("\n".join(ascii((path.name, state_of(path))) for path in files).encode())
            found.append(Recording(parent, source, source, state.hexdigest()[:32], tuple(path.name for path in files)))
        return found, ignored + rest

    def learn(self, config: PrepareConfig, folder: Path, recordings: Sequence[Recording]) -> None:
        first: dict[int, str] = {}
        for recording in recordings:
            found = None if recording.files else _label_at_the_ends(recording.path)
            if found is None:
                continue
            label, name = found
            if self._classes.setdefault(label, name) != name:
                raise ValueError(
                    f"label_index {label} must have one label, got {self._classes[label]!r} in {first[label]} "
                    f"and {name!r} in {recording.source}"
                )
            first.setdefault(label, recording.source)

    def worker(self) -> OpenPose:
        worker = super().worker()
        worker._classes = {}
        return worker

    def protocol(self, clips: Collection[ClipInfo]) -> tuple[tuple[str, ...], Mapping[str, SplitRule]]:
        """Class names and splits of the labels.csv; without it, Kinetics-skeleton's own class names."""
        if self._labels is not None:
            return super().protocol(clips)
        top = max((clip.label for clip in clips if clip.label is not None), default=-1)
        names = [self._classes.get(label) or str(label) for label in range(top + 1)]
        times = Counter(names)
        return tuple(name if times[name] == 1 else f"{name} ({label})" for label, name in enumerate(names)), {}

    def read(self, path: Path, bodies: str) -> Clip:
        """A folder of one clip's frames, or a file of Kinetics-skeleton."""
        if not path.is_dir():
            return self._kinetics(path, bodies)
        found, _ = self.recordings(path, [file for file in path.iterdir() if _FRAME.fullmatch(file.name)])
        if len(found) != 1:
            names = ", ".join(recording.name for recording in found[:5])
            raise FormatError(path, "one clip's frames, NAME_000000000000_keypoints.json", names or "none")
        return replace(self.recording(found[0], bodies), name=found[0].name)

    def recording(self, recording: Recording, bodies: str) -> Clip:
        if not recording.files:
            return self._kinetics(recording.path, bodies)
        folder, files = recording.path, recording.files
        numbers = [int(match["number"]) for match in map(_FRAME.fullmatch, files) if match is not None]
        twice = next((i for i in range(1, len(numbers)) if numbers[i] == numbers[i - 1]), None)
        if twice is not None:
            raise FormatError(folder, "a file a frame", f"{files[twice - 1]} and {files[twice]}")
        first, length = first_and_length(folder, numbers)
        poses: list[Sequence[NDArray[np.float64]]] = [()] * length
        joints: set[int] = set()
        for number, file in zip(numbers, files, strict=True):
            present = _people(folder / file)
            joints |= {len(pose) for pose in present}
            if len(joints) > 1:
                raise FormatError(folder / file, "the same joints as in the other frames", f"{sorted(joints)} of them")
            poses[number - first] = [pose if len(pose) == 18 else pose[list(_OF_BODY_25)] for pose in present]
        return self.scored(folder, self.frames(folder, poses, 3, bodies))

    def _kinetics(self, path: Path, bodies: str) -> Clip:
        record = load_json(path)
        entries = record.get("data") if isinstance(record, dict) else None
        if not isinstance(entries, list):
            found = sorted(map(str, record)) if isinstance(record, dict) else record
            raise FormatError(path, "a JSON object with a list 'data'", short(found))
        poses: dict[int, Sequence[NDArray[np.float64]]] = {}
        for entry in entries:
            index = entry.get("frame_index") if isinstance(entry, dict) else None
            people = entry.get("skeleton") if isinstance(entry, dict) else None
            if type(index) is not int or index < 0 or not isinstance(people, list):
                raise FormatError(path, "frames with 'frame_index' and a list 'skeleton'", short(entry))
            if index in poses:
                raise FormatError(path, "each frame once", f"frame_index {short(index)} again")
            poses[index] = [_kinetics_pose(path, person) for person in people]
        if not poses:
            raise FormatError(path, "a frame", "none")
        first, length = first_and_length(path, poses)
        ordered = [poses.get(first + time, ()) for time in range(length)]
        return self.scored(path, self.frames(path, ordered, 3, bodies), label=_label_index(path, record))


def _people(path: Path) -> list[NDArray[np.float64]]:
    record = load_json(path)
    people = record.get("people") if isinstance(record, dict) else None
    if not isinstance(people, list):
        raise FormatError(path, "a JSON object with a list 'people'", short(record))
    poses = []
    for person in people:
        if not isinstance(person, dict) or "pose_keypoints_2d" not in person:
            raise FormatError(path, "people with 'pose_keypoints_2d'", short(person))
        poses.append(plain_numbers(path, person["pose_keypoints_2d"], (54, 75), "pose_keypoints_2d").reshape(-1, 3))
    return poses


def _kinetics_pose(path: Path, person: Any) -> NDArray[np.float64]:
    if not isinstance(person, dict):
        raise FormatError(path, "a skeleton with 'pose' and 'score'", short(person))
    places = plain_numbers(path, person.get("pose"), (36,), "pose").reshape(18, 2)
    return np.column_stack([places, plain_numbers(path, person.get("score"), (18,), "score")])


def _label_index(path: Path, record: dict[str, Any]) -> int | None:
    label = record.get("label_index")
    if label is not None and (type(label) is not int or not 0 <= label < MAX_CLASSES):
        raise FormatError(path, f"a label_index from 0 and below {MAX_CLASSES}", short(label))
    return label


def _label_at_the_ends(path: Path) -> tuple[int, str] | None:
    """Number and name of the class, which stand before or behind the frames; a plan does not read these."""
    try:
        with path.open("rb") as file:
            head = file.read(2048)
            file.seek(max(path.stat().st_size - 2048, 0))
            tail = file.read(2048)
    except OSError:  # reading it will tell
        return None
    ends = (head + b"\n" + tail).decode("utf-8", "replace")
    label = re.findall(r'"label_index"\s*:\s*([0-9]{1,9})\b', ends)
    name = re.findall(r'"label"\s*:\s*("(?:[^"\\]|\\.)*")', ends)
    if not label or not name:
        return None
    try:
        text = json.loads(name[-1])
    except ValueError:
        return None
    return int(label[-1]), printable(text)
