"""The page of the study: accuracies by row and column, what the claims came to, and gains by class motion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np
from design import (
    ABLATED,
    ALL,
    ASMA,
    COLUMNS,
    DEFAULT_SIZE,
    LARGE,
    PSTL1,
    PSTL2,
    RAW,
    SCRATCH1,
    SCRATCH2,
    SETS,
    UNTRAINED2,
    Column,
    Row,
)
from measures import Study, checked_record
from numpy.typing import NDArray

from asma_fast.training.bootstrap import Interval, bootstrap_difference
from asma_fast.training.records import read_arrays

Hits = NDArray[np.float64]
Kept = Callable[[NDArray[np.int64]], NDArray[np.bool_]]
TITLES = {
    "linear": "Linear",
    "knn": "k-NN",
    "rbf": "RBF",
    "aligned": "Aligned probe",
    "robust": "Under noise, linear, mean of eight kinds",
    "student": "Student: KL and cross-entropy",
    "student-alone": "Student: labels alone",
    "student-of-finetuned": "Student of the fine-tuned teacher",
    "student-chosen": "Student with T and α chosen on inner splits, after the fact",
    "finetuned": "Fine-tuned",
    "shots": "5 shots",
    "transfer": "Transfer, 5 shots",
}
NAMES = {"nw-ucla": "NW-UCLA", "utd-mhad": "UTD-MHAD", "sbu": "SBU", "irds": "IRDS"}


@dataclass(frozen=True)
class Claim:
    """A difference of two results that the protocol names a target for.

    Parameters
    ----------
    ours, theirs
        Column and row.
    floor, aim
        In points; None for none. The mean reaches it, and the interval excludes 0. Where ``above`` is False, the floor
        is no loss: the mean is at least that, and the interval lies above −2 points.
    """

    text: str
    ours: tuple[str, Row]
    theirs: tuple[str, Row]
    sets: tuple[str, ...]
    floor: float | None
    aim: float | None = None
    above: bool = True

    def verdict(self, mean: float, interval: Interval) -> str:
        """What it came to."""
        if self.aim is not None and 100 * mean >= self.aim and interval[0] > 0:
            return "**aim reached**"
        if self.floor is not None and 100 * mean >= self.floor and interval[0] > (0 if self.above else -0.02):
            return "**floor met**"
        return "not shown"


CLAIMS = (
    Claim("ASMa concatenated against PSTL ×2 concatenated, linear", ("linear", ASMA), ("linear", PSTL2), ALL, 0, 2),
    Claim("ASMa aligned against PSTL ×2 with the same module", ("aligned", ASMA), ("aligned", PSTL2), ALL, 0, 2),
    Claim("ASMa aligned against one PSTL encoder, linear", ("aligned", ASMA), ("linear", PSTL1), ALL, 2),
    Claim("ASMa against one PSTL encoder, fine-tuned", ("finetuned", ASMA), ("finetuned", PSTL1), LARGE, 2.7, 4.4),
    Claim("transfer, 5 shots, against PSTL ×1", ("transfer", ASMA), ("transfer", PSTL1), LARGE, 2, 5.9),
    Claim("under noise against PSTL ×2", ("robust", ASMA), ("robust", PSTL2), LARGE, 0, 3),
    Claim("fine-tuned against from scratch ×2", ("finetuned", ASMA), ("finetuned", SCRATCH2), LARGE, -2, above=False),
    Claim("5 shots against from scratch ×2", ("shots", ASMA), ("shots", SCRATCH2), LARGE, None, 8),
    Claim("aligned against concatenated", ("aligned", ASMA), ("linear", ASMA), ALL, 0, 1),
    Claim("student against its teacher", ("student", ASMA), ("aligned", ASMA), LARGE, -0.65, 0, above=False),
    Claim("student against itself on labels alone", ("student", ASMA), ("student-alone", ASMA), LARGE, 1),
    Claim("linear against raw coordinates with RBF", ("linear", ASMA), ("rbf", RAW), LARGE, 0, 10),
)
# Beside them, without a target: the same with as many encoders, and what pretraining gives the parent.
BESIDE = (
    Claim(
        "student of the fine-tuned teacher against itself on labels alone",
        ("student-of-finetuned", ASMA),
        ("student-alone", ASMA),
        LARGE,
        None,
    ),
    Claim(
        "student of the fine-tuned teacher against that teacher",
        ("student-of-finetuned", ASMA),
        ("finetuned", ASMA),
        LARGE,
        None,
    ),
    *(
        Claim(
            f"student with T and α chosen afterwards against {name}",
            ("student-chosen", ASMA),
            (column, ASMA),
            LARGE,
            None,
        )
        for name, column in (
            ("its teacher", "aligned"),
            ("itself on labels alone", "student-alone"),
            ("itself with T = 4, α = 0.7", "student"),
        )
    ),
    Claim("ASMa against PSTL ×2, fine-tuned", ("finetuned", ASMA), ("finetuned", PSTL2), LARGE, None),
    Claim("ASMa against PSTL ×2, 5 shots", ("shots", ASMA), ("shots", PSTL2), LARGE, None),
    Claim("PSTL ×1 against from scratch ×1, fine-tuned", ("finetuned", PSTL1), ("finetuned", SCRATCH1), LARGE, None),
    Claim("PSTL ×1 against from scratch ×1, 5 shots", ("shots", PSTL1), ("shots", SCRATCH1), LARGE, None),
    Claim("PSTL ×2 aligned against untrained ×2 aligned", ("aligned", PSTL2), ("aligned", UNTRAINED2), ALL, None),
)


def hits_of(
    study: Study,
    column: str,
    row: Row,
    dataset: str,
    kept: Callable[[NDArray[np.int64]], NDArray[np.bool_]] | None = None,
) -> Hits | None:
    """``(S, N)``: of each seed and test clip of all folds, whether it was named right, or how often under noise; None
    where a seed is missing. ``kept`` says of ids which count."""
    store = study.store(dataset)
    found = []
    for seed in row.seeds:
        parts = []
        for fold in SETS[dataset].folds(store):
            path = study.folder(column, dataset, fold) / f"{row.key}-seed{seed}.json"
            if not path.exists():
                return None
            checked_record(study, path, column, row)
            arrays = read_arrays(path)
            right = (arrays["logits"].argmax(-1) == arrays["labels"]).reshape(-1, len(arrays["ids"])).mean(0)
            parts.append(right if kept is None else right[kept(arrays["ids"])])
        found.append(np.concatenate(parts))
    return np.stack(found)


def page(study: Study) -> str:
    """All tables as Markdown."""
    lines = [
        "## Claims",
        "",
        *_claims(study, CLAIMS),
        "",
        "Beside them, without a target:",
        "",
        *_claims(study, BESIDE),
    ]
    for column in COLUMNS:
        lines += ["", f"## {TITLES[column.name]}", "", *_table(study, column)]
    lines += ["", "## By class motion", "", *_terciles(study)]
    small = (PSTL1, PSTL2, ASMA)
    lines += ["", "## Ablations", "", *_further(study, ABLATED, [ASMA] * len(ABLATED), LARGE, "ASMa")]
    lines += ["", "## The default network", "", *_further(study, DEFAULT_SIZE, small, LARGE[:1], "8 → 128")]
    return "\n".join(lines) + "\n"


def _unseen(study: Study) -> Kept:
    """Of NW-UCLA's clips those whose frames do not train under another name."""
    repeated = SETS["nw-ucla"].repeated(study.store("nw-ucla"))
    return partial(np.isin, test_elements=repeated, invert=True)


