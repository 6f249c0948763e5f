"""How the parameters of the convolution modules start."""

from __future__ import annotations

import math

from torch import nn


def reset_convolution(weight: nn.Parameter, bias: nn.Parameter | None, inputs: int) -> None:
    """torch's default for a convolution of ``inputs`` summands: both uniform within ±1/√inputs."""
    bound = 1 / math.sqrt(inputs)
    nn.init.uniform_(weight, -bound, bound)
    if bias is not None:
        nn.init.uniform_(bias, -bound, bound)
