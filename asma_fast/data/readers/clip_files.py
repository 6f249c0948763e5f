"""What readers of pose estimators' output and of one's own arrays share: clips in a folder, a labels.csv, scores."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from asma_fast.data.clip import Clip, ClipInfo, SplitRule
from asma_fast.data.errors import FormatError, printable
from asma_fast.data.labels_csv import Labels, Row, read_labels
from asma_fast.data.preprocessing import MAX_FRAMES
from asma_fast.data.readers.base import Job, Plan, Reader, files_under, folder_of, listed, some, state_of
from asma_fast.data.readers.numbers import rounded

if TYPE_CHECKING:
    from asma_fast.data.prepare import PrepareConfig

ReaderType = TypeVar("ReaderType", bound="ClipFiles")
LABELS, CLASSES = "labels.csv", "classes.txt"


@dataclass(frozen=True)
class Recording:
    """One clip's file, or files, below the folder that is read.

    Parameters
    ----------
    path
        The file, or the folder of the files.
    source
        Its path from the folder that is read, as printable text.
    name
        The clip's, by default.
    state
        Of what is read.
    files
        Names of the files in the folder ``path``, where one clip has many.
    """

    path: Path
    source: str
    name: str
    state: str
    files: tuple[str, ...] = ()

    @property
    def stem(self) -> str:
        """The file's name without ending; the folder's."""
        return self.path.name if self.files else self.path.stem


class ClipFiles(Reader):
    """A folder of clips that know no labels, and a ``labels.csv`` that does (:mod:`asma_fast.data.labels_csv`).

    The labels.csv is the one asked for or else that in the folder; class names may stand in a ``classes.txt`` beside it
    or in the folder. A clip's name is its file's, from the folder and without ending, in which characters that cannot
    be printed (and bytes that are not UTF-8) are escaped as in Python. Hidden files, ``.NAME``, are ignored.
    """

    options = frozenset({"labels", "fps", "min_score"})
    fps = None
    splits: Mapping[str, SplitRule] = {}  # type: ignore[misc]
    classes = ()

    def __init__(self) -> None:
        self.min_score = 0.5
        self.rate: float | None = None
        self._labels: Labels | None = None

    def plan(self, config: PrepareConfig) -> Plan:
        folder, exclude = folder_of(config), listed(config.exclude)
        self._settle(config)
        table = config.labels
        if table is None and (folder / LABELS).is_file():
            table = folder / LABELS
        own = [path for path in (folder / LABELS, folder / CLASSES, table) if path is not None]
        paths = [path for path in files_under(folder) if not _among(path, own)]
        special = [path for path in paths if path.exists() and not path.is_file()]  # a pipe would never end
        found, ignored = self.recordings(folder, sorted(set(paths).difference(special)))
        ignored += [printable(path.relative_to(folder).as_posix()) for path in special]
        found.sort(key=lambda recording: recording.source)
        if not found:
            raise ValueError(
                f"{folder} holds no clip of {self.dataset}: expected names like {self.pattern.pattern}, "
                f"found {some(sorted(ignored)) or 'none'}"
            )
        twice = [name for name, count in Counter(recording.name for recording in found).items() if count > 1]
        if twice:
            sources = some([recording.source for recording in found if recording.name == twice[0]])
            raise ValueError(f"clip names must be distinct, got {twice[0]!r} for {sources}")
        out = {one.name for one in found if exclude & {one.name, one.source, one.path.name, one.stem}}
        kept = [recording for recording in found if recording.name not in out]
        if not kept:
            raise ValueError(f"exclude leaves out all {len(found)} clips of {folder}")
        self.learn(config, folder, kept)
        worker = self.worker()
        if table is not None:
            aliases = {one.name: one.name for one in found} | {one.source: one.name for one in found}
            near = (table.with_name(CLASSES), folder / CLASSES)
            classes = next((path for path in near if path.is_file()), None)
            self._labels = read_labels(table, aliases, optional=out, classes=classes)
        rows = {} if self._labels is None else self._labels.rows
        jobs = tuple(worker.job(one, config.bodies, rows.get(one.name)) for one in kept)
        return Plan(jobs, tuple(sorted(ignored)), tuple(one.source for one in found if one.name in out))

    def recordings(self, folder: Path, paths: Collection[Path]) -> tuple[list[Recording], list[str]]:
        """The clips among the files below a folder, and the files that are none: here, a file a clip."""
        found, ignored = [], []
        for path in paths:
            source = printable(path.relative_to(folder).as_posix())
            if self.matches(path):
                found.append(Recording(path, source, source[: -len(path.suffix)], state_of(path)))
            else:
                ignored.append(source)
        return found, ignored

    def learn(self, config: PrepareConfig, folder: Path, recordings: Sequence[Recording]) -> None:
        """What else the plan needs to know of its recordings; kept on the reader."""
        del config, folder, recordings

    def worker(self: ReaderType) -> ReaderType:
        """A copy that reads clips and knows nothing of the labels of all: every job carries one."""
        return copy(self)

    def settings(self) -> tuple[object, ...]:
        """What, when it changes, makes earlier clips worthless."""
        return self.min_score, self.rate

    def job(self, recording: Recording, bodies: str, row: Row | None) -> Job:
        """The job that reads a recording and adds what a line of the labels.csv says."""
        known = row and replace(row, line=0)  # a line that only moved changes nothing
        token = f"{recording.state} {self.settings()} {known}"
        return Job(recording.source, token, partial(self.labelled, recording, bodies, row))

    def labelled(self, recording: Recording, bodies: str, row: Row | None) -> Sequence[Clip]:
        """The clip of a recording under its name, with what a line of the labels.csv says."""
        clip = replace(self.recording(recording, bodies), name=recording.name)
        if row is None:
            return (clip,)
        known = {field: getattr(row, field) for field in ("name", "label", "subject", "camera")}
        return (replace(clip, **known, fps=row.fps or clip.fps),)

    def recording(self, recording: Recording, bodies: str) -> Clip:
        """The clip in a recording."""
        return self.read(recording.path, bodies)

    @abstractmethod
    def read(self, path: Path, bodies: str) -> Clip: ...

    def protocol(self, clips: Collection[ClipInfo]) -> tuple[tuple[str, ...], Mapping[str, SplitRule]]:
        """Class names and splits of the labels.csv."""
        del clips
        return ((), {}) if self._labels is None else (self._labels.classes, self._labels.splits)

    def scored(self, path: Path, frames: NDArray[np.float32], **known: Any) -> Clip:
        """A clip of frames ``(M, T, V, C)`` whose last channel is a score; those that are low are marked missing."""
        return Clip(
            frames,
            self.skeleton,
            name=printable(path.stem),
            fps=self.rate,
            missing=low_scores(path, frames, self.min_score),
            **known,
        )

    def _settle(self, config: PrepareConfig) -> None:
        if not 0 <= config.min_score <= 1000:
            raise ValueError(f"min_score must be from 0 to 1000, got {config.min_score}")
        if not 0 <= config.fps < math.inf:
            raise ValueError(f"fps must be finite and at least 0, got {config.fps}")
        self.min_score, self.rate = config.min_score, config.fps or None


class PoseFiles(ClipFiles):
    """Output of a pose estimator: the first two bodies of each frame, without tracking; under ``bodies="first"``, the
    first one."""

    bodies = 2
    body_rules = ("file-order", "first")

    def frames(
        self, path: Path, poses: Sequence[Sequence[NDArray[np.float64]]], channels: int, rule: str
    ) -> NDArray[np.float32]:
        """``(M, T, V, C)`` from the poses ``(V, C)`` of each frame; beyond M they are dropped, before it absent. So
        that a few bytes a frame do not become gigabytes, frames without a body are at most 100,000, or ten for each
        with one."""
        if not 1 <= len(poses) <= MAX_FRAMES:
            raise FormatError(path, f"1 to {MAX_FRAMES:,} frames", str(len(poses)))
        inhabited = sum(map(bool, poses))
        if len(poses) - inhabited > max(100_000, 10 * inhabited):
            raise FormatError(path, "more frames with a body", f"{inhabited} of {len(poses)}")
        bodies = 1 if rule == "first" else self.bodies
        stacked = np.zeros((bodies, len(poses), len(self.layout()), channels), np.float32)
        for time, present in enumerate(poses):
            for body, pose in enumerate(present[:bodies]):
                stacked[body, time] = rounded(path, pose)
        return stacked


def _among(path: Path, others: Sequence[Path]) -> bool:
    return any(path.name == other.name and path.resolve() == other.resolve() for other in others)


def low_scores(path: Path, frames: NDArray[np.float32], least: float) -> NDArray[np.bool_] | None:
    """``(M, T, V)``: joints of present bodies with a score, the last channel, below ``least``, or of score 0 at the
    origin; None where there are none. A score that is NaN beside coordinates that are all NaN is set to 0."""
    scores, coordinates = frames[..., -1], frames[..., :-1]
    unknown = np.isnan(scores) & np.isnan(coordinates).all(axis=-1)
    scores[unknown] = 0
    if not np.isfinite(scores).all():
        body, time, joint = map(int, np.argwhere(~np.isfinite(scores))[0])
        raise FormatError(path, "finite scores", f"{scores[body, time, joint]} in frame {time}, joint {joint}")
    low = (scores < least) | ((scores == 0) & ~coordinates.any(axis=-1))
    low &= np.asarray(frames.any(axis=(2, 3)))[..., None]
    return low if low.any() else None


def first_and_length(path: Path, numbers: Collection[int]) -> tuple[int, int]:
    """The first frame number and how many frames there are up to the last, those without a number between included.

    Raises
    ------
    FormatError
        If more than 1,000 are missing between, and more than ten for each that is there.
    """
    first, last = min(numbers), max(numbers)
    length = last - first + 1
    if length > len(numbers) + max(1000, 10 * len(numbers)):
        raise FormatError(path, "frame numbers without wide gaps", f"{len(numbers)} from {first} to {last}")
    return first, length
