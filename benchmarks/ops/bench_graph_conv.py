"""graph_conv against the ways it is written in torch, on the layers of the default encoder.

``pytest benchmarks/ops/bench_graph_conv.py`` (under a minute). Each group is one layer, direction and number of
threads; the table's brackets are the ratios. Every rival's result is checked before it is timed.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from rates import note_rate

from asma_fast import Skeleton
from asma_fast._backends import native
from asma_fast.ops import graph_conv

BATCH, JOINTS = 64, 25
LAYERS = [(3, 16, 50), (16, 16, 50), (16, 32, 50), (32, 32, 25), (32, 64, 25), (64, 64, 13), (64, 256, 13)]
THREADS = (1, 2)


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


RIVALS = {"asma_fast": graph_conv, "torch, product first": product_first, "torch, aggregation first": aggregation_first}


def arguments(channels, out, frames, *, requires_grad=False):
    generator = torch.Generator().manual_seed(0)
    adjacency = torch.from_numpy(Skeleton.named("ntu-rgb+d").adjacency("spatial"))
    x = torch.randn(BATCH, channels, frames, JOINTS, generator=generator)
    weight = torch.randn(3, out, channels, generator=generator) / channels**0.5
    bias = torch.randn(3, out, generator=generator)
    return [value.clone().requires_grad_(requires_grad) for value in (x, weight, adjacency, bias)]


def in_its_layout(rival, x):
    """Channels last for ours, and torch's own for the others: each gets what its network would hand it."""
    return x.contiguous(memory_format=torch.channels_last) if rival == "asma_fast" else x


@pytest.fixture(params=THREADS, ids=lambda threads: f"threads={threads}")
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def describe(benchmark, rival, threads, layer, direction, operations):
    channels, out, frames = layer
    benchmark.group = f"graph_conv {direction} {channels}→{out}, T={frames}, B={BATCH}, V={JOINTS}, {threads} threads"
    benchmark.extra_info |= {
        "rival": rival,
        "dtype": "float32",
        "threads": threads,
        "instruction set": native().instruction_set(),
        "multiply-adds": operations,
    }


@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: f"{layer[0]}-{layer[1]}")
def test_forward(benchmark, layer, rival, threads):
    x, *rest = arguments(*layer)
    expected = product_first(x.double(), *(value.double() for value in rest))
    x = in_its_layout(rival, x)
    fn = RIVALS[rival]
    torch.testing.assert_close(fn(x, *rest).double(), expected, rtol=1e-4, atol=1e-4)
    describe(benchmark, rival, threads, layer, "forward", BATCH * layer[2] * JOINTS * 3 * layer[0] * layer[1])
    with torch.no_grad():
        benchmark.pedantic(fn, args=(x, *rest), rounds=10, warmup_rounds=1)
    note_rate(benchmark, "GFLOP/s of the channel product", 2 * benchmark.extra_info["multiply-adds"])


@pytest.mark.parametrize("rival", ["asma_fast", "asma_fast, pattern", "torch, product first"])
@pytest.mark.parametrize("layer", [(16, 16, 50), (64, 64, 13)], ids=lambda layer: f"{layer[0]}-{layer[1]}")
def test_backward(benchmark, layer, rival, threads):
    leaves = arguments(*layer, requires_grad=True)
    pattern = leaves[2].detach() != 0 if rival == "asma_fast, pattern" else None
    name = rival.partition(", pattern")[0]

    def forward():
        x = in_its_layout(name, leaves[0])
        return RIVALS[name](x, *leaves[1:], **({} if pattern is None else {"pattern": pattern}))

    def gradients(y, g):
        return torch.autograd.grad(y, leaves, g, retain_graph=True)

    y = forward()
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    exact = list(torch.autograd.grad(product_first(*wide), wide, g.double()))
    if pattern is not None:
        exact[2] = exact[2] * pattern
    for gradient, wanted in zip(gradients(y, g), exact, strict=True):
        torch.testing.assert_close(gradient.double(), wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
    describe(benchmark, rival, threads, layer, "backward", 2 * BATCH * layer[2] * JOINTS * 3 * layer[0] * layer[1])
    benchmark.pedantic(gradients, args=(y, in_its_layout(name, g)), rounds=10, warmup_rounds=1)
