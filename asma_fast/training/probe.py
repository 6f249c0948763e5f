"""Probes: how much of the classes a frozen encoder's features carry."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import multiclass_confusion_matrix

import asma_fast
from asma_fast.config import as_json
from asma_fast.data import Preprocessing, Store
from asma_fast.philox import derive_seed
from asma_fast.training.checkpoint import CheckpointError, write_text
from asma_fast.training.configs import ProbeConfig
from asma_fast.training.dataset import (
    Clips,
    EpochBatches,
    load_clips,
    open_data,
    preprocessing_of,
    split_of,
    trained_rows,
)
from asma_fast.training.features import (
    calibrate,
    check_fits,
    extract_features,
    initial_seed,
    load_encoder,
    raw_features,
    recorded_encoder,
)

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
_STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)  # C of the logistic regression


@dataclass(frozen=True)
class ProbeResult:
    """What a probe measured.

    Parameters
    ----------
    accuracy
        Share of the test clips whose class was named.
    per_class
        The same of each class; NaN for a class without test clips.
    confusion
        ``(K, K)`` int64: true class by row, named class by column.
    classes
        Names of the rows.
    chosen
        What the method chose by itself: C of a logistic regression.
    record
        All of it, with data, protocol, seed, budget and versions, as it is written to JSON.
    """

    accuracy: float
    per_class: tuple[float, ...]
    confusion: NDArray[np.int64]
    classes: tuple[str, ...]
    chosen: dict[str, Any]
    record: dict[str, Any]

    def __str__(self) -> str:
        clips = self.record["clips"]
        lines = [f"accuracy {100 * self.accuracy:.2f} % of {clips['test']} test clips ({clips['train']} for training)"]
        lines += [
            f"  {name:<32} {'no test clips' if share != share else f'{100 * share:.1f} %'}"
            for name, share in zip(self.classes, self.per_class, strict=True)
        ]
        if seen := self.record.get("test_clips_seen"):
            lines.append(f"warning: the encoders were pretrained on {seen} of the {clips['test']} test clips")
        return "\n".join(lines)


def probe(config: ProbeConfig) -> ProbeResult:
    """Probes what ``config.features`` names on a store's split and writes one JSON record to ``config.out``.

    Raises
    ------
    ValueError
        If there are no labels, one class only, a part without clips, or the options do not fit store and run.
    CheckpointError
        If an encoder's checkpoint is damaged, or of another skeleton, preprocessing or number of bodies.

    Notes
    -----
    Where ``config.run`` holds encoders, clips are prepared as theirs were, also for raw coordinates; and the split is
    by default that of the run, on the store it was trained on.
    """
    store = open_data(config)
    loaded = [(path, *load_encoder(path)) for path in _encoders_of(config)]
    records = [record for _, _, record in loaded]
    split = _split(config, store, records)
    if records:
        config = _as_recorded(config, records[0])
    recipe, bodies = _recipe(config, store, records)
    config = replace(config, split=split, frames=recipe.frames or 0, bodies=bodies)
    made: dict[str, Any] = {"layout": config.layout, "stream": config.stream, "memory": config.memory}
    train, test = (_labelled(load_clips(store, rows, recipe, bodies, **made), split) for rows in store.split(split))
    for path, _, record in loaded:
        check_fits(path, record, train)
    if config.features == "raw":  # the run only told how to prepare the clips
        loaded = []
    features = [_features(config, loaded, clips, train) for clips in (train, test)]
    about = {
        "data": {"dataset": store.dataset, "fingerprint": store.fingerprint, "split": split},
        "preprocessing": recipe.to_dict(),
        "encoders": {path.stem: _budget(record) for path, _, record in loaded},
        "test_clips_seen": _seen(store, records, test) if config.features == "encoder" else 0,
    }
    result = probe_features(
        config, (features[0], train.labels.numpy()), (features[1], test.labels.numpy()), store.classes, about
    )
    write_text(config.out, json.dumps(result.record, indent=2) + "\n")
    return result


def probe_features(
    config: ProbeConfig,
    train: tuple[Floats, Labels],
    test: tuple[Floats, Labels],
    classes: Sequence[str],
    about: dict[str, Any] | None = None,
) -> ProbeResult:
    """Probes features that are already there.

    Parameters
    ----------
    train, test
        Features ``(N, D)`` float32 and labels ``(N,)`` int64 below ``len(classes)``.
    about
        Entries for the record, such as where the features come from.

    Raises
    ------
    ValueError
        If either part has no clips, the training part has one class only, or there are more neighbours than clips.

    Examples
    --------
    >>> x = np.array([[0.0, 1.0], [1.0, 0.0]] * 10, np.float32)
    >>> y = np.array([0, 1] * 10)
    >>> probe_features(ProbeConfig(method="knn", neighbours=3), (x, y), (x, y), ("a", "b")).accuracy
    1.0
    """
    check_labels(train[1], test[1], classes)
    for part, (x, _) in (("training", train), ("test", test)):
        if not np.isfinite(x).all():
            raise ValueError(f"features of the {part} part must be finite")
    methods = {"logistic": _logistic, "linear": _linear, "knn": _neighbours}
    named, chosen = methods[config.method](config, train, test[0])
    count = len(classes)
    confusion = multiclass_confusion_matrix(torch.from_numpy(named), torch.from_numpy(test[1]), count).numpy()
    hits, totals = confusion.diagonal(), confusion.sum(1)
    per_class = tuple(float(hit / total) if total else float("nan") for hit, total in zip(hits, totals, strict=True))
    accuracy = float(hits.sum() / totals.sum())
    record = {
        **(about or {}),
        "config": as_json(config),
        "clips": {"train": len(train[1]), "test": len(test[1])},
        "width": int(train[0].shape[1]),
        "chosen": chosen,
        "accuracy": accuracy,
        "per_class": {name: None if share != share else share for name, share in zip(classes, per_class, strict=True)},
        "confusion": confusion.tolist(),
        "versions": {
            "asma_fast": asma_fast.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
    return ProbeResult(accuracy, per_class, confusion, tuple(classes), chosen, record)


def check_labels(train: Labels, test: Labels, classes: Sequence[str]) -> None:
    """There is something to probe.

    Raises
    ------
    ValueError
        If either part has no clips, or the training part has one class only.
    """
    for part, labels in (("training", train), ("test", test)):
        if len(labels) == 0:
            raise ValueError(f"the {part} part of the split has no labelled clips")
    present = np.unique(train)
    if len(present) < 2:
        raise ValueError(f"a probe needs two classes or more to tell apart, got only {classes[present[0]]!r}")


def _encoders_of(config: ProbeConfig) -> list[Path]:
    """Checkpoints of the run whose features, untrained network or preprocessing are asked for."""
    known = sorted(path.stem for path in config.run.glob("*.safetensors"))
    if not known and config.features == "raw":
        return []
    if not known:
        raise CheckpointError(f"{config.run}: holds no encoders; `asma-fast pretrain --out {config.run}` makes them")
    for name in config.encoders:
        if name not in known:
            raise ValueError(f"encoders must be among {', '.join(known)}, those in {config.run}; got {name!r}")
    return [config.run / f"{name}.safetensors" for name in config.encoders or known]


def _split(config: ProbeConfig, store: Store, records: Sequence[dict[str, Any]]) -> str:
    """The split asked for; else that of the run, if it was trained on this store; else the store's only one."""
    ran = {record["config"]["split"] for record in records if record.get("store") == store.fingerprint}
    if config.split is None and len(ran) == 1:
        return split_of(store, ran.pop())
    return split_of(store, config.split)


