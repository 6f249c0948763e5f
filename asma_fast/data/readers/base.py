"""What every data set's reader is."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from asma_fast.data.clip import Clip, ClipInfo, SplitRule
from asma_fast.data.errors import FormatError


class DataSet:
    """What a data set is, whatever its clips are made of."""

    dataset: ClassVar[str]
    """Name in the API and on the command line."""
    skeleton: ClassVar[str]
    """Joint layout."""
    bodies: ClassVar[int]
    """M of every clip."""
    fps: ClassVar[float]
    """Frames a second."""
    sided: ClassVar[bool] = False
    """Whether classes tell left from right, so that a flip would change them."""
    classes: ClassVar[tuple[str, ...]]
    """Class names, in the order of the labels."""
    splits: ClassVar[Mapping[str, SplitRule]]
    """The published train-test splits."""

    def protocol(self, clips: Collection[ClipInfo]) -> tuple[tuple[str, ...], Mapping[str, SplitRule]]:
        """Class names and splits of a collection of the data set's clips."""
        return self.classes, self.splits


class Reader(DataSet, ABC):
    """How one data set's files become clips.

    A data set is one file in this package: a subclass that fills in the attributes, and a line in
    ``asma_fast.data.readers``.
    """

    body_rules: ClassVar[tuple[str, ...]] = ("file-order",)
    """Rules for choosing bodies that make sense here."""
    pattern: ClassVar[re.Pattern[str]]
    """File names that belong to the data set."""

    def matches(self, path: Path) -> bool:
        """Whether the file's name is one of the data set's."""
        return self.pattern.fullmatch(path.name) is not None

    @abstractmethod
    def read(self, path: Path, bodies: str) -> Clip:
        """The recording in one file.

        Raises
        ------
        FormatError
            If the file is not what the format asks for.
        OSError
            If it cannot be read.
        """

    def clips(self, path: Path, bodies: str) -> Sequence[Clip]:
        """The labelled clips in one file; more than one where recordings are continuous."""
        return (self.read(path, bodies),)

    def check_bodies(self, bodies: str) -> None:
        """Refuses a body rule that the data set does not have."""
        if bodies not in self.body_rules:
            raise ValueError(f"bodies must be one of {', '.join(self.body_rules)} for {self.dataset}; got {bodies!r}")

    def numbers(self, path: Path) -> dict[str, int]:
        """What the file name says, by the pattern's groups; empty where the name is not the data set's."""
        match = self.pattern.fullmatch(path.name)
        return {} if match is None else {group: int(digits) for group, digits in match.groupdict().items()}

    def label_from_name(self, path: Path, number: int | None) -> int | None:
        """A class number counted from 1 in the file's name as a label counted from 0."""
        if number is None:
            return None
        if not 1 <= number <= len(self.classes):
            raise FormatError(path, f"an action from 1 to {len(self.classes)} in the file's name", str(number))
        return number - 1


def one_body(path: Path, frames: NDArray[np.generic], joints: int) -> NDArray[np.float32]:
    """Numbers of one body ``(T, V, 3)`` as checked frames ``(1, T, V, 3)`` float32."""
    if frames.dtype.kind not in "fiu":
        raise FormatError(path, "numbers", f"{frames.dtype.name} values")
    if frames.ndim != 3 or frames.shape[0] < 1 or frames.shape[1:] != (joints, 3):
        raise FormatError(path, f"coordinates of shape (frames, {joints}, 3)", f"shape {frames.shape}")
    with np.errstate(over="ignore"):
        rounded = frames.astype(np.float32)
    finite = np.isfinite(rounded)
    if not finite.all():
        place = tuple(map(int, np.argwhere(~finite)[0]))
        raise FormatError(path, "finite coordinates", f"{frames[place]} in frame {place[0]}, joint {place[1]}")
    return np.ascontiguousarray(rounded)[None]


def split_by(field: str, train: Collection[int]) -> SplitRule:
    """Clips whose subject or camera is one of ``train`` train, the others test."""

    def rule(clip: ClipInfo) -> str | None:
        value = getattr(clip, field)
        return None if value is None else "train" if value in train else "test"

    return rule  # type: ignore[return-value]
