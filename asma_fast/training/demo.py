"""The pipeline at its small size: every stage on generated clips, or on those of a store, in minutes on two cores."""

from __future__ import annotations

from pathlib import Path

from asma_fast.training.configs import DemoConfig
from asma_fast.training.configs_run import PipelineConfig
from asma_fast.training.planning import planned, recipe_of
from asma_fast.training.run import RunResult, Tell, follow


def demo(config: DemoConfig, tell: Tell | None = None) -> RunResult:
    """Goes through the recipe ``demo``; checkpoints, records and ``report.html`` go to ``config.out``.

    As :func:`asma_fast.training.run`: what is done already, with the same options, is kept.

    Parameters
    ----------
    tell
        Called with a line of text when a stage begins and ends.

    Raises
    ------
    ValueError
        If the store is not there or has no such split; before anything runs.
    TrainingError
        If a stage failed, such as one that needs labels on a store without them.
    """
    pipeline = PipelineConfig(recipe=Path("demo"), out=config.out, seed=config.seed, progress=config.progress)
    recipe = recipe_of(pipeline)
    recipe.sections["pretrain"]["steps"] = config.steps
    if config.data is None:
        recipe.sections["prepare"] |= {"clips_per_class": config.clips_per_class, "seed": config.seed}
    else:
        del recipe.sections["prepare"], recipe.shared["split"]
        recipe.own["data"] = config.data
    if config.split is not None:
        recipe.shared["split"] = config.split
    return follow(*planned(recipe, pipeline), tell)
