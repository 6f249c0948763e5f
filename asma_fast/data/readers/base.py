"""What every data set's reader is."""

from __future__ import annotations

import os
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from asma_fast.data.clip import Clip, ClipInfo, Part, SplitRule
from asma_fast.data.errors import FormatError
from asma_fast.data.readers.numbers import rounded
from asma_fast.skeleton import Skeleton

if TYPE_CHECKING:
    from asma_fast.data.prepare import PrepareConfig
    from asma_fast.data.preprocessing import Preprocessing


@dataclass(frozen=True)
class Job:
    """One source of clips, recorded in a store as a whole or not at all; picklable.

    Parameters
    ----------
    source
        Its name, unique in the plan; failures are reported under it.
    token
        The state of what is read (size and time of change), so that a resumed run notices a change.
    clips
        Reads it; in the place of a clip that cannot be had, why not. Raises FormatError, ValueError or OSError if
        nothing can be read.
    """

    source: str
    token: str
    clips: Callable[[], Sequence[Clip | ValueError]]


@dataclass(frozen=True)
class Plan:
    """What there is to read: jobs in the order of the store, files that are not the data set's, files left out, and the
    names to be left out that are no file's."""

    jobs: tuple[Job, ...]
    ignored: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()


class DataSet:
    """What a data set is, whatever its clips are made of."""

    dataset: ClassVar[str]
    """Name in the API and on the command line."""
    skeleton: ClassVar[str]
    """Joint layout."""
    bodies: ClassVar[int]
    """M of every clip."""
    fps: ClassVar[float | None]
    """Frames a second; None where that is the file's to say, or unknown."""
    sided: ClassVar[bool] = False
    """Whether classes tell left from right, so that a flip would change them."""
    classes: ClassVar[tuple[str, ...]]
    """Class names, in the order of the labels."""
    splits: ClassVar[Mapping[str, SplitRule]]
    """The published train-test splits."""

    def layout(self) -> Skeleton:
        """The joint layout itself."""
        return Skeleton.named(self.skeleton)

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
    applied: Preprocessing | None = None
    """What other software has done to the clips already; nothing is done twice."""
    options: ClassVar[frozenset[str]] = frozenset()
    """Which of ``prepare``'s options ``labels``, ``layout``, ``fps``, ``min_score`` and ``cut`` it reads."""
    ready_made: ClassVar[bool] = False
    """Whether the clips come prepared by other software: then their missing joints are kept as they are."""
    pattern: ClassVar[re.Pattern[str]]
    """File names that belong to the data set."""

    def matches(self, path: Path) -> bool:
        """Whether the file's name is one of the data set's."""
        return self.pattern.fullmatch(path.name) is not None

    def clip_name(self, path: Path) -> str:
        """The name of the clip or the recording in a file, unique in the data set."""
        return path.stem

    def plan(self, config: PrepareConfig) -> Plan:
        """What there is to read under ``config.source``: here, the files of a folder whose names match.

        A reader of another kind of source (one file of many clips, a folder a clip) overrides this; what it learns of
        the layout, the classes or the splits, it keeps on itself for :meth:`layout` and :meth:`protocol`.

        Raises
        ------
        ValueError
            If the source is not what the reader needs, or holds nothing of the data set.
        """
        folder, exclude = folder_of(config), listed(config.exclude)
        jobs, ignored, excluded, unmatched = [], [], [], set(exclude)
        for path in sorted(files_under(folder)):
            source = path.relative_to(folder).as_posix()
            names = {path.name, path.stem, self.clip_name(path)}
            unmatched -= names
            if not self.matches(path) or not is_plain(path):
                ignored.append(source)
            elif exclude & names:
                excluded.append(source)
            else:
                jobs.append(Job(source, state_of(path), partial(self.clips, path, config.bodies)))
        if not jobs:
            raise ValueError(
                f"{folder} holds no file of {self.dataset}: expected names by {self.pattern.pattern}, "
                f"found {some(ignored) or 'none'}" + (f"; {len(excluded)} excluded" if excluded else "")
            )
        return Plan(tuple(jobs), tuple(ignored), tuple(excluded), tuple(sorted(unmatched)))

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


def folder_of(config: PrepareConfig) -> Path:
    """``config.source``, which must be a folder."""
    if config.source is None:
        raise ValueError(f"{config.dataset} is read from files: source must be a folder, got None")
    if not config.source.is_dir():
        raise ValueError(f"source must be a folder, got {config.source}")
    return config.source


