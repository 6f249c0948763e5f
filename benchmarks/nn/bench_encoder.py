"""The default encoder (PSTL's, 821,380 parameters) on clips of two bodies, 50 frames and 25 joints.

Every rival has the same weights. Before timing, outputs in eval mode, and with dropout 0 outputs and gradients in
training mode, are held against the eager network's. torch.compile fixes the threads when it compiles, so it races
where both threads do.
"""

from functools import lru_cache

import pytest
import torch
from machine import peak_memory, saved_for_backward
from race import ours, rival
from rivals import CHANNELS_LAST, COMPILED, EAGER, NETWORKS, OURS, SKELETON, encoder_gflop, encoders
from works import their_clips, train_call

large, compiles = pytest.mark.large, pytest.mark.compiles
#: Clips, threads, and whether torch.compile, which takes its time, races too.
FIELDS = [(1, 2, False), (32, 1, False), (32, 2, True), (64, 2, False)]
QUICK = FIELDS[2]
TABLE = [
    pytest.param(
        field,
        name,
        id=f"{name}-{field[0]} clips-{field[1]} threads",
        marks=[large] if field != QUICK else [compiles] if name == COMPILED else [],
    )
    for field in FIELDS
    for name in NETWORKS
    if field[2] or name != COMPILED
]


def racing(field, race):
    """``{kind: network}`` with the same weights, dropout 0.5."""
    compiled = field[2] and race.benchmark.enabled
    return {kind: network for kind, network in encoders(0.5).items() if kind != COMPILED or compiled}


def entry(name, call, note=None):
    return (ours if name == OURS else rival)(call, note=note or {})


@pytest.mark.parametrize(("field", "name"), TABLE)
def test_forward(race, field, name):
    batch, threads, _ = field

    def start():
        networks = {kind: network.eval() for kind, network in racing(field, race).items()}
        clips = {kind: their_clips(kind, batch) for kind in networks}
        expected = networks[EAGER](clips[EAGER])
        for kind in networks:
            torch.testing.assert_close(networks[kind](clips[kind]), expected, rtol=1e-3, atol=1e-4, msg=kind)
        return {kind: entry(kind, lambda kind=kind: networks[kind](clips[kind])) for kind in networks}

    group = f"encoder forward, {batch} clips, {threads} threads"
    with torch.no_grad():
        race(
            name,
            group,
            start,
            threads=threads,
            seconds=12.0 if field == QUICK else 5.0,
            fewest=None if field == QUICK else 3,
            amounts={"GFLOP": encoder_gflop(batch), "clips": float(batch)},
        )


@pytest.mark.parametrize(("field", "name"), TABLE)
def test_forward_and_backward(race, field, name):
    batch, threads, _ = field

    def start():
        check_gradients()
        networks = {kind: network.train() for kind, network in racing(field, race).items()}
        calls = {kind: train_call(network, their_clips(kind, batch)) for kind, network in networks.items()}
        notes = {kind: memory(kind, network, batch) if field == QUICK else {} for kind, network in networks.items()}
        if COMPILED in calls:
            calls[COMPILED]()  # compiles
        return {kind: entry(kind, call, notes[kind]) for kind, call in calls.items()}

    def memory(kind, network, batch):
        if not race.benchmark.enabled or kind == COMPILED:  # its peak would measure the compiler, and hooks recompile
            return {}
        clips = their_clips(kind, batch)
        return peak_memory("encoder", kind, batch) | {
            "saved MB": round(saved_for_backward(lambda: network(clips), network), 1)
        }

    group = f"encoder forward + backward, {batch} clips, {threads} threads"
    race(
        name,
        group,
        start,
        threads=threads,
        seconds=20.0 if field == QUICK else 8.0,
        fewest=None if field == QUICK else 3,
        amounts={"GFLOP": 3 * encoder_gflop(batch), "clips": float(batch)},
    )


@lru_cache
def check_gradients():
    """With dropout 0: features, and gradients of parameters early, in the middle and late."""
    weights = torch.randn(8, 256, generator=torch.Generator().manual_seed(5))
    published = ("data_bn.weight", "st_gcn_networks.4.tcn.2.weight", "edge_importance.9")
    names = ("input_norm.weight", "blocks.4.temporal_conv.weight", "blocks.9.graph_conv.edge_importance")
    edges = torch.from_numpy(SKELETON.pattern("spatial")).flatten()  # elsewhere edge importance multiplies zero
    gradients, features = {}, {}
    for kind, network in encoders(0.0).items():
        if kind == COMPILED:  # the eager network's code, compiled for the timed shape alone
            continue
        features[kind] = train_call(network.train(), their_clips(kind, 8), weights)()
        parameters = dict(network.named_parameters())
        found = [parameters[name].grad.flatten() for name in (names if kind == OURS else published)]
        gradients[kind] = [*found[:2], found[2][edges]]
    for kind in (OURS, CHANNELS_LAST):
        torch.testing.assert_close(features[kind], features[EAGER], rtol=1e-3, atol=1e-4)
        for name, found, wanted in zip(names, gradients[kind], gradients[EAGER], strict=True):
            # In norm: where rounding moves a ReLU's sign, single entries differ.
            error = float((found - wanted).norm() / wanted.norm())
            assert error < 1e-2, f"{kind}: the gradient of {name} is {error:.1e} off"
