"""Calls of gather_view to compile ahead of time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from triton_kernels.ahead_of_time import Example, meta

from asma_fast.ops.gather_view import BACKWARD, OP


def examples() -> Iterator[Example]:
    maps = meta(128, 30, dtype=torch.int32), meta(128, 17, dtype=torch.int32)
    for dtype, view in (
        (torch.float32, (*maps, meta(128, 3, 3))),
        (torch.float32, (*maps, meta(1, 2, 2))),
        (torch.float16, (None, None, None)),
        (torch.bfloat16, (*maps, None)),
    ):
        yield Example(OP, (meta(128, 3, 50, 25, 2, dtype=dtype), *view))
        frames, joints = (50, 25) if view[0] is None else (30, 17)
        yield Example(BACKWARD, (meta(128, 3, frames, joints, 2, dtype=dtype), *view, 50, 25))
