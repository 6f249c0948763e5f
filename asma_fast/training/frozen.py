"""Frozen networks and what they tell of clips: what every verb that measures features begins with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from asma_fast.nn import Classifier
from asma_fast.training.checkpoint import CheckpointError
from asma_fast.training.configs import FeaturesConfig
from asma_fast.training.dataset import Clips
from asma_fast.training.features import calibrate, extract_features, raw_features
from asma_fast.training.models import (
    build_network,
    check_fits,
    encoder_files,
    initial_seed,
    load_encoder,
    load_model,
    recorded_network,
)
from asma_fast.training.parts import Parts, budget_of, seen_in_training
from asma_fast.training.records import Floats


@dataclass(frozen=True, eq=False)
class Frozen:
    """Trained networks.

    Parameters
    ----------
    paths, encoders, records
        Of each its checkpoint, its encoder in eval mode, and the checkpoint's record.
    classifier
        The whole network, where it is one that has a head.
    where
        For messages.
    """

    paths: tuple[Path, ...]
    encoders: tuple[nn.Module, ...]
    records: tuple[dict[str, Any], ...]
    classifier: Classifier | None
    where: Path

    def check(self, clips: Clips) -> None:
        """The networks were trained on clips like these.

        Raises
        ------
        CheckpointError
            As :func:`asma_fast.training.models.check_fits`.
        """
        for path, record in zip(self.paths, self.records, strict=True):
            check_fits(path, record, clips)

    def classifier_of(self, classes: Sequence[str]) -> Classifier:
        """The network with a head, if it tells these classes.

        Raises
        ------
        CheckpointError
            If there is no head, or its classes are others.
        """
        if self.classifier is None:
            raise CheckpointError(
                f"{self.where}: has no head to name classes; finetune, semi, transfer, align or distill trains one"
            )
        told = self.records[0]["classes"]
        if told != list(classes):
            raise CheckpointError(
                f"{self.where}: names {len(told)} classes ({', '.join(told[:3])}, …), "
                f"the store has {len(classes)} others ({', '.join(classes[:3])}, …)"
            )
        return self.classifier

    def named(self, config: FeaturesConfig) -> str:
        """What the features are."""
        joined = "+".join(path.stem for path in self.paths)
        return {"raw": "coordinates", "random": "untrained"}.get(config.features, joined)

    def about(self, config: FeaturesConfig, parts: Parts[Any]) -> dict[str, Any]:
        """What a record says of data and networks."""
        used = config.features == "encoder"
        told = zip(self.paths, self.records, strict=True) if config.features != "raw" else ()
        return {
            "data": parts.data(),
            "preprocessing": parts.recipe.to_dict(),
            "encoders": {path.stem: budget_of(record) for path, record in told},
            "test_clips_seen": seen_in_training(parts.store, self.records, parts.test) if used else 0,
        }


def load_frozen(config: FeaturesConfig) -> Frozen:
    """The encoders of a run, or the network of one checkpoint; none where coordinates are asked for and there is none.

    Raises
    ------
    CheckpointError
        If a checkpoint is missing or damaged.
    ValueError
        If an encoder that is named is not there.
    """
    if config.checkpoint is not None:
        model, record = load_model(config.checkpoint)
        classifier = model if isinstance(model, Classifier) else None
        encoder: nn.Module = model if classifier is None else classifier.encoder
        return Frozen((config.checkpoint,), (encoder,), (record,), classifier, config.checkpoint)
    try:
        paths = encoder_files(config.run, config.encoders)
    except CheckpointError:
        if config.features != "raw":
            raise
        paths = []
    loaded = [load_encoder(path) for path in paths]
    encoders, records = [encoder for encoder, _ in loaded], [record for _, record in loaded]
    return Frozen(tuple(paths), tuple(encoders), tuple(records), None, config.run)


def extractor(config: FeaturesConfig, frozen: Frozen, train: Clips) -> Callable[[Clips], Floats]:
    """What gives the features ``(N, D)`` that a config asks for: of all encoders, joined; of the first one's network
    untrained, batch-norms calibrated on the training clips; or the coordinates."""
    if config.features == "raw":
        return raw_features
    encoders = frozen.encoders
    if config.features == "random":
        encoders = (calibrate(_untrained(frozen), train, config.batch),)
    return lambda clips: np.concatenate([extract_features(one, clips, config.batch) for one in encoders], axis=1)


def _untrained(frozen: Frozen) -> nn.Module:
    record = frozen.records[0]
    network = recorded_network(frozen.paths[0], record)
    encoder = network["encoder"] if network["kind"] == "classifier" else network
    return build_network(encoder, initial_seed(record["config"]["seed"]))
