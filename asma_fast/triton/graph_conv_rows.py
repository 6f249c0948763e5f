"""Tiles of a graph convolution: rows (frame, joint) of a row of the batch, read through a view and aggregated.

The contraction runs over the parts and, in each, the channels: maps of few channels take all parts in one stretch, so
that three channels and three parts are one product of nine columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from asma_fast.triton._launch import blocks_of, launch
from asma_fast.triton._tiles import (
    MOST_REGISTERS,
    check_rows,
    deepest,
    dot,
    exact,
    power_of_two,
    precision,
    square_sums,
    store_sums,
)
from asma_fast.triton._views import map_argument, read_frames, read_joints
from asma_fast.triton.graph_conv_links import Links
from asma_fast.triton.temporal_conv_backward import row_parts

#: From so many channels on, each part is a stretch of its own.
WIDE = 16


@dataclass(frozen=True)
class Reading:
    """How kernels read a map or a clip: :func:`reading` makes it."""

    arrays: tuple[Any, ...]  # x, frames, joints, transform, nodes, scale, shift
    numbers: tuple[int, ...]  # as the kernels name them
    dims: int
    batch: int
    channels: int
    frames: int
    joints: int

    @property
    def x(self) -> Any:
        """The map or clip."""
        return self.arrays[0]


def reading(
    x: Any,
    frames: Any = None,
    joints: Any = None,
    nodes: Any = None,
    transform: Any = None,
    scale: Any = None,
    shift: Any = None,
) -> Reading:
    """``x``, a map ``(B, C, T, V)`` or a clip ``(N, C, T, V, M)``, through a view and an affine map by node."""
    clip = x if x.ndim == 5 else x[..., None]
    clips, channels, x_frames, x_joints, bodies = clip.shape
    batch = clips * bodies
    t = x_frames if frames is None else frames.shape[1]
    v = x_joints if joints is None else joints.shape[1]
    check_rows(batch * t * v)
    frames, of_frames = map_argument(frames)
    joints, of_joints = map_argument(joints)
    transform, of_transform = map_argument(transform)
    dims = 0 if transform is None else transform.shape[-1]
    shared = 1 if nodes is None else max(batch // max(nodes.shape[0], 1), 1)
    maps = (of_frames, of_joints, of_transform, shared)
    numbers = (channels, t, v, bodies, x_frames, x_joints, *clip.stride(), *maps)
    return Reading((x, frames, joints, transform, nodes, scale, shift), numbers, dims, batch, channels, t, v)


@triton.jit
def read_places(
    x, v, channel, some, joints, transform, nodes, scale, shift,
    of_channel, of_joint, channels, x_joints, DIMS: tl.constexpr,
):  # fmt: skip
    """x̂ at joints ``v`` of the frames at ``x``, float32, and zero where not ``some``: all broadcast to one shape.

    ``joints``, ``transform`` and ``nodes`` stand at their row.
    """
    joint = read_joints(joints, 0, v, some, x_joints)
    at = x + joint * of_joint
    of_channel = tl.cast(of_channel, tl.int64)
    value = tl.load(at + channel * of_channel, mask=some & (channel >= DIMS), other=0.0).to(tl.float32)
    if DIMS > 0:
        for c in tl.static_range(DIMS):
            part = tl.load(transform + channel * DIMS + c, mask=channel < DIMS, other=0.0)
            value += part * tl.load(at + c * of_channel, mask=some & (channel < DIMS), other=0.0).to(tl.float32)
    if scale is not None:
        node = v
        if nodes is not None:
            node = tl.load(nodes + v, mask=some, other=0)
        place = node * channels + channel
        factor = tl.load(scale + place, mask=some, other=0.0).to(tl.float32)
        value = tl.where(some, value * factor + tl.load(shift + place, mask=some, other=0.0).to(tl.float32), 0.0)
    return value


@triton.jit
def aggregate(
    x, there, w, part, channel, inside, joints, transform, nodes, scale, shift, other, value, count,
    of_channel, of_joint, channels, v_count, x_joints, DIMS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Σ_v A[part, v, w] x̂[v, channel] over the links of each row: the frames at ``x (ROWS, 1)``, the joints ``w``.

    ``other``, ``value`` and ``count`` stand at the row's list.
    """
    some = there & inside
    number = tl.load(count + part * v_count + w, mask=some, other=0)
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    for d in range(tl.max(tl.max(number, axis=1), axis=0)):
        linked = some & (d < number)
        place = (part * v_count + d) * v_count + w
        v = tl.load(other + place, mask=linked, other=0)
        entry = tl.load(value + place, mask=linked, other=0.0)
        keep = linked & (channel < channels)
        read = read_places(
            x, v, channel, keep, joints, transform, nodes, scale, shift,
            of_channel, of_joint, channels, x_joints, DIMS,
        )  # fmt: skip
        total += tl.where(keep, entry * read, 0.0)
    return total


