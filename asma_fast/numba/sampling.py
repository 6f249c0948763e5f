"""Loops for :mod:`asma_fast.ops.sampling`."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from asma_fast.ops.sampling import check_weights
from asma_fast.philox import Purpose, philox


def sample_joints(weights: Any, drop: int, seed: Any, ids: Any, kept: Any) -> None:
    """Fill ``kept (N, V − drop)``."""
    w = np.broadcast_to(weights.astype(np.float64), (len(ids), weights.shape[-1]))
    rows = np.atleast_2d(weights)
    check_weights(rows.min(axis=1), rows.max(axis=1), (rows > 0).sum(axis=1), drop)
    with np.errstate(invalid="ignore"):
        q = np.rint(w / w.max(axis=1, keepdims=True) * 65536)
    q = np.where(w > 0, np.maximum(q, 1), 0).astype(np.int64)
    words = philox(seed, ids[:, None], np.arange(drop), Purpose.JOINTS)[..., 0]
    there = np.ones(w.shape, dtype=np.bool_)
    _draw(q, there, words)
    _positions(there, kept)


def sample_frames(scores: Any, drop: int, high: bool, random_drop: int, seed: Any, ids: Any, kept: Any) -> None:
    """Fill ``kept (N, T − drop − random_drop)``."""
    if np.isnan(scores).any():
        raise ValueError("scores must not be NaN, got NaN")
    with np.errstate(over="ignore"):  # a float64 score beyond float32 is an infinity, which is ordered
        bits = np.ascontiguousarray(scores, dtype=np.float32).view(np.int32).astype(np.int64)
    magnitude = bits & 0x7FFFF800
    rank = np.where(bits < 0, -magnitude, magnitude)
    ties = philox(seed, ids[:, None], np.arange(scores.shape[1]), Purpose.TIES)[..., 0]
    key = ((-rank if high else rank) << 32) + ties.astype(np.int64)
    there = np.ones(scores.shape, dtype=np.bool_)
    np.put_along_axis(there, np.argsort(key, axis=1, kind="stable")[:, :drop], False, axis=1)
    words = philox(seed, ids[:, None], np.arange(random_drop), Purpose.FRAMES)[..., 0]
    _draw(np.ones(scores.shape, dtype=np.int64), there, words)
    _positions(there, kept)


@numba.njit(cache=False)  # type: ignore[untyped-decorator, unused-ignore]
def _draw(q: Any, there: Any, words: Any) -> None:
    """Remove a position of each row for every word, by integer weight, without replacement."""
    for n in range(q.shape[0]):
        for d in range(words.shape[1]):
            total = np.int64(0)
            for v in range(q.shape[1]):
                total += q[n, v] if there[n, v] else 0
            threshold = (np.int64(words[n, d]) * total) >> 32
            cumulative = np.int64(0)
            for v in range(q.shape[1]):
                cumulative += q[n, v] if there[n, v] else 0
                if cumulative > threshold:
                    there[n, v] = False
                    break


@numba.njit(cache=False)  # type: ignore[untyped-decorator, unused-ignore]
def _positions(there: Any, kept: Any) -> None:
    for n in range(there.shape[0]):
        count = 0
        for v in range(there.shape[1]):
            if there[n, v]:
                kept[n, count] = v
                count += 1
