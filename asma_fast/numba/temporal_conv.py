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
    """Fill ``out (B, C_out, T', V)``; its frames say how many there are on the right."""
    _convolve(
        np.ascontiguousarray(x.transpose(0, 2, 3, 1)),
        np.ascontiguousarray(weight),
        np.zeros(weight.shape[0], x.dtype) if bias is None else np.ascontiguousarray(bias),
        stride,
        left,
        dilation,
        groups,
        out.transpose(0, 2, 3, 1),
    )


@numba.njit(cache=False)  # type: ignore[untyped-decorator, unused-ignore]
def _convolve(x: Any, weight: Any, bias: Any, stride: int, left: int, dilation: int, groups: int, out: Any) -> None:
    rows, frames, joints, c_out = out.shape
    per_group, taps = weight.shape[1], weight.shape[2]
    for b in range(rows):
        for t in range(frames):
            for v in range(joints):
                out[b, t, v] = bias
                for tap in range(taps):
                    source = t * stride + tap * dilation - left
                    if source < 0 or source >= x.shape[1]:
                        continue
                    for o in range(c_out):
                        first = o // (c_out // groups) * per_group
                        for c in range(per_group):
                            out[b, t, v, o] += weight[o, c, tap] * x[b, source, v, first + c]
