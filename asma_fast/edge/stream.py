"""Frames one by one, as a camera gives them; answers every few frames."""

from __future__ import annotations

from collections.abc import Iterable
from operator import index
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asma_fast._backends import native
from asma_fast.edge._errors import EdgeError, told

if TYPE_CHECKING:
    from typing_extensions import Self

_WHOLE = ("hop", "bodies", "pool", "n_streams")


class StreamResult(NamedTuple):
    """What a stream says at one moment.

    Parameters
    ----------
    name
        The class, by the smoothed probabilities; None: unknown, or nobody is there.
    probability
        The smoothed one of ``name``; where that is None, of the likeliest class.
    probabilities, logits
        ``(classes,)`` float32: the smoothed ones, and those of this moment alone; zeros where nobody is there.
    time
        Of the last frame that it is about, in seconds; a continual stream's are at the network's rate.
    frames
        That it is about: those of the window, or, of a continual stream, all that it read since it began.
    """

    name: str | None
    probability: float
    probabilities: NDArray[np.float32]
    logits: NDArray[np.float32]
    time: float
    frames: int


class Stream:
    """What streams of every mode share; made by :meth:`asma_fast.edge.Session.stream`.

    A frame in which a body has a number that is not finite counts as one without that body. A stream runs one call at a
    time, and says so where threads share it.

    Attributes
    ----------
    missing : int
        Bodies of frames that were taken for missing, since the stream was made.
    restarts : int
        How often the stream began anew after a gap.
    """

    _kind = ""

    def __init__(self, session: Any, classes: tuple[str, ...], settings: dict[str, Any]) -> None:
        try:
            given = {
                name: value if isinstance(value, bool) else _within(index(value)) if name in _WHOLE else float(value)
                for name, value in settings.items()
            }
        except (TypeError, ValueError, OverflowError) as error:
            whole = "hop a whole one" if "hop" in settings else "n_streams and pool whole ones"
            raise EdgeError(f"a stream's settings must be numbers, {whole}: {error}") from None
        with told():
            self._stream: Any = getattr(native(), self._kind)(session, **given)
        self._classes = classes

    def _answers(
        self, frame: NDArray[np.float32], time: float | None, ids: Iterable[int] | None
    ) -> list[StreamResult] | None:
        """Of a frame ``(streams, M, V, C)``, ids of all its bodies in a row."""
        if not isinstance(frame, np.ndarray) or frame.dtype != np.float32:
            raise TypeError(f"frame must be a float32 array, got {getattr(frame, 'dtype', type(frame).__name__)}")
        try:
            tracks = None if ids is None else [_within(index(one)) for one in ids]
            moment = None if time is None else float(time)
        except (TypeError, ValueError, OverflowError) as error:
            raise EdgeError(f"ids must be whole numbers of 64 bits, time a number of seconds: {error}") from None
        dense = frame.flags.c_contiguous and frame.flags.aligned
        with told():
            answers = self._open().push(frame if dense else np.require(frame, requirements=("C", "A")), moment, tracks)
        return None if answers is None else [self._result(*answer) for answer in answers]

    def _result(
        self,
        named: int,
        probabilities: NDArray[np.float32],
        logits: NDArray[np.float32],
        time: float,
        frames: int,
    ) -> StreamResult:
        chance = float(probabilities[named] if named >= 0 else probabilities.max())
        return StreamResult(None if named < 0 else self._classes[named], chance, probabilities, logits, time, frames)

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
        with told():
            self._open().reset()

    def close(self) -> None:
        """Gives its memory back; a closed stream takes no frame. Closing it again does nothing."""
        self._stream = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _open(self) -> Any:
        if self._stream is None:
            raise EdgeError("the stream is closed: it takes no more frames")
        return self._stream


