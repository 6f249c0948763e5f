"""The same on a real device, where there is one and the kernels were built."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from cuda_kernels import test_emulated_convolutions as convolutions
from ops.contract import pairwise

from asma_fast import View, backends, ops

graph_conv, temporal_conv = (import_module(f"asma_fast.ops.{stem}") for stem in ("graph_conv", "temporal_conv"))
pytestmark = pytest.mark.gpu
SIZES = pairwise(N=(1, 5), C=(1, 3, 5), T=(1, 2, 50, 300), V=(1, 17, 25, 33), M=(1, 2))


@pytest.fixture(autouse=True)
def device() -> None:
    reason = backends()["cuda"]
    if reason is not None:
        pytest.skip(f"not run: {reason}")


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_masks_and_views_are_the_cpus(sizes: dict[str, int]) -> None:
    rng, (n, c, t, v, m) = np.random.default_rng(0), (sizes[axis] for axis in "NCTVM")
    x = torch.from_numpy(rng.normal(size=(n, m, t, v, c)).astype(np.float32)).permute(0, 4, 2, 3, 1)
    ids, seed = torch.arange(n), torch.tensor(5)
    scores, weights = ops.frame_motion(x), torch.rand(v, dtype=torch.float64) + 0.01
    assert torch.equal(ops.frame_motion(x.cuda(), impl="cuda").cpu(), scores)
    assert torch.equal(ops.joint_motion(x.cuda(), impl="cuda").cpu(), ops.joint_motion(x))
    frames = ops.sample_frames(scores, t // 3, random_drop=t // 4, seed=seed, ids=ids)
    joints = ops.sample_joints(weights, v // 3, seed=seed, ids=ids)
    on_device = (value.cuda() for value in (scores, seed, ids, weights))
    scores, seed, ids, weights = on_device
    found = ops.sample_frames(scores, t // 3, random_drop=t // 4, seed=seed, ids=ids, impl="cuda")
    assert torch.equal(found.cpu(), frames)
    assert torch.equal(ops.sample_joints(weights, v // 3, seed=seed, ids=ids, impl="cuda").cpu(), joints)
    view, viewed = View(frames=frames, joints=joints), View(frames=frames.cuda(), joints=joints.cuda())
    there = x.cuda().requires_grad_()
    here = x.clone().requires_grad_()
    out, wanted = ops.gather_view(there, viewed, impl="cuda"), ops.gather_view(here, view)
    assert torch.equal(out.cpu(), wanted)
    wanted.square().sum().backward()
    out.square().sum().backward()
    torch.testing.assert_close(there.grad.cpu(), here.grad)


@pytest.mark.parametrize("kind", convolutions.KINDS)
@pytest.mark.parametrize("shape", convolutions.GRAPHS + convolutions.WIDE, ids=str)
def test_graph_convolutions(shape: dict[str, Any], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", kind == "tf32")
    op, backward, places = graph_conv.OP, convolutions.graph_backward, graph_conv.DIFFERENTIABLE
    convolutions.check(op, backward, convolutions.graph_case(shape), places, kind, "cuda")


@pytest.mark.parametrize("kind", convolutions.KINDS)
@pytest.mark.parametrize("shape", convolutions.TEMPORAL + convolutions.GROUPED + convolutions.FAR, ids=str)
def test_temporal_convolutions(shape: dict[str, Any], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", kind == "tf32")
    args = convolutions.temporal_case(shape)
    convolutions.check(temporal_conv.OP, convolutions.temporal_backward, args, (0, 1, 2), kind, "cuda")


def test_training_goes_through_them() -> None:
    x = torch.randn(8, 16, 30, 17, device="cuda", requires_grad=True)
    weight, adjacency = torch.randn(3, 32, 16, device="cuda"), torch.rand(3, 17, 17, device="cuda")
    taps = torch.randn(32, 32, 9, device="cuda")
    results = []
    for impl in ("cuda", "reference"):
        y = ops.temporal_conv(ops.graph_conv(x, weight, adjacency, impl=impl), taps, impl=impl)
        results.append((y, *torch.autograd.grad(y.square().sum(), [x])))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * other.abs().max().item())


def test_a_graph_captures_them() -> None:
    x = torch.randn(4, 3, 50, 25, 2, device="cuda")
    graph = torch.cuda.CUDAGraph()
    ops.frame_motion(x, impl="cuda")
    with torch.cuda.graph(graph):
        scores = ops.frame_motion(x, impl="cuda")
    x.normal_()
    graph.replay()
    assert torch.equal(scores, ops.frame_motion(x, impl="cuda"))
