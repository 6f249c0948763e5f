"""What the convolutions' kernels share: tiles of rows and columns, and sums of columns that keep their digits.

A feature map lies channels last: its rows are (row of the batch, frame, joint), its columns the channels. Positions are
64-bit, as maps may hold more than 2³¹ numbers.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from asma_fast.triton._launch import INTERPRETING, blocks_of, dot_precision, launch

_WIDEN = tl.constexpr(INTERPRETING)  # triton's interpreter has no products of bfloat16

#: Registers that a kernel with products may have: left to itself the compiler spills some for one more block at once.
MOST_REGISTERS = 240

#: Rows of a map, which kernels count in 32 bits; positions have 64.
MOST_ROWS = 2**31 - 2**10


def power_of_two(size: int, low: int, high: int) -> int:
    """The smallest power of two that is at least ``size``, within bounds that are powers of two."""
    return max(low, min(high, 1 << (max(size, 1) - 1).bit_length()))


def precision(x: Any) -> str:
    """How products of ``x`` are taken: TF32 where torch's own switch allows it, else exactly."""
    return dot_precision() if x.dtype == torch.float32 else "ieee"


def exact(x: Any) -> bool:
    """Whether products are taken without tensor cores, whose operands then fill the registers."""
    return x.dtype == torch.float32 and precision(x) == "ieee"


def deepest(x: Any) -> int:
    """Channels that a step of a product takes at most: more float32 ones do not fit the registers."""
    return 16 if x.dtype == torch.float32 else 32


def check_rows(*rows: int) -> None:
    """The rows of maps can be counted in 32 bits."""
    if max(rows) > MOST_ROWS:
        raise ValueError(f"impl='triton' takes maps of at most {MOST_ROWS} rows (B · T · V), got {max(rows)}")


@triton.jit
def map_rows(tile, per_map, BLOCK: tl.constexpr):
    """Rows ``tile · BLOCK …``: their numbers, the map each belongs to (64 bits) and its place in it."""
    row = tile * BLOCK + tl.arange(0, BLOCK)
    return row, (row // per_map).to(tl.int64), row % per_map


@triton.jit
def dot(a, b, total, PRECISION: tl.constexpr):
    """``total + a · b``; float32 as PRECISION says."""
    if _WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def activated(x, scale, shift, channel, channels):
    """``relu(scale · x + shift)`` of a tile, its channels along the last axis; a NaN stays."""
    keep = channel < channels
    factor = tl.load(scale + channel, mask=keep, other=0.0).to(tl.float32)
    offset = tl.load(shift + channel, mask=keep, other=0.0).to(tl.float32)
    value = x.to(tl.float32) * factor + offset
    return tl.where(value < 0, 0.0, value)


@triton.jit
def weighted_sums(g, x, keep):
    """Of each column Σ g and Σ g·x, float64: x taken about its mean in the tile, of which ``keep`` counts."""
    count = tl.maximum(tl.sum(keep.to(tl.float32), axis=0), 1)
    pivot = tl.sum(tl.where(keep, x, 0.0), axis=0) / count
    total = tl.sum(tl.where(keep, g, 0.0), axis=0).to(tl.float64)
    about = tl.sum(tl.where(keep, g * (x - pivot[None, :]), 0.0), axis=0).to(tl.float64)
    return total, about + pivot.to(tl.float64) * total


@triton.jit
def square_sums(y, keep):
    """Of each column Σ y and Σ y², float64, taken about its mean in the tile."""
    number = tl.sum(keep.to(tl.float32), axis=0)
    pivot = tl.sum(tl.where(keep, y, 0.0), axis=0) / tl.maximum(number, 1)
    apart = tl.where(keep, y - pivot[None, :], 0.0)
    about, squares = tl.sum(apart, axis=0).to(tl.float64), tl.sum(apart * apart, axis=0).to(tl.float64)
    centre, count = pivot.to(tl.float64), number.to(tl.float64)
    return count * centre + about, squares + centre * (2 * about + count * centre)


@triton.jit
def store_sums(partial, tile, column, keep, columns, first, second):
    """Write two sums of each column to ``partial (tiles, 2, columns)``."""
    to = partial + tl.cast(tile, tl.int64) * 2 * columns + column
    tl.store(to, first, mask=keep)
    tl.store(to + columns, second, mask=keep)


@triton.jit
def _fold(g, y, sums_grad, folded, partial, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    tile, blocks = tl.program_id(0), tl.cdiv(columns, COLUMNS)
    row = (tile // blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tile % blocks * COLUMNS + tl.arange(0, COLUMNS)
    keep = (row < rows)[:, None] & (column < columns)[None, :]
    place = row[:, None] * columns + column[None, :]
    value = tl.load(g + place, mask=keep, other=0.0).to(tl.float32)
    if sums_grad is not None:
        of_sum = tl.load(sums_grad + column, mask=column < columns, other=0.0).to(tl.float32)
        of_square = tl.load(sums_grad + columns + column, mask=column < columns, other=0.0).to(tl.float32)
        value += of_sum[None, :] + 2 * of_square[None, :] * tl.load(y + place, mask=keep, other=0.0).to(tl.float32)
        if folded is not None:
            tl.store(folded + place, value.to(folded.dtype.element_ty), mask=keep)
    if partial is not None:
        total = tl.sum(tl.where(keep, value, 0.0), axis=0)
        tl.store(partial + tile // blocks * tl.cast(columns, tl.int64) + column, total, mask=column < columns)


def fold_gradient(g: Any, y: Any, sums_grad: Any, bias_grad: Any, keep: bool) -> Any:
    """The whole gradient of a map ``y`` whose sums have gradients too: ``g + sums_grad[0] + 2 · sums_grad[1] · y``.

    Without ``sums_grad`` it is ``g`` itself. Its sums by channel fill ``bias_grad`` where that is not None; ``keep``
    says whether the gradient itself is wanted. ``g`` and ``y`` lie channels last.
    """
    if sums_grad is None and bias_grad is None:
        return g
    folded = torch.empty_like(g) if sums_grad is not None and keep else None
    rows, columns = g.shape[0] * g.shape[2] * g.shape[3], g.shape[1]
    width = power_of_two(columns, 16, 128)
    high = 4096 // width
    tiles = blocks_of(rows, high)
    partial = None if bias_grad is None else g.new_empty((tiles, columns), dtype=torch.float32)
    if g.numel():
        grid = tiles * blocks_of(columns, width)
        launch(_fold, grid, g, y, sums_grad, folded, partial, rows, columns, ROWS=high, COLUMNS=width)
    if partial is not None:
        bias_grad.copy_(partial.sum(0))
    return g if sums_grad is None else folded
