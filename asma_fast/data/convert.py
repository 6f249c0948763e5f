"""From a store to other toolboxes' files, or to a store in another joint layout."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from asma_fast.data.clip import Clip, ClipInfo, Part, SplitRule
from asma_fast.data.exports import Source, write_arrays, write_ctrgcn, write_npz, write_pyskl
from asma_fast.data.layout_maps import layout_map
from asma_fast.data.store import Store
from asma_fast.data.store_writer import StoreWriter
from asma_fast.skeleton import Skeleton

Target = Literal["store", "pyskl", "ctrgcn", "arrays", "npz"]
_BATCH = 256


@dataclass(frozen=True)
class ConvertConfig:
    """What is converted, and into what."""

    store: Path = field(metadata={"positional": True, "help": "store to read, a .safetensors file"})
    out: Path = field(metadata={"positional": True, "help": "file to write; for arrays a folder"})
    to: Target = field(
        default="store",
        metadata={
            "help": "pyskl: PYSKL's and MMAction2's .pkl; ctrgcn: CTR-GCN's .npz; arrays: a folder of .npy files with "
            "labels.csv; npz: one .npz of everything, for np.load; store: a store in another layout"
        },
    )
    layout: str | None = field(default=None, metadata={"help": f"joint layout to write: {', '.join(Skeleton.names())}"})
    split: str | None = field(
        default=None, metadata={"help": "the one split to write; by default all, and ctrgcn has room for one only"}
    )
    overwrite: bool = field(default=False, metadata={"help": "replace what is there"})


@dataclass(frozen=True)
class ConvertReport:
    """What :func:`convert` did.

    Attributes
    ----------
    store, out, to
        As configured.
    clips
        Clips that were read.
    notes
        What the format had no place for.
    seconds
        Time taken.
    """

    store: Path
    out: Path
    to: Target
    clips: int
    notes: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        lines = [f"{self.store}: {self.clips} clips in {self.seconds:.1f} s → {self.out} ({self.to})"]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def convert(config: ConvertConfig) -> ConvertReport:
    """Writes a store out, bit for bit as far as the format can hold it.

    ``"pyskl"`` holds all of the clips: what PYSKL has no place for stands under keys that it does not look at, and
    ``prepare pyskl`` reads it back. ``"npz"`` holds as much in one archive of plain arrays, which ``prepare arrays``
    reads back. ``"arrays"`` lacks image sizes and whether classes tell left from right. ``"ctrgcn"`` holds 25 joints,
    two bodies, 300 frames, labels and one split. How bodies were chosen, no format brings back. ``"store"`` changes the
    joint layout alone; with another target, ``layout`` changes it on the way. The file appears whole or not at all.

    Parameters
    ----------
    config
        What to read, and what to write.

    Returns
    -------
    ConvertReport
        How many clips, and what the format had no place for.

    Raises
    ------
    ValueError
        If the format cannot hold a clip (named), no map leads to the layout, or the store lacks the split.
    FileExistsError
        If the target exists and ``overwrite`` is False, or is a folder of other things.
    StoreError, OSError
        If the store cannot be read or the target not be written.

    Examples
    --------
    >>> convert(ConvertConfig(Path("ntu.safetensors"), Path("ntu.pkl"), to="pyskl")).clips  # doctest: +SKIP
    56578
    """
    started = time.monotonic()
    if config.to not in get_args(Target):
        raise ValueError(f"to must be one of {', '.join(get_args(Target))}; got {config.to!r}")
    if config.out.exists() and config.out.samefile(config.store):
        raise ValueError(f"out must be another file than the store, got {config.out}")
    store = Store.open(config.store)
    if config.split is not None:
        store.split(config.split)
    skeleton, mapped = _target_layout(store, config.layout)
    source = Source(store, skeleton, mapped, store.splits if config.split is None else (config.split,))
    notes = _WRITERS[config.to](source, config.out, config.overwrite)
    return ConvertReport(config.store, config.out, config.to, len(store), tuple(notes), time.monotonic() - started)


def _target_layout(
    store: Store, layout: str | None
) -> tuple[Skeleton, Callable[[NDArray[np.float32]], NDArray[np.float32]]]:
    if layout is None or layout == store.skeleton.name:
        return store.skeleton, np.asarray
    target = Skeleton.named(layout)
    if store.preprocessing is not None:
        raise ValueError(f"a layout is changed before preprocessing; the clips of {store.path} were preprocessed")
    return target, layout_map(store.skeleton, target)


def _write_store(source: Source, path: Path, overwrite: bool) -> list[str]:
    store = source.store
    if source.skeleton == store.skeleton:
        raise ValueError(f"layout must name another layout than the store's, {store.skeleton.name}")
    writer = StoreWriter(
        path,
        dataset=store.dataset,
        skeleton=source.skeleton,
        body_rule=store.body_rule,
        missing=store.missing,
        sided=store.sided,
        origin=store.fingerprint,
        overwrite=overwrite,
    )
    with writer:
        for name, batch in _batches(store):
            if name not in writer.finished:
                mapped = [
                    replace(clip, frames=source.mapped(clip.frames), skeleton=source.skeleton.name) for clip in batch
                ]
                writer.add(*mapped, source=name)
        order = [name for name, _ in _batches(store)]
        writer.finish(classes=store.classes, splits={name: _rule(store, name) for name in source.splits}, order=order)
    return []


def _batches(store: Store) -> Iterator[tuple[str, Iterator[Clip]]]:
    for begin in range(0, len(store), _BATCH):
        yield f"clips from {begin}", (store[index] for index in islice(range(len(store)), begin, begin + _BATCH))


def _rule(store: Store, split: str) -> SplitRule:
    train, test = store.split(split)
    parts: dict[str, Part] = {store.names[index]: "train" for index in train}
    parts |= {store.names[index]: "test" for index in test}

    def rule(clip: ClipInfo) -> Part | None:
        return parts.get(clip.name)

    return rule


_WRITERS: Mapping[str, Callable[[Source, Path, bool], list[str]]] = {
    "store": _write_store,
    "pyskl": write_pyskl,
    "ctrgcn": write_ctrgcn,
    "arrays": write_arrays,
    "npz": write_npz,
}
