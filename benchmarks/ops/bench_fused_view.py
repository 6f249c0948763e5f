"""A batch's view, its normalisation and first graph convolution in one pass, beside the chain that PSTL's code runs.

The eager chain is crop → shear → three rotations → flip → (frames) → batch-norm → (joints) → 1×1 convolution → dense
adjacency, each a pass over the batch. The limit is a copy that writes as many bytes as the result has.
"""

import pytest
import torch
from machine import peak_memory
from race import limit, ours, rival
from rivals import EAGER, OURS
from works import FirstLayer

LIMIT = "writing the result"
large = pytest.mark.large


@pytest.mark.parametrize(
    ("stream", "count", "threads"),
    [
        pytest.param("anchor", 128, 2, marks=large),
        ("spatial", 1, 2),
        ("spatial", 128, 2),
        pytest.param("spatial", 128, 1, marks=large),
        ("temporal", 128, 2),
    ],
)
@pytest.mark.parametrize("name", [OURS, EAGER, LIMIT])
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
        return {
            OURS: ours(layer.ours, note=notes[OURS]),
            EAGER: rival(layer.eager, note=notes[EAGER]),
            LIMIT: limit(lambda: out.fill_(1.0)),
        }

    layer_bytes = FirstLayer(stream, 1).result_bytes * count
    group = f"fused view + graph_conv, {stream} stream, {count} clips, {threads} threads"
    with torch.no_grad():
        race(name, group, start, threads=threads, amounts={"GB": 1e-9 * layer_bytes})
