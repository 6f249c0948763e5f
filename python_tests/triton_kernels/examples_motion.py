"""Calls of the motion scores to compile ahead of time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from triton_kernels.ahead_of_time import Example, meta

from asma_fast.ops.motion import BOTH


def examples() -> Iterator[Example]:
    maps = meta(128, 50, dtype=torch.int32), meta(128, 25, dtype=torch.int32)
    for dtype, view in (
        (torch.float32, (*maps, meta(128, 3, 3))),
        (torch.float32, (*maps, meta(1, 2, 2))),
        (torch.float16, (None, None, None)),
        (torch.bfloat16, (*maps, None)),
    ):
        yield Example(BOTH, (meta(128, 3, 50, 25, 2, dtype=dtype), *view, True))
