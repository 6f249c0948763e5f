"""Records of what was measured: one JSON file each, the test logits beside it, so that results can be joined later."""

from __future__ import annotations

import json
import platform
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torchmetrics.functional.classification import multiclass_confusion_matrix

import asma_fast
from asma_fast._files import replacing
from asma_fast.config import as_json
from asma_fast.training.checkpoint import write_text
from asma_fast.training.dataset import Clips

FORMAT = "asma_fast.record"
VERSION = 1
Labels = NDArray[np.int64]
Floats = NDArray[np.float32]
# What every record has; which of data, protocol, seed, budget and seconds are known depends on the verb.
_NEEDED = ("kind", "name", "config", "clips", "accuracy", "per_class", "confusion", "versions")


@dataclass(frozen=True)
class Scores:
    """How well classes were named.

    Parameters
    ----------
    accuracy
        Share of the clips whose class was named.
    per_class
        The same of each class; NaN for a class without clips.
    confusion
        ``(K, K)`` int64: true class by row, named class by column.
    classes
        Names of the rows.
    """

    accuracy: float
    per_class: tuple[float, ...]
    confusion: NDArray[np.int64]
    classes: tuple[str, ...]

    def table(self) -> list[str]:
        """Lines of text: each class and its share."""
        return [
            f"  {name:<32} {'no test clips' if share != share else f'{100 * share:.1f} %'}"
            for name, share in zip(self.classes, self.per_class, strict=True)
        ]


def scores_of(predicted: ArrayLike, labels: ArrayLike, classes: Sequence[str]) -> Scores:
    """Scores of named classes ``(N,)``, or of logits ``(N, K)``, whose largest names the class.

    Raises
    ------
    ValueError
        If there are no clips, the counts differ, or a label is outside the classes.

    Examples
    --------
    >>> scores_of([[2.0, 1.0], [0.5, 0.0]], [0, 1], ("a", "b")).accuracy
    0.5
    """
    values, truth = np.asarray(predicted), np.asarray(labels, dtype=np.int64)
    count = len(classes)
    if values.ndim == 2 and values.shape[1] != count:
        raise ValueError(f"logits must have a column for each of the {count} classes, got {values.shape[1]}")
    named = (values.argmax(1) if values.ndim == 2 else values).astype(np.int64)
    if len(named) != len(truth) or len(truth) == 0:
        raise ValueError(f"there must be a prediction for each label, got {len(named)} for {len(truth)}")
    _check_range(truth, classes, "the test part")
    confusion = multiclass_confusion_matrix(torch.from_numpy(named), torch.from_numpy(truth), count).numpy()
    hits, totals = confusion.diagonal(), confusion.sum(1)
    per_class = tuple(float(hit / total) if total else float("nan") for hit, total in zip(hits, totals, strict=True))
    return Scores(float(hits.sum() / totals.sum()), per_class, confusion, tuple(classes))


def check_labels(train: Labels, test: Labels, classes: Sequence[str]) -> None:
    """There is something to tell apart; −1 stands for a label that is not known.

    Raises
    ------
    ValueError
        If either part has no labelled clips, a label is outside the classes, or the training part has one class only.
    """
    for part, labels in (("training", train), ("test", test)):
        if not (labels >= 0).any():
            raise ValueError(f"the {part} part of the split has no labelled clips")
        _check_range(labels, classes, f"the {part} part of the split")
    present = np.unique(train[train >= 0])
    if len(present) < 2:
        raise ValueError(f"it takes two classes or more to tell apart, got only {classes[present[0]]!r}")


def _check_range(labels: Labels, classes: Sequence[str], where: str) -> None:
    outside = labels[labels >= len(classes)]
    if len(outside):
        raise ValueError(
            f"{where} has a clip of class {outside[0]}, but there are only {len(classes)} classes (from 0)"
        )


def untrained_classes(train: ArrayLike, test: ArrayLike, classes: Sequence[str]) -> list[str]:
    """Classes of test clips of which there is no training clip."""
    missing = np.setdiff1d(np.asarray(test), np.asarray(train))
    return [classes[label] for label in missing if label >= 0]


def warnings_of(record: Mapping[str, Any]) -> list[str]:
    """Lines for whoever reads a result: what its record says is amiss."""
    lines = []
    if seen := record.get("test_clips_seen"):
        lines.append(f"warning: the encoders were pretrained on {seen} of the {record['clips']['test']} test clips")
    if names := record.get("untrained_classes"):
        lines.append(f"warning: no training clips of {', '.join(names)}: their test clips cannot be named")
    return lines


