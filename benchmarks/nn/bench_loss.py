"""The Barlow Twins loss, forward and backward, beside the form that builds the D×D cross-correlation."""

import pytest
import torch
from race import ours, rival
from rivals import OURS, barlow_twins_dxd

from asma_fast.nn import barlow_twins_loss

RIVAL = "D×D"
large = pytest.mark.large


@pytest.mark.parametrize(
    ("count", "width", "threads"),
    [pytest.param(32, 2048, 2, marks=large), (128, 6144, 2), pytest.param(128, 2048, 1, marks=large)],
)
@pytest.mark.parametrize("name", [OURS, RIVAL])
def test_loss(race, count, width, threads, name):
    def start():
        first, second = (
            torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).requires_grad_() for seed in (0, 1)
        )

        def call(loss):
            return torch.autograd.grad(loss(first, second), (first, second))

        for found, wanted in zip(call(barlow_twins_loss), call(barlow_twins_dxd), strict=True):
            assert float((found - wanted).norm() / wanted.norm()) < 1e-3
        torch.testing.assert_close(
            barlow_twins_loss(first, second), barlow_twins_dxd(first, second), rtol=1e-4, atol=1e-3
        )
        return {OURS: ours(lambda: call(barlow_twins_loss)), RIVAL: rival(lambda: call(barlow_twins_dxd))}

    group = f"Barlow Twins, N={count}, D={width}, forward + backward, {threads} threads"
    race(name, group, start, threads=threads)  # no GFLOP/s: the two forms do not do the same operations
