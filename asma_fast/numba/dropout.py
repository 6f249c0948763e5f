"""Loops for :mod:`asma_fast.ops.dropout`."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from asma_fast.ops.dropout import cut
from asma_fast.philox import Purpose, philox


def dropout(x: Any, seed: Any, ids: Any, p: float, block: int, out: Any) -> None:
    """Fill ``out (B, C, T, V)``."""
    if not x.size:
        return
    rows = x.shape[0] // len(ids)
    calls = np.arange((x.size // len(ids) + 7) // 8)
    for n in range(len(ids)):
        words = philox(seed, ids[n], calls, Purpose.DROPOUT + block)
        some = slice(n * rows, (n + 1) * rows)
        _apply(x[some], words, cut(p), x.dtype.type(65536 / (65536 - cut(p))), out[some])


@numba.njit(cache=False)  # type: ignore[untyped-decorator, unused-ignore]
def _apply(x: Any, words: Any, threshold: int, scale: Any, out: Any) -> None:
    rows, channels, frames, joints = x.shape
    i = 0
    for m in range(rows):
        for t in range(frames):
            for v in range(joints):
                for c in range(channels):
                    bits = (words[i >> 3, (i >> 1) & 3] >> np.uint32(16 * (i & 1))) & np.uint32(0xFFFF)
                    out[m, c, t, v] = 0 if bits < threshold else x[m, c, t, v] * scale
                    i += 1
