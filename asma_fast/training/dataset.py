"""Clips of stores, in memory or made batch by batch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch

from asma_fast.data import Preprocessing, Store
from asma_fast.skeleton import Skeleton
from asma_fast.training.checkpoint import tensor_digest
from asma_fast.training.configs import DataConfig, Stream
from asma_fast.training.making import ClipMaker, StoredClips, clip_ids, preprocessing_of
from asma_fast.training.protocols import PROTOCOLS

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Batch",
    "Clips",
    "check_protocol",
    "load_clips",
    "open_data",
    "open_store",
    "preprocessing_of",
    "split_of",
    "splits_of",
    "stores_of",
    "trained_rows",
    "training_clips",
]

HELD_BYTES = 2_000_000_000  # of clips that memory="auto" holds
_AT_ONCE = 256
NO_CLIPS = "no clips: the split is empty"


class Batch(NamedTuple):
    """Some clips, as a training step or an evaluation takes them; Fabric moves all of it to a device.

    Parameters
    ----------
    x
        ``(N, C, T, V, M)`` float32, channels last in memory.
    labels, ids
        ``(N,)`` int64, as in :class:`Clips`.
    """

    x: torch.Tensor
    labels: torch.Tensor
    ids: torch.Tensor


@dataclass(frozen=True, eq=False)
class Clips:
    """Preprocessed clips, in memory or in a store.

    Parameters
    ----------
    x
        ``(N, C, T, V, M)`` float32, channels last in memory. Of clips that are made batch by batch, a tensor on torch's
        ``meta`` device: a shape without numbers. What :meth:`batch` gives is there either way.
    labels
        ``(N,)`` int64, −1 where unknown.
    ids
        ``(N,)`` int64: the clips' places in the store, the n-th of several stores counting from n·2³²; they key
        everything random.
    skeleton, preprocessing
        Joint layout, and what was applied to the recorded frames.
    classes
        Names of the labels; none where stores with different ones are joined.
    sided
        Whether classes tell left from right.
    store
        Fingerprint of the store they come from, several with commas between; empty if from none.
    stream
        What the numbers are: joints, motion or bones.
    source
        Where clips that are not in memory are made.
    origin
        All that decides what ``x`` is, as text; empty for clips that come from no store, or were changed.
    """

    x: torch.Tensor
    labels: torch.Tensor
    ids: torch.Tensor
    skeleton: Skeleton
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    sided: bool = False
    store: str = ""
    stream: Stream = "joint"
    source: StoredClips | None = None
    origin: str = ""

    def __len__(self) -> int:
        return len(self.x)

    @property
    def in_memory(self) -> bool:
        """Whether ``x`` holds numbers."""
        return not self.x.is_meta

    @property
    def anew(self) -> bool:
        """Whether they are drawn anew at each step, of which the rows then tell."""
        return False

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what decides the clips, ids included; of clips that come from no store, of the clips themselves.

        Equal whether they are in memory or not.
        """
        if not self.origin:
            return tensor_digest(self.ids, self.x.permute(0, 4, 2, 3, 1))
        return hashlib.sha256(f"{self.origin}{tensor_digest(self.ids)}".encode()).hexdigest()

    def batch(self, rows: Sequence[int] | slice | torch.Tensor) -> Batch:
        """The clips of those rows.

        Raises
        ------
        ValueError
            If one that is made now cannot be made; its name is told.
        """
        ids = self.ids[rows]
        if self.in_memory:
            return Batch(self.x[rows], self.labels[rows], ids)
        if self.source is None:
            raise ValueError("clips must hold numbers, or have a source; got neither")
        return Batch(self.source(ids.numpy()), self.labels[rows], ids)

    def batches(self, size: int) -> Iterator[Batch]:
        """All clips in order, ``size`` at a time; the last batch may be smaller."""
        return (self.batch(slice(start, start + size)) for start in range(0, len(self), size))

    def held(self) -> Clips:
        """The same clips in memory."""
        if self.in_memory:
            return self
        x = torch.empty(self.x.permute(0, 4, 2, 3, 1).shape).permute(0, 4, 2, 3, 1)
        for start, batch in zip(range(0, len(self), _AT_ONCE), self.batches(_AT_ONCE), strict=True):
            x[start : start + _AT_ONCE] = batch.x
        return replace(self, x=x)

    def take(self, rows: torch.Tensor) -> Clips:
        """Some of the clips."""
        return replace(self, x=self.x[rows], labels=self.labels[rows], ids=self.ids[rows])


