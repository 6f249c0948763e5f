"""The whole method as one pipeline of stages, each done once: again where its options changed, or what it reads."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asma_fast._files import locked
from asma_fast.config import as_json
from asma_fast.data import Store
from asma_fast.training.checkpoint import write_text
from asma_fast.training.configs import RunConfig
from asma_fast.training.configs_run import PipelineConfig, ReportConfig
from asma_fast.training.dataset import stores_of
from asma_fast.training.launch import TrainingError
from asma_fast.training.planning import REPORT, in_full, plan_of
from asma_fast.training.run_report import StageLine, records_table, write_report
from asma_fast.training.stages import STAGES, Plan, Stage
from asma_fast.training.table import Table

# Options that do not decide what a stage makes, or name files whose content counts instead.
_FREE = {*RunConfig.__dataclass_fields__, "memory", "data", "run", "checkpoint", "align", "teacher", "calibration"} - {
    "seed",
    "precision",
}
_FREE_TO_PREPARE = {"out", "overwrite", "workers", "source", "labels", "exclude"}
Tell = Callable[[str], None]


@dataclass(frozen=True)
class RunResult:
    """What the pipeline did; prints as a table.

    Parameters
    ----------
    stages
        Stage → what became of it.
    records
        All of them, in the order of the table.
    table
        Of the records; None where there is none.
    report
        The page.
    """

    stages: dict[str, StageLine]
    records: list[Path]
    table: Table | None
    report: Path

    def __str__(self) -> str:
        lines = [str(line) for line in self.stages.values()]
        return "\n".join([*lines, *(["", str(self.table)] if self.table is not None else []), f"report: {self.report}"])


def run(config: PipelineConfig, tell: Tell | None = None) -> RunResult:
    """Goes through the stages that a recipe asks for, and writes ``report.html``; all in ``out``.

    A stage that is done, and whose options and inputs are the same, is kept; else it is done again, as is whatever
    reads what it then makes. What it had made before is moved to ``replaced``. A stage that was interrupted goes on.
    One that fails does not stop those that need nothing of it.

    Every option of every stage is written to ``config.yaml``, which is a recipe too, and of each stage to
    ``stages/STAGE.yaml``, which its verb takes as ``--config``.

    Parameters
    ----------
    tell
        Called with a line of text when a stage begins and ends.

    Raises
    ------
    ValueError
        If the recipe is not sound, or there is no store; before anything runs.
    TrainingError
        If a stage failed, once all others are done and the report is written; or another process is at work in ``out``.
    """
    return follow(*plan_of(config), tell)


def follow(plan: Plan, report: ReportConfig, tell: Tell | None = None) -> RunResult:
    """As :func:`run`, of a plan that is made already."""
    if "prepare" not in plan.configs:
        stores_of(plan.data)
    say: Tell = tell or (lambda line: None)

    def refusal(holder: str) -> TrainingError:
        return TrainingError(f"{plan.out}: another process is at work there ({holder}); wait for it, or choose another")

    with locked(plan.out / "lock", refusal):
        _write_configs(plan, report)
        _one_process(plan)
        stages: dict[str, _State] = {}
        for stage in STAGES:
            if stage.name in plan.configs:
                stages[stage.name] = _stage(plan, stage, stages, say)
        return _reported(plan, report, stages)


@dataclass
class _State:
    """Of a stage: as ``stages/STAGE.json`` has it, and what became of it now."""

    line: StageLine
    fingerprint: str = ""
    outputs: dict[str, str] = field(default_factory=dict)
    records: list[str] = field(default_factory=list)
    error: Exception | None = None


def _stage(plan: Plan, stage: Stage, before: Mapping[str, _State], say: Tell) -> _State:
    name, wiring = stage.name, plan.wirings[stage.name]
    needs = [*(["prepare"] if name != "prepare" and "prepare" in plan.configs else []), *wiring.needs]
    missing = [need for need in needs if before[need].line.outcome in ("failed", "not done")]
    if missing:
        return _State(StageLine(name, "not done", notes=(f"needs {', '.join(missing)}",)))
    began = time.perf_counter()
    try:
        inputs = _inputs(plan, stage, needs, before)
        fingerprint = _fingerprint(plan, stage, inputs)
        kept = _kept(plan, name, fingerprint)
        if kept is not None:
            say(str(kept.line))
            return kept
        _make_room(plan, name, fingerprint)
        _note(plan, name, {"fingerprint": fingerprint, "done": False})
        say(f"{name}: …")
        done = stage.run(plan.configs[name], plan)
    except (ValueError, OSError, RuntimeError) as error:
        failed = StageLine(name, "failed", time.perf_counter() - began, (" ".join(str(error).split()),))
        say(str(failed))
        return _State(failed, error=error)
    folder = plan.folder(name)
    state = _State(
        StageLine(name, "done", time.perf_counter() - began, done.notes),
        fingerprint,
        {path.name: _identity(path) for path in _files(folder)},
        [path.relative_to(folder).as_posix() for path in done.records],
    )
    told = {"outputs": state.outputs, "records": state.records, "inputs": inputs, "notes": list(done.notes)}
    seconds = round(state.line.seconds, 3)
    _note(plan, name, {"fingerprint": fingerprint, "done": True, **told, "seconds": seconds})
    say(str(state.line))
    return state


def _kept(plan: Plan, name: str, fingerprint: str) -> _State | None:
    """The stage as it was done before, if it was, and what it made is still there as it made it."""
    told = _noted(plan, name)
    if not told.get("done") or told.get("fingerprint") != fingerprint:
        return None
    folder = plan.folder(name)
    try:
        if any(_identity(folder / file) != identity for file, identity in told["outputs"].items()):
            return None
    except (ValueError, OSError):  # a damaged store, a file that is gone
        return None
    line = StageLine(name, "kept", told["seconds"], tuple(told["notes"]))
    return _State(line, fingerprint, told["outputs"], told["records"])


def _make_room(plan: Plan, name: str, fingerprint: str) -> None:
    """Moves what a stage made with other options or inputs out of its way; of an interrupted one nothing."""
    told, folder = _noted(plan, name), plan.folder(name)
    if not told or not folder.exists() or (told["fingerprint"] == fingerprint and not told["done"]):
        return
    aside = plan.out / "replaced" / f"{name}-{told['fingerprint'][:8]}"
    if aside.exists():
        shutil.rmtree(aside)
    aside.parent.mkdir(parents=True, exist_ok=True)
    os.replace(folder, aside)


def _note(plan: Plan, name: str, told: Mapping[str, Any]) -> None:
    write_text(plan.out / "stages" / f"{name}.json", json.dumps({"stage": name, **told}, indent=2) + "\n")


def _noted(plan: Plan, name: str) -> dict[str, Any]:
    """What is known of a stage from before; nothing where the file is damaged."""
    try:
        told = json.loads((plan.out / "stages" / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) and "fingerprint" in told else {}


def _inputs(plan: Plan, stage: Stage, needs: Iterable[str], before: Mapping[str, _State]) -> dict[str, str]:
    """What a stage reads → what it is."""
    if stage.name == "prepare":
        return _raw(plan.configs["prepare"])
    inputs = {}
    if "prepare" not in plan.configs:
        inputs["data"] = ",".join(store.fingerprint for store in stores_of(plan.data))
    for need in needs:
        made = {file: identity for file, identity in before[need].outputs.items() if file.endswith(".safetensors")}
        inputs |= {f"{need}/{file}": identity for file, identity in made.items()}
    return inputs | {str(path): _identity(path) for path in plan.wirings[stage.name].files}


def _raw(config: Any) -> dict[str, str]:
    """Raw files: where they are, how long, and when they were changed."""
    paths = [path for path in (config.source, config.labels, config.exclude) if path is not None]
    # A split may be a list of names, in a file.
    paths += [Path(word.partition(":")[2]) for word in (config.split or "").split(";") if "list:" in word]
    found = {}
    for path in paths:
        files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
        digest = hashlib.sha256()
        for file in files:
            state = file.stat()
            digest.update(f"{file.relative_to(path)} {state.st_size} {state.st_mtime_ns}\n".encode())
        found[str(path)] = digest.hexdigest()
    return found


def _fingerprint(plan: Plan, stage: Stage, inputs: Mapping[str, str]) -> str:
    free = _FREE_TO_PREPARE if stage.name == "prepare" else _FREE
    binding = {name: value for name, value in as_json(plan.configs[stage.name]).items() if name not in free}
    return hashlib.sha256(json.dumps([stage.name, binding, inputs], sort_keys=True).encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    """What a stage leaves to others."""
    return sorted(
        path for path in folder.iterdir() if path.suffix in (".safetensors", ".json", ".npz") and path.stem != "config"
    )


def _identity(path: Path) -> str:
    """What a file holds: a store's own fingerprint, else the SHA-256 of its bytes."""
    if path.name == "store.safetensors":
        return Store.open(path).fingerprint
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _write_configs(plan: Plan, report: ReportConfig) -> None:
    import yaml

    def write(path: Path, values: Mapping[str, Any]) -> None:
        write_text(path, yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True))

    write(plan.out / "config.yaml", in_full(plan, report))
    for name, config in plan.configs.items():
        write(plan.out / "stages" / f"{name}.yaml", as_json(config))


