"""Joints that a recording lacks: filled in, or kept as the file has them, and counted either way."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Literal, get_args

import numpy as np

from asma_fast._backends import native
from asma_fast.data.clip import Clip, check_layout
from asma_fast.skeleton import Skeleton

MissingRule = Literal["fill", "keep"]


def fill_missing(clip: Clip, skeleton: Skeleton, *, rule: MissingRule = "fill") -> Clip:
    """The clip without missing joints.

    A joint is missing where ``clip.missing`` says so, or where one of its coordinates or its score is not finite. A
    body that is all zeros in a frame is absent there, whatever is marked, and nothing of it is missing.

    Under ``"fill"``, in this order:

    1. A body of which more than half the joints are missing in a frame becomes absent there: all its channels are zero.
    2. A missing joint of a present body moves linearly in time (by frame number) between the frames that know it, and
       stands still before the first and after the last of them. Frames without the body know nothing.
    3. One that no frame knows takes, in each frame, the place of its parent, the next joint towards the skeleton's
       centre, however that one was found; the centre itself, that of the joint fewest edges away that some frame knows
       (the lowest numbered of several).
    4. Scores (channels behind the coordinates) stay as they are; one that is not finite becomes 0.

    Joints that are not missing keep their bits. Work is done in float64 and rounded once. Under ``"keep"`` frames stay
    as they are, no body is dropped, and the marked joints are counted. These rules are ours.

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
        With ``missing=None``, and what was found added to ``missing_joints`` and ``dropped_bodies``. Its frames are the
        clip's own array where nothing had to be filled in.

    Raises
    ------
    ValueError
        If there is no such rule, the clip does not fit the skeleton, or under ``"keep"`` a coordinate or score is not
        finite.

    Examples
    --------
    >>> frames = np.ones((1, 3, 25, 3), np.float32)
    >>> frames[0, :, 7, 1] = 0.5, np.nan, 1.5
    >>> filled = fill_missing(Clip(frames, "ntu-rgb+d"), Skeleton.named("ntu-rgb+d"))
    >>> filled.frames[0, :, 7, 1].tolist(), filled.missing_joints
    ([0.5, 1.0, 1.5], 1)
    """
    if rule not in get_args(MissingRule):
        raise ValueError(f"rule must be one of {', '.join(get_args(MissingRule))}; got {rule!r}")
    check_layout(clip, skeleton)
    finite = bool(np.isfinite(clip.frames).all())
    if rule == "keep" and not finite:
        raise ValueError(
            f"clip {clip.name!r}: frames must be finite where missing joints are kept, got a NaN or infinity; "
            "the rule 'fill' fills it in"
        )
    marked = clip.missing
    if marked is None:
        if finite:
            return clip
    elif rule == "keep":
        lacking = np.count_nonzero(marked[clip.frames.any(axis=(2, 3))])
        return replace(clip, missing=None, missing_joints=clip.missing_joints + int(lacking))
    frames, joints, bodies = native().fill_missing(
        np.require(clip.frames, np.float32, "A"), marked, dims=skeleton.dimensions, parents=_parents(skeleton)
    )
    return replace(
        clip,
        frames=clip.frames if frames is None else frames,
        missing=None,
        missing_joints=clip.missing_joints + joints,
        dropped_bodies=clip.dropped_bodies + bodies,
    )


@lru_cache(maxsize=64)
def _parents(skeleton: Skeleton) -> tuple[int, ...]:
    return tuple(skeleton.bones.tolist())
