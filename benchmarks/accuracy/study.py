"""``python benchmarks/accuracy/study.py STAGE --data FOLDER --work FOLDER``: the accuracy study of PROTOCOL.md.

Stages: ``prepare`` the stores, ``select`` the shared settings on inner folds, ``pretrain`` the encoders, ``measure``
every column, ``report``. Each does what is not done yet; the same command goes on where it was stopped. FOLDER of the
data holds the raw recordings, each set in the folder that ``design.py`` names.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from design import (
    ALIGN,
    COLUMNS,
    FINETUNE,
    FURTHER,
    GRID,
    PSTL1,
    PSTL2,
    SCRATCH1,
    SEEDS,
    SETS,
    SETTINGS,
    UNTRAINED,
    Column,
    Settings,
    pretrainings,
)
from measures import Study, inner_accuracy, measure
from results import page

from asma_fast.data import PrepareConfig, prepare
from asma_fast.training import pretrain
from asma_fast.training.checkpoint import write_text

Job = tuple[Callable[..., Any], tuple[Any, ...]]
TOLERANCE = 0.005  # of a setting that is cheaper than the best one


def prepare_stores(data: Path | None, work: Path) -> None:
    """Every store that is not there yet.

    Raises
    ------
    ValueError
        If one is not, and neither is the folder of the recordings.
    """
    for one in SETS.values():
        if not one.file(work).exists():
            if data is None:
                raise ValueError(f"{one.file(work)}: no such store; name the folder of the raw recordings with --data")
            one.file(work).parent.mkdir(parents=True, exist_ok=True)
            print(prepare(PrepareConfig(one.name, one.file(work), data / one.source)), flush=True)


def pretrain_one(study: Study, encoder: str, seed: int) -> str:
    """One encoder, from where its checkpoint left off."""
    out, began = study.encoder(encoder, seed), time.perf_counter()
    if not (out / "done").exists() and encoder == UNTRAINED:
        study.write_untrained(seed)
        write_text(out / "done", "calibrated\n")
    elif not (out / "done").exists():
        pretrain(study.settings.pretraining(encoder, seed, study.work, study.sets, out))
        write_text(out / "done", f"{time.perf_counter() - began:.0f} s\n")
    return f"{encoder} {seed} on {'+'.join(study.sets)}: {(out / 'done').read_text().strip()}"


# Whose accuracy on the inner folds decides: of a column other than ``linear``.
DECIDES = {"aligned": PSTL2, "scratch": SCRATCH1}


def tried(study: Study, column: str) -> str:
    """Accuracy of the parent's recipe on the inner folds, under some settings."""
    path = _inner_file(study, column)
    if not path.exists():
        write_text(path, json.dumps(inner_accuracy(study, column, DECIDES.get(column, PSTL1), 0)) + "\n")
    return f"{path.stem}: {path.read_text().strip()}"


def select(work: Path, jobs: int) -> Settings:
    """The settings of the grid, one line after the other: of each the first within half a point of its best."""
    best = Settings()
    for column, line in GRID:
        studies = [Study(work, replace(best, **change)) for change in line]
        wanted = {
            study.encoder(name, more): (study, name, more)
            for study in studies
            for name, more in DECIDES.get(column, PSTL1).encoders
        }
        in_turn([(pretrain_one, given) for given in wanted.values()], jobs)
        in_turn([(tried, (study, column)) for study in studies], jobs)
        scores = [_inner(study, column) for study in studies]
        best = next(
            study.settings for study, score in zip(studies, scores, strict=True) if score >= max(scores) - TOLERANCE
        )
    print(f"chosen: {best}")
    return best


def _inner_file(study: Study, column: str) -> Path:
    rates = {"aligned": "align_lr", "finetuned": "finetune_lr", "scratch": "scratch_lr"}
    rate = f"_{rates[column]}={getattr(study.settings, rates[column]):g}" if column in rates else ""
    budget = {"aligned": ALIGN, "finetuned": FINETUNE, "scratch": FINETUNE}.get(column)
    told = f"_{zlib.crc32(json.dumps(budget).encode()):08x}" if budget else ""
    return study.work / "select" / f"{column}{rate}{told}_{study.settings.name}.json"


def _inner(study: Study, column: str) -> float:
    found: dict[str, float] = json.loads(_inner_file(study, column).read_text())
    return sum(found.values()) / len(found)


def in_turn(work: Iterable[Job], jobs: int) -> None:
    """Does the work in so many processes of one thread each, in its order; tells how long each took.

    Raises
    ------
    RuntimeError
        If some of it failed, once the rest is done.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    began, failed = time.perf_counter(), 0
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = [pool.submit(function, *arguments) for function, arguments in work]
        for number, future in enumerate(as_completed(futures), start=1):
            error = future.exception()
            failed += error is not None
            told = future.result() if error is None else f"failed: {error}"
            print(f"[{number}/{len(futures)}, {time.perf_counter() - began:.0f} s] {told}", flush=True)
    if failed:
        raise RuntimeError(f"{failed} of {len(futures)} jobs failed; the same command does them again")


def measured(study: Study, columns: Sequence[Column], jobs: int) -> None:
    """What of the columns has all its encoders, one after the other."""
    for column in columns:
        work: list[Job] = []
        of_rows = ((seed, row) for seed in SEEDS for row in column.rows if seed in row.seeds)
        for (seed, row), dataset in itertools.product(of_rows, column.sets):
            own = study.transferred_to(dataset) if column.name == "transfer" else study
            if all((folder / "done").exists() for folder in own.folders(row, seed)):
                work.append((measure, (own, column.name, row, seed, dataset)))
        in_turn(work, jobs)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The accuracy study of PROTOCOL.md.")
    parser.add_argument("stage", choices=["prepare", "select", "pretrain", "measure", "report"])
    parser.add_argument("--columns", nargs="+", choices=[column.name for column in COLUMNS], help="measure: only these")
    parser.add_argument(
        "--data", type=Path, help="folder of the raw recordings; stores that are there already do without"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for stores, encoders and records")
    parser.add_argument(
        "--page", type=Path, default=Path(__file__).with_name("RESULTS.md"), help="report: its tables from ## Claims on"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    given = parser.parse_args(arguments)
    try:
        return _stage(given)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"study: {error}", file=sys.stderr)
        return 1


def _stage(given: argparse.Namespace) -> int:
    prepare_stores(given.data, given.work)
    study = Study(given.work, SETTINGS)
    if given.stage == "select":
        select(given.work, given.jobs)
    elif given.stage == "pretrain":
        in_turn([(pretrain_one, (replace(study, sets=sets), *one)) for sets, *one in pretrainings()], given.jobs)
    elif given.stage == "report":
        kept = given.page.read_text(encoding="utf-8").partition("## Claims")[0] if given.page.exists() else ""
        write_text(given.page, kept + page(study))
    elif given.stage == "measure":
        asked = [column for column in (*COLUMNS, *FURTHER) if not given.columns or column.name in given.columns]
        measured(study, asked, given.jobs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
