"""Northwestern-UCLA Multiview Action 3D (Wang et al., CVPR 2014): one JSON file a clip, Kinect v1, three cameras."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from asma_fast.data.clip import Clip
from asma_fast.data.errors import FormatError, short
from asma_fast.data.readers.base import Reader, one_body, split_by
from asma_fast.data.readers.json_file import load_json


class NwUcla(Reader):
    """``aAA_sSS_eEE_vVV.json``; the class is the file's ``label`` from 1, not AA."""

    dataset = "nw-ucla"
    skeleton = "kinect-v1"
    bodies = 1
    fps = 30.0
    pattern = re.compile(r"a\d{2}_s(?P<subject>\d{2})_e\d{2}_v(?P<camera>\d{2})\.json")
    classes = (
        "pick up with one hand",
        "pick up with two hands",
        "drop trash",
        "walk around",
        "sit down",
        "stand up",
        "donning",
        "doffing",
        "throw",
        "carry",
    )
    splits = {"xview": split_by("camera", {1, 2})}  # noqa: RUF012

    def read(self, path: Path, bodies: str) -> Clip:
        record = load_json(path)
        if not isinstance(record, dict) or not {"label", "skeletons"} <= record.keys():
            raise FormatError(path, "a JSON object with 'label' and 'skeletons'", short(record))
        label = record["label"]
        if isinstance(label, bool) or not isinstance(label, int) or not 1 <= label <= len(self.classes):
            raise FormatError(path, f"a label from 1 to {len(self.classes)}", short(label))
        try:
            coordinates = np.array(record["skeletons"])
        except (ValueError, OverflowError, RecursionError):
            raise FormatError(path, "coordinates of shape (frames, 20, 3)", "lists of unequal lengths") from None
        numbers = self.numbers(path)
        return Clip(
            one_body(path, coordinates, 20),
            self.skeleton,
            label=label - 1,
            subject=numbers.get("subject"),
            camera=numbers.get("camera"),
            name=path.stem,
            fps=self.fps,
        )
