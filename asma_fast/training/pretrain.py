"""Pretraining by masked views and Barlow Twins: ASMa's two encoders, either, or PSTL's, by options alone."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asma_fast.nn import STGCN, Projector, barlow_twins_loss
from asma_fast.philox import derive_seed
from asma_fast.training.augment import Augmentation
from asma_fast.training.configs import PretrainConfig
from asma_fast.training.dataset import Batch, Clips, training_clips
from asma_fast.training.launch import TrainingError, launched, sole
from asma_fast.training.loop import PROJECTOR, VIEWS, TrainingRun, learning_rate, read_losses, train_all
from asma_fast.training.masks import Masking
from asma_fast.training.models import build_encoder, encoder_network, initial_seed

__all__ = ["PretrainResult", "ThreeStreams", "TrainingError", "learning_rate", "pretrain", "read_losses"]

STREAMS = ("anchor", "spatial", "temporal")


@dataclass(frozen=True)
class PretrainResult:
    """What pretraining left.

    Parameters
    ----------
    config
        Of the run.
    checkpoints
        Encoder → its file.
    losses
        Encoder → mean loss of each epoch, those of earlier, resumed parts included.
    metrics
        The JSON-lines file.
    epochs
        Encoder → epochs it has been trained for.
    rank
        Of this process among those of the run.
    """

    config: PretrainConfig
    checkpoints: dict[str, Path]
    losses: dict[str, list[float]]
    metrics: Path
    epochs: dict[str, int]
    rank: int = 0


class ThreeStreams(nn.Module):
    """One encoder and one projector over the three streams of a batch, in three separate forward passes."""

    def __init__(self, encoder: STGCN, projector: Projector, augmentation: Augmentation, masking: Masking) -> None:
        super().__init__()
        self.encoder, self.projector = encoder, projector
        self.augmentation, self.masking = augmentation, masking

    def forward(self, clip: Tensor, ids: Tensor, seeds: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Projections of the anchor, the spatial and the temporal stream, each under its own seed."""
        masks = (None, self.masking.spatial, self.masking.temporal)
        results = []
        for seed, mask in zip(seeds, masks, strict=True):
            with torch.no_grad():
                view = self.augmentation.view(clip.shape[2], seed=seed, ids=ids)
                if mask is not None:
                    view = mask(clip, view, seed=seed, ids=ids)
            results.append(self.projector(self.encoder(clip, view, seed=seed, ids=ids)))
        return results[0], results[1], results[2]


def pretrain(config: PretrainConfig, clips: Clips | None = None) -> PretrainResult:
    """Pretrains each encoder that ``config.encoders`` names, one after the other.

    A run found in ``config.out`` is continued, bit for bit as if it had not stopped (on a CPU). Loss per step:
    BT(anchor, temporal) + BT(anchor, spatial), over the clips of all processes.

    Parameters
    ----------
    clips
        Clips to train on instead of the training part of ``config.data``.

    Raises
    ------
    ValueError
        If data, split or options do not fit.
    CheckpointError
        If a checkpoint in ``config.out`` is damaged, or of another run.
    TrainingError
        If the loss or a weight is no longer finite, another process is at work in ``config.out``,
        or one of this run has ended.
    """
    if config.dry_run:
        raise ValueError("dry_run must be False to train; the function dry_run goes through a run without training")
    with launched(config) as fabric:
        if clips is None:
            split, clips = training_clips(config)
            config = replace(config, split=split)
        with sole(config.out, fabric):
            return _pretrain(config, clips, fabric)


def _pretrain(config: PretrainConfig, clips: Clips, fabric: Any) -> PretrainResult:
    runs = [_encoder_run(name, config, clips, fabric) for name in config.encoders]
    metrics = train_all(runs, config, fabric, "pretrain " + ",".join(config.encoders))
    return PretrainResult(
        config,
        checkpoints={run.name: run.path for run in runs},
        losses=read_losses(metrics),
        metrics=metrics,
        epochs={run.name: run.epoch for run in runs},
        rank=fabric.global_rank,
    )


def three_streams(name: str, config: PretrainConfig, clips: Clips) -> ThreeStreams:
    """The untrained model of the encoder of that name; its weights depend on the config's seed only."""
    encoder = build_encoder(
        config, clips.skeleton, clips.x.shape[1], initial_seed(config.seed), recompute=config.recompute
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, PROJECTOR))
        projector = Projector(encoder.out_channels, config.projector)
    augmentation = Augmentation(config, clips.skeleton, clips.sided)
    return ThreeStreams(encoder, projector, augmentation, Masking.of(name, config, clips.skeleton))


def _encoder_run(name: str, config: PretrainConfig, clips: Clips, fabric: Any) -> TrainingRun:
    # By name, so that an encoder trains alike whatever others the run has.
    key = zlib.crc32(name.encode())

    def step(run: TrainingRun, batch: Batch) -> dict[str, Tensor]:
        seeds = tuple(derive_seed(config.seed, VIEWS, key, run.epoch, stream) for stream in range(len(STREAMS)))
        anchor, spatial, temporal = (run.gather(z) for z in run.model(batch.x, batch.ids, seeds))
        parts = [barlow_twins_loss(anchor, other, config.off_diagonal) for other in (temporal, spatial)]
        return {"loss": parts[0] + parts[1], "temporal": parts[0], "spatial": parts[1]}

    return TrainingRun(
        name,
        config.out / f"{name}.safetensors",
        three_streams(name, config, clips),
        clips,
        config,
        fabric,
        step=step,
        kind="pretrain",
        record={"network": encoder_network(config, clips.skeleton, clips.x.shape[1])},
        free=("encoders", "dry_run"),
    )
