"""Noise on recorded clips: what a worse sensor, an occluded body or another camera would have given.

All of it acts on recorded frames, before layout and preprocessing, and is a function of (seed, clip id) by Philox, so
that any network, and any batch, sees the same. A stronger noise of a kind extends the weaker: the same joints and more,
the same directions and farther. How each kind is drawn is our choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from asma_fast.data import Clip, Store, fill_missing
from asma_fast.philox import Purpose, derive_seed, philox, uniform
from asma_fast.skeleton import Skeleton
from asma_fast.training.configs_measure import noise_of
from asma_fast.training.dataset import Clips
from asma_fast.training.making import ClipMaker, StoredClips

_CENTIMETRES = {"metres": 100.0, "millimetres": 0.1}
_NOISE = 64  # part of a seed: apart from those of a training run
_KINDS = ("jitter", "missing", "dropped", "yaw")


@dataclass(frozen=True)
class Noise:
    """One kind of noise, as a condition such as ``jitter-3`` names it.

    ``jitter``
        Each coordinate of each joint of each present body and frame gets a normal number of that many centimetres.
    ``missing``
        So many percent of the joints, rounded, at least one, are lost throughout the clip in all bodies, drawn alike
        but for one shoulder and one hip of each clip, which always stay known, or a torso could not be measured.
        :func:`asma_fast.data.fill_missing` then puts each in its parent's place, as ``prepare`` does.
    ``dropped``
        So many percent of the frames, rounded, at least one, are cut out; one frame stays.
    ``yaw``
        The recording is turned by that angle about the vertical axis, to the left or the right. A recipe that turns
        clips to their shoulders undoes it.
    """

    condition: str
    seed: int = 0

    def __call__(self, clip: Clip, skeleton: Skeleton, sample: int) -> Clip:
        """The clip ``sample`` with noise.

        Raises
        ------
        ValueError
            If the layout's units or dimensions do not know what is asked for.
        """
        kind, amount = noise_of(self.condition)
        seed = derive_seed(self.seed, _NOISE, _KINDS.index(kind))
        kinds: dict[str, Callable[[Clip, Skeleton, int, int, float], Clip]] = {
            "jitter": _jitter,
            "missing": _missing,
            "dropped": _dropped,
            "yaw": _yaw,
        }
        return kinds[kind](clip, skeleton, seed, sample, amount)


@dataclass(frozen=True)
class NoisyMaker(ClipMaker):
    """As :class:`ClipMaker`, of recordings with noise."""

    noise: Noise = Noise("jitter-1")

    def recorded(self, store: Store, place: int) -> Clip:
        """A clip of the store, with noise."""
        return self.noise(store[place], store.skeleton, place)


def noisy(clips: Clips, noise: Noise) -> Clips:
    """Clips of one store, made again of recordings with noise, batch by batch when they are asked for.

    Raises
    ------
    ValueError
        If the clips do not come from one store of recordings as they are.
    """
    source = clips.source
    if source is None or len(source.stores) != 1:
        raise ValueError("noise needs clips of one store")
    (store,) = source.stores
    if store.preprocessing is not None:
        raise ValueError(
            f"{store.path}: noise acts on recorded frames, and these clips were preprocessed already; "
            "prepare them as recorded, without --preprocessing"
        )
    maker = NoisyMaker(**vars(source.maker), noise=noise)
    origin = f"{clips.origin}{asdict(noise)}"
    made = replace(clips, x=clips.x.to("meta"), source=StoredClips(source.stores, maker), origin=origin)
    made.batch([0])  # what cannot be done at all is said at once
    return made


def _present(clip: Clip) -> NDArray[np.bool_]:
    """``(M, T, 1, 1)``: where a body is."""
    return np.asarray(clip.frames.any(axis=(2, 3), keepdims=True))


def _jitter(clip: Clip, skeleton: Skeleton, seed: int, sample: int, amount: float) -> Clip:
    if skeleton.units not in _CENTIMETRES:
        raise ValueError(
            f"jitter is in centimetres, and layout {skeleton.name} is in {skeleton.units}; leave jitter out"
        )
    bodies, length, joints, _ = clip.frames.shape
    words = philox(seed, sample, np.arange(bodies * length * joints), Purpose.DERIVE).astype(np.float64)
    # Box and Muller's transform, of numbers in (0, 1].
    spread, angle = np.sqrt(-2 * np.log((words[:, :2] + 1) / 2.0**32)), 2 * np.pi * words[:, 2:] / 2.0**32
    normal = np.concatenate([spread * np.cos(angle), spread * np.sin(angle)], axis=1)
    step = normal[:, : skeleton.dimensions].reshape(bodies, length, joints, -1) * (
        amount / _CENTIMETRES[skeleton.units]
    )
    frames = clip.frames.copy()
    frames[..., : skeleton.dimensions] += np.where(_present(clip), step, 0).astype(np.float32)
    return replace(clip, frames=frames)


def _missing(clip: Clip, skeleton: Skeleton, seed: int, sample: int, amount: float) -> Clip:
    order = np.argsort(uniform(seed, sample, np.arange(len(skeleton)), Purpose.DERIVE), kind="stable").tolist()
    hips = [skeleton.joints.index(name) for name in ("left hip", "right hip") if name in skeleton.joints]
    pairs = (list(chain.from_iterable(skeleton.shoulders or ())), hips)
    kept = [max(pair, key=order.index) for pair in pairs if pair]
    count = min(max(1, round(amount / 100 * len(skeleton))), len(skeleton) // 2)
    lost = [joint for joint in order if joint not in kept][:count]
    missing = np.zeros(clip.frames.shape[:3], dtype=bool)
    missing[:, :, lost] = True
    return fill_missing(replace(clip, missing=missing), skeleton)


def _dropped(clip: Clip, skeleton: Skeleton, seed: int, sample: int, amount: float) -> Clip:
    count = min(max(1, round(amount / 100 * clip.length)), clip.length - 1)
    keys = uniform(seed, sample, np.arange(clip.length), Purpose.DERIVE)
    kept = np.sort(np.argsort(keys, kind="stable")[count:])
    return replace(clip, frames=clip.frames[:, kept], missing=None, frame_labels=None)


def _yaw(clip: Clip, skeleton: Skeleton, seed: int, sample: int, amount: float) -> Clip:
    if skeleton.dimensions != 3:
        raise ValueError(f"yaw turns in three dimensions, and layout {skeleton.name} has two; leave yaw out")
    way = 1 if uniform(seed, sample, 0, Purpose.DERIVE) < 0.5 else -1
    angle = way * np.deg2rad(amount)
    first, second = (axis for axis in range(3) if axis != "xyz".index(skeleton.up[1]))
    frames = clip.frames.copy()
    a, b = clip.frames[..., first].astype(np.float64), clip.frames[..., second].astype(np.float64)
    frames[..., first] = np.cos(angle) * a - np.sin(angle) * b
    frames[..., second] = np.sin(angle) * a + np.cos(angle) * b
    return replace(clip, frames=frames + np.float32(0))
