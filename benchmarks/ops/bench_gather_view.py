"""A view of a batch of 128 clips, beside torch's gather and einsum."""

import pytest
import torch
from rates import note_rate

from asma_fast import View
from asma_fast.ops import gather_view

N, C, T, V, M = 128, 3, 50, 25, 2


def _eager(x, frames, joints, transform):
    n, c, _, _, m = x.shape
    if frames is not None:
        x = x.gather(2, frames.long()[:, None, :, None, None].expand(n, c, -1, x.shape[3], m))
    if joints is not None:
        x = x.gather(3, joints.long()[:, None, None, :, None].expand(n, c, x.shape[2], -1, m))
    return x if transform is None else torch.einsum("nec,nctvm->netvm", transform, x)


@pytest.mark.parametrize("who", ["asma", "eager"])
@pytest.mark.parametrize("reads", ["frames", "joints", "all"])
def test_gather_view(benchmark, who, reads):
    benchmark.group = f"gather_view 128x(3,50,25,2): {reads}"
    random = torch.Generator().manual_seed(0)
    x = torch.randn(N, M, T, V, C, generator=random).permute(0, 4, 2, 3, 1)
    frames = torch.rand(N, T, generator=random).argsort(dim=1)[:, :30].sort(dim=1).values.int()
    joints = torch.rand(N, V, generator=random).argsort(dim=1)[:, :17].sort(dim=1).values.int()
    transform = torch.randn(N, 3, 3, generator=random)
    maps = {"frames": (frames, None, None), "joints": (None, joints, None), "all": (frames, joints, transform)}[reads]
    view = View(frames=maps[0], joints=maps[1], transform=maps[2])
    call = {"asma": lambda: gather_view(x, view), "eager": lambda: _eager(x, *maps)}[who]
    result = call()
    torch.testing.assert_close(result, _eager(x, *maps), rtol=1e-5, atol=1e-5)
    benchmark(call)
    note_rate(benchmark, "GB/s", 2 * result.numel() * result.element_size())


@pytest.mark.parametrize("who", ["asma", "eager"])
@pytest.mark.benchmark(group="call overhead: gather_view of 12 numbers")
def test_call_overhead(benchmark, who):
    x, frames = torch.randn(1, 3, 2, 2, 1), torch.zeros(1, 2, dtype=torch.int32)
    view = View(frames=frames)
    call = {"asma": lambda: gather_view(x, view), "eager": lambda: _eager(x, frames, None, None)}[who]
    torch.testing.assert_close(call(), _eager(x, frames, None, None))
    benchmark(call)
