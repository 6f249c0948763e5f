"""Loops for :mod:`asma_fast.ops.joint_degree`."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(cache=False)  # type: ignore[untyped-decorator, unused-ignore]
def joint_degree(edges: NDArray[np.int64], joints: int, degree: NDArray[np.int32]) -> None:
    """Fill ``degree (V,)`` from ``edges (E, 2)``."""
    linked = np.zeros((joints, joints), dtype=np.bool_)
    for e in range(edges.shape[0]):
        a, b = edges[e, 0], edges[e, 1]
        if a < 0 or b < 0 or a >= joints or b >= joints:
            raise ValueError("edges must lie in [0, joints)")
        if a != b:
            linked[a, b] = True
            linked[b, a] = True
    for v in range(joints):
        count = 0
        for w in range(joints):
            count += linked[v, w]
        degree[v] = count
