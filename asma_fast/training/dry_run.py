"""A pretraining run before it is started: one step of each encoder on a few clips, what it would take, nothing kept."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from asma_fast.nn import barlow_twins_loss
from asma_fast.philox import derive_seed
from asma_fast.training.batches import EpochBatches
from asma_fast.training.configs import PretrainConfig
from asma_fast.training.dataset import HELD_BYTES, Batch, Clips, training_clips
from asma_fast.training.loop import planned_epochs
from asma_fast.training.pretrain import STREAMS, TrainingError, three_streams

_CLIPS = 8  # of the step
_ADAM = 4  # weights, gradients and two moments


@dataclass(frozen=True)
class EncoderDryRun:
    """One encoder's step.

    Parameters
    ----------
    encoder_parameters, projector_parameters
        Trained numbers.
    views
        Stream → (frames, joints) that the encoder read.
    loss
        Of the step.
    kept_bytes
        Held for the backward pass, a clip.
    """

    encoder_parameters: int
    projector_parameters: int
    views: dict[str, tuple[int, int]]
    loss: float
    kept_bytes: int


@dataclass(frozen=True)
class DryRun:
    """What a run would be.

    Parameters
    ----------
    config
        Of the run, its split named.
    clips
        To train on.
    shape
        ``(C, T, V, M)`` of a clip.
    in_memory
        Whether the clips would be held.
    epochs, steps
        Of the run, and of an epoch.
    encoders
        By name.
    memory
        Estimated bytes at the peak: clips that are held, Adam's four copies of all parameters, and what the largest
        encoder keeps for the backward pass of a process's share of a batch, from the few clips of the step.
    """

    config: PretrainConfig
    clips: Clips
    shape: tuple[int, ...]
    in_memory: bool
    epochs: int
    steps: int
    encoders: dict[str, EncoderDryRun]
    memory: int

    def __str__(self) -> str:
        config, clips = self.config, self.clips
        where = "in memory" if self.in_memory else "made batch by batch"
        size = math.prod(self.shape) * 4 * len(clips)
        lines = [
            f"clips: {len(clips)} of split {config.split}, (C, T, V, M) = {self.shape}, {clips.skeleton.name}, "
            f"stream {clips.stream}; {_bytes(size)} {where}",
            f"steps: {self.steps} of {min(config.batch, len(clips))} clips an epoch, {self.epochs} epochs, "
            f"{self.steps * self.epochs} steps an encoder",
        ]
        for name, run in self.encoders.items():
            views = ", ".join(f"{stream} {frames} × {joints}" for stream, (frames, joints) in run.views.items())
            lines.append(
                f"{name}: {run.encoder_parameters:,} parameters and {run.projector_parameters:,} of the projector; "
                f"frames × joints read: {views}; loss {run.loss:.4g}"
            )
        lines.append(f"memory: about {_bytes(self.memory)} a process")
        lines.append("nothing was written")
        return "\n".join(lines)


def dry_run(config: PretrainConfig, clips: Clips | None = None) -> DryRun:
    """Goes through all that pretraining does, with one step of a few clips for each encoder, and writes nothing.

    Parameters
    ----------
    clips
        Clips to train on instead of the training part of ``config.data``.

    Raises
    ------
    ValueError
        If data, split or options do not fit.
    TrainingError
        If a loss or a gradient is not finite, or a parameter gets none.
    """
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator=config.accelerator, devices=1, precision=config.precision)
    if clips is None:
        split, clips = training_clips(replace(config, memory="none"))
        config = replace(config, split=split)
    batches = EpochBatches(len(clips), config.batch, config.seed, world=config.devices)
    epochs = planned_epochs(config, len(batches))
    rows = next(iter(batches))
    batch = Batch(*(fabric.to_device(part) for part in clips.batch(rows[:_CLIPS])))
    encoders = {name: _step(name, config, clips, batch, fabric) for name in config.encoders}
    held = 4 * clips.x.numel()
    in_memory = clips.in_memory or config.memory == "all" or (config.memory == "auto" and held <= HELD_BYTES)
    parameters = sum(run.encoder_parameters + run.projector_parameters for run in encoders.values())
    kept = max(run.kept_bytes for run in encoders.values()) * len(rows)
    return DryRun(
        config,
        clips,
        shape=tuple(clips.x.shape[1:]),
        in_memory=in_memory,
        epochs=epochs,
        steps=len(batches),
        encoders=encoders,
        memory=(held if in_memory else 0) + 4 * _ADAM * parameters + kept,
    )


def _step(name: str, config: PretrainConfig, clips: Clips, batch: Batch, fabric: Any) -> EncoderDryRun:
    streams = three_streams(name, config, clips)
    encoder, projector = streams.encoder, streams.projector
    views: list[tuple[int, int]] = []

    def watch(_: nn.Module, given: tuple[Any, ...]) -> None:
        _, view = given[:2]
        frames = clips.x.shape[2] if view.frames is None else view.frames.shape[1]
        joints = len(clips.skeleton) if view.joints is None else view.joints.shape[1]
        views.append((frames, joints))

    encoder.register_forward_pre_hook(watch)
    model = fabric.setup_module(streams).train()
    key = zlib.crc32(name.encode())
    seeds = tuple(derive_seed(config.seed, key, stream) for stream in range(len(STREAMS)))
    with _kept(model) as kept:
        anchor, spatial, temporal = model(batch.x, batch.ids, seeds)
        parts = [barlow_twins_loss(anchor, other, config.off_diagonal) for other in (temporal, spatial)]
        loss = parts[0] + parts[1]
    fabric.backward(loss)
    if not torch.isfinite(loss):
        raise TrainingError(f"{name}: the loss of a first step is {loss.item()}")
    for parameter_name, parameter in streams.named_parameters():
        if parameter.grad is None or not torch.isfinite(parameter.grad).all():
            raise TrainingError(f"{name}: the gradient of {parameter_name} is missing or not finite in a first step")
    return EncoderDryRun(
        encoder_parameters=sum(parameter.numel() for parameter in encoder.parameters()),
        projector_parameters=sum(parameter.numel() for parameter in projector.parameters()),
        views=dict(zip(STREAMS, views, strict=True)),
        loss=loss.item(),
        kept_bytes=sum(kept.values()) // len(batch.ids),
    )


@contextmanager
def _kept(model: nn.Module) -> Iterator[dict[int, int]]:
    """Bytes of each piece of memory that is held for the backward pass, parameters aside, by its address."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
