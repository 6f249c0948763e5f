from contextlib import nullcontext

import numpy as np
import pytest
import torch
from contract import (
    assert_bitwise,
    check_compiles,
    check_forked,
    check_threads_bitwise,
    guarded_outputs,
    implementations,
    native_array,
    opcheck,
    variants,
)

from asma_fast import Skeleton
from asma_fast._backends import native
from asma_fast.ops import sample_frames, sample_joints
from asma_fast.philox import Purpose, philox

IMPLEMENTATIONS = implementations()


def _joints(weights, drop, seed, ids):
    """The rule as METHOD states it, in Python's own integers."""
    rows = []
    for n, sample in enumerate(ids):
        w = [float(value) for value in (weights if weights.ndim == 1 else weights[n])]
        q = [max(1, round(value / max(w) * 65536)) if value > 0 else 0 for value in w]
        there = list(range(len(w)))
        for draw in range(drop):
            word = int(philox(seed, sample, draw, Purpose.JOINTS)[0])
            threshold = word * sum(q[v] for v in there) >> 32
            total = 0
            for v in there:
                total += q[v]
                if total > threshold:
                    there.remove(v)
                    break
        rows.append(there)
    return np.array(rows, dtype=np.int32).reshape(len(ids), -1)


def _frames(scores, drop, remove, random_drop, seed, ids):
    rows = []
    for n, sample in enumerate(ids):
        # 12 of 23 mantissa bits: the float32 with its last 11 bits cleared.
        cut = [
            float((np.array(s, np.float32).view(np.uint32) & np.uint32(0xFFFFF800)).view(np.float32)) for s in scores[n]
        ]
        tie = [int(philox(seed, sample, t, Purpose.TIES)[0]) for t in range(len(cut))]
        sign = -1 if remove == "high" else 1
        order = sorted(range(len(cut)), key=lambda t: (sign * cut[t], tie[t], t))
        there = sorted(order[drop:])
        for draw in range(random_drop):
            word = int(philox(seed, sample, draw, Purpose.FRAMES)[0])
            there.pop(word * len(there) >> 32)
        rows.append(there)
    return np.array(rows, dtype=np.int32).reshape(len(ids), -1)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("joints", [1, 2, 15, 25, 33])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64])
def test_joints_follow_the_rule(impl, joints, dtype):
    rng = np.random.default_rng(joints)
    weights = (rng.random((7, joints)) * 9 + 1).astype(dtype)
    weights[:, ::3] *= np.array(0 if joints > 2 else 1, dtype)
    ids = rng.integers(-(2**63), 2**63 - 1, 7)
    for drop in {0, 1, int((weights > 0).sum(1).min())}:
        with guarded_outputs() if impl != "reference" else nullcontext():
            kept = sample_joints(weights, drop, seed=2**40 + 3, ids=ids, impl=impl)
        assert_bitwise(kept, _joints(weights, drop, 2**40 + 3, ids))
        shared = sample_joints(weights[0], drop, seed=-5, ids=ids, impl=impl)
        assert_bitwise(shared, _joints(weights[0], drop, -5, ids))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("remove", ["high", "low"])
