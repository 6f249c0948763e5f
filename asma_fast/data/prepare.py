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

import numpy as np

from asma_fast.data.clip import Clip
from asma_fast.data.errors import FormatError
from asma_fast.data.preprocessing import Preprocessing
from asma_fast.data.readers import DATASETS, reader
from asma_fast.data.readers.base import DataSet, Reader
from asma_fast.data.store import Store
from asma_fast.data.store_writer import StoreWriter
from asma_fast.data.synthetic import Synthetic
from asma_fast.skeleton import Skeleton


@dataclass(frozen=True)
class PrepareConfig:
    """What is read, and where the store goes."""

    dataset: str = field(
        metadata={"positional": True, "help": f"data set: {', '.join(DATASETS)}, or synthetic (generated)"}
    )
    out: Path = field(metadata={"help": "store to write, a .safetensors file"})
    source: Path | None = field(
        default=None, metadata={"positional": True, "help": "folder of raw files; none for synthetic"}
    )
    bodies: str = field(default="file-order", metadata={"help": "rule for choosing bodies: file-order"})
    exclude: Path | None = field(
        default=None,
        metadata={"help": "text file of clip names to leave out, one a line (NTU's official missing-skeleton lists)"},
    )
    preprocessing: str | None = field(
        default=None,
        metadata={"help": f"store clips preprocessed ({', '.join(Preprocessing.names())}); by default as recorded"},
    )
    workers: int = field(default=0, metadata={"help": "threads that read files; 0 for one a CPU"})
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
    excluded
        Files left out by request.
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
                lines.append(f"  {len(entries)} files {title}: {_some(entries)}")
        if self.failures:
            lines.append(f"  {len(self.failures)} files FAILED:")
            lines += [f"    {failure.reason}" for failure in self.failures]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Job:
    """One source: its name, its state, and what makes clips of it."""

    source: str
    token: str
    clips: Callable[[], Sequence[Clip]]


