"""Pretraining by masked views and Barlow Twins: ASMa's two encoders, either, or PSTL's, by options alone."""

from __future__ import annotations

import json
import math
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import asma_fast
from asma_fast._files import locked
from asma_fast.config import as_json
from asma_fast.nn import STGCN, Projector, barlow_twins_loss
from asma_fast.philox import derive_seed
from asma_fast.training.augment import Augmentation
from asma_fast.training.checkpoint import (
    CheckpointError,
    load_checkpoint,
    optimiser_tensors,
    restore,
    restore_optimiser,
    save_checkpoint,
    write_text,
)
from asma_fast.training.configs import PretrainConfig, RunConfig
from asma_fast.training.dataset import Clips, EpochBatches, loader, training_clips
from asma_fast.training.features import build_encoder, initial_seed
from asma_fast.training.masks import Masking

STREAMS = ("anchor", "spatial", "temporal")
# Options that may change between a run and its continuation.
_FREE = {*RunConfig.__dataclass_fields__, "encoders", "data", "memory", "protocol", "dry_run"}
_FREE -= {"seed", "devices", "precision"}
# Parts of a run that get a seed of their own, besides the initial weights.
_PROJECTOR, _BATCHES, _VIEWS = 1, 2, 3


class TrainingError(RuntimeError):
    """Training cannot go on; the newest checkpoint stays."""


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


def learning_rate(config: PretrainConfig, epochs: int, position: float) -> float:
    """Linear warm-up from 0, then cosine to 0, at ``position`` epochs of ``epochs``."""
    warm = config.warmup * epochs if config.warmup < 1 else min(config.warmup, epochs)
    if position < warm:
        return config.lr * position / warm
    rest = (position - warm) / max(epochs - warm, 1e-12)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(rest, 1.0)))


def pretrain(config: PretrainConfig, clips: Clips | None = None) -> PretrainResult:
    """Pretrains each encoder that ``config.encoders`` names, one after the other.

    A run found in ``config.out`` is continued, bit for bit as if it had not stopped (on a CPU). Loss per step:
    BT(anchor, temporal) + BT(anchor, spatial).

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
        If the loss or a weight is no longer finite, or another process is at work in ``config.out``.
    """
    from lightning_fabric import Fabric

    if config.dry_run:
        raise ValueError("dry_run must be False to train; the function dry_run goes through a run without training")
    fabric = Fabric(accelerator=config.accelerator, devices=config.devices, precision=config.precision)
    fabric.launch()
    if clips is None:
        split, clips = training_clips(config)
        config = replace(config, split=split)
    with _sole(config.out, fabric):
        return _pretrain(config, clips, fabric)


@contextmanager
def _sole(out: Path, fabric: Any) -> Iterator[None]:
    """Keeps other runs out of the folder."""
    if not fabric.is_global_zero:
        yield
        return

    def refusal(holder: str) -> TrainingError:
        return TrainingError(f"{out}: another process trains there ({holder}); wait for it, or choose another --out")

    with locked(out / "lock", refusal):
        for left in out.glob(".*.tmp"):  # by a process that died
            left.unlink()
        yield


def _pretrain(config: PretrainConfig, clips: Clips, fabric: Any) -> PretrainResult:
    runs = [_EncoderRun(name, config, clips, fabric) for name in config.encoders]
    metrics = config.out / "metrics.jsonl"
    if fabric.is_global_zero:
        write_text(config.out / "config.json", json.dumps(as_json(config), indent=2) + "\n")
        _forget_unsaved(metrics, {run.name: run.epoch for run in runs})
    with _progress(config, fabric, runs) as tick, _board(config, fabric) as board:
        for run in runs:
            run.train(metrics, tick, board)
    fabric.barrier()  # only one rank writes what all read
    return PretrainResult(
        config,
        checkpoints={run.name: run.path for run in runs},
        losses=read_losses(metrics),
        metrics=metrics,
        epochs={run.name: run.epoch for run in runs},
        rank=fabric.global_rank,
    )


