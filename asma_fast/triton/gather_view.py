"""Kernels of :mod:`asma_fast.ops.gather_view`: one read and one write.

The gradient of a recorded joint is summed where it is written, over the positions that read it in their order: no
atomics, the same bits every time.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from asma_fast.triton._launch import blocks_of, launch
from asma_fast.triton._views import map_argument, read_frames, read_joints

#: Places (frame and joint) of one body that a program gathers.
PLACES = 256


def gather_view(x: Any, frames: Any, joints: Any, transform: Any, out: Any) -> None:
    """Fill ``out (N, C, T', V', M)``, which lies channels last."""
    n, channels, t_count, v_count, bodies = out.shape
    pieces = blocks_of(t_count * v_count, PLACES) if channels else 0
    frames, frames_row = map_argument(frames)
    joints, joints_row = map_argument(joints)
    transform, transform_row = map_argument(transform)
    launch(
        gather_kernel,
        n * bodies * pieces,
        *(x, frames, joints, transform, out),
        *(bodies, channels, t_count, v_count, x.shape[2], x.shape[3], pieces),
        *(*x.stride(), frames_row, joints_row, transform_row),
        DIMS=0 if transform is None else transform.shape[1],
        PLACES=PLACES,
        num_warps=4,
    )


@triton.jit(do_not_specialize=["bodies", "channels", "t_count", "v_count", "x_frames", "x_joints", "pieces"])
def gather_kernel(
    x, frames, joints, transform, out,
    bodies, channels, t_count, v_count, x_frames, x_joints, pieces,
    x_n, x_c, x_t, x_v, x_m, frames_row, joints_row, transform_row,
    DIMS: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    clip = (tl.program_id(0) // pieces).to(tl.int64)
    n = clip // bodies
    place = tl.program_id(0) % pieces * PLACES + tl.arange(0, PLACES)
    there = place < t_count * v_count
    t = place // v_count
    v = place - t * v_count
    frame = read_frames(frames, n * frames_row, t, there, x_frames)
    joint = read_joints(joints, n * joints_row, v, there, x_joints)
    source = x + n * x_n + (clip - n * bodies) * x_m + frame * x_t + joint * x_v
    to = out + (clip * t_count * v_count + place) * channels
    if DIMS > 0:
        s = transform + n * transform_row
        x0 = tl.load(source, mask=there, other=0).to(tl.float32)
        x1 = tl.load(source + x_c, mask=there, other=0).to(tl.float32)
        if DIMS > 2:
            x2 = tl.load(source + 2 * x_c, mask=there, other=0).to(tl.float32)
        for e in tl.static_range(DIMS):
            moved = tl.load(s + e * DIMS) * x0 + tl.load(s + (e * DIMS + 1)) * x1
            if DIMS > 2:
                moved += tl.load(s + (e * DIMS + 2)) * x2
            tl.store(to + e, moved, mask=there)
        source += DIMS * x_c
    for c in range(DIMS, channels):
        tl.store(to + c, tl.load(source, mask=there), mask=there)
        source += x_c