def _claims(study: Study, claims: Sequence[Claim]) -> list[str]:
    """The published splits decide; beside them the same without NW-UCLA's repeated clips."""
    lines = [
        "| claim | sets | floor | aim | difference, points (95 %) | | NW-UCLA's unseen frames only |",
        "|---|---|---|---|---|---|---|",
    ]
    unseen = _unseen(study)
    for claim in claims:
        told = [
            _compared(study, claim, {}),
            _compared(study, claim, {"nw-ucla": unseen}),
        ]
        verdict = "" if told[0] is None or claim in BESIDE else claim.verdict(*told[0])
        floor = "" if claim.floor is None else f"{claim.floor:+g}" if claim.above else f"no loss, {claim.floor:+g}"
        aim = "" if claim.aim is None else f"{claim.aim:+g}"
        first, second = ("not measured" if one is None else _difference(*one) for one in told)
        lines.append(f"| {claim.text} | {len(claim.sets)} | {floor} | {aim} | {first} | {verdict} | {second} |")
    return lines


def _compared(study: Study, claim: Claim, kept: Mapping[str, Kept]) -> tuple[float, Interval] | None:
    parts = []
    for dataset in claim.sets:
        ours, theirs = (hits_of(study, *one, dataset, kept.get(dataset)) for one in (claim.ours, claim.theirs))
        if ours is None or theirs is None:
            return None
        parts.append(ours - theirs)
    return bootstrap_difference(parts)


