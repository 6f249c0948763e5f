"""Temporal convolutions of the default encoder against torch's own: ``pytest benchmarks/ops/bench_temporal_conv.py``.

A group is one shape, direction and number of threads, with its rivals: torch's eager conv2d on contiguous and on
channels-last maps, and torch's matrix product of as many multiply-adds (``mm``: what the machine gives). Compare
within a group only. ``extra_info`` holds GFLOP/s; padded taps are not counted as work.
"""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from rates import note_rate
from torch.nn.functional import conv2d

from asma_fast.ops import temporal_conv

JOINTS, TAPS, BATCH = 25, 9, 8
SHAPES = [(16, 50, 1), (32, 50, 1), (32, 50, 2), (64, 25, 1), (64, 25, 2), (256, 13, 1), (256, 25, 2)]
RIVALS = ["asma_fast", "contiguous", "channels_last", "mm"]


@pytest.fixture(params=[1, 2], ids=lambda n: f"{n}thread")
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def _work(channels: int, frames: int, stride: int) -> int:
    """Floating-point operations of one convolution, taps that meet padding left out."""
    real = sum(0 <= t + tap - TAPS // 2 < frames for t in range(0, frames, stride) for tap in range(TAPS))
    return 2 * BATCH * real * JOINTS * channels * channels


def _tensors(rival: str, channels: int, frames: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, channels, frames, JOINTS, generator=generator)
    weight = torch.randn(channels, channels, TAPS, 1, generator=generator) / TAPS
    bias = torch.randn(channels, generator=generator)
    if rival == "asma_fast":
        return [x.contiguous(memory_format=torch.channels_last), weight[..., 0].contiguous(), bias]
    layout = torch.channels_last if rival == "channels_last" else torch.contiguous_format
    return [x.contiguous(memory_format=layout), weight.contiguous(memory_format=layout), bias]


def _convolve(rival: str, stride: int, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    if rival == "asma_fast":
        return temporal_conv(x, weight, bias, stride=stride, impl="cpu")
    return conv2d(x, weight, bias, stride=(stride, 1), padding=(TAPS // 2, 0))


@lru_cache
def _exact(channels: int, frames: int, stride: int) -> torch.Tensor:
    return _convolve("contiguous", stride, *(t.double() for t in _tensors("contiguous", channels, frames)))


@lru_cache
def _exact_gradients(channels: int, frames: int, stride: int) -> tuple[torch.Tensor, ...]:
    return _backward("contiguous", channels, frames, stride, torch.float64)[1]


def _matrix_product(work: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows = max(1, work // (2 * 512 * 512))
    return torch.randn(rows, 512), torch.randn(512, 512)


@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.parametrize(("channels", "frames", "stride"), SHAPES)
def test_forward(benchmark, threads, channels, frames, stride, rival):
    benchmark.group = f"forward C={channels} T={frames} stride={stride}, {threads} threads"
    work = _work(channels, frames, stride)
    if rival == "mm":
        a, b = _matrix_product(work)
        run = lambda: a @ b  # noqa: E731
    else:
        tensors = _tensors(rival, channels, frames)
        exact = _exact(channels, frames, stride)
        torch.testing.assert_close(_convolve(rival, stride, *tensors).double(), exact, rtol=1e-4, atol=1e-3)
        run = lambda: _convolve(rival, stride, *tensors)  # noqa: E731
    with torch.no_grad():
        benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    note_rate(benchmark, "GFLOP/s", work)


@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.parametrize(("channels", "frames", "stride"), SHAPES[::2])
def test_backward(benchmark, threads, channels, frames, stride, rival):
    benchmark.group = f"backward C={channels} T={frames} stride={stride}, {threads} threads"
    work = 2 * _work(channels, frames, stride)
    if rival == "mm":
        a, b = _matrix_product(work)
        run = lambda: a @ b  # noqa: E731
    else:
        run, gradients = _backward(rival, channels, frames, stride)
        for gradient, wanted in zip(gradients, _exact_gradients(channels, frames, stride), strict=True):
            torch.testing.assert_close(gradient.reshape(wanted.shape).double(), wanted, rtol=1e-3, atol=1e-2)
    benchmark.pedantic(run, rounds=3, warmup_rounds=1)
    note_rate(benchmark, "GFLOP/s", work)


def _backward(rival: str, channels: int, frames: int, stride: int, dtype: torch.dtype = torch.float32):
    leaves = [tensor.to(dtype).requires_grad_() for tensor in _tensors(rival, channels, frames)]
    result = _convolve(rival, stride, *leaves)
    cotangent = torch.empty_like(result).copy_(torch.randn(result.shape, generator=torch.Generator().manual_seed(1)))
    run = lambda: torch.autograd.grad(result, leaves, cotangent, retain_graph=True)  # noqa: E731
    return run, run()
