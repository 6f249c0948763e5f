"""The two products that make up most of the encoder, beside sgemm of the same multiply-adds.

``64→256 ×1`` is a channel product, ``256→256 ×9`` the last block's temporal convolution, both on the maps of 32
clips. Operations are those of the direct convolution, taps in the padding left out, whatever algorithm runs; sgemm
gets as many rows as make the same number, of the product's own depth and width.
"""

import pytest
import torch
import torch.nn.functional as F
from race import limit, ours, rival
from rivals import CHANNELS_LAST, EAGER, JOINTS, OURS, real_taps

from asma_fast.ops import temporal_conv

ROWS, FRAMES = 64, 13
SHAPES = [(64, 256, 1), (256, 256, 9)]
ENTRIES = (OURS, EAGER, CHANNELS_LAST, "sgemm")


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "{}-{}x{}".format(*shape))
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ENTRIES)
def test_micro_kernel(race, shape, threads, name):
    channels, out, taps = shape
    work = ROWS * JOINTS * real_taps(FRAMES, 1, taps) * channels * out

    def start():
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(ROWS, channels, FRAMES, JOINTS, generator=generator)
        weight = torch.randn(out, channels, taps, generator=generator) / (channels * taps) ** 0.5
        last, wide = x.contiguous(memory_format=torch.channels_last), weight[..., None]
        exact = F.conv2d(x.double(), wide.double(), padding=(taps // 2, 0))
        calls = {
            OURS: lambda: temporal_conv(last, weight),
            EAGER: lambda: F.conv2d(x, wide, padding=(taps // 2, 0)),
            CHANNELS_LAST: lambda: F.conv2d(last, packed, padding=(taps // 2, 0)),
        }
        packed = wide.contiguous(memory_format=torch.channels_last)
        for call in calls.values():
            torch.testing.assert_close(call().double(), exact, rtol=1e-4, atol=1e-4)
        depth = channels * taps
        a, b = torch.randn(max(1, work // (depth * out)), depth), torch.randn(depth, out)
        product = torch.empty(len(a), out)
        entries = {kind: (ours if kind == OURS else rival)(call) for kind, call in calls.items()}
        return entries | {"sgemm": limit(lambda: torch.mm(a, b, out=product))}

    group = f"micro-kernel {channels}→{out} ×{taps}, T={FRAMES}, {threads} threads"
    with torch.no_grad():
        race(name, group, start, threads=threads, amounts={"GFLOP": 2e-9 * work})