def _one_process(plan: Plan) -> None:
    shapes = [getattr(config, "devices", 1) * getattr(config, "nodes", 1) for config in plan.configs.values()]
    world = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
    if max([world, *shapes]) > 1:
        raise ValueError(
            f"the pipeline is one process, got {max([world, *shapes])}; train a stage in many by its verb, as in "
            f"`torchrun … pretrain --config {plan.out / 'stages' / 'pretrain.yaml'}`: the pipeline then takes it over"
        )


def _reported(plan: Plan, report: ReportConfig, stages: Mapping[str, _State]) -> RunResult:
    """The report, written where anything in it is new; the table; and the error, if any."""
    path = plan.out / "report.html"
    records = [plan.folder(name) / file for name, state in stages.items() for file in state.records]
    lines = {name: state.line for name, state in stages.items()}
    failed = {name: line for name, line in lines.items() if line.outcome == "failed"}
    made = [[name, state.fingerprint, state.outputs, failed.get(name) is not None] for name, state in stages.items()]
    fingerprint = hashlib.sha256(json.dumps([in_full(plan, report), made], sort_keys=True).encode()).hexdigest()
    table = records_table(plan, records)
    if not path.is_file() or _noted(plan, REPORT).get("fingerprint") != fingerprint or failed:
        write_report(path, report, plan, lines, records, table)
        _note(plan, REPORT, {"fingerprint": fingerprint, "done": True})
    if failed:
        told = "; ".join(f"stage {name} failed: {line.notes[0]}" for name, line in failed.items())
        rest = [name for name, line in lines.items() if line.outcome == "not done"]
        waiting = f"; not done for want of it: {', '.join(rest)}" if rest else ""
        first = stages[next(iter(failed))].error
        raise TrainingError(
            f"{told}{waiting}; the rest is kept, and the same command goes on from there ({path})"
        ) from first
    return RunResult(lines, records, table, path)
