"""A causal network frame by frame: what a frame costs in the mean over a period of the strides, two bodies, one thread.

Beside it the engine that runs the last 50 frames again at every frame, and CoST-GCN's kind of network (Hedegaard et
al., 2023) by continual-inference, where it is installed: the same graph and temporal convolutions without residuals,
batch-norms and preprocessing, which ours has.
"""

import logging
from importlib.util import find_spec
from math import prod

import pytest
import torch
from edge_rivals import CLASSES, NETWORKS, OURS
from race import ours, rival
from rivals import SKELETON, random_clips
from torch import nn

from asma_fast.data import Preprocessing
from asma_fast.edge import Session, export
from asma_fast.nn import STGCN, Classifier

SPREAD, AGAIN, COSTGCN = "asma_fast, spread", "the last 50 frames again", "continual-inference"
NAMES = (OURS, SPREAD, AGAIN, *([COSTGCN] if find_spec("continual") else []))


class _Graph(nn.Module):
    """Of one frame ``(M, C, 1, V)``."""

    def __init__(self, wide: int, out: int) -> None:
        super().__init__()
        self.adjacency = nn.Parameter(torch.rand(3, len(SKELETON), len(SKELETON)))
        self.conv = nn.Conv2d(3 * wide, out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(torch.cat([x @ part for part in self.adjacency], dim=1)))


def _costgcn(channels, strides, taps):
    import continual

    logging.getLogger("continual").setLevel(logging.ERROR)
    layers, wide = [], 3
    for out, stride in zip(channels, strides, strict=True):
        conv = continual.Conv2d(out, out, (taps, 1), stride=(stride, 1))
        layers.append(continual.Sequential(continual.forward_stepping(_Graph(wide, out)), conv))
        wide = out
    return continual.Sequential(*layers).eval()


@pytest.mark.parametrize(("of", "name"), [(of, name) for of in NETWORKS for name in NAMES])
def test_frame(race, of, name, tmp_path):
    network = NETWORKS[of]
    period = prod(network["strides"])

    def start():
        torch.manual_seed(0)
        model = Classifier(STGCN(SKELETON, **network, causal=True), CLASSES).eval()
        session = Session(export(model, tmp_path / "model.safetensors", preprocessing=Preprocessing(50), rate=30))
        clip = random_clips(1)[0].permute(3, 1, 2, 0).contiguous()  # (M, T, V, C)
        frames = list(clip.transpose(0, 1).contiguous().numpy())
        given, place = clip[None].numpy(), 0

        def pushing(stream):
            def call():
                nonlocal place
                for _ in range(period):
                    place = (place + 1) % len(frames)
                    answer = stream.push(frames[place])
                return answer

            return call

        def again():
            for _ in range(period):
                session.run(given, preprocessed=True)

        streams = {kind: session.stream("continual", spread=kind == SPREAD) for kind in (OURS, SPREAD)}
        entries = {kind: ours(pushing(stream)) for kind, stream in streams.items()} | {AGAIN: rival(again)}
        assert all(any(stream.push(frame) is not None for frame in frames) for stream in streams.values())
        if COSTGCN in NAMES:
            costgcn, bodies = _costgcn(**network), clip.permute(1, 0, 3, 2).contiguous()  # (T, M, C, V)

            @torch.inference_mode()
            def stepping():
                nonlocal place
                for _ in range(period):
                    place = (place + 1) % len(bodies)
                    costgcn.forward_step(bodies[place])

            entries[COSTGCN] = rival(stepping)
        return entries

    race(name, f"edge, stream: {of}, frames: {period}, threads: 1", start, threads=1, seconds=4.0)