def _as_recorded(config: ProbeConfig, record: dict[str, Any]) -> ProbeConfig:
    """The config with stream, layout and preprocessing of the encoders' clips, where it names no others."""
    ran = record["config"]
    stream, layout = ran.get("stream", "joint"), config.layout or ran.get("layout")
    if config.stream not in ("joint", stream):
        raise ValueError(f"stream must be {stream}, as for the encoders in {config.run}; got {config.stream}")
    return replace(config, preprocessing=ran["preprocessing"], stream=stream, layout=layout)


def _recipe(config: ProbeConfig, store: Store, records: Sequence[dict[str, Any]]) -> tuple[Preprocessing, int]:
    """How clips are prepared, and how many bodies are kept: as the encoders' were, where there are any."""
    if not records:
        return preprocessing_of(config, store), config.bodies
    recipe = store.preprocessing or Preprocessing.from_dict(records[0]["preprocessing"])
    bodies = min(records[0]["bodies"], store.bodies)
    for option, asked, used in (("frames", config.frames, recipe.frames), ("bodies", config.bodies, bodies)):
        if asked not in (0, used):
            raise ValueError(f"{option} must be {used}, as for the encoders in {config.run}, or 0; got {asked}")
    return recipe, bodies


def _seen(store: Store, records: Sequence[dict[str, Any]], test: Clips) -> int | None:
    """How many test clips the encoders were pretrained on; None where one was trained on another store."""
    rows = [places for record in records if (places := trained_rows(record, store)) is not None]
    if len(rows) < len(records):
        return None
    return int(np.isin(test.ids.numpy(), np.concatenate(rows)).sum())


