"""Fine-tuning with few labels: shares of the training clips, or so many a class, over several draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from asma_fast.philox import Purpose, derive_seed, uniform
from asma_fast.training.configs_supervised import FewLabels, FinetuneConfig, SemiConfig
from asma_fast.training.dataset import Clips
from asma_fast.training.finetune import Facts, Source, budget, facts, named, prepared, trained
from asma_fast.training.launch import launched, sole
from asma_fast.training.loop import DRAWS, TrainingRun
from asma_fast.training.parts import Parts
from asma_fast.training.records import Floats, Scores, scores_of, warnings_of, write_record
from asma_fast.training.supervised import training_seconds


@dataclass(frozen=True)
class SemiResult:
    """What few labels gave; prints as a table.

    Parameters
    ----------
    records
        Network and setting, such as ``hl-10pct`` or ``hl-5shot`` → its record: every draw, their mean and spread.
    files
        Network and setting → the record's file.
    rank
        Of this process among those of the run.
    """

    records: dict[str, dict[str, Any]]
    files: dict[str, Path]
    rank: int = 0

    def __str__(self) -> str:
        lines = [] if self.records else ["stopped before every draw was trained; to be continued"]
        for record in self.records.values():
            clips = record["clips"]
            lines.append(
                f"{record['name']}: accuracy {100 * record['accuracy']:.2f} ± {100 * record['spread']:.2f} % of "
                f"{clips['test']} test clips ({clips['train']} for training, {len(record['draws'])} draws)"
            )
            lines += warnings_of(record)
        return "\n".join(lines)


@dataclass(frozen=True)
class Setting:
    """How many clips of a class keep their labels."""

    name: str
    label: str
    count: Callable[[int], int]


def settings_of(config: FewLabels) -> list[Setting]:
    """Those a config asks for: max(1, round(p·n)) of a class's n clips, or so many."""
    shares = [
        Setting(f"{100 * p:g}pct", f"{100 * p:g} %", lambda n, p=p: max(1, round(p * n)))  # type: ignore[misc]
        for p in config.fractions
    ]
    few = [
        Setting(f"{k}shot", f"{k} shot{'s' if k > 1 else ''}", lambda n, k=k: k)  # type: ignore[misc]
        for k in config.shots
    ]
    return [*shares, *few]


def draw(clips: Clips, count: Callable[[int], int], seed: int, number: int) -> NDArray[np.int64]:
    """Rows of the clips that keep their labels: of each class the first so many in the draw's own order of ids.

    A function of seed, number and the clips' ids and labels alone, so that any method sees the same; more clips of a
    draw contain its fewer ones.

    Raises
    ------
    ValueError
        If a class has fewer clips.
    """
    labels = clips.labels.numpy()
    keys = uniform(derive_seed(seed, DRAWS, number), clips.ids.numpy(), 0, Purpose.DERIVE)
    order = np.argsort(keys, kind="stable")
    rows = []
    for label in np.unique(labels):
        own = order[labels[order] == label]
        wanted = count(len(own))
        if wanted > len(own):
            raise ValueError(f"class {clips.classes[label]} has only {len(own)} training clips, got {wanted} shots")
        rows.append(own[:wanted])
    return np.sort(np.concatenate(rows))


def semi(config: SemiConfig) -> SemiResult:
    """Fine-tunes each encoder of a run on few labels, once a draw; writes a record for each encoder and setting.

    Files as :func:`asma_fast.training.finetune` leaves them, ``record-NAME-SETTING.json``; draws that are done are not
    done again.

    Raises
    ------
    ValueError
        As fine-tuning does, and if a class has fewer clips than shots.
    CheckpointError, TrainingError
        As fine-tuning does.
    """
    with launched(config) as fabric:
        ready, sources, parts = prepared(config)
        return few_labels(ready, sources, parts, fabric, "semi", facts)


def few_labels(
    config: FinetuneConfig, sources: list[Source], parts: Parts[Any], fabric: Any, kind: str, facts: Facts
) -> SemiResult:
    """Each network in each setting, once a draw; ``kind`` is that of the records."""
    assert isinstance(config, FewLabels)
    # Before anything is trained: every draw can be drawn.
    drawn = {
        setting.name: [draw(parts.train, setting.count, config.seed, number) for number in range(config.draws)]
        for setting in settings_of(config)
    }
    with sole(config.out, fabric):
        result = SemiResult({}, {}, fabric.global_rank)
        for source in sources:
            about = facts(config, source, parts)
            for setting in settings_of(config):
                _setting(config, source, parts, setting, drawn[setting.name], fabric, result, kind, about)
        return result


def _setting(
    config: FewLabels,
    source: Source,
    parts: Parts[Any],
    setting: Setting,
    drawn: list[NDArray[np.int64]],
    fabric: Any,
    result: SemiResult,
    kind: str,
    origin: dict[str, Any],
) -> None:
    name = f"{named(source, config)}-{setting.name}"
    runs: list[TrainingRun] = []
    logits: list[Floats] = []
    for number, rows in enumerate(drawn):
        train = parts.train.take(torch.from_numpy(rows))
        path = config.out / f"{name}-draw{number}.safetensors"
        run, given = trained(config, source, train, parts.test, fabric, path)
        runs.append(run)
        logits.append(given)
    if any(run.epoch < run.epochs for run in runs):
        return
    result.files[name] = config.out / f"record-{name}.json"
    scores = [scores_of(one, parts.test.labels, parts.store.classes) for one in logits]
    if not fabric.is_global_zero:
        return
    about = {
        **origin,
        "name": config.name or f"{origin['name']}, {setting.label}",
        "protocol": f"{kind}, {setting.label}",
        "budget": budget(runs[0]),
        "seconds": round(sum(training_seconds(run) for run in runs), 3),
        "spread": float(np.std([one.accuracy for one in scores], ddof=1)) if len(scores) > 1 else 0.0,
        "draws": [_drawn(one, rows, parts.train, run) for one, rows, run in zip(scores, drawn, runs, strict=True)],
    }
    # Every draw is measured on the same clips: the score of all of them together is the mean over draws.
    together = scores_of(np.concatenate(logits), np.tile(parts.test.labels.numpy(), len(drawn)), parts.store.classes)
    labelled = parts.train.take(torch.from_numpy(drawn[0]))
    result.records[name] = write_record(
        result.files[name], kind, together, config, (labelled, parts.test), about, logits=np.stack(logits)
    )


def _drawn(scores: Scores, rows: NDArray[np.int64], clips: Clips, run: TrainingRun) -> dict[str, Any]:
    return {
        "clips": clips.ids[torch.from_numpy(rows)].tolist(),
        "accuracy": scores.accuracy,
        "per_class": [None if share != share else share for share in scores.per_class],
        "seconds": training_seconds(run),
    }
