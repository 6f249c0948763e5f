"""Calls of the block's passes to compile ahead of time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from triton_kernels.ahead_of_time import Example, meta
from triton_kernels.examples_graph_conv import arguments

from asma_fast.ops._block_output import BACKWARD as OUTPUT_BACKWARD
from asma_fast.ops._block_output import OP as OUTPUT
from asma_fast.ops.block import GRAPH, INFERENCE, TEMPORAL, TEMPORAL_BACKWARD


def examples() -> Iterator[Example]:
    # Exact float32 and float16 are compiled as temporal_conv and graph_conv, whose kernels these are.
    for dtype, tf32 in ((torch.float32, True), (torch.bfloat16, False)):
        c, sizes = 64, (1, 4, 4, 1, 1)
        x, channel = meta(64, c, 50, 25, dtype=dtype), meta(c, dtype=dtype)
        weight, sums = meta(c, c, 9, dtype=dtype), meta(2, c, dtype=torch.float64)
        yield Example(TEMPORAL, (x, weight, channel, channel, channel, *sizes), 1, tf32)
        forward = (x, weight, channel, channel, channel, *sizes)
        yield Example(TEMPORAL_BACKWARD, (x, sums, x, *forward, [True] * 5), 2, tf32)
        yield Example(INFERENCE, (x, channel, channel, weight, channel, x, *sizes), 1, tf32)
    yield Example(GRAPH, tuple(arguments(torch.bfloat16, 3, 64, view=True)), 1)
    seed, ids = meta(dtype=torch.int64), meta(64, dtype=torch.int64)
    for dtype, c in ((torch.float32, 64), (torch.bfloat16, 20)):
        x, channel = meta(64, c, 50, 25, dtype=dtype), meta(c, dtype=dtype)
        yield Example(OUTPUT, (x, channel, channel, x, channel, channel, seed, ids, 0.5, 3))
        yield Example(OUTPUT_BACKWARD, (x, x, x, channel, x, channel, seed, ids, 0.5, 3, [True] * 6))
        yield Example(OUTPUT, (x, channel, channel, x, None, None, None, None, 0.0, 3))