def open_store(path: Path | None) -> Store:
    """The store at ``path``.

    Raises
    ------
    ValueError
        If there is none; the store's own errors if it is truncated or altered.
    """
    if path is None:
        raise ValueError("no data: name a store with --data; `asma-fast prepare` writes one")
    if not path.exists():
        raise ValueError(f"{path}: no such store; `asma-fast prepare` writes one")
    return Store.open(path)


def open_data(config: DataConfig) -> Store:
    """The one store of a config.

    Raises
    ------
    ValueError
        As :func:`open_store`, or if it has not the config's protocol.
    """
    store = open_store(config.data)
    check_protocol(config, (store,))
    return store


def check_protocol(config: DataConfig, stores: Sequence[Store]) -> None:
    """The stores have the protocol that a config names, if any.

    Raises
    ------
    ValueError
        Telling what differs.
    """
    if config.protocol is None:
        return
    if len(stores) > 1:
        raise ValueError(f"protocol {config.protocol} is one store's, got {len(stores)} stores")
    PROTOCOLS[config.protocol].check(config.protocol, stores[0])


def split_of(store: Store, name: str | None) -> str:
    """The protocol to use: the one named, or the store's only one.

    Raises
    ------
    ValueError
        If the store has no such protocol, or several and none was named.
    """
    known = store.splits
    if name is None:
        if len(known) == 1:
            return known[0]
        raise ValueError(f"name one of the store's splits with --split: {', '.join(known) or 'it has none'}")
    if name not in known:
        raise ValueError(f"split must be one of {', '.join(known) or '(none: the store has no splits)'}; got {name!r}")
    return name


def stores_of(path: Path | None) -> tuple[Store, ...]:
    """The stores that ``--data`` names, with commas between.

    Raises
    ------
    ValueError
        If one is not there, or is named twice.
    """
    if path is None or path.exists():
        return (open_store(path),)
    stores = tuple(open_store(Path(name)) for name in str(path).split(","))
    if len({store.fingerprint for store in stores}) < len(stores):
        raise ValueError(f"stores must be different ones, got {path}")
    return stores


def splits_of(stores: Sequence[Store], name: str | None) -> tuple[str | None, ...]:
    """The split of each store: one name for all, one each with commas between, or each store's only one; None for a
    store that has none, where none is named.

    Raises
    ------
    ValueError
        As :func:`split_of`, or if the names are not as many as the stores.
    """
    if name is None:
        return tuple(split_of(store, None) if store.splits else None for store in stores)
    names = [name] * len(stores)
    if len(stores) > 1 and not all(name in store.splits for store in stores):
        names = name.split(",")
        if len(names) != len(stores):
            raise ValueError(
                f"split must be one that all {len(stores)} stores have, or one each with commas between; got {name!r}"
            )
    return tuple(split_of(store, each) for store, each in zip(stores, names, strict=True))


def training_clips(config: DataConfig) -> tuple[str | None, Clips]:
    """Clips of the training parts of all stores that a config names, all clips of a store without splits; and what the
    split is then called.

    Raises
    ------
    ValueError
        If data, split or options do not fit each other.
    """
    stores = stores_of(config.data)
    check_protocol(config, stores)
    splits = splits_of(stores, config.split)
    rows = [
        np.arange(len(store)) if split is None else store.split(split)[0]
        for store, split in zip(stores, splits, strict=True)
    ]
    makers = {ClipMaker.of(config, store) for store in stores}
    if len(makers) > 1:
        told = " and ".join(sorted(str(maker.preprocessing) for maker in makers))
        raise ValueError(f"{config.data}: the stores were prepared in different ways: {told}")
    named = [split for split in splits if split is not None]
    split = None if not named else named[0] if len(set(named)) == 1 else ",".join(named)
    return split, _load(stores, rows, makers.pop(), config.memory)


