"""A store at a glance: what it holds, and what about it looks wrong. NumPy alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asma_fast.data.errors import StoreError
from asma_fast.data.readers.base import some
from asma_fast.data.scan import Scan, scan, tells_clips
from asma_fast.data.store import UNKNOWN, Store

FAR = 10.0
"""A joint so many body sizes from its body's middle is no joint."""
MIRRORED = 0.4
"""A mirrored clip points backwards by so much of what the set's clips point ahead, …"""
MIRRORED_FRAMES = 0.8
"""… and does so in so large a share of its frames."""
_FEW = 8
"""From so many clips, or subjects, on does a whole set tell something."""


@dataclass(frozen=True)
class Summary:
    """What a store holds.

    Attributes
    ----------
    dataset, skeleton
        As the store has them.
    clips, frames
        How many.
    splits
        Name → clips that train, that test, and that do neither.
    classes
        Name → clips of that class, or with frames of it where frames have labels of their own; the key
        ``"(unlabelled)"`` for clips of none.
    class_splits
        Split → class → clips that train and that test.
    subjects, cameras
        Number → clips; −1 for unknown.
    lengths
        Least, median and most frames of a clip.
    fps
        Frames a second → clips; NaN for unknown.
    bodies
        Number of bodies seen in the course of a clip → clips.
    missing_joints, dropped_bodies
        Over all frames, as :class:`~asma_fast.data.Clip` counts them.
    speed_unit
        ``"units/s"``, or ``"units/frame"`` where some clip's rate is unknown; ``units`` as the skeleton says.
    class_speeds, joint_speeds
        Mean speed of a joint of a present body, by class (joints alike) and by joint (frames alike).
    low, high
        Range of each coordinate, over joints of present bodies.
    body_size
        Median over bodies of the distance from the body's middle (mean of joints) to its farthest joint.
    """

    dataset: str
    skeleton: str
    clips: int
    frames: int
    splits: Mapping[str, tuple[int, int, int]]
    classes: Mapping[str, int]
    class_splits: Mapping[str, Mapping[str, tuple[int, int]]]
    subjects: Mapping[int, int]
    cameras: Mapping[int, int]
    lengths: tuple[int, float, int]
    fps: Mapping[float, int]
    bodies: Mapping[int, int]
    missing_joints: int
    dropped_bodies: int
    speed_unit: str
    class_speeds: Mapping[str, float]
    joint_speeds: Mapping[str, float]
    low: tuple[float, ...]
    high: tuple[float, ...]
    body_size: float

    def __str__(self) -> str:
        least, median, most = self.lengths
        ranges = ", ".join(
            f"{axis} {low:.4g} … {high:.4g}" for axis, low, high in zip("xyz", self.low, self.high, strict=False)
        )
        rows = [
            ("data set", f"{self.dataset}, layout {self.skeleton}"),
            ("clips", f"{self.clips}, {self.frames} frames; {least} to {most} a clip, median {median:g}"),
            ("bodies", ", ".join(f"{count} in {clips} clips" for count, clips in self.bodies.items())),
            ("frames a second", _counts(self.fps)),
            ("subjects", _counts(self.subjects)),
            ("cameras", _counts(self.cameras)),
            ("missing", f"{self.missing_joints} joints, {self.dropped_bodies} bodies dropped"),
            ("coordinates", f"{ranges}; body size {self.body_size:.4g}"),
        ]
        rows += [
            (f"split {name}", f"{train} train, {test} test" + (f", {other} neither" if other else ""))
            for name, (train, test, other) in self.splits.items()
        ]
        lines = [f"{title:<16} {text}" for title, text in rows]
        table = [("class", "clips", *(f"{name} train/test" for name in self.class_splits), f"speed {self.speed_unit}")]
        for name, count in self.classes.items():
            parts = ("{}/{}".format(*of[name]) for of in self.class_splits.values())
            table.append((name, str(count), *parts, f"{self.class_speeds[name]:.4g}"))
        joints = sorted(self.joint_speeds.items(), key=lambda entry: -entry[1])
        speeds = [("joint, quickest first", f"speed {self.speed_unit}"), *((name, f"{v:.4g}") for name, v in joints)]
        return "\n".join([*lines, "", *_table(table), "", *_table(speeds)])


