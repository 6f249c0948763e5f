"""Degrees, motion scores and masks by Triton: the bits of every other implementation."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pytest
import torch
from ops.contract import assert_bitwise, check_compiles, guarded_outputs, opcheck, pairwise, variants
from triton_kernels.device import DEVICE, interpreted_only, needs_triton, there

from asma_fast import View, ops

pytestmark = needs_triton
SCORES = (ops.frame_motion, ops.joint_motion)
KINDS = ("whole", "frames", "joints", "turned", "turned in a plane", "all")
CASES = pairwise(kind=KINDS, N=(1, 3), C=(1, 2, 3, 5), T=(1, 2, 7), V=(1, 3, 17, 33), M=(1, 2))


def guarded() -> AbstractContextManager[object]:
    """Outputs allocated inside stand between sentinels and are poisoned, where the CPU can look at them."""
    return guarded_outputs() if DEVICE == "cpu" else nullcontext()


def case_of(sizes: dict, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, View]:
    """A clip, channels last in memory, and a view of the kind, without a transform where the channels are too few."""
    n, c, t, v, m = (sizes[axis] for axis in "NCTVM")
    rng, kind = np.random.default_rng(n + 2 * c + 3 * t + 5 * v + 7 * m), sizes["kind"]
    dims = {"turned": 3, "all": 3, "turned in a plane": 2}.get(kind, 9)
    x = torch.from_numpy(rng.normal(size=(n, m, t, v, c))).to(dtype).permute(0, 4, 2, 3, 1)
    frames, joints = rng.integers(0, t, (n, t + 1)), rng.integers(0, v, (1 if kind == "joints" else n, v + 1))
    return x, View(
        frames=torch.from_numpy(frames).int() if kind in ("frames", "all") else None,
        joints=torch.from_numpy(joints).int() if kind in ("joints", "all") else None,
        transform=torch.from_numpy(rng.normal(size=(n, dims, dims))).float() if dims <= c else None,
    )


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_degrees(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    for count, joints in ((0, 3), (1, 1), (40, 7), (60, 40), (0, 0)):
        edges = torch.from_numpy(rng.integers(0, max(joints, 1), (count, 2))).to(dtype)
        wanted = ops.joint_degree(edges, joints)
        assert_bitwise(ops.joint_degree(there(edges), joints, impl="triton"), wanted)
        assert_bitwise(ops.joint_degree(there(edges.T.contiguous()).T, joints, impl="triton"), wanted)


@pytest.mark.parametrize("sizes", CASES, ids=str)
def test_scores_have_the_bits_of_every_implementation(sizes: dict) -> None:
    dtype = (torch.float32, torch.float32, torch.bfloat16, torch.float16)[sizes["V"] % 4]
    x, view = case_of(sizes, dtype)
    x_there, view_there = there(x), there(view)
    for last in ("replicate", "zero"):
        wanted = ops.frame_motion(x, view=view, last=last, impl="reference")
        with guarded():
            assert_bitwise(ops.frame_motion(x_there, view=view_there, last=last, impl="triton"), wanted)
    frames, joints = ops.frame_and_joint_motion(x_there, view=view_there, last="zero", impl="triton")
    assert_bitwise(frames, wanted)
    wanted = ops.joint_motion(x, view=view, impl="reference")
    assert_bitwise(joints, wanted)
    with guarded():
        assert_bitwise(ops.joint_motion(x_there, view=view_there, impl="triton"), wanted)


def test_sums_are_taken_in_the_stated_order() -> None:
    """One square and a half unit in float32's last place of it, beside squares that only together outlast float64."""
    rng = np.random.default_rng(5)
    d = rng.choice([0, 0, 2.0**-27, 1.5 * 2.0**-27], (256, 16)).astype(np.float32)
    for row in d:
        row[rng.permutation(16)[:2]] = 1, 2.0**-12
    still = np.zeros((256, 1), np.float32)
    there_and_back = np.concatenate([still, np.repeat(d, 2, axis=1) * np.resize([0, 1], 32).astype(np.float32)], axis=1)
    by_frame = torch.from_numpy(np.stack([0 * d, d], axis=1))[:, None, :, :, None]
    by_joint = torch.from_numpy(there_and_back.T.copy())[None, None, :, :, None]
    for op, x in ((ops.frame_motion, by_frame), (ops.joint_motion, by_joint)):
        for channels, view in ((1, None), (2, View(transform=torch.eye(2)[None]))):
            x = torch.cat([x, torch.zeros_like(x)], dim=1)[:, :channels]
            wanted = op(x, view=view, impl="reference")
            assert wanted.unique().numel() > 1
            assert_bitwise(op(there(x), view=view and there(view), impl="triton"), wanted)


