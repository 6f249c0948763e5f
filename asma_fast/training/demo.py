"""The pipeline at its small size: every stage on generated clips, or on those of a store, in minutes on two cores."""

from __future__ import annotations

from asma_fast.training.configs import DemoConfig
from asma_fast.training.configs_run import RECIPES, PipelineConfig
from asma_fast.training.dataset import open_store, split_of
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
        If the store is not there, has no such split, or no labels; before anything runs.
    TrainingError
        If a stage failed.

    Notes
    -----
    Noise acts on recorded frames: of a store whose clips were preprocessed, that stage is left out.
    """
    pipeline = PipelineConfig(recipe=RECIPES["demo"], out=config.out, seed=config.seed, progress=config.progress)
    recipe = recipe_of(pipeline)
    recipe.sections["pretrain"]["steps"] = config.steps
    if config.data is None:
        recipe.sections["prepare"] |= {"clips_per_class": config.clips_per_class, "seed": config.seed}
        if config.split is not None:
            recipe.shared["split"] = config.split
    else:
        store = open_store(config.data)
        del recipe.sections["prepare"]
        recipe.own["data"], recipe.shared["split"] = config.data, split_of(store, config.split)
        if (store.labels < 0).all():
            raise ValueError(f"{config.data}: the store has no labels; `asma-fast pretrain` works without them")
        if store.preprocessing is not None:
            del recipe.sections["robust"]
    return follow(*planned(recipe, pipeline), tell)
