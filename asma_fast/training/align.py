"""Alignment: two pretrained encoders joined by a learnable module, under one linear head."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asma_fast.nn import AlignedEncoders, Classifier
from asma_fast.philox import derive_seed
from asma_fast.training.checkpoint import CheckpointError
from asma_fast.training.configs_supervised import AlignConfig
from asma_fast.training.dataset import HELD_BYTES, Batch, Clips, open_data
from asma_fast.training.finetune import FinetuneResult, add_result
from asma_fast.training.launch import gathered, launched, sole
from asma_fast.training.loop import HEAD, TrainingRun
from asma_fast.training.models import (
    Network,
    aligned_network,
    build_network,
    check_fits,
    classifier_network,
    classifier_over,
    encoder_files,
    initial_seed,
    load_encoder,
    recorded_network,
    with_dropout,
)
from asma_fast.training.parts import Parts, budget_of, labelled_parts, seen_in_training
from asma_fast.training.supervised import fit, predict_logits

NAME = "aligned"  # of the checkpoint
# What two encoders must share to read the same clips.
_SHARED = {
    "skeleton": "joint layout",
    "preprocessing": "preprocessing",
    "bodies": "number of bodies",
    "coordinates": "number of coordinates",
    "stream": "stream",
}


@dataclass(frozen=True)
class Pair:
    """Two encoders: their checkpoints and records."""

    paths: tuple[Path, Path]
    records: tuple[dict[str, Any], dict[str, Any]]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the checkpoints; with their folders where they are alike."""
        names = tuple(path.stem for path in self.paths)
        return names if len(set(names)) == 2 else tuple(str(path.with_suffix("")) for path in self.paths)

    def network(self, config: AlignConfig, classes: int) -> Network:
        """The classifier, as its record will tell it."""
        first, second = (
            with_dropout(recorded_network(path, record), config.dropout)
            for path, record in zip(self.paths, self.records, strict=True)
        )
        return classifier_network(aligned_network(first, second, config.alignment, config.tokens), classes)

    def model(self, config: AlignConfig, classes: int) -> tuple[Classifier, AlignedEncoders]:
        """The classifier over both pretrained encoders, its alignment and head new; and the classifier's encoder."""
        network = self.network(config, classes)["encoder"]
        encoder = build_network(network, initial_seed(config.seed), recompute=config.recompute)
        assert isinstance(encoder, AlignedEncoders)
        for path, part in zip(self.paths, (encoder.first, encoder.second), strict=True):
            part.load_state_dict(load_encoder(path)[0].state_dict())
        return classifier_over(encoder, classes, derive_seed(config.seed, HEAD)), encoder

    def told(self) -> dict[str, Any]:
        """What a record says of both, by name."""
        return {
            name: {**budget_of(record), "store": record["store"], "path": str(path)}
            for name, path, record in zip(self.names, self.paths, self.records, strict=True)
        }


def align(config: AlignConfig) -> FinetuneResult:
    """Trains the module that joins two pretrained encoders, and a head, with the labels of a split; writes a record.

    ``aligned.safetensors``, metrics, and ``record-aligned.json`` with its logits beside it, go to ``config.out``; what
    is found there is continued. The last epoch is measured, never the best one.

    Raises
    ------
    ValueError
        If there are no labels, one class only, a part without clips, or the options do not fit store and run.
    CheckpointError
        If a checkpoint is damaged, or the encoders are of different joint layouts, preprocessing, numbers of bodies or
        streams, or others than the store's.
    TrainingError
        As of :func:`asma_fast.training.finetune`.

    Notes
    -----
    Frozen encoders stay in eval mode. Where clips are not augmented, each is read once, and training goes on from the
    tokens that the encoders gave.
    """
    with launched(config) as fabric:
        store, pair = open_data(config), pair_of(config)
        parts = labelled_parts(config, store, pair.records, " and ".join(pair.names))
        config = parts.config
        for path, record in zip(pair.paths, pair.records, strict=True):
            check_fits(path, record, parts.train)
        with sole(config.out, fabric):
            result = FinetuneResult({}, {}, {}, {}, fabric.global_rank)
            run, model = trained(config, pair, parts.train, fabric)
            logits = predict_logits(model, parts.test, config.batch, fabric)
            add_result(result, config, run, logits, parts, "align", _facts(config, pair, parts))
            return result


def pair_of(config: AlignConfig) -> Pair:
    """The two encoders that a config names.

    Raises
    ------
    CheckpointError
        If they cannot read the same clips.
    ValueError
        If both are the same.
    """
    first, second = (_file(config.run, name) for name in config.encoders)
    if first.resolve() == second.resolve():
        raise ValueError(f"encoders must be two different checkpoints, got {first} twice")
    records = load_encoder(first)[1], load_encoder(second)[1]
    for key, what in _SHARED.items():
        one, other = (record.get(key) for record in records)
        if one != other:
            if key == "skeleton":
                one, other = (_layout(skeleton) for skeleton in (one, other))
            raise CheckpointError(
                f"{first} and {second} cannot be aligned: their clips differ in {what}, {one} and {other}"
            )
    return Pair((first, second), records)


