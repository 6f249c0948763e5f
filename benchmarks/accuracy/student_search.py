"""``python benchmarks/accuracy/student_search.py OPTION=VALUE … [--shapes …] [--taps …] [--seeds …]``

Trains a grid of students on one teacher, times all of them and the teacher in turn on one CPU thread, and writes the
Pareto table as Markdown. OPTION=VALUE are those of ``asma-fast distill``: data, split, teacher, out, epochs, …; a
choice made by this table is made on an inner split. ``--temperatures`` and ``--alphas`` are axes too. The teacher is
asked once for all students; the same command goes on where it was stopped.

A shape is the channels of each block, with the stride behind those that have one: ``8-8-16x2-32x2-48``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import warnings
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asma_fast.config import build
from asma_fast.training import DistillConfig, distill
from asma_fast.training.checkpoint import write_text
from asma_fast.training.cost import latencies
from asma_fast.training.lesson import lesson_of
from asma_fast.training.models import load_model
from asma_fast.training.teachers import Teacher, Teachers, clips_by_stream

SHAPES = (
    "8-8-8-16x2-16-32x2-32-48",
    "8-8-8-16-16-32x2-32-48",
    "8-8x2-16-16x2-32-32-64",
    "8x2-16-16x2-32-32-64",
    "8x2-16x2-32-64",
    "16-16x2-32x2-64",
    "8-8x2-16x2-32",
)
SHARE = 0.086  # of the teacher's parameters that a student may have
CALLS, SECONDS = 200, 60.0  # of the timing


@dataclass(frozen=True)
class Candidate:
    """One student of the grid; without temperature or alpha, that of all."""

    shape: str
    taps: int
    separable: bool = False
    temperature: float | None = None
    alpha: float | None = None

    @property
    def name(self) -> str:
        told = [f"{self.shape}-t{self.taps}", "separable" if self.separable else ""]
        told += [f"{key}={value:g}" for key, value in self.loss.items()]
        return "-".join(filter(None, told))

    @property
    def loss(self) -> dict[str, float]:
        """Options of the loss that are its own."""
        own = {"temperature": self.temperature, "alpha": self.alpha}
        return {key: value for key, value in own.items() if value is not None}

    def config(self, base: DistillConfig, seed: int) -> DistillConfig:
        channels, strides = parse_shape(self.shape)
        return replace(
            base,
            channels=channels,
            strides=strides,
            taps=self.taps,
            separable=self.separable,
            **self.loss,
            seed=seed,
            out=base.out / f"{self.name}-seed{seed}",
            name=f"{self.name} seed {seed}",
        )


@dataclass(frozen=True)
class Row:
    """What was measured of a candidate, accuracy and agreement of each seed."""

    candidate: Candidate
    accuracies: tuple[float, ...]
    agreements: tuple[float, ...]
    parameters: int
    share: float
    multiply_adds: int
    latency_ms: float

    @property
    def accuracy(self) -> float:
        return statistics.mean(self.accuracies)


def parse_shape(shape: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channels and strides.

    >>> parse_shape("8-16x2-32")
    ((8, 16, 32), (1, 2, 1))
    """
    channels, strides = [], []
    for block in shape.split("-"):
        wide, _, stride = block.partition("x")
        if not wide.isdigit() or not (stride or "1").isdigit():
            raise ValueError(f"a shape is written as 8-16x2-32, got {shape!r}")
        channels.append(int(wide))
        strides.append(int(stride or 1))
    return tuple(channels), tuple(strides)


def pareto(rows: Sequence[Row]) -> list[Row]:
    """Rows to which no other is at least as accurate and as quick, and better in one of both; the quickest first."""
    kept = [
        row
        for row in rows
        if not any(
            other.accuracy >= row.accuracy
            and other.latency_ms <= row.latency_ms
            and (other.accuracy, other.latency_ms) != (row.accuracy, row.latency_ms)
            for other in rows
        )
    ]
    return sorted(kept, key=lambda row: row.latency_ms)


def search(base: DistillConfig, candidates: Sequence[Candidate], seeds: Sequence[int]) -> tuple[list[Row], Any]:
    """Trains and measures all of them; rows, and what is known of the teacher."""
    members = [Teacher.load(path) for path in base.teacher]
    cache: MutableMapping[str, np.ndarray] = {}
    records: dict[Candidate, list[Mapping[str, Any]]] = {}
    for candidate, seed in itertools.product(candidates, seeds):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the table shows what is larger than its teacher
            result = distill(candidate.config(base, seed), teachers=members, cache=cache)
        if result.scores is None:
            raise ValueError(f"{base.data}: a search needs test clips with labels of the teacher's classes")
        records.setdefault(candidate, []).append(result.record)
        print(f"{candidate.name}, seed {seed}: {100 * result.scores.accuracy:.2f} %", flush=True)
    times = timed(base, members, {candidate: candidate.config(base, seeds[0]).out for candidate in candidates})
    rows = [
        Row(
            candidate,
            tuple(record["accuracy"] for record in found),
            tuple(record["agreement"] for record in found),
            found[0]["student"]["parameters"],
            found[0]["student"]["share"],
            found[0]["student"]["multiply_adds"],
            times[candidate.name],
        )
        for candidate, found in records.items()
    ]
    teacher = {**next(iter(records.values()))[0]["teacher"], "latency_ms": times["teacher"]}
    return rows, teacher


