"""Our pretraining step as it is timed, and its loss beside the rivals'."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from rivals import (
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
    projector,
    random_clips,
    take_frames,
)
from torch import Tensor

from asma_fast import View
from asma_fast.nn import Projector, barlow_twins_loss
from asma_fast.philox import derive_seed
from asma_fast.training.augment import Augmentation
from asma_fast.training.configs import PretrainConfig
from asma_fast.training.masks import Masking
from asma_fast.training.pretrain import ThreeStreams


def our_step(width: int, clips: Tensor, impl: str = "auto") -> Callable[[], float]:
    """As ``asma_fast.training.pretrain`` steps, without its files."""
    config = PretrainConfig(projector=width, batch=len(clips))
    runs = []
    for seed, name in enumerate(config.encoders):
        encoder = encoders(config.dropout, seed=seed, device=clips.device, impl=impl)[OURS]
        streams = ThreeStreams(
            encoder,
            Projector(encoder.out_channels, width),
            Augmentation(config, SKELETON),
            Masking.of(name, config, SKELETON),
        ).to(clips.device)
        streams.train()
        settings = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": clips.is_cuda or None}
        runs.append((streams, torch.optim.Adam(streams.parameters(), **settings)))
    ids, steps = torch.arange(len(clips), device=clips.device), iter(range(10**9))

    def step() -> float:
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
def check_loss(width: int = 64, count: int = 8, device: str = "cpu", impl: str = "auto") -> None:
    """The same draws, masks and weights: the same loss, and the same gradient of the projector's first layer."""
    clips = random_clips(count).to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        anchor, spatial, temporal = (Draws.random(count).to(device) for _ in range(3))
        joints = torch.randperm(25)[:17].sort().values.to(device)
        frames = torch.rand(count, 50).argsort(dim=1)[:, :30].sort(dim=1).values.to(device)
        networks, head = encoders(0.0, device=device, impl=impl), projector(width).to(device)
    mine = Projector(256, width).to(device)
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
