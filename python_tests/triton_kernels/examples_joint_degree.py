"""A call of joint_degree to compile ahead of time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from triton_kernels.ahead_of_time import Example, meta

from asma_fast.ops.joint_degree import OP


def examples() -> Iterator[Example]:
    yield Example(OP, (meta(24, 2, dtype=torch.int64), 25))
