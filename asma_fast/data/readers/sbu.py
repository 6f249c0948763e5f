"""SBU Kinect Interaction (Yun et al., CVPR Workshops 2012): one text file a clip, Kinect v1, two bodies."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from asma_fast.data.clip import Clip, ClipInfo, Part, SplitRule
from asma_fast.data.errors import FormatError
from asma_fast.data.readers.base import Reader
from asma_fast.data.readers.numbers import number_rows, rounded
from asma_fast.data.readers.text import text_lines

_NUMBERS = 1 + 2 * 15 * 3

# The five folds of the data set's authors; s01s02 is pair 102.
_FOLDS = (
    frozenset({102, 304, 502, 604}),
    frozenset({203, 207, 305, 503}),
    frozenset({103, 107, 701, 703}),
    frozenset({201, 206, 302, 306}),
    frozenset({402, 403, 406, 602, 603}),
)


def _tests(fold: frozenset[int]) -> SplitRule:
    def rule(clip: ClipInfo) -> Part | None:
        if not any(clip.subject in pairs for pairs in _FOLDS):
            return None
        return "test" if clip.subject in fold else "train"

    return rule


class Sbu(Reader):
    """``sXXsYY/CC/TTT/skeleton_pos.txt``: two persons, class from 1, take. Clips are named ``sXXsYY/CC/TTT``.

    A clip's subject is the ordered pair, as the number 100·XX + YY. The split ``foldK`` tests on the pairs of that
    fold and trains on those of the other four.

    A line is a frame's number, which is checked and dropped, and 45 numbers of each body, normalised: u, v and w of
    15 joints. The frames are x = 1280 - 2560·u, y = 960 - 1920·v, z = 10000·w / 7.8125, as the authors document; a body
    of zeros only is absent.
    """

    dataset = "sbu"
    skeleton = "sbu"
    bodies = 2
    fps = 15.0
    pattern = re.compile(r"s(?P<first>\d{2})s(?P<second>\d{2})/(?P<action>\d{2})/\d{3}/skeleton_pos\.txt")
    classes = (
        "approach",
        "depart",
        "kick",
        "push",
        "shake hands",
        "hug",
        "exchange object",
        "punch",
    )
    splits = {f"fold{number}": _tests(fold) for number, fold in enumerate(_FOLDS, 1)}  # noqa: RUF012

    def matches(self, path: Path) -> bool:
        return self.pattern.fullmatch(_tail(path)) is not None

    def clip_name(self, path: Path) -> str:
        return _tail(path).rpartition("/")[0] if self.matches(path) else path.stem

    def numbers(self, path: Path) -> dict[str, int]:
        match = self.pattern.fullmatch(_tail(path))
        return {} if match is None else {group: int(digits) for group, digits in match.groupdict().items()}

    def read(self, path: Path, bodies: str) -> Clip:
        name = self.numbers(path)
        label = self.label_from_name(path, name.get("action"))

        def split(line: bytes, number: int) -> list[bytes]:
            tokens = line.split(b",")
            if len(tokens) != _NUMBERS:
                raise FormatError(path, f"{_NUMBERS} numbers with commas between", f"{len(tokens)}", number)
            return tokens

        rows = number_rows(path, text_lines(path), split)
        normalised = rows[:, 1:].reshape(-1, 2, 15, 3)
        points = np.array([1280, 960, 0]) + np.array([-2560, -1920, 10000 / 7.8125]) * normalised
        points[~normalised.any(axis=(2, 3))] = 0
        frames = rounded(path, points, first_line=1)
        return Clip(
            np.ascontiguousarray(frames.transpose(1, 0, 2, 3)),
            self.skeleton,
            label=label,
            subject=100 * name["first"] + name["second"] if name else None,
            name=self.clip_name(path),
            fps=self.fps,
        )


def _tail(path: Path) -> str:
    return "/".join(path.absolute().parts[-4:])
