"""Motion scores, and the whole of masking: motion, sampling and gathering, for a batch of 128 clips.

Rivals are eager torch, written the way PSTL masks: difference, mean, argsort or topk, expanded gather, view by view.
"""

import numpy as np
import pytest
import torch
from rates import note_rate

from asma_fast import Skeleton, View
from asma_fast.ops import frame_motion, gather_view, joint_motion, sample_frames, sample_joints

N, C, T, V, M = 128, 3, 50, 25, 2
DROPPED_JOINTS, DROPPED_FRAMES = 8, T // 5


@pytest.fixture(scope="module", params=["channels last", "contiguous"])
def clips(request):
    x = torch.randn(N, M, T, V, C, generator=torch.Generator().manual_seed(0)).permute(0, 4, 2, 3, 1)
    return x if request.param == "channels last" else x.contiguous()


@pytest.fixture(scope="module")
def transform():
    return torch.randn(N, 3, 3, generator=torch.Generator().manual_seed(1))


def _eager_motion(x):
    motion = torch.zeros_like(x)
    motion[:, :, :-1] = x[:, :, 1:] - x[:, :, :-1]
    return (motion**2).mean((1, 3, 4))


def _turn(x, matrix):
    return torch.einsum("nec,nctvm->netvm", matrix, x)


def _note(benchmark, x):
    note_rate(benchmark, "GB/s read", x.numel() * x.element_size())
    benchmark.extra_info["threads"] = torch.get_num_threads()


@pytest.mark.parametrize("who", ["asma", "eager"])
@pytest.mark.benchmark(group="frame_motion 128x(3,50,25,2)")
def test_frame_motion(benchmark, clips, who):
    calls = {"asma": lambda: frame_motion(clips, last="zero"), "eager": lambda: _eager_motion(clips)}
    torch.testing.assert_close(calls[who](), calls["eager"](), rtol=1e-5, atol=1e-6)
    benchmark(calls[who])
    _note(benchmark, clips)


@pytest.mark.parametrize("who", ["asma", "eager"])
@pytest.mark.benchmark(group="frame_motion of a turned view")
def test_frame_motion_of_a_view(benchmark, clips, transform, who):
    view = View(transform=transform)
    calls = {
        "asma": lambda: frame_motion(clips, view=view, last="zero"),
        "eager": lambda: _eager_motion(_turn(clips, transform)),
    }
    torch.testing.assert_close(calls[who](), calls["eager"](), rtol=1e-4, atol=1e-5)
    benchmark(calls[who])
    _note(benchmark, clips)


@pytest.mark.parametrize("who", ["asma", "eager"])
@pytest.mark.benchmark(group="joint_motion")
def test_joint_motion(benchmark, clips, who):
    calls = {"asma": lambda: joint_motion(clips), "eager": lambda: (clips.diff(dim=2) ** 2).mean((1, 2, 4))}
    torch.testing.assert_close(calls[who](), calls["eager"](), rtol=1e-5, atol=1e-6)
    benchmark(calls[who])
    _note(benchmark, clips)


def _eager_masking(x, weights):
    """PSTL's two masked views with a mask of its own for each clip."""
    n, c, t, v, m = x.shape
    fastest = _eager_motion(x).argsort(dim=1)[:, : t - DROPPED_FRAMES].sort(dim=1).values
    slow = x.gather(2, fastest[:, None, :, None, None].expand(n, c, -1, v, m))
    kept = torch.rand(n, slow.shape[2]).argsort(dim=1)[:, DROPPED_FRAMES:].sort(dim=1).values
    temporal = slow.gather(2, kept[:, None, :, None, None].expand(n, c, -1, v, m))
    gone = torch.multinomial(weights.expand(n, v), DROPPED_JOINTS)
    joints = torch.ones(n, v, dtype=torch.int8).scatter(1, gone, 0).argsort(dim=1, stable=True)[:, DROPPED_JOINTS:]
    return temporal, x.gather(3, joints[:, None, None, :, None].expand(n, c, t, -1, m))


def _our_masking(x, weights, seed, ids):
    frames = sample_frames(frame_motion(x), DROPPED_FRAMES, random_drop=DROPPED_FRAMES, seed=seed, ids=ids)
    joints = sample_joints(weights, DROPPED_JOINTS, seed=seed, ids=ids)
    return gather_view(x, View(frames=frames)), gather_view(x, View(joints=joints))


@pytest.mark.parametrize("who", ["asma", "eager"])
@pytest.mark.benchmark(group="masking: motion + sampling + gather, two views")
def test_masking(benchmark, clips, who):
    weights = torch.from_numpy(Skeleton.named("ntu-rgb+d").degree.astype(np.float32))
    seed, ids = torch.tensor(1), torch.arange(N)
    shapes = [(N, C, T - 2 * DROPPED_FRAMES, V, M), (N, C, T, V - DROPPED_JOINTS, M)]
    calls = {"asma": lambda: _our_masking(clips, weights, seed, ids), "eager": lambda: _eager_masking(clips, weights)}
    temporal, spatial = calls[who]()
    assert [tuple(temporal.shape), tuple(spatial.shape)] == shapes
    assert torch.isin(temporal[0].flatten(), clips[0].flatten()).all()
    benchmark(calls[who])
    _note(benchmark, clips)
