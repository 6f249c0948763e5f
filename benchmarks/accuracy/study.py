"""``python benchmarks/accuracy/study.py STAGE --data FOLDER --work FOLDER``: the accuracy study of PROTOCOL.md.

Stages: ``prepare`` the stores, ``select`` the shared settings on inner folds, ``pretrain`` the encoders, ``measure``
every column, ``report``. Each does what is not done yet; the same command goes on where it was stopped. FOLDER of the
data holds the raw recordings, each set in the folder that ``design.py`` names.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from design import GRID, PSTL1, SETS, Settings, joined, pretrainings
from measures import Study

from asma_fast.data import PrepareConfig, prepare
from asma_fast.training import pretrain
from asma_fast.training.checkpoint import write_text

Job = tuple[Callable[..., Any], tuple[Any, ...]]
TOLERANCE = 0.005  # of a setting that is cheaper than the best one


def prepare_stores(data: Path, work: Path) -> None:
    """Every store that is not there yet."""
    for one in SETS.values():
        if not one.file(work).exists():
            one.file(work).parent.mkdir(parents=True, exist_ok=True)
            print(prepare(PrepareConfig(one.name, one.file(work), data / one.source)), flush=True)


def pretrain_one(study: Study, encoder: str, seed: int) -> str:
    """One encoder, from where its checkpoint left off."""
    out, began = study.encoder(encoder, seed), time.perf_counter()
    if not (out / "done").exists():
        pretrain(study.settings.pretraining(encoder, seed, joined(study.work), out))
        write_text(out / "done", f"{time.perf_counter() - began:.0f} s\n")
    return f"{encoder} {seed}: {(out / 'done').read_text().strip()}"


def tried(study: Study) -> str:
    """Accuracy of the parent's recipe on the inner folds, under some settings."""
    path = study.work / "select" / f"{study.settings.name}.json"
    if not path.exists():
        pretrain_one(study, "pstl", 0)
        write_text(path, json.dumps(study.inner_accuracy(PSTL1, 0)) + "\n")
    return f"{study.settings.name}: {path.read_text().strip()}"


def select(work: Path, jobs: int) -> Settings:
    """The settings of the grid by coordinate descent: of each line the first within half a point of the best."""
    best = Settings()
    for line in GRID:
        candidates = [replace(best, **change) for change in line]
        in_turn([(tried, (Study(work, one),)) for one in candidates], jobs)
        scores = [_inner(work, one) for one in candidates]
        best = next(one for one, score in zip(candidates, scores, strict=True) if score >= max(scores) - TOLERANCE)
    print(f"chosen: {best}, inner accuracy {100 * _inner(work, best):.2f} %")
    return best


def _inner(work: Path, settings: Settings) -> float:
    found = json.loads((work / "select" / f"{settings.name}.json").read_text())
    return sum(found.values()) / len(found)


def in_turn(work: Iterable[Job], jobs: int) -> None:
    """Does the work in so many processes of one thread each, in its order; tells how long each took."""
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        began = time.perf_counter()
        futures = [pool.submit(function, *arguments) for function, arguments in work]
        for number, future in enumerate(as_completed(futures), start=1):
            print(f"[{number}/{len(futures)}, {time.perf_counter() - began:.0f} s] {future.result()}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The accuracy study of PROTOCOL.md.")
    parser.add_argument("stage", choices=["prepare", "select", "pretrain"])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the raw recordings")
    parser.add_argument("--work", type=Path, required=True, help="folder for stores, encoders and records")
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    given = parser.parse_args(arguments)
    prepare_stores(given.data, given.work)
    if given.stage == "select":
        select(given.work, given.jobs)
    elif given.stage == "pretrain":
        in_turn([(pretrain_one, (Study(given.work, Settings()), *one)) for one in pretrainings()], given.jobs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
