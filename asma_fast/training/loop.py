"""The loop that every trained model goes through: sampler, schedule, checkpoints, metrics, one process or many."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asma_fast.config import as_json
from asma_fast.philox import derive_seed
from asma_fast.training.batches import EpochBatches, loader
from asma_fast.training.checkpoint import (
    CheckpointError,
    load_checkpoint,
    optimiser_tensors,
    restore,
    restore_optimiser,
    save_checkpoint,
    write_text,
)
from asma_fast.training.configs import OptimiserConfig, RunConfig, TrainingConfig
from asma_fast.training.dataset import Batch, Clips
from asma_fast.training.launch import TrainingError, gathered, mean_over_ranks, synchronised
from asma_fast.training.models import described
from asma_fast.training.records import versions

# Parts of a run that get a seed of their own, besides the initial weights (0).
PROJECTOR, BATCHES, VIEWS, HEAD, DRAWS, WINDOWS = 1, 2, 3, 4, 5, 6
# Options that may change between a run and its continuation: all of RunConfig but these, and whatever a verb adds.
_BINDING = {"seed", "precision"}

Step = Callable[["TrainingRun", Batch], Mapping[str, Tensor]]


def learning_rate(config: OptimiserConfig, epochs: int, position: float) -> float:
    """Linear warm-up from 0, then cosine to 0, at ``position`` epochs of ``epochs``."""
    warm = config.warmup * epochs if config.warmup < 1 else min(config.warmup, epochs)
    if position < warm:
        return config.lr * position / warm
    rest = (position - warm) / max(epochs - warm, 1e-12)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(rest, 1.0)))


def planned_epochs(config: OptimiserConfig, steps: int) -> int:
    """Epochs of a run's schedule, at ``steps`` steps an epoch.

    Raises
    ------
    ValueError
        If the warm-up is as long.
    """
    epochs = math.ceil(config.steps / steps) if config.steps else config.epochs
    if config.warmup >= 1 and config.warmup >= epochs:
        raise ValueError(
            f"warmup ({config.warmup:g} epochs) must be shorter than the run ({epochs} "
            f"epoch{'s' if epochs > 1 else ''}): lower --warmup (below 1 it is a share), or train for longer"
        )
    return epochs


class TrainingRun:
    """One model on its way from its first to its last epoch; continued where its checkpoint left off.

    Parameters
    ----------
    name
        Of the model among those of its folder: in messages, metrics, and as the name of ``path``.
    path
        Its checkpoint.
    model
        What is trained; its parameters depend on the config's seed only.
    clips
        To train on.
    config
        Options of the run.
    fabric
        As :func:`asma_fast.training.launch.launched` gives it.
    step
        ``step(run, batch)`` → named losses of one batch, of which ``"loss"`` is minimised; it calls ``run.model``.
        Where there are several processes, the batch is this one's part, and the loss either the mean over it or alike
        in all of them, through :meth:`gather`.
    kind, record
        Kind of checkpoint, and entries for its record besides those of every run.
    saved
        The part of ``model`` that goes into the checkpoint, as ``model.``; all of it by default.
    free
        Options, besides those of the run, that may change between a run and its continuation.

    Attributes
    ----------
    epoch, epochs, stop : int
        Epochs done, those of the schedule, and where this process stops.
    model, optimiser
        As Fabric set them up.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        model: nn.Module,
        clips: Clips,
        config: TrainingConfig,
        fabric: Any,
        *,
        step: Step,
        kind: str,
        record: Mapping[str, Any],
        saved: nn.Module | None = None,
        free: Sequence[str] = (),
    ) -> None:
        self.name, self.path, self.clips, self.config, self.fabric = name, path, clips, config, fabric
        self.kind, self.record, self.step, self.saved = kind, dict(record), step, saved or model
        self.free = {*RunConfig.__dataclass_fields__, "data", "memory", "protocol", *free} - _BINDING
        rank, world = fabric.global_rank, fabric.world_size
        seed = derive_seed(config.seed, BATCHES)
        self.batches = EpochBatches(len(clips), config.batch, seed, rank, world, anew=clips.anew)
        self.epochs = planned_epochs(config, len(self.batches))
        self.stop = min(self.epochs, config.stop_after or self.epochs)
        kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        fused = fabric.device.type == "cuda" or None  # one kernel for all parameters
        optimiser = kinds[config.optimiser](trained, lr=config.lr, weight_decay=config.weight_decay, fused=fused)
        self.epoch = 0
        if path.exists():
            self._resume(optimiser)
        self._check_ranks()
        self.model, self.optimiser = fabric.setup(synchronised(model, fabric), optimiser)

    @property
    def device(self) -> Any:
        """Where the model is."""
        return self.fabric.device

    def gather(self, z: Tensor) -> Tensor:
        """The rows of all processes, with gradient: for a loss over the whole batch, which each of them computes."""
        return gathered(z, self.fabric)

    def _resume(self, optimiser: torch.optim.Optimizer) -> None:
        tensors, record = load_checkpoint(self.path)
        if record.get("kind") != self.kind or record.get("encoder") != self.name:
            what = "encoder" if self.kind == "pretrain" else self.kind
            raise CheckpointError(f"{self.path}: is no checkpoint of {what} {self.name}")
        wanted = json.loads(json.dumps(as_json(self.config)))
        for option, value in record["config"].items():
            if option not in self.free and wanted.get(option) != value:
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
        fresh = {f"model.{name}": tensor for name, tensor in self.saved.state_dict().items()}
        try:
            restore(self.path, self.saved, tensors, "model.")
            restore_optimiser(self.path, optimiser, tensors)
        except CheckpointError:
            restore(self.path, self.saved, fresh, "model.")
            raise
        self.epoch = record["epoch"]

    def _check_ranks(self) -> None:
        """All processes go on from the same epoch."""
        if self.fabric.world_size == 1:
            return
        found = self.gather(torch.tensor([self.epoch], device=self.device)).tolist()
        if len(set(found)) > 1:
            raise TrainingError(
                f"{self.path}: the processes found checkpoints of different epochs ({', '.join(map(str, found))}); "
                "--out must be a folder that all of them share"
            )

    def train(self, metrics: Path, tick: Callable[[], Any], board: Any) -> None:
        """Trains to the epoch ``stop``; one line of ``metrics`` an epoch.

        Raises
        ------
        TrainingError
            If a loss or a weight is no longer finite; the checkpoint of the last good epoch stays.
        """
        feed = self.fabric.setup_dataloaders(
            loader(self.clips, self.batches, self.config.workers), use_distributed_sampler=False
        )
        self.model.train()
        while self.epoch < self.stop:
            began = time.perf_counter()
            sums: dict[str, float] = {}
            self.batches.epoch = self.epoch
            for place, batch in enumerate(feed):
                for name, loss in self._step(place, batch).items():
                    sums[name] = sums.get(name, 0.0) + loss
                tick()
            self.epoch += 1
            steps = len(self.batches)
            entry = {
                "encoder": self.name,
                "epoch": self.epoch,
                "step": self.epoch * steps,
                **{name: total / steps for name, total in sums.items()},
                "lr": self.optimiser.param_groups[0]["lr"],
                "seconds": round(time.perf_counter() - began, 3),
            }
            if self.fabric.is_global_zero:
                self._report(entry, [*sums, "lr"], metrics, board)
                if self.epoch % self.config.save_every == 0 or self.epoch == self.stop:
                    self._save()

    def _step(self, place: int, batch: Batch) -> dict[str, float]:
        config, step = self.config, self.epoch * len(self.batches) + place
        position = (step + 0.5) / len(self.batches) if config.schedule == "step" else float(self.epoch)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(config, self.epochs, position)
        losses = self.step(self, batch)
        # One transfer for all of them; and all processes see the same, so that they stop together.
        told = mean_over_ranks(torch.stack([loss.detach().double() for loss in losses.values()]), self.fabric).tolist()
        values = dict(zip(losses, told, strict=True))
        if not math.isfinite(values["loss"]):
            raise TrainingError(
                f"{self.name}: the loss became {values['loss']} at step {step} (epoch {self.epoch}); {self._newest()}; "
                f"{self._described(batch)}"
            )
        self.optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(losses["loss"])
        self.optimiser.step()
        return values

    def _described(self, batch: Batch) -> str:
        """The clips of the batch, and those of them whose coordinates are at fault."""
        bad = ~torch.isfinite(batch.x).flatten(1).all(1)
        ids, faults = (
            gathered(part, self.fabric).tolist() for part in (batch.ids.to(self.device), bad.long().to(self.device))
        )
        text = f"the batch was of clips {', '.join(map(str, ids))}"
        faulty = [str(clip) for clip, fault in zip(ids, faults, strict=True) if fault]
        return f"{text}, of which the coordinates of {', '.join(faulty)} are not finite" if faulty else text

    def _newest(self) -> str:
        if not self.path.exists():
            return "no checkpoint was written before; start again with a lower --lr"
        return (
            f"the newest checkpoint is {self.path}; if the loss had already exploded there, start again with a lower "
            "--lr and another --out"
        )

    def _report(self, entry: dict[str, Any], drawn: Sequence[str], metrics: Path, board: Any) -> None:
        with open(metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        if board is not None:
            for key in drawn:
                board.add_scalar(f"{self.name}/{key}", entry[key], entry["step"])

    def _save(self) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in self.saved.state_dict().items()}
        record = {
            "kind": self.kind,
            "encoder": self.name,
            "epoch": self.epoch,
            "epochs": self.epochs,
            "step": self.epoch * len(self.batches),
            "config": as_json(self.config),
            **described(self.clips),
            "versions": versions(),
            **self.record,
        }
        try:
            save_checkpoint(self.path, {**tensors, **optimiser_tensors(self.optimiser)}, record)
        except CheckpointError as error:
            raise TrainingError(f"{self.name}: {error}; {self._newest()}") from error


