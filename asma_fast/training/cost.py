"""What a network costs: multiply-adds of a clip, and the time one takes on one CPU thread."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from asma_fast.nn import GraphConv, TemporalConv
from asma_fast.nn.feature_alignment import CrossAttention


@torch.no_grad()
def multiply_adds(model: nn.Module, clips: Tensor) -> int:
    """Multiplications whose products a network adds up, for one clip of ``clips (N, C, T, V, M)``.

    Of graph convolutions (each joint's neighbours summed on the side of fewer channels, then the channel products),
    temporal convolutions (padded taps counted), linear layers and attention. Norms and activations are left out.
    """
    counts: list[int] = []
    counters: dict[type[nn.Module], Callable[[Any, tuple[Any, ...], Tensor], int]] = {
        GraphConv: _graph_conv,
        TemporalConv: lambda module, _, out: out.numel() * (module.in_channels // module.groups) * module.taps,
        nn.Linear: lambda module, _, out: out.numel() * module.in_features,
        CrossAttention: _attention,
    }
    # On a copy, for hooks also make the blocks call their layers one by one.
    copied = copy.deepcopy(model).eval()
    for module in copied.modules():
        if type(module) in counters:
            count = counters[type(module)]
            module.register_forward_hook(
                lambda module, given, out, count=count: counts.append(count(module, given, out))
            )
    copied(clips)
    return round(sum(counts) / len(clips))


def _graph_conv(module: Any, _: tuple[Any, ...], out: Tensor) -> int:
    partitions, joints = module.adjacency.shape[:2]
    places = out.numel() // out.shape[1]
    narrow = min(module.in_channels, module.out_channels)
    summed = int(module.pattern.sum()) * places // joints * narrow
    return int(places * module.in_channels * module.out_channels * partitions + summed)


def _attention(module: Any, given: tuple[Any, ...], _: Tensor) -> int:
    tokens, others = given[:2]
    return int(2 * tokens.shape[0] * tokens.shape[1] * others.shape[1] * module.query.out_features)


@torch.no_grad()
def latencies(
    entries: Mapping[str, Callable[[], object]], *, rounds: int = 60, seconds: float = 5.0
) -> dict[str, float]:
    """Milliseconds of each call on one CPU thread: the median over rounds in which all are called in turn.

    Parameters
    ----------
    entries
        Name → what is timed.
    rounds
        At most; at least three.
    seconds
        No further round begins after so long.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for call in entries.values():
            call()
        taken: dict[str, list[float]] = {name: [] for name in entries}
        end = time.perf_counter() + seconds
        for done in range(max(rounds, 3)):
            if done >= 3 and time.perf_counter() > end:
                break
            for name, call in entries.items():
                began = time.perf_counter()
                call()
                taken[name].append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return {name: 1000 * statistics.median(times) for name, times in taken.items()}
