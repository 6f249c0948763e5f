"""The whole suite as one run: a pytest process for each file, so that memory goes back between files and a process
that dies takes one file's rows with it, not all."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
_NOTHING_COLLECTED = 5
_GROUPS = "seconds of groups"
_LIMITS = "benchmarks/bench_limits.py"
#: A file's parts, by pytest's -k: the largest group apart, for it fills the memory.
_PARTS = {"benchmarks/nn/bench_pretraining_step.py": ("not 128-6144", "128-6144")}


def run_suite(folder: Path, *, quick: bool) -> dict[str, Any]:
    """What pytest-benchmark's JSON holds, of all files; ``incomplete`` names those that failed or died.

    Parameters
    ----------
    folder
        Gets each file's JSON.
    """
    parts: list[tuple[str, ...]] = [(_LIMITS,)]
    for path in sorted(HERE.rglob("bench_*.py")):
        file = path.relative_to(HERE.parent).as_posix()
        if file == _LIMITS:
            continue
        parts += [(file, "-k", which) for which in _PARTS.get(file, ())] or [(file,)]
    parts.append(parts[0])  # the machine's limits once more: they are the best of the whole run
    run = merged(parts, lambda part: _run_part(part, folder, quick))
    return run | {"command": "python benchmarks/report.py" + (" --quick" if quick else "")}


def _run_part(part: Sequence[str], folder: Path, quick: bool) -> tuple[int, Path]:
    path = folder / f"{len(list(folder.iterdir()))}.json"
    command = [sys.executable, "-m", "pytest", "-q", *part, f"--benchmark-json={path}", *(["--quick"] if quick else [])]
    return subprocess.run(command, cwd=HERE.parent, check=False).returncode, path


def merged(parts: Sequence[Sequence[str]], run_part: Callable[[Sequence[str]], tuple[int, Path]]) -> dict[str, Any]:
    """One run's JSON. ``run_part`` gives pytest's status, and the path of the JSON, if it wrote it.

    Parameters
    ----------
    parts
        Each what pytest is told to run.
    """
    began = time.perf_counter()
    run: dict[str, Any] = {"benchmarks": [], "incomplete": [], _GROUPS: {}}
    for place, part in enumerate(parts):
        minutes = (time.perf_counter() - began) / 60
        print(f"\n== {place + 1} of {len(parts)}, after {minutes:.1f} min: {' '.join(part)}", flush=True)
        status, path = run_part(part)
        if status == _NOTHING_COLLECTED:  # all of it left out by --quick
            continue
        if status:
            run["incomplete"].append(" ".join(part))
        if not path.exists() or not path.stat().st_size:
            continue
        found = json.loads(path.read_text(encoding="utf-8"))
        run = {**found, **run}  # machine and date are the first file's
        run["benchmarks"] = [*run["benchmarks"], *found["benchmarks"]]
        run[_GROUPS] |= found.get(_GROUPS, {})
    return run | {"seconds": time.perf_counter() - began}
