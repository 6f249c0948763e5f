"""Calls of gather_view to compile ahead of time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from triton_kernels.ahead_of_time import Example, meta

from asma_fast.ops.gather_view import OP


def examples() -> Iterator[Example]:
    maps = meta(128, 30, dtype=torch.int32), meta(128, 17, dtype=torch.int32)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        x = meta(128, 3, 50, 25, 2, dtype=dtype)
        for view in ((None, None, None), (*maps, meta(128, 3, 3)), (*maps, meta(1, 2, 2))):
            yield Example(OP, (x, *view))
