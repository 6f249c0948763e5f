"""One recorded action."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from asma_fast.data.preprocessing import Preprocessing
    from asma_fast.skeleton import Skeleton


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
    missing
        ``(M, T, V)`` bool: joints that the recording does not know (untracked, or of a low score); their coordinates
        mean nothing. None where every finite coordinate is to be trusted. A joint with a coordinate that is not finite
        is missing either way. :func:`fill_missing` acts on both and clears the mark.
    missing_joints
        How many joints the recording lacked, a joint counted once for each body and frame: of bodies that are present
        in the frames as they are now, so that joints of dropped bodies do not count. 0 before :func:`fill_missing` has
        counted.
    dropped_bodies
        From how many frames a body was dropped because more than half of its joints were missing, all bodies together;
        0 before :func:`fill_missing` has counted, and where it was told to keep what there is.
    frame_labels
        ``(T,)`` int64: the class of each frame, −1 for none, where the recording is continuous; else None.
    image_size
        ``(width, height)`` in pixels for joints in an image; None where unknown, and in three dimensions.

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
    missing: NDArray[np.bool_] | None = None
    missing_joints: int = 0
    dropped_bodies: int = 0
    frame_labels: NDArray[np.int64] | None = None
    image_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        check_frames(self.frames)
        shape = self.frames.shape
        for field, kind, wanted in (("missing", np.bool_, shape[:3]), ("frame_labels", np.int64, shape[1:2])):
            array = getattr(self, field)
            if array is not None and (array.dtype != kind or array.shape != wanted):
                raise ValueError(
                    f"{field} must be {np.dtype(kind)} of shape {wanted}, got {array.dtype} of shape {array.shape}"
                )

    @property
    def length(self) -> int:
        """Number of frames."""
        return int(self.frames.shape[1])

    @property
    def info(self) -> ClipInfo:
        """The clip without its frames."""
        numbers = (None if number is None else int(number) for number in (self.label, self.subject, self.camera))
        return ClipInfo(self.name, *numbers)


def check_layout(clip: Clip | NDArray[np.float32], skeleton: Skeleton) -> None:
    """Refuses a clip, or frames, that do not fit the joint layout."""
    frames = clip.frames if isinstance(clip, Clip) else clip
    if frames.shape[2] != len(skeleton):
        raise ValueError(f"clip must have the {len(skeleton)} joints of {skeleton.name}, got {frames.shape[2]}")
    if frames.shape[3] < skeleton.dimensions:
        raise ValueError(f"clip must have {skeleton.dimensions} coordinates or more, got {frames.shape[3]}")
    if isinstance(clip, Clip) and clip.skeleton != skeleton.name:
        raise ValueError(f"clip is of skeleton {clip.skeleton!r}, got skeleton {skeleton.name!r}")


def check_frames(frames: Any) -> None:
    """Refuses what is not a ``(M, T, V, C)`` float32 array without empty axes."""
    if not isinstance(frames, np.ndarray):
        raise TypeError(f"frames must be a NumPy array, got {type(frames).__name__}")
    if frames.dtype != np.float32:
        raise TypeError(f"frames must be float32, got {frames.dtype}")
    if frames.ndim != 4 or 0 in frames.shape:
        raise ValueError(f"frames must have shape (M, T, V, C) without empty axes, got {frames.shape}")
