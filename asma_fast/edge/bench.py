"""``python -m asma_fast.edge.bench MODEL``: what a model file costs on this machine. Needs NumPy alone."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import ArrayLike, NDArray

from asma_fast._backends import native
from asma_fast.edge._errors import EdgeError
from asma_fast.edge.session import Session

WARM = 500  # frames of a continual stream before it is timed


@dataclass(frozen=True)
class Times:
    """Quantiles of one thing's times, in milliseconds."""

    p50: float
    p99: float
    mean: float
    longest: float

    @classmethod
    def of(cls, spent: ArrayLike) -> Times:
        """Those of times in milliseconds, at least one."""
        times = np.asarray(spent, np.float64)
        p50, p99 = np.quantile(times, [0.5, 0.99], method="nearest")
        return cls(float(p50), float(p99), float(times.mean()), float(times.max()))

    def __str__(self) -> str:
        return f"p50 {self.p50:.3f} ms, p99 {self.p99:.3f} ms, mean {self.mean:.3f} ms, longest {self.longest:.3f} ms"


@dataclass(frozen=True)
class Report:
    """What was measured; prints as lines.

    Parameters
    ----------
    instruction_set, threads
        Whose kernels ran, on how many threads.
    bodies, frames
        Of a clip.
    file_bytes
        Of the model file.
    first_ms
        From opening the file to the first answer.
    clip
        Of one clip that is prepared.
    stream
        Of one frame of a stream of recorded frames, most of which only fill its window; None where the file tells of no
        preprocessing.
    hop
        Frames between answers of that stream.
    continual, spread
        Of one frame of a stream of mode ``"continual"``, and of one whose work is spread; None where the network is not
        causal, or its preprocessing needs more than a frame.
    peak_bytes
        The most memory that this process has held, Python's and NumPy's included; None where the system does not tell.
    """

    instruction_set: str
    threads: int
    bodies: int
    frames: int
    file_bytes: int
    first_ms: float
    clip: Times
    stream: Times | None
    hop: int
    continual: Times | None
    spread: Times | None
    peak_bytes: int | None

    def __str__(self) -> str:
        lines = [
            f"{self.instruction_set}, threads: {self.threads}; file: {self.file_bytes / 2**20:.2f} MiB",
            f"open and answer once: {self.first_ms:.1f} ms",
            f"clip of {self.bodies} bodies x {self.frames} frames: {self.clip}",
        ]
        if self.stream is not None:
            lines.append(f"stream, an answer every {self.hop} frames, each frame: {self.stream}")
        for name, times in {"continual": self.continual, "continual, spread": self.spread}.items():
            if times is not None:
                lines.append(f"stream, {name}, each frame: {times}")
        if self.peak_bytes is not None:
            lines.append(f"memory, Python and NumPy included: {self.peak_bytes / 2**20:.1f} MiB")
        return "\n".join(lines)


def bench(
    path: str | Path,
    *,
    bodies: int = 2,
    frames: int | None = None,
    threads: int = 1,
    runs: int = 200,
    hop: int = 5,
    seconds: float = 2.0,
    budget_ms: float | None = None,
) -> Report:
    """Times a model file on random numbers.

    Parameters
    ----------
    path
        Written by :func:`asma_fast.edge.export`.
    bodies, frames
        Of a clip; None: as many frames as the file's preprocessing makes, else 50.
    runs
        To time: clips, and as many answers of a stream.
    hop, seconds
        Of the stream.
    budget_ms
        What a frame of a stream may take in the mean, reckoned from a clip's p99: chooses ``hop``, the least that fits.

    Raises
    ------
    EdgeError
        If the file is no sound model file.
    ValueError
        If a number is out of range.
    """
    for name, value in {"bodies": bodies, "threads": threads, "runs": runs, "hop": hop}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if budget_ms is not None and not budget_ms > 0:
        raise ValueError(f"budget_ms must be positive, got {budget_ms}")
    generator = np.random.default_rng(0)
    began = perf_counter()
    longest = max(frames or 0, 300, math.ceil(120 * seconds))  # of a clip, and of a stream's window
    session = Session(path, threads=threads, max_bodies=bodies, max_frames=longest)
    recipe = session.description["preprocessing"]
    frames = frames or (recipe["frames"] if recipe else 0) or 50
    clip = generator.normal(size=(1, bodies, frames, len(session.skeleton), session.channels)).astype(np.float32)
    session.run(clip, preprocessed=True)
    first = 1000 * (perf_counter() - began)
    whole = _times(runs, lambda _: session.run(clip, preprocessed=True))
    if budget_ms is not None:
        hop = max(1, math.ceil(whole.p99 / budget_ms))
    pushed = None
    if recipe:
        recorded = np.ascontiguousarray(clip[0].swapaxes(0, 1))
        with session.stream(seconds=seconds, hop=hop) as stream:
            warm = math.ceil(30 * seconds) + 1
            for t in range(warm):
                stream.push(recorded[t % frames])
            pushed = _times(runs * hop, lambda t: stream.push(recorded[t % frames]))
    continual, spread = (_continual(session, clip[0], runs * hop, spread=spread) for spread in (False, True))
    return Report(
        native().instruction_set(),
        threads,
        bodies,
        frames,
        Path(path).stat().st_size,
        first,
        whole,
        pushed,
        hop,
        continual,
        spread,
        _peak_bytes(),
    )


def _continual(session: Session, clip: NDArray[np.float32], frames: int, *, spread: bool) -> Times | None:
    recorded = np.ascontiguousarray(clip.swapaxes(0, 1))
    try:
        stream = session.stream("continual", rate=session.description.get("rate", 30.0), spread=spread)
    except EdgeError:
        return None
    for t in range(WARM):
        stream.push(recorded[t % len(recorded)])
    return _times(frames, lambda t: stream.push(recorded[t % len(recorded)]))


def _times(runs: int, work: Callable[[int], object]) -> Times:
    spent = np.empty(runs)
    for index in range(runs):
        began = perf_counter()
        work(index)
        spent[index] = 1000 * (perf_counter() - began)
    return Times.of(spent)


def _peak_bytes() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else 1024 * peak)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m asma_fast.edge.bench", description="Times a model file on this machine."
    )
    parser.add_argument("path", metavar="MODEL", type=Path, help="model file, written by export")
    parser.add_argument("--bodies", type=int, default=2, help="of a clip")
    parser.add_argument("--frames", type=int, help="of a clip; by default as the file's preprocessing makes it")
    parser.add_argument("--threads", type=int, default=1, help="threads that share a run")
    parser.add_argument("--runs", type=int, default=200, help="to time")
    parser.add_argument("--hop", type=int, default=5, help="stream: frames from one answer to the next")
    parser.add_argument("--seconds", type=float, default=2.0, help="stream: of the window")
    parser.add_argument("--budget-ms", type=float, help="stream: what a frame may take in the mean; chooses the hop")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    given = vars(parser.parse_args(arguments))
    as_json = given.pop("json")
    try:
        report = bench(**given)
    except (ValueError, OSError) as error:
        print(f"asma_fast.edge.bench: {error}", file=sys.stderr)
        return 2
    print(json.dumps(asdict(report)) if as_json else report)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    sys.exit(main())
