"""Class names for clips: of a store, or of one raw file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from scipy.special import softmax

from asma_fast.data import StoreWriter, fill_missing, read_clip
from asma_fast.skeleton import Skeleton
from asma_fast.training.checkpoint import CheckpointError, write_text
from asma_fast.training.configs_measure import PredictConfig
from asma_fast.training.models import check_fits, load_model
from asma_fast.training.parts import any_clips
from asma_fast.training.records import Floats
from asma_fast.training.supervised import predict_logits


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a network says of clips; prints as a table.

    Parameters
    ----------
    names
        Of the clips.
    truths
        Names of their classes; None where unknown.
    classes
        Those of the network.
    probabilities
        ``(N, K)`` float32: softmax of its logits.
    top
        How many classes of each clip are told.
    """

    names: tuple[str, ...]
    truths: tuple[str | None, ...]
    classes: tuple[str, ...]
    probabilities: Floats
    top: int

    def rows(self) -> Iterator[dict[str, Any]]:
        """Of each clip its name, its class where known, and the likeliest classes with their probabilities."""
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, : self.top]
        for name, truth, row, best in zip(self.names, self.truths, self.probabilities, order, strict=True):
            yield {
                "name": name,
                "class": truth,
                "predicted": [{"class": self.classes[k], "probability": round(float(row[k]), 6)} for k in best],
            }

    def json_lines(self) -> str:
        """One JSON object a line."""
        return "\n".join(json.dumps(row, ensure_ascii=False) for row in self.rows())

    def __str__(self) -> str:
        lines = []
        for row in self.rows():
            told = ", ".join(f"{one['class']} {100 * one['probability']:.1f} %" for one in row["predicted"])
            lines.append(f"{row['name']}{'' if row['class'] is None else ' (' + row['class'] + ')'}: {told}")
        return "\n".join(lines)


def predict(config: PredictConfig) -> Predictions:
    """Names the classes of a store's clips, or of one raw file, which is prepared as ``asma-fast prepare`` prepares it.

    Raises
    ------
    ValueError
        If there is nothing to read, or clips cannot be prepared; ``FormatError`` if a raw file is damaged.
    CheckpointError
        If the checkpoint is damaged, has no head, or is of another skeleton, preprocessing or number of bodies.
    """
    if config.checkpoint is None:
        raise ValueError("name a network with a head by --checkpoint; `asma-fast finetune` trains one")
    model, record = load_model(config.checkpoint)
    if record["kind"] == "pretrain":
        raise CheckpointError(
            f"{config.checkpoint}: has no head to name classes; finetune, semi, transfer, align or distill trains one"
        )
    path = config.path or config.data
    if path is None:
        raise ValueError("name a store, or a raw file and its --dataset")
    with TemporaryDirectory() as folder:
        if config.dataset is not None:
            path = _as_store(path, config.dataset, Path(folder) / "clip.safetensors")
        store, _, clips = any_clips(replace(config, data=path), [record], config.part, config.checkpoint)
        check_fits(config.checkpoint, record, clips)
        logits = predict_logits(model, clips, config.batch)
        places, labels = clips.ids.tolist(), clips.labels.tolist()
        names = tuple(store.names[place] for place in places)
        truths = tuple(store.classes[label] if label >= 0 else None for label in labels)
    result = Predictions(names, truths, tuple(record["classes"]), softmax(logits, axis=1), config.top)
    if config.out is not None:
        write_text(config.out, (result.json_lines() if config.format == "json" else str(result)) + "\n")
    return result


def _as_store(path: Path, dataset: str, out: Path) -> Path:
    """One raw file as a store, missing joints filled in; its class, if its name tells one, is left out."""
    clip = read_clip(path, dataset)
    skeleton = Skeleton.named(clip.skeleton)
    clip = fill_missing(clip, skeleton)
    with StoreWriter(out, dataset=dataset, skeleton=skeleton, preprocessing=clip.preprocessing) as writer:
        writer.add(replace(clip, label=None, name=clip.name or path.stem, frame_labels=None))
        writer.finish(classes=())
    return out
