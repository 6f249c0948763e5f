"""The Barlow Twins loss, forward and backward, beside the D×D correlation matrix written plainly."""

import pytest
import torch

from asma_fast.nn import barlow_twins_loss


def _plain(z1, z2, weight=2e-4):
    """As PSTL writes it: both batch-normalised, their D×D correlation, its diagonal and the rest."""
    norm = torch.nn.BatchNorm1d(z1.shape[1], affine=False)
    correlation = norm(z1).T @ norm(z2) / len(z1)
    diagonal = torch.diagonal(correlation)
    rest = correlation.flatten()[:-1].view(len(correlation) - 1, -1)[:, 1:]
    return (diagonal - 1).square().sum() + weight * rest.square().sum()


@pytest.mark.parametrize("who", ["asma", "D×D"])
@pytest.mark.parametrize(("n", "d"), [(32, 2048), (128, 2048), (128, 6144)])
def test_forward_and_backward(benchmark, n, d, who):
    benchmark.group = f"barlow_twins forward+backward {n}x{d}"
    random = torch.Generator().manual_seed(0)
    z1 = torch.randn(n, d, generator=random)
    z2 = (0.7 * z1 + torch.randn(n, d, generator=random)).requires_grad_()
    z1.requires_grad_()
    loss = {"asma": barlow_twins_loss, "D×D": _plain}

    def step(who=who):
        z1.grad = z2.grad = None
        value = loss[who](z1, z2)
        value.backward()
        return value.detach(), z1.grad, z2.grad

    for ours, theirs in zip(step("asma"), step("D×D"), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)
    benchmark(step)
    benchmark.extra_info["threads"] = torch.get_num_threads()
