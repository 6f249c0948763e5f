"""Loops for :mod:`asma_fast.ops.joint_degree`."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


def joint_degree(edges: NDArray[np.int64], joints: int, degree: NDArray[np.int32]) -> None:
    """Fill ``degree (V,)`` from ``edges (E, 2)``."""
    if edges.size and not (edges.min() >= 0 and edges.max() < joints):
        raise ValueError(f"edges must lie in [0, {joints}), got {edges.min()} to {edges.max()}")
    _count(edges, joints, degree)


@numba.njit(cache=False)  # type: ignore[untyped-decorator, unused-ignore]
def _count(edges: NDArray[np.int64], joints: int, degree: NDArray[np.int32]) -> None:
    linked = np.zeros((joints, joints), dtype=np.bool_)
    for e in range(edges.shape[0]):
        a, b = edges[e, 0], edges[e, 1]
        if a != b:
            linked[a, b] = True
            linked[b, a] = True
    for v in range(joints):
        count = 0
        for w in range(joints):
            count += linked[v, w]
        degree[v] = count
