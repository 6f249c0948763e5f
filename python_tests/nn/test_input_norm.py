"""The folded input batch-norm is torch's batch-norm of the materialised view, all joints in it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from asma_fast import Skeleton, View, ops
from asma_fast.nn import InputNorm

SKELETON = Skeleton(edges=((0, 1), (1, 2), (1, 3), (3, 4)), pairs=((2, 3),))
N, C, T, V, M = 3, 4, 7, 5, 2


def clips(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(N, C, T, V, M, generator=generator, dtype=torch.float64).mul(3).add(1.5).to(dtype)


def int_rows(rows: list[list[int]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.int32)


def transform(dims: int, rows: int = N) -> torch.Tensor:
    return torch.randn(rows, dims, dims, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


FLIP = [0, 1, 3, 2, 4]
FRAMES = int_rows([[0, 1, 1, 6], [2, 3, 4, 5], [6, 0, 6, 6]])
# What each node of each clip reads when nothing is removed, and the view as it is given.
CASES = {
    "none": (None, None),
    "frames": (None, View(frames=FRAMES)),
    "removed": ([[0, 1, 2, 3, 4]], View(joints=int_rows([[0, 2, 4]]))),
    "flipped": ([FLIP], View(joints=int_rows([FLIP]), nodes=int_rows([[0, 1, 2, 3, 4]]))),
    "flipped, joints in order": ([FLIP], View(nodes=int_rows([FLIP]))),
    "one clip flipped, removed": (
        [[0, 1, 2, 3, 4], FLIP, [0, 1, 2, 3, 4]],
        View(joints=int_rows([[0, 1, 2], [0, 1, 3], [0, 1, 2]]), nodes=int_rows([[0, 1, 2]] * 3)),
    ),
    "other sources": ([[0, 1, 4, 4, 4]], View(joints=int_rows([[4, 4]]), nodes=int_rows([[2, 3]]))),
    "2×2": (None, View(transform=transform(2))),
    "3×3 for all": (None, View(transform=transform(3, 1))),
    "all": (
        [FLIP, [0, 1, 2, 3, 4], FLIP],
        View(
            frames=FRAMES,
            joints=int_rows([[3, 4], [2, 4], [3, 4]]),
            nodes=int_rows([[2, 4], [2, 4], [2, 4]]),
            transform=transform(3),
        ),
    ),
}


def materialised(clip: torch.Tensor, case: str) -> torch.Tensor:
    sources, view = CASES[case]
    if view is None:
        return clip
    joints = None if sources is None else int_rows(sources)
    return ops.gather_view(clip, View(view.frames, joints, None, view.transform), impl="reference")


def as_torch(norm: InputNorm) -> nn.BatchNorm1d:
    """torch's batch-norm over V·C features in the same state."""
    twin = nn.BatchNorm1d(V * C, eps=norm.eps, momentum=norm.momentum).double().train(norm.training)
    twin.load_state_dict(
        {name: value.reshape(twin.state_dict()[name].shape) for name, value in norm.state_dict().items()}
    )
    return twin


def randomised() -> InputNorm:
    norm = InputNorm(SKELETON, C).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return norm


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", CASES)
def test_it_is_torchs_batch_norm_of_the_view(case: str, training: bool) -> None:
    norm = randomised().train(training)
    twin = as_torch(norm)
    clip = clips().requires_grad_()
    copy = clip.detach().clone().requires_grad_()
    for _ in range(2):  # the second step starts from updated running statistics
        scale, shift = norm(clip, CASES[case][1])
        read, read_twin = materialised(clip, case), materialised(copy, case)
        got = read * scale.T[:, None, :, None] + shift.T[:, None, :, None]
        frames = read.shape[2]
        wanted = twin(read_twin.permute(0, 4, 3, 1, 2).reshape(N * M, V * C, frames))
        wanted = wanted.view(N, M, V, C, frames).permute(0, 3, 4, 2, 1)
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)
        cotangent = torch.randn(got.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        (got * cotangent).sum().backward()
        (wanted * cotangent).sum().backward()
    torch.testing.assert_close(clip.grad, copy.grad, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(norm.weight.grad.reshape(-1), twin.weight.grad)
    torch.testing.assert_close(norm.bias.grad.reshape(-1), twin.bias.grad)
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(norm.state_dict()[name].reshape(value.shape), value)


def test_gradients_through_the_batch_statistics() -> None:
    norm = randomised()
    view = CASES["all"][1]
    clip = clips()[:, :, :, :, :1].requires_grad_()
    torch.autograd.gradcheck(
        lambda x, w, b: torch.func.functional_call(norm, {"weight": w, "bias": b}, (x, view)),
        (clip, norm.weight, norm.bias),
    )


def test_statistics_of_coordinates_far_from_the_origin_stay_exact() -> None:
    clip = clips(torch.float32) + 300
    norm = InputNorm(SKELETON, C)
    norm(clip)
    exact = clip.double().permute(0, 2, 4, 3, 1).reshape(-1, V, C)
    torch.testing.assert_close(norm.running_var, (0.9 + 0.1 * exact.var(0)).float(), rtol=1e-6, atol=0)


def test_a_removed_joint_counts_in_training_and_not_in_eval() -> None:
    view = View(joints=int_rows([[0, 2, 4]]))
    moved = clips()
    moved[:, :, :, 1] += 100
    for training in (True, False):
        first, second = (randomised().train(training)(x, view)[1] for x in (clips(), moved))
        assert torch.equal(first[1], second[1]) is not training
        assert torch.equal(first[[0, 2, 3, 4]], second[[0, 2, 3, 4]])


def test_numpy_views_serve() -> None:
    view = CASES["one clip flipped, removed"][1]
    twin = View(joints=view.joints.numpy(), nodes=view.nodes.numpy())
    for ours, wanted in zip(randomised()(clips(), twin), randomised()(clips(), view), strict=True):
        assert torch.equal(ours, wanted)


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (View(frames=int_rows([[0, 7]])), r"view.frames must lie in \[0, 7\), got 7 at \(0, 1\)"),
        (View(joints=int_rows([[-1, 2]])), r"view.joints must lie in \[0, 5\), got -1 to 2"),
        (View(joints=int_rows([[1]]), nodes=int_rows([[5]])), r"view.nodes must lie in \[0, 5\), got 5 to 5"),
        (View(nodes=int_rows([[1, 2]])), "view.nodes must name the 5 joints of the clip, got 2"),
        (View(frames=int_rows([[0], [1]])), r"view.frames must have shape \(N=3, positions\)"),
    ],
)
def test_views_that_do_not_fit_are_refused(view: View, message: str) -> None:
    norm = randomised()
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        norm(clips(), view)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


def test_clips_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"clip must have shape \(N, C=4, T, V=5, M\), got \(3, 4, 7, 4, 2\)"):
        randomised()(clips()[:, :, :, :4])
    with pytest.raises(ValueError, match="at least 2 values of each joint in training mode, got 1"):
        randomised()(clips()[:1, :, :1, :, :1])
