"""How time grows with clips, frames and joints, each swept alone: ``extra_info`` holds the axis and its value."""

import numpy as np
import pytest
import torch

from asma_fast import Skeleton, View
from asma_fast.ops import (
    frame_and_joint_motion,
    gather_view,
    graph_conv,
    sample_frames,
    sample_joints,
    temporal_conv,
)

SIZES = {"B": 32, "T": 64, "V": 25}
SWEEPS = {"B": (8, 32, 128, 512), "T": (16, 64, 128, 256, 512), "V": (17, 25, 33, 67, 133)}
BODIES, CHANNELS = 2, 32


def _skeleton(joints):
    """A tree: each joint hangs from the one half its number."""
    return Skeleton(edges=[((joint - 1) // 2, joint) for joint in range(1, joints)])


def _clip(b, t, v):
    return torch.randn(b, BODIES, t, v, 3).permute(0, 4, 2, 3, 1)


def _features(b, t, v):
    return torch.randn(b * BODIES, t, v, CHANNELS).permute(0, 3, 1, 2)


def _motion(b, t, v):
    x = _clip(b, t, v)
    return lambda: frame_and_joint_motion(x)


def _sampling(b, t, v):
    scores, weights = torch.rand(b, t), torch.from_numpy(_skeleton(v).degree.astype(np.float32))
    seed, ids = torch.tensor(1), torch.arange(b)
    return lambda: (
        sample_frames(scores, t // 5, random_drop=t // 5, seed=seed, ids=ids),
        sample_joints(weights, v // 3, seed=seed, ids=ids),
    )


def _gather_view(b, t, v):
    x = _clip(b, t, v)
    frames, joints = (torch.rand(b, size).argsort(dim=1)[:, : 3 * size // 5].sort(dim=1).values for size in (t, v))
    view = View(frames=frames.int(), joints=joints.int(), transform=torch.randn(b, 3, 3))
    return lambda: gather_view(x, view)


def _graph_conv(b, t, v):
    x, adjacency = _features(b, t, v), torch.from_numpy(_skeleton(v).adjacency())
    weight = torch.randn(len(adjacency), CHANNELS, CHANNELS)
    return lambda: graph_conv(x, weight, adjacency)


def _temporal_conv(b, t, v):
    x, weight = _features(b, t, v), torch.randn(CHANNELS, CHANNELS, 9)
    return lambda: temporal_conv(x, weight)


CALLS = {
    "motion": _motion,
    "sampling": _sampling,
    "gather_view": _gather_view,
    "graph_conv": _graph_conv,
    "temporal_conv": _temporal_conv,
}


@pytest.mark.parametrize(("axis", "value"), [(axis, value) for axis, values in SWEEPS.items() for value in values])
@pytest.mark.parametrize("op", CALLS)
def test_scaling(benchmark, op, axis, value):
    benchmark.group = f"scaling of {op} over {axis}"
    sizes = {**SIZES, axis: value}
    call = CALLS[op](sizes["B"], sizes["T"], sizes["V"])
    result = call()
    for part in result if isinstance(result, tuple) else (result,):
        assert part.numel() > 0
        assert torch.isfinite(part).all()
    benchmark(call)
    benchmark.extra_info.update(op=op, axis=axis, value=value, threads=torch.get_num_threads())
