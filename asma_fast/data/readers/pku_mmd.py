"""PKU-MMD parts I and II (Liu et al., 2017): continuous sequences as text, Kinect v2, two bodies, labels apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from asma_fast.data.clip import Clip
from asma_fast.data.errors import FormatError, short
from asma_fast.data.readers.base import Job, Plan, Reader, files_under, folder_of, listed, split_by, state_of
from asma_fast.data.readers.numbers import integer, number_in, number_rows
from asma_fast.data.readers.text import text_lines

if TYPE_CHECKING:
    from asma_fast.data.prepare import PrepareConfig

_NUMBERS = 2 * 25 * 3
_LONGEST = 300
_VIEWS = {"L": 1, "M": 2, "R": 3}


@dataclass(frozen=True)
class Segment:
    """One labelled action: class from 0, first and last frame as frames ``start:stop``, line of the label file."""

    label: int
    start: int
    stop: int
    line: int


class PkuMmd(Reader):
    """``NNNN-V.txt`` (part I) or ``AaaNnn-V.txt`` (part II), the view V being L, M or R: camera 1, 2 or 3.

    Labels are files of the same names in the folder ``config.labels``, a line ``action,start,end,confidence`` an
    action (which counts from 1, as do the frames; the last one is included; the confidence is checked and dropped).
    ``cut`` makes a clip of each, in the file's order, of the middle 300 frames where there are more, as is usual for
    this data set. Else a clip is a whole sequence, with its frames' classes where labels are given. Names do not tell
    the subject.

    Split ``xview`` trains on the middle and right views (the paper's cross-view protocol). The official lists of either
    protocol are given as ``split="list:FILE"``; what they do not name for training is tested on.
    """

    options = frozenset({"labels", "cut"})
    dataset = "pku-mmd"
    skeleton = "ntu-rgb+d"
    bodies = 2
    fps = 30.0
    pattern = re.compile(r"(?:\d{4}|A\d{2}N\d{2})-[LMR]\.txt", re.ASCII)
    classes = (
        "bow", "brushing hair", "brushing teeth", "check time (from watch)", "cheer up", "clapping",
        "cross hands in front (say stop)", "drink water", "drop", "eat meal/snack", "falling",
        "giving something to other person", "hand waving", "handshaking", "hopping (one foot jumping)",
        "hugging other person", "jump up", "kicking other person", "kicking something",
        "make a phone call/answer phone", "pat on back of other person", "pickup", "playing with phone/tablet",
        "point finger at the other person", "pointing to something with finger", "punching/slapping other person",
        "pushing other person", "put on a hat/cap", "put something inside pocket", "reading", "rub two hands together",
        "salute", "sitting down", "standing up", "take off a hat/cap", "take off glasses", "take off jacket",
        "take out something from pocket", "taking a selfie", "tear up paper", "throw", "touch back (backache)",
        "touch chest (stomachache/heart pain)", "touch head (headache)", "touch neck (neckache)",
        "typing on a keyboard", "use a fan (with hand or paper)/feeling warm", "wear jacket", "wear on glasses",
        "wipe face", "writing",
    )  # fmt: skip
    splits = {"xview": split_by("camera", {2, 3})}  # noqa: RUF012

    def plan(self, config: PrepareConfig) -> Plan:
        folder = folder_of(config)
        if config.labels is None:
            if config.cut:
                raise ValueError(
                    "PKU-MMD's sequences are cut by their labels: labels must be the folder of the label files, got "
                    "None (or ask for whole sequences: cut=False)"
                )
            plan = super().plan(config)
            return replace(plan, jobs=tuple(replace(job, token=f"{job.token} whole") for job in plan.jobs))
        files = self._label_files(config.labels, folder)
        inside = {path.relative_to(folder).as_posix() for path in files.values() if path.is_relative_to(folder)}
        plan = super().plan(config)
        excluded = tuple(source for source in plan.excluded if source not in inside)
        jobs = []
        for job in plan.jobs:
            if job.source not in inside:
                path = folder / job.source
                labels = files.get(path.stem, config.labels / path.name)
                token = f"{job.token} {state_of(labels)} {'cut' if config.cut else 'whole'}"
                jobs.append(Job(job.source, token, partial(self.labelled, path, labels, config.cut, config.bodies)))
        if not jobs:
            raise ValueError(f"{folder} holds no sequence to read besides the label files of {config.labels}")
        known = {Path(source).stem for source in (*excluded, *(job.source for job in jobs))}
        known |= {Path(name).stem for name in listed(config.exclude)}
        jobs += [
            Job(f"labels/{name}", state_of(path), partial(_without_sequence, path, folder))
            for name, path in files.items()
            if name not in known
        ]
        return replace(plan, jobs=tuple(jobs), excluded=excluded)

    def read(self, path: Path, bodies: str) -> Clip:
        def split(line: bytes, number: int) -> list[bytes]:
            tokens = line.split()
            if len(tokens) != _NUMBERS:
                raise FormatError(path, f"{_NUMBERS} numbers", f"{len(tokens)}", number)
            return tokens

        rows = number_rows(path, text_lines(path), split).reshape(-1, 2, 25, 3)
        return Clip(
            np.ascontiguousarray(rows.transpose(1, 0, 2, 3), np.float32),
            self.skeleton,
            camera=_VIEWS[path.stem[-1]] if self.matches(path) else None,
            name=self.clip_name(path),
            fps=self.fps,
        )

    def labelled(self, path: Path, labels: Path, cut: bool, bodies: str) -> Sequence[Clip]:
        """A sequence's actions, or the whole with a class for each frame, by its label file."""
        if not labels.exists():
            raise FormatError(path, f"a label file {labels}", "none of that name")
        whole = self.read(path, bodies)
        segments = self.segments(labels, whole.length)
        if not cut:
            frame_labels = np.full(whole.length, -1, np.int64)
            for segment in segments:
                frame_labels[segment.start : segment.stop] = segment.label
            return (replace(whole, frame_labels=frame_labels),)
        return [
            replace(whole, frames=_middle(whole, segment), label=segment.label, name=f"{whole.name}#{number:03}")
            for number, segment in enumerate(segments)
        ]

    def segments(self, path: Path, frames: int) -> list[Segment]:
        """The actions in a label file, in its order.

        Raises
        ------
        FormatError
            If a line is not ``action,start,end,confidence``, or actions leave the sequence's frames or overlap.
        """
        found = []
        for number, line in enumerate(text_lines(path), 1):
            fields = line.split(b",")
            if len(fields) != 4:
                raise FormatError(path, "action,start,end,confidence", short(line), number)
            action = integer(path, fields[0], 1, len(self.classes), "an action", number)
            start = integer(path, fields[1], 1, frames, "a first frame", number)
            stop = integer(path, fields[2], start, frames, "a last frame", number)
            if number_in(fields[3]) is None:
                raise FormatError(path, "a confidence", short(fields[3]), number)
            found.append(Segment(action - 1, start - 1, stop, number))
        in_time = sorted(found, key=lambda segment: segment.start)
        for before, after in pairwise(in_time):
            if after.start < before.stop:
                first, second = sorted((before, after), key=lambda segment: segment.line)
                meant = f"frames {second.start + 1} to {second.stop}, which line {first.line} has too"
                raise FormatError(path, "actions that do not overlap", meant, second.line)
        return found

    def _label_files(self, labels: Path, folder: Path) -> dict[str, Path]:
        """Label files by the names of their sequences."""
        if not labels.is_dir():
            raise ValueError(f"labels must be the folder of PKU-MMD's label files, got {labels}")
        root, sequences = labels.resolve(), folder.resolve()
        if root == sequences:
            raise ValueError(f"labels and source must be two folders, got {labels} for both")
        files: dict[str, Path] = {}
        for path in sorted(files_under(root)):
            if not self.matches(path) or (sequences.is_relative_to(root) and path.is_relative_to(sequences)):
                continue
            if path.stem in files:
                raise ValueError(f"labels must be one file a sequence, got {files[path.stem]} and {path}")
            files[path.stem] = folder / path.relative_to(sequences) if path.is_relative_to(sequences) else path
        return files


def _middle(whole: Clip, segment: Segment) -> np.ndarray:
    """The frames of an action, or the middle 300 of more."""
    surplus = max(0, segment.stop - segment.start - _LONGEST)
    start = segment.start + surplus // 2
    return whole.frames[:, start : segment.stop - (surplus - surplus // 2)]


def _without_sequence(path: Path, folder: Path) -> Sequence[Clip]:
    raise FormatError(path, f"a sequence of that name under {folder}", "none")
