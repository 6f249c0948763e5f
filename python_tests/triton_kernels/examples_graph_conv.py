"""Calls of graph_conv and its gradient to compile ahead of time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from triton_kernels.ahead_of_time import Example, meta

from asma_fast.ops.graph_conv import BACKWARD, DIFFERENTIABLE, OP

EXACT, TF32, BF16, FP16 = (torch.float32, False), (torch.float32, True), (torch.bfloat16, False), (torch.float16, False)
#: dtype and switch; channels before and after; whether a clip is read through a view.
CASES = (
    (EXACT, 3, 64, True),
    (TF32, 64, 64, False),
    (BF16, 3, 64, True),
    (FP16, 16, 16, False),
)


def arguments(dtype: torch.dtype, c_in: int, c_out: int, view: bool) -> list[Any]:
    """The canonical arguments: of a clip with everything that a view has, or of a map with a graph a row."""
    graph, parts = 25, 3
    affine = [meta(graph, c_in, dtype=dtype)] * 2
    weight, bias = meta(parts, c_out, c_in, dtype=dtype), meta(parts, c_out, dtype=dtype)
    if not view:
        adjacency = meta(64, parts, graph, graph, dtype=dtype)
        return [meta(64, c_in, 50, graph, dtype=dtype), weight, adjacency, bias, *[None] * 6, None]
    maps = [meta(64, 30, dtype=torch.int32), *[meta(64, 17, dtype=torch.int32)] * 2, meta(64, 3, 3)]
    adjacency, pattern = meta(parts, graph, graph, dtype=dtype), meta(parts, graph, graph, dtype=torch.bool)
    return [meta(64, c_in, 50, graph, 2, dtype=dtype), weight, adjacency, bias, *maps, *affine, pattern]


def examples() -> Iterator[Example]:
    for (dtype, tf32), c_in, c_out, view in CASES:
        args = arguments(dtype, c_in, c_out, view)
        fast = tf32 or dtype != torch.float32
        yield Example(OP, tuple(args), int(fast), tf32)
        needs = [args[place] is not None for place in DIFFERENTIABLE]
        g = meta(128 if view else 64, c_out, 30 if view else 50, 17 if view else 25, dtype=dtype)
        yield Example(BACKWARD, (g, *args, needs), 3 if fast else 0, tf32)
