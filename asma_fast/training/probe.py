"""Probes: how much of the classes a frozen encoder's features carry."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from asma_fast.philox import derive_seed
from asma_fast.training.batches import EpochBatches
from asma_fast.training.configs import ProbeConfig
from asma_fast.training.dataset import open_data
from asma_fast.training.frozen import extractor, load_frozen
from asma_fast.training.parts import labelled_parts
from asma_fast.training.records import (
    Floats,
    Labels,
    Scores,
    check_labels,
    make_record,
    scores_of,
    warnings_of,
    write_record,
)

# Logits of the test clips, the classes of their columns, and what the method chose.
Found = tuple[NDArray[Any], NDArray[Any], dict[str, Any]]
_STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)  # C of the logistic regression


@dataclass(frozen=True)
class ProbeResult(Scores):
    """What a probe measured: scores, and how.

    Parameters
    ----------
    chosen
        What the method chose by itself: C of a logistic regression.
    record
        All of it, with data, protocol, seed, budget and versions, as it is written to JSON.
    logits
        ``(N, K)``: how much speaks for each class; votes of neighbours. Of a class without training clips: one below
        the row's least.
    """

    chosen: dict[str, Any]
    record: dict[str, Any]
    logits: Floats

    def __str__(self) -> str:
        clips = self.record["clips"]
        lines = [f"accuracy {100 * self.accuracy:.2f} % of {clips['test']} test clips ({clips['train']} for training)"]
        return "\n".join([*lines, *self.table(), *warnings_of(self.record)])


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
    began = time.perf_counter()
    store, frozen = open_data(config), load_frozen(config)
    parts = labelled_parts(config, store, frozen.records, frozen.where)
    config = parts.config
    train, test = parts.train, parts.test
    frozen.check(train)
    features = extractor(config, frozen, train)
    known, asked = (features(train), train.labels.numpy()), (features(test), test.labels.numpy())
    result = probe_features(config, known, asked, parts.store.classes)
    about = {
        "name": config.name or f"{frozen.named(config)} {config.method}",
        "protocol": f"probe, {config.method}",
        **frozen.about(config, parts),
        "width": result.record["width"],
        "chosen": result.chosen,
        "seconds": round(time.perf_counter() - began, 3),
    }
    beside = None
    if config.held_out:
        scores = held_out_logits(config, known, parts.store.classes)
        beside = {"held_out_logits": scores, "held_out_labels": known[1], "held_out_ids": train.ids.numpy()}
    record = write_record(
        config.out, "probe", result, config, (train, test), about, logits=result.logits, beside=beside
    )
    return replace(result, record=record)


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
    found, columns, chosen = methods[config.method](config, train, test[0])
    logits = np.repeat(found.min(axis=1, keepdims=True) - 1, len(classes), axis=1)
    logits[:, columns] = found
    scores = scores_of(logits, test[1], classes)
    facts = {"width": int(train[0].shape[1]), "chosen": chosen, **(about or {})}
    record = make_record("probe", scores, config, {"train": len(train[1]), "test": len(test[1])}, facts)
    return ProbeResult(**vars(scores), chosen=chosen, record=record, logits=logits.astype(np.float32))


def held_out_logits(config: ProbeConfig, train: tuple[Floats, Labels], classes: Sequence[str]) -> Floats:
    """``(N, K)``: logits of each training clip by a probe that was fitted on two thirds of the others, by class.

    Raises
    ------
    ValueError
        If a class has one clip only.
    """
    from sklearn.model_selection import StratifiedKFold

    x, y = train
    labels, counts = np.unique(y, return_counts=True)
    if counts.min() < 2:
        name = classes[labels[counts.argmin()]]
        raise ValueError(f"held-out scores need two training clips or more of each class, got one of {name}")
    logits = np.empty((len(y), len(classes)), np.float32)
    folds = StratifiedKFold(min(3, int(counts.min())), shuffle=True, random_state=config.seed % 2**32)
    for fit, held in folds.split(x, y):
        logits[held] = probe_features(config, (x[fit], y[fit]), (x[held], y[held]), classes).logits
    return logits


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


def _logistic(config: ProbeConfig, train: tuple[Floats, Labels], test: Floats) -> Found:
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
    found = model.decision_function(wanted)
    if found.ndim == 1:  # of two classes, the second's
        found = np.stack([-found, found], axis=1) / 2
    return found, model.classes_, {"C": chosen, "folds": folds if folds >= 2 else 0}


def _linear(config: ProbeConfig, train: tuple[Floats, Labels], test: Floats) -> Found:
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
        found = layer(torch.from_numpy(test)).numpy()
    return found, np.arange(found.shape[1]), {}


def _neighbours(config: ProbeConfig, train: tuple[Floats, Labels], test: Floats) -> Found:
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
    return votes, np.arange(votes.shape[1]), {"neighbours": config.neighbours}
