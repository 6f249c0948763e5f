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


def run_suite(folder: Path, *, quick: bool) -> dict[str, Any]:
    """What pytest-benchmark's JSON holds, of all files; ``incomplete`` names those that failed or died.

    Parameters
    ----------
    folder
        Gets each file's JSON.
    """
    files = [path.relative_to(HERE.parent).as_posix() for path in sorted(HERE.rglob("bench_*.py"))]
    run = merged(files, lambda file: _run_file(file, folder, quick))
    return run | {"command": "python benchmarks/report.py" + (" --quick" if quick else "")}


def _run_file(file: str, folder: Path, quick: bool) -> tuple[int, Path]:
    path = folder / f"{file.replace('/', '-')}.json"
    command = [sys.executable, "-m", "pytest", "-q", file, f"--benchmark-json={path}", *(["--quick"] if quick else [])]
    return subprocess.run(command, cwd=HERE.parent, check=False).returncode, path


def merged(files: Sequence[str], run_file: Callable[[str], tuple[int, Path]]) -> dict[str, Any]:
    """One run's JSON. ``run_file`` gives pytest's status, and the path of the JSON, if it wrote it."""
    began = time.perf_counter()
    run: dict[str, Any] = {"benchmarks": [], "incomplete": [], _GROUPS: {}}
    for place, file in enumerate(files):
        minutes = (time.perf_counter() - began) / 60
        print(f"\n== {place + 1} of {len(files)}, after {minutes:.1f} min: {file}", flush=True)
        status, path = run_file(file)
        if status == _NOTHING_COLLECTED:  # all of it left out by --quick
            continue
        if status:
            run["incomplete"].append(file)
        if not path.exists() or not path.stat().st_size:
            continue
        part = json.loads(path.read_text(encoding="utf-8"))
        run = {**part, **run}  # machine and date are the first file's
        run["benchmarks"] = [*run["benchmarks"], *part["benchmarks"]]
        run[_GROUPS] |= part.get(_GROUPS, {})
    return run | {"seconds": time.perf_counter() - began}
