"""A batch's view, its normalisation and first graph convolution in one pass, beside the chain that PSTL's code runs.

The eager chain is crop → shear → three rotations → flip → (frames) → batch-norm → (joints) → 1×1 convolution → dense
adjacency, each a pass over the batch. The limit writes as many bytes as the result has.
"""

import pytest
import torch
from machine import peak_memory
from race import limit, ours, rival
from rivals import COMPILED, EAGER, OURS
from works import FirstLayer

LIMIT = "writing the result"
large, compiles = pytest.mark.large, pytest.mark.compiles
COMPILES = ("spatial", 128, 2)
#: Stream, clips, threads.
FIELDS = [("anchor", 128, 2), ("spatial", 1, 2), COMPILES, ("spatial", 128, 1), ("temporal", 128, 2)]
QUICK = FIELDS[1:3]
TABLE = [
    pytest.param(
        *field,
        name,
        id="-".join(map(str, (name, *field))),
        marks=[compiles] * (name == COMPILED) + [large] * (field not in QUICK or name == COMPILED),
    )
    for field in FIELDS
    for name in (OURS, EAGER, COMPILED, LIMIT)
    if name != COMPILED or field == COMPILES
]


@pytest.mark.parametrize(("stream", "count", "threads", "name"), TABLE)
def test_forward(race, name, stream, threads, count):
    def start():
        layer = FirstLayer(stream, count)
        # Rotations one after the other against their product: float32 apart by some rounding.
        torch.testing.assert_close(layer.ours(), layer.eager(), rtol=1e-4, atol=2e-4)
        out = torch.empty(layer.result_bytes // 4)
        notes = {OURS: {}, EAGER: {}}
        if count > 1 and race.benchmark.enabled:
            told = stream == "spatial" and threads == 2
            notes = {kind: peak_memory("view", kind, count) if told else {} for kind in notes}
            for note in notes.values():
                note["result MB"] = round(layer.result_bytes / 1e6, 1)
        entries = {
            OURS: ours(layer.ours, note=notes[OURS]),
            EAGER: rival(layer.eager, note=notes[EAGER]),
            LIMIT: limit(lambda: out.fill_(1.0)),
        }
        if (stream, count, threads) == COMPILES and race.full:
            entries[COMPILED] = rival(torch.compile(layer.eager, dynamic=False))
            torch.testing.assert_close(layer.ours(), entries[COMPILED].call(), rtol=1e-4, atol=2e-4)
        return entries

    layer_bytes = FirstLayer(stream, 1).result_bytes * count
    group = f"fused view + graph_conv, {stream} stream, {count} clips, {threads} threads"
    with torch.no_grad():
        race(name, group, start, threads=threads, amounts={"GB": 1e-9 * layer_bytes})


@pytest.mark.parametrize("name", [OURS, EAGER])
def test_forward_and_backward(race, name):
    """Gradients of weight and bias, as of an encoder's first layer: the clips need none."""
    stream, count, threads = COMPILES

    def start():
        layer = FirstLayer(stream, count)
        leaves = [leaf.requires_grad_() for leaf in (layer.weight, layer.bias)]
        cotangent = torch.randn(layer.ours().shape, generator=torch.Generator().manual_seed(5))

        def call(kind):
            return torch.autograd.grad(layer.call(kind)(), leaves, cotangent)

        for found, wanted in zip(call(OURS), call(EAGER), strict=True):
            assert float((found - wanted).norm() / wanted.norm()) < 1e-3
        return {OURS: ours(lambda: call(OURS)), EAGER: rival(lambda: call(EAGER))}

    group = f"fused view + graph_conv, forward + backward, {stream} stream, {count} clips, {threads} threads"
    race(name, group, start, threads=threads)
