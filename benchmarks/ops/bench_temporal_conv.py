"""Temporal convolutions of the default encoder against torch's own.

A group is one shape, batch, direction and number of threads, with its rivals: torch's conv2d on contiguous and on
channels-last maps. Results and gradients are held against float64 before timing. Taps in the padding are no work.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from race import ours, rival
from rivals import CHANNELS_LAST, EAGER, JOINTS, OURS, real_taps
from torch.nn.functional import conv2d

from asma_fast.ops import temporal_conv

TAPS = 9
#: Channels, frames, stride.
SHAPES = [(16, 50, 1), (32, 50, 2), (32, 25, 1), (64, 25, 2), (64, 13, 1), (256, 13, 1)]
QUICK = [(16, 50, 1), (64, 25, 2)]
KINDS = (OURS, EAGER, CHANNELS_LAST)
large = pytest.mark.large


def leaves_of(kind, values, dtype=torch.float32):
    x, weight, bias = (value.to(dtype) for value in values)
    if kind == OURS:
        made = [x.contiguous(memory_format=torch.channels_last), weight[..., 0].contiguous(), bias]
    else:
        layout = torch.channels_last if kind == CHANNELS_LAST else torch.contiguous_format
        made = [x.contiguous(memory_format=layout), weight.contiguous(memory_format=layout), bias]
    return [value.detach().clone().requires_grad_() for value in made]


def convolve(kind, stride, x, weight, bias):
    if kind == OURS:
        return temporal_conv(x, weight, bias, stride=stride)
    return conv2d(x, weight, bias, stride=(stride, 1), padding=(TAPS // 2, 0))


def both(kind, stride, leaves, cotangent):
    return torch.autograd.grad(convolve(kind, stride, *leaves), leaves, cotangent)


def check(values, stride, cotangent):
    leaves = leaves_of(EAGER, values, torch.float64)
    wanted, exact = convolve(EAGER, stride, *leaves), both(EAGER, stride, leaves, cotangent.double())
    for kind in KINDS:
        leaves = leaves_of(kind, values)
        torch.testing.assert_close(convolve(kind, stride, *leaves).double(), wanted, rtol=1e-4, atol=1e-3)
        for found, right in zip(both(kind, stride, leaves, cotangent), exact, strict=True):
            assert float((found.reshape(right.shape).double() - right).norm() / right.norm()) < 1e-4, kind


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("threads", [pytest.param(1, marks=large), 2])
@pytest.mark.parametrize("rows", [pytest.param(1, marks=large), 64])
@pytest.mark.parametrize("direction", ["forward", "forward + backward"])
@pytest.mark.parametrize(
    "shape",
    [pytest.param(shape, marks=[] if shape in QUICK else [large]) for shape in SHAPES],
    ids=lambda shape: "C{}-T{}-stride{}".format(*shape),
)
def test_temporal_conv(race, shape, direction, rows, threads, name):
    channels, frames, stride = shape

    def start():
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(rows, channels, frames, JOINTS, generator=generator)
        weight = torch.randn(channels, channels, TAPS, 1, generator=generator) / TAPS
        values = x, weight, torch.randn(channels, generator=generator)
        cotangent = torch.randn(rows, channels, -(-frames // stride), JOINTS, generator=generator)
        check(values, stride, cotangent)
        entries = {}
        for kind in KINDS:
            leaves = leaves_of(kind, values)
            layout = torch.contiguous_format if kind == EAGER else torch.channels_last
            if direction == "forward":
                call = partial(convolve, kind, stride, *(leaf.detach() for leaf in leaves))
            else:
                call = partial(both, kind, stride, leaves, cotangent.contiguous(memory_format=layout))
            entries[kind] = (ours if kind == OURS else rival)(call)
        return entries

    work = 2e-9 * rows * real_taps(frames, stride, TAPS) * JOINTS * channels**2
    group = f"temporal_conv {direction} C={channels}, T={frames}, stride {stride}, {rows} rows, {threads} threads"
    race(
        name, group, start, threads=threads, seconds=2.0, amounts={"GFLOP": work * (1 if direction == "forward" else 3)}
    )
