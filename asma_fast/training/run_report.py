"""The page about a pipeline's results: tables, curves, classes, features in a plane, noise, and the student's cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from matplotlib.figure import Figure
from numpy.typing import NDArray

from asma_fast.config import as_json
from asma_fast.skeleton import Skeleton
from asma_fast.training.augment import Augmentation
from asma_fast.training.configs import FeaturesConfig, PretrainConfig
from asma_fast.training.configs_measure import TableConfig
from asma_fast.training.configs_run import ReportConfig
from asma_fast.training.dataset import Batch, Clips, training_clips
from asma_fast.training.frozen import extractor, load_frozen
from asma_fast.training.loop import read_losses
from asma_fast.training.masks import Masking
from asma_fast.training.parts import any_clips
from asma_fast.training.pictures import (
    bars_figure,
    clip_figure,
    confusion_figure,
    loss_figure,
    projection_figure,
    robustness_figure,
)
from asma_fast.training.records import Floats, read_record, versions, warnings_of
from asma_fast.training.report import write_page
from asma_fast.training.stages import Plan
from asma_fast.training.table import Table, table

# Stages whose networks are compared class by class, and whose features are drawn, with the last record of each.
_COMPARED = ("probe-baseline", "probe", "align", "finetune", "scratch", "distill")
_COUNTED = 512  # clips, at most, whose masks are drawn for the drop rates


@dataclass(frozen=True)
class StageLine:
    """What became of a stage.

    Parameters
    ----------
    name
        Of the stage.
    outcome
        ``"done"``; ``"kept"``, for nothing had changed; ``"failed"``; ``"not done"``, for one it needs failed.
    seconds
        That it took, in an earlier run if it was kept.
    notes
        Why it failed; or what its reader ought to know.
    """

    name: str
    outcome: str
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "  ".join([f"{self.name:<16} {self.outcome:<8} {self.seconds:>8.1f} s", *self.notes])


def records_table(plan: Plan, records: Sequence[Path]) -> Table | None:
    """All records compared with the baseline's probe, where there is one; None where there are no records."""
    told = {path: read_record(path) for path in records}
    # Label-free on clips without labels: nothing to compare.
    measured = tuple(path for path, record in told.items() if record["accuracy"] is not None)
    if not measured:
        return None
    baseline = tuple(path for path in measured if path.parent == plan.folder("probe-baseline"))
    return table(TableConfig(records=measured, baseline=baseline))


def write_report(
    path: Path,
    config: ReportConfig,
    plan: Plan,
    stages: Mapping[str, StageLine],
    files: Sequence[Path],
    table: Table | None,
) -> None:
    """Writes the page; what no stage has measured is left out of it."""
    records = {file: read_record(file) for file in files}
    compared = _compared(plan, records)
    students = [record for record in records.values() if record["kind"] == "distill"]
    noisy = {record["name"]: record for record in records.values() if record["kind"] == "robust"}
    clips, drops = _views(plan, stages)
    columns = [name for name in table.rows[0] if any(row[name] for row in table.rows)] if table is not None else []
    write_page(
        path,
        "run.html",
        title=config.title or _title(records),
        note=config.note,
        stages=list(stages.values()),
        columns=columns,
        rows=[] if table is None else [[row[name] for name in columns] for row in table.rows],
        notes=[*([] if table is None else table.notes), *_warnings(records)],
        facts=_facts(records),
        clips=clips,
        drops=drops,
        losses=_losses(plan, stages),
        per_class=_per_class(compared),
        confusions=[_confusion(record) for record in compared.values()],
        projection=_projection(config, plan, stages),
        method={"pca": "principal components", "tsne": "t-SNE"}.get(config.projection, ""),
        noise=robustness_figure(noisy) if noisy else None,
        students=students,
        configs={name: _as_yaml(one) for name, one in plan.configs.items()},
    )


def _title(records: Mapping[Path, Mapping[str, Any]]) -> str:
    names = dict.fromkeys(record.get("data", {}).get("dataset") for record in records.values())
    return "ASMa" + "".join(f": {name}" for name in names if name)


def _as_yaml(config: Any) -> str:
    text: str = yaml.safe_dump(as_json(config), sort_keys=False, allow_unicode=True)
    return text


