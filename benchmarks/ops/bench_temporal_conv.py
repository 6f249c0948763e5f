"""Temporal convolutions of the default encoder against torch's own.

A group is one shape, batch, direction and number of threads, with its rivals: torch's conv2d on contiguous and on
channels-last maps. Results and gradients are held against float64 before timing. Taps in the padding are no work.
"""

from __future__ import annotations

from functools import lru_cache, partial

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
#: Rows (64 are 32 clips) and threads; others than the first only for some shapes.
LOADS = [(64, 2), (64, 1), (1, 2)]
FEW = [(16, 50, 1), (64, 25, 2), (256, 13, 1)]
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


def arguments(shape, rows):
    """Map, weight and bias, and weights of the result for a scalar to derive."""
    channels, frames, stride = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, channels, frames, JOINTS, generator=generator)
    weight = torch.randn(channels, channels, TAPS, 1, generator=generator) / TAPS
    bias = torch.randn(channels, generator=generator)
    return (x, weight, bias), torch.randn(rows, channels, -(-frames // stride), JOINTS, generator=generator)


@lru_cache
def check(shape, rows):
    """Results and gradients, once a shape."""
    (values, cotangent), stride = arguments(shape, rows), shape[2]
    leaves = leaves_of(EAGER, values, torch.float64)
    wanted, exact = convolve(EAGER, stride, *leaves), both(EAGER, stride, leaves, cotangent.double())
    for kind in KINDS:
        leaves = leaves_of(kind, values)
        torch.testing.assert_close(convolve(kind, stride, *leaves).double(), wanted, rtol=1e-4, atol=1e-3)
        for found, right in zip(both(kind, stride, leaves, cotangent), exact, strict=True):
            assert float((found.reshape(right.shape).double() - right).norm() / right.norm()) < 1e-4, kind


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("direction", ["forward", "forward + backward"])
@pytest.mark.parametrize(
    ("shape", "load"),
    [
        pytest.param(shape, load, marks=[] if shape in QUICK and load == LOADS[0] else [large])
        for shape in SHAPES
        for load in (LOADS if shape in FEW else LOADS[:1])
    ],
    ids=lambda numbers: "-".join(map(str, numbers)),
)
def test_temporal_conv(race, shape, load, direction, name):
    (channels, frames, stride), (rows, threads) = shape, load

    def start():
        check(shape, rows)
        values, cotangent = arguments(shape, rows)
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
        name, group, start, threads=threads, seconds=1.5, amounts={"GFLOP": work * (1 if direction == "forward" else 3)}
    )
