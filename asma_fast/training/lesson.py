"""What a student is taught on and measured on: a store's clips, with their labels or without."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from asma_fast.training.configs_distill import DistillConfig
from asma_fast.training.dataset import load_clips, open_data
from asma_fast.training.parts import Parts, _as_recorded, _recipe, _split, labelled_parts
from asma_fast.training.teachers import Teachers


@dataclass(frozen=True)
class Lesson:
    """What a student is taught on and measured on.

    Parameters
    ----------
    parts
        Clips as the student reads them. Label-free, the training part has clips without labels too.
    labelled
        Whether the test part has labels of the teacher's classes.
    held_out
        Whether the test part is another than the training part.
    """

    parts: Parts[DistillConfig]
    labelled: bool = True
    held_out: bool = True


def lesson_of(config: DistillConfig, teachers: Teachers) -> Lesson:
    """The clips that the student is taught on.

    Raises
    ------
    ValueError
        As :func:`distill`.
    """
    # Prepared as the teachers' clips were, but for the stream.
    records = [
        {**member.record, "config": {**member.record["config"], "stream": config.stream}} for member in teachers.members
    ]
    where = ", ".join(str(member.path) for member in teachers.members)
    if config.label_free:
        return _without_labels(config, teachers, records, where)
    store = open_data(config)
    if (store.labels < 0).all():
        raise ValueError(
            f"{config.data}: the store has no labels, and alpha={config.alpha:g} asks for them; --alpha 1 distils "
            "without, on the teacher's word alone"
        )
    parts = labelled_parts(config, store, records, where)
    if parts.store.classes != teachers.classes:
        raise ValueError(
            f"{config.data}: its classes are not the teacher's ({len(parts.store.classes)} and "
            f"{len(teachers.classes)}, or of other names); --alpha 1 distils without labels"
        )
    return Lesson(parts)


def _without_labels(config: DistillConfig, teachers: Teachers, records: list[dict[str, Any]], where: str) -> Lesson:
    """All clips of the training part. What is measured: test clips with a label; else all; else those of training."""
    store = open_data(config)
    split = _split(config, store, records) if store.splits or config.split is not None else None
    recipe, bodies = _recipe(config, store, records, where)
    config = replace(_as_recorded(config, records[0], where), split=split, frames=recipe.frames or 0, bodies=bodies)
    made: dict[str, Any] = {"layout": config.layout, "stream": config.stream, "memory": config.memory}
    rows, others = (np.arange(len(store)), np.array([], np.int64)) if split is None else store.split(split)
    train = load_clips(store, rows, recipe, bodies, **made)
    labelled = store.classes == teachers.classes and bool((store.labels[others] >= 0).any())
    if labelled:
        others = others[store.labels[others] >= 0]
    if store.classes != teachers.classes:  # its labels count other classes
        train = replace(train, labels=torch.full_like(train.labels, -1))
    test = load_clips(store, others, recipe, bodies, **made) if len(others) else train
    if not labelled:
        test = replace(test, labels=torch.full_like(test.labels, -1))
    parts = Parts(store, split or "", train, test, config, recipe, bodies)
    return Lesson(parts, labelled, held_out=bool(len(others)))
