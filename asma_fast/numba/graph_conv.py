"""Loops for :mod:`asma_fast.ops.graph_conv`."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numba
import numpy as np

from asma_fast.numba.gather_view import gather_view


def graph_conv(
    x: Any,
    weight: Any,
    adjacency: Any,
    bias: Any,
    frames: Any,
    joints: Any,
    nodes: Any,
    transform: Any,
    scale: Any,
    shift: Any,
    pattern: Any,
    out: Any,
) -> None:
    """Fill ``out (B, C_out, T', V')``."""
    rows, _, t, v = out.shape
    parts, _, channels = weight.shape
    graph = adjacency.shape[-1]
    name = "view.nodes" if x.ndim == 5 else "nodes"
    if x.ndim == 5:
        clip = np.empty((x.shape[0], channels, t, v, x.shape[4]), x.dtype)
        gather_view(x, frames, joints, transform, clip)
        x = clip.transpose(0, 4, 1, 2, 3).reshape(rows, channels, t, v)
    if nodes is None:
        nodes = np.arange(v, dtype=np.int32)[None]
    elif nodes.size and (nodes.min() < 0 or nodes.max() >= graph):
        raise ValueError(f"{name} must lie in [0, {graph}), got {nodes.min()} to {nodes.max()}")
    if pattern is not None:
        outside = np.argwhere((adjacency != 0) & ~pattern)
        if len(outside):
            where = tuple(outside[0].tolist())
            raise ValueError(f"adjacency must be zero outside pattern, got {adjacency[where]} at {where}")
    _compiled(x.dtype)(
        x,
        weight,
        adjacency if adjacency.ndim == 4 else adjacency[None],
        np.zeros((parts, out.shape[1]), x.dtype) if bias is None else bias,
        nodes,
        np.ones((graph, channels), x.dtype) if scale is None else scale,
        np.zeros((graph, channels), x.dtype) if shift is None else shift,
        out,
    )


@lru_cache(maxsize=2)
def _compiled(dtype: Any) -> Any:
    """One compilation a dtype: the signature takes any layout, and read-only arrays."""
    real = numba.from_dtype(dtype)
    array = [numba.types.Array(real, rank, "A", readonly=True) for rank in range(5)]
    maps = numba.types.Array(numba.int32, 2, "A", readonly=True)
    out = numba.types.Array(real, 4, "A")
    return numba.njit(numba.void(array[4], array[3], array[4], array[2], maps, array[2], array[2], out))(_convolve)


def _convolve(x: Any, weight: Any, adjacency: Any, bias: Any, nodes: Any, scale: Any, shift: Any, out: Any) -> None:
    rows, out_channels, frames, joints = out.shape
    parts, _, channels = weight.shape
    gathered = np.zeros(channels, x.dtype)
    for b in range(rows):
        matrix = adjacency[b if adjacency.shape[0] > 1 else 0]
        node = nodes[b // (rows // nodes.shape[0])]
        for t in range(frames):
            for w in range(joints):
                out[b, :, t, w] = 0
                for k in range(parts):
                    carried = False
                    total = x.dtype.type(0)
                    gathered[:] = 0
                    for v in range(joints):
                        entry = matrix[k, node[v], node[w]]
                        if entry == 0:
                            continue
                        carried = True
                        total += entry
                        for c in range(channels):
                            gathered[c] += entry * (x[b, c, t, v] * scale[node[v], c] + shift[node[v], c])
                    if not carried:
                        continue
                    for o in range(out_channels):
                        product = total * bias[k, o]
                        for c in range(channels):
                            product += weight[k, o, c] * gathered[c]
                        out[b, o, t, w] += product
