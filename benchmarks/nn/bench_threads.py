"""The encoder on two threads against one, and the eager network's own gain beside it."""

from functools import partial

import pytest
import torch
from race import Entry
from rivals import EAGER, OURS, encoder_gflop, encoders
from works import their_clips, train_call

BATCH = 32
ENTRIES = ("2 threads", "1 thread", "eager, 2 threads", "eager, 1 thread")


@pytest.mark.parametrize("direction", ["forward", pytest.param("forward + backward", marks=pytest.mark.large)])
@pytest.mark.parametrize("name", ENTRIES)
def test_threads(race, direction, name):
    def start():
        networks = encoders(0.5)
        calls = {}
        for kind in (OURS, EAGER):
            network, clips = networks[kind].train(direction != "forward"), their_clips(kind, BATCH)
            calls[kind] = train_call(network, clips) if direction != "forward" else partial(network, clips)
        if direction == "forward":
            torch.set_num_threads(1)
            alone = calls[OURS]()
            torch.set_num_threads(2)
            assert torch.equal(calls[OURS](), alone)
        return {
            ENTRIES[0]: Entry(calls[OURS], "ours", partial(torch.set_num_threads, 2)),
            ENTRIES[1]: Entry(calls[OURS], "rival", partial(torch.set_num_threads, 1)),
            ENTRIES[2]: Entry(calls[EAGER], "limit", partial(torch.set_num_threads, 2)),
            ENTRIES[3]: Entry(calls[EAGER], "limit", partial(torch.set_num_threads, 1)),
        }

    factor = 1 if direction == "forward" else 3
    with torch.set_grad_enabled(direction != "forward"):
        race(
            name,
            f"threads: encoder {direction}, {BATCH} clips",
            start,
            seconds=8.0,
            amounts={"GFLOP": factor * encoder_gflop(BATCH)},
        )
