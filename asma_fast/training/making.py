"""What is made of recorded clips before a network reads them: layout, preprocessing, bodies, stream, in this order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from asma_fast.data import Clip, Preprocessing, Store
from asma_fast.data.layout_maps import LayoutMap, layout_map
from asma_fast.skeleton import Skeleton
from asma_fast.training.configs import DataConfig, Stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SHIFT = 32  # an id is a store's number · 2^32 + a clip's place in it


@dataclass(frozen=True)
class ClipMaker:
    """How recorded clips become clips of a network: a pure function of the recording.

    Parameters
    ----------
    preprocessing
        From recorded frames to a clip of fixed length.
    bodies
        Keep the first so many bodies; 0 keeps all.
    layout
        Joint layout that the recorded frames are mapped to first (:mod:`asma_fast.data.layout_maps`); None keeps the
        store's.
    stream
        ``"joint"``: the coordinates. ``"motion"``: their difference to the next frame, 0 in the last. ``"bone"``: each
        joint minus its parent (:attr:`~asma_fast.skeleton.Skeleton.bones`), 0 at the root. AimCLR's three streams
        (AAAI 2022); that they are taken of the preprocessed clip, before augmentation, is our choice. Scores behind the
        coordinates stay as they are.
    """

    preprocessing: Preprocessing
    bodies: int = 0
    layout: str | None = None
    stream: Stream = "joint"

    @staticmethod
    def of(config: DataConfig, store: Store) -> ClipMaker:
        """What a config asks for.

        Raises
        ------
        ValueError
            If it does not fit the store.
        """
        return ClipMaker(preprocessing_of(config, store), config.bodies, config.layout, config.stream)

    def skeleton(self, store: Store) -> Skeleton:
        """Joint layout of the clips made of a store's."""
        return self._mapped(store)[0]

    def _mapped(self, store: Store) -> tuple[Skeleton, LayoutMap | None]:
        if self.layout in (None, store.skeleton.name):
            return store.skeleton, None
        target = Skeleton.named(self.layout)
        if store.preprocessing is not None:
            raise ValueError(
                f"{store.path}: a layout is changed before preprocessing, and these clips were preprocessed already; "
                f"prepare them as recorded for layout={self.layout}"
            )
        return target, layout_map(store.skeleton, target)

    def __call__(self, store: Store, places: Iterable[int]) -> NDArray[np.float32]:
        """``(N, M, T, V, C)``: the clips at those places of a store.

        Raises
        ------
        ValueError
            If one cannot be made (its name is told).
        """
        skeleton, mapped = self._mapped(store)
        made = [self._one(self.recorded(store, place), skeleton, mapped) for place in places]
        for place, clip in zip(places, made, strict=True):
            if clip.shape != made[0].shape:
                raise ValueError(
                    f"clip {store.names[place]}: clips of a batch must be of one shape (M, T, V, C), got {clip.shape} "
                    f"beside {made[0].shape}; name a length with --frames"
                )
        x: NDArray[np.float32] = np.stack(made)
        coordinates = x[..., : skeleton.dimensions]
        if self.stream == "motion":
            coordinates[:, :, :-1] = coordinates[:, :, 1:] - coordinates[:, :, :-1]
            coordinates[:, :, -1] = 0
        elif self.stream == "bone":
            coordinates -= coordinates[:, :, :, skeleton.bones]
        return x

    def frames(self, store: Store, place: int, rows: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        """``(M, T, V, C)``: some frames of a clip as recorded, of the bodies that are kept, in the layout asked for.

        Raises
        ------
        ValueError
            If the options do not fit the store.
        """
        if not 0 <= self.bodies <= store.bodies:
            raise ValueError(f"bodies must be at most {store.bodies}, got {self.bodies}")
        found = store.frames(place)[rows, : self.bodies or None].transpose(1, 0, 2, 3)
        _, mapped = self._mapped(store)
        return found if mapped is None else mapped(found)

    def recorded(self, store: Store, place: int) -> Clip:
        """The clip at that place of a store, before anything is made of it."""
        return store[place]

    def _one(self, clip: Clip, skeleton: Skeleton, mapped: LayoutMap | None) -> NDArray[np.float32]:
        """``(M, T, V, C)``, maybe a view of the store."""
        if mapped is not None:
            clip = replace(clip, frames=mapped(clip.frames), skeleton=skeleton.name, missing=None)
        try:
            made: NDArray[np.float32] = self.preprocessing(clip, skeleton).transpose(3, 1, 2, 0)
        except ValueError as error:
            raise ValueError(f"clip {clip.name}: {error}") from error
        if self.bodies > made.shape[0]:
            raise ValueError(f"bodies must be at most {made.shape[0]}, got {self.bodies}")
        return made[: self.bodies or None]


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
                f"{store.path}: was prepared with {store.preprocessing.frames} frames a clip, "
                f"got frames={config.frames}"
            )
        return store.preprocessing
    recipe = Preprocessing.named(config.preprocessing)
    return replace(recipe, frames=config.frames) if config.frames else recipe


def clip_ids(store: int, places: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Ids of clips by the number of their store, from 0, and their places in it."""
    return places.astype(np.int64) + (store << _SHIFT)


@dataclass(frozen=True, eq=False)
class StoredClips:
    """Clips in one or several stores, made when they are asked for. Pickled, it names files; forked, it shares them."""

    stores: tuple[Store, ...]
    maker: ClipMaker

    def __call__(self, ids: NDArray[np.int64]) -> torch.Tensor:
        """``(N, C, T, V, M)`` float32, channels last in memory."""
        numbers, places = ids >> _SHIFT, ids & ((1 << _SHIFT) - 1)
        if len(self.stores) == 1:
            return _logical(self.maker(self.stores[0], places.tolist()))
        made: NDArray[np.float32] | None = None
        for number in np.unique(numbers).tolist():
            rows = np.flatnonzero(numbers == number)
            part = self.maker(self.stores[number], places[rows].tolist())
            if made is None:
                made = np.empty((len(ids), *part.shape[1:]), np.float32)
            made[rows] = part
        assert made is not None
        return _logical(made)


def _logical(lasting: NDArray[np.float32]) -> torch.Tensor:
    """``(N, M, T, V, C)`` seen as ``(N, C, T, V, M)``."""
    return torch.from_numpy(lasting).permute(0, 4, 2, 3, 1)
