"""What the readers of other toolboxes' files share: many clips in one file, cut into jobs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from asma_fast.data.clip import Clip, ClipInfo, SplitRule
from asma_fast.data.errors import FormatError
from asma_fast.data.pickles import shown
from asma_fast.data.readers.base import Reader, listed, state_of
from asma_fast.data.readers.ntu import Ntu
from asma_fast.data.readers.numbers import rounded

if TYPE_CHECKING:
    from asma_fast.data.prepare import PrepareConfig

CLIPS_A_JOB = 256
MOST_CLASSES = 100_000
_NTU_NAME = re.compile(r"S\d{3}C(?P<camera>\d{3})P(?P<subject>\d{3})R\d{3}A(?P<action>\d{3})")


class ReadyMade(Reader):
    """A reader of files that another toolbox has prepared."""

    fps = None
    ready_made = True
    splits = {}  # noqa: RUF012

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("what was learned of the file stays in this process, where it is not read a second time")

    def read(self, path: Path, bodies: str) -> Clip:
        """The one clip in the file."""
        from asma_fast.data.prepare import PrepareConfig

        jobs = self.plan(PrepareConfig(self.dataset, Path(), path, bodies=bodies)).jobs
        clips = jobs[0].clips() if len(jobs) == 1 else ()
        if len(clips) != 1:
            raise FormatError(path, "one clip", "many; prepare reads them all")
        (clip,) = clips
        if isinstance(clip, ValueError):
            raise clip
        return clip


def each(read: Callable[[int], Clip], group: Sequence[int]) -> list[Clip | ValueError]:
    """What ``read`` makes of each clip of a group, or why it cannot; so that a flawed one costs no other."""
    found: list[Clip | ValueError] = []
    for index in group:
        try:
            found.append(read(index))
        except ValueError as error:
            found.append(error)
    return found


def left_out(config: PrepareConfig) -> frozenset[str]:
    """The clips that ``config.exclude`` lists, with or without the ending of NTU RGB+D's files."""
    names = listed(config.exclude)
    return names | {name.removesuffix(".skeleton") for name in names}


def groups(indices: Sequence[int], alone: Collection[int] = (), size: int = CLIPS_A_JOB) -> Iterator[list[int]]:
    """The indices in order, ``size`` a job; those that cannot be read are a job each, so that they fail alone."""
    group: list[int] = []
    for index in indices:
        if index in alone:
            yield [index]
            continue
        group.append(index)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def span(indices: Sequence[int]) -> str:
    """The name of a job among those of one file."""
    return f"clip {indices[0]}" if len(indices) == 1 else f"clips {indices[0]} to {indices[-1]}"


def token_of(*parts: object) -> str:
    """A job's token: the states of the files, and a digest of whatever else its clips depend on."""
    texts = [state_of(part) if isinstance(part, Path) else repr(part) for part in parts]
    return hashlib.blake2b("\n".join(texts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def float32_frames(path: Path, name: str, numbers: NDArray[Any]) -> NDArray[np.float32]:
    """A clip's numbers as float32; those that are not finite stay so."""
    if numbers.dtype.kind not in "fiu":
        raise FormatError(path, "numbers", f"{numbers.dtype.name} values in clip {name!r}")
    return rounded(path, numbers, f"in clip {name!r}")


def without_padding(path: Path, name: str, frames: NDArray[Any]) -> NDArray[Any]:
    """``(M, T, V, C)`` frames up to the last that is not all zeros."""
    filled = np.flatnonzero((frames != 0).any(axis=(0, 2, 3)))  # any() of a signalling NaN would warn
    if not len(filled):
        raise FormatError(path, "a body in some frame", f"none in {frames.shape[1]} frames of clip {name!r}")
    return frames[:, : filled[-1] + 1]


def whole_number(path: Path, what: str, value: object, below: int) -> int:
    """An integer from 0 to ``below`` − 1."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or not 0 <= value < below:
        raise FormatError(path, f"{what} from 0 to {below - 1}", shown(value))
    return int(value)


def ntu_numbers(name: str) -> tuple[int, int] | tuple[None, None]:
    """Subject and camera where the name is one of NTU RGB+D's."""
    match = _NTU_NAME.fullmatch(name)
    return (None, None) if match is None else (int(match["subject"]), int(match["camera"]))


def class_names(clips: Collection[ClipInfo]) -> tuple[str, ...]:
    """NTU RGB+D's classes where every clip's name and label are of that data set, else numbers."""
    if clips and all(_is_ntu(clip) for clip in clips):
        return Ntu().protocol(clips)[0]
    return numbered(1 + max((clip.label for clip in clips if clip.label is not None), default=-1))


def numbered(count: int) -> tuple[str, ...]:
    """Names of classes of which only the number is known."""
    return tuple(f"class {label}" for label in range(count))


def _is_ntu(clip: ClipInfo) -> bool:
    match = _NTU_NAME.fullmatch(clip.name)
    return match is not None and clip.label == int(match["action"]) - 1 and clip.label < len(Ntu.classes)


def split_by_names(train: Collection[str], test: Collection[str]) -> SplitRule:
    """Clips that ``train`` names train, those that ``test`` names test, others neither."""

    def rule(clip: ClipInfo) -> str | None:
        return "train" if clip.name in train else "test" if clip.name in test else None

    return rule  # type: ignore[return-value]