def test_what_is_no_number_stays_with_its_frame_and_joint() -> None:
    x, turned = case_of({"kind": "all", "N": 3, "C": 3, "T": 7, "V": 17, "M": 2})
    x[1, 2, 3, 4, 1] = float("nan")
    for view in (None, turned):
        for op in SCORES:
            found, wanted = op(there(x), view=view and there(view), impl="triton"), op(x, view=view, impl="reference")
            torch.testing.assert_close(found.cpu(), wanted, rtol=0, atol=0, equal_nan=True)
    assert wanted.isnan().any()
    assert not wanted.isnan().all()


@interpreted_only
def test_clips_of_any_strides() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 6, 2)).astype(np.float32)
    for name, layout in variants(x):
        if isinstance(layout, torch.Tensor):
            for op in SCORES:
                assert_bitwise(op(layout, impl="triton"), op(x), what=name)


@interpreted_only
def test_clips_beyond_32_bits() -> None:
    far = 2**31 + 7  # numbers between two clips; memory that nobody touches costs nothing
    for strides in ((far, 1, 15, 3, 60), (60, 1, 15, 3, far), (1, far // 2, 10, 2, 40)):
        x = torch.empty(far + 240).as_strided((2, 3, 4, 5, 2) if strides[0] < far else (2, 3, 4, 5, 1), strides)
        x.copy_(torch.arange(float(x.numel())).reshape(x.shape).square())
        for op in SCORES:
            assert_bitwise(op(x, impl="triton"), op(x.clone(), impl="reference"))


@pytest.mark.parametrize("shape", [(0, 3, 5, 4, 2), (2, 0, 5, 4, 2), (2, 3, 0, 4, 2), (2, 3, 5, 0, 2), (2, 3, 5, 4, 0)])
def test_nothing_does_not_move(shape: tuple[int, ...]) -> None:
    x = torch.ones(shape, device=DEVICE)
    assert_bitwise(ops.frame_motion(x, impl="triton"), torch.zeros(shape[0], shape[2]))
    assert_bitwise(ops.joint_motion(x, impl="triton"), torch.zeros(shape[0], shape[3]))


@pytest.mark.parametrize("joints", [1, 3, 25, 130])
def test_joints_are_those_of_the_cpu(joints: int) -> None:
    rng = np.random.default_rng(joints)
    weights = torch.from_numpy(rng.random((3, joints)) * 9 + 0.01)
    weights[:, 1::3] = 0
    ids, seed = torch.from_numpy(rng.integers(-(2**63), 2**63 - 1, 3)), torch.tensor(2**40 + 3)
    cases = {torch.float64: 0, torch.float32: 1, torch.int32: min(int((weights.int() > 0).sum(1).min()), 20)}
    for dtype, drop in cases.items():
        given = weights.to(dtype)
        for value in (given, given.T.contiguous().T) if joints < 30 else (given,):
            wanted = ops.sample_joints(value, drop, seed=seed, ids=ids)
            with guarded():
                found = ops.sample_joints(there(value), drop, seed=there(seed), ids=there(ids), impl="triton")
            assert_bitwise(found, wanted)
    wanted = ops.sample_joints(weights[0], cases[torch.int32], seed=seed, ids=ids)
    found = ops.sample_joints(there(weights[0]), cases[torch.int32], seed=there(seed), ids=there(ids), impl="triton")
    assert_bitwise(found, wanted)


@pytest.mark.parametrize("remove", ["high", "low"])
@pytest.mark.parametrize("frames", [1, 7, 50, 130])
def test_frames_are_those_of_the_cpu(frames: int, remove: str) -> None:
    rng = np.random.default_rng(frames)
    scores = torch.from_numpy(np.round(rng.normal(size=(4, frames)), 1).astype(np.float32))  # many ties, both signs
    scores[1] = 1.5
    scores[2] = 1 + torch.rand(frames) * 2.0**-13  # differ below the cut only
    scores[2, ::2], scores[2, 0] = -0.0, float("inf")
    ids, seed = torch.from_numpy(rng.integers(0, 2**50, 4)), torch.tensor(-5)
    for drop, random_drop in {(0, 0), (frames // 3, min(frames // 4, 5)), (frames, 0), (frames - 1, 1)}:
        options = {"remove": remove, "random_drop": random_drop}
        wanted = ops.sample_frames(scores, drop, seed=seed, ids=ids, **options)
        with guarded():
            found = ops.sample_frames(there(scores), drop, seed=there(seed), ids=there(ids), impl="triton", **options)
        assert_bitwise(found, wanted)


def test_wide_and_strided_scores() -> None:
    scores = torch.tensor([[0.0, 1e300, -1e300, 2.0]], dtype=torch.float64)
    assert ops.sample_frames(there(scores), 1, seed=0, impl="triton").tolist() == [[0, 2, 3]]
    scores = torch.rand(12, 3).T
    assert_bitwise(ops.sample_frames(there(scores), 5, seed=0, impl="triton"), ops.sample_frames(scores, 5, seed=0))


def test_empty_batches_have_masks() -> None:
    ones = torch.ones(0, 5, device=DEVICE)
    assert ops.sample_joints(ones, 2, seed=0, impl="triton").shape == (0, 3)
    assert ops.sample_frames(ones, 2, seed=0, impl="triton").shape == (0, 3)
    assert ops.sample_frames(torch.ones(2, 0, device=DEVICE), 0, seed=0, impl="triton").shape == (2, 0)


@interpreted_only
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.joint_degree(torch.tensor([[0, 4]]), 4, impl="triton"), r"edges must lie in \[0, joints\)"),
        (lambda: ops.frame_motion(ZEROS, view=OUTSIDE, impl="triton"), "frames must lie"),
        (lambda: ops.joint_motion(ZEROS, view=View(frames=OUTSIDE.frames), impl="triton"), "frames must lie"),
        (lambda: ops.joint_motion(ZEROS, view=OUTSIDE, impl="triton"), "joints must lie"),
        (lambda: ops.frame_motion(ZEROS, view=View(joints=OUTSIDE.joints), impl="triton"), "joints must lie"),
        (lambda: ops.sample_frames(torch.tensor([[0, float("nan")]]), 1, seed=0, impl="triton"), "must not be NaN"),
        (lambda: _joints(-1.0, 1), "weights must be finite and not negative"),
        (lambda: _joints(float("nan"), 1), "weights must be finite and not negative"),
        (lambda: _joints(float("inf"), 1), "weights must be finite and not negative"),
        (lambda: ops.sample_joints(torch.zeros(3), 0, seed=0, impl="triton"), "must not all be zero"),
        (lambda: _joints(0.0, 3), "drop must be at most the number of positive weights"),
    ],
)
def test_what_only_the_device_sees_is_checked_there(call, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        call()


ZEROS = torch.zeros(1, 3, 4, 5, 1)
OUTSIDE = View(frames=torch.tensor([[0, 4]], dtype=torch.int32), joints=torch.tensor([[4, -1]], dtype=torch.int32))


def _joints(weight: float, drop: int) -> torch.Tensor:
    return ops.sample_joints(torch.tensor([1.0, weight, 1.0]), drop, seed=0, impl="triton")


def test_torch_contract() -> None:
    x, view = case_of({"kind": "all", "N": 2, "C": 3, "T": 3, "V": 3, "M": 1})
    maps = map(there, (view.frames, view.joints, view.transform))
    opcheck("triton_frame_and_joint_motion", there(x), *maps, True)
    values, ids, seed = map(there, (torch.rand(2, 5), torch.arange(2), torch.tensor(3)))
    opcheck("triton_sample_joints", values, 2, seed, ids)
    opcheck("triton_sample_frames", values, 1, True, 1, seed, ids)
    opcheck("triton_joint_degree", there(torch.tensor([[0, 1]])), 3)
    assert not ops.frame_motion(there(x).requires_grad_(), impl="triton").requires_grad


def test_masks_compile_once_for_all_sizes() -> None:
    def masks(x, seed, ids):
        scores = ops.frame_motion(x, impl="triton")
        return scores, ops.sample_frames(scores, 2, random_drop=1, seed=seed, ids=ids, impl="triton")

    batches = [
        tuple(map(there, (torch.rand(n, 3, t, v, 2), torch.tensor(n * 7), torch.arange(n) + 5)))
        for n, t, v in ((4, 9, 5), (3, 7, 6))
    ]
    check_compiles(masks, batches)