def trained_rows(record: dict[str, Any], store: Store) -> NDArray[np.int64] | None:
    """Places in a store of the clips that a checkpoint's encoder was trained on; None if it never saw the store."""
    stores = str(record.get("store")).split(",")
    if store.fingerprint not in stores:
        return None
    split = record["config"]["split"]
    if split is not None and split not in store.splits:
        split = split.split(",")[stores.index(store.fingerprint)]
    return np.arange(len(store)) if split is None else store.split(split)[0]


def load_clips(
    store: Store,
    rows: Sequence[int] | NDArray[np.integer[Any]],
    recipe: Preprocessing,
    bodies: int = 0,
    *,
    layout: str | None = None,
    stream: Stream = "joint",
    memory: Literal["auto", "all", "none"] = "all",
) -> Clips:
    """Clips of a store, preprocessed; see :class:`~asma_fast.training.making.ClipMaker` for what is done to them.

    Parameters
    ----------
    rows
        Places in the store.
    memory
        ``"all"``: made now and held. ``"none"``: made batch by batch, of the same bits. ``"auto"``: held up to 2 GB.

    Raises
    ------
    ValueError
        If there are no clips, or one cannot be made (its name is told); with ``memory="none"`` of the first only, and
        of the others when they are asked for.
    """
    return _load((store,), [np.asarray(rows)], ClipMaker(recipe, bodies, layout, stream), memory)


def _load(stores: tuple[Store, ...], rows: Sequence[NDArray[np.integer[Any]]], maker: ClipMaker, memory: str) -> Clips:
    for store, places in zip(stores, rows, strict=True):
        if places.size == 0:
            raise ValueError(f"no clips: the split of {store.path.name} is empty" if len(stores) > 1 else NO_CLIPS)
    skeletons = [maker.skeleton(store) for store in stores]
    shapes = [maker(store, [int(places[0])]).shape[1:] for store, places in zip(stores, rows, strict=True)]
    for store, skeleton, shape in zip(stores, skeletons, shapes, strict=True):
        if skeleton != skeletons[0]:
            raise ValueError(
                f"{store.path}: has layout {skeleton.name}, {stores[0].path} has {skeletons[0].name}; "
                "--layout maps both to one"
            )
        if shape != shapes[0]:
            raise ValueError(
                f"{store.path}: its clips have shape (M, T, V, C) {shape}, those of {stores[0].path} {shapes[0]}; "
                "--bodies and --frames make them one"
            )
    ids = np.concatenate([clip_ids(number, places) for number, places in enumerate(rows)])
    labels = np.concatenate([store.labels[places] for store, places in zip(stores, rows, strict=True)])
    same = all(store.classes == stores[0].classes for store in stores)
    source = StoredClips(stores, maker)
    bodies, frames, joints, coordinates = shapes[0]
    whole = torch.empty((len(ids), bodies, frames, joints, coordinates), device="meta").permute(0, 4, 2, 3, 1)
    fingerprints = ",".join(store.fingerprint for store in stores)
    clips = Clips(
        x=whole,
        # What one store calls 3, another may not.
        labels=torch.from_numpy(labels.astype(np.int64) if same else np.full(len(ids), -1)),
        ids=torch.from_numpy(ids),
        skeleton=skeletons[0],
        preprocessing=maker.preprocessing,
        classes=stores[0].classes if same else (),
        sided=any(store.sided for store in stores),
        store=fingerprints,
        stream=maker.stream,
        source=source,
        origin=json.dumps([fingerprints, asdict(maker)], sort_keys=True),
    )
    held = memory == "all" or (memory == "auto" and whole.numel() * whole.element_size() <= HELD_BYTES)
    return clips.held() if held else clips
