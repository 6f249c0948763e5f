"""Calls of temporal_conv and its gradient to compile ahead of time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from triton_kernels.ahead_of_time import Example, meta

from asma_fast.ops.temporal_conv import BACKWARD, OP

EXACT, TF32, BF16, FP16 = (torch.float32, False), (torch.float32, True), (torch.bfloat16, False), (torch.float16, False)
#: dtype and switch; channels before and after, groups, stride.
CASES = (
    (EXACT, 64, 64, 1, 2),
    (TF32, 64, 256, 1, 1),
    (BF16, 64, 64, 1, 2),
    (FP16, 16, 16, 1, 1),
    (BF16, 3, 64, 1, 1),
    (BF16, 33, 65, 1, 1),
    (EXACT, 64, 64, 64, 1),
)


def examples() -> Iterator[Example]:
    for (dtype, tf32), c_in, c_out, groups, stride in CASES:
        x = meta(64, c_in, 50, 25, dtype=dtype)
        weight, bias = meta(c_out, c_in // groups, 9, dtype=dtype), meta(c_out, dtype=dtype)
        sizes = (stride, 4, 4, 1, groups)
        fast = tf32 or dtype != torch.float32
        yield Example(OP, (x, weight, bias, *sizes), fast and c_in >= 16, tf32)
        g = meta(64, c_out, (50 - 1) // stride + 1, 25, dtype=dtype)
        dots = stride + (c_in >= 16) if fast else 0  # a launch a phase for x, and the weight's
        yield Example(BACKWARD, (g, x, weight, *sizes, True, True, True), dots, tf32)
