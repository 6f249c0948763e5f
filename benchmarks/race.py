"""Rivals timed in turn, so that a machine that speeds up or slows down does so for all of them.

The rows of a group are tests of their own, which pytest-benchmark would time one after the other, minutes apart. Here
the first row of a group runs the whole group: round by round every entry once, in an order that rotates. Each row
then hands the times of its own entry to pytest-benchmark through a clock that plays them back, and an entry of ours
notes the median, over the rounds, of its ratio to each rival.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from asma_fast._backends import native

#: Rates that a row may note, by what its group counts.
RATES = {"GFLOP": "GFLOP/s", "GB": "GB/s", "clips": "clips/s"}


class Clock:
    """A timer that stands still except for the seconds it is told to play."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def play(self, seconds: float) -> None:
        self.now += seconds


CLOCK = Clock()


@dataclass(frozen=True)
class Entry:
    """One that races.

    Parameters
    ----------
    call
        What is timed.
    kind
        ``"ours"``, a ``"rival"``, or a ``"limit"`` of the machine, which no ratio to the best rival counts.
    before
        Called before each round, untimed: sets threads or an instruction set other than the group's.
    note
        For the row's ``extra_info``.
    timer
        Seconds of one call, of as many repeats as it is told; None: by the clock.
    """

    call: Callable[[], object]
    kind: str = "rival"
    before: Callable[[], object] | None = None
    note: Mapping[str, Any] = field(default_factory=dict)
    timer: Callable[[Callable[[], object], int], float] | None = None


Field = Callable[[], dict[str, Entry]]
Times = dict[str, list[float]]


def ours(call: Callable[[], object], **options: Any) -> Entry:
    """An entry of this package."""
    return Entry(call, "ours", **options)


def rival(call: Callable[[], object], **options: Any) -> Entry:
    """An entry to be beaten."""
    return Entry(call, "rival", **options)


def limit(call: Callable[[], object], **options: Any) -> Entry:
    """An entry that shows what the machine gives."""
    return Entry(call, "limit", **options)


@dataclass(frozen=True)
class Effort:
    """How long a group is timed.

    Parameters
    ----------
    share
        Of the seconds that a group asks for.
    rounds
        Fewest and most.
    smallest
        Seconds that an entry is repeated for within a round.
    """

    share: float = 1.0
    rounds: tuple[int, int] = (5, 30)
    smallest: float = 0.01


def run_race(entries: Mapping[str, Entry], effort: Effort, seconds: float, fewest: int | None = None) -> Times:
    """Seconds of each entry, round by round. An entry shorter than ``effort.smallest`` is repeated within a round."""
    repeats: dict[str, int] = {}
    took = 0.0
    for name, entry in entries.items():
        first = _timed(entry, 1)
        if first < 0.3:  # warm now; of longer ones the first call is near enough
            first = _timed(entry, 1)
        repeats[name] = max(1, int(effort.smallest / max(first, 1e-7)))
        took += first * repeats[name]
    low, high = effort.rounds
    rounds = max(fewest or low, min(high, int(seconds * effort.share / max(took, 1e-9))))
    times: Times = {name: [] for name in entries}
    names = list(entries)
    gc.collect()
    gc.freeze()  # or each round's collection walks all of torch's objects: a tenth of a second and more
    try:
        for turn in range(rounds):
            gc.collect()
            for place in range(len(names)):
                name = names[(place + turn) % len(names)]
                times[name].append(_timed(entries[name], repeats[name]))
    finally:
        gc.unfreeze()
    return times


def _timed(entry: Entry, repeats: int) -> float:
    if entry.before is not None:
        entry.before()
    enabled = gc.isenabled()
    gc.disable()
    try:
        return (entry.timer or by_clock)(entry.call, repeats)
    finally:
        if enabled:
            gc.enable()


def by_clock(call: Callable[[], object], repeats: int) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - began) / repeats


