"""Retrieval: which training clips lie nearest to a test clip, and whether they show the same action."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asma_fast.training.configs_measure import RetrieveConfig
from asma_fast.training.dataset import open_data
from asma_fast.training.frozen import extractor, load_frozen
from asma_fast.training.parts import labelled_parts
from asma_fast.training.records import Floats, Labels, Scores, scores_of, warnings_of, write_record

_AT_ONCE = 512  # queries


@dataclass(frozen=True)
class RetrieveResult(Scores):
    """How well clips of the same action are found; the accuracy is that of the nearest.

    Parameters
    ----------
    recall
        k → share of the queries that have a clip of their class among the k nearest.
    precision
        Mean average precision over the queries.
    precision_per_class
        Of the queries of each class; NaN where there are none.
    record
        All of it, as it is written to JSON.
    """

    recall: dict[int, float]
    precision: float
    precision_per_class: tuple[float, ...]
    record: dict[str, Any]

    def __str__(self) -> str:
        clips = self.record["clips"]
        recalls = ", ".join(f"recall@{k} {100 * share:.2f} %" for k, share in self.recall.items())
        lines = [
            f"{self.record['name']}: {recalls}, mAP {100 * self.precision:.2f} % "
            f"({clips['test']} queries, {clips['train']} clips searched)"
        ]
        pairs = zip(self.classes, self.precision_per_class, strict=True)
        lines += [f"  {name:<32} {'no queries' if one != one else f'mAP {100 * one:.1f} %'}" for name, one in pairs]
        return "\n".join([*lines, *warnings_of(self.record)])


@dataclass(frozen=True, eq=False)
class Found:
    """What the queries found.

    Parameters
    ----------
    similarities
        ``(N, K)``: the largest cosine with a clip of each class; −2 where there is none.
    ranks
        ``(N,)``: place, from 1, of the nearest clip of the query's class; 0 where there is none.
    precisions
        ``(N,)``: average precision over all clips that were searched; 0 where none is of the query's class.
    """

    similarities: Floats
    ranks: Labels
    precisions: NDArray[np.float64]


def nearest(queries: tuple[Floats, Labels], gallery: tuple[Floats, Labels], classes: int) -> Found:
    """Looks for queries in a gallery by the cosine of their features ``(N, D)``; of equals, the earlier clip is nearer.

    Average precision is scikit-learn's label ranking average precision of one query (clips of its class are the
    relevant labels), whose mean is the mAP of retrieval.

    Examples
    --------
    >>> eye = np.eye(3, dtype=np.float32)
    >>> found = nearest((eye[:1], np.array([1])), (eye, np.array([0, 1, 1])), 2)
    >>> found.similarities.tolist(), found.ranks.tolist()
    ([[1.0, 0.0]], [2])
    """
    units = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (queries[0], gallery[0])]
    parts = [
        _searched(units[0][start : start + _AT_ONCE] @ units[1].T, queries[1][start : start + _AT_ONCE], gallery[1])
        for start in range(0, len(queries[1]), _AT_ONCE)
    ]
    similarities = np.full((len(queries[1]), classes), -2, np.float32)
    best, ranks, precisions = (np.concatenate(one) for one in zip(*parts, strict=True))
    similarities[:, np.unique(gallery[1])] = best
    return Found(similarities, ranks, precisions)


def _searched(cosines: Floats, wanted: Labels, labels: Labels) -> tuple[Floats, Labels, NDArray[np.float64]]:
    """Of some queries: the largest cosine by class of the gallery, ranks and average precisions."""
    from sklearn.metrics import label_ranking_average_precision_score

    best = np.stack([cosines[:, labels == label].max(axis=1) for label in np.unique(labels)], axis=1)
    relevant = wanted[:, None] == labels[None, :]
    some = relevant.any(axis=1)
    order = np.argsort(-cosines, axis=1, kind="stable")
    ranks = np.where(some, np.take_along_axis(relevant, order, axis=1).argmax(axis=1) + 1, 0)
    precisions = np.zeros(len(wanted))
    for row in np.flatnonzero(some):
        precisions[row] = label_ranking_average_precision_score(relevant[row : row + 1], cosines[row : row + 1])
    return best, ranks.astype(np.int64), precisions


def retrieve(config: RetrieveConfig) -> RetrieveResult:
    """Looks for each test clip among the training clips by its features, and writes one record.

    Raises
    ------
    ValueError
        If there are no labels, one class only, a part without clips, or the options do not fit store and run.
    CheckpointError
        If a checkpoint is damaged, or of another skeleton, preprocessing or number of bodies.
    """
    began = time.perf_counter()
    store, frozen = open_data(config), load_frozen(config)
    parts = labelled_parts(config, store, frozen.records, frozen.where)
    config = parts.config
    frozen.check(parts.train)
    features = extractor(config, frozen, parts.train)
    gallery, queries = ((features(clips), clips.labels.numpy()) for clips in (parts.train, parts.test))
    classes = parts.store.classes
    found = nearest(queries, gallery, len(classes))
    scores = scores_of(found.similarities, queries[1], classes)
    recall = {k: float(((found.ranks > 0) & (found.ranks <= k)).mean()) for k in config.ranks}
    by_class = [found.precisions[queries[1] == label] for label in range(len(classes))]
    per_class = tuple(float(one.mean()) if len(one) else float("nan") for one in by_class)
    about = {
        "name": config.name or f"{frozen.named(config)} retrieval",
        "protocol": "retrieval",
        **frozen.about(config, parts),
        "width": int(gallery[0].shape[1]),
        "recall": {str(k): share for k, share in recall.items()},
        "mean_average_precision": float(found.precisions.mean()),
        "average_precision": {name: None if one != one else one for name, one in zip(classes, per_class, strict=True)},
        "seconds": round(time.perf_counter() - began, 3),
    }
    record = write_record(
        config.out, "retrieve", scores, config, (parts.train, parts.test), about, logits=found.similarities
    )
    return RetrieveResult(
        **vars(scores),
        recall=recall,
        precision=about["mean_average_precision"],
        precision_per_class=per_class,
        record=record,
    )
