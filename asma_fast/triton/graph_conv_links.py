"""What joins the joints of a graph convolution: of each target and part the entries of the adjacency that are not zero.

The lists are made on the device, once a call, from the adjacency and the nodes that the joints play: kernels then visit
what carries something and nothing else, be that few entries or all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from asma_fast.triton._launch import blocks_of, launch
from asma_fast.triton._tiles import power_of_two


@dataclass(frozen=True)
class Links:
    """Lists of links, one for each group of rows that share adjacency and nodes.

    Parameters
    ----------
    other, value
        ``(lists, K, V, V)`` int32 and float32: link d of part k to joint w comes from joint ``other[l, k, d, w]``.
    count, total
        ``(lists, K, V)`` int32 and float32: how many links there are, and the sum of their values.
    rows
        Rows of the batch that share a list.
    """

    other: Any
    value: Any
    count: Any
    total: Any
    rows: int


@triton.jit
def _list(
    adjacency, nodes, other, value, count, total,
    parts, joints, graph, of_row, of_part, of_source, of_target, of_nodes, shared_nodes, BLOCK: tl.constexpr,
):  # fmt: skip
    pieces = tl.cdiv(joints, BLOCK)
    each = tl.program_id(0) // pieces
    row, part = (each // parts).to(tl.int64), each % parts
    target = tl.program_id(0) % pieces * BLOCK + tl.arange(0, BLOCK)
    there = target < joints
    to_node = target
    if nodes is not None:
        from_nodes = nodes + row // shared_nodes * of_nodes
        to_node = tl.load(from_nodes + target, mask=there, other=0)
        tl.device_assert((to_node >= 0) & (to_node < graph), "nodes must lie within the adjacency")
    matrix = adjacency + row * of_row + part.to(tl.int64) * of_part + to_node.to(tl.int64) * of_target
    found, carried = tl.zeros((BLOCK,), tl.int32), tl.zeros((BLOCK,), tl.float32)
    start = each.to(tl.int64) * joints * joints + target
    for source in range(joints):
        node = source
        if nodes is not None:
            node = tl.load(from_nodes + source)
        entry = tl.load(matrix + tl.cast(node, tl.int64) * of_source, mask=there, other=0.0).to(tl.float32)
        some = there & (entry != 0)
        tl.store(other + start + found * joints, tl.cast(source, tl.int32), mask=some)
        tl.store(value + start + found * joints, entry, mask=some)
        found += some.to(tl.int32)
        carried += entry
    tl.store(count + each.to(tl.int64) * joints + target, found, mask=there)
    tl.store(total + each.to(tl.int64) * joints + target, carried, mask=there)


@triton.jit
def _check_pattern(adjacency, pattern, entries, size, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    entry = tl.load(adjacency + place, mask=place < entries, other=0.0)
    inside = tl.load(pattern + place % size, mask=place < entries, other=1)
    tl.device_assert((entry == 0) | (inside != 0), "adjacency must be zero outside pattern")


def check_pattern(adjacency: Any, pattern: Any) -> None:
    """Stop the kernel, on the device, where an entry outside ``pattern`` is not zero."""
    if pattern is not None and adjacency.numel():
        as_bytes = pattern.contiguous().view(torch.uint8)
        grid = blocks_of(adjacency.numel(), 1024)
        launch(_check_pattern, grid, adjacency.contiguous(), as_bytes, adjacency.numel(), pattern.numel(), BLOCK=1024)


def links_of(adjacency: Any, nodes: Any, batch: int, joints: int, *, transposed: bool = False) -> Links:
    """The links of the joints of ``batch`` rows; transposed, from each joint to those that it reaches.

    ``nodes`` is ``(rows, joints)``, dense, or None.
    """
    parts, graph = adjacency.shape[-3], adjacency.shape[-1]
    if parts * joints * joints >= 2**31:
        raise ValueError(f"K·V'² must be below 2³¹, got K={parts} and V'={joints}")
    by_row = adjacency.ndim == 4
    lists = batch if by_row else 1 if nodes is None else nodes.shape[0]
    strides = adjacency.stride() if by_row else (0, *adjacency.stride())
    if transposed:
        strides = (*strides[:2], strides[3], strides[2])
    shape = (lists, parts, joints, joints)
    other = torch.empty(shape, dtype=torch.int32, device=adjacency.device)
    value = torch.empty(shape, dtype=torch.float32, device=adjacency.device)
    count = torch.empty(shape[:3], dtype=torch.int32, device=adjacency.device)
    total = torch.empty(shape[:3], dtype=torch.float32, device=adjacency.device)
    block = power_of_two(joints, 16, 128)
    launch(
        _list,
        lists * parts * blocks_of(joints, block),
        *(adjacency, nodes, other, value, count, total, parts, joints, graph, *strides),
        *(joints, 1 if nodes is None else max(lists // max(nodes.shape[0], 1), 1)),
        BLOCK=block,
        num_warps=1,
    )
    return Links(other, value, count, total, batch // lists if lists else 1)
