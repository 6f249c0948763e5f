"""One pass over the frames of a store: what they show of each clip and each joint, a block of clips at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asma_fast.data.store import Store
from asma_fast.skeleton import Skeleton

_BLOCK = 1 << 13
"""Frames looked at together, or one clip's where it has more."""
_SAMPLE = 2048
"""Clips whose middle frames say how large a body is."""

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(eq=False)
class Scan:
    """What the frames of N clips of V joints and K classes show.

    Attributes
    ----------
    per_second
        Whether the rate of every clip is known, so that speeds are a second's; else a frame's.
    class_speed, class_steps
        ``(K + 1,)``: the speeds of joints of present bodies, added up over joints and frames of each class (the last:
        of none), and how many they are. A frame's class is its own where the recordings have such labels, else the
        clip's.
    joint_speed, joint_steps
        ``(V,)``: the same for each joint.
    bodies
        ``(N,)``: bodies seen in the course of the clip.
    moving
        ``(N,)`` bool: whether any two frames differ.
    reach
        ``(N,)``: distance of the farthest joint from its body's middle.
    low, high
        ``(D,)``: range of the coordinates.
    size
        Median distance of a body's farthest joint from its middle.
    ahead, ahead_share
        ``(N,)``: mean over frames of :func:`ahead_of`, and the share of frames in which it is positive; NaN where the
        layout, or no frame of the clip, tells.
    """

    per_second: bool
    class_speed: Floats
    class_steps: Counts
    joint_speed: Floats
    joint_steps: Counts
    bodies: Counts
    moving: NDArray[np.bool_]
    reach: Floats
    low: Floats
    high: Floats
    size: float
    ahead: Floats
    ahead_share: Floats


def scan(store: Store, clips: Sequence[int]) -> Scan:
    """Looks at ``clips`` of a store, ascending places, every frame once; what is said of other clips stays zero.

    Raises
    ------
    StoreError
        If frames were altered after writing.
    """
    count, joints, dimensions = len(store), len(store.skeleton), store.skeleton.dimensions
    classes = len(store.classes) + 1
    found = Scan(
        per_second=not np.isnan(store.fps).any(),
        class_speed=np.zeros(classes),
        class_steps=np.zeros(classes, np.int64),
        joint_speed=np.zeros(joints),
        joint_steps=np.zeros(joints, np.int64),
        bodies=np.zeros(count, np.int64),
        moving=np.zeros(count, np.bool_),
        reach=np.zeros(count),
        low=np.full(dimensions, np.inf),
        high=np.full(dimensions, -np.inf),
        size=_body_size(store, clips),
        ahead=np.full(count, np.nan),
        ahead_share=np.full(count, np.nan),
    )
    limbs = _limbs(store.skeleton)
    for block in _blocks(store, clips):
        _look(store, block, limbs, found)
    return found


def _blocks(store: Store, clips: Sequence[int]) -> Iterator[list[int]]:
    block: list[int] = []
    frames = 0
    for clip in clips:
        length = int(store.lengths[clip])
        if block and frames + length > _BLOCK:
            yield block
            block, frames = [], 0
        block.append(clip)
        frames += length
    if block:
        yield block


def _look(store: Store, block: Sequence[int], limbs: _Limbs | None, found: Scan) -> None:
    frames = np.concatenate([store.frames(clip) for clip in block])
    dimensions = store.skeleton.dimensions
    begins = np.cumsum([0, *store.lengths[block[:-1]]])
    present = np.asarray(frames.any(axis=(2, 3)))
    found.bodies[block] = np.logical_or.reduceat(present, begins).sum(1)
    x = frames[..., :dimensions]
    seen = x[present]
    if len(seen):
        found.low = np.minimum(found.low, seen.min(axis=(0, 1)))
        found.high = np.maximum(found.high, seen.max(axis=(0, 1)))
    reach = np.zeros(present.shape)
    reach[present] = _reach(seen)
    found.reach[block] = np.maximum.reduceat(reach.max(1), begins)

    step = np.zeros(frames.shape[:3])
    step[1:] = np.sqrt(np.square(np.diff(x, axis=0), dtype=np.float64).sum(-1))
    step[begins] = 0
    # A clip in which only a score changes, or a body comes and goes, moves too.
    changed = np.zeros(len(frames), np.bool_)
    changed[1:] = (frames[1:] != frames[:-1]).any(axis=(1, 2, 3))
    changed[begins] = False
    found.moving[block] = np.logical_or.reduceat(changed, begins)
    both = np.zeros_like(present)
    both[1:] = present[1:] & present[:-1]
    both[begins] = False
    speed = (step * both[..., None]).sum(1)
    if found.per_second:
        speed *= np.repeat(store.fps[block], store.lengths[block])[:, None]
    steps = both.sum(1)
    found.joint_speed += speed.sum(0)
    found.joint_steps += steps.sum()
    classes, joints = len(found.class_speed), frames.shape[2]
    labels = _frame_classes(store, block) % classes
    found.class_speed += np.bincount(labels, speed.sum(1), classes)
    found.class_steps += joints * np.bincount(labels, steps, classes).astype(np.int64)
    if limbs is not None:
        ahead = np.zeros(present.shape)
        ahead[present] = ahead_of(seen, limbs)
        known = np.add.reduceat((ahead != 0).sum(1), begins)
        with np.errstate(invalid="ignore"):
            found.ahead[block] = np.add.reduceat(ahead.sum(1), begins) / np.where(known, known, np.nan)
            found.ahead_share[block] = np.add.reduceat((ahead > 0).sum(1), begins) / np.where(known, known, np.nan)


