"""``python benchmarks/accuracy/students.py --work FOLDER``: temperature, alpha and shape of the student, as PROTOCOL.md
("The student's settings") says: on inner splits of the training parts alone.

FOLDER is that of ``study.py``, whose encoders are there. What is done is not done again; ``--table`` writes the tables.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from design import ASMA, DISTILL, SETS, SETTINGS
from measures import Place, Study, aligned
from results import NAMES
from student_search import SHARE, Candidate, Row, pareto, timed

from asma_fast.data import ClipInfo, StoreWriter
from asma_fast.training import distill
from asma_fast.training.bootstrap import Interval, bootstrap_difference
from asma_fast.training.checkpoint import write_text
from asma_fast.training.configs_distill import DistillConfig
from asma_fast.training.lesson import lesson_of
from asma_fast.training.records import Floats, read_logits, read_record
from asma_fast.training.teachers import Answers, Teacher, Teachers, clips_by_stream, view_sets

STUDIED = Candidate("16x2-16-32x2-48", 5)
TEMPERATURES, ALPHAS = (1.0, 2.0, 4.0), (0.3, 0.5, 0.7, 0.9)
DEFAULT = replace(STUDIED, temperature=4.0, alpha=0.7)  # before this choice
ALONE = replace(STUDIED, temperature=4.0, alpha=0.0)
LOSSES = (
    *(replace(STUDIED, temperature=temperature, alpha=alpha) for temperature in TEMPERATURES for alpha in ALPHAS),
    ALONE,
)
# One line too large, to compare with: the shape of `asma-fast distill` before this choice.
TOO_LARGE = Candidate("8-8-8-16x2-16-32x2-32-48", 9)
SHAPES = (
    STUDIED,
    Candidate("16x2-24x2-32-48", 5),
    Candidate("16x4-32-48", 5),
    TOO_LARGE,
    replace(STUDIED, taps=3),
    replace(STUDIED, taps=9, separable=True),
    Candidate("8-8x2-16x2-32", 5),
)
# As many epochs as the study's steps are on the whole training part.
EPOCHS: dict[str, int] = {"nw-ucla": 49, "utd-mhad": 116}
FOLDS = 2  # of each set, the first ones; fold k has seed k. The first chooses, the second confirms


@dataclass(frozen=True)
class Inner:
    """One fold of a training part, with its teacher.

    Parameters
    ----------
    number
        Of the fold, and seed.
    """

    study: Study
    dataset: str
    number: int

    @property
    def folder(self) -> Path:
        return self.study.work / "students"

    @cached_property
    def fold(self) -> tuple[str, tuple[Any, Any]]:
        """Its name, and the rows of the study's store that train and that are asked."""
        return list(SETS[self.dataset].inner(self.study.store(self.dataset)).items())[self.number]

    @property
    def name(self) -> str:
        return f"{self.dataset}-{self.fold[0]}"

    @cached_property
    def store(self) -> Path:
        """The clips of the training part alone, in a store whose split is the fold."""
        path = self.folder / "stores" / f"{self.name}.safetensors"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            store, (train, asked) = self.study.store(self.dataset), self.fold[1]
            names = {store.names[row] for row in asked}

            def rule(info: ClipInfo) -> Any:
                return "test" if info.name in names else "train"

            about = {key: getattr(store, key) for key in ("dataset", "skeleton", "body_rule", "missing", "sided")}
            with StoreWriter(path, **about, preprocessing=store.preprocessing) as writer:
                for row in np.sort(np.concatenate([train, asked])).tolist():
                    writer.add(store[row])
                writer.finish(classes=store.classes, splits={"inner": rule})
        return path

    @cached_property
    def teacher(self) -> Teacher:
        """ASMa aligned, its alignment and head trained on this fold alone."""
        name = f"{self.name}-seed{self.number}"
        place = Place(self.study, ASMA, self.number, self.dataset, self.fold[1], "aligned", self.folder, name)
        path = place.folder("aligned") / "aligned.safetensors"
        if not path.exists():
            aligned(place)
        return Teacher.load(path)

    @cached_property
    def said(self) -> dict[str, Floats]:
        """What the teacher said."""
        return {}

    def config(self, candidate: Candidate) -> DistillConfig:
        """The study's distillation, of this student."""
        budget = {key: value for key, value in DISTILL.items() if key != "steps"}
        options = self.study.settings.labelled(self.number, self.folder / self.name, **budget)
        given = {"data": self.store, "split": "inner", "teacher": (self.teacher.path,), "epochs": EPOCHS[self.dataset]}
        return candidate.config(DistillConfig(**options, **given), self.number)

    def record(self, candidate: Candidate) -> Path:
        return self.config(candidate).out / "record-student.json"


