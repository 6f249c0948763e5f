"""Dropout of the encoder's largest feature map, beside torch's own."""

import pytest
import torch
from rates import note_rate

from asma_fast.ops import dropout

B, C, T, V = 64, 64, 25, 25


@pytest.mark.parametrize("who", ["asma", "eager"])
@pytest.mark.parametrize("direction", ["forward", "forward and backward"])
def test_dropout(benchmark, who, direction):
    benchmark.group = f"dropout 64x(64,25,25): {direction}"
    x = torch.randn(B, C, T, V).to(memory_format=torch.channels_last)
    x.requires_grad_(direction != "forward")
    seed, ids = torch.tensor(1), torch.arange(B // 2)
    forward = {
        "asma": lambda: dropout(x, 0.5, seed=seed, ids=ids),
        "eager": lambda: torch.nn.functional.dropout(x, 0.5),
    }[who]
    cotangent = torch.ones_like(x)

    def both():
        x.grad = None
        forward().backward(cotangent)

    result = forward().detach()
    assert ((result == 0) | (result == 2 * x)).all()
    assert 0.49 < (result == 0).float().mean() < 0.51
    benchmark(forward if direction == "forward" else both)
    note_rate(benchmark, "Gelement/s", x.numel())