def _budget(record: dict[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in ("epoch", "epochs", "step", "config", "fingerprint")}


def _labelled(clips: Clips, split: str) -> Clips:
    known = clips.labels >= 0
    if not known.any():
        raise ValueError(f"split {split}: a part has no labels; a probe needs them")
    return clips if known.all() else clips.take(known)


def _features(config: ProbeConfig, loaded: Sequence[Any], clips: Clips, train: Clips) -> Floats:
    if config.features == "raw":
        return raw_features(clips)
    if config.features == "encoder":
        parts = [extract_features(encoder, clips, config.batch) for _, encoder, _ in loaded]
        return np.concatenate(parts, axis=1)
    # One untrained network: that of the run's first encoder, with its widths.
    path, _, record = loaded[0]
    encoder = recorded_encoder(path, record, initial_seed(record["config"]["seed"]))
    return extract_features(calibrate(encoder, train, config.batch), clips, config.batch)


def _standardised(train: Floats, test: Floats) -> tuple[Floats, Floats]:
    mean, spread = train.mean(0), train.std(0)
    spread = np.where(spread > 1e-6 * max(float(spread.max()), 1e-30), spread, 1.0)
    return (train - mean) / spread, (test - mean) / spread


def _within_rows(train: Floats, test: Floats) -> tuple[Floats, Floats]:
    """Features in the basis of the training rows, at most as wide as there are clips.

    Nothing changes for a classifier with an L2 penalty: its weights lie in the span of the training rows, and the
    penalty does not see a rotation. What does change is the time it takes on coordinates.
    """
    if train.shape[1] <= train.shape[0]:
        return train, test
    basis = np.linalg.svd(train, full_matrices=False)[2].T
    return train @ basis, test @ basis


def _logistic(config: ProbeConfig, train: tuple[Floats, Labels], test: Floats) -> tuple[Labels, dict[str, Any]]:
    """L2 logistic regression on standardised features; C by three-fold inner split, fewer where classes are small."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    x, wanted = _within_rows(*_standardised(train[0], test))
    y = train[1]
    smallest = int(np.unique(y, return_counts=True)[1].min())
    folds = min(3, smallest)
    chosen = 1.0
    with warnings.catch_warnings():
        # Weak penalties on separable features converge slowly and are compared as far as they got.
        warnings.simplefilter("ignore", ConvergenceWarning)
        if folds >= 2:
            inner = list(StratifiedKFold(folds, shuffle=True, random_state=config.seed % 2**32).split(x, y))
            scores = []
            for strength in _STRENGTHS:
                hits = [
                    LogisticRegression(C=strength, max_iter=300).fit(x[fit], y[fit]).score(x[held], y[held])
                    for fit, held in inner
                ]
                scores.append(float(np.mean(hits)))
            chosen = _STRENGTHS[int(np.argmax(scores))]
        model = LogisticRegression(C=chosen, max_iter=1000).fit(x, y)
    return model.predict(wanted).astype(np.int64), {"C": chosen, "folds": folds if folds >= 2 else 0}


def _linear(config: ProbeConfig, train: tuple[Floats, Labels], test: Floats) -> tuple[Labels, dict[str, Any]]:
    """PSTL's linear evaluation: one layer, Adam, cosine to 0, the features as they are."""
    x, y = torch.from_numpy(train[0]), torch.from_numpy(train[1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, 0))
        layer = torch.nn.Linear(x.shape[1], int(y.max()) + 1)
    batches = EpochBatches(len(x), config.batch, derive_seed(config.seed, 1))
    optimiser = torch.optim.Adam(layer.parameters(), lr=config.lr)
    for epoch in range(config.epochs):
        batches.epoch = epoch
        for group in optimiser.param_groups:
            group["lr"] = config.lr * 0.5 * (1 + np.cos(np.pi * epoch / config.epochs))
        for rows in batches:
            loss = torch.nn.functional.cross_entropy(layer(x[rows]), y[rows])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        return layer(torch.from_numpy(test)).argmax(1).numpy(), {}


def _neighbours(config: ProbeConfig, train: tuple[Floats, Labels], test: Floats) -> tuple[Labels, dict[str, Any]]:
    """Majority of the nearest by cosine; the nearest decides a tie."""
    x, y = train
    if config.neighbours > len(y):
        raise ValueError(f"neighbours must be at most the {len(y)} training clips, got {config.neighbours}")
    unit = [part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12) for part in (x, test)]
    nearest = np.argsort(-(unit[1] @ unit[0].T), axis=1, kind="stable")[:, : config.neighbours]
    votes = np.zeros((len(test), int(y.max()) + 1))
    # The weights of later neighbours never sum to one vote, so they only break ties.
    bonus = 2.0 ** -np.arange(1, config.neighbours + 1)
    for place in range(config.neighbours):
        np.add.at(votes, (np.arange(len(test)), y[nearest[:, place]]), 1.0 + 0.5 * bonus[place])
    return votes.argmax(1).astype(np.int64), {"neighbours": config.neighbours}
