"""Kernels of :mod:`asma_fast.ops.sampling`: a program has a clip, whole. Integers throughout, the CPU's masks."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from asma_fast._array import as_dense
from asma_fast.philox import Purpose
from asma_fast.triton._launch import launch

_JOINTS = tl.constexpr(int(Purpose.JOINTS))
_FRAMES = tl.constexpr(int(Purpose.FRAMES))
_TIES = tl.constexpr(int(Purpose.TIES))


def sample_joints(weights: Any, drop: int, seed: Any, ids: Any, kept: Any) -> None:
    """Fill ``kept (N, V − drop)``."""
    row = weights.stride(0) if weights.ndim == 2 else 0
    launch(
        joints_kernel,
        ids.shape[0],
        *(weights, seed, ids, kept),
        *(weights.shape[-1], drop, row, weights.stride(-1), ids.stride(0)),
        **_sizes(weights.shape[-1]),
    )


def sample_frames(scores: Any, drop: int, high: bool, random_drop: int, seed: Any, ids: Any, kept: Any) -> None:
    """Fill ``kept (N, T − drop − random_drop)``."""
    frames = scores.shape[1]
    launch(
        frames_kernel,
        scores.shape[0] if frames else 0,
        *(as_dense(scores, "float32"), seed, ids, kept, frames, drop, random_drop, ids.stride(0)),
        HIGH=high,
        **_sizes(frames),
    )


def _sizes(places: int) -> dict[str, int]:
    """A power of two that holds the places of a clip, and warps for it; a weight's quotient is rounded at each step."""
    size = max(triton.next_power_of_2(places), 16)
    return {"SIZE": size, "num_warps": min(max(size // 128, 1), 32), "enable_fp_fusion": False}


@triton.jit(do_not_specialize=["joints", "drop"])
def joints_kernel(weights, seed, ids, kept, joints, drop, weights_n, weights_v, ids_n, SIZE: tl.constexpr):
    n = tl.program_id(0).to(tl.int64)
    v = tl.arange(0, SIZE)
    there = v < joints
    w = tl.load(weights + n * weights_n + v.to(tl.int64) * weights_v, mask=there, other=0).to(tl.float64)
    tl.device_assert((w >= 0) & (w <= 1.7976931348623157e308), "weights must be finite and not negative")
    positive = tl.sum((w > 0).to(tl.int32), axis=0)
    tl.device_assert(positive > 0, "weights must not all be zero")
    tl.device_assert(positive >= drop, "drop must be at most the number of positive weights")
    scaled = w / tl.max(w, axis=0) * 65536.0
    scaled = (scaled + 4503599627370496.0) - 4503599627370496.0  # 2^52: rounded half to even
    left = tl.where(w > 0, tl.maximum(scaled, 1.0), 0.0).to(tl.int32)
    left = _draw(left, tl.load(seed), tl.load(ids + n * ids_n), drop, _JOINTS)
    # A joint that weighed nothing from the start was never drawn.
    _write(there & ((left > 0) | (w == 0)), v, kept + n * (joints - drop), joints - drop)


@triton.jit(do_not_specialize=["frames", "drop", "random_drop"])
def frames_kernel(
    scores, seed, ids, kept, frames, drop, random_drop, ids_n, HIGH: tl.constexpr, SIZE: tl.constexpr
):  # fmt: skip
    n = tl.program_id(0).to(tl.int64)
    t = tl.arange(0, SIZE)
    there = t < frames
    key = tl.load(seed)
    id = tl.load(ids + n * ids_n)
    score = tl.load(scores + n * frames + t, mask=there, other=0)
    tl.device_assert(score == score, "scores must not be NaN")
    # An unsigned integer that orders as the score does, cut to 12 mantissa bits; both zeros alike.
    bits = score.to(tl.uint32, bitcast=True)
    magnitude = (bits & 0x7FFFF800).to(tl.int64)
    rank = tl.where((bits >> 31 != 0) == HIGH, magnitude, -magnitude) + 0x80000000
    order = (rank.to(tl.uint64) << 32) | _word(key, id, t, _TIES).to(tl.uint64)
    limit, gone = _limit(order, there, drop)
    on_limit = there & (order == limit)
    goes = (there & (order < limit)) | (on_limit & (tl.cumsum(on_limit.to(tl.int32), axis=0) <= drop - gone))
    left = _draw((there & (goes == 0)).to(tl.int32), key, id, random_drop, _FRAMES)
    count = frames - drop - random_drop
    _write(left > 0, t, kept + n * count, count)


@triton.jit
def _limit(order, there, drop):
    """The largest number with at most ``drop`` entries of ``order`` below it, and how many there are.

    Bit by bit. The rank's 21 and the tie's 32: those between are 0.
    """
    limit = tl.full((), 0, tl.uint64)
    bit = tl.full((), 1 << 63, tl.uint64)
    for i in range(0, 53):
        below = tl.sum((there & (order < (limit | bit))).to(tl.int32), axis=0)
        limit = tl.where(below <= drop, limit | bit, limit)
        bit = bit >> tl.where(i == 20, 12, 1).to(tl.uint64)
    return limit, tl.sum((there & (order < limit)).to(tl.int32), axis=0)


@triton.jit
def _word(seed, id, draw, PURPOSE: tl.constexpr):
    """The first word of Philox4x32-10."""
    low = (id & 0xFFFFFFFF).to(tl.uint32)
    high = ((id >> 32) & 0xFFFFFFFF).to(tl.uint32)
    return tl.philox(seed, low, high, draw, PURPOSE)[0]


@triton.jit
def _draw(left, seed, id, count, PURPOSE: tl.constexpr):
    """Integer weights (their sum fits 31 bits) with ``count`` of them, drawn without replacement, set to 0."""
    for d in range(0, count):
        word = _word(seed, id, d, PURPOSE)
        cumulative = tl.cumsum(left, axis=0)
        place = tl.umulhi(word, tl.sum(left, axis=0).to(tl.uint32)).to(tl.int32)
        left = tl.where((cumulative > place) & (cumulative - left <= place), 0, left)
    return left


@triton.jit
def _write(stays, position, kept, count):
    """The positions that stay, in order."""
    place = tl.cumsum(stays.to(tl.int32), axis=0) - 1
    tl.store(kept + place, position, mask=stays & (place < count))
