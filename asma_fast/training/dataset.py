"""Clips of a store as preprocessed tensors in memory, and batches of them whose composition is a function of a seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from asma_fast.data import Preprocessing, Store
from asma_fast.philox import Purpose, derive_seed, uniform
from asma_fast.skeleton import Skeleton
from asma_fast.training.checkpoint import tensor_digest
from asma_fast.training.configs import DataConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
    """Preprocessed clips in memory.

    Parameters
    ----------
    x
        ``(N, C, T, V, M)`` float32, channels last in memory.
    labels
        ``(N,)`` int64, −1 where unknown.
    ids
        ``(N,)`` int64: the clips' places in the store; they key everything random.
    skeleton, preprocessing
        Joint layout, and what was applied to the recorded frames.
    classes
        Names of the labels.
    sided
        Whether classes tell left from right.
    store
        Fingerprint of the store they come from; empty if from none.
    """

    x: torch.Tensor
    labels: torch.Tensor
    ids: torch.Tensor
    skeleton: Skeleton
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    sided: bool = False
    store: str = ""

    def __len__(self) -> int:
        return len(self.x)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the prepared clips, ids included."""
        return tensor_digest(self.ids, self.x.permute(0, 4, 2, 3, 1))

    def batch(self, rows: Sequence[int] | slice | torch.Tensor) -> Batch:
        """The clips of those rows."""
        return Batch(self.x[rows], self.labels[rows], self.ids[rows])

    def take(self, rows: torch.Tensor) -> Clips:
        """Some of the clips."""
        return replace(self, x=self.x[rows], labels=self.labels[rows], ids=self.ids[rows])


def preprocessing_of(config: DataConfig, store: Store) -> Preprocessing:
    """The recipe a config asks for; of a prepared store, its own, for nothing is ever done twice.

    Raises
    ------
    ValueError
        If the config asks a prepared store for another length.
    """
    if store.preprocessing is not None:
        if config.frames not in (0, store.preprocessing.frames):
            raise ValueError(
                f"{config.data}: was prepared with {store.preprocessing.frames} frames a clip, "
                f"got frames={config.frames}"
            )
        return store.preprocessing
    recipe = Preprocessing.named(config.preprocessing)
    return replace(recipe, frames=config.frames) if config.frames else recipe


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


def load_clips(
    store: Store, rows: Sequence[int] | NDArray[np.integer[Any]], recipe: Preprocessing, bodies: int = 0
) -> Clips:
    """Reads and preprocesses clips of a store.

    Parameters
    ----------
    rows
        Places in the store.
    bodies
        Keep the first so many bodies; 0 keeps all.

    Raises
    ------
    ValueError
        If there are no clips, a clip cannot be preprocessed (its name is told), or has fewer bodies.
    """
    places = np.asarray(rows, dtype=np.int64)
    if places.size == 0:
        raise ValueError("no clips: the split is empty")
    skeleton = store.skeleton
    prepared: torch.Tensor | None = None
    for position, place in enumerate(places):
        clip = store[int(place)]
        try:
            array = recipe(clip, skeleton)
        except ValueError as error:
            raise ValueError(f"clip {clip.name or place}: {error}") from error
        lasting = array.transpose(3, 1, 2, 0)  # (M, T, V, C)
        if prepared is None:
            kept = bodies or lasting.shape[0]
            if kept > lasting.shape[0]:
                raise ValueError(f"bodies must be at most {lasting.shape[0]}, got {bodies}")
            prepared = torch.empty((len(places), kept, *lasting.shape[1:]))
        # Through NumPy, which copies from the read-only frames of a prepared store without a warning.
        prepared.numpy()[position] = lasting[: prepared.shape[1]]
    assert prepared is not None
    return Clips(
        x=prepared.permute(0, 4, 2, 3, 1),
        labels=torch.from_numpy(store.labels[places].astype(np.int64)),
        ids=torch.from_numpy(places),
        skeleton=skeleton,
        preprocessing=recipe,
        classes=store.classes,
        sided=store.sided,
        store=store.fingerprint,
    )


class EpochBatches(Sampler[list[int]]):
    """Places of each batch of an epoch, shuffled by ``(seed, epoch)`` alone; the last, incomplete batch is left out.

    Parameters
    ----------
    count
        Clips.
    batch
        Clips a step over all ranks; all clips where there are fewer.
    seed
        Of the run.
    rank, world
        This process and how many there are; each takes every world-th place of a batch.

    Raises
    ------
    ValueError
        If there are fewer than two clips a rank, or the batch cannot be shared out evenly.
    """

    def __init__(self, count: int, batch: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.count, self.batch, self.seed = count, min(batch, count), seed
        self.rank, self.world, self.epoch = rank, world, 0
        if self.batch < 2 * world:
            raise ValueError(f"a step needs at least {2 * world} clips, got {self.batch}")
        if self.batch % world:
            raise ValueError(f"batch must be a multiple of the {world} devices, got {self.batch}")

    def __len__(self) -> int:
        return self.count // self.batch

    def __iter__(self) -> Iterator[list[int]]:
        keys = uniform(derive_seed(self.seed, self.epoch), np.arange(self.count), 0, Purpose.DERIVE)
        order = np.argsort(keys, kind="stable")
        for start in range(0, len(self) * self.batch, self.batch):
            yield order[start + self.rank : start + self.batch : self.world].tolist()


class _Rows(Dataset[Batch]):
    """Batches of a set of clips: the loader asks for all rows of a batch at once."""

    def __init__(self, clips: Clips) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, row: int) -> Batch:
        return self.clips.batch([row])

    def __getitems__(self, rows: list[int]) -> Batch:
        return self.clips.batch(rows)


def loader(clips: Clips, batches: EpochBatches, workers: int = 0) -> DataLoader[Batch]:
    """A loader of :class:`Batch`: one for each list of rows that ``batches`` yields."""
    return DataLoader(_Rows(clips), batch_sampler=batches, num_workers=workers, collate_fn=_as_is)


def _as_is(batch: Any) -> Any:
    return batch
