"""One clip in int8: the engine's integers, its own float32, and each rival's static quantisation.

Random weights and clips: times, not accuracy, which ``benchmarks/accuracy/edge_accuracy.py`` measures on real ones.
Before timing, logits are held against the eager network's, of whose range int8 may be a twentieth off.
"""

import pytest
import torch
from edge_rivals import INT8_RIVALS, NETWORKS, OURS, Network, call_of
from race import limit, ours, rival
from rivals import random_clips

FLOAT = "asma_fast, float32"
QUICK = "student"
TABLE = [
    pytest.param(of, name, id=f"{name}-{of}", marks=[pytest.mark.large] if of != QUICK else [])
    for of in NETWORKS
    for name in (OURS, FLOAT, *INT8_RIVALS)
]


@pytest.mark.parametrize(("of", "name"), TABLE)
def test_int8_clip(race, of, name, tmp_path):
    def start():
        network, clips = Network(of, tmp_path), random_clips(1)
        with torch.inference_mode():
            wanted = network.model(clips)
        calls = {name: call_of(name, network, clips, 1, int8=True) for name in (OURS, *INT8_RIVALS)}
        for name, call in calls.items():
            off = (torch.from_numpy(call()) - wanted).abs().max() / wanted.abs().max()
            assert off < 0.05, f"{name}: {off:.3f} of the range off"
        entries = {name: (ours if name == OURS else rival)(call) for name, call in calls.items()}
        return entries | {FLOAT: limit(call_of(OURS, network, clips, 1))}

    race(name, f"edge, int8: {of}, clips: 1, threads: 1", start, threads=1, seconds=6.0)
