"""How well a stream named the actions of recordings, frame by frame and action by action. Needs NumPy alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
NOTHING = -1


@dataclass(frozen=True)
class Track:
    """One recording and what a stream said of it, each answer held until the next.

    Parameters
    ----------
    truth
        ``(T,)``: class of each frame; −1 where it is not known, and is not judged.
    likeliest
        ``(T,)``: the likeliest class of the newest answer; −1 before the first, and where nobody was seen.
    named
        ``(T,)``: the class that the stream named, by its own rules; −1 where it named none.
    fps
        Frames a second.
    """

    truth: Labels
    likeliest: Labels
    named: Labels
    fps: float

    def __post_init__(self) -> None:
        shapes = [array.shape for array in (self.truth, self.likeliest, self.named)]
        if len(set(shapes)) > 1 or self.truth.ndim != 1 or not self.truth.size:
            raise ValueError(f"truth, likeliest and named must have one number a frame, got shapes {shapes}")
        if not self.fps > 0:
            raise ValueError(f"fps must be above 0, got {self.fps}")


@dataclass(frozen=True)
class Action:
    """One true action, frames ``start`` to ``stop`` (excluded) of a recording, and when it was named.

    Parameters
    ----------
    delay
        Seconds from its first frame to the first of its frames at which it is named; None: it never is.
    """

    label: int
    start: int
    stop: int
    delay: float | None


@dataclass(frozen=True)
class TrackScores:
    """Counts of one recording, out of which those of several are made.

    Parameters
    ----------
    frames, right, right_named
        Judged frames; those whose class is the likeliest one, and the named one.
    actions
        In order.
    false_alarms
        Runs of frames that name an action which is not there in any of them.
    seconds
        Of the whole recording.
    """

    frames: int
    right: int
    right_named: int
    actions: tuple[Action, ...]
    false_alarms: int
    seconds: float


@dataclass(frozen=True)
class OnlineScores:
    """Scores of a set of recordings.

    Parameters
    ----------
    accuracy, macro_f1
        Over all judged frames together, by the likeliest class; F1 is averaged over the classes that occur.
    accuracy_named, macro_f1_named
        The same by the named class.
    confusion
        ``(K, K + 1)``: frames, true class by row, likeliest by column; the last column: no class.
    tracks
        Of each recording.
    """

    accuracy: float
    macro_f1: float
    accuracy_named: float
    macro_f1_named: float
    confusion: NDArray[np.int64]
    tracks: tuple[TrackScores, ...]

    @property
    def delays(self) -> NDArray[np.float64]:
        """Of the detected actions, in seconds."""
        found = [action.delay for track in self.tracks for action in track.actions if action.delay is not None]
        return np.array(found, np.float64)

    def told(self) -> dict[str, Any]:
        """All but the recordings, as JSON can hold it; None for what there is nothing to take of."""
        actions = sum(len(track.actions) for track in self.tracks)
        minutes, delays = sum(track.seconds for track in self.tracks) / 60, self.delays
        return {
            "frames": int(self.confusion.sum()),
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            "accuracy_named": self.accuracy_named,
            "macro_f1_named": self.macro_f1_named,
            "actions": actions,
            "detected": len(delays) / actions if actions else None,
            "undetected": actions - len(delays),
            "delay_mean": float(delays.mean()) if len(delays) else None,
            "delay_median": float(np.median(delays)) if len(delays) else None,
            "false_alarms_per_minute": sum(track.false_alarms for track in self.tracks) / minutes,
            "minutes": minutes,
        }


def held(answers: Sequence[tuple[int, int]], frames: int) -> Labels:
    """``(frames,)``: the class of the newest answer ``(frame, class)`` at each frame; −1 before the first.

    Examples
    --------
    >>> held([(1, 7), (4, 2)], 6).tolist()
    [-1, 7, 7, 7, 2, 2]
    """
    said = np.full(frames, NOTHING, np.int64)
    for frame, label in answers:
        said[frame:] = label
    return said


def runs(labels: Labels) -> list[tuple[int, int, int]]:
    """``(label, start, stop)`` of each run of frames of one label, in order.

    Examples
    --------
    >>> runs(np.array([3, 3, 1]))
    [(3, 0, 2), (1, 2, 3)]
    """
    bounds = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    return [(int(labels[start]), start, stop) for start, stop in pairwise(bounds)]


def online_scores(tracks: Sequence[Track], classes: int, background: int = NOTHING) -> OnlineScores:
    """Scores of what streams said of recordings. The definitions are ours, not a paper's.

    An action is a run of frames of one class that is not the background. It is detected where a frame of its own names
    it, also by an answer from before that still holds; its delay counts from its first frame. A false alarm is a run of
    frames that name an action where none of them is of that class, and one at least is judged: whoever names an action
    until after its end raises none, whoever begins to after its end does.

    Parameters
    ----------
    tracks
        One or more.
    classes
        How many.
    background
        The class that is no action. Where a stream names nothing (unknown, nobody, before its first answer), this
        counts as named, for then it reports no action. −1: there is none, and naming nothing is wrong.

    Raises
    ------
    ValueError
        If there is no judged frame, or a class is out of range.

    Examples
    --------
    >>> truth, said = np.array([0, 0, 1, 1, 1, 0]), np.array([0, 0, 0, 1, 1, 1])
    >>> scores = online_scores([Track(truth, said, said, fps=10)], classes=2, background=0)
    >>> round(scores.accuracy, 3), scores.tracks[0].actions[0].delay, scores.tracks[0].false_alarms
    (0.667, 0.1, 0)
    """
    if classes < 1 or not NOTHING <= background < classes:
        raise ValueError(f"background must be −1 or one of the {classes} classes, got {background}")
    counted = [np.zeros((classes, classes + 1), np.int64) for _ in range(2)]
    scores = []
    for track in tracks:
        for name in ("truth", "likeliest", "named"):
            array = getattr(track, name)
            if array.min() < NOTHING or array.max() >= classes:
                raise ValueError(f"{name} must lie in [−1, {classes}), got {array.min()} … {array.max()}")
        judged = track.truth != NOTHING
        said = [np.where(one == NOTHING, background, one) for one in (track.likeliest, track.named)]
        for confusion, one in zip(counted, said, strict=True):
            np.add.at(confusion, (track.truth[judged], one[judged]), 1)  # −1 is the last column
        right, right_named = (int((one == track.truth)[judged].sum()) for one in said)
        scores.append(
            TrackScores(
                int(judged.sum()),
                right,
                right_named,
                _actions(track, said[1], background),
                _false_alarms(track.truth, said[1], background),
                len(track.truth) / track.fps,
            )
        )
    frames = sum(one.frames for one in scores)
    if not frames:
        raise ValueError("there must be a frame whose class is known, got none")
    return OnlineScores(
        sum(one.right for one in scores) / frames,
        macro_f1(counted[0]),
        sum(one.right_named for one in scores) / frames,
        macro_f1(counted[1]),
        counted[0],
        tuple(scores),
    )


def macro_f1(confusion: NDArray[np.int64]) -> float:
    """Mean F1 of the classes that occur, of ``(K, K)`` or, with a column for no class, ``(K, K + 1)`` counts.

    Examples
    --------
    >>> macro_f1(np.array([[2, 0], [2, 0]]))  # F1 of 2/3 and 0
    0.3333333333333333
    """
    hits, true = confusion.diagonal(), confusion.sum(axis=1)
    said = confusion.sum(axis=0)[: len(confusion)]
    there = true > 0
    return float((2 * hits[there] / (true + said)[there]).mean())


def _actions(track: Track, named: Labels, background: int) -> tuple[Action, ...]:
    found = []
    for label, start, stop in runs(track.truth):
        if label in (NOTHING, background):
            continue
        hits = np.flatnonzero(named[start:stop] == label)
        found.append(Action(label, start, stop, float(hits[0] / track.fps) if len(hits) else None))
    return tuple(found)


def _false_alarms(truth: Labels, named: Labels, background: int) -> int:
    count = 0
    for label, start, stop in runs(named):
        under = truth[start:stop]
        count += label not in (NOTHING, background) and bool((under != NOTHING).any()) and not (under == label).any()
    return count
