"""From one joint layout to another: which joints, or means of joints, play which.

A joint takes the place of the one of the same name; where names differ, the tables below say which joint, or the mean
of which joints, is meant. ``neck`` of the 15-joint layouts lies between the shoulders (OpenNI's convention), where
Kinect v2 has its spine-shoulder. These choices are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asma_fast.skeleton import Skeleton

_Names = dict[str, tuple[str, ...]]

_KINECT_V2_AS_V1: _Names = {
    "hip centre": ("spine base",),
    "spine": ("spine mid",),
    "shoulder centre": ("spine shoulder",),
}
# Kinect v1 has no joint above the shoulders but the head, and none beyond the hand.
_KINECT_V1_AS_V2: _Names = {
    "spine base": ("hip centre",),
    "spine mid": ("spine",),
    "spine shoulder": ("shoulder centre",),
    "neck": ("shoulder centre", "head"),
    "left hand tip": ("left hand",),
    "left thumb": ("left hand",),
    "right hand tip": ("right hand",),
    "right thumb": ("right hand",),
}
_KINECT_V2_AS_15: _Names = {"neck": ("spine shoulder",), "torso": ("spine mid",)}
_KINECT_V1_AS_15: _Names = {"neck": ("shoulder centre",), "torso": ("spine",)}
_MEDIAPIPE_HIPS = ("left hip", "right hip")
_MEDIAPIPE_SHOULDERS = ("left shoulder", "right shoulder")
_MEDIAPIPE_LIMBS: _Names = {
    "head": ("left ear", "right ear"),
    **{f"{side} hand": (f"{side} wrist", f"{side} pinky", f"{side} index") for side in ("left", "right")},
    **{f"{side} foot": (f"{side} foot index",) for side in ("left", "right")},
}
_MEDIAPIPE_AS_15: _Names = {
    **_MEDIAPIPE_LIMBS,
    "neck": _MEDIAPIPE_SHOULDERS,
    "torso": _MEDIAPIPE_SHOULDERS + _MEDIAPIPE_HIPS,
    **{f"{side} foot": (f"{side} heel", f"{side} foot index") for side in ("left", "right")},
}
_MEDIAPIPE_AS_V1: _Names = {
    **_MEDIAPIPE_LIMBS,
    "hip centre": _MEDIAPIPE_HIPS,
    "spine": _MEDIAPIPE_SHOULDERS + _MEDIAPIPE_HIPS,
    "shoulder centre": _MEDIAPIPE_SHOULDERS,
}
_MEDIAPIPE_AS_V2: _Names = {
    **_MEDIAPIPE_LIMBS,
    "spine base": _MEDIAPIPE_HIPS,
    "spine mid": _MEDIAPIPE_SHOULDERS + _MEDIAPIPE_HIPS,
    "spine shoulder": _MEDIAPIPE_SHOULDERS,
    "neck": (*_MEDIAPIPE_SHOULDERS, "left ear", "right ear"),
    **{f"{side} hand tip": (f"{side} pinky", f"{side} index") for side in ("left", "right")},
}
_FIFTEEN = ("common-15", "sbu")
_KINECT_V1 = ("kinect-v1", "utd-mhad")
_KINECT_V2 = ("ntu-rgb+d", "ntu-rgb+d-pyskl")
_MAPS: dict[tuple[str, str], _Names] = {
    **{
        (old, new): {}
        for family in (_FIFTEEN, _KINECT_V1, _KINECT_V2)
        for old in family
        for new in family
        if old != new
    },
    **{(old, new): _KINECT_V2_AS_V1 for old in _KINECT_V2 for new in _KINECT_V1},
    **{(old, new): _KINECT_V1_AS_V2 for old in _KINECT_V1 for new in _KINECT_V2},
    **{(old, new): _KINECT_V2_AS_15 for old in _KINECT_V2 for new in _FIFTEEN},
    **{(old, new): _KINECT_V1_AS_15 for old in _KINECT_V1 for new in _FIFTEEN},
    **{("mediapipe", new): _MEDIAPIPE_AS_15 for new in _FIFTEEN},
    **{("mediapipe", new): _MEDIAPIPE_AS_V1 for new in _KINECT_V1},
    **{("mediapipe", new): _MEDIAPIPE_AS_V2 for new in _KINECT_V2},
    ("openpose", "coco"): {},
    ("coco", "openpose"): {"neck": ("left shoulder", "right shoulder")},
}
_METRES = {"metres": 1.0, "millimetres": 0.001}


@dataclass(frozen=True)
class LayoutMap:
    """How frames of one layout become frames of another.

    Parameters
    ----------
    joints
        For each new joint the old ones whose mean it is.
    scale
        What each coordinate is multiplied by: a change of units, and a half turn about the viewing axis z where ``up``
        is the other way: a pose estimator's axes lead right, down and away, a depth sensor's to its left, up and away.
    """

    joints: tuple[tuple[int, ...], ...]
    scale: tuple[float, ...]

    def __call__(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """Maps ``(M, T, V, C)`` float32 frames.

        A virtual joint's coordinates are the mean of its joints', its score the least of theirs. What is not changed
        keeps its bits, and an absent body stays absent.
        """
        dimensions = len(self.scale)
        mapped = np.empty((*frames.shape[:2], len(self.joints), frames.shape[3]), np.float32)
        for joint, sources in enumerate(self.joints):
            if len(sources) == 1:
                mapped[:, :, joint] = frames[:, :, sources[0]]
                continue
            chosen = frames[:, :, list(sources)]
            mapped[:, :, joint, :dimensions] = chosen[..., :dimensions].mean(axis=2, dtype=np.float64)
            mapped[:, :, joint, dimensions:] = chosen[..., dimensions:].min(axis=2)
        if set(self.scale) != {1.0}:
            scaled = mapped[..., :dimensions].astype(np.float64) * self.scale
            mapped[..., :dimensions] = scaled + 0.0  # no negative zeros: an absent body is all zeros to the bit
        return mapped


def layout_map(source: Skeleton, target: Skeleton) -> LayoutMap:
    """The map between two of the package's layouts.

    Raises
    ------
    ValueError
        If there is none; names those that there are.
    """
    names = _MAPS.get((source.name, target.name))
    if names is None or source != _own(source) or target != _own(target):
        known = ", ".join(layouts_from(source.name)) or "none"
        differ = source.dimensions != target.dimensions
        why = f" ({source.dimensions}-D joints do not become {target.dimensions}-D ones)" if differ else ""
        raise ValueError(f"no map leads from layout {source.name} to {target.name}{why}; from {source.name}: {known}")
    joints = tuple(tuple(source.joints.index(old) for old in names.get(name, (name,))) for name in target.joints)
    unit = 1.0 if source.units == target.units else _METRES[source.units] / _METRES[target.units]
    turn = -1.0 if source.up != target.up else 1.0
    return LayoutMap(joints, (unit * turn, unit * turn, *[unit] * (source.dimensions - 2)))


def layouts_from(name: str) -> tuple[str, ...]:
    """Names of the layouts to which a map leads from the one of that name.

    Examples
    --------
    >>> layouts_from("openpose")
    ('coco',)
    """
    return tuple(sorted(new for old, new in _MAPS if old == name))


def _own(skeleton: Skeleton) -> Skeleton | None:
    from asma_fast.layouts import LAYOUTS

    return LAYOUTS.get(skeleton.name)
