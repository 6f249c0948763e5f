"""Motion scores of a batch of 128 clips, beside eager torch: the difference to the next frame, its square, the mean."""

import pytest
import torch
from rates import note_rate

from asma_fast import View
from asma_fast.ops import frame_motion, joint_motion

N, C, T, V, M = 128, 3, 50, 25, 2


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