def _frame_classes(store: Store, block: Sequence[int]) -> Counts:
    """``(F,)``: the class of each frame of the block's clips, −1 for none."""
    if store.frame_labels is None:
        return np.repeat(store.labels[block], store.lengths[block])
    return np.concatenate([labels for clip in block if (labels := store[clip].frame_labels) is not None])


def _reach(bodies: NDArray[np.float32]) -> Floats:
    """``(B,)``: distance of the farthest joint from the middle of the joints, of bodies ``(B, V, D)``.

    Joints at exactly zero are what ready-made files put for a missing joint, and are left out.
    """
    known = np.asarray(bodies.any(axis=-1))
    middle = bodies.sum(1, dtype=np.float64) / np.maximum(known.sum(1), 1)[:, None]
    apart = np.sqrt(np.square(bodies - middle[:, None]).sum(-1)) * known
    farthest: Floats = apart.max(1)
    return farthest


def _body_size(store: Store, clips: Sequence[int]) -> float:
    chosen = [clips[place] for place in np.unique(np.linspace(0, len(clips) - 1, min(_SAMPLE, len(clips))).astype(int))]
    sizes = []
    for clip in chosen:
        frames = store.frames(clip)
        bodies = frames[:: max(1, len(frames) // 4), ..., : store.skeleton.dimensions]
        sizes.append(_reach(bodies[bodies.any(axis=(2, 3))]))
    every = np.concatenate(sizes) if sizes else np.zeros(0)
    return float(np.median(every)) if every.size else 0.0


@dataclass(frozen=True)
class _Limbs:
    """Joints that tell which way a body looks."""

    left: tuple[int, int]  # shoulder, hip
    right: tuple[int, int]
    ahead: tuple[tuple[int, int], ...]  # pairs (from, to): the second lies ahead of the first
    feet: bool


def _limbs(skeleton: Skeleton) -> _Limbs | None:
    """None where the layout lacks shoulders or hips, or is flat: an image does not tell front from back."""
    place = {name: joint for joint, name in enumerate(skeleton.joints)}

    def pairs(*names: tuple[str, str]) -> tuple[tuple[int, int], ...]:
        found = ((f"{side} {a}", f"{side} {b}") for a, b in names for side in ("left", "right"))
        return tuple((place[a], place[b]) for a, b in found if a in place and b in place)

    if skeleton.dimensions != 3 or len(pairs(("shoulder", "hip"))) != 2:
        return None
    feet = pairs(("ankle", "foot"), ("ankle", "toe"), ("ankle", "big toe"), ("heel", "foot index"))
    left, right = pairs(("shoulder", "hip"))
    ahead = feet or pairs(("shoulder", "hand")) or pairs(("shoulder", "wrist"))
    return _Limbs(left, right, ahead, bool(feet)) if ahead else None


def tells_clips(skeleton: Skeleton) -> bool:
    """Whether the layout has feet beyond its ankles, which point ahead in nearly every clip of every data set."""
    limbs = _limbs(skeleton)
    return limbs is not None and limbs.feet


def ahead_of(bodies: NDArray[np.float32], limbs: _Limbs) -> Floats:
    """How far feet point, or hands reach, ahead, in trunk lengths; negative in a mirror.

    With u from hips to shoulders and r from the left side to the right, a body looks along u × r in right-handed
    coordinates. Exchanging left and right joints, or mirroring an axis, turns that round, and leaves where feet point.
    0 where it cannot be told.

    Parameters
    ----------
    bodies
        ``(B, V, 3)``.
    limbs
        Of the layout.
    """
    x = bodies.astype(np.float64)
    left, right = x[:, limbs.left], x[:, limbs.right]
    up = (left[:, 0] + right[:, 0] - left[:, 1] - right[:, 1]) / 2
    front = np.cross(up, (right - left).sum(1))
    length = np.linalg.norm(front, axis=-1) * np.linalg.norm(up, axis=-1)
    pointed = sum((x[:, to] - x[:, fro] for fro, to in limbs.ahead), np.zeros(front.shape)) / len(limbs.ahead)
    told: Floats = np.divide((pointed * front).sum(-1), length, out=np.zeros(len(x)), where=length > 1e-12)
    return told