def inners(study: Study) -> list[Inner]:
    """The folds, sets in turn: the first of each set before the second of any."""
    return [Inner(study, dataset, number) for number in range(FOLDS) for dataset in EPOCHS]


def teach(folds: Sequence[Inner], candidates: Sequence[Candidate]) -> None:
    """Trains the students that are not there, one fold after the other."""
    for inner in folds:
        for candidate in candidates:
            if not inner.record(candidate).exists():
                result = distill(inner.config(candidate), teachers=[inner.teacher], cache=inner.said)
                told = f"{100 * result.record['accuracy']:.1f} %, {result.record['seconds']:.0f} s"
                print(f"{inner.name}, {candidate.name}: {told}", flush=True)


def by_set(folds: Sequence[Inner], found: Callable[[Inner], Any]) -> dict[str, list[Any]]:
    """What is found of each fold, by set."""
    return {dataset: [found(inner) for inner in folds if inner.dataset == dataset] for dataset in EPOCHS}


def hits(folds: Sequence[Inner], candidate: Candidate) -> dict[str, Floats]:
    """Of each set ``(1, N)``: whether the asked clips of its folds are named right."""

    def right(inner: Inner) -> Floats:
        logits, labels, _ = read_logits(inner.record(candidate))
        return (logits.argmax(1) == labels).astype(np.float64)

    return {dataset: np.concatenate(parts)[None] for dataset, parts in by_set(folds, right).items()}


def accuracy(folds: Sequence[Inner], candidate: Candidate) -> float:
    """Mean of the sets."""
    return float(np.mean([part.mean() for part in hits(folds, candidate).values()]))


def difference(folds: Sequence[Inner], ours: Candidate, theirs: Candidate) -> tuple[float, Interval]:
    """On the same clips, mean of the sets; the interval is over clips alone."""
    one, other = hits(folds, ours), hits(folds, theirs)
    return bootstrap_difference([one[dataset] - other[dataset] for dataset in one])


def best_loss(folds: Sequence[Inner]) -> Candidate:
    """Of those with a teacher."""
    return max((one for one in LOSSES if one.alpha), key=lambda one: accuracy(folds, one))


def confirmed(best: Candidate) -> tuple[Candidate, ...]:
    """Who is trained on the folds that did not choose: the default, the best of the other folds, labels alone."""
    return tuple(dict.fromkeys((DEFAULT, best, ALONE)))


def teachers_said(inner: Inner) -> tuple[float, float, float]:
    """How many clips the teacher names right: asked ones, training ones, and views of training ones."""
    config, teachers = inner.config(DEFAULT), Teachers.of([inner.teacher]).to("cpu")
    parts = lesson_of(config, teachers).parts
    answers, clips = Answers(teachers), [clips_by_stream(teachers, parts, part) for part in (parts.test, parts.train)]
    train = parts.train.labels.numpy()
    seen = [answers(clips[1], views) for views in view_sets(config, parts.train)]
    return (
        float((answers(clips[0]).argmax(1) == parts.test.labels.numpy()).mean()),
        float((answers(clips[1]).argmax(1) == train).mean()),
        float(np.mean([(said.argmax(1) == train).mean() for said in seen])),
    )


