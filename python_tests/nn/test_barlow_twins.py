"""The Barlow Twins loss, in both of its forms, is the definition; and the projector's shape."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from asma_fast.nn import Projector, barlow_twins_loss


def definition(z1: torch.Tensor, z2: torch.Tensor, weight: float) -> torch.Tensor:
    norm = torch.nn.BatchNorm1d(z1.shape[1], affine=False).to(z1.dtype)
    c = norm(z1).T @ norm(z2) / len(z1)
    outside = ~torch.eye(len(c), dtype=torch.bool)
    return (torch.diagonal(c) - 1).square().sum() + weight * c[outside].square().sum()


def pair(n: int, d: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n * 1000 + d)
    z1 = torch.randn(n, d, generator=generator, dtype=torch.float64) * 3 + 1
    z2 = 0.7 * z1 + torch.randn(n, d, generator=generator, dtype=torch.float64)
    return z1.to(dtype).requires_grad_(), z2.to(dtype).requires_grad_()


# On both sides of 2·N = D, where the Gram form begins.
SIZES = [(2, 3), (2, 4), (2, 5), (7, 13), (7, 14), (7, 15), (16, 5), (5, 64), (3, 1)]


@pytest.mark.parametrize(("n", "d"), SIZES)
def test_loss_and_gradients_are_the_definitions(n: int, d: int) -> None:
    ours, theirs = pair(n, d), pair(n, d)
    loss, wanted = barlow_twins_loss(*ours, off_diagonal=0.3), definition(*theirs, 0.3)
    torch.testing.assert_close(loss, wanted, rtol=1e-11, atol=1e-11)
    loss.backward()
    wanted.backward()
    for z, twin in zip(ours, theirs, strict=True):
        torch.testing.assert_close(z.grad, twin.grad, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("n", "d"), [(4, 3), (3, 9)])
def test_gradcheck(n: int, d: int) -> None:
    torch.autograd.gradcheck(lambda a, b: barlow_twins_loss(a, b, 0.3), pair(n, d))


@pytest.mark.parametrize(("n", "d"), [(64, 32), (32, 512)])
def test_float32_is_as_exact_as_the_definition_in_float32(n: int, d: int) -> None:
    exact = definition(*pair(n, d), 0.01)
    plain = definition(*pair(n, d, torch.float32), 0.01)
    ours = barlow_twins_loss(*pair(n, d, torch.float32), 0.01)
    floor = 8 * torch.finfo(torch.float32).eps * exact
    assert abs(ours.double() - exact) <= torch.maximum(2 * abs(plain.double() - exact), floor)


class LargestResult(TorchDispatchMode):
    """The size of the largest tensor that any operation gave, forward or backward."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor):
                self.elements = max(self.elements, value.numel())
        return result


@pytest.mark.parametrize(("n", "d"), [(8, 17), (16, 200), (2, 300)])
def test_no_matrix_of_features_by_features_is_built(n: int, d: int) -> None:
    ours, theirs = pair(n, d), pair(n, d)
    with LargestResult() as ours_seen:
        barlow_twins_loss(*ours).backward()
    with LargestResult() as theirs_seen:
        definition(*theirs, 0.1).backward()
    assert theirs_seen.elements >= d * d
    assert ours_seen.elements <= max(n * d, n * n)


def test_the_loss_of_a_batch_is_the_loss_of_its_gathered_parts() -> None:
    z1, z2 = pair(8, 5)
    gathered = [torch.cat([z[:3], z[3:]]) for z in (z1, z2)]
    assert torch.equal(barlow_twins_loss(*gathered), barlow_twins_loss(z1, z2))


@pytest.mark.parametrize("d", [3, 64])
def test_autocast_and_half_precision_compute_in_float32(d: int) -> None:
    z1, z2 = (z.detach() for z in pair(6, d, torch.bfloat16))
    wanted = barlow_twins_loss(z1.float(), z2.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(barlow_twins_loss(z1, z2), wanted)
        assert torch.equal(barlow_twins_loss(z1.float(), z2.float()), wanted)


def test_constant_features_give_a_finite_loss_and_gradient() -> None:
    z1, z2 = torch.zeros(4, 3, requires_grad=True), torch.ones(4, 3, requires_grad=True)
    loss = barlow_twins_loss(z1, z2)
    loss.backward()
    assert loss.item() == 3.0
    assert torch.isfinite(z1.grad).all()
    assert torch.isfinite(z2.grad).all()


def test_bad_inputs_are_refused() -> None:
    z = torch.zeros(4, 3)
    with pytest.raises(ValueError, match="at least 2 clips to be z-scored over the batch, got 1"):
        barlow_twins_loss(z[:1], z[:1])
    with pytest.raises(ValueError, match=r"z2 must have shape \(N=4, D=3\), got \(4, 2\)"):
        barlow_twins_loss(z, z[:, :2])
    with pytest.raises(ValueError, match=r"z1 must have shape \(N, D\), got \(4,\)"):
        barlow_twins_loss(z[:, 0], z)
    with pytest.raises(TypeError, match="z2 must have the dtype of z1, float32, got float64"):
        barlow_twins_loss(z, z.double())


def test_projector() -> None:
    projector = Projector(256)
    assert sum(p.numel() for p in projector.parameters()) == 256 * 6144 + 2 * 6144**2 + 4 * 6144
    small = Projector(8, width=16)
    assert small(torch.randn(4, 8)).shape == (4, 16)
    assert not any(name.endswith("bias") for name, _ in small.named_parameters() if name.split(".")[0] in "036")
