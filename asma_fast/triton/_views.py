"""How kernels read a clip through a view: its maps, checked on the device."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from asma_fast._array import dense


def map_argument(array: Any) -> tuple[Any, int]:
    """A map or transform of a view as kernels take it: dense or None, and its rows' stride, 0 where one serves all."""
    array = dense(array)
    return array, 0 if array is None or array.shape[0] == 1 else array.stride(0)


@triton.jit
def read_frames(frames, row, t, there, limit):
    """The recorded frames that positions ``t`` of a row of ``view.frames`` read, int64; the identity without a map."""
    if frames is None:
        frame = t.to(tl.int64)
    else:
        frame = tl.load(frames + row + t, mask=there, other=0).to(tl.int64)
        tl.device_assert((frame >= 0) & (frame < limit), "view.frames must lie within the frames of x")
    return frame


@triton.jit
def read_joints(joints, row, v, there, limit):
    """The recorded joints that positions ``v`` of a row of ``view.joints`` read, int64; the identity without a map."""
    if joints is None:
        joint = v.to(tl.int64)
    else:
        joint = tl.load(joints + row + v, mask=there, other=0).to(tl.int64)
        tl.device_assert((joint >= 0) & (joint < limit), "view.joints must lie within the joints of x")
    return joint
