"""What a model file's streams say of a store's recordings, pushed frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from asma_fast.edge import ContinualStream, Session, WindowStream
from asma_fast.edge.configs import ExportConfig
from asma_fast.edge.session import WINDOW
from asma_fast.edge.verbs import export_checkpoint
from asma_fast.training.online_scores import NOTHING, Track, held

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from asma_fast.training.recordings import Recordings


class Said(NamedTuple):
    """What a stream said of the frames of a recording.

    Parameters
    ----------
    likeliest, named
        ``(T,)``, as of :class:`~asma_fast.training.online_scores.Track`.
    logits
        ``(K,)`` of the last answer; zeros where there was none.
    """

    likeliest: NDArray[np.int64]
    named: NDArray[np.int64]
    logits: NDArray[np.float32]


def exported(checkpoint: Path, folder: Path, bodies: int) -> Session:
    """A session of a checkpoint, whose model file is written to ``folder`` as ``asma-fast export`` writes it."""
    path = export_checkpoint(ExportConfig(checkpoint=checkpoint, out=folder / "model.safetensors"))
    return Session(path, max_bodies=bodies)


def pushed(
    stream: WindowStream | ContinualStream,
    frames: NDArray[np.float32],
    fps: float,
    classes: Sequence[str],
    *,
    before: NDArray[np.float32] | None = None,
) -> Said:
    """What a stream that begins anew says of recorded frames ``(M, T, V, C)`` at ``fps`` frames a second.

    Parameters
    ----------
    before
        Frames that it sees first, of which nothing is told.
    """
    stream.reset()
    first = 0 if before is None else before.shape[1]
    whole = frames if before is None else np.concatenate([before, frames], axis=1)
    likeliest, named, logits = [], [], np.zeros(len(classes), np.float32)
    for number, frame in enumerate(np.ascontiguousarray(whole.swapaxes(0, 1))):
        answer = stream.push(frame, number / fps)
        if answer is None:
            continue
        at = max(0, number - first)
        likeliest.append((at, int(answer.probabilities.argmax()) if answer.probabilities.any() else NOTHING))
        named.append((at, NOTHING if answer.name is None else classes.index(answer.name)))
        if number >= first:
            logits = answer.logits
    return Said(held(likeliest, frames.shape[1]), held(named, frames.shape[1]), logits)


def tracks_of(session: Session, recordings: Recordings, mode: str, settings: dict[str, Any]) -> list[Track]:
    """What a session's stream says of each recording, one after the other, beginning anew with each."""
    tracks = []
    if mode == "window":
        most = max(WINDOW["max_rate"], *map(recordings.fps, recordings.places.tolist()))
        settings = {"max_rate": most, **settings}
    with session.stream(mode, **settings) as stream:  # type: ignore[call-overload]
        for place in recordings.places.tolist():
            fps = recordings.fps(place)
            said = pushed(stream, recordings.frames(place), fps, recordings.classes)
            tracks.append(Track(recordings.labels(place), said.likeliest, said.named, fps))
    return tracks
