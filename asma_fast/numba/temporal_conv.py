"""Loops for :mod:`asma_fast.ops.temporal_conv`."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np


def temporal_conv(
    x: Any,
    weight: Any,
    bias: Any,
    stride: int,
    left: int,
    right: int,
    dilation: int,
    groups: int,
    out: Any,
) -> None:
    """Fill ``out (B, C_out, T', V)``; the frames of ``out`` say how many there are on the right."""
    _convolve(
        x, weight, np.zeros(weight.shape[0], x.dtype) if bias is None else bias, stride, left, dilation, groups, out
    )


@numba.njit(cache=False)  # type: ignore[untyped-decorator, unused-ignore]
def _convolve(x: Any, weight: Any, bias: Any, stride: int, left: int, dilation: int, groups: int, out: Any) -> None:
    rows, c_out, frames, joints = out.shape
    per_group, taps = weight.shape[1], weight.shape[2]
    sums = np.empty(c_out, out.dtype)
    for b in range(rows):
        for t in range(frames):
            for v in range(joints):
                sums[:] = bias
                for tap in range(taps):
                    source = t * stride + tap * dilation - left
                    if source < 0 or source >= x.shape[2]:
                        continue
                    for o in range(c_out):
                        first = o // (c_out // groups) * per_group
                        for c in range(per_group):
                            sums[o] += weight[o, c, tap] * x[b, first + c, source, v]
                out[b, :, t, v] = sums
