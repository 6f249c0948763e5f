"""``asma-fast classify --follow``: a live stream of frames, a JSON line each, and what it took."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asma_fast.edge.adaptation import adapt
from asma_fast.edge.bench import Times
from asma_fast.edge.configs import ClassifyConfig
from asma_fast.edge.session import Session
from asma_fast.skeleton import Skeleton

LAST = 100_000  # whose times are kept


class Follower:
    """Answers lines of frames with lines of answers, and keeps the times of both.

    Parameters
    ----------
    config
        The model file, the stream's mode and settings, and the layout of the frames.
    tell
        Is told of every line that is skipped, in a sentence.

    Attributes
    ----------
    skipped : int
        Lines that were no frames, or frames that the stream refused.

    Raises
    ------
    EdgeError
        If the model file is damaged, tells of no preprocessing, cannot run frame by frame where it should, or a setting
        is out of range or of the other mode.
    """

    def __init__(self, config: ClassifyConfig, tell: Callable[[str], None]) -> None:
        self._session = Session(config.model, threads=config.threads)
        settings: dict[str, Any] = {"pool": config.pool, "spread": config.spread, "rate": config.rate}
        settings |= {"mode": config.mode or "window", "seconds": config.seconds, "hop": config.hop}
        self._stream = self._session.stream(**settings)
        self._source, self._tell, self.skipped = config.source, tell, 0
        if config.source:
            # Refused now where no map leads from there.
            adapt(self._nobody(config.source), source=config.source, target=self._session.skeleton)
        self.frame_ms: deque[float] = deque(maxlen=LAST)
        self.answer_ms: deque[float] = deque(maxlen=LAST)
        self._frames = self._answers = 0

    def answers(self, lines: Iterable[str]) -> Iterator[str]:
        """A JSON line for each answer of the stream. A line that is no frame is told of, counted and skipped.

        Parameters
        ----------
        lines
            One JSON object a frame: ``"joints"`` of shape (M, V, C); ``"time"`` in seconds and ``"ids"`` if there are.
        """
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            began = perf_counter()
            try:
                result = self._stream.push(*self._frame(line))
            except (ValueError, TypeError) as error:
                self.skipped += 1
                self._tell(f"line {number}: skipped: {error}")
                continue
            spent = 1000 * (perf_counter() - began)
            self.frame_ms.append(spent)
            self._frames += 1
            if result is not None:
                self.answer_ms.append(spent)
                self._answers += 1
                told = {"time": round(result.time, 6), "class": result.name}
                chance = {"probability": round(result.probability, 6), "ms": round(spent, 3)}
                yield json.dumps({**told, **chance}, ensure_ascii=False)

    def _frame(self, line: str) -> tuple[NDArray[np.float32], float | None, list[int] | None]:
        try:
            told: Any = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"must be a JSON object: {error}") from None
        if not isinstance(told, dict) or "joints" not in told or not set(told) <= {"joints", "time", "ids"}:
            raise ValueError('must be a JSON object with "joints", and "time" and "ids" if there are')
        skeleton, given = self._session.skeleton, told["joints"]
        try:
            if not isinstance(given, list):
                raise TypeError
            with np.errstate(over="ignore"):  # an infinite number is a body that is missing
                joints = np.array(given, dtype=np.float32) if given else self._nobody(skeleton.name)
        except (ValueError, TypeError, OverflowError):
            raise ValueError('"joints" must be numbers of shape (M, V, C)') from None
        if joints.ndim != 3:
            raise ValueError(f'"joints" must be numbers of shape (M, V, C), got {joints.shape}')
        if self._source and len(joints):
            scores = self._session.channels > skeleton.dimensions
            with np.errstate(over="ignore", invalid="ignore"):
                joints = adapt(joints, source=self._source, target=skeleton, scores=scores)
        time, ids = told.get("time"), told.get("ids")
        if not (time is None or (isinstance(time, (int, float)) and not isinstance(time, bool))):
            raise ValueError(f'"time" must be a number of seconds, got {time!r}')
        if not (ids is None or (isinstance(ids, list) and all(type(one) is int and abs(one) < 2**63 for one in ids))):
            raise ValueError(f'"ids" must be whole numbers, got {ids!r}')
        return joints, time, ids

    def _nobody(self, layout: str) -> NDArray[np.float32]:
        skeleton = self._session.skeleton if layout == self._session.skeleton.name else Skeleton.named(layout)
        channels = self._session.channels if skeleton == self._session.skeleton else skeleton.dimensions
        return np.zeros((0, len(skeleton), channels), np.float32)

    def statistics(self) -> str:
        """What frames and answers took, in a sentence."""
        parts = [f"{self._frames} frames, {Times.of(self.frame_ms)}" if self.frame_ms else "no frame came"]
        if self.skipped:
            parts.append(f"{self.skipped} lines were skipped")
        if not self.frame_ms:
            return "; ".join(parts)
        if self._answers:
            parts.append(f"{self._answers} of them with an answer, {Times.of(self.answer_ms)}")
        else:
            parts.append("none of them with an answer: they never were enough")
        if self._stream.restarts:
            parts.append(f"began anew {self._stream.restarts} times after a gap (times are in seconds)")
        if self._stream.missing:
            parts.append(f"{self._stream.missing} bodies were not finite and taken for missing")
        return "; ".join(parts)