def train_all(runs: Sequence[TrainingRun], config: TrainingConfig, fabric: Any, title: str) -> Path:
    """Trains models one after the other, by one progress bar; returns the metrics of ``config.out``, one line an epoch.

    Checkpoints and metrics are written by the first process, and whole when this returns in any of them.
    """
    metrics = config.out / "metrics.jsonl"
    if fabric.is_global_zero:
        write_text(config.out / "config.json", json.dumps(as_json(config), indent=2) + "\n")
        _forget_unsaved(metrics, {run.name: run.epoch for run in runs})
    with _progress(config, fabric, runs, title) as tick, _board(config, fabric) as board:
        for run in runs:
            run.train(metrics, tick, board)
    fabric.barrier()  # only one rank writes what all read
    return metrics


def read_metrics(metrics: Path) -> dict[str, list[dict[str, Any]]]:
    """Model → its entries of a run's ``metrics.jsonl``, one an epoch."""
    entries: dict[str, list[dict[str, Any]]] = {}
    for line in metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else ():
        entry = json.loads(line)
        entries.setdefault(entry["encoder"], []).append(entry)
    return entries


def read_losses(metrics: Path) -> dict[str, list[float]]:
    """Model → mean loss of each epoch, of a run's ``metrics.jsonl``."""
    return {name: [entry["loss"] for entry in entries] for name, entries in read_metrics(metrics).items()}


def _forget_unsaved(metrics: Path, epochs: dict[str, int]) -> None:
    """Drops what was logged after the checkpoints from which models go on, and a line cut short by a kill."""
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
def _progress(config: RunConfig, fabric: Any, runs: Sequence[TrainingRun], title: str) -> Iterator[Callable[[], Any]]:
    from tqdm import tqdm

    total = sum(max(0, run.stop - run.epoch) * len(run.batches) for run in runs)
    # None hides the bar where nobody watches: in a log file.
    hidden = None if config.progress and fabric.is_global_zero else True
    with tqdm(total=total, desc=title, unit="step", disable=hidden) as bar:
        yield bar.update


@contextmanager
def _board(config: RunConfig, fabric: Any) -> Iterator[Any]:
    if not (config.tensorboard and fabric.is_global_zero):
        yield None
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(config.out / "tensorboard") as board:
        yield board
