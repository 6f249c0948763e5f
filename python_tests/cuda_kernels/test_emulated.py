"""The CUDA kernels against the CPU's and the reference, on an emulated device."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from ops.contract import pairwise, variants

from asma_fast import View, ops

joint_degree, motion, sampling, gather_view = (
    import_module(f"asma_fast.ops.{stem}") for stem in ("joint_degree", "motion", "sampling", "gather_view")
)
SIZES = pairwise(N=(1, 3), C=(1, 2, 3, 5), T=(1, 2, 7, 50), V=(1, 3, 17, 25, 33), M=(1, 2))
#: And the channels that each needs.
KINDS = {"whole": 1, "frames": 1, "joints": 1, "turned": 3, "turned in a plane": 2, "all": 3}
CASES = [(sizes, kind) for sizes in SIZES for kind, least in KINDS.items() if sizes["C"] >= least]


def clip(sizes: dict[str, int], seed: int = 0) -> np.ndarray:
    shape = [sizes[axis] for axis in "NMTVC"]
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32).transpose(0, 4, 2, 3, 1)


def view_of(kind: str, x: np.ndarray, seed: int = 1) -> tuple[Any, ...]:
    """frames, joints and transform."""
    rng, (n, _, t, v, _) = np.random.default_rng(seed), x.shape
    frames = rng.integers(0, t, (n, max(1, 2 * t // 3))).astype(np.int32)
    joints = rng.integers(0, v, (1 if kind == "joints" else n, max(1, 2 * v // 3))).astype(np.int32)
    dims = 2 if kind == "turned in a plane" else 3
    transform = rng.normal(size=(n, dims, dims)).astype(np.float32)
    return {
        "whole": (None, None, None),
        "frames": (frames, None, None),
        "joints": (None, joints, None),
        "turned": (None, None, transform),
        "turned in a plane": (None, None, transform),
        "all": (frames, joints, transform),
    }[kind]


def as_view(maps: tuple[Any, ...]) -> View | None:
    frames, joints, transform = maps
    return None if all(map is None for map in maps) else View(frames=frames, joints=joints, transform=transform)


def test_a_build_without_a_device_says_so(emulated_module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    backends = import_module("asma_fast._backends")
    monkeypatch.setattr(backends, "cuda", lambda: emulated_module)
    monkeypatch.setattr(backends, "_torch_has_device", lambda: False)
    assert backends.why_not.__wrapped__("cuda") == "torch can use no CUDA device here."
    assert emulated_module.device_why_not() == ""
    monkeypatch.setattr(backends, "_torch_has_device", lambda: True)
    assert backends.why_not.__wrapped__("cuda") is None


def test_degrees(emulated: ModuleType) -> None:
    rng = np.random.default_rng(0)
    for count, joints in ((0, 3), (1, 1), (40, 7), (700, 33)):
        edges = rng.integers(0, joints, (count, 2))
        assert (
            joint_degree.OP.run_native(edges, joints).tolist()
            == ops.joint_degree(edges, joints, impl="reference").tolist()
        )


@pytest.mark.parametrize(("sizes", "kind"), CASES, ids=str)
def test_motion_has_the_bits_of_every_implementation(emulated: ModuleType, sizes: dict[str, int], kind: str) -> None:
    x = clip(sizes)
    maps = view_of(kind, x)
    for last in ("replicate", "zero"):
        wanted = ops.frame_motion(x, view=as_view(maps), last=last, impl="reference")
        np.testing.assert_array_equal(motion.FRAMES.run_native(x, *maps, last == "replicate"), wanted)
    wanted = ops.joint_motion(x, view=as_view(maps), impl="reference")
    np.testing.assert_array_equal(motion.JOINTS.run_native(x, *maps), wanted)
    np.testing.assert_array_equal(motion.BOTH.run_native(x, *maps, True)[1], wanted)


@pytest.mark.parametrize("joints", [1, 3, 25, 33, 70])
def test_joints_are_those_of_the_cpu(emulated: ModuleType, joints: int) -> None:
    rng = np.random.default_rng(joints)
    for drop in sorted({0, 1, joints // 3, joints - 1}):
        weights, ids, seed = rng.random((4, joints)) + 0.01, np.arange(4) - 2, np.array(2**40 + 3)
        for given in (weights, weights[0]):
            kept = sampling.JOINTS.run_native(given, drop, seed, ids)
            assert kept.tolist() == ops.sample_joints(given, drop, seed=2**40 + 3, ids=ids, impl="reference").tolist()


@pytest.mark.parametrize("frames", [1, 2, 7, 50, 130])
@pytest.mark.parametrize("high", [True, False])
def test_frames_are_those_of_the_cpu(emulated: ModuleType, frames: int, high: bool) -> None:
    rng = np.random.default_rng(frames)
    scores = np.round(rng.normal(size=(4, frames)), 1).astype(np.float32)  # many ties, both signs
    scores[1] = 0
    for drop, random_drop in ((0, 0), (frames // 3, frames // 4), (frames - 1, 0), (0, frames)):
        seed, ids = np.array(-5), np.arange(4) * 2**33
        kept = sampling.FRAMES.run_native(scores, drop, high, random_drop, seed, ids)
        wanted = sampling.FRAMES.reference(*map(_tensor, (scores, drop, high, random_drop, seed, ids)))
        assert kept.tolist() == wanted.tolist()


def _tensor(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("sizes", "kind"), CASES[::2], ids=str)
def test_views_and_their_gradients(emulated: ModuleType, sizes: dict[str, int], kind: str, dtype: torch.dtype) -> None:
    x = torch.from_numpy(clip(sizes)).to(dtype)
    frames, joints, transform = map(_tensor, view_of(kind, x.float().numpy()))
    maps = (frames, joints, transform)
    exact = x.double().requires_grad_()
    wanted = gather_view.OP.reference(exact, frames, joints, None if transform is None else transform.double())
    # As many roundings of the result's type as a sum of three products in float32 may add to its one.
    budget = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 8 * torch.finfo(torch.float32).eps}
    torch.testing.assert_close(gather_view.OP.run_native(x, *maps).double(), wanted.detach(), **budget)
    g = torch.from_numpy(np.random.default_rng(2).normal(size=wanted.shape)).to(dtype)
    wanted.backward(g.double())
    found = gather_view.BACKWARD.run_native(g, *maps, x.shape[2], x.shape[3])
    budget["atol"] = 64 * torch.finfo(torch.float32).eps
    torch.testing.assert_close(found.double(), exact.grad, **budget)


@pytest.mark.parametrize(
    ("name", "x"),
    list(variants(clip({"N": 2, "C": 3, "T": 5, "V": 6, "M": 2}))),
    ids=lambda it: it if isinstance(it, str) else "",
)
def test_any_strides(emulated: ModuleType, name: str, x: Any) -> None:
    wanted = ops.frame_motion(x, impl="reference")
    assert np.array_equal(motion.FRAMES.run_native(x, None, None, None, True), wanted)
    assert np.array_equal(gather_view.OP.run_native(x, None, None, None), x)


def test_beyond_32_bits(emulated: ModuleType) -> None:
    far = 2**31 + 7  # numbers between two clips; memory that nobody touches costs nothing
    memory = torch.empty(far + 60)
    x = memory.as_strided((2, 3, 4, 5, 1), (far, 1, 15, 3, 60))
    x.copy_(torch.arange(120.0).reshape(2, 3, 4, 5, 1))
    assert torch.equal(gather_view.OP.run_native(x, None, None, None), x)
    assert torch.equal(motion.FRAMES.run_native(x, None, None, None, True), ops.frame_motion(x.clone()))


@pytest.mark.parametrize("shape", [(0, 3, 5, 4, 2), (2, 0, 5, 4, 2), (2, 3, 0, 4, 2), (2, 3, 5, 0, 2), (2, 3, 5, 4, 0)])
def test_nothing(emulated: ModuleType, shape: tuple[int, ...]) -> None:
    x = torch.ones(shape)
    assert gather_view.OP.run_native(x, None, None, None).shape == shape
    assert torch.equal(motion.FRAMES.run_native(x, None, None, None, True), torch.zeros(shape[0], shape[2]))
    assert torch.equal(motion.JOINTS.run_native(x, None, None, None), torch.zeros(shape[0], shape[3]))


def test_what_only_the_device_sees_is_checked_there(emulated: ModuleType) -> None:
    x = clip({"N": 1, "C": 3, "T": 4, "V": 5, "M": 1})
    wrong = np.array([[0, 4]], np.int32)
    for call in (
        lambda: gather_view.OP.run_native(x, wrong, None, None),
        lambda: motion.FRAMES.run_native(x, wrong, None, None, True),
        lambda: motion.JOINTS.run_native(x, wrong, None, None),
        lambda: gather_view.BACKWARD.run_native(x[:, :, :2], wrong, None, None, 4, 5),
    ):
        with pytest.raises(ValueError, match=r"view\.frames must lie in \[0, 4\), got 4"):
            call()
    with pytest.raises(ValueError, match=r"edges must lie in \[0, 4\), got 4"):
        joint_degree.OP.run_native(np.array([[0, 4]]), 4)
    with pytest.raises(ValueError, match="scores must not be NaN"):
        sampling.FRAMES.run_native(np.full((1, 3), np.nan, np.float32), 1, True, 0, np.array(0), np.array([0]))
    for weights, message in (([-1.0, 1], "not negative"), ([0.0, 0], "all be zero"), ([1.0, 0], "at most the number")):
        with pytest.raises(ValueError, match=message):
            sampling.JOINTS.run_native(np.array(weights), 2, np.array(0), np.array([0]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_view_is_one_read_and_one_write(emulated: ModuleType, kind: str) -> None:
    x = clip({"N": 3, "C": 3, "T": 50, "V": 25, "M": 2})
    maps = view_of(kind, x)
    out = gather_view.OP.run_native(x, *maps)
    loaded, stored = emulated.take_traffic()
    assert stored == out.nbytes
    # A frame of a body reads its place in the maps and its transform, which the first cache holds.
    frames, joints, transform = ((0 if one is None else one[0].nbytes) for one in maps)
    rows, frame = out.shape[0] * out.shape[4] * out.shape[2], frames and 4
    assert loaded == out.nbytes + rows * (frame + joints + transform)
