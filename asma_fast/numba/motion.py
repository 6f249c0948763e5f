"""Loops for :mod:`asma_fast.ops.motion`. No fastmath: the order of every sum is part of the result."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from asma_fast.numba.gather_view import view_maps


def frame_motion(x: Any, frames: Any, joints: Any, transform: Any, replicate: bool, out: Any) -> None:
    """Fill ``out (N, T')``."""
    maps = view_maps(x, frames, joints, transform)
    _motion(x, *maps, replicate, out, np.empty((len(x), maps[1].shape[1]), np.float32))


def joint_motion(x: Any, frames: Any, joints: Any, transform: Any, out: Any) -> None:
    """Fill ``out (N, V')``."""
    maps = view_maps(x, frames, joints, transform)
    _motion(x, *maps, False, np.empty((len(x), maps[0].shape[1]), np.float32), out)


def frame_and_joint_motion(
    x: Any, frames: Any, joints: Any, transform: Any, replicate: bool, frame_out: Any, joint_out: Any
) -> None:
    """Fill ``frame_out (N, T')`` and ``joint_out (N, V')``."""
    _motion(x, *view_maps(x, frames, joints, transform), replicate, frame_out, joint_out)


@numba.njit(cache=False)  # type: ignore[untyped-decorator, unused-ignore]
def _weights(s: Any) -> Any:
    """The upper triangle of SᵀS, doubled off the diagonal."""
    dims = len(s)
    weights = np.zeros((dims, dims))
    for a in range(dims):
        for b in range(a, dims):
            total = s[0, a] * s[0, b]
            for e in range(1, dims):
                total += s[e, a] * s[e, b]
            weights[a, b] = total if a == b else 2 * total
    return weights


@numba.njit(cache=False)  # type: ignore[untyped-decorator, unused-ignore]
def _change(before: Any, after: Any, weights: Any) -> Any:
    """The squared change of one joint from one frame ``(C,)`` to the next."""
    dims = len(weights)
    q = 0.0
    for a in range(dims):
        row = weights[a, a] * np.float64(after[a] - before[a])
        for b in range(a + 1, dims):
            row += weights[a, b] * np.float64(after[b] - before[b])
        q += np.float64(after[a] - before[a]) * row
    for c in range(dims, len(before)):
        d = np.float64(after[c] - before[c])
        q += d * d
    return q


@numba.njit(cache=False)  # type: ignore[untyped-decorator, unused-ignore]
def _mean(total: Any, count: int) -> Any:
    return np.float32((0.0 if total < 0 else total) / max(count, 1))


@numba.njit(cache=False)  # type: ignore[untyped-decorator, unused-ignore]
def _motion(x: Any, frames: Any, joints: Any, transform: Any, replicate: bool, frame_out: Any, joint_out: Any) -> None:
    clips, steps, positions = frame_out.shape[0], frame_out.shape[1] - 1, joint_out.shape[1]
    channels, bodies = x.shape[1], x.shape[4]
    for n in range(clips):
        read = frames[n if frames.shape[0] > 1 else 0]
        kept = joints[n if joints.shape[0] > 1 else 0]
        weights = _weights(transform[n if transform.shape[0] > 1 else 0].astype(np.float64))
        each = 1 if len(weights) else channels  # numbers of a joint that are summed apart
        totals = np.zeros((positions, each))
        sums = np.zeros((max(steps, 0), 8))
        for m in range(bodies):
            for t in range(steps):
                for v in range(positions):
                    before, after = x[n, :, read[t], kept[v], m], x[n, :, read[t + 1], kept[v], m]
                    for c in range(each):
                        d = np.float64(after[c] - before[c])
                        q = _change(before, after, weights) if len(weights) else d * d
                        sums[t, (v * each + c) % 8] += q
                        totals[v, c] += q
        for t in range(steps):
            s = sums[t]
            total = ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))
            frame_out[n, t] = _mean(total, channels * bodies * positions)
        if steps >= 0:
            frame_out[n, steps] = frame_out[n, steps - 1] if replicate and steps > 0 else np.float32(0)
        for v in range(positions):
            total = 0.0
            for c in range(each):
                total += totals[v, c]
            joint_out[n, v] = _mean(total, channels * bodies * steps)