def page(folds: Sequence[Inner], times: Mapping[str, float], shapes: Sequence[Candidate]) -> str:
    """The tables: what the teacher names right, temperature and alpha, shapes."""
    said = {name: np.mean(found, axis=0) for name, found in by_set(folds, teachers_said).items()}
    names = [NAMES[dataset] for dataset in said]
    lines = [f"| teacher | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for place, what in enumerate(("clips asked", "its training clips", "views of its training clips")):
        lines.append(f"| {what} | " + " | ".join(f"{100 * found[place]:.1f}" for found in said.values()) + " |")
    first, others = folds[: len(said)], folds[len(said) :]
    best = best_loss(first)
    lines += ["", *_losses(first, LOSSES, best), "", *_losses(others, confirmed(best), best)]
    folds = first
    lines += ["", f"| blocks | taps | temporal | {' | '.join(names)} | mean | against the first, points (95 %) "]
    lines[-1] += "| parameters | share % | MMAC | times the teacher's speed |"
    lines += ["|---|---|---|" + "---|" * (len(names) + 6)]
    rows = [_row(folds, one, times) for one in shapes]
    front = pareto([row for row in rows if row.share <= SHARE])
    for row in rows:
        one = row.candidate
        cells = [one.shape.replace("-", ", "), str(one.taps), "separable" if one.separable else "full"]
        cells += _accuracies(folds, one)
        cells += ["" if one == shapes[0] else _told(*difference(folds, one, shapes[0]))]
        cells += [f"{row.parameters:,}", f"{100 * row.share:.1f}{'' if row.share <= SHARE else ' (too large)'}"]
        cells += [f"{row.multiply_adds / 1e6:.2f}", f"{times['teacher'] / row.latency_ms:.1f}"]
        lines.append(_line(cells, row in front))
    return "\n".join(lines) + "\n"


def _losses(folds: Sequence[Inner], losses: Sequence[Candidate], best: Candidate) -> list[str]:
    names = [NAMES[inner.dataset] for inner in folds]
    against = [f"against {name}, points (95 %)" for name in ("T = 4, α = 0.7", "labels alone")]
    lines = [
        f"| T | α | {' | '.join([*names, 'mean', 'agreement', *against])} |",
        "|---|---|" + "---|" * (len(names) + 4),
    ]
    for one in losses:
        cells = [f"{one.temperature:g}" if one.alpha else "–", f"{one.alpha:g}", *_accuracies(folds, one)]
        cells += [f"{100 * np.mean([read_record(inner.record(one))['agreement'] for inner in folds]):.1f}"]
        cells += ["" if one == other else _told(*difference(folds, one, other)) for other in (DEFAULT, ALONE)]
        lines.append(_line(cells, one == best))
    return lines


def _row(folds: Sequence[Inner], candidate: Candidate, times: Mapping[str, float]) -> Row:
    told = read_record(folds[0].record(candidate))
    costs = [told["student"][key] for key in ("parameters", "share", "multiply_adds")]
    return Row(candidate, (accuracy(folds, candidate),), (told["agreement"],), *costs, times[candidate.name])


def _accuracies(folds: Sequence[Inner], candidate: Candidate) -> list[str]:
    """Of each set, and their mean."""
    found = [f"{100 * part.mean():.1f}" for part in hits(folds, candidate).values()]
    return [*found, f"{100 * accuracy(folds, candidate):.1f}"]


def _told(mean: float, interval: Interval) -> str:
    return f"{100 * mean:+.1f} ({100 * interval[0]:+.1f} … {100 * interval[1]:+.1f})"


def _line(cells: Sequence[str], bold: bool) -> str:
    return "| " + " | ".join(f"**{cell}**" if bold and cell else cell for cell in cells) + " |"


def choose(study: Study) -> str:
    """Trains what is not there yet; the tables."""
    folds = inners(study)
    first = folds[: len(EPOCHS)]
    teach(first, LOSSES)
    best = best_loss(first)
    teach(folds[len(first) :], confirmed(best))
    shapes = [replace(one, temperature=best.temperature, alpha=best.alpha) for one in SHAPES]
    for one in shapes:
        teach(first, [one])
    outs = {one: folds[0].config(one).out for one in shapes}
    return page(folds, timed(folds[0].config(shapes[0]), [folds[0].teacher], outs), shapes)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Temperature, alpha and shape of the student, on inner splits.")
    parser.add_argument("--work", type=Path, required=True, help="folder of study.py's stores and encoders")
    parser.add_argument("--table", type=Path, help="the tables; by default STUDENTS.md in the folder")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        table = given.table or given.work / "students" / "STUDENTS.md"
        write_text(table, choose(Study(given.work, SETTINGS)))
    except (OSError, ValueError, RuntimeError) as error:
        print(f"students: {error}", file=sys.stderr)
        return 1
    print(f"wrote {table}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
