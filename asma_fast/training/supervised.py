"""Training with labels: a classifier over an encoder, fine-tuned whole or its head alone; and its logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from asma_fast.philox import derive_seed
from asma_fast.training.augment import Augmentation
from asma_fast.training.configs_supervised import LabelledConfig
from asma_fast.training.dataset import Batch, Clips
from asma_fast.training.launch import gathered
from asma_fast.training.loop import VIEWS, TrainingRun, read_metrics, train_all
from asma_fast.view import View

# Loss of logits; a mapping holds "loss" and its parts.
Loss = Callable[[Tensor, Batch], Tensor | Mapping[str, Tensor]]


class Augmented(nn.Module):
    """A network under the views of an augmentation; a frozen part stays in eval mode.

    Parameters
    ----------
    network
        Called as ``network(clip, view, seed=seed, ids=ids)``.
    augmentation
        Of its clips; None for none.
    frozen
        Parts whose parameters and batch-norm statistics stay.
    """

    def __init__(
        self, network: nn.Module, augmentation: Augmentation | None = None, frozen: Sequence[nn.Module] = ()
    ) -> None:
        super().__init__()
        self.network, self.augmentation = network, augmentation
        self._frozen = tuple(frozen)
        for part in self._frozen:
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> Augmented:
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    def forward(self, clip: Tensor, ids: Tensor, seed: int) -> Any:
        """What the network gives for views that ``seed`` draws."""
        view = None
        if self.augmentation is not None:
            view = self.augmentation.view(clip.shape[2], seed=seed, ids=ids)
        return self.network(clip, view, seed=seed, ids=ids)


def fit(
    model: nn.Module,
    train: Clips,
    config: LabelledConfig,
    fabric: Any,
    path: Path,
    *,
    kind: str,
    record: Mapping[str, Any],
    loss: Loss | None = None,
    frozen: Sequence[nn.Module] = (),
    saved: nn.Module | None = None,
    free: Sequence[str] = (),
    title: str = "",
) -> TrainingRun:
    """Trains a model on clips, continuing from its checkpoint; the model is trained in place, and in eval mode then.

    Two models that are fitted with the same seed see the same batches and views.

    Parameters
    ----------
    model
        ``model(clip, view, seed=, ids=)`` → what ``loss`` takes.
    path
        Checkpoint; its stem is the model's name in the metrics of its folder, which is ``config.out``.
    kind, record
        Kind of checkpoint and entries for its record; ``"network"`` among them, so that it can be loaded again.
    loss
        Of a batch; cross-entropy with ``config.label_smoothing`` by default.
    frozen
        Parts that are not trained.
    saved
        What goes into the checkpoint: a network that ``model`` is a part of; by default ``model``.
    free
        Options that may change between a run and its continuation.

    Raises
    ------
    CheckpointError
        If there is a checkpoint that is damaged, or of another run.
    TrainingError
        If the loss or a weight is no longer finite.
    """
    augmentation = Augmentation(config, train.skeleton, train.sided) if config.augment == "train" else None
    wanted = loss or _cross_entropy(config.label_smoothing)

    def step(run: TrainingRun, batch: Batch) -> Mapping[str, Tensor]:
        result = wanted(run.model(batch.x, batch.ids, derive_seed(config.seed, VIEWS, run.epoch)), batch)
        return {"loss": result} if isinstance(result, Tensor) else result

    run = TrainingRun(
        path.stem,
        path,
        Augmented(model, augmentation, frozen),
        train,
        config,
        fabric,
        step=step,
        kind=kind,
        record=record,
        saved=saved or model,
        free=("name", *free),
    )
    train_all([run], config, fabric, title or f"{kind} {path.stem}")
    model.eval()
    return run


def _cross_entropy(smoothing: float) -> Loss:
    return lambda logits, batch: functional.cross_entropy(logits, batch.labels, label_smoothing=smoothing)


def training_seconds(run: TrainingRun) -> float:
    """Of all its epochs, earlier, resumed parts included."""
    entries = read_metrics(run.config.out / "metrics.jsonl").get(run.name, [])
    return round(sum(float(entry["seconds"]) for entry in entries), 3)


@torch.no_grad()
def predict_logits(
    model: nn.Module,
    clips: Clips,
    batch: int = 128,
    fabric: Any = None,
    *,
    view: Callable[[Batch], View] | None = None,
) -> NDArray[np.float32]:
    """``(N, K)`` float32: logits of whole clips, or of the view that ``view`` takes of a batch, in eval mode.

    With a fabric of several processes each takes its share of the clips, and all of them get all logits.
    """
    model.eval()
    device = next(model.parameters()).device
    rank, world = (0, 1) if fabric is None else (fabric.global_rank, fabric.world_size)
    # As many clips each: the last ones are taken twice where they cannot be shared out.
    rows = torch.arange(-(-len(clips) // world) * world).clamp_max(len(clips) - 1)[rank::world]
    parts = []
    for start in range(0, len(rows), batch):
        given = Batch(*(part.to(device) for part in clips.batch(rows[start : start + batch])))
        parts.append(model(given.x, None if view is None else view(given)).float())
    logits = torch.cat(parts)
    if world > 1:
        logits = gathered(logits, fabric)
    return logits[: len(clips)].cpu().numpy()
