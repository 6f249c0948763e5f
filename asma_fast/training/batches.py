"""Batches whose composition is a function of a seed and an epoch, and the loader that makes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from asma_fast.philox import Purpose, derive_seed, uniform
from asma_fast.training.dataset import Batch, Clips


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
    anew
        The clips are other ones at each step (:attr:`~asma_fast.training.dataset.Clips.anew`): a place of the run's
        s-th step is yielded as itself + s · ``count``.

    Raises
    ------
    ValueError
        If there are fewer than two clips a rank, or the batch cannot be shared out evenly.
    """

    def __init__(self, count: int, batch: int, seed: int, rank: int = 0, world: int = 1, *, anew: bool = False) -> None:
        self.count, self.batch, self.seed = count, min(batch, count), seed
        self.rank, self.world, self.epoch, self.anew = rank, world, 0, anew
        if self.batch < 2 * world:
            raise ValueError(f"a step needs at least {2 * world} clips, got {self.batch}")
        if self.batch % world:
            raise ValueError(f"batch must be a multiple of the {world} devices, got {self.batch}")

    def __len__(self) -> int:
        return self.count // self.batch

    def __iter__(self) -> Iterator[list[int]]:
        keys = uniform(derive_seed(self.seed, self.epoch), np.arange(self.count), 0, Purpose.DERIVE)
        order = np.argsort(keys, kind="stable")
        for number in range(len(self)):
            start = number * self.batch
            step = self.epoch * len(self) + number if self.anew else 0
            yield (order[start + self.rank : start + self.batch : self.world] + step * self.count).tolist()


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
    return DataLoader(
        _Rows(clips), batch_sampler=batches, num_workers=workers, collate_fn=_as_is, persistent_workers=workers > 0
    )


def _as_is(batch: Any) -> Any:
    return batch
