"""graph_conv against the ways it is written in torch, on the layers of the default encoder.

A group is one layer, batch, direction and number of threads. Every rival's result, and gradients, are held against
float64 before timing; each gets the map in the layout that its network would hand it.
"""

from __future__ import annotations

from functools import lru_cache, partial

import pytest
import torch
import torch.nn.functional as F
from race import ours, rival

from asma_fast import Skeleton
from asma_fast.ops import graph_conv

JOINTS = 25
#: Channels in and out, frames: every pair of the encoder.
LAYERS = [(3, 16, 50), (16, 16, 50), (16, 32, 50), (32, 32, 25), (32, 64, 25), (64, 64, 13), (64, 256, 13)]
QUICK = [(3, 16, 50), (64, 256, 13)]
#: Rows (64 are 32 clips) and threads; others than the first only for some layers.
LOADS = [(64, 2), (64, 1), (1, 2)]
FEW = [(3, 16, 50), (32, 64, 25), (64, 256, 13)]
NTU = Skeleton.named("ntu-rgb+d")
PATTERN = torch.from_numpy(NTU.pattern("spatial"))
OURS, PRODUCT_FIRST, AGGREGATION_FIRST = "asma_fast", "eager, product first", "eager, aggregation first"
large = pytest.mark.large


def product_first(x, weight, adjacency, bias):
    """As ST-GCN and its descendants write it: a 1×1 convolution to K·C_out channels, then the dense adjacency."""
    parts, out, channels = weight.shape
    y = F.conv2d(x, weight.reshape(parts * out, channels, 1, 1), bias.reshape(-1))
    return torch.einsum("nkctv,kvw->nctw", y.view(len(x), parts, out, *y.shape[2:]), adjacency)


def aggregation_first(x, weight, adjacency, bias):
    """The dense adjacency on the narrow side, then the product."""
    z = torch.einsum("nctv,kvw->nkctw", x, adjacency).flatten(1, 2)
    y = F.conv2d(z, weight.transpose(0, 1).flatten(1)[:, :, None, None])
    return y + torch.einsum("ko,kvw->ow", bias, adjacency)[:, None]


RIVALS = {
    OURS: partial(graph_conv, pattern=PATTERN),
    PRODUCT_FIRST: product_first,
    AGGREGATION_FIRST: aggregation_first,
}


@lru_cache(maxsize=1)
def arguments(layer, rows):
    channels, out, frames = layer
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, channels, frames, JOINTS, generator=generator)
    weight = torch.randn(3, out, channels, generator=generator) / channels**0.5
    adjacency = torch.from_numpy(NTU.adjacency("spatial"))
    return x, weight, adjacency, torch.randn(3, out, generator=generator)


def weights_of(layer, rows):
    """Of the result, for a scalar to derive."""
    return torch.randn(rows, layer[1], layer[2], JOINTS, generator=torch.Generator().manual_seed(1))


def leaves_of(kind, values, dtype=torch.float32):
    x, *rest = (value.to(dtype) for value in values)
    last = torch.channels_last if kind == OURS else torch.contiguous_format
    return [value.detach().clone(memory_format=torch.preserve_format).requires_grad_() for value in
            (x.contiguous(memory_format=last), *rest)]  # fmt: skip


def both(kind, leaves, cotangent):
    return torch.autograd.grad(RIVALS[kind](*leaves), leaves, cotangent)


@lru_cache
def check(layer, rows):
    """Results and gradients, once a layer."""
    values, cotangent = arguments(layer, rows), weights_of(layer, rows)
    exact = both(PRODUCT_FIRST, leaves_of(PRODUCT_FIRST, values, torch.float64), cotangent.double())
    wanted = product_first(*(value.double() for value in values))
    for kind, call in RIVALS.items():
        torch.testing.assert_close(call(*leaves_of(kind, values)).double(), wanted, rtol=1e-4, atol=1e-4)
        for place, (found, right) in enumerate(zip(both(kind, leaves_of(kind, values), cotangent), exact, strict=True)):
            mask = PATTERN if place == 2 else 1.0  # ours has no gradient where the skeleton has no edge
            error = ((found.double() - right) * mask).norm() / (right * mask).norm()
            assert float(error) < 1e-4, (kind, place, float(error))


@pytest.mark.parametrize("name", RIVALS)
@pytest.mark.parametrize("direction", ["forward", "forward + backward"])
@pytest.mark.parametrize(
    ("layer", "load"),
    [
        pytest.param(layer, load, marks=[] if layer in QUICK and load == LOADS[0] else [large])
        for layer in LAYERS
        for load in (LOADS if layer in FEW else LOADS[:1])
    ],
    ids=lambda numbers: "-".join(map(str, numbers)),
)
def test_graph_conv(race, layer, load, direction, name):
    (channels, out, frames), (rows, threads) = layer, load

    def start():
        check(layer, rows)
        values, cotangent = arguments(layer, rows), weights_of(layer, rows)
        entries = {}
        for kind, fn in RIVALS.items():
            leaves = leaves_of(kind, values)
            last = torch.channels_last if kind == OURS else torch.contiguous_format
            if direction == "forward":
                call = partial(fn, *(leaf.detach() for leaf in leaves))
            else:
                call = partial(both, kind, leaves, cotangent.contiguous(memory_format=last))
            entries[kind] = (ours if kind == OURS else rival)(call)
        return entries

    # The channel product: aggregation differs between rivals, 73 against 1,875 entries of the adjacency.
    work = 2e-9 * rows * frames * JOINTS * 3 * channels * out
    group = f"graph_conv {direction} {channels}→{out}, T={frames}, {rows} rows, {threads} threads"
    race(
        name, group, start, threads=threads, seconds=1.5, amounts={"GFLOP": work * (1 if direction == "forward" else 3)}
    )
