"""From a recipe to a plan: every stage's config, built and checked before anything runs."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from asma_fast.config import as_json, build, read_yaml
from asma_fast.training.configs_run import RECIPES, PipelineConfig, ReportConfig
from asma_fast.training.stages import STAGES, Plan, Stage

REPORT = "report"
SECTIONS = tuple(dict.fromkeys([*(stage.options for stage in STAGES), REPORT]))
_OWN = ("out", "seed", "data")  # of the recipe itself
# That the pipeline sets in every stage which has them.
_SET = ("run", "checkpoint", "features", "dry_run", "stop_after", "progress")


@dataclass(frozen=True)
class Recipe:
    """A recipe, read.

    Parameters
    ----------
    where
        For messages.
    own
        ``out``, ``seed`` and ``data``.
    shared
        Options that every stage which has them takes, ``prepare`` apart.
    sections
        Stage → its options.
    """

    where: str
    own: dict[str, Any]
    shared: dict[str, Any]
    sections: dict[str, dict[str, Any]]


def plan_of(config: PipelineConfig) -> tuple[Plan, ReportConfig]:
    """What a config's recipe asks for.

    Raises
    ------
    ValueError
        If there is no such recipe, a section or option is unknown (the nearest is named), a value does not fit, or a
        stage needs another one that is not there.
    """
    return planned(recipe_of(config), config)


def planned(recipe: Recipe, config: PipelineConfig) -> tuple[Plan, ReportConfig]:
    """What a recipe asks for that is read already; errors as of :func:`plan_of`."""
    seed = config.seed if config.seed is not None else recipe.own.get("seed", 0)
    shared = {**recipe.shared, "seed": seed, "progress": config.progress}
    out = config.out if config.out is not None else Path(str(recipe.own.get("out", "asma-run")))
    plan = Plan(out, _data(config, recipe, out))
    with _told(recipe.where):
        if not any(stage.options in recipe.sections for stage in STAGES):
            raise ValueError(f"there must be a section of a stage at least: {', '.join(SECTIONS)}")
    for stage in STAGES:
        if stage.options in recipe.sections:
            _add(plan, stage, recipe, shared)
    report = _built(
        ReportConfig, f"{recipe.where}: section {REPORT}", [{"seed": seed}, recipe.sections.get(REPORT, {})]
    )
    return plan, report


def recipe_of(config: PipelineConfig) -> Recipe:
    """A recipe's sections, and what stands outside of them; what is unknown is told."""
    if config.recipe is None:
        raise ValueError(
            f"name a recipe: a YAML file whose sections are the stages, or one that comes along ({', '.join(RECIPES)})"
        )
    path = config.recipe
    if not path.is_file() and path.suffix not in (".yaml", ".yml"):
        if path.name not in RECIPES:
            near = difflib.get_close_matches(path.name, RECIPES, n=1, cutoff=0.0)
            raise ValueError(f"{path}: no such recipe; the nearest that comes along is {near[0]!r}")
        path = RECIPES[path.name]
    recipe = Recipe(str(path), {}, {}, {})
    for key, value in read_yaml(path).items():
        if key in SECTIONS:
            section = _section(recipe.where, key, value)
            if section is not None:
                recipe.sections[key] = section
        elif key in _OWN:
            recipe.own[key] = value
        else:
            recipe.shared[_option(recipe.where, str(key), value)] = value
    if config.source is not None:
        if "prepare" not in recipe.sections:
            raise ValueError(f"{path}: has no section prepare, so there is no use for a source, got {config.source}")
        recipe.sections["prepare"]["source"] = config.source
    return recipe


def _section(where: str, name: str, value: Any) -> dict[str, Any] | None:
    """Its options; None where it is switched off."""
    if value is None or value is True:
        return {}
    if value is False:
        return None
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: section {name} must hold a mapping of options, or true or false; got {value!r}")
    return {str(option): given for option, given in value.items()}


