"""Kernels of :mod:`asma_fast.ops.motion`. They decide masks, so the sums are those written there, number by number.

Differences are float32, all after them is float64 and launched without contraction to fused operations.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from asma_fast.triton._launch import blocks_of, check_places, launch
from asma_fast.triton._views import map_argument, read_frames, read_joints

#: Pairs of successive frames of a program; each has the eight partial sums of the contract.
PAIRS = 16
#: Joints of a program.
JOINTS = 32


def frame_motion(x: Any, frames: Any, joints: Any, transform: Any, replicate: bool, out: Any) -> None:
    """Fill ``out (N, T')``."""
    n, channels, _, _, bodies = x.shape
    steps = out.shape[1] - 1
    v_count = x.shape[3] if joints is None else joints.shape[1]
    check_places(n * max(steps, 0), "x has more frames")
    check_places(v_count * channels, "a frame has more numbers")
    if steps < 1:
        out.zero_()
        return
    launch(
        frames_kernel,
        blocks_of(n * steps, PAIRS),
        *(*_arguments(x, frames, joints, transform), out),
        *(n * steps, steps, bodies, channels, v_count, x.shape[2], x.shape[3], max(channels * v_count * bodies, 1)),
        DIMS=0 if transform is None else transform.shape[1],
        REPLICATE=replicate,
        PAIRS=PAIRS,
        num_warps=4,
        enable_fp_fusion=False,
    )


def joint_motion(x: Any, frames: Any, joints: Any, transform: Any, out: Any) -> None:
    """Fill ``out (N, V')``."""
    n, channels, _, _, bodies = x.shape
    v_count = out.shape[1]
    steps = max((x.shape[2] if frames is None else frames.shape[1]) - 1, 0)
    launch(
        joints_kernel,
        n * blocks_of(v_count, JOINTS),
        *(*_arguments(x, frames, joints, transform), out),
        *(steps, bodies, channels, v_count, x.shape[2], x.shape[3], max(channels * steps * bodies, 1)),
        DIMS=0 if transform is None else transform.shape[1],
        JOINTS=JOINTS,
        num_warps=1,
        enable_fp_fusion=False,
    )


def frame_and_joint_motion(
    x: Any, frames: Any, joints: Any, transform: Any, replicate: bool, frame_out: Any, joint_out: Any
) -> None:
    """Fill ``frame_out (N, T')`` and ``joint_out (N, V')``, whose sums go over the clip in different orders."""
    frame_motion(x, frames, joints, transform, replicate, frame_out)
    joint_motion(x, frames, joints, transform, joint_out)


def _arguments(x: Any, frames: Any, joints: Any, transform: Any) -> tuple[Any, ...]:
    """The clip, its strides, and each map with its rows' stride."""
    return x, *x.stride(), *map_argument(frames), *map_argument(joints), *map_argument(transform)


@triton.jit(
    do_not_specialize=["pairs", "steps", "bodies", "channels", "v_count", "x_frames", "x_joints", "count"],
)
def frames_kernel(
    x, x_n, x_c, x_t, x_v, x_m, frames, frames_row, joints, joints_row, transform, transform_row, out,
    pairs, steps, bodies, channels, v_count, x_frames, x_joints, count,
    DIMS: tl.constexpr, REPLICATE: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    in_time = pair < pairs
    n = (pair // steps).to(tl.int64)
    t = pair % steps
    clip = x + n * x_n
    before = (clip + read_frames(frames, n * frames_row, t, in_time, x_frames) * x_t)[:, None]
    after = (clip + read_frames(frames, n * frames_row, t + 1, in_time, x_frames) * x_t)[:, None]
    row = (n * joints_row)[:, None]
    sums = tl.zeros((PAIRS, 8), tl.float64)
    if DIMS > 0:
        u00, u01, u02, u11, u12, u22 = _weights((transform + n * transform_row)[:, None], in_time[:, None], DIMS)
    numbers = v_count if DIMS > 0 else v_count * channels
    for m in range(0, bodies):
        body = tl.cast(m, tl.int64) * x_m
        for first in range(0, numbers, 8):
            e = (first + tl.arange(0, 8))[None, :]
            there = in_time[:, None] & (e < numbers)
            if DIMS > 0:
                at = body + read_joints(joints, row, e, there, x_joints) * x_v
                q = _change(before + at, after + at, there, x_c, channels, u00, u01, u02, u11, u12, u22, DIMS)
            else:
                v = e // channels
                at = body + read_joints(joints, row, v, there, x_joints) * x_v + (e - v * channels).to(tl.int64) * x_c
                q = _square(before + at, after + at, there)
            sums = tl.where(there, sums + q, sums)
    score = _mean(_merged(sums, PAIRS), count)
    tl.store(out + n * (steps + 1) + t, score, mask=in_time)
    last = score if REPLICATE else tl.zeros_like(score)
    tl.store(out + n * (steps + 1) + steps, last, mask=in_time & (t == steps - 1))


@triton.jit(do_not_specialize=["steps", "bodies", "channels", "v_count", "x_frames", "x_joints", "count"])
def joints_kernel(
    x, x_n, x_c, x_t, x_v, x_m, frames, frames_row, joints, joints_row, transform, transform_row, out,
    steps, bodies, channels, v_count, x_frames, x_joints, count,
    DIMS: tl.constexpr, JOINTS: tl.constexpr,
):  # fmt: skip
    pieces = tl.cdiv(v_count, JOINTS)
    n = (tl.program_id(0) // pieces).to(tl.int64)
    v = tl.program_id(0) % pieces * JOINTS + tl.arange(0, JOINTS)
    there = v < v_count
    joint = x + n * x_n + read_joints(joints, n * joints_row, v, there, x_joints) * x_v
    total = tl.zeros((JOINTS,), tl.float64)
    if DIMS > 0:
        u00, u01, u02, u11, u12, u22 = _weights(transform + n * transform_row, True, DIMS)
    each = 1 if DIMS > 0 else channels
    for _c in range(0, each):
        sums = tl.zeros((JOINTS,), tl.float64)
        body = joint
        for _m in range(0, bodies):
            for t in range(0, steps):
                now = tl.cast(t, tl.int32)
                before = body + read_frames(frames, n * frames_row, now, True, x_frames) * x_t
                after = body + read_frames(frames, n * frames_row, now + 1, True, x_frames) * x_t
                if DIMS > 0:
                    q = _change(before, after, there, x_c, channels, u00, u01, u02, u11, u12, u22, DIMS)
                else:
                    q = _square(before, after, there)
                sums += q
            body += x_m
        total += sums
        joint += x_c
    tl.store(out + n * v_count + v, _mean(total, count), mask=there)


@triton.jit
def _difference(before, after, there):
    later = tl.load(after, mask=there, other=0).to(tl.float32)
    return (later - tl.load(before, mask=there, other=0).to(tl.float32)).to(tl.float64)


@triton.jit
def _square(before, after, there):
    d = _difference(before, after, there)
    return d * d


@triton.jit
def _change(before, after, there, x_c, channels, u00, u01, u02, u11, u12, u22, DIMS: tl.constexpr):
    """The squared change of a joint under the transform."""
    d0 = _difference(before, after, there)
    before += x_c
    after += x_c
    d1 = _difference(before, after, there)
    before += x_c
    after += x_c
    if DIMS > 2:
        d2 = _difference(before, after, there)
        before += x_c
        after += x_c
        q = d0 * (u00 * d0 + u01 * d1 + u02 * d2)
        q += d1 * (u11 * d1 + u12 * d2)
        q += d2 * (u22 * d2)
    else:
        q = d0 * (u00 * d0 + u01 * d1)
        q += d1 * (u11 * d1)
    for _c in range(DIMS, channels):
        q += _square(before, after, there)
        before += x_c
        after += x_c
    return q


@triton.jit
def _weights(s, there, DIMS: tl.constexpr):
    """The upper triangle of SᵀS, doubled off its diagonal: 00, 01, 02, 11, 12, 22."""
    u00 = _weight(s, there, 0, 0, DIMS)
    u01 = 2 * _weight(s, there, 0, 1, DIMS)
    u11 = _weight(s, there, 1, 1, DIMS)
    if DIMS > 2:
        u02 = 2 * _weight(s, there, 0, 2, DIMS)
        u12 = 2 * _weight(s, there, 1, 2, DIMS)
        u22 = _weight(s, there, 2, 2, DIMS)
    else:
        u02, u12, u22 = u00, u00, u00
    return u00, u01, u02, u11, u12, u22


@triton.jit
def _weight(s, there, A: tl.constexpr, B: tl.constexpr, DIMS: tl.constexpr):
    total = _product(s, there, A, B)
    for e in tl.static_range(1, DIMS):
        total += _product(s + e * DIMS, there, A, B)
    return total


@triton.jit
def _product(s, there, A: tl.constexpr, B: tl.constexpr):
    return tl.load(s + A, mask=there).to(tl.float64) * tl.load(s + B, mask=there).to(tl.float64)


@triton.jit
def _merged(sums, PAIRS: tl.constexpr):
    """((s_0 + s_4) + (s_2 + s_6)) + ((s_1 + s_5) + (s_3 + s_7)) of each pair."""
    low, high = tl.split(tl.permute(tl.reshape(sums, (PAIRS, 2, 4)), (0, 2, 1)))
    low, high = tl.split(tl.permute(tl.reshape(low + high, (PAIRS, 2, 2)), (0, 2, 1)))
    low, high = tl.split(low + high)
    return low + high


@triton.jit
def _mean(total, count):
    return (tl.where(total < 0, 0.0, total) / count.to(tl.float64)).to(tl.float32)
