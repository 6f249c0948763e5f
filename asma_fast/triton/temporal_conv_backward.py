"""The gradient of a temporal convolution's weight: a product of two tall matrices, split along their rows.

Each part of the rows fills a matrix of its own; these are added in their order, so that the bits are always the same.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from asma_fast.triton._launch import blocks_of, launch
from asma_fast.triton._tiles import (
    MOST_REGISTERS,
    activated,
    check_rows,
    deepest,
    dot,
    exact,
    map_rows,
    power_of_two,
    precision,
)

#: Programs that fill a device, and rows below which a part is not worth one.
PROGRAMS, FEWEST_ROWS = 512, 512


def row_parts(rows: int, programs: int) -> int:
    """Into how many parts the rows of a sum are cut, by its shape alone."""
    return max(1, min(blocks_of(rows, FEWEST_ROWS), blocks_of(PROGRAMS, programs)))


@triton.jit
def _weight_gradient(
    g, x, scale, shift, partial,
    frames, joints, c_in, g_frames, c_out, taps, groups, stride, left, dilation, rows, part_tiles,
    DOT: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    per_in, per_out = c_in // groups, c_out // groups
    width = per_out if DOT else c_out
    blocks, chunks = tl.cdiv(width, COLUMNS), tl.cdiv(per_in, CHANNELS) if DOT else per_in
    number = tl.program_id(0)
    chunk, number = number % chunks, number // chunks
    own, number = number % blocks * COLUMNS + tl.arange(0, COLUMNS), number // blocks
    tap, group = number % taps, number // taps
    column, some = group * per_out + own, own < width
    if DOT:
        inside = chunk * CHANNELS + tl.arange(0, CHANNELS)
        channel = group * per_in + inside
        channels = inside < per_in
        total = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    else:
        channel = column // per_out * per_in + chunk
        channels = some
        total = tl.zeros((COLUMNS,), tl.float32)
    part = tl.program_id(1)
    for tile in range(part * part_tiles, min((part + 1) * part_tiles, tl.cdiv(rows, ROWS))):
        row, batch, place = map_rows(tile, g_frames * joints, ROWS)
        source = (place // joints).to(tl.int64) * stride + tap * dilation - left
        read = (row < rows) & (source >= 0) & (source < frames)
        seen = tl.load(
            g + row.to(tl.int64)[:, None] * c_out + column[None, :], mask=read[:, None] & some[None, :], other=0.0
        )
        at = x + ((batch * frames + source) * joints + place % joints) * c_in
        keep = read[:, None] & channels[None, :]
        value = tl.load(at[:, None] + channel[None, :], mask=keep, other=0.0)
        if scale is not None:
            value = tl.where(keep, activated(value, scale, shift, channel[None, :], c_in), 0.0).to(x.dtype.element_ty)
        if DOT:
            total = dot(tl.trans(seen), value, total, PRECISION)
        else:
            total += tl.sum(seen.to(tl.float32) * value.to(tl.float32), axis=0)
    to = partial + ((tl.cast(part, tl.int64) * taps + tap) * c_out + column) * per_in
    if DOT:
        tl.store(to[:, None] + inside[None, :], total, mask=some[:, None] & channels[None, :])
    else:
        tl.store(to + chunk, total, mask=some)


def weight_gradient(
    g: Any, x: Any, weight_grad: Any, sizes: tuple[int, int, int, int], affine: tuple[Any, Any] = (None, None)
) -> None:
    """Fill ``weight_grad (C_out, C_in/groups, taps)`` from the maps ``g`` and ``x``, channels last.

    ``affine`` is the scale and shift after which ``x`` is read through ReLU, or two Nones.
    """
    stride, left, dilation, groups = sizes
    c_out, per_in, taps = weight_grad.shape
    batch, _, g_frames, joints = g.shape
    rows = batch * g_frames * joints
    check_rows(rows)
    if rows == 0 or weight_grad.numel() == 0:
        weight_grad.zero_()
        return
    wide = per_in >= 16
    width = c_out // groups if wide else c_out
    # channels that are no multiple of 16 are read one by one, from an address each
    most = 32 if exact(x) and (x.shape[1] | per_in | c_out) % 16 else 64
    columns, channels, high = power_of_two(width, 16, most), power_of_two(per_in, 16, most), deepest(x)
    programs = blocks_of(width, columns) * taps
    programs *= blocks_of(per_in, channels) * groups if wide else per_in
    tiles = blocks_of(rows, high)
    part_tiles = blocks_of(tiles, row_parts(rows, programs))
    parts = blocks_of(tiles, part_tiles)
    partial = g.new_empty((parts, taps, c_out, per_in), dtype=torch.float32)
    launch(
        _weight_gradient,
        (programs, parts),
        *(g, x, *affine, partial),
        *(x.shape[2], joints, x.shape[1], g_frames, c_out, taps, groups, stride, left, dilation, rows, part_tiles),
        DOT=wide,
        PRECISION=precision(x),
        ROWS=high,
        COLUMNS=columns,
        CHANNELS=channels,
        num_stages=2 if exact(x) else 3,
        maxnreg=MOST_REGISTERS,
    )
    weight_grad.copy_(partial.sum(0).permute(1, 2, 0))
