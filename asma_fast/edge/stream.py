"""Frames one by one, as a camera gives them; answers every few frames."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asma_fast._backends import native
from asma_fast.edge._errors import EdgeError, told


class StreamResult(NamedTuple):
    """What a stream says at one moment.

    Parameters
    ----------
    name
        The class, by the smoothed probabilities; None: unknown, or nobody is there.
    probability
        The smoothed one of ``name``; where that is None, of the likeliest class.
    probabilities, logits
        ``(classes,)`` float32: the smoothed ones, and those of this window alone; zeros where nobody is there.
    time
        Of the last frame, in seconds.
    frames
        Of the window.
    """

    name: str | None
    probability: float
    probabilities: NDArray[np.float32]
    logits: NDArray[np.float32]
    time: float
    frames: int


class WindowStream:
    """The last seconds of a camera, classified every few frames; made by :meth:`asma_fast.edge.Session.stream`.

    The window's frames are prepared and run as one recording: the logits are those of ``session.run`` on ``window``, to
    the bit. A frame in which a body has a number that is not finite counts as one without that body.

    Attributes
    ----------
    window : ndarray
        ``(M, T, V, C)`` float32: the recorded frames of the last seconds, by slots.
    missing : int
        Bodies of frames that were taken for missing, since the stream was made.
    restarts : int
        How often the stream began anew after a gap.
    """

    def __init__(self, session: Any, classes: tuple[str, ...], settings: dict[str, float]) -> None:
        with told():
            self._stream: Any = native().EdgeWindowStream(session, **settings)
        self._classes = classes

    def push(
        self, frame: NDArray[np.float32], time: float | None = None, ids: Iterable[int] | None = None
    ) -> StreamResult | None:
        """Takes one frame; an answer every ``hop`` frames, once the window is long enough.

        Parameters
        ----------
        frame
            ``(M, V, C)`` float32: at most as many bodies as the session was made for; a body that is all zeros is not
            there.
        time
            In seconds, from any beginning; None: frames come at ``rate``. All frames of a stream have one, or none.
        ids
            A track id for each body: a track keeps its slot of the window, and a slot that goes to another track
            begins empty. None: a body's slot is its row.

        Raises
        ------
        EdgeError
            If the shape does not fit the network, the frame is not later than the one before, it has more bodies than
            the session was made for, two of its ids are the same, frames come faster than ``max_rate``, or the stream
            is closed.
        TypeError
            If the frame is not float32.
        """
        if not isinstance(frame, np.ndarray) or frame.dtype != np.float32:
            raise TypeError(f"frame must be a float32 array, got {getattr(frame, 'dtype', type(frame).__name__)}")
        tracks = None if ids is None else [int(one) for one in ids]
        with told():
            if not self._open().push(np.require(frame, requirements=("C", "A")), time, tracks):
                return None
        return self._result()

    def _result(self) -> StreamResult:
        stream = self._stream
        probabilities: NDArray[np.float32] = stream.probabilities
        named = int(stream.named)
        return StreamResult(
            None if named < 0 else self._classes[named],
            float(probabilities[named] if named >= 0 else probabilities.max()),
            probabilities,
            stream.logits,
            float(stream.time),
            int(stream.frames),
        )

    @property
    def window(self) -> NDArray[np.float32]:
        """``(M, T, V, C)``: the recorded frames of the last seconds."""
        found: NDArray[np.float32] = self._open().window
        return found

    @property
    def missing(self) -> int:
        """Bodies of frames that were taken for missing."""
        return int(self._open().missing)

    @property
    def restarts(self) -> int:
        """How often the stream began anew after a gap."""
        return int(self._open().restarts)

    def reset(self) -> None:
        """Begins anew: as if no frame had come."""
        self._open().reset()

    def close(self) -> None:
        """Gives its memory back; a closed stream takes no frame. Closing it again does nothing."""
        self._stream = None

    def __enter__(self) -> WindowStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _open(self) -> Any:
        if self._stream is None:
            raise EdgeError("the stream is closed: it takes no more frames")
        return self._stream
