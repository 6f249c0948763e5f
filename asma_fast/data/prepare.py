"""From a folder of raw recordings, or from nothing, to a store."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from asma_fast.data.clip import Clip, SplitRule
from asma_fast.data.errors import FormatError
from asma_fast.data.missing import MissingRule, fill_missing
from asma_fast.data.preprocessing import Preprocessing
from asma_fast.data.readers import DATASETS, reader
from asma_fast.data.readers.base import DataSet, Job, Plan, Reader, asked_splits, some, state_of
from asma_fast.data.store import Store
from asma_fast.data.store_writer import StoreWriter
from asma_fast.data.synthetic import Synthetic
from asma_fast.data.workers import Workers
from asma_fast.skeleton import Skeleton


@dataclass(frozen=True)
class PrepareConfig:
    """What is read, and where the store goes."""

    dataset: str = field(
        metadata={"positional": True, "help": f"data set: {', '.join(DATASETS)}, or synthetic (generated)"}
    )
    out: Path = field(metadata={"help": "store to write, a .safetensors file"})
    source: Path | None = field(
        default=None,
        metadata={"positional": True, "help": "folder of raw files, or a ready-made file; none for synthetic"},
    )
    bodies: str = field(
        default="file-order",
        metadata={"help": "which bodies: file-order; NTU: also denoised, energy; pose estimators: also first"},
    )
    missing: Literal["auto", "fill", "keep"] = field(
        default="auto",
        metadata={
            "help": "joints that the sensor did not see: fill them in, or keep what the file has; auto keeps where "
            "another toolbox's arrays are to be matched (preprocessing aimclr, bodies denoised, ready-made files)"
        },
    )
    min_score: float = field(
        default=0.5, metadata={"help": "a joint of a pose estimator with a lower score or visibility is missing"}
    )
    labels: Path | None = field(
        default=None,
        metadata={
            "help": "labels that lie apart: PKU-MMD's folder, AimCLR's .pkl, a labels.csv (or SOURCE/labels.csv)"
        },
    )
    split: str | None = field(
        default=None,
        metadata={
            "help": "train-test splits besides the published ones: subject:1,3,5 camera:2,3 or list:FILE of the names "
            "that train (PKU-MMD's official lists), NAME= before it for a name, several with ; between"
        },
    )
    layout: str | None = field(
        default=None, metadata={"help": "arrays: a joint layout's name, or a .json file with Skeleton's fields"}
    )
    sided: bool = field(
        default=False, metadata={"help": "of one's own classes: they tell left from right, so that no clip is flipped"}
    )
    fps: float = field(default=0.0, metadata={"help": "frames a second where the files do not say; 0 for unknown"})
    cut: bool = field(
        default=True,
        metadata={"help": "cut continuous recordings (PKU-MMD, PRECOG) into labelled clips; else keep them whole"},
    )
    exclude: Path | None = field(
        default=None,
        metadata={"help": "text file of clip names to leave out, one a line (NTU's official missing-skeleton lists)"},
    )
    preprocessing: str | None = field(
        default=None,
        metadata={"help": f"store clips preprocessed ({', '.join(Preprocessing.names())}); by default as recorded"},
    )
    workers: int = field(default=0, metadata={"help": "processes that read files; 0 for one a CPU"})
    overwrite: bool = field(default=False, metadata={"help": "replace an existing store"})
    clips_per_class: int = field(default=36, metadata={"help": "synthetic: clips of each action"})
    subjects: int = field(default=10, metadata={"help": "synthetic: number of subjects"})
    seed: int = field(default=0, metadata={"help": "synthetic: seed"})


@dataclass(frozen=True)
class Failure:
    """A file that gave no clip, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class PrepareReport:
    """What :func:`prepare` did.

    Attributes
    ----------
    dataset, out
        As configured; ``out`` is None when no file could be read and so no store was written.
    clips, resumed
        Clips in the store, and how many sources an interrupted run had finished.
    splits
        Name → (training, test) clips.
    failures
        Files that could not be read.
    ignored
        Files whose names are not the data set's; no failures.
    excluded, unmatched
        Files left out by request; names on the list of those that are no file's.
    seconds
        Time taken.
    """

    dataset: str
    out: Path | None
    clips: int
    resumed: int
    splits: Mapping[str, tuple[int, int]]
    failures: tuple[Failure, ...]
    ignored: tuple[str, ...]
    excluded: tuple[str, ...]
    unmatched: tuple[str, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether every file of the data set was read."""
        return not self.failures

    def __str__(self) -> str:
        where = "no store was written" if self.out is None else str(self.out)
        lines = [f"{self.dataset}: {self.clips} clips in {self.seconds:.1f} s → {where}"]
        lines += [f"  {name}: {train} train, {test} test" for name, (train, test) in self.splits.items()]
        if self.resumed:
            lines.append(f"  {self.resumed} sources taken over from an interrupted run")
        for title, entries in (("excluded", self.excluded), ("ignored (not the data set's names)", self.ignored)):
            if entries:
                lines.append(f"  {len(entries)} files {title}: {some(entries)}")
        if self.unmatched:
            lines.append(f"  {len(self.unmatched)} names to be excluded are no file's: {some(self.unmatched)}")
        if self.failures:
            lines.append(f"  {len(self.failures)} files FAILED:")
            lines += [f"    {failure.reason}" for failure in self.failures]
        return "\n".join(lines)


def prepare(config: PrepareConfig, *, progress: Callable[[int, int], None] | None = None) -> PrepareReport:
    """Reads a data set and writes it as a store.

    A file that cannot be read is recorded and the work goes on. Killed at any moment, it leaves either no store or a
    whole one, and the next run with the same configuration goes on where it stopped. The store is the same, whatever
    the number of workers and interruptions.

    Parameters
    ----------
    config
        What to read, and where to.
    progress
        Called with the number of sources done and of all.

    Returns
    -------
    PrepareReport
        Counts, failures and what was left out; ``report.ok`` is False if any file failed.

    Raises
    ------
    ValueError
        If the configuration makes no sense, or the source holds no file of the data set.
    FileExistsError, StoreError, OSError
        As :class:`StoreWriter` raises them; ChildProcessError if a process that reads files was killed.

    Examples
    --------
    >>> report = prepare(PrepareConfig("synthetic", Path("demo.safetensors")))  # doctest: +SKIP
    >>> report.splits["xsub"]  # doctest: +SKIP
    (216, 216)
    """
    started = time.monotonic()
    asked = asked_splits(config.split)
    dataset, plan = _plan(config)
    _check_names(asked, dataset.protocol(())[1])
    recipe = None if config.preprocessing is None else Preprocessing.named(config.preprocessing)
    applied = dataset.applied if isinstance(dataset, Reader) else None
    if recipe is not None and applied not in (None, recipe):
        raise ValueError(f"{config.source}: the clips were preprocessed already, by {applied}; got {recipe}")
    skeleton = dataset.layout()
    missing = _missing_rule(config, dataset)
    writer = StoreWriter(
        config.out,
        dataset=dataset.dataset,
        skeleton=skeleton,
        body_rule=config.bodies,
        sided=dataset.sided or config.sided,
        missing=missing,
        preprocessing=applied if recipe is None else recipe,
        origin=_origin(config),
        overwrite=config.overwrite,
    )
    with writer:
        resumed = _drop_stale(writer, plan.jobs)
        failures = [Failure(*lost) for lost in writer.lost]
        rest = [job for job in plan.jobs if job.source not in writer.finished]
        for done, (job, outcome) in enumerate(_run(rest, Treatment(missing, recipe, skeleton), config.workers), 1):
            failures += _write(writer, job, outcome)
            if progress is not None:
                progress(resumed + done, len(plan.jobs))
        store = _finish(writer, dataset, plan.jobs, asked)
    return PrepareReport(
        dataset=config.dataset,
        out=None if store is None else config.out,
        clips=0 if store is None else len(store),
        resumed=resumed,
        splits={} if store is None else {name: _sizes(store, name) for name in store.splits},
        failures=tuple(failures),
        ignored=plan.ignored,
        excluded=plan.excluded,
        unmatched=plan.unmatched,
        seconds=time.monotonic() - started,
    )


def _plan(config: PrepareConfig) -> tuple[DataSet, Plan]:
    if config.workers < 0:
        raise ValueError(f"workers must be at least 0, got {config.workers}")
    if config.dataset == Synthetic.dataset:
        if config.source is not None:
            raise ValueError(f"synthetic clips are generated; source must be None, got {config.source}")
        synthetic = Synthetic(clips_per_class=config.clips_per_class, subjects=config.subjects, seed=config.seed)
        token = repr(synthetic)
        names = enumerate(synthetic.names)
        return synthetic, Plan(tuple(Job(name, token, partial(_generated, synthetic, i)) for i, name in names))
    if config.dataset not in DATASETS:
        raise ValueError(f"dataset must be one of {', '.join((*DATASETS, Synthetic.dataset))}; got {config.dataset!r}")
    chosen = reader(config.dataset)
    chosen.check_bodies(config.bodies)
    for option in ("labels", "layout", "fps", "min_score", "cut"):
        if option not in chosen.options and getattr(config, option) != getattr(PrepareConfig, option):
            raise ValueError(f"{config.dataset} has no use for the option {option}, got {getattr(config, option)}")
    if not config.cut and config.preprocessing is not None:
        raise ValueError("whole recordings keep a label of each frame, which preprocessing would lose; use one only")
    return chosen, chosen.plan(config)


def _origin(config: PrepareConfig) -> str:
    """All that decides what a source's clips are, besides what the store itself records."""
    if config.source is None:
        return ""
    labels = None if config.labels is None else (os.fspath(config.labels.resolve()), state_of(config.labels))
    return repr((os.fspath(config.source.resolve()), labels, config.layout, config.fps, config.cut, config.min_score))


def _generated(synthetic: Synthetic, index: int) -> Sequence[Clip]:
    return (synthetic.clip(index),)


def _drop_stale(writer: StoreWriter, jobs: Iterable[Job]) -> int:
    """Forgets sources that have changed or gone since an interrupted run; returns how many are taken over."""
    tokens = {job.source: job.token for job in jobs}
    for source, token in writer.finished.items():
        if tokens.get(source) != token:
            writer.forget(source)
    return len(writer.finished)


@dataclass(frozen=True)
class Treatment:
    """What every clip goes through between its reader and the store."""

    missing: MissingRule
    recipe: Preprocessing | None
    skeleton: Skeleton

    def __call__(self, clip: Clip, source: str) -> Clip:
        clip = fill_missing(clip, self.skeleton, rule=self.missing)
        if not clip.frames.any():
            raise FormatError(source, "a body in some frame", f"none in {clip.length} frames")
        if self.recipe is None:
            return clip
        if clip.frame_labels is not None:
            raise ValueError("preprocessing would lose the label of each frame; leave it out, or cut the recording")
        frames = self.recipe(clip, self.skeleton).transpose(3, 1, 2, 0)
        return replace(
            clip,
            frames=np.ascontiguousarray(frames),
            preprocessing=self.recipe,
            fps=clip.fps if self.recipe.frames is None else None,
            image_size=clip.image_size if self.recipe.centre == self.recipe.scale == "none" else None,
        )


def _missing_rule(config: PrepareConfig, dataset: DataSet) -> MissingRule:
    if config.missing != "auto":
        return config.missing
    ready_made = isinstance(dataset, Reader) and dataset.ready_made
    return "keep" if ready_made or config.preprocessing == "aimclr" or config.bodies == "denoised" else "fill"


@dataclass(frozen=True)
class Outcome:
    """What came of a job: clips, and what was lost; of a file that cannot be read at all, only the latter."""

    clips: tuple[Clip, ...]
    failures: tuple[Failure, ...]


_CHUNK = 4
_WORTH_PROCESSES = 64


def _run(jobs: Sequence[Job], treatment: Treatment, workers: int) -> Iterator[tuple[Job, Outcome]]:
    """Runs the jobs in processes, or a few of them on threads, in order, with a bounded number of clips waiting to be
    written."""
    count = workers or os.cpu_count() or 1
    chunks = [jobs[begin : begin + _CHUNK] for begin in range(0, len(jobs), _CHUNK)]
    apart = count > 1 and len(jobs) >= _WORTH_PROCESSES
    waiting: deque[tuple[Sequence[Job], Future[list[Outcome]]]] = deque()
    with Workers() as processes, ThreadPoolExecutor(count, "asma-prepare") as pool:
        try:
            for chunk in chunks:
                work = partial(processes.call, _do_all) if apart else _do_all
                waiting.append((chunk, pool.submit(work, chunk, treatment)))
                if len(waiting) > count:
                    first, outcomes = waiting.popleft()
                    yield from zip(first, outcomes.result(), strict=True)
            while waiting:
                first, outcomes = waiting.popleft()
                yield from zip(first, outcomes.result(), strict=True)
        except ChildProcessError as error:
            reading = some([job.source for job in first])
            raise ChildProcessError(
                f"{error}; it was reading {reading}; the next run goes on from what is done"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _do_all(jobs: Sequence[Job], treatment: Treatment) -> list[Outcome]:
    return [_do(job, treatment) for job in jobs]


def _do(job: Job, treatment: Treatment) -> Outcome:
    clips, failures = [], []
    try:
        for clip in job.clips():
            if isinstance(clip, ValueError):
                failures.append(_failure(job, clip))
                continue
            try:
                clips.append(treatment(clip, job.source))
            except ValueError as error:
                failures.append(_failure(job, error, clip.name))
    except (ValueError, OSError) as error:
        return Outcome((), (_failure(job, error),))
    return Outcome(tuple(clips), tuple(failures))


def _failure(job: Job, error: Exception, clip: str = "") -> Failure:
    place = f"{job.source}, clip {clip}" if clip and clip not in job.source else job.source
    told = isinstance(error, FormatError) and (not clip or clip in str(error))
    return Failure(place, str(error) if told else f"{place}: {error}")


def _write(writer: StoreWriter, job: Job, outcome: Outcome) -> Sequence[Failure]:
    if not outcome.clips:
        return outcome.failures or (_failure(job, ValueError("expected a clip, found none")),)
    clips, failures, own = [], list(outcome.failures), set[str]()
    for clip in outcome.clips:
        if len(outcome.clips) > 1 and (clip.name in own or clip.name in writer.names):
            failures.append(_failure(job, ValueError("clip names must be distinct; this one stands twice"), clip.name))
        else:
            own.add(clip.name)
            clips.append(clip)
    if not clips:
        return failures
    try:
        lost = [(failure.file, failure.reason) for failure in failures]
        writer.add(*clips, source=job.source, token=job.token, lost=lost)
    except ValueError as error:
        return (*failures, _failure(job, error))
    return failures


def _finish(writer: StoreWriter, dataset: DataSet, jobs: Iterable[Job], asked: Mapping[str, SplitRule]) -> Store | None:
    if not writer.finished:
        writer.discard()
        return None
    classes, splits = dataset.protocol(writer.clips)
    _check_names(asked, splits)
    order = [job.source for job in jobs if job.source in writer.finished]
    return writer.finish(classes=classes, splits={**splits, **asked}, order=order)


def _check_names(asked: Mapping[str, SplitRule], published: Mapping[str, SplitRule]) -> None:
    for name in asked.keys() & published.keys():
        raise ValueError(f"split {name} is the data set's own; give yours another name, as in --split mine=subject:1,2")


def _sizes(store: Store, split: str) -> tuple[int, int]:
    train, test = store.split(split)
    return len(train), len(test)
