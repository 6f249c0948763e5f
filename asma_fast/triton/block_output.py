"""The last pass of a block, ``relu(dropout(scale · x + shift) + residual)``, and its gradient: one read and one write.

Dropout is drawn again from its counters, eight elements a call; where the channels are not a multiple of eight each
element makes the call it belongs to.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from asma_fast._array import channels_last, dense
from asma_fast.ops.dropout import cut
from asma_fast.philox import Purpose
from asma_fast.triton._launch import blocks_of, launch
from asma_fast.triton._tiles import check_rows, power_of_two, store_sums, weighted_sums

#: Numbers that a program reads of each map, and where each draws its own random bits.
TILE, DRAWING_TILE = 4096, 1024


@triton.jit
def _random_bits(seed, ids, n, row, first, channels, purpose, SHARED: tl.constexpr, CHANNELS: tl.constexpr):
    """The 16 random bits of each element of rows ``row (ROWS, 1)`` of sample n, channels from ``first`` on."""
    id = tl.load(ids + n)
    low, high = (id & 0xFFFFFFFF).to(tl.uint32), ((id >> 32) & 0xFFFFFFFF).to(tl.uint32)
    key = tl.load(seed)
    if SHARED:
        call = ((row * channels + first) // 8 + tl.arange(0, CHANNELS // 8)[None, :]).to(tl.uint32)
        w0, w1, w2, w3 = tl.philox(key, low, high, call, purpose)
        words = tl.join(tl.join(w0, w2), tl.join(w1, w3))
        bits = tl.join(words & 0xFFFF, words >> 16)
        return tl.reshape(bits, (row.shape[0], CHANNELS))
    else:
        i = row * channels + first + tl.arange(0, CHANNELS)[None, :]
        w0, w1, w2, w3 = tl.philox(key, low, high, (i // 8).to(tl.uint32), purpose)
        word = tl.where(i % 8 < 2, w0, tl.where(i % 8 < 4, w1, tl.where(i % 8 < 6, w2, w3)))
        return tl.where(i % 2 == 0, word & 0xFFFF, word >> 16)


@triton.jit
def _tile(rows, channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """The sample, its rows, the tile's number, first channel, channels, and what of all is there."""
    blocks, pieces = tl.cdiv(channels, CHANNELS), tl.cdiv(rows, ROWS)
    tile = tl.program_id(0) // blocks
    n = (tile // pieces).to(tl.int64)
    row = (tile % pieces * ROWS + tl.arange(0, ROWS))[:, None].to(tl.int64)
    first = tl.program_id(0) % blocks * CHANNELS
    channel = first + tl.arange(0, CHANNELS)
    keep = (row < rows) & (channel < channels)[None, :]
    return n, row, tile, first, channel, keep


@triton.jit
def _per_channel(values, channel, channels):
    return tl.load(values + channel, mask=channel < channels, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _output(
    x, scale, shift, residual, residual_scale, residual_shift, seed, ids, out, rows, channels, purpose, threshold, grow,
    DROPS: tl.constexpr, SHARED: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    n, row, _, first, channel, keep = _tile(rows, channels, ROWS, CHANNELS)
    place = (n * rows + row) * channels + channel[None, :]
    y = tl.load(x + place, mask=keep, other=0.0).to(tl.float32) * _per_channel(scale, channel, channels)
    y += _per_channel(shift, channel, channels)
    if DROPS:
        bits = _random_bits(seed, ids, n, row, first, channels, purpose, SHARED, CHANNELS)
        y = tl.where(bits.to(tl.int32) < threshold, 0.0, y * grow)
    if residual is not None:
        added = tl.load(residual + place, mask=keep, other=0.0).to(tl.float32)
        if residual_scale is not None:
            added = added * _per_channel(residual_scale, channel, channels)
            added += _per_channel(residual_shift, channel, channels)
        y += added
    tl.store(out + place, tl.where(y < 0, 0.0, y).to(out.dtype.element_ty), mask=keep)


@triton.jit
def _output_gradient(
    g, out, x, scale, residual, residual_scale, seed, ids, x_grad, residual_grad, sums, residual_sums,
    rows, channels, purpose, threshold, grow,
    DROPS: tl.constexpr, SHARED: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    n, row, tile, first, channel, keep = _tile(rows, channels, ROWS, CHANNELS)
    place = (n * rows + row) * channels + channel[None, :]
    value = tl.load(g + place, mask=keep, other=0.0).to(tl.float32)
    value = tl.where(tl.load(out + place, mask=keep, other=0.0).to(tl.float32) <= 0, 0.0, value)
    if residual_grad is not None:
        passed = value
        if residual_scale is not None:
            passed = value * _per_channel(residual_scale, channel, channels)
        tl.store(residual_grad + place, passed.to(residual_grad.dtype.element_ty), mask=keep)
    if residual_sums is not None:
        read = value
        if residual is not None:
            read = tl.load(residual + place, mask=keep, other=0.0).to(tl.float32)
        total, products = weighted_sums(value, read, keep)
        store_sums(residual_sums, tile, channel, channel < channels, channels, products, total)
    if DROPS:
        bits = _random_bits(seed, ids, n, row, first, channels, purpose, SHARED, CHANNELS)
        value = tl.where(bits.to(tl.int32) < threshold, 0.0, value * grow)
    if x_grad is not None:
        to = (value * _per_channel(scale, channel, channels)).to(x_grad.dtype.element_ty)
        tl.store(x_grad + place, to, mask=keep)
    if sums is not None:
        read = value
        if x is not None:
            read = tl.load(x + place, mask=keep, other=0.0).to(tl.float32)
        total, products = weighted_sums(value, read, keep)
        store_sums(sums, tile, channel, channel < channels, channels, products, total)


def _cut(shape: Any, ids: Any, p: float, block: int) -> tuple[int, tuple[Any, ...], dict[str, Any]]:
    """Tiles along the rows, the kernels' numbers and their constants."""
    batch, channels, frames, joints = shape
    drops = p > 0 and cut(p) > 0
    samples = ids.shape[0] if drops else 1
    rows = batch * frames * joints // max(samples, 1)
    check_rows(rows)
    wide = power_of_two(channels, 8, 128)
    shared = channels % 8 == 0
    high = (DRAWING_TILE if drops and not shared else TILE) // wide
    constants = {"DROPS": drops, "SHARED": shared, "ROWS": high, "CHANNELS": wide}
    threshold = cut(p)
    numbers = (rows, channels, Purpose.DROPOUT + block, threshold, 65536 / (65536 - threshold))
    return samples * blocks_of(rows, high), numbers, constants


def block_output(
    x: Any,
    scale: Any,
    shift: Any,
    residual: Any,
    residual_scale: Any,
    residual_shift: Any,
    seed: Any,
    ids: Any,
    p: float,
    block: int,
    out: Any,
) -> None:
    """Fill ``out (B, C, T, V)``."""
    if out.numel() == 0:
        return
    tiles, numbers, constants = _cut(out.shape, ids, p, block)
    maps = (channels_last(x), dense(scale), dense(shift), None if residual is None else channels_last(residual))
    launch(
        _output,
        tiles * blocks_of(out.shape[1], constants["CHANNELS"]),
        *(*maps, dense(residual_scale), dense(residual_shift), seed, dense(ids), out),
        *numbers,
        **constants,
    )


def block_output_backward(
    g: Any,
    out: Any,
    x: Any,
    scale: Any,
    residual: Any,
    residual_scale: Any,
    seed: Any,
    ids: Any,
    p: float,
    block: int,
    needs: Any,
    *grads: Any,
) -> None:
    """Fill the gradients that are needed: of x, scale, shift, residual, residual_scale and residual_shift."""
    wanted = [grad if need else None for grad, need in zip(grads, needs, strict=True)]
    x_grad, scale_grad, shift_grad, residual_grad, residual_scale_grad, residual_shift_grad = wanted
    pairs = ((scale_grad, shift_grad), (residual_scale_grad, residual_shift_grad))
    if out.numel() == 0:
        for grad in (*pairs[0], *pairs[1]):
            if grad is not None:
                grad.zero_()
        return
    tiles, numbers, constants = _cut(out.shape, ids, p, block)
    partials = []
    for pair in pairs:
        needed = any(grad is not None for grad in pair)
        shape = (tiles, 2, out.shape[1])
        partials.append(torch.empty(shape, dtype=torch.float64, device=out.device) if needed else None)
    maps = (None if a is None else channels_last(a) for a in (g, out, x))
    launch(
        _output_gradient,
        tiles * blocks_of(out.shape[1], constants["CHANNELS"]),
        *(*maps, dense(scale), None if residual is None else channels_last(residual), dense(residual_scale)),
        *(seed, dense(ids), x_grad, residual_grad, *partials),
        *numbers,
        **constants,
    )
    for pair, partial in zip(pairs, partials, strict=True):
        if partial is not None:
            result = partial.sum(0)
            for grad, row in zip(pair, result, strict=True):
                if grad is not None:
                    grad.copy_(row)
