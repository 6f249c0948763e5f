"""Kernels of :mod:`asma_fast.ops.gather_view`: one read and one write.

The gradient of a recorded joint is summed where it is written, over the positions that read it in their order: no
atomics, the same bits every time.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from asma_fast.triton._launch import blocks_of, check_places, launch
from asma_fast.triton._views import map_argument, read_frames, read_joints

#: Places (frame and joint) of one body that a program gathers.
PLACES = 256


def gather_view(x: Any, frames: Any, joints: Any, transform: Any, out: Any) -> None:
    """Fill ``out (N, C, T', V', M)``, which lies channels last."""
    n, channels, t_count, v_count, bodies = out.shape
    check_places(t_count * v_count, "a body has more places")
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
        source += x_c
        x1 = tl.load(source, mask=there, other=0).to(tl.float32)
        source += x_c
        if DIMS > 2:
            x2 = tl.load(source, mask=there, other=0).to(tl.float32)
            source += x_c
        for e in tl.static_range(DIMS):
            moved = tl.load(s + e * DIMS) * x0 + tl.load(s + (e * DIMS + 1)) * x1
            if DIMS > 2:
                moved += tl.load(s + (e * DIMS + 2)) * x2
            tl.store(to + e, moved, mask=there)
    for c in range(DIMS, channels):
        tl.store(to + c, tl.load(source, mask=there), mask=there)
        source += x_c


def gather_view_backward(
    g: Any, frames: Any, joints: Any, transform: Any, x_frames: int, x_joints: int, x_grad: Any
) -> None:
    """Fill ``x_grad (N, C, T, V, M)``, which lies channels last."""
    n, channels, _, _, bodies = x_grad.shape
    check_places(x_joints * channels, "a frame has more numbers")
    frames, frames_row = map_argument(frames)
    joints, joints_row = map_argument(joints)
    transform, transform_row = map_argument(transform)
    launch(
        gather_back_kernel,
        n * bodies * x_frames if x_joints * channels else 0,
        *(g, frames, joints, transform, x_grad),
        *(bodies, channels, g.shape[2], g.shape[3], x_frames, x_joints),
        *(*g.stride(), frames_row, joints_row, transform_row),
        DIMS=0 if transform is None else transform.shape[1],
        NUMBERS=128,
        num_warps=1,
    )


@triton.jit(do_not_specialize=["bodies", "channels", "t_count", "v_count", "x_frames", "x_joints"])
def gather_back_kernel(
    g, frames, joints, transform, x_grad,
    bodies, channels, t_count, v_count, x_frames, x_joints,
    g_n, g_c, g_t, g_v, g_m, frames_row, joints_row, transform_row,
    DIMS: tl.constexpr, NUMBERS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    clip = (row // x_frames).to(tl.int64)
    frame = row % x_frames
    n = clip // bodies
    g += n * g_n + (clip - n * bodies) * g_m
    numbers = x_joints * channels
    for first in range(0, numbers, NUMBERS):
        place = first + tl.arange(0, NUMBERS)
        there = place < numbers
        joint = place // channels
        c = place - joint * channels
        total = tl.zeros((NUMBERS,), tl.float32)
        if frames is None:
            total += _read_by_joints(
                g + frame.to(tl.int64) * g_t, joints, n * joints_row, transform, n * transform_row,
                joint, c, there, v_count, x_joints, g_c, g_v, DIMS,
            )  # fmt: skip
        else:
            for t in range(0, t_count):
                read = tl.load(frames + n * frames_row + t)
                tl.device_assert((read >= 0) & (read < x_frames), "view.frames must lie within the frames of x")
                if read == frame:
                    total += _read_by_joints(
                        g + tl.cast(t, tl.int64) * g_t, joints, n * joints_row, transform, n * transform_row,
                        joint, c, there, v_count, x_joints, g_c, g_v, DIMS,
                    )  # fmt: skip
        tl.store(x_grad + row.to(tl.int64) * numbers + place, total, mask=there)


@triton.jit
def _read_by_joints(
    g, joints, joints_row, transform, transform_row, joint, c, there, v_count, x_joints, g_c, g_v, DIMS: tl.constexpr
):
    """What the positions of one frame of the view give to channel ``c`` of the recorded joint."""
    if joints is None:
        total = _moved_back(g + joint.to(tl.int64) * g_v, transform, transform_row, c, there, g_c, DIMS)
    else:
        total = tl.zeros(joint.shape, tl.float32)
        for _v in range(0, v_count):
            read = tl.load(joints + joints_row)
            tl.device_assert((read >= 0) & (read < x_joints), "view.joints must lie within the joints of x")
            total += _moved_back(g, transform, transform_row, c, there & (joint == read), g_c, DIMS)
            joints += 1
            g += g_v
    return total


@triton.jit
def _moved_back(g, transform, transform_row, c, there, g_c, DIMS: tl.constexpr):
    """Channel ``c`` of the transposed transform times the gradient at ``g``; 0 where not ``there``."""
    total = tl.load(g + c.to(tl.int64) * g_c, mask=there & (c >= DIMS), other=0).to(tl.float32)
    for e in tl.static_range(DIMS):
        turned = there & (c < DIMS)
        weight = tl.load(transform + transform_row + e * DIMS + c, mask=turned, other=0)
        total += weight * tl.load(g + tl.zeros_like(c), mask=turned, other=0).to(tl.float32)
        g += g_c
    return total