@torch.no_grad()
def timed(base: DistillConfig, members: Sequence[Teacher], folders: Mapping[Candidate, Path]) -> dict[str, float]:
    """Milliseconds a clip of each student, and of the teacher, on one CPU thread, in turn."""
    teachers = Teachers.of(members, base.weights).to("cpu")
    parts = lesson_of(base, teachers).parts
    own = parts.test.batch([0]).x
    seen = clips_by_stream(teachers, parts, parts.test)
    inputs = [(member.model, seen[member.stream].batch([0]).x) for member in members]
    models = {candidate.name: load_model(folder / "student.safetensors")[0] for candidate, folder in folders.items()}
    calls: dict[str, Any] = {name: lambda model=model: model(own) for name, model in models.items()}
    calls["teacher"] = lambda: [model(x) for model, x in inputs]
    return latencies(calls, rounds=CALLS, seconds=SECONDS)


def page(rows: Sequence[Row], teacher: Mapping[str, Any], base: DistillConfig, seeds: Sequence[int]) -> str:
    """The table: Pareto points in bold; what is over the share of parameters is marked."""
    best = pareto([row for row in rows if row.share <= SHARE])
    of_all = f"{len(teacher['streams'])} streams" if len(teacher["streams"]) > 1 else "one stream"
    lines = [
        "# Students tried",
        "",
        f"Teacher: {teacher['name']} ({of_all}), accuracy {100 * teacher['accuracy']:.2f} %, {teacher['parameters']:,} "
        f"parameters, {teacher['multiply_adds'] / 1e6:.1f} MMAC, {teacher['latency_ms']:.3g} ms a clip. "
        f"Split {base.split or 'of the store'}, seeds {', '.join(map(str, seeds))}, {base.epochs} epochs, "
        f"{base.views} view sets, β = {base.beta:g}. Latency: median of "
        f"one clip on one CPU thread, all networks in turn in one run. **Bold**: no other within {100 * SHARE:g} % of "
        "the teacher's parameters is as accurate and as quick.",
        "",
        "| blocks | taps | temporal | T | α | accuracy % | agreement % | parameters | share % | MMAC | ms | speed-up |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: row.latency_ms):
        cells = [
            row.candidate.shape.replace("-", ", "),
            str(row.candidate.taps),
            "separable" if row.candidate.separable else "full",
            *(f"{row.candidate.loss.get(key, getattr(base, key)):g}" for key in ("temperature", "alpha")),
            _spread(row.accuracies),
            _spread(row.agreements),
            f"{row.parameters:,}",
            f"{100 * row.share:.1f}{'' if row.share <= SHARE else ' (too large)'}",
            f"{row.multiply_adds / 1e6:.2f}",
            f"{row.latency_ms:.3g}",
            f"{teacher['latency_ms'] / row.latency_ms:.1f}×",
        ]
        lines.append("| " + " | ".join(f"**{cell}**" if row in best else cell for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _spread(shares: Sequence[float]) -> str:
    mean = f"{100 * statistics.mean(shares):.2f}"
    return mean if len(shares) == 1 else f"{mean} ± {100 * statistics.stdev(shares):.2f}"


def options_of(words: Sequence[str]) -> DistillConfig:
    """The config that OPTION=VALUE words describe."""
    given = {name: value for name, _, value in (word.partition("=") for word in words)}
    for name in ("channels", "strides", "taps", "separable", "seed", "name"):
        if name in given:
            raise ValueError(f"{name} is the grid's: --shapes, --taps, --convolutions, --seeds")
    return build(DistillConfig, ("options", {"progress": False, "out": Path("student-search"), **given}))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="A grid of students of one teacher, as a Pareto table.")
    parser.add_argument("options", nargs="+", metavar="OPTION=VALUE", help="of asma-fast distill")
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="channels, x and stride: 8-8-16x2-32")
    parser.add_argument("--taps", nargs="+", type=int, default=[9, 5])
    parser.add_argument("--convolutions", nargs="+", choices=["full", "separable"], default=["full", "separable"])
    parser.add_argument("--temperatures", nargs="+", type=float, default=[None], help="T; by default that of options")
    parser.add_argument("--alphas", nargs="+", type=float, default=[None], help="α; by default that of options")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--table", type=Path, help="the page; by default STUDENTS.md in the folder out")
    given = parser.parse_intermixed_args(arguments)
    try:
        base = options_of(given.options)
        grid = itertools.product(given.shapes, given.taps, given.convolutions, given.temperatures, given.alphas)
        candidates = [Candidate(shape, taps, kind == "separable", *loss) for shape, taps, kind, *loss in grid]
        for candidate in candidates:
            candidate.config(base, 0)  # what is wrong about one is said before the first is trained
        rows, teacher = search(base, candidates, given.seeds)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"student_search: {error}", file=sys.stderr)
        return 1
    table = given.table or base.out / "STUDENTS.md"
    write_text(table, page(rows, teacher, base, given.seeds))
    told = [{**vars(row), "candidate": row.candidate.name} for row in rows]
    write_text(table.with_suffix(".json"), json.dumps({"teacher": teacher, "rows": told}, indent=2) + "\n")
    print(f"wrote {table}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
