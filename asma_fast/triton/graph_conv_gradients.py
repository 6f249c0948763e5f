"""The gradients of a graph convolution's adjacency, bias, scale and shift.

All are sums over rows: each share of the rows fills numbers of its own, and these are added in their order.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from asma_fast.triton._launch import blocks_of, launch
from asma_fast.triton._tiles import MOST_REGISTERS, dot, exact, map_rows, power_of_two, precision
from asma_fast.triton._views import read_frames
from asma_fast.triton.graph_conv_links import Links
from asma_fast.triton.graph_conv_rows import Reading, read_places
from asma_fast.triton.temporal_conv_backward import row_parts

# ---- bias: Σ over rows of the cotangent times the sum of the links that carry it ----


@triton.jit
def _bias_gradient(
    g, count, total, partial, rows, per_map, v_count, shared_links, parts, c_out, part_tiles,
    PARTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    some, lane = column < c_out, tl.arange(0, PARTS)[:, None]
    result = tl.zeros((PARTS, COLUMNS), tl.float32)
    share = tl.program_id(1)
    for tile in range(share * part_tiles, min((share + 1) * part_tiles, tl.cdiv(rows, ROWS))):
        row, batch, place = map_rows(tile, per_map, ROWS)
        at = g + row.to(tl.int64)[:, None] * c_out + column[None, :]
        seen = tl.load(at, mask=(row < rows)[:, None] & some[None, :], other=0.0).to(tl.float32)
        links = batch // shared_links * parts * v_count + place % v_count
        for k in range(parts):
            alive = tl.load(count + links + k * v_count, mask=row < rows, other=0) > 0
            carried = tl.load(total + links + k * v_count, mask=row < rows, other=0.0)
            added = tl.sum(tl.where(alive[:, None], seen * carried[:, None], 0.0), axis=0)
            result += tl.where(lane == k, added[None, :], 0.0)
    to = partial + (share * parts + lane) * c_out + column[None, :]
    tl.store(to, result, mask=(lane < parts) & some[None, :])


def bias_gradient(read: Reading, links: Links, g: Any, bias_grad: Any) -> None:
    """Fill ``bias_grad (K, C_out)`` from the cotangent ``g``, channels last."""
    parts, c_out = bias_grad.shape
    rows = read.batch * read.frames * read.joints
    if rows == 0 or bias_grad.numel() == 0:
        bias_grad.zero_()
        return
    columns, high = power_of_two(c_out, 16, 64), 64
    tiles = blocks_of(rows, high)
    part_tiles = blocks_of(tiles, row_parts(rows, blocks_of(c_out, columns)))
    shares = blocks_of(tiles, part_tiles)
    partial = torch.empty((shares, parts, c_out), dtype=torch.float32, device=g.device)
    launch(
        _bias_gradient,
        (blocks_of(c_out, columns), shares),
        *(g, links.count, links.total, partial, rows, read.frames * read.joints, read.joints, links.rows, parts),
        *(c_out, part_tiles),
        PARTS=power_of_two(parts, 1, 1 << 20),
        ROWS=high,
        COLUMNS=columns,
    )
    bias_grad.copy_(partial.sum(0))


# ---- adjacency: of each list of nodes all pairs of joints, then by node ----


@triton.jit
def _pair_sums(
    g, weight, bias, x, frames, joints, transform, nodes, scale, shift, partial,
    channels, t_count, v_count, bodies, x_frames, x_joints, of_clip, of_channel, of_frame, of_joint, of_body,
    of_frames, of_joints, of_transform, shared_nodes, shared_links, parts, c_out, shares, share_blocks,
    DIMS: tl.constexpr, PRECISION: tl.constexpr,
    FRAMES: tl.constexpr, JOINTS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(v_count, JOINTS)
    number = tl.program_id(0)
    to_block, number = number % blocks, number // blocks
    from_block, number = number % blocks, number // blocks
    k, number = number % parts, number // parts
    share, each = number % shares, tl.cast(number // shares, tl.int64)
    weight += tl.cast(k, tl.int64) * c_out * channels
    # of the cotangent: rows (frame, target); of x̂: rows source, columns (frame, channel)
    lane = tl.arange(0, FRAMES * JOINTS)
    target, turn = to_block * JOINTS + lane % JOINTS, lane // JOINTS
    source = (from_block * JOINTS + tl.arange(0, JOINTS))[:, None]
    place = tl.arange(0, FRAMES * CHANNELS)[None, :]
    all_frames = shared_links * t_count
    pairs, biased = tl.zeros((JOINTS, JOINTS), tl.float32), tl.zeros((JOINTS,), tl.float32)
    for block in range(share * share_blocks, min((share + 1) * share_blocks, tl.cdiv(all_frames, FRAMES))):
        at = block * FRAMES + turn
        seen = (at < all_frames) & (target < v_count)
        row = ((each * shared_links + at // t_count) * t_count + at % t_count) * v_count + target
        of_x = block * FRAMES + place // CHANNELS
        batch, t = each * shared_links + of_x // t_count, of_x % t_count
        clip = batch // bodies
        frame = read_frames(frames, clip * of_frames, t, of_x < all_frames, x_frames)
        start = x + clip * of_clip + (batch - clip * bodies) * of_body + frame * of_frame
        for first in range(0, channels, CHANNELS):
            inner = first + tl.arange(0, CHANNELS)
            spread = tl.zeros((FRAMES * JOINTS, CHANNELS), tl.float32)
            for begin in range(0, c_out, COLUMNS):
                column = begin + tl.arange(0, COLUMNS)
                keep = seen[:, None] & (column < c_out)[None, :]
                cotangent = tl.load(g + row[:, None] * c_out + column[None, :], mask=keep, other=0.0)
                some = (column < c_out)[:, None] & (inner < channels)[None, :]
                factor = tl.load(weight + column[:, None] * channels + inner[None, :], mask=some, other=0.0)
                spread = dot(cotangent, factor, spread, PRECISION)
                if bias is not None and first == 0:
                    added = tl.load(bias + k * c_out + column, mask=column < c_out, other=0.0).to(tl.float32)
                    products = tl.sum(cotangent.to(tl.float32) * added[None, :], axis=1)
                    biased += tl.sum(tl.reshape(products, (FRAMES, JOINTS)), axis=0)
            channel = first + place % CHANNELS
            keep = (of_x < all_frames) & (channel < channels) & (source < v_count)
            read = read_places(
                start, source, channel, keep,
                None if joints is None else joints + clip * of_joints,
                None if transform is None else transform + clip * of_transform,
                None if nodes is None else nodes + batch // shared_nodes * v_count,
                scale, shift, of_channel, of_joint, channels, x_joints, DIMS,
            )  # fmt: skip
            spread = tl.permute(tl.reshape(spread, (FRAMES, JOINTS, CHANNELS)), (0, 2, 1))
            spread = tl.reshape(spread, (FRAMES * CHANNELS, JOINTS)).to(g.dtype.element_ty)
            pairs = dot(read.to(g.dtype.element_ty), spread, pairs, PRECISION)
    end = to_block * JOINTS + tl.arange(0, JOINTS)
    matrix = ((each * shares + share) * parts + k) * v_count
    to = partial + (matrix + source) * v_count + end[None, :]
    tl.store(to, pairs + biased[None, :], mask=(source < v_count) & (end < v_count)[None, :])


@triton.jit
def _by_node(
    pairs, nodes, summed, lists, shared_nodes, parts, v_count, graph, per_share,
    JOINTS: tl.constexpr, GRAPH: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(graph, GRAPH)
    to_node = tl.program_id(0) % blocks * GRAPH + tl.arange(0, GRAPH)
    from_node, k = tl.program_id(0) // blocks % graph, tl.program_id(0) // blocks // graph
    result = tl.zeros((GRAPH,), tl.float32)
    share = tl.program_id(1)
    for each in range(share * per_share, min((share + 1) * per_share, lists)):
        node = nodes + tl.cast(each // shared_nodes, tl.int64) * v_count
        matrix = pairs + (tl.cast(each, tl.int64) * parts + k) * v_count * v_count
        for first in range(0, v_count, JOINTS):
            target = first + tl.arange(0, JOINTS)
            there = target < v_count
            row = tl.zeros((JOINTS,), tl.float32)
            for start in range(0, v_count, JOINTS):
                source = start + tl.arange(0, JOINTS)
                plays = tl.load(node + source, mask=source < v_count, other=-1) == from_node
                keep = plays[:, None] & there[None, :]
                pair = matrix + source[:, None] * v_count + target[None, :]
                row += tl.sum(tl.load(pair, mask=keep, other=0.0), axis=0)
            plays = tl.load(node + target, mask=there, other=-1)[:, None] == to_node[None, :]
            result += tl.sum(tl.where(plays, row[:, None], 0.0), axis=0)
    to = summed + ((tl.cast(share, tl.int64) * parts + k) * graph + from_node) * graph + to_node
    tl.store(to, result, mask=to_node < graph)


def adjacency_gradient(
    read: Reading, links: Links, g: Any, weight: Any, bias: Any, pattern: Any, adjacency_grad: Any
) -> None:
    """Fill ``adjacency_grad``, exactly zero outside ``pattern``, from the cotangent ``g``, channels last."""
    parts, c_out, _ = weight.shape
    lists = links.count.shape[0]
    if read.batch * read.frames * read.joints == 0 or adjacency_grad.numel() == 0:
        adjacency_grad.zero_()
        return
    joints = power_of_two(read.joints, 16, 32)
    blocks = blocks_of(read.joints, joints) ** 2 * parts
    frames = 64 // joints
    groups = blocks_of(links.rows * read.frames, frames)
    share_blocks = blocks_of(groups, row_parts(links.rows * read.frames * read.joints, blocks * lists))
    shares = blocks_of(groups, share_blocks)
    partial = torch.empty((lists, shares, parts, read.joints, read.joints), dtype=torch.float32, device=g.device)
    launch(
        _pair_sums,
        lists * shares * blocks,
        *(g, weight, bias, *read.arrays, partial),
        *(*read.numbers, links.rows, parts, c_out, shares, share_blocks),
        DIMS=read.dims,
        PRECISION=precision(g),
        FRAMES=frames,
        JOINTS=joints,
        COLUMNS=power_of_two(c_out, 16, 32),
        CHANNELS=16,
        num_warps=8,
        num_stages=1 if exact(g) else 3,
        maxnreg=MOST_REGISTERS,
    )
    pairs = partial[:, 0] if shares == 1 else partial.sum(1)
    nodes = read.arrays[4]
    if nodes is not None:
        pairs = _sum_by_node(pairs.contiguous(), nodes, adjacency_grad)
    adjacency_grad.copy_(pairs if adjacency_grad.ndim == 4 else pairs.sum(0))
    if pattern is not None:
        adjacency_grad.masked_fill_(~pattern, 0)


def _sum_by_node(pairs: Any, nodes: Any, adjacency_grad: Any) -> Any:
    """The sums of pairs of joints as sums of pairs of nodes, of each list or, where they share a graph, some lists."""
    lists, parts, joints, _ = pairs.shape
    graph = adjacency_grad.shape[-1]
    per_share = 1 if adjacency_grad.ndim == 4 else max(blocks_of(lists, 16), 8)
    shares = blocks_of(lists, per_share)
    summed = torch.empty((shares, parts, graph, graph), dtype=torch.float32, device=pairs.device)
    wide = power_of_two(graph, 16, 64)
    launch(
        _by_node,
        (parts * graph * blocks_of(graph, wide), shares),
        *(pairs, nodes, summed, lists, lists // nodes.shape[0], parts, joints, graph, per_share),
        JOINTS=power_of_two(joints, 16, 32),
        GRAPH=wide,
    )
    return summed


# ---- scale and shift: of each joint of a row sums over its frames, then by node ----


@triton.jit
def _through_affine(
    spread, x_grad, partial, x, frames, joints, transform, nodes, scale, shift,
    channels, t_count, v_count, bodies, x_frames, x_joints, of_clip, of_channel, of_frame, of_joint, of_body,
    of_frames, of_joints, of_transform, shared_nodes,
    DIMS: tl.constexpr, FRAMES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    chunks = tl.cdiv(channels, CHANNELS)
    channel = (tl.program_id(0) % chunks * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    each = (tl.program_id(0) // chunks).to(tl.int64)
    batch, v = each // v_count, (each % v_count).to(tl.int32)
    clip = batch // bodies
    x += clip * of_clip + (batch - clip * bodies) * of_body
    if joints is not None:
        joints += clip * of_joints
    if transform is not None:
        transform += clip * of_transform
    node = v
    if nodes is not None:
        node = tl.load(nodes + batch // shared_nodes * v_count + v)
    factor = tl.load(scale + node * channels + channel, mask=channel < channels, other=0.0).to(tl.float32)
    sums, products = tl.zeros((CHANNELS,), tl.float32), tl.zeros((CHANNELS,), tl.float32)
    for first in range(0, t_count, FRAMES):
        t = (first + tl.arange(0, FRAMES))[:, None]
        keep = (t < t_count) & (channel < channels)
        place = ((batch * t_count + t) * v_count + v) * channels + channel
        value = tl.load(spread + place, mask=keep, other=0.0)
        if x_grad is not None:
            tl.store(x_grad + place, (value * factor).to(x_grad.dtype.element_ty), mask=keep)
        if partial is not None:
            frame = read_frames(frames, clip * of_frames, t, t < t_count, x_frames)
            read = read_places(
                x + frame * of_frame, tl.zeros((1, 1), tl.int32) + v, channel, keep, joints, transform,
                nodes, None, None, of_channel, of_joint, channels, x_joints, DIMS,
            )  # fmt: skip
            sums += tl.sum(value, axis=0)
            products += tl.sum(value * read, axis=0)
    if partial is not None:
        to = partial + each * 2 * channels + channel
        tl.store(to, products[None, :], mask=channel < channels)
        tl.store(to + channels, sums[None, :], mask=channel < channels)


@triton.jit
def _affine_by_node(partial, nodes, summed, places, v_count, shared_nodes, graph, numbers, per_share,
                    PLACES: tl.constexpr, NUMBERS: tl.constexpr):  # fmt: skip
    blocks = tl.cdiv(numbers, NUMBERS)
    node, number = tl.program_id(0) // blocks, tl.program_id(0) % blocks * NUMBERS + tl.arange(0, NUMBERS)
    share = tl.program_id(1)
    result = tl.zeros((NUMBERS,), tl.float32)
    for first in range(share * per_share, min((share + 1) * per_share, places), PLACES):
        place = (first + tl.arange(0, PLACES)).to(tl.int64)
        there = place < min((share + 1) * per_share, places)
        plays = place % v_count
        if nodes is not None:
            plays = tl.load(nodes + place // v_count // shared_nodes * v_count + plays, mask=there, other=-1)
        keep = (there & (plays == node))[:, None] & (number < numbers)[None, :]
        result += tl.sum(tl.load(partial + place[:, None] * numbers + number[None, :], mask=keep, other=0.0), axis=0)
    to = summed + (tl.cast(share, tl.int64) * graph + node) * numbers + number
    tl.store(to, result, mask=number < numbers)


def through_affine(read: Reading, spread: Any, x_grad: Any, scale_grad: Any, shift_grad: Any) -> None:
    """From the gradient ``spread`` of x̂, float32 rows, that of what is scaled and of scale and shift, unless None."""
    if read.batch * read.frames * read.joints * read.channels == 0:
        for grad in (scale_grad, shift_grad):
            if grad is not None:
                grad.zero_()
        return
    places, numbers = read.batch * read.joints, 2 * read.channels
    wanted = scale_grad is not None or shift_grad is not None
    partial = torch.empty((places, numbers), dtype=torch.float32, device=spread.device) if wanted else None
    wide = power_of_two(read.channels, 4, 16)
    launch(
        _through_affine,
        places * blocks_of(read.channels, wide),
        *(spread, x_grad, partial, *read.arrays, *read.numbers),
        DIMS=read.dims,
        FRAMES=32,
        CHANNELS=wide,
        num_warps=1,
    )
    if not wanted:
        return
    graph = read.arrays[5].shape[0]
    per_share = max(blocks_of(places, 16), 128)
    shares = blocks_of(places, per_share)
    summed = torch.empty((shares, graph, numbers), dtype=torch.float32, device=spread.device)
    wide = power_of_two(numbers, 8, 64)
    launch(
        _affine_by_node,
        (graph * blocks_of(numbers, wide), shares),
        *(partial, read.arrays[4], summed, places, read.joints, read.numbers[-1], graph, numbers, per_share),
        PLACES=128,
        NUMBERS=wide,
    )
    result = summed.sum(0).reshape(graph, 2, read.channels)
    for grad, part in ((scale_grad, 0), (shift_grad, 1)):
        if grad is not None:
            grad.copy_(result[:, part])