@dataclass(frozen=True)
class _Plan:
    jobs: tuple[_Job, ...]
    ignored: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()


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
        As :class:`StoreWriter` raises them.

    Examples
    --------
    >>> report = prepare(PrepareConfig("synthetic", Path("demo.safetensors")))  # doctest: +SKIP
    >>> report.splits["xsub"]  # doctest: +SKIP
    (216, 216)
    """
    started = time.monotonic()
    dataset, plan = _plan(config)
    recipe = None if config.preprocessing is None else Preprocessing.named(config.preprocessing)
    skeleton = Skeleton.named(dataset.skeleton)
    writer = StoreWriter(
        config.out,
        dataset=dataset.dataset,
        skeleton=skeleton,
        body_rule=config.bodies,
        sided=dataset.sided,
        fps=dataset.fps,
        preprocessing=recipe,
        origin="" if config.source is None else os.fspath(config.source.resolve()),
        overwrite=config.overwrite,
    )
    with writer:
        resumed = _drop_stale(writer, plan.jobs)
        failures: list[Failure] = []
        rest = [job for job in plan.jobs if job.source not in writer.finished]
        for done, (job, outcome) in enumerate(_run(rest, recipe, skeleton, config.workers), 1):
            failure = outcome if isinstance(outcome, Failure) else _write(writer, job, outcome)
            if failure is not None:
                failures.append(failure)
            if progress is not None:
                progress(resumed + done, len(plan.jobs))
        store = _finish(writer, dataset, plan.jobs)
    return PrepareReport(
        dataset=config.dataset,
        out=None if store is None else config.out,
        clips=0 if store is None else len(store),
        resumed=resumed,
        splits={} if store is None else {name: _sizes(store, name) for name in store.splits},
        failures=tuple(failures),
        ignored=plan.ignored,
        excluded=plan.excluded,
        seconds=time.monotonic() - started,
    )


def _plan(config: PrepareConfig) -> tuple[DataSet, _Plan]:
    if config.workers < 0:
        raise ValueError(f"workers must be at least 0, got {config.workers}")
    if config.dataset == Synthetic.dataset:
        if config.source is not None:
            raise ValueError(f"synthetic clips are generated; source must be None, got {config.source}")
        synthetic = Synthetic(clips_per_class=config.clips_per_class, subjects=config.subjects, seed=config.seed)
        token = repr(synthetic)
        names = enumerate(synthetic.names)
        return synthetic, _Plan(tuple(_Job(name, token, partial(_generated, synthetic, i)) for i, name in names))
    if config.dataset not in DATASETS:
        raise ValueError(f"dataset must be one of {', '.join((*DATASETS, Synthetic.dataset))}; got {config.dataset!r}")
    chosen = reader(config.dataset)
    chosen.check_bodies(config.bodies)
    if config.source is None:
        raise ValueError(f"{config.dataset} is read from files: source must be a folder, got None")
    if not config.source.is_dir():
        raise ValueError(f"source must be a folder, got {config.source}")
    return chosen, _walk(chosen, config.source, config.bodies, _listed(config.exclude))


def _generated(synthetic: Synthetic, index: int) -> Sequence[Clip]:
    return (synthetic.clip(index),)


def _listed(exclude: Path | None) -> frozenset[str]:
    if exclude is None:
        return frozenset()
    return frozenset(line.strip() for line in exclude.read_text(encoding="utf-8").splitlines() if line.strip())


def _walk(chosen: Reader, folder: Path, bodies: str, exclude: frozenset[str]) -> _Plan:
    jobs, ignored, excluded = [], [], []
    for path in sorted(_files(folder)):
        source = path.relative_to(folder).as_posix()
        if not chosen.matches(path):
            ignored.append(source)
        elif path.name in exclude or path.stem in exclude:
            excluded.append(source)
        else:
            jobs.append(_Job(source, _state(path), partial(chosen.clips, path, bodies)))
    if not jobs:
        raise ValueError(
            f"{folder} holds no file of {chosen.dataset}: expected names like {chosen.pattern.pattern}, "
            f"found {_some(ignored) or 'none'}" + (f"; {len(excluded)} excluded" if excluded else "")
        )
    return _Plan(tuple(jobs), tuple(ignored), tuple(excluded))


def _files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


def _state(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:  # a dangling link, say: reading it will tell
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"


def _drop_stale(writer: StoreWriter, jobs: Iterable[_Job]) -> int:
    """Forgets sources that have changed or gone since an interrupted run; returns how many are taken over."""
    tokens = {job.source: job.token for job in jobs}
    for source, token in writer.finished.items():
        if tokens.get(source) != token:
            writer.forget(source)
    return len(writer.finished)


Outcome = Sequence[Clip] | Failure


def _run(
    jobs: Sequence[_Job], recipe: Preprocessing | None, skeleton: Skeleton, workers: int
) -> Iterator[tuple[_Job, Outcome]]:
    """Runs the jobs on threads, in order, with a bounded number of clips waiting to be written."""
    threads = workers or os.cpu_count() or 1
    waiting: deque[tuple[_Job, Future[Outcome]]] = deque()
    with ThreadPoolExecutor(threads, "asma-prepare") as pool:
        try:
            for job in jobs:
                waiting.append((job, pool.submit(_do, job, recipe, skeleton)))
                if len(waiting) >= 4 * threads:
                    first, outcome = waiting.popleft()
                    yield first, outcome.result()
            for first, outcome in waiting:
                yield first, outcome.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _do(job: _Job, recipe: Preprocessing | None, skeleton: Skeleton) -> Outcome:
    try:
        clips = job.clips()
        for clip in clips:
            if not clip.frames.any():
                raise FormatError(job.source, "a body in some frame", f"none in {clip.length} frames")
        return [clip if recipe is None else _preprocessed(clip, recipe, skeleton) for clip in clips]
    except FormatError as error:
        return Failure(job.source, str(error))
    except (ValueError, OSError) as error:
        return Failure(job.source, f"{job.source}: {error}")


def _preprocessed(clip: Clip, recipe: Preprocessing, skeleton: Skeleton) -> Clip:
    frames = recipe(clip, skeleton).transpose(3, 1, 2, 0)
    return replace(clip, frames=np.ascontiguousarray(frames), preprocessing=recipe)


def _write(writer: StoreWriter, job: _Job, clips: Sequence[Clip]) -> Failure | None:
    try:
        writer.add(*clips, source=job.source, token=job.token)
    except ValueError as error:
        return Failure(job.source, f"{job.source}: {error}")
    return None


def _finish(writer: StoreWriter, dataset: DataSet, jobs: Iterable[_Job]) -> Store | None:
    if not writer.finished:
        writer.discard()
        return None
    classes, splits = dataset.protocol(writer.clips)
    order = [job.source for job in jobs if job.source in writer.finished]
    return writer.finish(classes=classes, splits=splits, order=order)


def _sizes(store: Store, split: str) -> tuple[int, int]:
    train, test = store.split(split)
    return len(train), len(test)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