def trained(config: AlignConfig, pair: Pair, train: Clips, fabric: Any) -> tuple[TrainingRun, Classifier]:
    """The classifier over both encoders, trained on clips; and its run."""
    classes = len(train.classes)
    model, encoder = pair.model(config, classes)
    module: nn.Module = model
    frozen = [encoder.first, encoder.second] if config.freeze == "encoder" else []
    options = config
    if frozen and config.augment == "none":
        model.to(fabric.device)
        train = read_once(train, encoder, config, fabric)
        module = OverTokens(model, train.shapes)
        options = replace(config, workers=0)  # nothing is left to load
    run = fit(
        module,
        train,
        options,
        fabric,
        config.out / f"{NAME}.safetensors",
        kind="align",
        record={"network": pair.network(config, classes), "encoders": pair.told()},
        frozen=frozen,
        saved=model,
        title=f"align {' and '.join(pair.names)}",
    )
    return run, model.eval()


class OverTokens(nn.Module):
    """Alignment and head of a classifier, over tokens of both encoders that lie in one row a clip.

    Parameters
    ----------
    model
        A classifier over :class:`asma_fast.nn.AlignedEncoders`.
    shapes
        ``(P, D)`` of each encoder's tokens.
    """

    def __init__(self, model: Classifier, shapes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        assert isinstance(model.encoder, AlignedEncoders)
        self.alignment, self.head, self.shapes = model.encoder.alignment, model.head, tuple(shapes)

    def forward(self, rows: Tensor, view: None = None, *, seed: Any = None, ids: Tensor | None = None) -> Tensor:
        """Logits, as the classifier gives them of the clips."""
        parts = rows.split([tokens * width for tokens, width in self.shapes], dim=1)
        first, second = (part.unflatten(1, shape) for part, shape in zip(parts, self.shapes, strict=True))
        logits: Tensor = self.head(self.alignment(first, second, seed=seed, ids=ids))
        return logits


@dataclass(frozen=True, eq=False)
class ReadClips(Clips):
    """Clips as what frozen encoders make of them: a batch's ``x`` is one row a clip, all tokens of both encoders.

    The encoders read each clip once, when the first batch is asked for.

    Parameters
    ----------
    encoder, config, fabric
        What reads them, and how many at once; every process reads its share.
    shapes
        ``(P, D)`` of each encoder's tokens in a row.
    """

    encoder: Any = None
    config: Any = None
    fabric: Any = None
    shapes: tuple[tuple[int, int], ...] = field(default=())

    def batch(self, rows: Sequence[int] | slice | Tensor) -> Batch:
        return Batch(self.rows[rows], self.labels[rows], self.ids[rows])

    @cached_property
    def rows(self) -> Tensor:
        """``(N, P1·D1 + P2·D2)`` float32; in a file without a name where it is too large to be held."""
        rank, world = self.fabric.global_rank, self.fabric.world_size
        made = _room(len(self), sum(tokens * width for tokens, width in self.shapes), self.config)
        # As many clips for each process: the last ones are taken twice where they cannot be shared out.
        places = torch.arange(-(-len(self) // world) * world).clamp_max(len(self) - 1)
        for start in range(0, len(places), self.config.batch * world):
            wanted = places[start : start + self.config.batch * world]
            x = super().batch(wanted[rank::world]).x.to(self.fabric.device)
            tokens = torch.cat([part.flatten(1) for part in read(self.encoder, x)], dim=1)
            made[wanted] = gathered(tokens, self.fabric).cpu()
        return made


@torch.no_grad()
def read(encoder: AlignedEncoders, x: Tensor) -> tuple[Tensor, ...]:
    """What the alignment needs of each encoder's tokens: their average alone, as one token, where nothing attends."""
    # Not the alignment: it may be in training.
    parts = (part.eval().tokens(x, per=encoder.tokens).float() for part in (encoder.first, encoder.second))
    alignment = encoder.alignment
    pooled = alignment.mode in ("concat", "mean") or (alignment.mode == "weighted" and alignment.joints is None)
    return tuple(part.mean(1, keepdim=True) if pooled else part for part in parts)


def read_once(clips: Clips, encoder: AlignedEncoders, config: AlignConfig, fabric: Any) -> ReadClips:
    """Clips as what a frozen pair of encoders makes of them, each clip read once."""
    first = read(encoder, clips.batch([0]).x.to(fabric.device))
    shapes = tuple((part.shape[1], part.shape[2]) for part in first)
    made = {item.name: getattr(clips, item.name) for item in fields(Clips)}
    return ReadClips(**made, encoder=encoder, config=config, fabric=fabric, shapes=shapes)


def _room(count: int, width: int, config: AlignConfig) -> Tensor:
    """Of uninitialised numbers; in a file whose name is given up at once where memory is not to hold them."""
    if config.memory == "all" or (config.memory == "auto" and 4 * count * width <= HELD_BYTES):
        return torch.empty(count, width)
    path = config.out / f".tokens.{os.getpid()}.tmp"
    made = torch.from_file(str(path), shared=True, size=count * width).view(count, width)
    path.unlink(missing_ok=True)
    return made


def _file(run: Path, name: str) -> Path:
    """The checkpoint that ``name`` is: a path, or an encoder of the run."""
    return Path(name) if name.endswith(".safetensors") else encoder_files(run, (name,))[0]


def _layout(skeleton: Any) -> str:
    return f"{skeleton['name']} ({len(skeleton['joints'])} joints)"


def _facts(config: AlignConfig, pair: Pair, parts: Parts[AlignConfig]) -> dict[str, Any]:
    how = "" if config.freeze == "encoder" else ", encoders trained"
    return {
        "name": config.name or f"aligned {'+'.join(pair.names)}",
        "protocol": f"align, {config.mode}{how}",
        "data": parts.data(),
        "preprocessing": parts.recipe.to_dict(),
        "encoders": pair.told(),
        "test_clips_seen": seen_in_training(parts.store, pair.records, parts.test),
    }
