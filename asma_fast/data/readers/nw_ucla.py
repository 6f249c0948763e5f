"""Northwestern-UCLA Multiview Action 3D (Wang et al., CVPR 2014): one JSON file a clip, Kinect v1, three cameras."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from asma_fast.data.clip import Clip
from asma_fast.data.errors import FormatError
from asma_fast.data.readers.base import Reader, one_body, split_by


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
        record = self._load(path)
        label = record["label"]
        if isinstance(label, bool) or not isinstance(label, int) or not 1 <= label <= len(self.classes):
            raise FormatError(path, f"a label from 1 to {len(self.classes)}", _short(label))
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

    @staticmethod
    def _load(path: Path) -> dict[str, Any]:
        content = path.read_bytes()
        try:
            record = json.loads(content)
        except json.JSONDecodeError as error:
            rest = error.doc[error.pos : error.pos + 20]
            found = _short(rest) if rest else "the end of the file"
            raise FormatError(path, f"JSON ({error.msg})", found, error.lineno) from None
        except UnicodeDecodeError as error:
            raise FormatError(path, "JSON in UTF-8", f"byte {error.object[error.start]:#04x}") from None
        except (ValueError, RecursionError) as error:
            raise FormatError(path, "JSON of plain numbers and lists", _short(str(error))) from None
        if not isinstance(record, dict) or not {"label", "skeletons"} <= record.keys():
            raise FormatError(path, "a JSON object with 'label' and 'skeletons'", _short(record))
        return record


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:59] + "…"
