"""A model file, loaded: clips or recordings in, logits or class names out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from asma_fast._backends import native
from asma_fast.edge._errors import EdgeError, told
from asma_fast.edge.onnx_session import OnnxSession
from asma_fast.edge.stream import ContinualStream, ContinualStreams, WindowStream
from asma_fast.skeleton import Skeleton

WINDOW: dict[str, Any] = {"seconds": 2.0, "hop": 5, "least_seconds": -1.0, "max_rate": 120.0}  # what is not told


class Prediction(NamedTuple):
    """A class and how likely it is, by softmax."""

    name: str
    probability: float


class Session:
    """A network from a model file, with the memory that its runs need.

    A body that is absent from a whole clip costs next to nothing: what the network says of it is computed once for each
    length.
    A frame in which a body has a number that is not finite counts as one without that body (``missing`` counts them).

    Parameters
    ----------
    path
        Written by :func:`asma_fast.edge.export` (or :func:`asma_fast.edge.export_onnx`, for onnxruntime); or another
        session, whose weights this one shares.
    runtime
        ``"native"``: this package's engine. ``"onnxruntime"``: that one, where it is installed, for an ONNX file and
        preprocessed clips; it has no streams, and the weights of another session's file are read again.
    threads
        That share a run. Results of the engine do not depend on it.
    max_clips, max_bodies, max_frames
        The most that a run of the engine may hold; memory is taken for so much, and at least for what the file's
        preprocessing makes of a recording. A session that shares another's weights takes clips as long as that one.

    Attributes
    ----------
    classes : tuple of str
        Names, in the order of the logits.
    skeleton : Skeleton
        The joints that it reads, in their order.
    channels : int
        Numbers of a joint: coordinates, then a score where the network reads one.
    description : dict
        What the file says of the network: skeleton, preprocessing, layers.

    Raises
    ------
    EdgeError
        If the file cannot be read or is no sound model file, or a number is out of range.

    Notes
    -----
    A session runs one call at a time, and says so where threads share it.
    """

    def __init__(
        self,
        path: str | Path | Session,
        *,
        runtime: Literal["native", "onnxruntime"] = "native",
        threads: int = 1,
        max_clips: int = 1,
        max_bodies: int = 2,
        max_frames: int = 300,
    ) -> None:
        if runtime not in ("native", "onnxruntime"):
            raise EdgeError(f"runtime must be 'native' or 'onnxruntime', got {runtime!r}")
        self._network: Any
        self._session: Any
        if runtime == "native":
            self._take_native(path, threads, max_clips, max_bodies, max_frames)
        else:
            self._take_onnx(path, threads)
        with told():
            self.description: dict[str, Any] = json.loads(self._network.description)
        self.skeleton = self._skeleton(path)
        self.channels = int(self.description["network"]["coordinates"])
        self.classes: tuple[str, ...] = tuple(self.description["classes"])

    def _take_native(self, path: str | Path | Session, threads: int, *most: int) -> None:
        if isinstance(path, Session) and path._onnx is not None:
            raise EdgeError("a session of onnxruntime has no weights for the engine: name its runtime")
        if not isinstance(path, Session) and Path(path).suffix == ".onnx":
            raise EdgeError(f"{path}: is an ONNX file, which runtime='onnxruntime' runs; export writes the engine's")
        module, (max_clips, max_bodies, max_frames) = native(), most
        with told():
            self._network = path._network if isinstance(path, Session) else module.EdgeNetwork(str(path), max_frames)
            self._session = module.EdgeSession(self._network, max_clips, max_bodies, threads)
        self._onnx: OnnxSession | None = None

    def _take_onnx(self, path: str | Path | Session, threads: int) -> None:
        if isinstance(path, Session):
            if path._onnx is None:
                raise EdgeError("a session of the engine has no ONNX file: name its runtime")
            path = path._onnx.path
        self._network = self._session = self._onnx = OnnxSession(path, threads)

    @property
    def missing(self) -> int:
        """Bodies of frames that were taken for missing, since the session began."""
        return int(self._session.missing)

    def run(self, clips: NDArray[np.float32], *, preprocessed: bool = False) -> NDArray[np.float32]:
        """Logits ``(N, classes)``.

        Parameters
        ----------
        clips
            ``(N, M, T, V, C)`` float32: recorded frames, in the units and axes of the training data, or with
            ``preprocessed`` clips as the network reads them. A body that is absent from a frame is all zeros there.
            Recordings are prepared and run one after the other, so that ``max_clips`` does not bound them.

        Raises
        ------
        EdgeError
            If the shape does not fit the network, the clips are more, or longer, than the session was made for, the
            model tells of no preprocessing, or a recording has no frame that it could use.
        TypeError
            If the clips are not float32.
        """
        given = self._checked(clips, 5, "clips must have shape (N, M, T, V, C)")
        if self._onnx is not None:
            if not preprocessed:
                raise EdgeError("an ONNX file takes preprocessed clips only: pass preprocessed=True")
            return self._onnx.run(given, len(self.skeleton), self.channels)
        with told():
            if preprocessed or not len(given):
                logits: NDArray[np.float32] = self._session.run(np.require(given, requirements=("C", "A")))
                return logits
            recordings = np.require(given, requirements="A")
            return np.stack([self._session.run_recording(recording) for recording in recordings])

    def classify(self, clip: NDArray[np.float32], top: int = 5, *, preprocessed: bool = False) -> list[Prediction]:
        """The likeliest classes of one clip ``(M, T, V, C)``, best first.

        Raises
        ------
        EdgeError, TypeError
            As of :meth:`run`; or if ``top`` is less than 1.
        """
        if top < 1:
            raise EdgeError(f"top must be at least 1, got {top}")
        one = self._checked(clip, 4, "a clip must have shape (M, T, V, C)")
        logits = self.run(one[None], preprocessed=preprocessed)[0].astype(np.float64)
        chances = np.exp(logits - logits.max())
        chances /= chances.sum()
        best = np.argsort(-chances, kind="stable")[:top]
        return [Prediction(self.classes[index], float(chances[index])) for index in best]

    @overload
    def stream(
        self,
        mode: Literal["window"] = "window",
        *,
        seconds: float | None = ...,
        hop: int | None = ...,
        least_seconds: float | None = ...,
        rate: float | None = ...,
        max_rate: float | None = ...,
        gap: float = ...,
        smoothing: float = ...,
        unknown_below: float = ...,
        hysteresis: float = ...,
    ) -> WindowStream: ...

    @overload
    def stream(
        self,
        mode: Literal["continual"],
        *,
        pool: int | None = ...,
        spread: bool = ...,
        n_streams: None = ...,
        rate: float | None = ...,
        gap: float = ...,
        smoothing: float = ...,
        unknown_below: float = ...,
        hysteresis: float = ...,
    ) -> ContinualStream: ...

    @overload
    def stream(
        self,
        mode: Literal["continual"],
        *,
        n_streams: int,
        pool: int | None = ...,
        spread: bool = ...,
        rate: float | None = ...,
        gap: float = ...,
        smoothing: float = ...,
        unknown_below: float = ...,
        hysteresis: float = ...,
    ) -> ContinualStreams: ...

    def stream(
        self,
        mode: Literal["window", "continual"] = "window",
        *,
        seconds: float | None = None,
        hop: int | None = None,
        least_seconds: float | None = None,
        pool: int | None = None,
        spread: bool = False,
        n_streams: int | None = None,
        rate: float | None = None,
        max_rate: float | None = None,
        gap: float = 0.5,
        smoothing: float = 0.5,
        unknown_below: float = 0.3,
        hysteresis: float = 0.1,
    ) -> WindowStream | ContinualStream | ContinualStreams:
        """A stream that classifies what a camera sees, frame by frame.

        The defaults are ours, not a paper's: choose ``seconds`` as long as the actions of the training clips.

        Parameters
        ----------
        mode
            ``"window"``: every few frames the last seconds are prepared and run as one clip, with this session's
            memory. ``"continual"``: a causal network runs frame by frame, for a small part of a clip's work, with
            memory of its own; its temporal convolutions are all padded on the left alone
            (:class:`asma_fast.nn.STGCN`'s ``causal``), and its preprocessing needs one frame at a time: centre
            ``"per-body"`` or ``"none"``, scale ``"none"``, rotate ``"none"``, or ``"frame"`` with centre
            ``"per-body"``.
        seconds
            Window: its length; None: 2.
        hop
            Window: frames from one answer to the next; None: 5.
        least_seconds
            Window: since the stream began, before its first answer; None: ``seconds``.
        pool
            Continual: outputs of the last block that are averaged, each of which stands for as many frames as the
            product of the strides; None: as many as a training clip has (of 50 frames where the recipe names none).
        spread
            Continual: about the same work every frame, for answers that come less than a product of strides later.
        n_streams
            Continual: so many people or cameras are pushed at once, in frames ``(n_streams, M, V, C)``, for a list of
            answers; each has bodies of its own. None: one, without that axis.
        rate
            Frames a second. Window: where frames come without times; None: the file's, else 30. Continual: what the
            network reads; None: the file's. Frames without times come at that rate.
        max_rate
            Window: frames a second for which memory is taken; None: 120.
        gap
            Seconds without a frame, after which the stream begins anew.
        smoothing
            Share of the probabilities before in those of now, under 1.
        unknown_below
            A class that is less likely is not named anew.
        hysteresis
            The class that is named stays until another is likelier by more than this, or until it is less likely than
            ``unknown_below`` by more than this.

        Raises
        ------
        EdgeError
            If a setting is out of range or of the other mode, the model tells of no preprocessing, or it cannot run
            frame by frame.

        Examples
        --------
        Of a session for NTU's 25 joints::

            with session.stream(seconds=2, hop=10) as stream:
                for frame, time in camera:  # (M, 25, 3) float32, seconds
                    if (result := stream.push(frame, time)) is not None:
                        print(result.name, result.probability)
        """
        if mode not in ("window", "continual"):
            raise EdgeError(f"mode must be 'window' or 'continual', got {mode!r}")
        if self._onnx is not None:
            raise EdgeError("onnxruntime has no streams: export the model for the engine")
        for name, value in {"least_seconds": least_seconds, "rate": rate}.items():
            if isinstance(value, (int, float)) and value < 0:
                raise EdgeError(f"{name} must be at least 0, got {value}")
        window = _given(seconds=seconds, hop=hop, least_seconds=least_seconds, max_rate=max_rate)
        continual = _given(pool=pool, spread=spread or None, n_streams=n_streams)
        for name, value in (continual if mode == "window" else window).items():
            other = "window" if mode == "continual" else "continual"
            raise EdgeError(f"{name} is a setting of mode {other!r}, got {value!r} with mode {mode!r}")
        shared = {
            "bodies": 0,
            "rate": -1.0 if rate is None else rate,
            "gap": gap,
            "smoothing": smoothing,
            "unknown_below": unknown_below,
            "hysteresis": hysteresis,
        }
        if mode == "continual":
            if pool is not None and pool < 1:
                raise EdgeError(f"pool must be at least 1, got {pool}")
            kind = ContinualStream if n_streams is None else ContinualStreams
            settings = {"pool": 0, "n_streams": 1, **continual, "spread": bool(spread)}
            return kind(self._session, self.classes, {**shared, **settings})
        return WindowStream(self._session, self.classes, {**shared, **WINDOW, **window})

    def _skeleton(self, path: object) -> Skeleton:
        joints = int(self.description["network"]["joints"])
        try:
            told_of = self.description["skeleton"]
            if not isinstance(told_of["joints"], list) or len(told_of["joints"]) != joints:  # else memory is anyone's
                raise ValueError(f"it must name the network's {joints} joints")
            if not isinstance(told_of["name"], str):
                raise ValueError("its name must be a string")
            return Skeleton(**told_of)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise EdgeError(f"{path}: its skeleton is none: {error}") from None

    @staticmethod
    def _checked(clips: NDArray[np.float32], rank: int, wanted: str) -> NDArray[np.float32]:
        if not isinstance(clips, np.ndarray) or clips.dtype != np.float32:
            raise TypeError(f"clips must be a float32 array, got {getattr(clips, 'dtype', type(clips).__name__)}")
        if clips.ndim != rank:
            raise EdgeError(f"{wanted}, got {clips.shape}")
        return clips


def _given(**settings: Any) -> dict[str, Any]:
    """Those that are told."""
    return {name: value for name, value in settings.items() if value is not None}
