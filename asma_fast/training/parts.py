"""The labelled training and test part of a split, prepared as the clips of the measured networks were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from asma_fast.data import Preprocessing, Store
from asma_fast.data.layout_maps import layouts_from
from asma_fast.training.configs import DataConfig
from asma_fast.training.configs_measure import Part
from asma_fast.training.dataset import Clips, load_clips, open_data, preprocessing_of, split_of, trained_rows
from asma_fast.training.records import check_labels

Records = Sequence[Mapping[str, Any]]
Config = TypeVar("Config", bound=DataConfig)


@dataclass(frozen=True)
class Parts(Generic[Config]):
    """Labelled clips.

    Parameters
    ----------
    store, split
        Where they come from.
    train, test
        Both parts, clips without a label left out.
    config
        That which names split, recipe, layout and stream.
    recipe, bodies
        How they were prepared.
    """

    store: Store
    split: str
    train: Clips
    test: Clips
    config: Config
    recipe: Preprocessing
    bodies: int

    def data(self) -> dict[str, Any]:
        """What a record says of the data."""
        return {
            "dataset": self.store.dataset,
            "fingerprint": self.store.fingerprint,
            "split": self.split,
            "protocol": self.config.protocol,
            "layout": self.config.layout,
        }


def labelled_parts(
    config: Config, store: Store, records: Records, run: object = "the run", *, foreign: bool = False
) -> Parts[Config]:
    """Both parts of a split.

    Parameters
    ----------
    store
        As :func:`~asma_fast.training.dataset.open_data` opens it; before checkpoints are read, so that a store that is
        not there is told first.
    records
        Of the checkpoints that are measured: clips are prepared as theirs were; and the split is by default theirs, on
        the store they were trained on.
    run
        Where they are, for messages.
    foreign
        The store may be of another data set: its clips are mapped into the networks' joint layout where it has
        another, and keep their own number of bodies, or ``config.bodies``.

    Raises
    ------
    ValueError
        If there are no labels, one class only, a part without clips, the options do not fit store and records, or no
        map leads to the networks' layout.
    """
    if (store.labels < 0).all():
        raise ValueError(f"{config.data}: the store has no labels; pretraining works without them, this does not")
    split = _split(config, store, records)
    config, recipe, bodies = _as_trained(replace(config, split=split), store, records, run, foreign)
    train, test = (_labelled(_made(config, store, rows, recipe), split) for rows in store.split(split))
    check_labels(train.labels.numpy(), test.labels.numpy(), store.classes)
    return Parts(store, split, train, test, config, recipe, bodies)


def any_clips(
    config: Config, records: Records, part: Part, run: object = "the run"
) -> tuple[Store, NDArray[np.str_], Clips]:
    """Clips of a store, labelled or not, in its order; and the part of the split that each is in, ``""`` for none.

    Parameters
    ----------
    records, run
        As of :func:`labelled_parts`.
    part
        ``"all"``: of the whole store, which then need not have a split.

    Raises
    ------
    ValueError
        If there are no clips, or the options do not fit store and records.
    """
    store = open_data(config)
    try:
        split = _split(config, store, records)
    except ValueError:
        if part != "all" or config.split is not None:
            raise
        split = None
    config, recipe, _ = _as_trained(replace(config, split=split), store, records, run)
    parts = np.full(len(store), "", dtype="<U5")
    for name, rows in zip(("train", "test"), store.split(split) if split is not None else (), strict=False):
        parts[rows] = name
    rows = np.arange(len(store)) if part == "all" else np.flatnonzero(parts == part)
    return store, parts[rows], _made(config, store, rows, recipe)


def seen_in_training(store: Store, records: Records, test: Clips) -> int | None:
    """How many test clips the networks were trained on; None where one was trained on another store."""
    rows = [places for record in records if (places := trained_rows(dict(record), store)) is not None]
    if len(rows) < len(records):
        return None
    return int(np.isin(test.ids.numpy(), np.concatenate([*rows, np.array([], np.int64)])).sum())


def budget_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of how long a checkpoint was trained."""
    return {key: record[key] for key in ("epoch", "epochs", "step", "config", "fingerprint")}


def _split(config: DataConfig, store: Store, records: Records) -> str:
    """The split asked for; else that of the run, if it was trained on this store; else the store's only one."""
    ran = {record["config"]["split"] for record in records if record.get("store") == store.fingerprint}
    if config.split is None and len(ran) == 1:
        return split_of(store, ran.pop())
    return split_of(store, config.split)


def _as_trained(
    config: Config, store: Store, records: Records, run: object, foreign: bool = False
) -> tuple[Config, Preprocessing, int]:
    """The config with all that decides how clips are prepared; recipe and bodies."""
    if records:
        layout = _layout_for(config, store, records[0], run) if foreign else config.layout
        config = _as_recorded(config, records[0], run)
        config = replace(config, layout=layout) if foreign else config
    recipe, bodies = _recipe(config, store, records, run, foreign)
    return replace(config, frames=recipe.frames or 0, bodies=bodies), recipe, bodies


def _made(config: DataConfig, store: Store, rows: NDArray[np.int64], recipe: Preprocessing) -> Clips:
    return load_clips(
        store, rows, recipe, config.bodies, layout=config.layout, stream=config.stream, memory=config.memory
    )


def _as_recorded(config: Config, record: Mapping[str, Any], run: object) -> Config:
    """The config with stream, layout and preprocessing of the networks' clips, where it names no others."""
    ran = record["config"]
    stream, layout = ran.get("stream", "joint"), config.layout or ran.get("layout")
    if config.stream not in ("joint", stream):
        raise ValueError(f"stream must be {stream}, as for the encoders in {run}; got {config.stream}")
    return replace(config, preprocessing=ran["preprocessing"], stream=stream, layout=layout)


def _layout_for(config: DataConfig, store: Store, record: Mapping[str, Any], run: object) -> str | None:
    """The networks' layout, where the store has another one that can be mapped to it."""
    own, wanted = store.skeleton, str(record["skeleton"]["name"])
    if config.layout not in (None, wanted):
        raise ValueError(f"layout must be {wanted}, as for the encoders in {run}; got {config.layout}")
    if own.name == wanted:
        return None
    ways = layouts_from(own.name)
    if wanted not in ways:
        both = sorted({own.name, *ways} & {wanted, *layouts_from(wanted)})
        raise ValueError(
            f"{store.path}: no map leads from its layout {own.name} to {wanted}, that of the encoders in {run}; from "
            f"{own.name} maps lead to {', '.join(ways) or 'none'}"
            + (f"; encoders pretrained with --layout {' or '.join(both)} would do" if both else "")
        )
    return wanted


def _recipe(
    config: DataConfig, store: Store, records: Records, run: object, foreign: bool = False
) -> tuple[Preprocessing, int]:
    """How clips are prepared, and how many bodies are kept: as the encoders' were, where there are any."""
    if not records:
        return preprocessing_of(config, store), config.bodies
    recipe = store.preprocessing or Preprocessing.from_dict(records[0]["preprocessing"])
    bodies = config.bodies or store.bodies if foreign else min(records[0]["bodies"], store.bodies)
    for option, asked, used in (("frames", config.frames, recipe.frames), ("bodies", config.bodies, bodies)):
        if asked not in (0, used):
            raise ValueError(f"{option} must be {used}, as for the encoders in {run}, or 0; got {asked}")
    return recipe, bodies


def _labelled(clips: Clips, split: str) -> Clips:
    known = clips.labels >= 0
    if not known.any():
        raise ValueError(f"split {split}: a part of it has no labels")
    return clips if known.all() else clips.take(known)