def ratios(times: Times, name: str, entries: Mapping[str, Entry]) -> dict[str, Any]:
    """What a row of ours notes: how many times the others' time is its own, and against the best rival."""
    own = times[name]
    notes: dict[str, Any] = {}
    best: tuple[float, str] | None = None
    for other, entry in entries.items():
        if entry.kind == "ours":
            continue
        each = [theirs / mine for theirs, mine in zip(times[other], own, strict=True)]
        notes[f"ratio to {other}"] = round(statistics.median(each), 4)
        notes[f"spread of ratio to {other}"] = [round(min(each), 4), round(max(each), 4)]
        median = statistics.median(times[other])
        if entry.kind == "rival" and (best is None or median < best[0]):
            best = median, other
            notes["best rival"] = other
            for prefix in ("", "spread of "):
                notes[f"{prefix}ratio to best rival"] = notes[f"{prefix}ratio to {other}"]
    return notes


def _over() -> None:
    """In place of what was timed, so that its memory is free."""


@dataclass
class LastGroup:
    """The group raced last: rows of a group follow each other.

    Parameters
    ----------
    group, entries, times
        Its name, its entries and how long each took, round by round.
    tell
        Called with a line when a group has been raced.
    spent
        Of every group so far: seconds until it was ready, and seconds of the race.
    """

    group: str = ""
    entries: dict[str, Entry] = field(default_factory=dict)
    times: Times = field(default_factory=dict)
    tell: Callable[[str], None] = print
    spent: dict[str, tuple[float, float]] = field(default_factory=dict)


class Race:
    """What the fixture ``race`` gives a test: a row of a group."""

    def __init__(self, benchmark: Any, effort: Effort, run: LastGroup) -> None:
        self.benchmark, self.effort, self.run = benchmark, effort, run

    @property
    def full(self) -> bool:
        """Whether rows are timed, and not as quickly as may be."""
        return bool(self.benchmark.enabled) and self.effort.share == 1

    def __call__(
        self,
        name: str,
        group: str,
        start: Field,
        *,
        threads: int = 2,
        seconds: float = 3.0,
        fewest: int | None = None,
        amounts: Mapping[str, float] | None = None,
    ) -> None:
        """The row of entry ``name``.

        Parameters
        ----------
        group
            The rows of a group must be collected one after the other.
        start
            Builds the entries and checks their results; called once a group.
        threads
            torch's, and so everyone's.
        seconds
            To spend on the rounds of the whole group.
        fewest
            Rounds at least, where the effort's own minimum is not meant.
        amounts
            What one call does: ``{"GFLOP": …, "GB": …}``.
        """
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            if self.run.group != group:
                self.run.group, self.run.entries, self.run.times = "", {}, {}  # frees the last group first
                self._start(group, start, seconds, fewest)
            self._report(name, group, threads, amounts or {})
        finally:
            torch.set_num_threads(before)

    def _start(self, group: str, start: Field, seconds: float, fewest: int | None) -> None:
        run = self.run
        run.group, run.entries, run.times = "", {}, {}  # frees the last group first
        began = time.perf_counter()
        run.entries = start()
        run.group = group
        if not self.benchmark.enabled:
            return
        ready = time.perf_counter()
        with torch.random.fork_rng(devices=[]):
            run.times = run_race(run.entries, self.effort, seconds, fewest)
        run.entries = {key: replace(entry, call=_over) for key, entry in run.entries.items()}
        run.spent[group] = ready - began, time.perf_counter() - ready
        rounds = len(next(iter(run.times.values())))
        run.tell(f"{group}: ready in {run.spent[group][0]:.1f} s, {rounds} rounds in {run.spent[group][1]:.1f} s")

    def _report(self, name: str, group: str, threads: int, amounts: Mapping[str, float]) -> None:
        benchmark, entry = self.benchmark, self.run.entries[name]
        benchmark.group = group
        if not benchmark.enabled:
            if entry.before is not None:
                entry.before()
            benchmark.pedantic(entry.call)
            return
        times = self.run.times[name]
        rest = iter(times)
        benchmark.pedantic(lambda: CLOCK.play(next(rest)), rounds=len(times))
        median = statistics.median(times)
        benchmark.extra_info |= {
            "rival": name,
            "kind": entry.kind,
            "threads": threads,
            "dtype": "float32",
            "instruction set": native().instruction_set(),
            **amounts,
            **{RATES[unit]: round(amount / median, 3) for unit, amount in amounts.items()},
            **entry.note,
        }
        if entry.kind == "ours":
            benchmark.extra_info |= ratios(self.run.times, name, self.run.entries)
