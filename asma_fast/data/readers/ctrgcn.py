"""Archives of CTR-GCN (Chen et al., ICCV 2021), which many later networks share: NTU RGB+D in one ``.npz``."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asma_fast.data.clip import Clip, ClipInfo, Part, SplitRule
from asma_fast.data.errors import FormatError
from asma_fast.data.npy import NpyHeader
from asma_fast.data.npz import Member, members
from asma_fast.data.readers.base import Job, Plan
from asma_fast.data.readers.ntu import Ntu
from asma_fast.data.readers.ready_made import (
    MOST_CLASSES,
    ReadyMade,
    each,
    float32_frames,
    groups,
    left_out,
    numbered,
    span,
    token_of,
    without_padding,
)

if TYPE_CHECKING:
    from asma_fast.data.prepare import PrepareConfig

BODIES, JOINTS = 2, 25
PARTS: tuple[Part, ...] = ("train", "test")
_SPLITS = {
    "cs": "xsub",
    "csub": "xsub",
    "cv": "xview",
    "cset": "xset",
    "xsub": "xsub",
    "xview": "xview",
    "xset": "xset",
}
LONGEST = 100_000


class CtrGcn(ReadyMade):
    """``x_train (N, T, 150)``, ``y_train (N, classes)`` one-hot, and ``x_test``, ``y_test``.

    The 150 numbers of a frame are two bodies of 25 joints; frames behind a clip's last are zeros and are cut off.
    CTR-GCN chose the bodies, dropped frames without any, and moved each clip's origin to the first body's spine-mid
    joint in its first frame. None of our recipes does that, and none is disturbed by it: the clips are recorded as not
    preprocessed. The archive knows no names, subjects or cameras; clips are ``train_00000`` and so on. The split is
    ``xsub``, ``xview`` or ``xset`` where the file's name ends so (``NTU60_CS.npz``), else ``published``.
    """

    options = frozenset({"fps"})
    dataset = "ctrgcn"
    skeleton = "ntu-rgb+d"
    bodies = BODIES
    classes = Ntu.classes
    pattern = re.compile(r".+\.npz")

    def __init__(self) -> None:
        self.split = "published"
        self.count = 0

    def plan(self, config: PrepareConfig) -> Plan:
        path = config.source
        if path is None or not path.is_file():
            raise ValueError(f"source must be an archive of CTR-GCN's, a .npz file; got {path}")
        self.split = _SPLITS.get(path.stem.lower().rpartition("_")[2], "published")
        exclude = left_out(config)
        arrays = members(path)
        jobs, excluded, widths = [], [], set()
        for part in PARTS:
            if f"x_{part}" not in arrays and f"y_{part}" not in arrays:
                continue
            array = Member(path, f"x_{part}")
            labels = _labels(path, part, array.header)
            array.verify()
            widths.add(labels.width)
            names = [f"{part}_{index:05}" for index in range(len(labels.numbers))]
            excluded += [name for name in names if name in exclude]
            for group in _groups(array, {index for index, name in enumerate(names) if name in exclude}):
                token = token_of(path, group, config.fps)
                chosen = tuple((index, names[index], int(labels.numbers[index])) for index in group)
                jobs.append(
                    Job(f"{part}, {span(group)}", token, partial(self._read, array, chosen, config.fps or None))
                )
        if len(widths) != 1 or not jobs:
            found = f"labels of {sorted(widths)} classes" if jobs else f"{', '.join(arrays)[:100] or 'no arrays'}"
            raise FormatError(path, "clips x_train, x_test and one-hot labels y_train, y_test", found)
        self.count = widths.pop()
        known = sorted(name for name in arrays if name[:2] in ("x_", "y_") and name[2:] in PARTS)
        return Plan(tuple(jobs), tuple(sorted(set(arrays) - set(known))), tuple(excluded))

    def protocol(self, clips: Collection[ClipInfo]) -> tuple[tuple[str, ...], Mapping[str, SplitRule]]:
        """NTU-60's or NTU-120's classes where there are as many, else numbers; the archive's split."""
        classes = Ntu.classes[: self.count] if self.count in (60, len(Ntu.classes)) else numbered(self.count)
        return classes, {self.split: _part_of_name}

    def _read(
        self, array: Member, chosen: Sequence[tuple[int, str, int]], fps: float | None
    ) -> list[Clip | ValueError]:
        first, last = chosen[0][0], chosen[-1][0]
        rows = array.rows(first, last + 1)

        def clip(place: int) -> Clip:
            index, name, label = chosen[place]
            numbers = rows[index - first]
            if label < 0:
                raise FormatError(array.path, "one-hot labels", f"none or several for clip {name!r}")
            frames = numbers.reshape(len(numbers), BODIES, JOINTS, 3).transpose(1, 0, 2, 3)
            trimmed = without_padding(array.path, name, frames)
            return Clip(float32_frames(array.path, name, trimmed), self.skeleton, label=label, name=name, fps=fps)

        return each(clip, range(len(chosen)))


def _part_of_name(clip: ClipInfo) -> Part | None:
    part = clip.name.partition("_")[0]
    return part if part in PARTS else None


class _Labels(NamedTuple):
    numbers: NDArray[np.int64]
    width: int


def _labels(path: Path, part: str, clips: NpyHeader) -> _Labels:
    """Label numbers, −1 where a row is not one-hot."""
    member = Member(path, f"y_{part}")
    shape, wide = clips.shape, BODIES * JOINTS * 3
    sound = len(shape) == 3 and shape[2] == wide and shape[0] > 0 and 0 < shape[1] <= LONGEST
    if not sound or clips.dtype.kind not in "fiu":
        expected = f"x_{part} of numbers (N, T, {wide}), T at most {LONGEST}"
        raise FormatError(path, expected, f"{clips.dtype} of shape {shape}")
    found = member.header
    fits = len(found.shape) == 2 and found.shape[0] == shape[0] and 0 < found.shape[1] <= MOST_CLASSES
    if not fits or found.dtype.kind not in "fiub":
        raise FormatError(path, f"y_{part} one-hot ({shape[0]}, classes)", f"{found.dtype} of shape {found.shape}")
    numbers = [
        np.where(((rows != 0).sum(axis=1) == 1) & (rows == 1).any(axis=1), (rows != 0).argmax(axis=1), -1)
        for rows in member.chunks()
    ]
    return _Labels(np.concatenate(numbers).astype(np.int64), found.shape[1])


def _groups(array: Member, excluded: set[int]) -> list[list[int]]:
    """Jobs of consecutive clips; of a compressed array each lies within one chunk."""
    size = array.chunk if not array.mapped else len(range(array.header.shape[0]))
    found = []
    for begin in range(0, array.header.shape[0], size):
        indices = range(begin, min(begin + size, array.header.shape[0]))
        found += list(groups([index for index in indices if index not in excluded]))
    return found