def _counts(counts: Mapping[float, int] | Mapping[int, int]) -> str:
    shown = [f"{'unknown' if key in (UNKNOWN,) or key != key else f'{key:g}'}: {n}" for key, n in counts.items()]
    more = len(shown) - 12
    return f"{len(shown)} ({', '.join(shown[:12])}{f', … {more} more' if more > 0 else ''})"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(t.rjust(w) for t, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


@dataclass(frozen=True)
class Finding:
    """Something suspicious about a store.

    Parameters
    ----------
    kind
        One of ``damaged``, ``empty part``, ``class without clips``, ``shared subject``, ``shared camera``,
        ``unlabelled``, ``one frame``, ``constant``, ``exploding``, ``mirrored``, ``identical``, ``leak``.
    text
        What was found, in a sentence.
    clips
        Places in the store of the clips concerned.
    """

    kind: str
    text: str
    clips: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


def summarise(store: Store) -> Summary:
    """Counts, lengths, rates, bodies, speeds and ranges of a store; reads every frame once, a block at a time.

    Raises
    ------
    StoreError
        If frames were altered after writing.
    """
    seen = scan(store, range(len(store)))
    occurs = _occurs(store)
    names = [*store.classes, *(["(unlabelled)"] if occurs[:, -1].any() else [])]
    parts = {name: store.split(name) for name in store.splits}
    units = "units" if store.skeleton.units == "unknown" else store.skeleton.units
    class_speeds = (seen.class_speed / np.maximum(seen.class_steps, 1)).tolist()
    joint_speeds = (seen.joint_speed / np.maximum(seen.joint_steps, 1)).tolist()
    return Summary(
        dataset=store.dataset,
        skeleton=store.skeleton.name,
        clips=len(store),
        frames=int(store.lengths.sum()),
        splits={
            name: (len(train), len(test), len(store) - len(train) - len(test)) for name, (train, test) in parts.items()
        },
        classes=dict(zip(names, occurs.sum(0).tolist(), strict=False)),
        class_splits={
            split: dict(zip(names, zip(*(occurs[part].sum(0).tolist() for part in of), strict=True), strict=False))
            for split, of in parts.items()
        },
        subjects=_counted(store.subjects),
        cameras=_counted(store.cameras),
        lengths=(int(store.lengths.min()), float(np.median(store.lengths)), int(store.lengths.max())),
        fps={float(key): int(n) for key, n in zip(*np.unique(store.fps, return_counts=True), strict=True)},
        bodies=_counted(seen.bodies),
        missing_joints=int(store.missing_joints.sum()),
        dropped_bodies=int(store.dropped_bodies.sum()),
        speed_unit=f"{units}/{'s' if seen.per_second else 'frame'}",
        class_speeds=dict(zip(names, class_speeds, strict=False)),
        joint_speeds=dict(zip(store.skeleton.joints, joint_speeds, strict=True)),
        low=tuple(seen.low.tolist()),
        high=tuple(seen.high.tolist()),
        body_size=seen.size,
    )


def _counted(numbers: NDArray[np.int64]) -> dict[int, int]:
    return {int(key): int(count) for key, count in zip(*np.unique(numbers, return_counts=True), strict=True)}


def _occurs(store: Store) -> NDArray[np.bool_]:
    """``(N, K + 1)``: whether a clip is, or has frames, of each class; the last column: of none."""
    clips, classes = len(store), len(store.classes)
    occurs = np.zeros((clips, classes + 1), np.bool_)
    occurs[np.arange(clips), store.labels] = True
    if store.frame_labels is not None:
        occurs[np.repeat(np.arange(clips), store.lengths), store.frame_labels] = True
    occurs[:, -1] = ~occurs[:, :-1].any(axis=1)
    return occurs


def check(store: Store) -> tuple[Finding, ...]:
    """Everything about a store that looks wrong; nothing where all is well.

    Besides what can be counted (clips that were altered, of one frame, without motion, without a label, equal to
    another's; classes and parts of splits without clips), by these rules, which are ours:

    - *shared subject*: in a split named for subjects (``xsub``, ``cross-subject``, …), or in which, of eight subjects
      or more, all but a tenth keep to one part, a subject has clips in both parts. *shared camera*: in a split named
      for views or cameras.
    - *leak*: the same frames, to the bit, train and test.
    - *exploding*: a joint lies more than 10 body sizes from its body's middle; the size is the set's median.
    - *mirrored*: in three dimensions, with u from hips to shoulders and r from left to right, a body looks along u × r,
      and its feet (ankle to foot) point there. A clip whose feet point the other way in 80 % of its frames, on
      average by 40 % or more of the set's median, has its sides exchanged or an axis mirrored. If that is true of more
      than half the clips, it is said of the set. Layouts without feet beyond the ankles (``sbu``, ``common-15``) are
      judged as a set of eight clips or more, by hands, which lie ahead of the shoulders in most clips; layouts in two
      dimensions are not judged.

    Parameters
    ----------
    store
        The store; every frame is read once, a block at a time.
    """
    return tuple(_findings(store))


def _findings(store: Store) -> Iterator[Finding]:
    damaged = tuple(clip for clip in range(len(store)) if _is_damaged(store, clip))
    yield from _told(store, "damaged", "frames were altered after writing", damaged)
    yield from _split_findings(store)
    yield from _told(store, "unlabelled", "no label", np.flatnonzero(_occurs(store)[:, -1]))
    yield from _told(store, "one frame", "one frame only", np.flatnonzero(store.lengths == 1))
    whole = [clip for clip in range(len(store)) if clip not in set(damaged)]
    if whole:
        seen = scan(store, whole)
        still = [clip for clip in whole if not seen.moving[clip] and store.lengths[clip] > 1]
        yield from _told(store, "constant", "no motion at all", still)
        far = f"a joint more than {FAR:g} body sizes ({FAR * seen.size:.4g}) from its body"
        yield from _told(store, "exploding", far, np.flatnonzero(seen.reach > FAR * seen.size))
        yield from _mirrored(store, seen)
    yield from _identical(store, whole)


def _is_damaged(store: Store, clip: int) -> bool:
    try:
        store.frames(clip)
    except StoreError:
        return True
    return False


def _told(store: Store, kind: str, what: str, clips: Sequence[int] | NDArray[np.int64]) -> Iterator[Finding]:
    places = tuple(int(clip) for clip in clips)
    if places:
        yield Finding(kind, f"{what}: {_of(len(places), 'clip')} ({some([store.names[i] for i in places])})", places)


def _of(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}{'es' if noun.endswith('s') else 's'}"


def _split_findings(store: Store) -> Iterator[Finding]:
    occurs = _occurs(store)[:, :-1]
    empty = [name for name, clips in zip(store.classes, occurs.sum(0), strict=True) if not clips]
    if empty:
        yield Finding("class without clips", f"{_of(len(empty), 'class')} of {len(store.classes)} ({some(empty)})")
    for split in store.splits:
        parts = dict(zip(("training", "test"), store.split(split), strict=True))
        for part, clips in parts.items():
            if not len(clips):
                yield Finding("empty part", f"split {split} has no {part} clips")
        if not all(map(len, parts.values())):
            continue
        has = {part: occurs[clips].any(axis=0) for part, clips in parts.items()}
        for part, other in (("training", "test"), ("test", "training")):
            lacking = [store.classes[label] for label in np.flatnonzero(has[other] & ~has[part])]
            if lacking:
                text = f"split {split} has no {part} clips of {_of(len(lacking), 'class')} ({some(lacking)})"
                yield Finding("class without clips", text)
        for noun, numbers, named in (
            ("subject", store.subjects, r"x-?sub|subject|subj|\bcs\b"),
            ("camera", store.cameras, r"x-?view|camera|\bcv\b"),
        ):
            train, test = (set(numbers[clips].tolist()) - {UNKNOWN} for clips in parts.values())
            shared, every = train & test, train | test
            by_subject = noun == "subject" and len(every) >= _FEW and len(shared) <= len(every) / 10
            if shared and (by_subject or re.search(named, split, re.IGNORECASE)):
                among = np.flatnonzero(np.isin(numbers, list(shared)))
                text = f"split {split} has clips of {_of(len(shared), noun)} in both parts"
                yield Finding(
                    f"shared {noun}", f"{text} ({some([str(n) for n in sorted(shared)])})", tuple(among.tolist())
                )


def _mirrored(store: Store, seen: Scan) -> Iterator[Finding]:
    told = np.isfinite(seen.ahead)
    if not told.any():
        return
    whole = "left and right joints are exchanged, or the coordinates are left-handed, in the set as a whole"
    if not tells_clips(store.skeleton):
        behind = int((seen.ahead[told] < 0).sum())
        if told.sum() >= _FEW and behind > 0.75 * told.sum():
            yield Finding("mirrored", f"{whole}: hands lie behind the shoulders in {behind} of {told.sum()} clips")
        return
    usual = float(np.median(np.abs(seen.ahead[told])))
    with np.errstate(invalid="ignore"):
        back = (seen.ahead < -MIRRORED * usual) & (seen.ahead_share <= 1 - MIRRORED_FRAMES)
    clips = np.flatnonzero(back)
    if 2 * len(clips) > told.sum():
        text = f"{whole}: feet point backwards in {len(clips)} of {told.sum()} clips"
        yield Finding("mirrored", text, tuple(clips.tolist()))
    else:
        yield from _told(store, "mirrored", "left and right joints seem exchanged (feet point backwards)", clips)


def _identical(store: Store, whole: Sequence[int]) -> Iterator[Finding]:
    """Clips of equal checksums whose frames are equal."""
    groups: dict[tuple[int, int], list[int]] = {}
    for clip in whole:
        groups.setdefault((store.checksums[clip], int(store.lengths[clip])), []).append(clip)
    twins = np.full(len(store), -1)  # the first clip of the same frames
    for first, *others in groups.values():
        for clip in others:
            if np.array_equal(store.frames(clip), store.frames(first)):
                twins[clip] = twins[first] = first
    same = np.flatnonzero(twins >= 0)
    yield from _told(
        store, "identical", "the same frames under several names", same[np.argsort(twins[same], kind="stable")]
    )
    for split in store.splits:
        train, test = store.split(split)
        leaked = test[(twins[test] >= 0) & np.isin(twins[test], twins[train])]
        what = f"frames of split {split}'s test part that train too, under another name"
        yield from _told(store, "leak", what, leaked)
