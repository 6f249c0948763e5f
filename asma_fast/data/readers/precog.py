"""PRECOG (2016): continuous sequences of martial-arts strikes, a label on every frame, Kinect v1, one body."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from asma_fast.data.clip import Clip
from asma_fast.data.errors import FormatError, short
from asma_fast.data.readers.base import Plan, Reader, split_by
from asma_fast.data.readers.numbers import integer, number_rows
from asma_fast.data.readers.text import text_lines

if TYPE_CHECKING:
    from asma_fast.data.prepare import PrepareConfig

_JOINTS = tuple(
    b"HipCenter Spine ShoulderCenter Head ShoulderLeft ElbowLeft WristLeft HandLeft ShoulderRight ElbowRight "
    b"WristRight HandRight HipLeft KneeLeft AnkleLeft FootLeft HipRight KneeRight AnkleRight FootRight".split()
)


class Precog(Reader):
    """``SeqQ_P.csv``: the sequence and the person; strikes tell left from right.

    Every frame has a class, ``none`` among them. ``cut`` makes a clip of each run of frames of one class, ``none``
    too, in their order; else a clip is a whole sequence, with its frames' classes. No camera: there was one.
    """

    options = frozenset({"cut"})
    dataset = "precog"
    skeleton = "kinect-v1"
    bodies = 1
    fps = 30.0
    sided = True
    pattern = re.compile(r"Seq\d{1,6}_(?P<subject>\d{1,6})\.csv", re.ASCII)
    classes = (
        "none",
        "right punch",
        "left punch",
        "front right kick",
        "front left kick",
        "side right kick",
        "side left kick",
        "back fist",
        "elbow strike",
    )
    splits = {"xsub": split_by("subject", set(range(1, 9)))}  # noqa: RUF012
    cut = True
    """Whether :meth:`clips` cuts; as planned."""

    def plan(self, config: PrepareConfig) -> Plan:
        self.cut = config.cut
        plan = super().plan(config)
        mark = "cut" if config.cut else "whole"
        return replace(plan, jobs=tuple(replace(job, token=f"{job.token} {mark}") for job in plan.jobs))

    def read(self, path: Path, bodies: str) -> Clip:
        lines = text_lines(path)
        header = lines[0].split(b";")
        if tuple(cell.strip() for cell in header) != _JOINTS:
            raise FormatError(path, f"{len(_JOINTS)} joints, HipCenter; Spine; …", short(lines[0]), 1)
        if len(lines) == 1:
            raise FormatError(path, "a frame", "the end of the file", 2)
        labels = np.empty(len(lines) - 1, np.int64)

        def split(line: bytes, number: int) -> list[bytes]:
            *cells, label = line.split(b";")
            if len(cells) != len(_JOINTS):
                raise FormatError(path, f"{len(_JOINTS)} joints and a label, ; between", f"{len(cells) + 1}", number)
            labels[number - 2] = integer(path, label, 0, len(self.classes) - 1, "a label", number)
            tokens: list[bytes] = []
            for cell in cells:
                point = cell.split()
                if len(point) != 3:
                    raise FormatError(path, "a joint's x y z", short(cell), number)
                tokens += point
            return tokens

        rows = number_rows(path, lines[1:], split, 2)
        return Clip(
            rows.reshape(1, -1, len(_JOINTS), 3).astype(np.float32),
            self.skeleton,
            subject=self.numbers(path).get("subject"),
            name=self.clip_name(path),
            fps=self.fps,
            frame_labels=labels,
        )

    def clips(self, path: Path, bodies: str) -> Sequence[Clip]:
        whole = self.read(path, bodies)
        labels = whole.frame_labels
        if not self.cut or labels is None:
            return (whole,)
        if not whole.frames.any():
            raise FormatError(path, "a body in some frame", f"none in {whole.length} frames")
        bounds = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), whole.length]
        return [
            replace(
                whole,
                frames=whole.frames[:, start:stop],
                label=int(labels[start]),
                name=f"{whole.name}#{number:03}",
                frame_labels=None,
            )
            for number, (start, stop) in enumerate(pairwise(bounds))
        ]
