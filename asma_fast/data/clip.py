"""One recorded action."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from asma_fast.data.preprocessing import Preprocessing


@dataclass(frozen=True)
class ClipInfo:
    """What is known of a clip besides its frames; split rules read it.

    Parameters
    ----------
    name
        Unique in its data set.
    label
        Class, from 0; None where unknown.
    subject, camera
        Numbers as the data set counts them (from 1); None where unknown.
    """

    name: str
    label: int | None = None
    subject: int | None = None
    camera: int | None = None


Part = Literal["train", "test"]
SplitRule = Callable[[ClipInfo], Part | None]


@dataclass(frozen=True, eq=False)
class Clip:
    """One recorded action: its frames and what is known about it.

    Parameters
    ----------
    frames
        ``(M, T, V, C)`` float32: bodies, frames, joints, coordinates in the units of the skeleton. An absent body is
        all zeros. The memory order is free; it may be a read-only view of a file.
    skeleton
        Name of the joint layout.
    label, subject, camera, name
        As in :class:`ClipInfo`.
    fps
        Frames a second; None where unknown.
    preprocessing
        What has been applied to the frames; None for frames as recorded.

    Raises
    ------
    ValueError, TypeError
        If ``frames`` has another rank, an empty axis, or is not a float32 array.

    Examples
    --------
    >>> clip = Clip(np.zeros((1, 40, 25, 3), np.float32), "ntu-rgb+d", label=3)
    >>> clip.length
    40
    """

    frames: NDArray[np.float32]
    skeleton: str
    label: int | None = None
    subject: int | None = None
    camera: int | None = None
    name: str = ""
    fps: float | None = None
    preprocessing: Preprocessing | None = None

    def __post_init__(self) -> None:
        check_frames(self.frames)

    @property
    def length(self) -> int:
        """Number of frames."""
        return int(self.frames.shape[1])

    @property
    def info(self) -> ClipInfo:
        """The clip without its frames."""
        numbers = (None if number is None else int(number) for number in (self.label, self.subject, self.camera))
        return ClipInfo(self.name, *numbers)


def check_frames(frames: Any) -> None:
    """Refuses what is not a ``(M, T, V, C)`` float32 array without empty axes."""
    if not isinstance(frames, np.ndarray):
        raise TypeError(f"frames must be a NumPy array, got {type(frames).__name__}")
    if frames.dtype != np.float32:
        raise TypeError(f"frames must be float32, got {frames.dtype}")
    if frames.ndim != 4 or 0 in frames.shape:
        raise ValueError(f"frames must have shape (M, T, V, C) without empty axes, got {frames.shape}")
