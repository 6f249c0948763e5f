"""Loops for :mod:`asma_fast.ops.gather_view`."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np


def view_maps(x: Any, frames: Any, joints: Any, transform: Any) -> tuple[Any, Any, Any]:
    """The arrays of a view of ``x (N, C, T, V, M)``, identities for what is None, with their index ranges checked."""
    for name, index, limit in (("view.frames", frames, x.shape[2]), ("view.joints", joints, x.shape[3])):
        if index is not None and index.size and (index.min() < 0 or index.max() >= limit):
            raise ValueError(f"{name} must lie in [0, {limit}), got {index.min()} to {index.max()}")
    return (
        np.arange(x.shape[2], dtype=np.int32)[None] if frames is None else frames,
        np.arange(x.shape[3], dtype=np.int32)[None] if joints is None else joints,
        np.zeros((1, 0, 0), x.dtype) if transform is None else transform,
    )


def gather_view(x: Any, frames: Any, joints: Any, transform: Any, out: Any) -> None:
    """Fill ``out (N, C, T', V', M)``."""
    _gather(x, *view_maps(x, frames, joints, transform), out)


@numba.njit(cache=False)  # type: ignore[untyped-decorator, unused-ignore]
def _gather(x: Any, frames: Any, joints: Any, transform: Any, out: Any) -> None:
    clips, channels, t_count, v_count, bodies = out.shape
    dims = transform.shape[1]
    for n in range(clips):
        for t in range(t_count):
            frame = frames[n if frames.shape[0] > 1 else 0, t]
            for v in range(v_count):
                joint = joints[n if joints.shape[0] > 1 else 0, v]
                for m in range(bodies):
                    for e in range(channels):
                        if e >= dims:
                            out[n, e, t, v, m] = x[n, e, frame, joint, m]
                            continue
                        total = x[n, e, frame, joint, m] * 0
                        for c in range(dims):
                            total += transform[n if transform.shape[0] > 1 else 0, e, c] * x[n, c, frame, joint, m]
                        out[n, e, t, v, m] = total
