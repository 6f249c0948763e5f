"""UTD-MHAD (Chen et al., ICIP 2015): one MATLAB 5 file a clip, Kinect v1, one body."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path

import numpy as np

from asma_fast.data.clip import Clip
from asma_fast.data.errors import FormatError
from asma_fast.data.readers.base import Reader, one_body, split_by


class UtdMhad(Reader):
    """``aA_sS_tT_skeleton.mat`` with ``d_skel (20, 3, T)``. Actions of one hand tell left from right."""

    dataset = "utd-mhad"
    skeleton = "utd-mhad"
    bodies = 1
    fps = 30.0
    sided = True
    pattern = re.compile(r"a(?P<action>\d{1,2})_s(?P<subject>\d{1,2})_t\d{1,2}_skeleton\.mat")
    classes = (
        "right arm swipe to the left",
        "right arm swipe to the right",
        "right hand wave",
        "two hand front clap",
        "right arm throw",
        "cross arms in the chest",
        "basketball shooting",
        "draw x",
        "draw circle clockwise",
        "draw circle counter clockwise",
        "draw triangle",
        "bowling with the right hand",
        "front boxing",
        "baseball swing from right",
        "tennis forehand swing",
        "arm curl with two arms",
        "tennis serve",
        "two hand push",
        "knock on door",
        "hand catch",
        "pick up and throw",
        "jogging",
        "walking",
        "sit to stand",
        "stand to sit",
        "forward lunge with the left foot",
        "squat",
    )
    splits = {"xsub": split_by("subject", {1, 3, 5, 7})}  # noqa: RUF012

    def read(self, path: Path, bodies: str) -> Clip:
        try:
            from scipy.io import loadmat
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "reading UTD-MHAD's .mat files needs scipy: pip install 'asma-fast[train]'", name="scipy"
            ) from error
        numbers = self.numbers(path)
        label = self.label_from_name(path, numbers.get("action"))
        content = path.read_bytes()
        try:
            coordinates = loadmat(BytesIO(content), variable_names=["d_skel"]).get("d_skel")
        except Exception as error:  # scipy lets its parser's own errors through: any of a dozen types
            reason = " ".join(str(error).split())[:80]
            raise FormatError(path, "a MATLAB 5 file", f"{type(error).__name__}: {reason}") from None
        if coordinates is None:
            raise FormatError(path, "a variable 'd_skel'", "none of that name")
        if not isinstance(coordinates, np.ndarray) or coordinates.ndim != 3:
            raise FormatError(path, "'d_skel' of shape (20, 3, frames)", f"shape {np.shape(coordinates)}")
        return Clip(
            one_body(path, coordinates.transpose(2, 0, 1), 20),
            self.skeleton,
            label=label,
            subject=numbers.get("subject"),
            name=path.stem.removesuffix("_skeleton"),
            fps=self.fps,
        )