def _table(study: Study, column: Column) -> list[str]:
    """Accuracies: mean ± standard deviation over the seeds; NW-UCLA also without clips whose frames train."""
    heads = [NAMES[dataset] for dataset in column.sets]
    heads.insert(1, "NW-UCLA, unseen frames")
    lines = ["| row | " + " | ".join([*heads, "mean"]) + " |", "|" + "---|" * (len(heads) + 2)]
    unseen = _unseen(study)
    for row in column.rows:
        cells, means = [], []
        for dataset in column.sets:
            hits = hits_of(study, column.name, row, dataset)
            cells.append(_accuracy(hits))
            means.append(None if hits is None else hits.mean())
            if dataset == "nw-ucla":
                cells.append(_accuracy(hits_of(study, column.name, row, dataset, unseen)))
        known = [mean for mean in means if mean is not None]
        cells.append(f"{100 * np.mean(known):.1f}" if len(known) == len(means) else "–")
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return lines


def _terciles(study: Study) -> list[str]:
    """ASMa against PSTL ×2, linear, for classes of little, middling and much motion."""
    lines = ["| set | classes | PSTL ×2 | ASMa | difference, points (95 %) |", "|---|---|---|---|---|"]
    for dataset in LARGE:
        for name, classes in zip(("little motion", "middling", "much"), terciles(study, dataset), strict=True):
            clips = np.flatnonzero(np.isin(study.store(dataset).labels, classes))
            kept = partial(np.isin, test_elements=clips)
            ours, theirs = (hits_of(study, "linear", row, dataset, kept) for row in (ASMA, PSTL2))
            told = "–" if ours is None or theirs is None else _difference(*bootstrap_difference([ours - theirs]))
            cells = [NAMES[dataset], f"{name} ({len(classes)})", _accuracy(theirs), _accuracy(ours), told]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def terciles(study: Study, dataset: str) -> list[list[int]]:
    """Classes by the mean joint motion of their training clips, in three parts of as equal size as can be."""
    ((train, _),) = SETS[dataset].folds(study.store(dataset)).values()
    clips = study.clips(dataset, train)
    motion = clips.x.diff(dim=2).square().mean(dim=(1, 2, 3, 4)).numpy()
    labels = clips.labels.numpy()
    present = np.unique(labels)
    means = np.array([motion[labels == label].mean() for label in present])
    return [part.tolist() for part in np.array_split(present[np.argsort(means, kind="stable")], 3)]


def _further(study: Study, rows: Sequence[Row], against: Sequence[Row], sets: Sequence[str], name: str) -> list[str]:
    """Rows of fewer seeds, each beside the same seeds of another row."""
    columns = ("linear", "aligned")
    heads = [f"{NAMES[dataset]}, {TITLES[column].lower()}" for column, dataset in product(columns, sets)]
    differences = [f"{TITLES[column].lower()} against {name}, points (95 %)" for column in columns]
    lines = [
        "| row | seeds | " + " | ".join([*heads, *differences]) + " |",
        "|" + "---|" * (2 + len(heads) + len(columns)),
    ]
    for row, other in zip(rows, against, strict=True):
        theirs = replace(other, count=row.count)
        cells = [row.name, str(len(row.seeds))]
        cells += [_accuracy(hits_of(study, column, row, dataset)) for column, dataset in product(columns, sets)]
        for column in columns:
            parts = [[hits_of(study, column, one, dataset) for one in (row, theirs)] for dataset in sets]
            pairs = [ours - their for ours, their in parts if ours is not None and their is not None]
            cells.append(_difference(*bootstrap_difference(pairs)) if len(pairs) == len(sets) else "–")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _accuracy(hits: Hits | None) -> str:
    if hits is None:
        return "–"
    each = 100 * hits.mean(1)
    return f"{each.mean():.1f}" + (f" ± {each.std(ddof=1):.1f}" if len(each) > 1 else "")


def _difference(mean: float, interval: Interval) -> str:
    low, high = interval
    return f"{100 * mean:+.1f} ({100 * low:+.1f} … {100 * high:+.1f})"
