"""Loops for :mod:`asma_fast.ops.block`."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from asma_fast.numba.dropout import dropout
from asma_fast.numba.graph_conv import graph_conv
from asma_fast.numba.temporal_conv import temporal_conv


def block_graph_conv(*args: Any) -> None:
    """Fill ``y (B, C_out, T', V')`` and ``sums (2, C_out)``, the last two arguments."""
    graph_conv(*args[:-1])
    _fill_sums(*args[-2:])


def block_temporal_conv(
    x: Any,
    weight: Any,
    bias: Any,
    scale: Any,
    shift: Any,
    stride: int,
    left: int,
    right: int,
    dilation: int,
    groups: int,
    y: Any,
    sums: Any,
) -> None:
    """Fill ``y (B, C_out, T', V)`` and ``sums (2, C_out)``."""
    x = _activated(x, scale, shift)
    temporal_conv(x, weight, bias, stride, left, right, dilation, groups, y)
    _fill_sums(y, sums)


def block_inference(
    x: Any,
    scale: Any,
    shift: Any,
    weight: Any,
    bias: Any,
    residual: Any,
    stride: int,
    left: int,
    right: int,
    dilation: int,
    groups: int,
    out: Any,
) -> None:
    """Fill ``out (B, C_out, T', V)``."""
    temporal_conv(_activated(x, scale, shift), weight, bias, stride, left, right, dilation, groups, out)
    if residual is not None:
        out += residual
    np.maximum(out, 0, out=out)


def block_output(
    x: Any,
    scale: Any,
    shift: Any,
    residual: Any,
    residual_scale: Any,
    residual_shift: Any,
    seed: Any,
    ids: Any,
    p: float,
    block: int,
    out: Any,
) -> None:
    """Fill ``out (B, C, T, V)``."""
    y = _affine(x, scale, shift)
    if p > 0:
        dropout(y, seed, ids, p, block, out)
    else:
        out[...] = y
    if residual is not None:
        out += residual if residual_scale is None else _affine(residual, residual_scale, residual_shift)
    np.maximum(out, 0, out=out)


def _affine(x: Any, scale: Any, shift: Any) -> Any:
    return x * scale[:, None, None] + shift[:, None, None]


def _activated(x: Any, scale: Any, shift: Any) -> Any:
    return x if scale is None else np.maximum(_affine(x, scale, shift), 0)


def _fill_sums(y: Any, sums: Any) -> None:
    _sum(y.transpose(0, 2, 3, 1), sums)


@numba.njit(cache=False)  # type: ignore[untyped-decorator, unused-ignore]
def _sum(y: Any, sums: Any) -> None:
    sums[:] = 0
    rows, frames, joints, channels = y.shape
    for b in range(rows):
        for t in range(frames):
            for v in range(joints):
                for c in range(channels):
                    value = np.float64(y[b, t, v, c])
                    sums[0, c] += value
                    sums[1, c] += value * value