@pytest.mark.parametrize("frames", [1, 2, 7, 50])
def test_frames_follow_the_rule(impl, remove, frames):
    rng = np.random.default_rng(frames)
    scores = rng.standard_normal((6, frames)).astype(np.float32)
    scores[0] = 1.5  # all tied
    scores[1, ::2] = -0.0
    scores[1, 1::2] = 0.0
    scores[2] = 1 + rng.random(frames) * 2.0**-13  # differ below the cut only
    scores[3, 0] = np.inf
    ids = rng.integers(0, 2**50, 6)
    for drop, random_drop in {(0, 0), (frames // 5, frames // 5), (frames, 0), (0, frames)}:
        with guarded_outputs() if impl != "reference" else nullcontext():
            kept = sample_frames(
                scores, drop, remove=remove, random_drop=random_drop, seed=11, ids=ids, impl=impl
            )  # fmt: skip
        assert_bitwise(kept, _frames(scores, drop, remove, random_drop, 11, ids))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_every_layout_and_kind(impl):
    rng = np.random.default_rng(0)
    values = rng.random((5, 12)).astype(np.float32)
    joints, frames = sample_joints(values, 4, seed=1), sample_frames(values, 3, random_drop=2, seed=1)
    for name, value in variants(values):
        kept = sample_joints(value, 4, seed=1, impl=impl)
        assert isinstance(kept, type(value)), name
        assert_bitwise(kept, joints, what=name)
        assert_bitwise(sample_frames(value, 3, random_drop=2, seed=1, impl=impl), frames, what=name)
    assert_bitwise(sample_frames(values.astype(np.float64), 3, random_drop=2, seed=1, impl=impl), frames)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_a_mask_belongs_to_its_id_and_seed(impl):
    values = np.random.default_rng(0).random((6, 20)).astype(np.float32)
    ids = np.array([9, 4, 7, 1, 0, 3])
    kept = sample_joints(values, 5, seed=1, ids=ids, impl=impl)
    for n in range(6):
        assert_bitwise(sample_joints(values[n : n + 1], 5, seed=1, ids=ids[n : n + 1], impl=impl), kept[n : n + 1])
    assert_bitwise(
        sample_joints(values, 5, seed=1, impl=impl), sample_joints(values, 5, seed=1, ids=np.arange(6), impl=impl)
    )
    assert (sample_joints(values, 5, seed=2, ids=ids, impl=impl) != kept).any()
    for seed in (np.int64(1), np.array(1), torch.tensor(1)):
        assert_bitwise(sample_joints(values, 5, seed=seed, ids=ids, impl=impl), kept)
    assert sample_joints(values[0], 5, seed=1, impl=impl).shape == (1, 15)


def test_draws_without_replacement_have_the_right_distribution():
    """The first joint drawn is proportional to its weight; chi-square over 20,000 clips, 24 degrees of freedom."""
    degree = Skeleton.named("ntu-rgb+d").degree
    ids = np.arange(20000)
    kept = sample_joints(degree, 1, seed=20, ids=ids)
    dropped = len(ids) - np.bincount(kept.ravel(), minlength=25)
    expected = len(ids) * degree / degree.sum()
    assert ((dropped - expected) ** 2 / expected).sum() < 60

    kept = sample_frames(np.zeros((20000, 10), np.float32), 1, seed=21, ids=ids)
    dropped = len(ids) - np.bincount(kept.ravel(), minlength=10)
    assert ((dropped - 2000) ** 2 / 2000).sum() < 35, "ties fall evenly"

    kept = sample_frames(np.arange(10, dtype=np.float32)[None].repeat(20000, 0), 2, random_drop=3, seed=22, ids=ids)
    counts = np.bincount(kept.ravel(), minlength=10)
    assert counts[8:].sum() == 0
    assert ((counts[:8] - 12500) ** 2 / 12500).sum() < 30


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_degree_weights_drop_central_joints_more_often(impl):
    degree = Skeleton.named("ntu-rgb+d").degree
    ids = np.arange(2000)
    central = sample_joints(degree, 8, seed=0, ids=ids, impl=impl)
    outer = sample_joints(1 / degree, 8, seed=0, ids=ids, impl=impl)
    assert central.shape == outer.shape == (2000, 17)
    assert degree[central].mean() < degree[outer].mean()


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_empty_batches(impl):
    assert sample_joints(np.ones((0, 5)), 2, seed=0, impl=impl).shape == (0, 3)
    assert sample_joints(np.ones(5), 2, seed=0, ids=np.zeros(0, np.int64), impl=impl).shape == (0, 3)
    assert sample_frames(np.ones((0, 5), np.float32), 2, seed=0, impl=impl).shape == (0, 3)
    assert sample_frames(np.ones((2, 0), np.float32), 0, seed=0, impl=impl).shape == (2, 0)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("weights", "drop", "message"),
    [
        ([1.0, np.nan, 1.0], 1, "weights must be finite and not negative"),
        ([1.0, np.inf, 1.0], 1, "weights must be finite and not negative"),
        ([1.0, -1.0, 1.0], 1, "weights must be finite and not negative"),
        ([0.0, 0.0, 0.0], 0, "weights must not all be zero"),
        ([1.0, 0.0, 1.0], 3, "drop must be at most the number of positive weights, 2, got 3"),
        ([1.0, 1.0, 1.0], 4, r"drop must be in \[0, 3\], got 4"),
        ([1.0, 1.0, 1.0], -1, r"drop must be in \[0, 3\], got -1"),
        ([], 0, "weights must be of 1 to 32767 joints, got 0"),
    ],
)
def test_weights_that_are_not_allowed(impl, weights, drop, message):
    for value in (np.array(weights), torch.tensor(weights, dtype=torch.float32)):
        with pytest.raises(ValueError, match=message):
            sample_joints(value, drop, seed=0, impl=impl)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("scores", "options", "error", "message"),
    [
        (np.array([[0, np.nan]], np.float32), {"drop": 1}, ValueError, "scores must not be NaN"),
        (np.zeros((1, 3), np.float32), {"drop": 4}, ValueError, r"drop must be in \[0, 3\], got 4"),
        (np.zeros((1, 3), np.float32), {"drop": 2, "random_drop": 2}, ValueError, "together be at most the 3 frames"),
        (np.zeros((1, 3), np.float32), {"drop": 1.0}, TypeError, "drop must be an int, got float"),
        (torch.zeros(1, 3), {"drop": 1.0}, TypeError, "drop must be an int, got float"),
        (torch.zeros(1, 3), {"drop": True}, TypeError, "drop must be an int, got bool"),
        (torch.zeros(1, 3), {"drop": 1, "random_drop": 1.0}, TypeError, "random_drop must be an int, got float"),
        (np.zeros((1, 3), np.int32), {"drop": 1}, TypeError, "scores must be float32 or float64, got int32"),
        (np.zeros(3, np.float32), {"drop": 1}, ValueError, r"scores must have shape \(N, T\), got \(3,\)"),
        (np.zeros((1, 3), np.float32), {"drop": 1, "remove": "mid"}, ValueError, "remove must be 'high' or 'low'"),
        (np.zeros((1, 3), np.float32), {"drop": 1, "seed": 1.5}, TypeError, "seed must be an int or an int64 array"),
        (np.zeros((1, 3), np.float32), {"drop": 1, "seed": 2**63}, ValueError, "seed must fit into int64"),
        (
            np.zeros((1, 3), np.float32),
            {"drop": 1, "seed": np.zeros(1, np.int64)},
            ValueError,
            "seed must be an int or",
        ),
        (np.zeros((1, 3), np.float32), {"drop": 1, "ids": np.arange(2)}, ValueError, r"ids must have shape \(N=1,\)"),
        (np.zeros((1, 3), np.float32), {"drop": 1, "ids": np.zeros(1)}, TypeError, "ids must be int64, got float64"),
    ],
)
def test_bad_input(impl, scores, options, error, message):
    with pytest.raises(error, match=message):
        sample_frames(scores, **{"seed": 0, **options}, impl=impl)


