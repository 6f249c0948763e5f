"""The whole method at a small size: clips in, three encoders pretrained, everything probed alike, a report out."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import asma_fast
from asma_fast.config import build
from asma_fast.data import PrepareConfig, Store, prepare
from asma_fast.skeleton import Skeleton
from asma_fast.training.augment import Augmentation
from asma_fast.training.checkpoint import write_text
from asma_fast.training.configs import PRETRAIN_PRESETS, DemoConfig, PretrainConfig, ProbeConfig
from asma_fast.training.dataset import Clips, load_clips, open_store, preprocessing_of, split_of
from asma_fast.training.features import calibrate, extract_features, raw_features
from asma_fast.training.masks import Masking
from asma_fast.training.models import build_encoder, initial_seed, load_encoder
from asma_fast.training.pictures import bars_figure, clip_figure, confusion_figure, loss_figure
from asma_fast.training.pretrain import PretrainResult, pretrain
from asma_fast.training.probe import ProbeResult, probe_features
from asma_fast.training.records import check_labels
from asma_fast.training.report import write_page

PSTL = "high-high"
METHODS = ("logistic", "knn")


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured; prints as a table.

    Parameters
    ----------
    probes
        Features → method → probe.
    report
        The page.
    seconds
        Of the whole demo.
    """

    probes: dict[str, dict[str, ProbeResult]]
    report: Path
    seconds: float

    def __str__(self) -> str:
        lines = [f"{'features':<18}{'width':>7}" + "".join(f"{method:>11}" for method in METHODS)]
        for name, row in self.probes.items():
            width = next(iter(row.values())).record["width"]
            shares = "".join(f"{100 * row[method].accuracy:>10.1f}%" for method in METHODS)
            lines.append(f"{name:<18}{width:>7}{shares}")
        lines.append("One seed at a small size: no claim about the method.")
        lines.append(f"{self.seconds:.0f} s, report: {self.report}")
        return "\n".join(lines)


def demo(config: DemoConfig) -> DemoResult:
    """Pretrains *hl*, *lh* and an encoder with PSTL's masking alike, and probes them beside raw coordinates and an
    untrained encoder. Checkpoints, records and ``report.html`` go to ``config.out``.

    Raises
    ------
    ValueError
        If the store has no such split or no labels.
    """
    began = time.perf_counter()
    store, split = _store_of(config)
    options = build(
        PretrainConfig,
        ("preset demo", PRETRAIN_PRESETS["demo"]),
        (
            "demo",
            {
                "data": store.path,
                "split": split,
                "steps": config.steps,
                "seed": config.seed,
                "progress": config.progress,
                "accelerator": "cpu",
                "save_every": 10,
            },
        ),
    )
    recipe = preprocessing_of(options, store)
    train, test = (load_clips(store, rows, recipe) for rows in store.split(split))
    check_labels(_labels(train), _labels(test), train.classes)
    runs = [
        pretrain(replace(options, out=config.out / "asma"), train),
        pretrain(replace(options, out=config.out / "pstl", encoders=(PSTL,), last="zero"), train),
    ]
    features = _features(options, runs, train, test)
    about = {
        "data": {"dataset": store.dataset, "fingerprint": store.fingerprint, "split": split, "steps": config.steps}
    }
    probes = {
        name: {method: _probe(method, pair, train, test, config, {**about, "features": name}) for method in METHODS}
        for name, pair in features.items()
    }
    records = {name: {method: result.record for method, result in row.items()} for name, row in probes.items()}
    write_text(config.out / "probes.json", json.dumps(records, indent=2) + "\n")
    report = config.out / "report.html"
    _report(report, config, options, store, runs, (train, test), probes, time.perf_counter() - began)
    return DemoResult(probes, report, time.perf_counter() - began)


def _store_of(config: DemoConfig) -> tuple[Store, str]:
    if config.data is not None:
        store = open_store(config.data)
        return store, split_of(store, config.split)
    config.out.mkdir(parents=True, exist_ok=True)
    path = config.out / "synthetic.safetensors"
    prepare(PrepareConfig("synthetic", path, clips_per_class=config.clips_per_class, seed=config.seed, overwrite=True))
    store = Store.open(path)
    return store, split_of(store, config.split or store.splits[0])


