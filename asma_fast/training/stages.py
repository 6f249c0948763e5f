"""The stages of the pipeline: a table, one entry each, of the verb behind it and of what it reads from those before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from asma_fast.config import Presets
from asma_fast.data import PrepareConfig, prepare
from asma_fast.edge.configs import ExportConfig
from asma_fast.edge.verbs import export_checkpoint
from asma_fast.training.align import NAME as ALIGNED
from asma_fast.training.align import align
from asma_fast.training.configs import PRETRAIN_PRESETS, PROBE_PRESETS, PretrainConfig, ProbeConfig
from asma_fast.training.configs_distill import DistillConfig
from asma_fast.training.configs_measure import RobustConfig
from asma_fast.training.configs_supervised import AlignConfig, FinetuneConfig, SemiConfig
from asma_fast.training.distill import NAME as STUDENT
from asma_fast.training.distill import distill
from asma_fast.training.finetune import finetune
from asma_fast.training.pretrain import pretrain
from asma_fast.training.probe import probe
from asma_fast.training.robust import robust
from asma_fast.training.semi import semi

Section = Mapping[str, Any]


@dataclass(frozen=True)
class Done:
    """What a stage made.

    Parameters
    ----------
    records
        In the order of the table.
    notes
        What its reader ought to know.
    """

    records: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wiring:
    """How a stage hangs together with those before it.

    Parameters
    ----------
    values
        Options that the pipeline sets; a section may not.
    needs
        Stages whose checkpoints it reads.
    under
        Options where the section leaves them out.
    over
        Options that stand in the section, as the verb takes them.
    files
        Other files that it reads.
    """

    values: dict[str, Any]
    needs: tuple[str, ...] = ()
    under: dict[str, Any] = field(default_factory=dict)
    over: dict[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()


@dataclass
class Plan:
    """What is to be done.

    Parameters
    ----------
    out
        Folder of all.
    data
        The store; that of the stage ``prepare``, where there is one.
    configs, wirings
        Stage → its config and its wiring, in order; only of stages that are asked for.
    """

    out: Path
    data: Path
    configs: dict[str, Any] = field(default_factory=dict)
    wirings: dict[str, Wiring] = field(default_factory=dict)

    def folder(self, stage: str) -> Path:
        """Of a stage."""
        return self.out / stage

    def require(self, stage: str, *others: str) -> None:
        """Stages are asked for.

        Raises
        ------
        ValueError
            If one is not.
        """
        for other in others:
            if other not in self.configs:
                raise ValueError(f"{stage} needs the stage {other}: add a section {other}")

    def network(self, stage: str) -> Path:
        """Checkpoint of the one network that a stage trains with labels.

        Raises
        ------
        ValueError
            If it trains several.
        """
        if stage == "align":
            return self.folder(stage) / f"{ALIGNED}.safetensors"
        if stage == "distill":
            return self.folder(stage) / f"{STUDENT}.safetensors"
        config = self.configs[stage]
        names = (ALIGNED,) if config.align is not None else config.encoders or self.configs["pretrain"].encoders
        if len(names) > 1:
            raise ValueError(
                f"{stage} trains {len(names)} networks, {', '.join(names)}; with a section align they become one"
            )
        return self.folder(stage) / f"{'scratch-' if config.from_ == 'scratch' else ''}{names[0]}.safetensors"


@dataclass(frozen=True)
class Stage:
    """One stage.

    Parameters
    ----------
    name
        Of the stage and of its folder.
    config
        Its options: those of the section.
    wire
        What the pipeline sets; None where the stage has nothing to do.
    run
        Does the work.
    section
        Whose options are taken, where it is another's.
    base
        Section that the own one starts from.
    presets
        That the section may name.
    """

    name: str
    config: type[Any]
    wire: Callable[[Plan, Section], Wiring | None]
    run: Callable[[Any, Plan], Done]
    section: str = ""
    base: str = ""
    presets: Presets = field(default_factory=dict)

    @property
    def options(self) -> str:
        """The section that it reads."""
        return self.section or self.name


def _wire_prepare(plan: Plan, section: Section) -> Wiring:
    # A store that was whole before the stage was told to be done is written again.
    return Wiring({"out": plan.data, "overwrite": True})


def _prepare(config: PrepareConfig, plan: Plan) -> Done:
    report = prepare(config)
    told = tuple(failure.reason for failure in report.failures)
    if report.out is None:
        raise ValueError(f"{config.source}: no file could be read; the first: {told[0] if told else 'there is none'}")
    lost = (f"{len(told)} files could not be read: {'; '.join(told[:5])}{' …' if len(told) > 5 else ''}",)
    return Done(notes=lost if told else ())


def _wire_pretrain(name: str) -> Callable[[Plan, Section], Wiring]:
    def wire(plan: Plan, section: Section) -> Wiring:
        values = {"data": plan.data, "out": plan.folder(name), "dry_run": False, "stop_after": 0}
        if name == "pretrain":
            return Wiring(values)
        plan.require(name, "pretrain")
        return Wiring(values, under={"encoders": ("high-high",), "last": "zero"})

    return wire


def _pretrain(config: PretrainConfig, plan: Plan) -> Done:
    pretrain(config)
    return Done()


def _wire_probe(name: str, of: str) -> Callable[[Plan, Section], Wiring | None]:
    def wire(plan: Plan, section: Section) -> Wiring | None:
        if of != "pretrain" and of not in plan.configs:
            return None
        plan.require(name, of)
        values = {"data": plan.data, "run": plan.folder(of), "out": plan.folder(name) / "probe.json"}
        return Wiring({**values, "encoders": (), "checkpoint": None, "features": "encoder", "name": ""}, needs=(of,))

    return wire


def _probe(config: ProbeConfig, plan: Plan) -> Done:
    """The coordinates, the untrained network, each encoder, and all of them joined; of the baseline only the last."""
    folder = config.out.parent
    if folder.name != "probe":
        name = _masking(plan, f" {config.method}")
        probe(replace(config, name=name))
        return Done((config.out,))
    encoders = plan.configs["pretrain"].encoders
    rows: dict[str, dict[str, Any]] = {"raw": {"features": "raw"}, "random": {"features": "random"}}
    rows |= {encoder: {"encoders": (encoder,)} for encoder in encoders}
    if len(encoders) > 1:
        rows["+".join(encoders)] = {"encoders": encoders}
    files = [folder / f"{row}.json" for row in rows]
    for file, options in zip(files, rows.values(), strict=True):
        probe(replace(config, out=file, **options))
    return Done(tuple(files))


def _masking(plan: Plan, after: str = "") -> str:
    """What the baseline is called."""
    encoders = plan.configs["baseline"].encoders
    return f"{'PSTL masking' if encoders == ('high-high',) else '+'.join(encoders)}{after}"


def _wire_align(plan: Plan, section: Section) -> Wiring:
    plan.require("align", "pretrain")
    values = {"data": plan.data, "run": plan.folder("pretrain"), "out": plan.folder("align"), "stop_after": 0}
    return Wiring(values, needs=("pretrain",), under={"encoders": plan.configs["pretrain"].encoders})


def _wire_labelled(name: str, **under: Any) -> Callable[[Plan, Section], Wiring]:
    """Fine-tuning and its kin: of both encoders under their alignment, or of each where there is none."""

    def wire(plan: Plan, section: Section) -> Wiring:
        plan.require(name, "pretrain")
        values = {"data": plan.data, "run": plan.folder("pretrain"), "out": plan.folder(name), "stop_after": 0}
        if "align" in plan.configs:
            joined = {"align": plan.network("align"), "encoders": ()}
            return Wiring({**values, **joined}, needs=("align",), under=under)
        return Wiring({**values, "align": None}, needs=("pretrain",), under=under)

    return wire


def _recorded(verb: Callable[[Any], Any]) -> Callable[[Any, Plan], Done]:
    """Runs a verb whose result has files of records."""
    return lambda config, plan: Done(tuple(verb(config).files.values()))


TEACHERS = ("align", "finetune", "scratch")


def _wire_distill(plan: Plan, section: Section) -> Wiring:
    named = section.get("teacher") or next((stage for stage in TEACHERS[:2] if stage in plan.configs), "align")
    words = [str(word) for word in (named.split(",") if isinstance(named, str) else named)]
    needs = tuple(word for word in words if word in TEACHERS)
    plan.require("distill", *needs)
    paths = [plan.network(word) if word in TEACHERS else Path(word) for word in words]
    values = {"data": plan.data, "out": plan.folder("distill"), "stop_after": 0}
    files = tuple(path for path, word in zip(paths, words, strict=True) if word not in TEACHERS)
    return Wiring(values, needs=needs, over={"teacher": tuple(paths)}, files=files)


def _wire_export(plan: Plan, section: Section) -> Wiring:
    plan.require("export", "distill")
    values: dict[str, Any] = {"checkpoint": plan.network("distill"), "out": plan.folder("export") / "model.safetensors"}
    # Of the file: one that stands outside of the section is training's.
    precision = section.get("precision", ExportConfig.precision)
    values["calibration"] = plan.data if precision == "int8" else None
    return Wiring(values, needs=("distill",), over={"precision": precision})


def _export(config: ExportConfig, plan: Plan) -> Done:
    config.out.parent.mkdir(parents=True, exist_ok=True)
    export_checkpoint(config)
    return Done()


def _wire_robust(name: str, of: str) -> Callable[[Plan, Section], Wiring | None]:
    def wire(plan: Plan, section: Section) -> Wiring | None:
        if of not in plan.configs:
            if of == "pretrain":
                plan.require(name, of)
            return None
        run = of in ("pretrain", "baseline")
        if not run and of != "distill" and "align" not in plan.configs:
            return None
        labels = {
            "pretrain": "+".join(plan.configs["pretrain"].encoders),
            "baseline": _masking(plan) if of == "baseline" else "",
            "align": "aligned",
            "finetune": "fine-tuned",
            "distill": "student",
        }
        values = {
            "data": plan.data,
            "run": plan.folder(of if run else "pretrain"),
            "checkpoint": None if run else plan.network(of),
            "encoders": (),
            "features": "encoder",
            "name": labels[of],
            "out": plan.folder(name) / "robust.json",
        }
        return Wiring(values, needs=(of,))

    return wire


def _robust(config: RobustConfig, plan: Plan) -> Done:
    robust(config)
    return Done((config.out,))


def _robust_stage(of: str) -> Stage:
    name = "robust" if of == "pretrain" else f"robust-{of}"
    return Stage(name, RobustConfig, _wire_robust(name, of), _robust, section="robust", presets=PROBE_PRESETS)


STAGES = (
    Stage("prepare", PrepareConfig, _wire_prepare, _prepare),
    Stage("pretrain", PretrainConfig, _wire_pretrain("pretrain"), _pretrain, presets=PRETRAIN_PRESETS),
    Stage("baseline", PretrainConfig, _wire_pretrain("baseline"), _pretrain, base="pretrain", presets=PRETRAIN_PRESETS),
    Stage("probe", ProbeConfig, _wire_probe("probe", "pretrain"), _probe, presets=PROBE_PRESETS),
    Stage(
        "probe-baseline",
        ProbeConfig,
        _wire_probe("probe-baseline", "baseline"),
        _probe,
        section="probe",
        presets=PROBE_PRESETS,
    ),
    Stage("align", AlignConfig, _wire_align, _recorded(align)),
    Stage("finetune", FinetuneConfig, _wire_labelled("finetune"), _recorded(finetune)),
    Stage("scratch", FinetuneConfig, _wire_labelled("scratch", from_="scratch"), _recorded(finetune), base="finetune"),
    Stage("semi", SemiConfig, _wire_labelled("semi"), _recorded(semi)),
    Stage("distill", DistillConfig, _wire_distill, _recorded(distill)),
    Stage("export", ExportConfig, _wire_export, _export),
    *(_robust_stage(of) for of in ("pretrain", "baseline", "align", "finetune", "distill")),
)
