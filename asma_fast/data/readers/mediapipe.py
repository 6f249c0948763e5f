"""MediaPipe Pose (BlazePose, Bazarevsky et al. 2020): its world landmarks, written to JSON or CSV, one file a clip."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asma_fast.data.clip import Clip
from asma_fast.data.errors import FormatError, short
from asma_fast.data.labels_csv import suggestion
from asma_fast.data.readers.clip_files import PoseFiles, first_and_length
from asma_fast.data.readers.json_file import load_json, plain_numbers
from asma_fast.data.readers.numbers import numbers_of
from asma_fast.data.readers.text import rows_of

_FIELDS = ("x", "y", "z", "visibility")
_WIDE = tuple(f"{field}{joint}" for joint in range(33) for field in _FIELDS)
_LONG = ("frame", "joint", *_FIELDS)


class MediaPipe(PoseFiles):
    """``*.json`` or ``*.csv`` of ``pose_world_landmarks``: metres from the middle of the hips, 33 joints.

    The other result, ``pose_landmarks``, is no 3-D space (shares of the image's width and height, and a depth); files
    do not tell the two apart unless they name them, so write the former. Visibility is kept as the score.

    JSON: a list of frames, each a list of 33 ``{"x", "y", "z", "visibility"}`` (more keys do not matter), a list of
    several such poses, ``null`` or ``[]`` for no body, or an object with any of these under ``landmarks`` or
    ``pose_world_landmarks``.

    CSV, with a header, in either of two forms. Wide: a frame a line, columns ``x0, y0, z0, visibility0`` to
    ``visibility32`` in any order, perhaps a column ``frame``; a line of empty cells is a frame without a body. Long: a
    joint a line, columns ``frame, joint, x, y, z, visibility``, joints counted from 0. The lowest ``frame`` is frame 0,
    a number left out is a frame without a body, within the bounds of :func:`first_and_length`; a joint left out is
    missing.
    """

    dataset = "mediapipe"
    skeleton = "mediapipe"
    pattern = re.compile(r"[^.].*\.(json|csv)", re.DOTALL)

    def read(self, path: Path, bodies: str) -> Clip:
        if path.suffix == ".csv":
            poses: Sequence[Sequence[NDArray[np.float64]]] = _table(path)
        else:
            record = load_json(path)
            if not isinstance(record, list):
                raise FormatError(path, "a JSON list of frames", short(record))
            poses = [_frame(path, frame) for frame in record]
        return self.scored(path, self.frames(path, poses, 4, bodies))


def _frame(path: Path, frame: Any) -> list[NDArray[np.float64]]:
    if isinstance(frame, dict):
        key = next((key for key in ("pose_world_landmarks", "landmarks") if key in frame), None)
        if key is None:
            raise FormatError(path, "'landmarks' or 'pose_world_landmarks' in a frame", short(sorted(frame)))
        frame = frame[key]
    if frame is None or frame == []:
        return []
    if not isinstance(frame, list):
        raise FormatError(path, "a list of 33 landmarks in a frame", short(frame))
    return [_pose(path, pose) for pose in (frame if isinstance(frame[0], list) else [frame])]


def _pose(path: Path, landmarks: Any) -> NDArray[np.float64]:
    if not isinstance(landmarks, list) or len(landmarks) != 33:
        found = f"{len(landmarks)}" if isinstance(landmarks, list) else short(landmarks)
        raise FormatError(path, "33 landmarks in a pose", found)
    values: list[Any] = []
    for landmark in landmarks:
        if not isinstance(landmark, dict) or not landmark.keys() >= set(_FIELDS):
            raise FormatError(path, f"landmarks with {', '.join(_FIELDS)}", short(landmark))
        values += [landmark[field] for field in _FIELDS]
    return plain_numbers(path, values, (132,), "landmarks").reshape(33, 4)


def _table(path: Path) -> list[list[NDArray[np.float64]]]:
    rows = ((line, cells) for line, cells in rows_of(path) if cells)
    line, header = next(rows, (1, []))
    columns = [column.strip() for column in header]
    wide = set(_WIDE) <= set(columns)
    for column in columns:
        known = (*_WIDE, "frame") if wide or "joint" not in columns else _LONG
        if column not in known or columns.count(column) > 1:
            raise FormatError(
                path,
                "a header of x0, y0, z0, visibility0 to visibility32, or frame, joint, x, y, z, visibility, each once",
                repr(column)[:60] + ("" if column in known else suggestion(column, known)),
                line,
            )
    lacking = [column for column in (_LONG if "joint" in columns else _WIDE) if column not in columns]
    if lacking:
        raise FormatError(path, f"a column {lacking[0]!r}", f"{len(columns)} columns without", line)
    values = ((line, numbers_of(path, line, cells, len(columns))) for line, cells in rows)
    return _long(path, columns, values) if "joint" in columns else _wide(path, columns, values)


Rows = Iterable[tuple[int, NDArray[np.float64]]]


def _wide(path: Path, columns: list[str], rows: Rows) -> list[list[NDArray[np.float64]]]:
    order = [columns.index(column) for column in _WIDE]
    frames: dict[int, list[NDArray[np.float64]]] = {}
    for number, (line, values) in enumerate(rows):
        if "frame" in columns:
            number = _whole(path, line, "frame", values[columns.index("frame")])
        if number in frames:
            raise FormatError(path, "each frame once", f"frame {number} again", line)
        pose = values[order].reshape(33, 4)
        frames[number] = [] if np.isnan(pose).all() else [pose]
    return list(_in_order(path, frames))


def _long(path: Path, columns: list[str], rows: Rows) -> list[list[NDArray[np.float64]]]:
    frame, joint = columns.index("frame"), columns.index("joint")
    order = [columns.index(field) for field in _FIELDS]
    frames: dict[int, list[NDArray[np.float64]]] = {}
    seen: set[tuple[int, int]] = set()
    for line, values in rows:
        number = _whole(path, line, "frame", values[frame])
        which = _whole(path, line, "joint", values[joint])
        if which > 32:
            raise FormatError(path, "a joint from 0 to 32", str(which), line)
        if (number, which) in seen:
            raise FormatError(path, "each joint of a frame once", f"frame {number}, joint {which} again", line)
        seen.add((number, which))
        (pose,) = frames.setdefault(number, [np.zeros((33, 4))])
        pose[which] = values[order]
    for number, (pose,) in frames.items():
        if np.isnan(pose).all():
            frames[number] = []
    return list(_in_order(path, frames))


def _in_order(path: Path, frames: dict[int, list[NDArray[np.float64]]]) -> Iterator[list[NDArray[np.float64]]]:
    if not frames:
        raise FormatError(path, "a line a frame or joint", "none")
    first, length = first_and_length(path, frames)
    return (frames.get(first + time, []) for time in range(length))


def _whole(path: Path, line: int, column: str, value: np.float64) -> int:
    if not (0 <= value < 2**53 and value == int(value)):
        raise FormatError(path, f"a number from 0 for {column}", str(value), line)
    return int(value)
