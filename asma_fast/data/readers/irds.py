"""IntelliRehabDS (Miron et al., Data 2021): one text file a repetition of a gesture, Kinect v2, one body."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from asma_fast.data.clip import Clip, ClipInfo, Part, SplitRule
from asma_fast.data.errors import FormatError, short
from asma_fast.data.readers.base import Reader
from asma_fast.data.readers.numbers import number_rows
from asma_fast.data.readers.text import text_lines

_JOINTS = tuple(
    b"SpineBase SpineMid Neck Head ShoulderLeft ElbowLeft WristLeft HandLeft ShoulderRight ElbowRight WristRight "
    b"HandRight HipLeft KneeLeft AnkleLeft FootLeft HipRight KneeRight AnkleRight FootRight SpineShoulder HandTipLeft "
    b"ThumbLeft HandTipRight ThumbRight".split()
)
_STATES = {b"Tracked": False, b"Inferred": False, b"NotTracked": True}


class Irds(Reader):
    """``SUBJECT_DATE_GESTURE_REPETITION_CORRECT_POSITION.txt``; the gesture counts from 0 and tells left from right.

    The clip's name keeps all six, among them how correct the repetition was (1 correct, 2 incorrect, 3 poor) and the
    position (standing, in a wheelchair, …); there is one camera, so ``camera`` is None. Of a line, the three time
    stamps and each joint's place in the depth image are checked and dropped. Joints that are ``NotTracked`` are
    missing; those that are ``Inferred`` are taken as they are.
    """

    dataset = "irds"
    skeleton = "ntu-rgb+d"
    bodies = 1
    fps = 30.0
    sided = True
    pattern = re.compile(r"(?P<subject>\d{1,6})_\d+_(?P<gesture>\d{1,2})_\d+_\d+_[\w-]+\.txt", re.ASCII)
    classes = (
        "elbow flexion left",
        "elbow flexion right",
        "shoulder flexion left",
        "shoulder flexion right",
        "shoulder abduction left",
        "shoulder abduction right",
        "shoulder forward elevation",
        "side tap left",
        "side tap right",
    )
    splits = {}  # noqa: RUF012

    def read(self, path: Path, bodies: str) -> Clip:
        name = self.numbers(path)
        label = name.get("gesture")
        if label is not None and label >= len(self.classes):
            raise FormatError(path, f"a gesture from 0 to {len(self.classes) - 1} in the file's name", str(label))
        lines = text_lines(path)
        if re.fullmatch(rb"Version\d+(\.\d+)*\s*", lines[0]) is None:
            raise FormatError(path, "a version such as 'Version0.1'", short(lines[0]), 1)
        if len(lines) == 1:
            raise FormatError(path, "a frame", "the end of the file", 2)
        untracked: list[list[bool]] = [[] for _ in lines[1:]]

        def split(line: bytes, number: int) -> list[bytes]:
            stamps, *joints = line.strip().split(b",(")
            tokens = stamps.split(b",")
            if len(tokens) != 3 or len(joints) != len(_JOINTS):
                found = f"{len(tokens)} and {len(joints)}"
                raise FormatError(path, f"3 time stamps and {len(_JOINTS)} joints in brackets", found, number)
            states = []
            for joint, text in zip(_JOINTS, joints, strict=True):
                fields = text.split(b",")
                if len(fields) != 7 or fields[0] != joint or fields[1] not in _STATES or not text.endswith(b")"):
                    wanted = f"({joint.decode()},Tracked|Inferred|NotTracked,x,y,z,u,v)"
                    raise FormatError(path, wanted, short(b"(" + text), number)
                states.append(_STATES[fields[1]])
                tokens += *fields[2:6], fields[6][:-1]
            untracked[number - 2] = states
            return tokens

        rows = number_rows(path, lines[1:], split, 2)[:, 3:].reshape(-1, len(_JOINTS), 5)
        missing = np.array(untracked)
        return Clip(
            rows[None, ..., :3].astype(np.float32),
            self.skeleton,
            label=label,
            subject=name.get("subject"),
            name=self.clip_name(path),
            fps=self.fps,
            missing=missing[None] if missing.any() else None,
        )

    def protocol(self, clips: Collection[ClipInfo]) -> tuple[tuple[str, ...], Mapping[str, SplitRule]]:
        """Leave one subject out: ``subjectN`` tests on subject N and trains on the rest, for each N of several."""
        subjects = sorted({clip.subject for clip in clips if clip.subject is not None})
        if len(subjects) < 2:
            return self.classes, {}
        return self.classes, {f"subject{subject}": _leave_out(subject) for subject in subjects}


def _leave_out(subject: int) -> SplitRule:
    def rule(clip: ClipInfo) -> Part | None:
        return None if clip.subject is None else "test" if clip.subject == subject else "train"

    return rule
