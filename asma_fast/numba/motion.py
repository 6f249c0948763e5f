"""Loops for :mod:`asma_fast.ops.motion`. No fastmath: the order of every sum is part of the result."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from asma_fast.numba.gather_view import view_maps


def frame_motion(x: Any, frames: Any, joints: Any, transform: Any, replicate: bool, out: Any) -> None:
    """Fill ``out (N, T')``."""
    _frame_motion(x, *view_maps(x, frames, joints, transform), replicate, out)


def joint_motion(x: Any, frames: Any, joints: Any, transform: Any, out: Any) -> None:
    """Fill ``out (N, V')``."""
    _joint_motion(x, *view_maps(x, frames, joints, transform), out)


@numba.njit(cache=False)  # type: ignore[untyped-decorator, unused-ignore]
def _difference(x: Any, n: int, c: int, after: int, before: int, v: int, m: int) -> Any:
    return np.float64(x[n, c, after, v, m] - x[n, c, before, v, m])


@numba.njit(cache=False)  # type: ignore[untyped-decorator, unused-ignore]
def _moment(x: Any, n: int, a: int, b: int, frames: Any, joints: Any) -> Any:
    """Σ over bodies, then joints, then pairs of successive frames, of the products of differences a and b."""
    total = 0.0
    for m in range(x.shape[4]):
        for v in joints:
            for t in range(len(frames) - 1):
                total += _difference(x, n, a, frames[t + 1], frames[t], v, m) * _difference(
                    x, n, b, frames[t + 1], frames[t], v, m
                )
    return total


@numba.njit(cache=False)  # type: ignore[untyped-decorator, unused-ignore]
def _score(x: Any, n: int, frames: Any, joints: Any, transform: Any) -> Any:
    """Motion over one list of frames and one of joints, of which one has a single step."""
    dims = transform.shape[1]
    s = transform[n if transform.shape[0] > 1 else 0].astype(np.float64)
    weight = np.zeros((dims, dims))
    for a in range(dims):
        for b in range(a, dims):
            total = s[0, a] * s[0, b]
            for e in range(1, dims):
                total += s[e, a] * s[e, b]
            weight[a, b] = total
    trace = 0.0
    for a in range(dims):
        trace += weight[a, a] * _moment(x, n, a, a, frames, joints)
    for a in range(dims):
        for b in range(a + 1, dims):
            trace += 2 * (weight[a, b] * _moment(x, n, a, b, frames, joints))
    for c in range(dims, x.shape[1]):
        trace += _moment(x, n, c, c, frames, joints)
    count = x.shape[1] * x.shape[4] * len(joints) * (len(frames) - 1)
    return (0.0 if trace < 0 else trace) / max(count, 1)


@numba.njit(cache=False)  # type: ignore[untyped-decorator, unused-ignore]
def _frame_motion(x: Any, frames: Any, joints: Any, transform: Any, replicate: bool, out: Any) -> None:
    clips, count = out.shape
    for n in range(clips):
        read = frames[n if frames.shape[0] > 1 else 0]
        kept = joints[n if joints.shape[0] > 1 else 0]
        for t in range(count - 1):
            out[n, t] = np.float32(_score(x, n, read[t : t + 2], kept, transform))
        if count:
            out[n, count - 1] = out[n, count - 2] if replicate and count > 1 else np.float32(0)


@numba.njit(cache=False)  # type: ignore[untyped-decorator, unused-ignore]
def _joint_motion(x: Any, frames: Any, joints: Any, transform: Any, out: Any) -> None:
    clips, count = out.shape
    for n in range(clips):
        read = frames[n if frames.shape[0] > 1 else 0]
        kept = joints[n if joints.shape[0] > 1 else 0]
        for v in range(count):
            out[n, v] = np.float32(_score(x, n, read, kept[v : v + 1], transform))
