"""Loops for :mod:`asma_fast.ops.moments`."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from asma_fast.numba.gather_view import view_maps


def moments(x: Any, frames: Any, first: Any, second: Any) -> None:
    """Fill ``first (N, V, C)`` and ``second (N, V, C, C)``."""
    _sum(x, view_maps(x, frames, None, None)[0], first, second)


@numba.njit(cache=False)  # type: ignore[untyped-decorator, unused-ignore]
def _sum(x: Any, frames: Any, first: Any, second: Any) -> None:
    clips, channels, _, joints, bodies = x.shape
    first[...] = 0
    second[...] = 0
    for n in range(clips):
        for t in range(frames.shape[1]):
            frame = frames[n if frames.shape[0] > 1 else 0, t]
            for m in range(bodies):
                for v in range(joints):
                    for c in range(channels):
                        number = np.float64(x[n, c, frame, v, m])
                        first[n, v, c] += number
                        for d in range(channels):
                            second[n, v, c, d] += number * np.float64(x[n, d, frame, v, m])