def read_losses(metrics: Path) -> dict[str, list[float]]:
    """Encoder → mean loss of each epoch, of a run's ``metrics.jsonl``."""
    losses: dict[str, list[float]] = {}
    for line in metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else ():
        entry = json.loads(line)
        losses.setdefault(entry["encoder"], []).append(entry["loss"])
    return losses


class _EncoderRun:
    """One encoder on its way from its first to its last epoch."""

    def __init__(self, name: str, config: PretrainConfig, clips: Clips, fabric: Any) -> None:
        self.name, self.config, self.clips, self.fabric = name, config, clips, fabric
        self.path = config.out / f"{name}.safetensors"
        # By name, so that an encoder trains alike whatever others the run has.
        self.key = zlib.crc32(name.encode())
        rank, world = fabric.global_rank, fabric.world_size
        self.batches = EpochBatches(len(clips), config.batch, derive_seed(config.seed, _BATCHES), rank, world)
        self.epochs = math.ceil(config.steps / len(self.batches)) if config.steps else config.epochs
        if config.warmup >= 1 and config.warmup >= self.epochs:
            raise ValueError(
                f"warmup ({config.warmup:g} epochs) must be shorter than the run ({self.epochs} "
                f"epoch{'s' if self.epochs > 1 else ''}): lower --warmup (below 1 it is a share), or train for longer"
            )
        self.stop = min(self.epochs, config.stop_after or self.epochs)
        model = self._new_model()
        kind = torch.optim.AdamW if config.optimiser == "adamw" else torch.optim.Adam
        optimiser = kind(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        self.epoch = 0
        if self.path.exists():
            self._resume(model, optimiser)
        self.model, self.optimiser = fabric.setup(model, optimiser)

    def _new_model(self) -> ThreeStreams:
        config, clips = self.config, self.clips
        encoder = build_encoder(
            config, clips.skeleton, clips.x.shape[1], initial_seed(config.seed), recompute=config.recompute
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(config.seed, _PROJECTOR))
            projector = Projector(encoder.out_channels, config.projector)
        masking = Masking.of(self.name, config, clips.skeleton)
        return ThreeStreams(encoder, projector, Augmentation(config, clips.skeleton, clips.sided), masking)

    def _resume(self, model: ThreeStreams, optimiser: torch.optim.Optimizer) -> None:
        tensors, record = load_checkpoint(self.path)
        if record.get("kind") != "pretrain" or record.get("encoder") != self.name:
            raise CheckpointError(f"{self.path}: is no checkpoint of encoder {self.name}")
        wanted = json.loads(json.dumps(as_json(self.config)))
        for option, value in record["config"].items():
            if option not in _FREE and wanted.get(option) != value:
                raise CheckpointError(
                    f"{self.path}: was trained with {option}={value}, this run has {option}={wanted.get(option)}; "
                    "choose another --out, or the options of that run"
                )
        if record["skeleton"]["name"] != self.clips.skeleton.name:
            raise CheckpointError(
                f"{self.path}: was trained on skeleton {record['skeleton']['name']}, got {self.clips.skeleton.name}"
            )
        if record["fingerprint"] != self.clips.fingerprint:
            raise CheckpointError(f"{self.path}: was trained on other clips; choose another --out")
        fresh = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        try:
            restore(self.path, model, tensors, "model.")
            restore_optimiser(self.path, optimiser, tensors)
        except CheckpointError:
            restore(self.path, model, fresh, "model.")
            raise
        self.epoch = record["epoch"]

    def train(self, metrics: Path, tick: Any, board: Any) -> None:
        feed = self.fabric.setup_dataloaders(
            loader(self.clips, self.batches, self.config.workers), use_distributed_sampler=False
        )
        self.model.train()
        while self.epoch < self.stop:
            began = time.perf_counter()
            sums, steps = [0.0, 0.0], len(self.batches)
            self.batches.epoch = self.epoch
            for place, batch in enumerate(feed):
                for index, loss in enumerate(self._step(place, batch.x, batch.ids)):
                    sums[index] += loss
                tick()
            self.epoch += 1
            temporal, spatial = (total / steps for total in sums)
            entry = {
                "encoder": self.name,
                "epoch": self.epoch,
                "step": self.epoch * steps,
                "loss": temporal + spatial,
                "temporal": temporal,
                "spatial": spatial,
                "lr": self.optimiser.param_groups[0]["lr"],
                "seconds": round(time.perf_counter() - began, 3),
            }
            if self.fabric.is_global_zero:
                with open(metrics, "a", encoding="utf-8") as file:
                    file.write(json.dumps(entry) + "\n")
                if board is not None:
                    for key in ("loss", "temporal", "spatial", "lr"):
                        board.add_scalar(f"{self.name}/{key}", entry[key], entry["step"])
                if self.epoch % self.config.save_every == 0 or self.epoch == self.stop:
                    self._save()

    def _newest(self) -> str:
        if not self.path.exists():
            return "no checkpoint was written before; start again with a lower --lr"
        return (
            f"the newest checkpoint is {self.path}; if the loss had already exploded there, start again with a lower "
            "--lr and another --out"
        )

    def _step(self, place: int, clip: Tensor, ids: Tensor) -> tuple[float, float]:
        config, step = self.config, self.epoch * len(self.batches) + place
        position = (step + 0.5) / len(self.batches) if config.schedule == "step" else float(self.epoch)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(config, self.epochs, position)
        seeds = tuple(derive_seed(config.seed, _VIEWS, self.key, self.epoch, stream) for stream in range(len(STREAMS)))
        anchor, spatial, temporal = (self._gather(z) for z in self.model(clip, ids, seeds))
        parts = [barlow_twins_loss(anchor, other, config.off_diagonal) for other in (temporal, spatial)]
        loss = parts[0] + parts[1]
        if not torch.isfinite(loss):
            raise TrainingError(
                f"{self.name}: the loss became {loss.item()} at step {step} (epoch {self.epoch}); {self._newest()}"
            )
        self.optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        self.optimiser.step()
        return parts[0].item(), parts[1].item()

    def _gather(self, z: Tensor) -> Tensor:
        """The projections of all ranks, with gradient: every rank computes the whole loss."""
        if self.fabric.world_size == 1:
            return z
        gathered: Tensor = self.fabric.all_gather(z, sync_grads=True)
        return gathered.flatten(0, 1)

    def _save(self) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in self.model.module.state_dict().items()}
        record = {
            "kind": "pretrain",
            "encoder": self.name,
            "epoch": self.epoch,
            "epochs": self.epochs,
            "step": self.epoch * len(self.batches),
            "config": as_json(self.config),
            "coordinates": self.clips.x.shape[1],
            "bodies": self.clips.x.shape[4],
            "skeleton": asdict(self.clips.skeleton),
            "preprocessing": self.clips.preprocessing.to_dict(),
            "fingerprint": self.clips.fingerprint,
            "store": self.clips.store,
            "stream": self.clips.stream,
            "versions": {"asma_fast": asma_fast.__version__, "torch": torch.__version__},
        }
        try:
            save_checkpoint(self.path, {**tensors, **optimiser_tensors(self.optimiser)}, record)
        except CheckpointError as error:
            raise TrainingError(f"{self.name}: {error}; {self._newest()}") from error


def _forget_unsaved(metrics: Path, epochs: dict[str, int]) -> None:
    """Drops what was logged after the checkpoints from which encoders go on, and a line cut short by a kill."""
    if not metrics.exists():
        return
    kept = []
    for line in metrics.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if entry["epoch"] <= epochs.get(entry["encoder"], entry["epoch"]):
            kept.append(line + "\n")
    write_text(metrics, "".join(kept))


@contextmanager
def _progress(config: PretrainConfig, fabric: Any, runs: list[_EncoderRun]) -> Iterator[Any]:
    from tqdm import tqdm

    total = sum(max(0, run.stop - run.epoch) * len(run.batches) for run in runs)
    # None hides the bar where nobody watches: in a log file.
    hidden = None if config.progress and fabric.is_global_zero else True
    with tqdm(total=total, desc="pretrain " + ",".join(config.encoders), unit="step", disable=hidden) as bar:
        yield bar.update


@contextmanager
def _board(config: PretrainConfig, fabric: Any) -> Iterator[Any]:
    if not (config.tensorboard and fabric.is_global_zero):
        yield None
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(config.out / "tensorboard") as board:
        yield board
