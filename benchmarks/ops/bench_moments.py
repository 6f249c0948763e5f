"""Moments of a batch of 128 clips, beside torch's ways to take them."""

import pytest
import torch
from rates import note_rate

from asma_fast.ops import moments

N, C, T, V, M = 128, 3, 50, 25, 2


def _product(x, frames):
    """Gathered, then one matrix product a joint, in float64."""
    x = x.gather(2, frames.long()[:, None, :, None, None].expand(-1, C, -1, V, M))
    rows = x.double().permute(0, 3, 1, 2, 4).flatten(3)
    return rows.sum(-1), rows @ rows.transpose(-1, -2)


WHO = {"asma": moments, "torch": _product, "reference": lambda *args: moments(*args, impl="reference")}


@pytest.mark.parametrize("who", WHO)
def test_moments(benchmark, who):
    benchmark.group = "moments 128x(3,50,25,2), 50 frames kept"
    random = torch.Generator().manual_seed(0)
    x = torch.randn(N, M, T, V, C, generator=random).permute(0, 4, 2, 3, 1)
    frames = torch.randint(T, (N, T), generator=random).sort(dim=1).values.int()
    for result, exact in zip(WHO[who](x, frames), _product(x, frames), strict=True):
        torch.testing.assert_close(result, exact)
    benchmark(WHO[who], x, frames)
    note_rate(benchmark, "GB/s", x.numel() * x.element_size())
