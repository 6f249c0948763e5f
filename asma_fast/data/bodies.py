"""Which bodies of a recording become the clip's, where the sensor may see more people than take part, or ghosts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from asma_fast.data.errors import FormatError

BODIES = 2
"""M of a clip."""

_SEEN_TOO_BRIEFLY = 11  # frames
_WIDEST = 0.8  # of the height
_TOO_OFTEN_WIDE = 0.69754  # of a body's frames
_ENERGY_SLOTS = 4


@dataclass(frozen=True, eq=False)
class RecordedBodies:
    """Every body of every frame of one recording; T frames, B bodies in all, V joints.

    Parameters
    ----------
    file
        Where they were read.
    counts
        ``(T,)``: bodies of each frame; the first ``counts[0]`` of the arrays below are frame 0's, and so on.
    ids
        ``(B,)``: which bodies the sensor takes for one.
    coordinates
        ``(B, V, C)`` float32.
    states
        ``(B, V)``: 0 not tracked, 1 inferred, 2 tracked.
    """

    file: str | os.PathLike[str]
    counts: NDArray[np.int32]
    ids: NDArray[np.uint64]
    coordinates: NDArray[np.float32]
    states: NDArray[np.uint8]

    @property
    def places(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Frame of each body, and its place among the bodies of that frame, both ``(B,)``."""
        counts = self.counts.astype(np.intp)
        frames = np.repeat(np.arange(len(counts)), counts)
        return frames, np.arange(len(frames)) - np.repeat(np.cumsum(counts) - counts, counts)


# The body, counted in B, that plays each of the clip's (M, T); −1 where none does.
Cast = NDArray[np.intp]


def file_order(recorded: RecordedBodies) -> Cast:
    """The first two bodies of each frame in the file's order, without tracking; every frame is kept."""
    return _slots(recorded, BODIES)


def energy(recorded: RecordedBodies) -> Cast:
    """The two liveliest of the first four places of a frame, without tracking; every frame is kept (2s-AGCN, Shi et
    al., CVPR 2019).

    A place's energy is the sum over coordinates of the standard deviation over its joints and non-empty frames (not all
    zeros, and here: without a coordinate that is not finite). The larger comes first, of equals the later place.
    """
    slots = _slots(recorded, _ENERGY_SLOTS)
    usable = _filled(recorded) & _finite(recorded)
    energies = np.zeros(_ENERGY_SLOTS)
    for slot, cast in enumerate(slots):
        chosen = cast[cast >= 0]
        chosen = chosen[usable[chosen]]
        if len(chosen):
            energies[slot] = recorded.coordinates[chosen].astype(np.float64).std(axis=(0, 1)).sum()
    return slots[np.argsort(energies, kind="stable")[::-1][:BODIES]]


def denoised(recorded: RecordedBodies) -> Cast:
    """CTR-GCN's bodies (Chen et al., ICCV 2021), by the same steps:

    1. Frames without a body are dropped.
    2. A body is what has one id. It takes as many frames on end as it was seen in, from the first: frames without it in
       between are closed up.
    3. A recording of one body ends here. Of several, those seen in at most 11 frames are dropped.
    4. While more than one is left, in the order of appearance: a body that in at least 69.754 % of its frames is wider
       than 0.8 of its height is dropped. The motion of the others is the variance of all joints' positions, summed over
       coordinates; where some frames were too wide, of the others alone if that is less.
    5. The rest take their parts in the order of motion, the largest first. The first is body 0. Each of the others
       joins body 0 if its frames share at most one with those from body 0's first to its last, else body 1 on the same
       condition (whose first frame counts as 0 from the start), else it is dropped. On a shared frame the later wins.
    6. Frames in which both bodies are now absent or all zeros are dropped.

    Their step by a range of motion is written but never called, and the class plays no part; so it is here. Ours alone:
    frames with a coordinate that is not finite count as too wide, and say nothing of motion.

    Raises
    ------
    FormatError
        If no frame has a body, none of several is seen in more than 11, or an id stands twice in a frame.
    """
    intervals, alone = _intervals(recorded)
    frames = int(np.count_nonzero(recorded.counts))
    if alone:
        cast = np.full((BODIES, frames), -1)
        cast[0] = intervals[0][1]
        return cast
    longest = max(len(members) for _, members in intervals)
    intervals = [(start, members) for start, members in intervals if len(members) > _SEEN_TOO_BRIEFLY]
    if not intervals:
        expected = f"a body seen in more than {_SEEN_TOO_BRIEFLY} frames, which the rule 'denoised' needs"
        raise FormatError(recorded.file, expected, f"none in more than {longest}")
    cast = _two_actors(_by_motion(recorded, intervals), frames)
    visible = ((cast >= 0) & _filled(recorded)[cast]).any(axis=0)
    if not visible.any():
        raise FormatError(recorded.file, "a body in some frame", f"zeros alone in {frames} frames")
    return cast[:, visible]