@triton.jit
def tile_columns(step, parts, channels, WIDE: tl.constexpr, CHANNELS: tl.constexpr):
    """Of a stretch of the contraction: its part(s), channels, and which count, each of shape (1, CHANNELS or 1)."""
    lane = tl.arange(0, CHANNELS)[None, :]
    if WIDE:
        chunks = tl.cdiv(channels, CHANNELS)
        channel = step % chunks * CHANNELS + lane
        part = tl.zeros((1, 1), tl.int32) + step // chunks
        inside = part < parts
    else:
        column = step * CHANNELS + lane
        part, channel, inside = column // channels, column % channels, column < parts * channels
    return part, channel, inside


@triton.jit
def _convolve(
    x, frames, joints, transform, nodes, scale, shift, other, value, count, total, weight, bias, out, partial,
    channels, t_count, v_count, bodies, x_frames, x_joints, of_clip, of_channel, of_frame, of_joint, of_body,
    of_frames, of_joints, of_transform, shared_nodes, shared_links, parts, c_out, pieces,
    DIMS: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(c_out, COLUMNS)
    tile = tl.program_id(0) // blocks
    column = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    some = column < c_out
    batch = (tile // pieces).to(tl.int64)
    place = (tile % pieces * ROWS + tl.arange(0, ROWS))[:, None]
    there, t, w = place < t_count * v_count, place // v_count, place % v_count
    clip = batch // bodies
    frame = read_frames(frames, clip * of_frames, t, there, x_frames)
    x += clip * of_clip + (batch - clip * bodies) * of_body
    if joints is not None:
        joints += clip * of_joints
    if transform is not None:
        transform += clip * of_transform
    if nodes is not None:
        nodes += batch // shared_nodes * v_count
    links = batch // shared_links * parts * v_count
    other += links * v_count
    value += links * v_count
    count += links
    total += links
    result = tl.zeros((ROWS, COLUMNS), tl.float32)
    for step in range(parts * tl.cdiv(channels, CHANNELS) if WIDE else tl.cdiv(parts * channels, CHANNELS)):
        part, channel, inside = tile_columns(step, parts, channels, WIDE, CHANNELS)
        at = weight + (part * c_out + column[:, None]).to(tl.int64) * channels + channel
        factor = tl.load(at, mask=some[:, None] & inside & (channel < channels), other=0.0)
        gathered = aggregate(
            x + frame * of_frame, there, w, part, channel, inside, joints, transform, nodes, scale, shift,
            other, value, count, of_channel, of_joint, channels, v_count, x_joints, DIMS, ROWS, CHANNELS,
        )  # fmt: skip
        result = dot(gathered.to(weight.dtype.element_ty), tl.trans(factor), result, PRECISION)
    if bias is not None:
        for k in range(parts):
            carried = tl.load(total + k * v_count + w, mask=there, other=0.0)
            alive = tl.load(count + k * v_count + w, mask=there, other=0) > 0
            added = tl.load(bias + k * c_out + column, mask=some, other=0.0).to(tl.float32)[None, :]
            result += tl.where(alive, carried * added, 0.0)
    keep = there & some[None, :]
    rounded = result.to(out.dtype.element_ty)
    tl.store(out + (batch * t_count * v_count + place) * c_out + column[None, :], rounded, mask=keep)
    if partial is not None:
        sums, squares = square_sums(rounded.to(tl.float32), keep)
        store_sums(partial, tile, column, some, c_out, sums, squares)


def convolve(read: Reading, links: Links, weight: Any, bias: Any, out: Any, sums: Any = None) -> None:
    """Fill ``out``, rows of ``weight.shape[1]`` channels, and ``sums (2, C_out)`` of it, float64, unless None.

    ``weight`` is ``(K, C_out, C)`` in C order.
    """
    parts, c_out, channels = weight.shape
    if read.batch * read.frames * read.joints == 0 or c_out == 0:
        if sums is not None:
            sums.zero_()
        return
    wide = channels >= WIDE
    rows, columns = 64, power_of_two(c_out, 16, 64 if exact(read.x) else 128)
    pieces = blocks_of(read.frames * read.joints, rows)
    tiles = read.batch * pieces
    partial = None if sums is None else torch.empty((tiles, 2, c_out), dtype=torch.float64, device=out.device)
    launch(
        _convolve,
        tiles * blocks_of(c_out, columns),
        *(*read.arrays, links.other, links.value, links.count, links.total, weight, bias, out, partial),
        *(*read.numbers, links.rows, parts, c_out, pieces),
        DIMS=read.dims,
        WIDE=wide,
        PRECISION=precision(read.x),
        ROWS=rows,
        COLUMNS=columns,
        CHANNELS=power_of_two(channels if wide else parts * channels, 16, deepest(read.x)),
        num_warps=8,
        maxnreg=MOST_REGISTERS,
    )
    if partial is not None:
        sums.copy_(partial.sum(0))


@triton.jit
def _weight_gradient(
    g, x, frames, joints, transform, nodes, scale, shift, other, value, count, partial,
    channels, t_count, v_count, bodies, x_frames, x_joints, of_clip, of_channel, of_frame, of_joint, of_body,
    of_frames, of_joints, of_transform, shared_nodes, shared_links, parts, c_out, pieces, tiles, part_tiles,
    DIMS: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(c_out, COLUMNS)
    column = (tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS))[:, None]
    some = column < c_out
    part, channel, inside = tile_columns(tl.program_id(0) // blocks, parts, channels, WIDE, CHANNELS)
    result = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    piece = tl.program_id(1)
    for tile in range(piece * part_tiles, min((piece + 1) * part_tiles, tiles)):
        batch = tl.cast(tile // pieces, tl.int64)
        place = (tile % pieces * ROWS + tl.arange(0, ROWS))[:, None]
        there, t, w = place < t_count * v_count, place // v_count, place % v_count
        clip = batch // bodies
        frame = read_frames(frames, clip * of_frames, t, there, x_frames)
        at = x + clip * of_clip + (batch - clip * bodies) * of_body + frame * of_frame
        links = batch // shared_links * parts * v_count
        gathered = aggregate(
            at, there, w, part, channel, inside,
            None if joints is None else joints + clip * of_joints,
            None if transform is None else transform + clip * of_transform,
            None if nodes is None else nodes + batch // shared_nodes * v_count,
            scale, shift, other + links * v_count, value + links * v_count, count + links,
            of_channel, of_joint, channels, v_count, x_joints, DIMS, ROWS, CHANNELS,
        )  # fmt: skip
        seen = g + (batch * t_count * v_count + place) * c_out + tl.trans(column)
        seen = tl.load(seen, mask=there & tl.trans(some), other=0.0)
        result = dot(tl.trans(seen), gathered.to(g.dtype.element_ty), result, PRECISION)
    to = partial + ((tl.cast(piece, tl.int64) * parts + part) * c_out + column) * channels + channel
    tl.store(to, result, mask=some & inside & (channel < channels))


def weight_gradient(read: Reading, links: Links, g: Any, weight_grad: Any) -> None:
    """Fill ``weight_grad (K, C_out, C)`` from the cotangent ``g``, channels last."""
    parts, c_out, channels = weight_grad.shape
    if read.batch * read.frames * read.joints == 0 or weight_grad.numel() == 0:
        weight_grad.zero_()
        return
    wide = channels >= WIDE
    rows, columns = 32, power_of_two(c_out, 16, 64)
    width = power_of_two(channels if wide else parts * channels, 16, 64)
    stretches = parts * blocks_of(channels, width) if wide else blocks_of(parts * channels, width)
    programs = blocks_of(c_out, columns) * stretches
    pieces = blocks_of(read.frames * read.joints, rows)
    tiles = read.batch * pieces
    part_tiles = blocks_of(tiles, row_parts(tiles * rows, programs))
    shares = blocks_of(tiles, part_tiles)
    partial = torch.empty((shares, parts, c_out, channels), dtype=torch.float32, device=g.device)
    launch(
        _weight_gradient,
        (programs, shares),
        *(g, *read.arrays, links.other, links.value, links.count, partial),
        *(*read.numbers, links.rows, parts, c_out, pieces, tiles, part_tiles),
        DIMS=read.dims,
        WIDE=wide,
        PRECISION=precision(read.x),
        ROWS=rows,
        COLUMNS=columns,
        CHANNELS=width,
        maxnreg=MOST_REGISTERS,
    )
    weight_grad.copy_(partial.sum(0))
