"""What the convolution modules share: how their parameters start, and which dtype an op gets to see."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def reset_convolution(weight: nn.Parameter, bias: nn.Parameter | None, inputs: int) -> None:
    """torch's default for a convolution of ``inputs`` summands: both uniform within ±1/√inputs."""
    bound = 1 / math.sqrt(inputs)
    nn.init.uniform_(weight, -bound, bound)
    if bias is not None:
        nn.init.uniform_(bias, -bound, bound)


def in_dtype_of(parameter: Tensor, x: Tensor) -> Tensor:
    """``parameter``, under autocast in the dtype of ``x``; elsewhere a mismatch is left to the op, which refuses it."""
    return parameter.to(x.dtype) if torch.is_autocast_enabled(x.device.type) else parameter
