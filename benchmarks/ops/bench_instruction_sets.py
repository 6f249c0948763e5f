"""The same source compiled for each instruction set, on one thread: the widest one's gain over the others."""

from functools import partial

import pytest
import torch
from race import Entry
from rivals import OURS, SKELETON, encoder_gflop, encoders, real_taps
from works import their_clips, train_call

from asma_fast._backends import native
from asma_fast.ops import graph_conv, temporal_conv

USED = native().instruction_set()
# Those that end so have the float32 kernels of the one before.
SETS = [
    name for name in native().available_instruction_sets() if not name.endswith(("generic", "vnni", "dotprod"))
] or ["generic"]
WIDEST = SETS[-1]
ROWS, BATCH = 64, 8
PRODUCTS = ROWS * 13 * 25 * 3 * 64 * 256
TAPS = ROWS * real_taps(13) * 25 * 256 * 256


def _graph_conv():
    x = torch.randn(ROWS, 64, 13, 25).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(3, 256, 64) / 8, torch.randn(3, 256)
    adjacency, pattern = (torch.from_numpy(a) for a in (SKELETON.adjacency("spatial"), SKELETON.pattern("spatial")))
    return partial(graph_conv, x, weight, adjacency, bias, pattern=pattern)


def _temporal_conv():
    x = torch.randn(ROWS, 256, 13, 25).contiguous(memory_format=torch.channels_last)
    return partial(temporal_conv, x, torch.randn(256, 256, 9) / 48)


def _encoder():
    return train_call(encoders(0.5)[OURS].train(), their_clips(OURS, BATCH))


WORKS = {
    "graph_conv": (_graph_conv, 2e-9 * PRODUCTS),
    "temporal_conv": (_temporal_conv, 2e-9 * TAPS),
    "encoder forward + backward": (_encoder, 3 * encoder_gflop(BATCH)),
}


@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize("name", SETS)
def test_instruction_set(race, work, name):
    make, gflop = WORKS[work]

    def start():
        torch.manual_seed(0)
        call = make()
        results = {}
        for which in SETS:
            native().set_instruction_set(which)
            if work != "encoder forward + backward":
                results[which] = call()
        for result in results.values():
            torch.testing.assert_close(result, results[WIDEST], rtol=1e-4, atol=1e-3)
        return {
            which: Entry(
                call,
                "rival" if which == WIDEST else "ours",
                partial(native().set_instruction_set, which),
                {"instruction set": which},
            )
            for which in SETS
        }

    try:
        race(name, f"instruction sets: {work}", start, threads=1, amounts={"GFLOP": gflop})
    finally:
        native().set_instruction_set(USED)
