"""Recordings as a stream reads them, and what is drawn out of them to train a network for streams."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from asma_fast.config import build
from asma_fast.data import Preprocessing, Store
from asma_fast.philox import Purpose, derive_seed, uniform
from asma_fast.skeleton import Skeleton
from asma_fast.training.configs_online import Before, OnlineConfig
from asma_fast.training.dataset import Clips, open_data, split_of
from asma_fast.training.loop import WINDOWS
from asma_fast.training.making import ClipMaker, clip_ids

if TYPE_CHECKING:
    from numpy.typing import NDArray

INSTANT = 1e-6  # seconds that times may be wrong by, as for the engine's streams
_END, _KIND, _OTHER = range(3)  # draws of a sample
_COLD, _LENGTH = range(2)  # draws of a batch


@dataclass(frozen=True, eq=False)
class Recordings:
    """Labelled recordings of a store, read frame by frame as a stream reads them.

    Parameters
    ----------
    store, places
        Where they are; those of ``places`` that have no label are left out by :meth:`of`.
    maker
        Layout and bodies, and the recipe, of what is made of them.
    classes
        Of the labels.
    background
        The class that is no action; −1: there is none.
    rate
        Frames a second that a network reads.
    """

    store: Store
    places: NDArray[np.int64]
    maker: ClipMaker
    classes: tuple[str, ...]
    background: int
    rate: float

    @staticmethod
    def of(config: OnlineConfig, store: Store, places: NDArray[np.int64]) -> Recordings:
        """Those that have a label.

        Frames without one are of the class ``config.background``, a class of its own where the store has none of that
        name; without such a name, they are no frame that a window ends at. That is our choice.

        Raises
        ------
        ValueError
            If the store was prepared already, or the recipe does not fit the config.
        """
        if store.preprocessing is not None:
            raise ValueError(
                f"{store.path}: was prepared with {store.preprocessing.frames} frames a clip; streams need frames as "
                "recorded: prepare it without preprocessing"
            )
        recipe = replace(Preprocessing.named(config.preprocessing), frames=config.window)
        if config.causal and not recipe.by_frame:
            raise ValueError(
                "a continual stream prepares each frame by itself: preprocessing must have centre per-body or none, "
                f"scale none, and rotate none, or frame with centre per-body; {config.preprocessing} has others"
            )
        classes, name = store.classes, config.background
        bare = store.frame_labels is not None and bool((store.frame_labels < 0).any())
        if name and name not in classes and bare:
            classes = (*classes, name)
        background = classes.index(name) if name in classes else -1
        maker = ClipMaker(recipe, config.bodies, config.layout)
        known = store.labels[places] >= 0 if store.frame_labels is None else np.ones(len(places), np.bool_)
        return Recordings(store, places[known], maker, classes, background, config.rate)

    @property
    def trimmed(self) -> bool:
        """Whether all frames of a recording have its label."""
        return self.store.frame_labels is None

    @cached_property
    def skeleton(self) -> Skeleton:
        """Of what is made of them."""
        return self.maker.skeleton(self.store)

    def fps(self, place: int) -> float:
        """Frames a second of a recording; where it tells of none, ``rate``."""
        fps = float(self.store.fps[place])
        return self.rate if np.isnan(fps) else fps

    def labels(self, place: int) -> NDArray[np.int64]:
        """``(T,)``: the class of each recorded frame; −1 where it has none."""
        told = self.store[place].frame_labels
        if told is None:
            return np.full(int(self.store.lengths[place]), self.store.labels[place])
        return np.where(told < 0, self.background, told)

    def frames(self, place: int, rows: NDArray[np.int64] | slice = slice(None)) -> NDArray[np.float32]:
        """``(M, T, V, C)``: recorded frames, of the bodies and in the layout that the network reads."""
        return self.maker.frames(self.store, place, rows)

    def count(self, place: int) -> int:
        """How many frames a continual stream reads of a recording."""
        seconds = (int(self.store.lengths[place]) - 1) / self.fps(place)
        return int(np.floor((seconds + INSTANT) * self.rate)) + 1

    def recorded(self, place: int, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The recorded frames with which a continual stream reads those of its own of these numbers."""
        fps = self.fps(place)
        return np.ceil((numbers / self.rate - INSTANT) * fps).astype(np.int64).clip(0)

    def read(self, place: int, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """``(M, T, V, C)``: frames of these numbers at ``rate``, linearly between the two recorded before and after."""
        after = self.recorded(place, numbers)
        share = after - numbers / self.rate * self.fps(place)
        share = np.where(share < INSTANT * self.fps(place), 0.0, share)[:, None, None]
        high = self.frames(place, after)
        if not share.any():
            return high
        low = self.frames(place, np.maximum(after - 1, 0))
        return (high + share * (low.astype(np.float64) - high)).astype(np.float32)


class WindowBatch(NamedTuple):
    """Some draws; as :class:`~asma_fast.training.dataset.Batch`, and what teachers read of them.

    Parameters
    ----------
    x
        ``(N, C, T, V, M)`` float32: context and window.
    labels
        ``(N,)`` int64, of the last frame.
    ids
        ``(N,)`` int64.
    windows
        ``(N, C, window, V, M)``; None where there is no teacher.
    """

    x: torch.Tensor
    labels: torch.Tensor
    ids: torch.Tensor
    windows: torch.Tensor | None


class Sample(NamedTuple):
    """One draw.

    Parameters
    ----------
    pieces
        ``(place, numbers)``: frames of recordings, one piece after the other.
    label
        Of the last of them.
    """

    pieces: tuple[tuple[int, NDArray[np.int64]], ...]
    label: int


@dataclass(frozen=True, eq=False)
class Windows(Clips):
    """Draws out of recordings, other ones at each step: a function of (seed, epoch, id), and of the batch's number.

    How they are drawn is ours, not a paper's. An epoch has a draw for each ``window`` that a recording is long: draw j
    of K ends at a frame in the j-th of K equal parts of its labelled frames, and has that frame's label. What comes
    before the window is one of ``config.before``; where a recording has not so many frames, its first is repeated.

    - ``"real"``: the recording's own frames.
    - ``"held"``: the window's first frame, repeated.
    - ``"other"``: the end of another recording, as if the camera had been cut to the window, or to this recording's
      first frame where that is later.
    - ``"cold"``: nothing, as if the stream had begun there.

    Of a causal network all draws of a batch are as long, and end at a frame that a continual stream answers. A batch is
    cold as often as ``config.before`` says, and then has from half a window's outputs to all of them; any other has a
    window's, and before them any number, up to ``config.context`` frames. They are read at ``rate``, and each is
    prepared by itself.

    Of a network for windows a draw holds the recorded frames of the last ``window / rate`` seconds, prepared as one
    recording. What comes before then only fills a window that begins before its recording; of ``"cold"`` nothing fills
    it, and what there is is stretched, as by a stream that answers early.

    Parameters
    ----------
    recordings, config
        What is drawn from, and how.
    ends
        Place → numbers of the frames that a draw may end at.
    shown
        Recipe of teachers, which read the window alone; None: there are none.
    """

    recordings: Recordings = field(kw_only=True)
    config: OnlineConfig = field(kw_only=True)
    ends: Mapping[int, NDArray[np.int64]] = field(kw_only=True, repr=False)
    shown: Preprocessing | None = field(kw_only=True, default=None)

    @property
    def anew(self) -> bool:
        return True

    def batch(self, rows: Sequence[int] | slice | torch.Tensor) -> Any:
        """The draws of those rows, as :class:`~asma_fast.training.batches.EpochBatches` counts them; of one step.

        Raises
        ------
        ValueError
            If one cannot be prepared; its name is told.
        """
        given = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows)
        steps, places = np.divmod(given, len(self))
        epoch, number = divmod(int(steps[0]), len(self) // min(self.config.batch, len(self)))
        cold, frames = self.length(epoch, number)
        ids = self.ids[torch.from_numpy(places)]
        samples = self.samples(epoch, ids.numpy(), frames, cold)
        made, windows, recipe = [], [], replace(self.preprocessing, frames=None)
        for sample in samples:
            raw = self.raw(sample)
            try:
                if self.shown is not None:
                    window = raw[:, -self.config.window :] if self.config.causal else raw
                    windows.append(_prepared(self.shown, window, self.skeleton))
                if self.config.causal:
                    made.append(by_frame(recipe, raw[:, -frames:], self.skeleton))
                else:
                    made.append(_prepared(self.preprocessing, raw, self.skeleton))
            except ValueError as error:
                raise ValueError(f"clip {self.recordings.store.names[sample.pieces[-1][0]]}: {error}") from error
        labels = torch.tensor([sample.label for sample in samples])
        return WindowBatch(_stacked(made), labels, ids, _stacked(windows) if windows else None)

    def length(self, epoch: int, number: int) -> tuple[bool, int]:
        """Whether the ``number``-th batch of an epoch is cold, and how many frames a causal network reads of it."""
        config, kinds = self.config, self.config.before
        seed = derive_seed(config.seed, WINDOWS, epoch, number)
        cold, length = uniform(seed, 0, np.array([_COLD, _LENGTH]), Purpose.DERIVE).tolist()
        is_cold = cold * len(kinds) < kinds.count("cold")
        least = (config.outputs + 1) // 2 if is_cold else config.outputs
        most = config.outputs if is_cold else config.outputs + config.longest // config.period
        outputs = least + int(length * (most - least + 1))
        return is_cold, (outputs - 1) * config.period + 1

    def samples(self, epoch: int, ids: NDArray[np.int64], frames: int, cold: bool) -> list[Sample]:
        """The draws of these ids in an epoch, for batches of so many frames."""
        draws = uniform(derive_seed(self.config.seed, WINDOWS, epoch), ids[:, None], np.arange(3), Purpose.DERIVE)
        return [self._sample(int(id_), row.tolist(), frames, cold) for id_, row in zip(ids, draws, strict=True)]

    def _sample(self, id_: int, draws: list[float], frames: int, cold: bool) -> Sample:
        config, place = self.config, id_ & 0xFFFFFFFF
        ends = self.ends[place]
        share = ((id_ >> 32) + draws[_END]) / self._parts(place)
        end = int(ends[min(int(share * len(ends)), len(ends) - 1)])
        window = config.window
        if not config.causal:
            fps = self.recordings.fps(place)
            frames = window = max(1, int(np.ceil((config.window / config.rate - INSTANT) * fps)))
        elif self.shown is not None:
            frames = max(frames, window)
        warm = [kind for kind in config.before if kind != "cold"]
        kind: Before = "cold" if cold or not warm else warm[int(draws[_KIND] * len(warm))]
        own = np.arange(end - frames + 1, end + 1)
        first = max(0, end - window + 1)
        if not config.causal and kind == "cold":
            own = own[own >= 0]
        elif kind == "held":
            own = own.clip(first)
        elif kind == "other" and len(self.recordings.places) > 1:
            other = self._other(place, draws[_OTHER])
            kept = own[own >= first]
            last = (self.recordings.count(other) if config.causal else int(self.recordings.store.lengths[other])) - 1
            wanting = frames - len(kept)
            pieces = ((other, np.arange(last - wanting + 1, last + 1).clip(0)),) if wanting else ()
            return Sample((*pieces, (place, kept)), self._label(place, end))
        return Sample(((place, own.clip(0)),), self._label(place, end))

    def _parts(self, place: int) -> int:
        return parts_of(self.recordings, self.config, place, self.ends[place])

    def _other(self, place: int, draw: float) -> int:
        places = self.recordings.places
        return int(places[(np.searchsorted(places, place) + 1 + int(draw * (len(places) - 1))) % len(places)])

    def _label(self, place: int, end: int) -> int:
        frame = self.recordings.recorded(place, np.array([end]))[0] if self.config.causal else end
        return int(self.recordings.labels(place)[frame])

    def raw(self, sample: Sample) -> NDArray[np.float32]:
        """``(M, T, V, C)``: the frames of a draw, not prepared."""
        read = self.recordings.read if self.config.causal else self.recordings.frames
        return np.concatenate([read(place, numbers) for place, numbers in sample.pieces], axis=1)


def parts_of(recordings: Recordings, config: OnlineConfig, place: int, ends: NDArray[np.int64]) -> int:
    """Draws of a recording in an epoch: one for each window that its labelled frames are long."""
    rate = config.rate if config.causal else recordings.fps(place)
    return max(1, round(len(ends) / rate * config.rate / config.window))


def windows_of(recordings: Recordings, config: OnlineConfig, shown: Preprocessing | None = None) -> Windows:
    """What is drawn out of training recordings; ``shown`` is the recipe of teachers' windows.

    Raises
    ------
    ValueError
        If there are no labelled recordings.
    """
    ends: dict[int, NDArray[np.int64]] = {}
    ids = []
    for place in recordings.places.tolist():
        numbers = np.arange(recordings.count(place) if config.causal else recordings.store.lengths[place])
        told = recordings.labels(place)[recordings.recorded(place, numbers) if config.causal else numbers]
        numbers = numbers[told >= 0]
        if len(numbers):
            ends[place] = numbers
            parts = range(parts_of(recordings, config, place, numbers))
            ids.append(np.concatenate([clip_ids(part, np.array([place])) for part in parts]))
    if not ids:
        raise ValueError("no clips: no recording of the training part has a label")
    first = recordings.frames(int(recordings.places[0]), np.array([0]))
    shape = (sum(map(len, ids)), first.shape[0], config.window, *first.shape[2:])
    facts = {"maker": asdict(recordings.maker), "rate": config.rate, "classes": recordings.classes, "draws": 1}
    return Windows(
        x=torch.empty(shape, device="meta").permute(0, 4, 2, 3, 1),
        labels=torch.full((shape[0],), -1),  # each draw has its own
        ids=torch.from_numpy(np.concatenate(ids)),
        skeleton=recordings.skeleton,
        preprocessing=recordings.maker.preprocessing,
        classes=recordings.classes,
        sided=recordings.store.sided,
        store=recordings.store.fingerprint,
        origin=json.dumps([recordings.store.fingerprint, facts], sort_keys=True),
        recordings=replace(recordings, places=np.array(sorted(ends), np.int64)),
        config=config,
        ends=ends,
        shown=shown,
    )


def windows_again(record: Mapping[str, Any], data: Path) -> Windows:
    """What a network was trained on, by its checkpoint's record: draws out of the training part of a store.

    Raises
    ------
    ValueError
        If the store does not fit it.
    """
    config = build(OnlineConfig, ("checkpoint", {**record["config"], "data": data}))
    store = open_data(config)
    places, _ = store.split(split_of(store, config.split))
    return windows_of(Recordings.of(config, store, places), config)


def by_frame(recipe: Preprocessing, raw: NDArray[np.float32], skeleton: Skeleton) -> NDArray[np.float32]:
    """``(M, T, V, C)``: each frame prepared by itself, as continual streams do; those without bodies stay zeros."""
    there = raw.any(axis=(0, 2, 3))
    made = np.zeros(raw.shape, np.float32)
    if there.any():
        made[:, there] = recipe(np.ascontiguousarray(raw[:, there]), skeleton).transpose(3, 1, 2, 0)
    return made


def _prepared(recipe: Preprocessing, raw: NDArray[np.float32], skeleton: Skeleton) -> NDArray[np.float32]:
    """``(M, T, V, C)``: frames prepared as one recording; zeros where nobody is there."""
    if not raw.any():
        return np.zeros((raw.shape[0], recipe.frames or raw.shape[1], *raw.shape[2:]), np.float32)
    made: NDArray[np.float32] = recipe(np.ascontiguousarray(raw), skeleton).transpose(3, 1, 2, 0)
    return made


def _stacked(made: Sequence[NDArray[np.float32]]) -> torch.Tensor:
    """``(N, M, T, V, C)`` seen as ``(N, C, T, V, M)``."""
    return torch.from_numpy(np.stack(made)).permute(0, 4, 2, 3, 1)
