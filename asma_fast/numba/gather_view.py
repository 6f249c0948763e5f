"""Loops for :mod:`asma_fast.ops.gather_view`."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np


def gather_view(x: Any, frames: Any, joints: Any, transform: Any, out: Any) -> None:
    """Fill ``out (N, C, T', V', M)``."""
    _, _, t, v, _ = out.shape
    _gather(
        x,
        np.arange(t, dtype=np.int32)[None] if frames is None else frames,
        np.arange(v, dtype=np.int32)[None] if joints is None else joints,
        np.zeros((1, 0, 0), x.dtype) if transform is None else transform,
        out,
    )


@numba.njit(cache=False)  # type: ignore[untyped-decorator, unused-ignore]
def _gather(x: Any, frames: Any, joints: Any, transform: Any, out: Any) -> None:
    clips, channels, t_count, v_count, bodies = out.shape
    dims = transform.shape[1]
    for n in range(clips):
        for t in range(t_count):
            frame = frames[n if frames.shape[0] > 1 else 0, t]
            if frame < 0 or frame >= x.shape[2]:
                raise ValueError("view.frames must lie in [0, T)")
            for v in range(v_count):
                joint = joints[n if joints.shape[0] > 1 else 0, v]
                if joint < 0 or joint >= x.shape[3]:
                    raise ValueError("view.joints must lie in [0, V)")
                for m in range(bodies):
                    for e in range(channels):
                        if e >= dims:
                            out[n, e, t, v, m] = x[n, e, frame, joint, m]
                            continue
                        total = x[n, e, frame, joint, m] * 0
                        for c in range(dims):
                            total += transform[n if transform.shape[0] > 1 else 0, e, c] * x[n, c, frame, joint, m]
                        out[n, e, t, v, m] = total