BODY_RULES: Mapping[str, Callable[[RecordedBodies], Cast]] = MappingProxyType(
    {"file-order": file_order, "denoised": denoised, "energy": energy}
)


def choose_bodies(recorded: RecordedBodies, rule: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The clip's bodies by one of the rules.

    Parameters
    ----------
    recorded
        Every body of every frame.
    rule
        ``"file-order"`` (:func:`file_order`), ``"denoised"`` (:func:`denoised`) or ``"energy"`` (:func:`energy`).

    Returns
    -------
    frames
        ``(2, T', V, C)`` float32; an absent body is all zeros.
    missing
        ``(2, T', V)``: the joints of present bodies that were not tracked.

    Raises
    ------
    FormatError
        If the rule cannot be followed.
    """
    cast = BODY_RULES[rule](recorded).T  # frames first: the order in memory of a store
    present = cast >= 0
    frames = np.zeros((*cast.shape, *recorded.coordinates.shape[1:]), np.float32)
    frames[present] = recorded.coordinates[cast[present]]
    missing = np.zeros(frames.shape[:3], np.bool_)
    missing[present] = recorded.states[cast[present]] == 0
    return frames.transpose(1, 0, 2, 3), missing.transpose(1, 0, 2)


def _slots(recorded: RecordedBodies, slots: int) -> Cast:
    frames, place = recorded.places
    kept = np.flatnonzero(place < slots)
    cast = np.full((slots, len(recorded.counts)), -1)
    cast[place[kept], frames[kept]] = kept
    return cast


def _filled(recorded: RecordedBodies) -> NDArray[np.bool_]:
    """Which bodies are not all zeros."""
    return np.asarray(recorded.coordinates.any(axis=(1, 2)))


def _finite(recorded: RecordedBodies) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(recorded.coordinates).all(axis=(1, 2)))


# First frame among those with a body, and the bodies (of B) that share an id.
Interval = tuple[int, NDArray[np.intp]]


def _intervals(recorded: RecordedBodies) -> tuple[list[Interval], bool]:
    """Each id's interval in the order of appearance, and whether there is only one."""
    if not len(recorded.ids):
        raise FormatError(recorded.file, "a body in some frame", f"none in {len(recorded.counts)} frames")
    frames, _ = recorded.places
    _, first, which = np.unique(recorded.ids, return_index=True, return_inverse=True)
    order = np.lexsort((frames, which))
    again = (np.diff(which[order]) == 0) & (np.diff(frames[order]) == 0)
    if again.any():
        body = order[1:][again].min()
        raise FormatError(
            recorded.file,
            "each body id once in a frame, as the rule 'denoised' follows bodies by their ids",
            f"{recorded.ids[body]} again in frame {frames[body]} (from 0)",
        )
    valid = np.cumsum(recorded.counts > 0) - 1
    members = np.split(order, np.cumsum(np.bincount(which))[:-1])
    return [(int(valid[frames[first[i]]]), members[i]) for i in np.argsort(first)], len(members) == 1


def _by_motion(recorded: RecordedBodies, intervals: list[Interval]) -> list[Interval]:
    """What the spread leaves, the largest motion first."""
    with np.errstate(invalid="ignore", over="ignore"):
        width, height = np.ptp(recorded.coordinates[..., :2], axis=1).T
    narrow = _finite(recorded) & (width <= _WIDEST * height.astype(np.float64))
    left = len(intervals)
    kept = []
    for interval in intervals:
        members = interval[1]
        fitting = members[narrow[members]]
        motion = _motion(recorded, members)
        if left > 1 and len(fitting) < len(members):
            if (len(members) - len(fitting)) / len(members) >= _TOO_OFTEN_WIDE:
                left -= 1
                continue
            motion = min(motion, _motion(recorded, fitting))
        kept.append((motion, interval))
    return [interval for _, interval in sorted(kept, key=lambda pair: pair[0], reverse=True)]


def _motion(recorded: RecordedBodies, members: NDArray[np.intp]) -> float:
    points = recorded.coordinates[members][_finite(recorded)[members]].astype(np.float64)
    return float(points.var(axis=(0, 1)).sum()) if len(points) else 0.0


def _two_actors(intervals: list[Interval], frames: int) -> Cast:
    cast = np.full((BODIES, frames), -1)
    spans: list[tuple[int, int]] = [(0, 0)] * BODIES
    for rank, (start, members) in enumerate(intervals):
        end = start + len(members) - 1
        for actor, (first, last) in enumerate(spans):
            if rank == 0 or min(last, end) - max(first, start) <= 0:
                cast[actor, start : end + 1] = members
                spans[actor] = (min(first, start), max(last, end)) if rank else (start, end)
                break
    return cast
