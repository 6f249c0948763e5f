"""Triton kernels of :mod:`asma_fast.ops.temporal_conv`: the map and its gradients as products of implicit matrices.

A tile has rows (row of the batch, frame, joint) and channels; for each tap and block of channels it reads the frame
that the tap meets. The gradient of the map is the same pass with frames and channels exchanged: at a stride, the frames
of each phase are a launch row of their own and meet only the taps of that phase.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd
from typing import Any

import torch
import triton
import triton.language as tl

from asma_fast._array import channels_last, dense
from asma_fast.triton._launch import blocks_of, launch
from asma_fast.triton._tiles import (
    MOST_REGISTERS,
    activated,
    check_rows,
    deepest,
    dot,
    exact,
    fold_gradient,
    map_rows,
    power_of_two,
    precision,
    square_sums,
    store_sums,
    weighted_sums,
)
from asma_fast.triton.temporal_conv_backward import weight_gradient

#: Fewer channels a group than this are multiplied without ``tl.dot``, whose tiles are no narrower.
NARROWEST_DOT = 16


@triton.jit(do_not_specialize=["phase", "first_tap", "tap_step", "met_taps", "offset", "hop", "first_tile"])
def _convolve(
    x, weight, bias, scale, shift, residual, inner, inner_scale, inner_shift, out, partial,
    frames, joints, c_in, out_frames, c_out, groups, rows, turns, in_step, out_step,
    phase, first_tap, tap_step, met_taps, offset, hop, first_tile,
    RELU: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    per_in, per_out = c_in // groups, c_out // groups
    width = per_out if DOT else c_out
    blocks = tl.cdiv(width, COLUMNS)
    parts = blocks * groups if DOT else blocks
    tile, part = tl.program_id(0) // parts, tl.program_id(0) % parts
    own = part % blocks * COLUMNS + tl.arange(0, COLUMNS)
    group = part // blocks
    column = group * per_out + own
    some = own < width
    row, batch, place = map_rows(tile, turns * joints, ROWS)
    turn, joint = (place // joints).to(tl.int64), place % joints
    frame, met = turn * out_step + phase, turn * in_step + offset
    live = (row < rows) & (frame < out_frames)
    start = x + (batch * frames * joints + joint) * c_in

    least, most = tl.min(met, axis=0), tl.max(met, axis=0)
    first, after = met_taps, 0
    for i in range(met_taps):  # those that meet a frame of the map anywhere in the tile
        if (most + i * hop >= 0) & (least + i * hop < frames):
            first = min(first, i)
            after = i + 1
    chunks = tl.cdiv(per_in, CHANNELS) if DOT else per_in
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for step in range(first * chunks, after * chunks):
        tap = first_tap + step // chunks * tap_step
        source = met + tl.cast(step // chunks, tl.int64) * hop
        read = live & (source >= 0) & (source < frames)
        at = start + source * joints * c_in
        matrix = weight + tl.cast(tap, tl.int64) * c_out * per_in
        if DOT:
            inside = step % chunks * CHANNELS + tl.arange(0, CHANNELS)
            channel = (group * per_in + inside)[None, :]
            keep = read[:, None] & (inside < per_in)[None, :]
            value = tl.load(at[:, None] + channel, mask=keep, other=0.0)
            if scale is not None:
                value = tl.where(keep, activated(value, scale, shift, channel, c_in), 0.0).to(x.dtype.element_ty)
            pairs = matrix + column[None, :] * per_in + inside[:, None]
            factor = tl.load(pairs, mask=some[None, :] & (inside < per_in)[:, None], other=0.0)
            total = dot(value, factor, total, PRECISION)
        else:
            channel = (column // per_out * per_in + step % chunks)[None, :]
            keep = read[:, None] & some[None, :]
            value = tl.load(at[:, None] + channel, mask=keep, other=0.0).to(tl.float32)
            if scale is not None:
                value = tl.where(keep, activated(value, scale, shift, channel, c_in), 0.0)
            factor = tl.load(matrix + column * per_in + step % chunks, mask=some, other=0.0)
            total += value * factor.to(tl.float32)[None, :]

    keep = live[:, None] & some[None, :]
    to = ((batch * out_frames + frame) * joints + joint)[:, None] * c_out + column[None, :]
    if bias is not None:
        total += tl.load(bias + column, mask=some, other=0.0).to(tl.float32)[None, :]
    if residual is not None:
        total += tl.load(residual + to, mask=keep, other=0.0).to(tl.float32)
    if RELU:
        total = tl.where(total < 0, 0.0, total)
    if inner is not None:  # back through relu(inner_scale · inner + inner_shift)
        value = tl.load(inner + to, mask=keep, other=0.0).to(tl.float32)
        factor = tl.load(inner_scale + column, mask=some, other=0.0).to(tl.float32)[None, :]
        offset = tl.load(inner_shift + column, mask=some, other=0.0).to(tl.float32)[None, :]
        total = tl.where(value * factor + offset <= 0, 0.0, total)
        if partial is not None:
            sums, products = weighted_sums(total, value, keep)
            store_sums(partial, first_tile + tile, column, some, c_out, products, sums)
        total *= factor
    if out is not None:
        rounded = total.to(out.dtype.element_ty)
        tl.store(out + to, rounded, mask=keep)
        if partial is not None and inner is None:
            sums, products = square_sums(rounded.to(tl.float32), keep)
            store_sums(partial, first_tile + tile, column, some, c_out, sums, products)


def convolve(
    x: Any,
    weight: Any,
    out: Any,
    sizes: tuple[int, int, int, int],
    *,
    bias: Any = None,
    affine: tuple[Any, Any] = (None, None),
    residual: Any = None,
    relu: bool = False,
    inner: tuple[Any, Any, Any] = (None, None, None),
    transposed: bool = False,
    shape: Any = None,
    sums: Any = None,
) -> None:
    """Fill ``out`` and ``sums`` (float64), each unless None, with the convolution or, transposed, its gradient.

    Parameters
    ----------
    x, residual
        Maps, channels last.
    weight
        ``(taps, columns, channels a group)``, in C order.
    sizes
        ``stride, left, dilation, groups`` of the convolution.
    bias, affine, residual, relu
        Added to the result; the scale and shift after which ``x`` is read through ReLU; added; ReLU of the result.
    inner
        The convolution's input, scale and shift, where its gradient goes back through them: ``sums`` are then the
        gradients of scale and shift, else those of the result and of its square.
    shape
        Of the result, where ``out`` is None.
    """
    batch, c_out, out_frames, joints = out.shape if shape is None else shape
    stride, groups = sizes[0], sizes[3]
    taps, _, per_in = weight.shape
    turns = blocks_of(out_frames, stride) if transposed else out_frames
    rows = batch * turns * joints
    check_rows(rows)
    if rows == 0 or c_out == 0:
        if sums is not None:
            sums.zero_()
        return
    wide = per_in >= NARROWEST_DOT
    width = c_out // groups if wide else c_out
    aligned = (x.shape[1] | per_in | c_out) % 16 == 0
    high, most, deep, warps = _tile(x, wide, aligned)
    columns = power_of_two(width, 16, most)
    tiles, parts = blocks_of(rows, high), blocks_of(width, columns) * (groups if wide else 1)
    phases = list(_phases(out_frames, taps, sizes, transposed))
    partial = None if sums is None else x.new_empty((len(phases) * tiles, 2, c_out), dtype=torch.float64)
    for number, phase in enumerate(phases):
        launch(
            _convolve,
            tiles * parts,
            *(x, weight, bias, *affine, residual, *inner, out, partial),
            *(x.shape[2], joints, x.shape[1], out_frames, c_out, groups, rows, turns),
            *((1, stride) if transposed else (stride, 1)),
            *(*phase, number * tiles),
            RELU=relu,
            DOT=wide,
            PRECISION=precision(x),
            ROWS=high,
            COLUMNS=columns,
            CHANNELS=power_of_two(per_in, 16, deep),
            num_warps=warps,
            num_stages=2 if exact(x) else 3,
            maxnreg=MOST_REGISTERS,
        )
    if partial is not None:
        sums.copy_(partial.sum(0))


def _tile(x: Any, wide: bool, aligned: bool) -> tuple[int, int, int, int]:
    """Rows, columns at most, channels at most and warps of a tile: as large as the registers allow.

    Channels that are no multiple of 16 are read one by one, from an address each.
    """
    if not wide:
        return 32, 32, 16, 4
    if exact(x):
        return 64, 64 if aligned else 32, 16, 8
    return (128, 64, deepest(x), 8) if aligned else (64, 64, 16, 8)


def _phases(frames: int, taps: int, sizes: tuple[int, int, int, int], transposed: bool) -> Iterator[tuple[int, ...]]:
    """For each phase of the frames that are written: itself, the first tap that meets its frames, how many taps on the
    next one is, how many there are; where the first reads, and how far on the next one.
    """
    stride, left, dilation, _ = sizes
    if not transposed:
        yield 0, 0, 1, taps, -left, dilation
        return
    shared = gcd(stride, dilation)
    step = stride // shared
    for phase in range(min(stride, frames)):
        for first in range(min(step, taps)):
            if (phase + left - first * dilation) % stride == 0:
                offset = (phase + left - first * dilation) // stride
                yield phase, first, step, len(range(first, taps, step)), offset, -(dilation // shared)
                break
        else:
            yield phase, 0, 1, 0, 0, 0


def packed(weight: Any, groups: int, *, transposed: bool = False) -> Any:
    """``weight (C_out, C_in/groups, taps)`` as (taps, columns, channels a group) of the pass that reads it."""
    c_out, per_group, taps = weight.shape
    if not transposed:
        return weight.permute(2, 0, 1).contiguous()
    by_group = weight.reshape(groups, c_out // groups, per_group, taps)
    return by_group.permute(3, 0, 2, 1).reshape(taps, groups * per_group, c_out // groups).contiguous()


def temporal_conv(
    x: Any, weight: Any, bias: Any, stride: int, left: int, right: int, dilation: int, groups: int, out: Any
) -> None:
    """Fill ``out (B, C_out, T', V)``."""
    sizes = (stride, left, dilation, groups)
    convolve(channels_last(x), packed(weight, groups), out, sizes, bias=dense(bias))


def temporal_conv_backward(
    g: Any,
    x: Any,
    weight: Any,
    stride: int,
    left: int,
    right: int,
    dilation: int,
    groups: int,
    needs_x: bool,
    needs_weight: bool,
    needs_bias: bool,
    x_grad: Any,
    weight_grad: Any,
    bias_grad: Any,
) -> None:
    """Fill the gradients that are needed."""
    sizes = (stride, left, dilation, groups)
    g = fold_gradient(channels_last(g), None, None, bias_grad if needs_bias else None, keep=True)
    if needs_x:
        convolve(g, packed(weight, groups, transposed=True), x_grad, sizes, transposed=True)
    if needs_weight:
        weight_gradient(g, channels_last(x), weight_grad, sizes)
