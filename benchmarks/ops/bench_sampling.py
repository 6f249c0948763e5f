"""Which joints and frames to keep, for a batch of 128 clips, beside torch's multinomial and sort."""

import pytest
import torch

from asma_fast import Skeleton
from asma_fast.ops import sample_frames, sample_joints

N, T, V, DROP = 128, 50, 25, 8


def _eager_joints(weights):
    gone = torch.multinomial(weights.expand(N, V), DROP)
    return torch.ones(N, V, dtype=torch.int8).scatter(1, gone, 0).argsort(dim=1, stable=True)[:, DROP:]


def _eager_frames(scores):
    kept = scores.argsort(dim=1)[:, : T - 10].sort(dim=1).values
    return kept.gather(1, torch.rand(N, T - 10).argsort(dim=1)[:, 10:].sort(dim=1).values)


@pytest.mark.parametrize("who", ["asma", "eager"])
@pytest.mark.benchmark(group="sample_joints 8 of 25")
def test_sample_joints(benchmark, who):
    weights = torch.from_numpy(Skeleton.named("ntu-rgb+d").degree).float()
    seed, ids = torch.tensor(1), torch.arange(N)
    call = {"asma": lambda: sample_joints(weights, DROP, seed=seed, ids=ids), "eager": lambda: _eager_joints(weights)}[
        who
    ]
    kept = call()
    assert kept.shape == (N, V - DROP)
    assert (kept.diff(dim=1) > 0).all()
    benchmark(call)


@pytest.mark.parametrize("who", ["asma", "eager"])
@pytest.mark.benchmark(group="sample_frames 30 of 50")
def test_sample_frames(benchmark, who):
    scores = torch.rand(N, T)
    seed, ids = torch.tensor(1), torch.arange(N)
    call = {
        "asma": lambda: sample_frames(scores, 10, random_drop=10, seed=seed, ids=ids),
        "eager": lambda: _eager_frames(scores),
    }[who]
    kept = call()
    assert kept.shape == (N, 30)
    assert (kept.diff(dim=1) > 0).all()
    benchmark(call)
