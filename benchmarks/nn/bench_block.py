"""One training block (graph convolution, two batch-norms, temporal convolution, dropout 0.5, residual, ReLU) in train
mode.

The published network's block and ours with the same weights, on maps of 64 rows in each one's layout. With dropout 0
the results are held against each other before timing. Saved memory is what forward keeps for backward.
"""

from functools import lru_cache, partial

import pytest
import torch
from machine import saved_for_backward
from published_networks import PublishedNetwork, in_channels_last, published_adjacency
from race import ours, rival
from rivals import CHANNELS_LAST, COMPILED, EAGER, JOINTS, OURS, SKELETON, real_taps

from asma_fast.compat import load_stgcn_state_dict
from asma_fast.nn import STGCN

ROWS = 64
#: Channels in and out, frames, stride, of the default encoder; threads; whether torch.compile, which takes its time,
#: races too.
FIELDS = [
    ((16, 16, 50, 1), 2, False),
    ((32, 64, 25, 2), 2, False),
    ((64, 256, 13, 1), 2, True),
    ((64, 256, 13, 1), 1, False),
]
QUICK = FIELDS[0], FIELDS[2]


def racing(field, quick=False):
    """Who races. A quick look does without torch.compile."""
    return (OURS, EAGER, CHANNELS_LAST, COMPILED)[: 4 if field[2] and not quick else 3]


TABLE = [
    pytest.param(
        field,
        name,
        id=f"{name}-{field[0][0]}-{field[0][1]}-{field[1]} threads",
        marks=[] if field in QUICK and name != COMPILED else [pytest.mark.large],
    )
    for field in FIELDS
    for name in racing(field)
]


def blocks(layer, dropout, kinds):
    """``{kind: (block's forward on its own map, its parameters, the map)}``; the map needs a gradient."""
    channels, out, frames, stride = layer
    torch.manual_seed(0)
    network = PublishedNetwork(
        published_adjacency(JOINTS, SKELETON.edges, SKELETON.centre[0]), (channels, out), (1, stride), dropout=dropout
    ).train()
    twin = STGCN(SKELETON, (channels, out), strides=(1, stride), dropout=dropout).train()
    load_stgcn_state_dict(twin, network.state_dict())
    x = torch.randn(ROWS, channels, frames, JOINTS)
    found = {}
    for kind in kinds:
        last = kind in (OURS, CHANNELS_LAST)
        leaf = x.clone(memory_format=torch.channels_last if last else torch.contiguous_format).requires_grad_()
        if kind == OURS:
            call = partial(twin.blocks[1], leaf, seed=torch.tensor(1), ids=torch.arange(ROWS // 2))
            found[kind] = call, twin.blocks[1], leaf
            continue
        torch.manual_seed(0)
        module = PublishedNetwork(network.A, (channels, out), (1, stride), dropout=dropout).train()
        module.load_state_dict(network.state_dict())
        if kind == CHANNELS_LAST:
            module = in_channels_last(module).to(memory_format=torch.channels_last)
        block = module.st_gcn_networks[1]
        run = torch.compile(block, dynamic=False) if kind == COMPILED else block
        importance = module.edge_importance[1]
        # The adjacency is weighted within the timing, as in the network's forward.
        call = partial(lambda run, leaf, a, w: run(leaf, a * w), run, leaf, module.A, importance)
        found[kind] = call, torch.nn.ParameterList([*block.parameters(), importance]), leaf
    return found


@lru_cache
def check(layer):
    """Dropout off: results, and the gradient of the map; once a layer."""
    results = {}
    for kind, (call, _, leaf) in blocks(layer, 0.0, (OURS, EAGER, CHANNELS_LAST)).items():
        y = call()
        weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
        results[kind] = y.detach(), torch.autograd.grad(y, leaf, weights)[0]
    for kind, (y, gradient) in results.items():
        wanted, expected = results[EAGER]
        torch.testing.assert_close(y, wanted, rtol=1e-3, atol=1e-3, msg=lambda text, kind=kind: f"{kind}: {text}")
        assert float((gradient - expected).norm() / expected.norm()) < 1e-2, kind


def gflop(layer):
    channels, out, frames, stride = layer
    kept = -(-frames // stride)
    products = frames * 3 * channels * out + real_taps(frames, stride) * out * out
    return 2e-9 * ROWS * JOINTS * (products + kept * channels * out * (channels != out or stride != 1))


@pytest.mark.parametrize("direction", ["forward", "forward + backward"])
@pytest.mark.parametrize(("field", "name"), TABLE)
def test_block(race, direction, field, name):
    layer, threads, _ = field
    kinds = racing(field, quick=not race.full)

    def start():
        check(layer)
        entries = {}
        for kind, (call, parameters, leaf) in blocks(layer, 0.5, kinds).items():
            saved = None if kind == COMPILED else saved_for_backward(call, parameters)  # the hooks would recompile
            note = {} if saved is None else {"saved MB": round(saved, 2)}
            if direction != "forward":
                call = partial(both, call, [leaf, *parameters.parameters()], torch.ones_like(call()))
            if kind == COMPILED:
                call()  # compiles
            entries[kind] = (ours if kind == OURS else rival)(call, note=note)
        return entries

    channels, out, frames, stride = layer
    group = f"block {direction} {channels}→{out}, T={frames}, stride {stride}, {ROWS} rows, {threads} threads"
    times = 1 if direction == "forward" else 3
    race(name, group, start, threads=threads, amounts={"GFLOP": times * gflop(layer)})


def both(call, leaves, cotangent):
    torch.autograd.grad(call(), leaves, cotangent)