def listed(names: Path | None) -> frozenset[str]:
    """The names in a text file: one a line, several with commas between, or both.

    Official lists have heads: of a list with lines like ``Training videos:`` and ``Validataion videos:``, only the
    names behind a head of training are taken. A line with commas counts as a name of its own, too.

    Raises
    ------
    ValueError
        If the list has heads but none of training, or is no text in UTF-8.
    OSError
        If it cannot be read.
    """
    if names is None:
        return frozenset()
    found: set[str] = set()
    heads: list[str] = []
    for line in names.read_text(encoding="utf-8-sig").splitlines():
        head = re.match(r"\s*((?:train|valid|test)\w*(?: \w+)*) *:", line, re.IGNORECASE)
        if head is not None:
            heads.append(head[1])
            line = line[head.end() :]
        if not heads or heads[-1].lower().startswith("train"):
            found |= {line.strip(), *(name.strip() for name in line.split(","))}
    if heads and not any(head.lower().startswith("train") for head in heads):
        raise ValueError(f"{names}: expected a head like 'Training videos:', found {some(heads)}")
    return frozenset(found - {""})


def files_under(folder: Path) -> Iterator[Path]:
    """Every file below the folder, in no order; links to folders are followed, each folder once.

    Raises
    ------
    OSError
        If a folder cannot be read: what lies in it would be lost.
    """

    def refuse(error: OSError) -> None:
        raise error

    seen = set()
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        place = os.path.realpath(parent)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        yield from (Path(parent, name) for name in names)


def is_plain(path: Path) -> bool:
    """Whether reading it ends: not so for pipes, sockets and devices. Of a dangling link, reading tells."""
    try:
        kind = path.stat().st_mode
    except OSError:
        return True
    return stat.S_ISREG(kind)


def state_of(path: Path) -> str:
    """A file's size and time of change."""
    try:
        found = path.stat()
    except OSError:  # a dangling link, say: reading it will tell
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"


def some(names: Sequence[str]) -> str:
    """The first few of many names."""
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def one_body(path: Path, frames: NDArray[np.generic], joints: int) -> NDArray[np.float32]:
    """Numbers of one body ``(T, V, 3)`` as checked frames ``(1, T, V, 3)`` float32; what is not finite stays so, as a
    missing joint."""
    if frames.dtype.kind not in "fiu":
        raise FormatError(path, "numbers", f"{frames.dtype.name} values")
    if frames.ndim != 3 or frames.shape[0] < 1 or frames.shape[1:] != (joints, 3):
        raise FormatError(path, f"coordinates of shape (frames, {joints}, 3)", f"shape {frames.shape}")
    return rounded(path, frames, axes=("frame", "joint"))[None]


def split_by(field: str, train: Collection[int]) -> SplitRule:
    """Clips whose subject or camera is one of ``train`` train, the others test."""

    def rule(clip: ClipInfo) -> str | None:
        value = getattr(clip, field)
        return None if value is None else "train" if value in train else "test"

    return rule  # type: ignore[return-value]


def asked_splits(text: str | None) -> dict[str, SplitRule]:
    """The splits that ``prepare --split`` describes.

    ``subject:1,3`` is ``xsub``, ``camera:2`` is ``xview``, and ``list:FILE``, the clips in which train while the others
    test, has the file's stem for a name. ``NAME=`` before any of them names it otherwise.

    Raises
    ------
    ValueError
        If the text is none of these.
    OSError
        If a list cannot be read.
    """
    splits: dict[str, SplitRule] = {}
    for part in filter(None, (text or "").split(";")):
        named, equals, described = part.rpartition("=")
        kind, _, value = described.partition(":")
        usual = {"subject": "xsub", "camera": "xview", "list": Path(value).stem}
        try:
            name = named if equals else usual[kind]
            if not name or not value:
                raise ValueError
            rule = split_by_list(listed(Path(value))) if kind == "list" else split_by(kind, set(_integers(value)))
        except (KeyError, ValueError):
            raise ValueError(
                "split must be subject:NUMBERS, camera:NUMBERS or list:FILE, NAME= before it if wanted, several with ; "
                f"between; got {part!r}"
            ) from None
        if name in splits:
            raise ValueError(f"split {name} is described twice in {text!r}; name one by NAME= before it")
        splits[name] = rule
    return splits


def _integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def split_by_list(train: Collection[str]) -> SplitRule:
    """Clips that ``train`` names, with or without a file ending, train; the others test. A clip that was cut from a
    recording, ``RECORDING#NUMBER`` of three digits or more, goes where the recording goes."""
    stems = {name.rpartition(".")[0] or name for name in train} | set(train)

    def rule(clip: ClipInfo) -> Part:
        recording = re.sub(r"#\d{3,}$", "", clip.name)
        return "train" if clip.name in stems or recording in stems else "test"

    return rule
