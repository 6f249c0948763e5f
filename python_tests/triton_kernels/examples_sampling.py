"""Calls of the samplers to compile ahead of time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from triton_kernels.ahead_of_time import Example, meta

from asma_fast.ops.sampling import FRAMES, JOINTS


def examples() -> Iterator[Example]:
    seed, ids = meta(dtype=torch.int64), meta(128, dtype=torch.int64)
    yield Example(JOINTS, (meta(25, dtype=torch.float64), 8, seed, ids))
    yield Example(JOINTS, (meta(128, 25, dtype=torch.float32), 8, seed, ids))
    for frames in (50, 300):
        yield Example(FRAMES, (meta(128, frames), 10, True, 10, seed, ids))
