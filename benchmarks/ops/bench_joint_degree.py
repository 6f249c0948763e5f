"""Degrees of a joint layout, beside torch's scatter."""

import pytest
import torch

from asma_fast import Skeleton
from asma_fast.ops import joint_degree


def _eager(edges, joints):
    linked = torch.zeros(joints, joints, dtype=torch.bool)
    linked[edges[:, 0], edges[:, 1]] = True
    linked |= linked.T.clone()
    return linked.fill_diagonal_(False).sum(1, dtype=torch.int32)


@pytest.mark.parametrize("who", ["asma", "eager"])
@pytest.mark.parametrize("joints", [25, 1000])
def test_joint_degree(benchmark, who, joints):
    benchmark.group = f"joint_degree {joints} joints"
    edges = torch.tensor(Skeleton.named("ntu-rgb+d").edges)
    if joints != 25:
        edges = torch.randint(0, joints, (4 * joints, 2), generator=torch.Generator().manual_seed(0))
    call = {"asma": lambda: joint_degree(edges, joints), "eager": lambda: _eager(edges, joints)}[who]
    assert torch.equal(call(), _eager(edges, joints))
    benchmark(call)