def versions() -> dict[str, str]:
    """Of what a number depends on."""
    return {
        "asma_fast": asma_fast.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def make_record(
    kind: str,
    scores: Scores,
    config: Any,
    clips: Mapping[str, int],
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A record as JSON can hold it.

    Parameters
    ----------
    kind
        The verb.
    config
        Of the run; its ``name``, ``seed`` and ``stream``, where it has them, stand beside it too.
    clips
        How many, by part.
    about
        Further entries, which win over those made here: data, protocol, budget, seconds, chosen.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "kind": kind,
        "name": getattr(config, "name", None) or kind,
        "protocol": kind,
        "stream": getattr(config, "stream", "joint"),
        "seed": getattr(config, "seed", None),
        "config": as_json(config),
        "clips": dict(clips),
        "chosen": {},
        "accuracy": scores.accuracy,
        "per_class": {
            name: None if share != share else share
            for name, share in zip(scores.classes, scores.per_class, strict=True)
        },
        "confusion": scores.confusion.tolist(),
        "versions": versions(),
        **(about or {}),
    }


def write_record(
    path: Path,
    kind: str,
    scores: Scores,
    config: Any,
    clips: tuple[Clips, Clips],
    about: Mapping[str, Any] | None = None,
    *,
    logits: Floats | None = None,
    beside: Mapping[str, NDArray[Any]] | None = None,
) -> dict[str, Any]:
    """Writes one record, and returns it.

    Parameters
    ----------
    clips
        The training and the test part.
    about
        As for :func:`make_record`.
    logits
        ``(N, K)``, or ``(draws, N, K)``, of the test clips: written beside it, as ``STEM.npz`` with labels and ids.
    beside
        Further arrays of that file.
    """
    train, test = clips
    facts = {"untrained_classes": untrained_classes(train.labels, test.labels, scores.classes), **(about or {})}
    record = make_record(kind, scores, config, {"train": len(train), "test": len(test)}, facts)
    if logits is None:
        return saved(path, record)
    return saved(path, record, logits=logits, labels=test.labels.numpy(), ids=test.ids.numpy(), **(beside or {}))


def saved(path: Path, record: dict[str, Any], **arrays: NDArray[Any]) -> dict[str, Any]:
    """Writes a record to ``path``, its arrays (``logits``, ``labels``, ``ids``, …), if any, beside it; returns it."""
    if arrays:
        beside = path.with_suffix(".npz")
        record["logits"] = beside.name
        with replacing(beside) as temporary, open(temporary, "wb") as file:
            np.savez(file, **{name: _narrow(array) for name, array in arrays.items()})  # type: ignore[arg-type]
    write_text(path, json.dumps(record, indent=2) + "\n")
    return record


def _narrow(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def read_record(path: Path) -> dict[str, Any]:
    """A record that a verb wrote.

    Raises
    ------
    ValueError
        If there is no such file, or it is no record.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such record")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: is no record: {error}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f"{path}: is no record of asma_fast")
    if record.get("version") != VERSION:
        raise ValueError(f"{path}: record of version {record.get('version')!r}, this release reads {VERSION}")
    missing = [name for name in _NEEDED if name not in record]
    if missing:
        raise ValueError(f"{path}: is an incomplete record, without {', '.join(missing)}")
    return record


def read_logits(path: Path) -> tuple[Floats, Labels, Labels]:
    """Logits, labels and ids of the test clips of the record at ``path``.

    Raises
    ------
    ValueError
        If the record has none, or the file beside it is missing or damaged.
    """
    arrays = read_arrays(path)
    return arrays["logits"], arrays["labels"], arrays["ids"]


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays beside the record at ``path``: logits, labels and ids of the test clips, and whatever else.

    Raises
    ------
    ValueError
        If the record has none, or the file beside it is missing or damaged.
    """
    name = read_record(path).get("logits")
    if not name:
        raise ValueError(f"{path}: this record has no logits")
    beside = path.with_name(name)
    try:
        with np.load(beside, allow_pickle=False) as arrays:
            found = {key: arrays[key] for key in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{beside}: the logits of {path} cannot be read: {error}") from error
    missing = [key for key in ("logits", "labels", "ids") if key not in found]
    if missing:
        raise ValueError(f"{beside}: the logits of {path} cannot be read: there are no {', '.join(missing)}")
    return found
