"""Augmentation of a batch as one :class:`~asma_fast.view.View`: three small arrays a clip, no coordinates touched."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray

from asma_fast.philox import Purpose, uniform
from asma_fast.skeleton import Skeleton
from asma_fast.training.configs import AugmentConfig
from asma_fast.view import View


class Draw(IntEnum):
    """Which draw of a clip's :attr:`~asma_fast.philox.Purpose.AUGMENTATION` counter decides what."""

    CROP_START = 0
    CROP_LENGTH = 1
    FLIP = 2
    MAIN_AXIS = 3
    ANGLE = 4  # of axis a: 4 + a
    SHEAR = 8  # of off-diagonal i, row by row: 8 + i


_DRAWS = Draw.SHEAR + 6


@dataclass(frozen=True)
class Augmentation:
    """Draws the augmented view of each clip; a pure function of (seed, sample id).

    The order is PSTL's (AAAI 2023, after AimCLR): crop in time → shear → rotation → flip. The transform is
    ``rotation · shear``; a flip exchanges the indices of left and right joints and mirrors no coordinate. A rotation is
    a product of turns about x, then y, then z, each in AimCLR's direction, clockwise seen from the tip of the axis.

    Parameters
    ----------
    config
        What to draw from.
    skeleton
        Its left-right pairs, dimensions and up axis.
    sided
        Whether classes tell left from right: then nothing is flipped, unless the config names a probability.

    Examples
    --------
    >>> augmentation = Augmentation(AugmentConfig(), Skeleton.named("ntu-rgb+d"))
    >>> view = augmentation.view(50, seed=7, ids=torch.arange(4))
    >>> tuple(view.frames.shape), tuple(view.joints.shape), tuple(view.transform.shape)
    ((4, 50), (4, 25), (4, 3, 3))
    """

    config: AugmentConfig
    skeleton: Skeleton
    sided: bool = False

    @property
    def flip(self) -> float:
        """Probability of a flip."""
        if self.config.flip is None:
            return 0.0 if self.sided else 0.5
        return self.config.flip

    def view(self, frames: int, *, seed: int, ids: torch.Tensor) -> View:
        """Views of a batch of clips of ``frames`` frames.

        Parameters
        ----------
        seed
            Of the run's part: an encoder, an epoch, a stream.
        ids
            ``(N,)`` int64: sample ids.

        Returns
        -------
        View
            ``frames (N, T)``, ``joints`` and ``nodes (N, V)`` int32, ``transform (N, d, d)`` float32, on the device of
            ``ids``; None for what the config switches off.
        """
        if ids.ndim != 1 or ids.dtype != torch.int64:
            raise ValueError(f"ids must be int64 of shape (N,), got {ids.dtype} of shape {tuple(ids.shape)}")
        draws = _Draws(seed, ids.cpu().numpy())
        return View(
            *(
                None if array is None else torch.from_numpy(array).to(ids.device)
                for array in (self._frames(draws, frames), *self._joints(draws), self._transform(draws))
            )
        )

    def _frames(self, draws: _Draws, length: int) -> NDArray[np.int32] | None:
        config, steps = self.config, np.arange(length)
        if config.crop == "none":
            return None
        if config.crop == "pad":
            pad = length // config.crop_padding
            start = np.floor(draws(Draw.CROP_START) * (2 * pad + 1))[:, None]
            index = start + steps - pad
            index = np.where(index < 0, -1 - index, index)
            index = np.where(index >= length, 2 * length - 1 - index, index)
        else:
            part = length * (config.crop_share + (1 - config.crop_share) * draws(Draw.CROP_LENGTH))[:, None]
            index = np.floor((length - part) * draws(Draw.CROP_START)[:, None] + (steps + 0.5) * part / length)
        return np.clip(index, 0, length - 1).astype(np.int32)

    def _joints(self, draws: _Draws) -> tuple[NDArray[np.int32] | None, NDArray[np.int32] | None]:
        if self.flip == 0 or not self.skeleton.pairs:
            return None, None
        nodes = np.arange(len(self.skeleton), dtype=np.int32)
        flipped = (draws(Draw.FLIP) < self.flip)[:, None]
        joints = np.where(flipped, self.skeleton.flip, nodes).astype(np.int32)
        return joints, np.tile(nodes, (len(joints), 1))

    def _transform(self, draws: _Draws) -> NDArray[np.float32] | None:
        config, dims = self.config, self.skeleton.dimensions
        if config.shear == 0 and config.rotation == "none":
            return None
        matrix = np.tile(np.eye(dims), (draws.count, 1, 1))
        rows, columns = np.nonzero(~np.eye(dims, dtype=bool))
        for place, (row, column) in enumerate(zip(rows, columns, strict=True)):
            matrix[:, row, column] = config.shear * (2 * draws(Draw.SHEAR + place) - 1)
        if config.rotation != "none":
            # In the plane the only axis is the one that leaves it.
            for axis in range(3) if dims == 3 else (2,):
                matrix = _turn(axis, self._angle(draws, axis), dims) @ matrix
        return matrix.astype(np.float32)

    def _angle(self, draws: _Draws, axis: int) -> NDArray[np.float64]:
        config, dims = self.config, self.skeleton.dimensions
        share = draws(Draw.ANGLE + axis)
        main = np.full(share.shape, dims == 2)
        if config.rotation == "vertical":
            share = 2 * share - 1
            main |= axis == "xyz".index(self.skeleton.up[1])
        else:
            main |= np.floor(3 * draws(Draw.MAIN_AXIS)) == axis
        return np.radians(np.where(main, config.rotation_main, config.rotation_other) * share)


class _Draws:
    """Uniform numbers in [0, 1), one a clip, by draw; all of them drawn at once."""

    def __init__(self, seed: int, ids: NDArray[np.int64]) -> None:
        self.count = len(ids)
        self._table = uniform(seed, ids[:, None], np.arange(_DRAWS), Purpose.AUGMENTATION)

    def __call__(self, draw: int) -> NDArray[np.float64]:
        column: NDArray[np.float64] = self._table[:, draw]
        return column


def _turn(axis: int, angle: NDArray[np.float64], dims: int) -> NDArray[np.float64]:
    """``(N, dims, dims)``: about one axis, clockwise seen from its tip."""
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.tile(np.eye(dims), (len(angle), 1, 1))
    a, b, sign = {0: (1, 2, 1.0), 1: (0, 2, -1.0), 2: (0, 1, 1.0)}[axis]
    matrix[:, a, a] = matrix[:, b, b] = cos
    matrix[:, a, b], matrix[:, b, a] = sign * sin, -sign * sin
    return matrix