class OneStream(Stream):
    """A stream of one camera."""

    def push(
        self, frame: NDArray[np.float32], time: float | None = None, ids: Iterable[int] | None = None
    ) -> StreamResult | None:
        """Takes one frame; an answer where it is time for one.

        Parameters
        ----------
        frame
            ``(M, V, C)`` float32; a body that is all zeros is not there, and where nobody is, M may be 0.
        time
            In seconds, from any beginning; None: frames come at ``rate``. All frames of a stream have one, or none.
        ids
            A track id for each body: a track keeps its slot, and a slot that goes to another track begins empty, as
            if nobody had been there. None: a body's slot is its row.

        Raises
        ------
        EdgeError
            If the shape does not fit the network, the frame is not later than the one before, it has more bodies than
            the network reads or the session was made for, two of its ids are the same, frames come faster than
            a window's ``max_rate``, another thread is at work, or the stream is closed. What is refused changes
            nothing.
        TypeError
            If the frame is not float32.
        """
        one = frame[None] if isinstance(frame, np.ndarray) else frame
        answers = self._answers(one, time, ids)
        return None if answers is None else answers[0]


class WindowStream(OneStream):
    """The last seconds of a camera, classified every few frames; made by :meth:`asma_fast.edge.Session.stream`.

    The window's frames are prepared and run as one recording: the logits are those of ``session.run`` on ``window``, to
    the bit. Where that finds no frame to read, nobody is there. An answer comes every ``hop`` frames, once the window
    is long enough.

    Attributes
    ----------
    window : ndarray
        ``(M, T, V, C)`` float32: the recorded frames of the last seconds, by slots.
    """

    _kind = "EdgeWindowStream"

    @property
    def window(self) -> NDArray[np.float32]:
        """``(M, T, V, C)``: the recorded frames of the last seconds."""
        with told():
            found: NDArray[np.float32] = self._open().window
        return found


class Continual(Stream):
    """What continual streams share: they run a causal network frame by frame.

    Frames are read at the network's rate, linearly between the two that were recorded before and after, and prepared
    one by one. Every ``period`` of them there is an answer: what the network says of all frames since the stream began,
    its last block's output averaged over the last ``pool`` of its frames alone; float32, up to the order of sums.
    Whoever was not there in the ``pool * period`` frames of that average counts as absent: of a network that averages
    over present bodies, and, where that is everybody, nobody is there. An absent body costs nothing once the network
    has forgotten it.

    Attributes
    ----------
    period : int
        Read frames from one answer to the next: the product of the network's strides.
    pool : int
        Outputs of the last block that are averaged; one stands for ``period`` frames.
    delay : int
        Read frames by which answers come later where the work is spread: less than ``period``.
    """

    _kind = "EdgeContinualStream"

    @property
    def period(self) -> int:
        """Read frames from one answer to the next."""
        return int(self._open().period)

    @property
    def pool(self) -> int:
        """Outputs of the last block that are averaged."""
        return int(self._open().pool)

    @property
    def delay(self) -> int:
        """Read frames by which answers come later where the work is spread."""
        return int(self._open().delay)


class ContinualStream(Continual, OneStream):
    """A causal network that runs frame by frame on one camera; made by :meth:`asma_fast.edge.Session.stream`.

    See :class:`Continual`.
    """


class ContinualStreams(Continual):
    """The same for several people or cameras at once, each with slots, decisions and answers of its own.

    Made by :meth:`asma_fast.edge.Session.stream` with ``n_streams``. They share times and gaps, and go through each
    layer together; what each says is, to the bit, what a stream of its own would say.
    """

    def push(
        self, frame: NDArray[np.float32], time: float | None = None, ids: Iterable[Iterable[int]] | None = None
    ) -> list[StreamResult] | None:
        """Takes one frame of every stream; an answer for each where it is time for one.

        Parameters
        ----------
        frame
            ``(n_streams, M, V, C)`` float32; a body that is all zeros is not there.
        time
            In seconds, of all of them; None: frames come at ``rate``.
        ids
            ``(n_streams, M)`` track ids, which differ within a stream; None: a body's slot is its row.

        Raises
        ------
        EdgeError, TypeError
            As a single stream's.
        """
        try:
            flat = None if ids is None else [one for row in ids for one in row]
        except TypeError as error:
            raise EdgeError(f"ids must be a list of ids for each stream: {error}") from None
        return self._answers(frame, time, flat)


def _within(number: int) -> int:
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"got {number}")
    return number
