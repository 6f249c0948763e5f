"""The whole pretraining step: encoders hl and lh, three streams each, projector, losses, backward, Adam.

Ours is what ``asma-fast pretrain`` runs a step: views and masks of every clip its own, nothing materialised. The
rivals run PSTL's recipe (``benchmarks/rivals.py``) with the loss as a D×D matrix. Both remove 8 of 25 joints and 20
of 50 frames, both drop out half. Before timing, the loss on one set of draws is held against the rivals', dropout
off.
"""

import math
from functools import lru_cache

import pytest
import torch
from race import ours, rival
from rivals import (
    CHANNELS_LAST,
    EAGER,
    OFF_DIAGONAL,
    OURS,
    SKELETON,
    Draws,
    augment,
    augmentation_view,
    barlow_twins_dxd,
    channels_last_clips,
    encoders,
    pretraining_step,
    projector,
    random_clips,
    take_frames,
)

from asma_fast import View
from asma_fast.nn import Projector, barlow_twins_loss
from asma_fast.philox import derive_seed
from asma_fast.training.augment import Augmentation
from asma_fast.training.configs import PretrainConfig
from asma_fast.training.masks import Masking
from asma_fast.training.pretrain import ThreeStreams

large = pytest.mark.large
#: Clips and width of the projector; the first is for a quick look.
SIZES = [(8, 512), (32, 2048), (32, 6144), (128, 2048), (128, 6144)]
RIVALS = (OURS, EAGER, CHANNELS_LAST)


def racing(size):
    """All at the largest size, of half a minute a step; ``bench_pretraining_step_compiled.py`` has the others."""
    return RIVALS if size == SIZES[-1] else RIVALS[:2]


ROWS = [
    pytest.param(size, name, id=f"{name}-{size[0]}-{size[1]}", marks=[] if size == SIZES[0] else [large])
    for size in SIZES
    for name in racing(size)
]


def our_step(width, clips):
    """As ``asma_fast.training.pretrain`` steps, without its files."""
    config = PretrainConfig(projector=width, batch=len(clips))
    runs = []
    for seed, name in enumerate(config.encoders):
        encoder = encoders(config.dropout, seed=seed)[OURS]
        streams = ThreeStreams(
            encoder,
            Projector(encoder.out_channels, width),
            Augmentation(config, SKELETON),
            Masking.of(name, config, SKELETON),
        ).train()
        runs.append((streams, torch.optim.Adam(streams.parameters(), lr=config.lr, weight_decay=config.weight_decay)))
    ids, steps = torch.arange(len(clips)), iter(range(10**9))

    def step():
        place, total = next(steps), 0.0
        for which, (streams, optimiser) in enumerate(runs):
            seeds = tuple(derive_seed(0, which, place, stream) for stream in range(3))
            anchor, spatial, temporal = streams(clips, ids, seeds)
            loss = sum(barlow_twins_loss(anchor, other, config.off_diagonal) for other in (temporal, spatial))
            loss.backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)  # so that gradients of one entry at a time fill memory
            total += loss.item()
        assert math.isfinite(total)
        return total

    return step


@lru_cache
def check_loss(width=64, count=8):
    """The same draws, masks and weights: the same loss, and the same gradient of the projector's first layer."""
    clips = random_clips(count)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        anchor, spatial, temporal = (Draws.random(count) for _ in range(3))
        joints = torch.randperm(25)[:17].sort().values
        frames = torch.rand(count, 50).argsort(dim=1)[:, :30].sort(dim=1).values
        networks, head = encoders(0.0), projector(width)
    mine = Projector(256, width)
    mine.load_state_dict(head.state_dict())

    eager = networks[EAGER].train()
    z = [
        head(eager(augment(clips, anchor))),
        head(eager(augment(clips, spatial), kept=joints)),
        head(eager(take_frames(augment(clips, temporal), frames))),
    ]
    wanted = barlow_twins_dxd(z[0], z[2]) + barlow_twins_dxd(z[0], z[1])
    views = (
        augmentation_view(anchor),
        augmentation_view(spatial).then(View(joints=joints[None].int())),
        augmentation_view(temporal).then(View(frames=frames.int())),
    )
    laid_out, encoder = channels_last_clips(clips), networks[OURS].train()
    z = [mine(encoder(laid_out, view)) for view in views]
    found = sum(barlow_twins_loss(z[0], other, OFF_DIAGONAL) for other in (z[2], z[1]))
    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=1e-3)
    wanted.backward()
    found.backward()
    expected = head[0].weight.grad
    torch.testing.assert_close(mine[0].weight.grad, expected, rtol=5e-2, atol=1e-2 * float(expected.abs().max()))


@pytest.mark.parametrize(("size", "name"), ROWS)
def test_step(race, size, name):
    batch, width = size

    def start():
        check_loss()
        clips = random_clips(batch)
        entries = {OURS: ours(our_step(width, channels_last_clips(clips)))}
        for kind in racing(size)[1:]:
            entries[kind] = rival(pretraining_step(kind, width, clips))
        return entries

    group = f"pretraining step, {batch} clips, projector {width}, 2 threads"
    race(
        name,
        group,
        start,
        seconds=6.0,
        fewest=3 if size in (SIZES[0], SIZES[-1]) else 2,
        amounts={"clips": float(batch)},
    )