def test_torch_contract():
    values, ids, seed = torch.rand(4, 9), torch.arange(4), torch.tensor(3)
    opcheck("sample_joints", values, 2, seed, ids)
    opcheck("sample_joints", values[0].to(torch.int32) + 1, 2, seed, ids)
    opcheck("sample_frames", values, 2, True, 3, seed, ids)
    assert not sample_joints(values.requires_grad_(), 2, seed=1).requires_grad


def test_a_tensor_seed_does_not_recompile():
    def masks(values, seed, ids):
        joints = sample_joints(values, 2, seed=seed, ids=ids)
        return joints, sample_frames(values, 1, random_drop=2, seed=seed, ids=ids)

    batches = [(torch.rand(n, v), torch.tensor(n * 7), torch.arange(n) + 5) for n, v in ((4, 9), (6, 13), (3, 25))]
    check_compiles(masks, batches)


def test_threads_and_forks_do_not_matter():
    values = np.random.default_rng(0).random((100, 30)).astype(np.float32)

    def masks():
        return sample_joints(values, 9, seed=1), sample_frames(values, 6, random_drop=6, seed=1)

    check_threads_bitwise(masks)
    check_forked(masks)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_a_wide_score_beyond_float32_is_an_infinity(impl):
    scores = np.array([[0.0, 1e300, -1e300, 2.0]])
    assert sample_frames(scores, 1, seed=0, impl=impl).tolist() == [[0, 2, 3]]
    assert sample_frames(scores, 1, remove="low", seed=0, impl=impl).tolist() == [[0, 1, 3]]


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_numpys_integers_are_numbers(impl):
    values = torch.rand(2, 9)
    assert_bitwise(sample_joints(values, np.int64(2), seed=1, impl=impl), sample_joints(values, 2, seed=1, impl=impl))
    drops = {"drop": np.int32(2), "random_drop": np.int64(1)}
    assert_bitwise(
        sample_frames(values, **drops, seed=1, impl=impl), sample_frames(values, 2, random_drop=1, seed=1, impl=impl)
    )


def test_the_native_entries_refuse_outputs_of_other_sizes():
    seed, ids = native_array(np.array(1)), native_array(np.arange(2))
    kept = native_array(np.zeros((2, 4), np.int32))
    with pytest.raises(ValueError, match="kept does not have the sizes"):
        native().sample_joints(native_array(np.ones((2, 5))), 2, seed, ids, kept)
    with pytest.raises(ValueError, match="kept does not have the sizes"):
        native().sample_frames(native_array(np.ones((2, 5), np.float32)), 2, True, 0, seed, ids, kept)