def _features(
    options: PretrainConfig, runs: Sequence[PretrainResult], train: Clips, test: Clips
) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Features of both parts, by the name of what makes them."""
    untrained = build_encoder(options, train.skeleton, train.x.shape[1], initial_seed(options.seed))
    encoders = {"random encoder": calibrate(untrained, train, options.batch)}
    names = {PSTL: "PSTL masking"}
    for run in reversed(runs):
        encoders |= {names.get(encoder, encoder): load_encoder(path)[0] for encoder, path in run.checkpoints.items()}
    features = {"raw coordinates": (raw_features(train), raw_features(test))}
    for name, encoder in encoders.items():
        features[name] = (extract_features(encoder, train), extract_features(encoder, test))
    joined = [np.concatenate([features[name][part] for name in ("hl", "lh")], axis=1) for part in (0, 1)]
    features["hl + lh"] = (joined[0], joined[1])
    return features


def _labels(clips: Clips) -> NDArray[np.int64]:
    """Those that are known."""
    labels: NDArray[np.int64] = clips.labels[clips.labels >= 0].numpy()
    return labels


def _probe(
    method: Any,
    features: tuple[NDArray[np.float32], NDArray[np.float32]],
    train: Clips,
    test: Clips,
    config: DemoConfig,
    about: dict[str, Any],
) -> ProbeResult:
    pairs = [(x[(part.labels >= 0).numpy()], _labels(part)) for x, part in zip(features, (train, test), strict=True)]
    neighbours = min(20, max(1, len(pairs[0][1])))
    settings = ProbeConfig(method=method, neighbours=neighbours, seed=config.seed)
    return probe_features(settings, pairs[0], pairs[1], train.classes, about)


def _report(
    path: Path,
    config: DemoConfig,
    options: PretrainConfig,
    store: Store,
    runs: Sequence[PretrainResult],
    clips: tuple[Clips, Clips],
    probes: dict[str, dict[str, ProbeResult]],
    seconds: float,
) -> None:
    train, test = clips
    rows = [
        {
            "name": name,
            "width": row[METHODS[0]].record["width"],
            "accuracies": [row[method].accuracy for method in METHODS],
        }
        for name, row in probes.items()
    ]
    best = max(row[METHODS[0]].accuracy for row in probes.values())
    count = next(iter(probes.values()))[METHODS[0]].record["clips"]["test"]
    shares = np.bincount(test.labels[test.labels >= 0].numpy()) / count
    learnt = {name: probes[name][METHODS[0]] for name in ("PSTL masking", "hl", "lh", "hl + lh")}
    losses = {encoder: values for run in runs for encoder, values in run.losses.items()}
    facts = {
        "data": f"{store.dataset}, split {options.split}: {len(train)} training and {len(test)} test clips, "
        f"{len(train.classes)} classes, {len(train.skeleton)} joints ({train.skeleton.name})",
        "clip": f"{train.x.shape[2]} frames, {train.x.shape[4]} bodies",
        "encoder": f"ST-GCN, channels {', '.join(map(str, options.channels))}",
        "budget": f"{options.steps} steps of {min(options.batch, len(train))} clips, "
        f"{max(runs[0].epochs.values())} epochs",
        "seed": str(config.seed),
        "time": f"{seconds:.0f} s so far; {torch.get_num_threads()} threads",
        "versions": f"asma_fast {asma_fast.__version__}, torch {torch.__version__}",
    }
    examples = _examples(train)
    write_page(
        path,
        "demo.html",
        title="ASMa: two encoders, two maskings",
        methods=["linear (logistic regression)", "nearest neighbours (cosine)"],
        rows=rows,
        test=count,
        steps=options.steps,
        chance=float(shares.max()),
        best=best,
        error=math.sqrt(max(best * (1 - best), 0.25 / count) / count),
        synthetic=config.data is None,
        facts=facts,
        clips=[
            clip_figure(train.x[row], train.skeleton, ("hl", "lh"), options, title=_title(train, row), seed=config.seed)
            for row in examples
        ],
        drops=bars_figure(_drop_rates(options, train), train.skeleton.joints, label="share of clips"),
        loss=loss_figure(losses),
        per_class=bars_figure(
            {name: result.per_class for name, result in learnt.items()}, train.classes, label="accuracy"
        ),
        confusions=[
            confusion_figure(result.confusion, result.classes, title=f"{name}, logistic regression")
            for name, result in learnt.items()
        ],
    )


def _examples(clips: Clips, count: int = 3) -> list[int]:
    """The first clip of each of a few classes."""
    labels = clips.labels.tolist()
    first = {label: row for row, label in reversed(list(enumerate(labels)))}
    classes = sorted(first)
    return [first[classes[place * len(classes) // count]] for place in range(min(count, len(classes)))]


def _title(clips: Clips, row: int) -> str:
    label = int(clips.labels[row])
    return clips.classes[label] if label >= 0 else f"clip {int(clips.ids[row])}"


def _drop_rates(options: PretrainConfig, clips: Clips) -> dict[str, list[float]]:
    """Encoder → share of the clips whose spatial view loses each joint."""
    skeleton: Skeleton = clips.skeleton
    view = Augmentation(options, skeleton, clips.sided).view(clips.x.shape[2], seed=options.seed, ids=clips.ids)
    rates = {}
    for encoder in ("hl", "lh"):
        kept: Any = (
            Masking.of(encoder, options, skeleton).spatial(clips.x, view, seed=options.seed, ids=clips.ids).graph_nodes
        )
        seen = torch.bincount(kept.flatten().long(), minlength=len(skeleton))
        rates[encoder] = (1 - seen / len(clips)).tolist()
    return rates