def _option(where: str, name: str, value: Any) -> str:
    """An option that is shared, as the fields are called."""
    known = {item.name for stage in STAGES[1:] for item in fields(stage.config)}
    field = name.replace("-", "_")
    if field in _SET:
        raise ValueError(f"{where}: option {name} is set by the pipeline; leave it out")
    if field in known and not isinstance(value, Mapping):
        return field
    if isinstance(value, Mapping):
        near = difflib.get_close_matches(name, SECTIONS, n=1, cutoff=0.0)
        raise ValueError(f"{where}: there is no section {name!r}; the nearest is {near[0]!r}")
    near = difflib.get_close_matches(name, [*SECTIONS, *_OWN, *sorted(known)], n=1, cutoff=0.0)
    raise ValueError(f"{where}: there is no section or option {name!r}; the nearest is {near[0]!r}")


def _data(config: PipelineConfig, recipe: Recipe, out: Path) -> Path:
    """The store that all stages read."""
    data = recipe.own.get("data")
    if "prepare" in recipe.sections:
        if data is not None:
            raise ValueError(f"{recipe.where}: data must be left out where prepare makes the store, got {data}")
        return out / "prepare" / "store.safetensors"
    if data is None:
        raise ValueError(f"{recipe.where}: add a section prepare, or name a store as data")
    return Path(str(data))


def _add(plan: Plan, stage: Stage, recipe: Recipe, shared: Mapping[str, Any]) -> None:
    where = f"{recipe.where}: section {stage.options}"
    section = dict(recipe.sections[stage.options])
    with _told(where):
        wiring = stage.wire(plan, section)
        if wiring is None:
            return
        for name in section:
            if name.replace("-", "_") in wiring.values:
                raise ValueError(f"option {name} is set by the pipeline; leave it out")
    own = {item.name for item in fields(stage.config)}
    taken = set() if stage.name == "prepare" else own - {*wiring.over}
    common = {name: value for name, value in shared.items() if name in taken}
    base = recipe.sections.get(stage.base, {})
    layers = [
        _preset(stage, base, where),
        common if stage.base else {},
        _without_preset(base),
        wiring.under,
        _preset(stage, section, where),
        {} if stage.base else common,
        _without_preset(section),
        wiring.over,
        wiring.values,
    ]
    plan.configs[stage.name] = _built(stage.config, where, layers)
    plan.wirings[stage.name] = wiring


def _built(kind: type[Any], where: str, layers: list[Mapping[str, Any]]) -> Any:
    with _told(where):
        return build(kind, *((where, layer) for layer in layers))


def _preset(stage: Stage, section: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    name = section.get("preset")
    if name is None:
        return {}
    if not stage.presets:
        raise ValueError(f"{where}: there are no presets for it, got {name!r}")
    if name not in stage.presets:
        near = difflib.get_close_matches(str(name), stage.presets, n=1, cutoff=0.0)
        raise ValueError(f"{where}: there is no preset {name!r}; the nearest is {near[0]!r}")
    return stage.presets[name]


def _without_preset(section: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in section.items() if name != "preset"}


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Says where a ValueError comes from."""
    try:
        yield
    except ValueError as error:
        if str(error).startswith(where):
            raise
        raise ValueError(f"{where}: {error}") from error


def in_full(plan: Plan, report: ReportConfig) -> dict[str, Any]:
    """A recipe with every option of every stage, which makes the same plan."""
    told: dict[str, Any] = {"out": str(plan.out)}
    if "prepare" not in plan.configs:
        told["data"] = str(plan.data)
    for stage, config in _sections(plan):
        wired = {*plan.wirings[stage.name].values, "progress"}
        told[stage.name] = {name: value for name, value in as_json(config).items() if name not in wired}
    if "distill" in told:
        told["distill"]["teacher"] = _words(plan)
    return {**told, REPORT: as_json(report)}


def _words(plan: Plan) -> list[str]:
    """Teachers, those of the plan by their stages."""
    stages = {plan.network(name): name for name in plan.wirings["distill"].needs}
    return [stages.get(path, str(path)) for path in plan.configs["distill"].teacher]


def _sections(plan: Plan) -> Iterator[tuple[Stage, Any]]:
    """Stages whose options are a section's of their own name."""
    for stage in STAGES:
        if stage.name in plan.configs and stage.name == stage.options:
            yield stage, plan.configs[stage.name]