def _warnings(records: Mapping[Path, Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(line for record in records.values() for line in warnings_of(record)))


def _facts(records: Mapping[Path, Mapping[str, Any]]) -> dict[str, str]:
    told = {"versions": ", ".join(f"{name} {version}" for name, version in versions().items())}
    for record in records.values():
        data, clips = record["data"], record["clips"]
        return {
            "data": f"{data['dataset']}, split {data['split']}",
            "clips": f"{clips['train']} for training, {clips['test']} for tests",
            "classes": str(len(record["per_class"])),
            **told,
        }
    return told


def _compared(plan: Plan, records: Mapping[Path, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Name → record, one of each stage that is compared."""
    found = {}
    for stage in _COMPARED:
        own = [record for file, record in records.items() if file.parent == plan.folder(stage)]
        if own and own[-1]["accuracy"] is not None:
            found[str(own[-1]["name"])] = own[-1]
    return found


def _views(plan: Plan, stages: Mapping[str, StageLine]) -> tuple[list[Figure], Figure | None]:
    """What the maskings take away: of a few training clips, and of each joint."""
    if "pretrain" not in stages or stages["pretrain"].outcome not in ("done", "kept"):
        return [], None
    config = replace(plan.configs["pretrain"], memory="none")
    clips = training_clips(config)[1]
    figures = []
    for row in _examples(clips):
        label, batch = int(clips.labels[row]), clips.batch([row])
        title = clips.classes[label] if label >= 0 else f"clip {int(batch.ids[0])}"
        figures.append(clip_figure(batch.x[0], clips.skeleton, config.encoders, config, title=title, seed=config.seed))
    spaced = torch.linspace(0, len(clips) - 1, min(len(clips), _COUNTED)).long()
    rates = _drop_rates(config, clips.skeleton, clips.sided, clips.batch(spaced))
    return figures, bars_figure(rates, clips.skeleton.joints, label="share of clips")


def _examples(clips: Clips, count: int = 3) -> list[int]:
    """The first clip of each of a few classes."""
    labels = clips.labels.tolist()
    first = {label: row for row, label in reversed(list(enumerate(labels)))}
    classes = sorted(first)
    return [first[classes[place * len(classes) // count]] for place in range(min(count, len(classes)))]


def _drop_rates(config: PretrainConfig, skeleton: Skeleton, sided: bool, batch: Batch) -> dict[str, list[float]]:
    """Encoder → share of the clips whose spatial view loses each joint."""
    view = Augmentation(config, skeleton, sided).view(batch.x.shape[2], seed=config.seed, ids=batch.ids)
    rates = {}
    for encoder in config.encoders:
        masked = Masking.of(encoder, config, skeleton).spatial(batch.x, view, seed=config.seed, ids=batch.ids)
        seen = torch.full((len(skeleton),), len(batch.x))
        if masked.graph_nodes is not None:
            seen = torch.bincount(torch.as_tensor(masked.graph_nodes).flatten().long(), minlength=len(skeleton))
        rates[encoder] = (1 - seen / len(batch.x)).tolist()
    return rates


def _losses(plan: Plan, stages: Mapping[str, StageLine]) -> dict[str, Figure]:
    """What is minimised → its curves: of pretraining, and of each stage that trains with labels."""
    figures = {}
    curves: dict[str, Sequence[float]] = {}
    for name in ("pretrain", "baseline"):
        if name in stages:
            curves.update(read_losses(plan.folder(name) / "metrics.jsonl"))
    if curves:
        figures["Pretraining: BT(anchor, temporal) + BT(anchor, spatial)"] = loss_figure(curves)
    titles = {
        "align": "Alignment: cross-entropy",
        "finetune": "Fine-tuning: cross-entropy",
        "scratch": "From scratch: cross-entropy",
        "distill": "Distillation: the teacher's word and the labels",
    }
    for name, title in titles.items():
        found = read_losses(plan.folder(name) / "metrics.jsonl")
        if name in stages and found:
            figures[title] = loss_figure(found, label="loss")
    return figures


def _per_class(compared: Mapping[str, Mapping[str, Any]]) -> Figure | None:
    if not compared:
        return None
    classes = list(next(iter(compared.values()))["per_class"])
    rows = {
        name: [share if share is not None else float("nan") for share in record["per_class"].values()]
        for name, record in compared.items()
    }
    return bars_figure(rows, classes, label="accuracy")


def _confusion(record: Mapping[str, Any]) -> Figure:
    title = f"{record['name']}: {100 * record['accuracy']:.1f} %"
    return confusion_figure(np.asarray(record["confusion"], np.int64), list(record["per_class"]), title=title)


def _projection(config: ReportConfig, plan: Plan, stages: Mapping[str, StageLine]) -> Figure | None:
    """Features of the test clips in a plane, a panel for each network."""
    if config.projection == "none":
        return None
    points: dict[str, NDArray[Any]] = {}
    labels, classes = np.array([], np.int64), tuple[str, ...]()
    for name, options in _networks(plan, stages).items():
        split = plan.configs["pretrain"].split
        asked = FeaturesConfig(data=plan.data, split=split, memory="none", **options)
        frozen = load_frozen(asked)
        store, _, clips = any_clips(asked, frozen.records, "test", frozen.where)
        frozen.check(clips)
        chosen = torch.nonzero(clips.labels >= 0)[:, 0]
        if len(chosen) > config.clips:
            chosen = chosen[torch.linspace(0, len(chosen) - 1, config.clips).long()]
        test = clips.take(chosen)
        features = extractor(asked, frozen, test)(test)
        if len(features) < 4:
            return None
        points[name] = in_a_plane(features, config.projection, config.seed)
        labels, classes = test.labels.numpy(), store.classes
    return projection_figure(points, labels, classes) if points else None


def _networks(plan: Plan, stages: Mapping[str, StageLine]) -> dict[str, dict[str, Any]]:
    """What is drawn → how its features are asked for; of stages that are done, where classes are known."""
    done = {name for name, line in stages.items() if line.outcome in ("done", "kept")}
    if not done & set(_COMPARED):
        return {}
    networks: dict[str, dict[str, Any]] = {}
    if "baseline" in done:
        networks["+".join(plan.configs["baseline"].encoders)] = {"run": plan.folder("baseline")}
    if "pretrain" in done:
        networks["+".join(plan.configs["pretrain"].encoders)] = {"run": plan.folder("pretrain")}
    for stage, name in (("align", "aligned"), ("finetune", "fine-tuned"), ("distill", "student")):
        if stage in done and (stage != "finetune" or "align" in done):
            networks[name] = {"checkpoint": plan.network(stage)}
    return networks


def in_a_plane(features: Floats, method: str, seed: int = 0) -> NDArray[Any]:
    """``(N, 2)``: standardised features ``(N, D)`` by their first two principal components, or by t-SNE."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    spread = features.std(0)
    standard = (features - features.mean(0)) / np.where(spread > 0, spread, 1)
    if method == "pca":
        points: NDArray[Any] = PCA(2, svd_solver="full").fit_transform(standard)
        return points
    perplexity = min(30.0, (len(features) - 1) / 3)
    points = TSNE(2, perplexity=perplexity, init="pca", random_state=seed % 2**32).fit_transform(standard)
    return points
