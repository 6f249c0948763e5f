"""Fusion: the logits of several networks of the same test clips, weighted and added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax

from asma_fast.training.configs_measure import STREAM_WEIGHTS, FuseConfig
from asma_fast.training.records import Floats, Scores, make_record, read_arrays, read_record, saved, scores_of

# Arrays beside a record that hold scores of training clips by networks, or probes, that did not see their labels.
HELD_OUT = ("held_out_logits", "held_out_labels", "held_out_ids")


@dataclass(frozen=True)
class FuseResult(Scores):
    """What fused logits name.

    Parameters
    ----------
    weights
        Of the records, in their order.
    record
        All of it, as it is written to JSON.
    """

    weights: tuple[float, ...]
    record: dict[str, Any]

    def __str__(self) -> str:
        lines = [
            f"  {one['weight']:.4g} × {one['name']} ({one['stream']}), alone {100 * one['accuracy']:.2f} %"
            for one in self.record["sources"]
        ]
        head = (
            f"{self.record['name']}: accuracy {100 * self.accuracy:.2f} % of {self.record['clips']['test']} test clips"
        )
        return "\n".join([head, *lines])


@dataclass(frozen=True, eq=False)
class Source:
    """A record and the arrays beside it."""

    path: Path
    record: dict[str, Any]
    arrays: dict[str, NDArray[Any]]

    @property
    def stream(self) -> str:
        """Of the network."""
        return str(self.record["stream"])


def fuse(config: FuseConfig) -> FuseResult:
    """Adds the logits of records, as they are, with weights; writes a record of what the sum names.

    ``"published"`` takes AimCLR's weights by stream (joint 0.6, motion 0.4, bone 0.6). ``"fitted"`` takes those of at
    least 0 whose sum of logits has the least cross-entropy on held-out scores of training clips, which must stand
    beside each record (``probe --held-out``); test clips choose nothing.

    Raises
    ------
    ValueError
        If a record has no logits, records are not of the same data, clips and classes, or the weights asked for cannot
        be had.
    """
    sources = [Source(path, read_record(path), read_arrays(path)) for path in config.records]
    for other in sources[1:]:
        _check_alike(sources[0], other)
    weights = _weights(config, sources)
    logits = _sum([source.arrays["logits"] for source in sources], weights)
    first = sources[0].record
    classes, labels = tuple(first["per_class"]), sources[0].arrays["labels"]
    # Draws, or conditions, are measured on the same clips.
    scores = scores_of(
        logits.reshape(-1, len(classes)), np.tile(labels, logits.size // (len(labels) * len(classes))), classes
    )
    streams = "+".join(dict.fromkeys(source.stream for source in sources))
    protocols = list(dict.fromkeys(source.record["protocol"] for source in sources))
    seen: list[Any] = [source.record.get("test_clips_seen") for source in sources]
    names = dict.fromkeys(str(source.record["name"]) for source in sources)
    about: dict[str, Any] = {
        "name": config.name or f"{' + '.join(names)}, fused",
        "protocol": protocols[0] if len(protocols) == 1 else " + ".join(protocols),
        "stream": streams,
        "seed": first["seed"],
        "chosen": {"weights": weights, "rule": config.weights},
        "sources": [
            {"record": str(source.path), "weight": weight, "stream": source.stream}
            | {key: source.record[key] for key in ("kind", "name", "seed", "accuracy")}
            for source, weight in zip(sources, weights, strict=True)
        ],
        **{key: first[key] for key in ("data", "budget", "untrained_classes") if key in first},
        "encoders": first.get("encoders", {}),
        "test_clips_seen": None if None in seen else max(map(int, seen)),
    }
    record = make_record("fuse", scores, config, first["clips"], about)
    saved(config.out, record, logits=logits, labels=labels, ids=sources[0].arrays["ids"])
    return FuseResult(**vars(scores), weights=tuple(weights), record=record)


def _check_alike(first: Source, other: Source) -> None:
    """Both records are of the same clips."""

    def expect(same: bool, what: str) -> None:
        if not same:
            raise ValueError(f"{first.path} and {other.path}: {what}; only records of the same test clips are fused")

    for key in ("dataset", "fingerprint", "split"):
        values = [source.record.get("data", {}).get(key) for source in (first, other)]
        expect(values[0] == values[1], f"their {key} differs, {values[0]} and {values[1]}")
    expect(list(first.record["per_class"]) == list(other.record["per_class"]), "their classes differ")
    for name in ("ids", "labels"):
        expect(np.array_equal(first.arrays[name], other.arrays[name]), f"their test clips' {name} differ")
    shapes = [source.arrays["logits"].shape for source in (first, other)]
    expect(shapes[0] == shapes[1], f"their logits have shapes {shapes[0]} and {shapes[1]}")


def _sum(logits: Sequence[Floats], weights: Sequence[float]) -> Floats:
    total = sum(weight * one.astype(np.float64) for weight, one in zip(weights, logits, strict=True))
    return np.asarray(total, np.float32)


def _weights(config: FuseConfig, sources: Sequence[Source]) -> list[float]:
    if config.weights == "equal":
        return [1 / len(sources)] * len(sources)
    if config.weights == "fitted":
        return _fitted(sources)
    if config.weights != "published":
        return config.numbers()
    streams = [source.stream for source in sources]
    if len(set(streams)) < len(streams) or not set(streams) <= STREAM_WEIGHTS.keys():
        raise ValueError(
            f"published weights are of one record each of {', '.join(STREAM_WEIGHTS)}, got streams "
            f"{', '.join(streams)}; --weights equal, or numbers, fuses any"
        )
    return [STREAM_WEIGHTS[stream] for stream in streams]


def _fitted(sources: Sequence[Source]) -> list[float]:
    """Weights of at least 0 with the least cross-entropy on held-out scores; a function of these alone."""
    for source in sources:
        if not set(HELD_OUT) <= source.arrays.keys():
            raise ValueError(
                f"{source.path}: has no held-out scores of training clips to fit weights on (`asma-fast probe "
                "--held-out` writes them), and weights are never fitted on test clips"
            )
        for name in HELD_OUT[1:]:
            if not np.array_equal(source.arrays[name], sources[0].arrays[name]):
                raise ValueError(f"{sources[0].path} and {source.path}: their {name.replace('_', ' ')} differ")
    logits = np.stack([source.arrays[HELD_OUT[0]] for source in sources]).astype(np.float64)
    labels = sources[0].arrays[HELD_OUT[1]]
    rows = np.arange(len(labels))

    def loss(weights: NDArray[np.float64]) -> float:
        return float(-log_softmax(np.tensordot(weights, logits, 1), axis=1)[rows, labels].mean())

    # Each stream at its own scale first, so that the search is well conditioned whatever the logits' units are.
    scale = 1 / np.maximum(logits.std(axis=(1, 2)), 1e-12)
    found = minimize(lambda w: loss(w * scale), np.full(len(sources), 1.0), bounds=[(0, 100)] * len(sources))
    weights = [float(weight) for weight in found.x * scale]
    if not sum(weights):
        raise ValueError("no weights above 0 make the held-out scores better than chance: nothing to fuse")
    return weights
