"""The formulas of ``benchmarks/GPU_MODEL.md`` beside the emulated device's counters of loads and stores."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from asma_fast import Skeleton

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
NTU = Skeleton.named("ntu-rgb+d")
motion, gather_view, graph_conv, temporal_conv = (
    import_module(f"asma_fast.ops.{stem}") for stem in ("motion", "gather_view", "graph_conv", "temporal_conv")
)
#: Clips, frames kept of 50 and joints kept of 25.
STREAMS = {"anchor": (50, 25), "spatial": (50, 17), "temporal": (30, 25)}
CLIPS = 4


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_ours

    return gpu_ours.Passes()


def arguments(frames: int, joints: int, clips: int = CLIPS) -> tuple[torch.Tensor, ...]:
    """A batch of clips, and the maps of a stream's view."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(clips, 2, 50, 25, 3)).astype(np.float32)).permute(0, 4, 2, 3, 1)
    kept = [np.sort(rng.permuted(np.tile(np.arange(size), (clips, 1)), axis=1)[:, :count]) for size, count in
            ((50, frames), (25, joints))]  # fmt: skip
    transform = torch.from_numpy(rng.normal(size=(clips, 3, 3)).astype(np.float32))
    return x, *(torch.from_numpy(one).int() for one in kept), transform


@pytest.mark.parametrize("stream", STREAMS)
def test_a_view(emulated: ModuleType, passes: Any, stream: str) -> None:
    args = arguments(*STREAMS[stream])
    out = gather_view.OP.run_native(*args)
    (formula,) = passes("gather_view", args, out)
    loaded, stored = emulated.take_traffic()
    assert stored == formula.written
    # Each frame of a body reads its transform and its joints anew: as the formula says, from the cache.
    rows = out.numel() // (3 * out.shape[3])
    maps = rows * 4 * (1 + out.shape[3] + 9)
    assert loaded == formula.read - sum(one.nbytes for one in args[1:]) + maps


def test_motion(emulated: ModuleType, passes: Any) -> None:
    x = arguments(50, 25)[0]
    scores = motion.FRAMES.run_native(x, None, None, None, True)
    (formula,) = passes("frame_motion", (x, None, None, None, True), scores)
    loaded, stored = emulated.take_traffic()
    assert formula.written <= stored <= 2 * formula.written
    assert formula.read <= loaded <= 2.1 * formula.read  # but for the last, a frame serves two pairs


@pytest.mark.parametrize("emulated", [0], indirect=True, ids=[""])
@pytest.mark.parametrize("stream", STREAMS)
def test_the_first_graph_convolution(emulated: ModuleType, passes: Any, stream: str) -> None:
    # As many clips as a batch has: the rows of few are cut, and each piece reads its graph.
    x, frames, joints, transform = arguments(*STREAMS[stream], clips=128)
    generator = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(3, 16, 3, generator=generator), torch.randn(3, 16, generator=generator)
    scale, shift = torch.rand(2, 25, 3, generator=generator)
    adjacency, pattern = torch.from_numpy(NTU.adjacency("spatial")), torch.from_numpy(NTU.pattern("spatial"))
    args = (x, weight, adjacency, bias, frames, joints, joints, transform, scale, shift, pattern)
    out = graph_conv.OP.run_native(*args)
    (formula,) = passes("graph_conv", args, out)
    loaded, stored = emulated.take_traffic()
    assert stored == out.nbytes == formula.written
    # What every block reads for itself, weights and adjacency, comes from the cache: it is the formula's share of 15 %.
    clip = x.nbytes * frames.shape[1] // 50
    assert loaded + stored <= 1.15 * (clip + out.nbytes)


@pytest.mark.parametrize(("channels", "frames", "stride"), [(16, 50, 1), (64, 25, 2), (256, 13, 1)])
def test_a_temporal_convolution(emulated: ModuleType, passes: Any, channels: int, frames: int, stride: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, channels, frames, 25, generator=generator).to(memory_format=torch.channels_last)
    args = (x, torch.randn(channels, channels, 9, generator=generator), None, stride, 4, 4, 1, 1)
    out = temporal_conv.OP.run_native(*args)
    (formula,) = passes("temporal_conv", args, out)
    loaded, stored = emulated.take_traffic()
    assert stored == out.nbytes == formula.written
    assert loaded >= x.nbytes
