"""From recorded frames to the array a network reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from asma_fast._backends import native
from asma_fast.data.clip import Clip, check_frames, check_layout
from asma_fast.skeleton import Skeleton

Length = Literal["drop-empty", "aimclr"]
Centre = Literal["per-body", "first", "box", "image", "none"]
Scale = Literal["none", "torso", "box", "image"]
Rotate = Literal["frame", "clip", "aimclr", "none"]

MAX_FRAMES = 1_000_000
_CHOICES = {
    "length": get_args(Length),
    "centre": get_args(Centre),
    "scale": get_args(Scale),
    "rotate": get_args(Rotate),
}


@dataclass(frozen=True)
class Preprocessing:
    """A recipe that turns recorded frames into a clip of fixed length, in the order of the fields below.

    A body that is absent from a frame is all zeros there and stays so. Work is done in float64 and rounded once.

    Parameters
    ----------
    frames
        T, the length after resizing: output frame i reads recorded frame (i + ½)·L/T − ½ of the L valid ones, clamped,
        linearly between neighbours. None keeps the valid frames as they are.
    length
        Which recorded frames are valid. ``"drop-empty"``: those that hold a body. ``"aimclr"``: the first L, L being
        the number of frames in which the first joint of body 0 is not at the origin (AimCLR, AAAI 2022).
    centre
        ``"per-body"``: each body and frame minus its centre joint. ``"first"``: everything minus body 0's centre joint
        in its first valid frame, which keeps travel and the distance between people. ``"box"``: everything minus the
        middle of the clip's box. ``"image"``: everything minus half the image's width and height (two dimensions, and
        clips that know their ``image_size``, only). ``"none"``. The box is the smallest that holds all joints of
        present bodies in valid frames; joints of score 0 do not count, unless all are.
    scale
        ``"torso"``: coordinates divided by the clip's torso length: the distance between the middle of the shoulders
        and the middle of the hips (joints named "left hip" and "right hip"), median over the valid frames of body 0.
        ``"box"``: by half the longer side of the box. ``"image"``: by half the longer side of the image. One factor
        serves all axes and the whole clip, so that bodies keep their proportions; with the centre of the same name,
        what lies in the box or the image comes to lie within ±1. (PYSKL's PreNormalize2D divides each axis by half its
        own side of the image instead.) These definitions are ours. ``"none"``.
    rotate
        Turns about the skeleton's up axis until right − left shoulder points to +x (to +y where x is up). It never
        mirrors: in right-handed coordinates, a turned body faces −z where +y is up, and +z where −y is (MediaPipe).
        ``"frame"``: each frame by its own angle, or by the last one known where the shoulders give none. ``"clip"``:
        one angle, of the sum of all frames' shoulder vectors. ``"aimclr"``: AimCLR's arrays exactly (its damped
        arccos, one sign a clip and body). ``"none"``. With centre ``"per-body"``, and always with ``"aimclr"``, each
        body turns by its own angle; otherwise all turn by body 0's.

    Raises
    ------
    ValueError
        If a field has none of the values above.

    Examples
    --------
    >>> recipe = Preprocessing.named("aimclr")
    >>> frames = np.random.default_rng(0).normal(size=(2, 80, 25, 3)).astype(np.float32)
    >>> recipe(frames, Skeleton.named("ntu-rgb+d")).shape
    (3, 50, 25, 2)
    """

    frames: int | None = 50
    length: Length = "drop-empty"
    centre: Centre = "per-body"
    scale: Scale = "none"
    rotate: Rotate = "frame"

    def __post_init__(self) -> None:
        if self.frames is not None:
            if isinstance(self.frames, bool) or not isinstance(self.frames, (int, np.integer)):
                raise TypeError(f"frames must be an int or None, got {type(self.frames).__name__}")
            if not 1 <= self.frames <= MAX_FRAMES:
                raise ValueError(f"frames must be from 1 to {MAX_FRAMES}, got {self.frames}")
            object.__setattr__(self, "frames", int(self.frames))
        for field, known in _CHOICES.items():
            if getattr(self, field) not in known:
                raise ValueError(f"{field} must be one of {', '.join(known)}; got {getattr(self, field)!r}")

    @staticmethod
    def named(name: str) -> Preprocessing:
        """A recipe by name.

        ``"aimclr"``: AimCLR's and PSTL's arrays, 50 frames. ``"small"``: 32 frames, torso scale, one turn a clip, for
        sets of some hundred clips. ``"pose"``: for two dimensions; 50 frames, centre and scale of the clip's box, so
        that neither the image's size nor the distance to the camera matters, while travel and what lies between people
        are kept; no turn. ``"default"``.

        Raises
        ------
        ValueError
            If there is no such recipe.
        """
        if name not in _NAMED:
            raise ValueError(f"preprocessing must be one of {', '.join(sorted(_NAMED))}; got {name!r}")
        return _NAMED[name]

    @staticmethod
    def names() -> tuple[str, ...]:
        """Names that :meth:`named` knows."""
        return tuple(sorted(_NAMED))

    @property
    def by_frame(self) -> bool:
        """Whether each frame can be prepared by itself, as a continual stream does: but for the length, and for the
        last known turn of a body whose shoulders give none."""
        turns = self.rotate == "frame" and self.centre == "per-body"
        return self.centre in ("per-body", "none") and self.scale == "none" and (turns or self.rotate == "none")

    def to_dict(self) -> dict[str, int | str | None]:
        """The recipe in plain values, as a store records it."""
        return asdict(self)

    @staticmethod
    def from_dict(record: Mapping[str, Any]) -> Preprocessing:
        """The recipe that :meth:`to_dict` recorded.

        Raises
        ------
        ValueError
            If a field is missing or unknown.
        """
        wanted = {field.name for field in fields(Preprocessing)}
        if set(record) != wanted:
            raise ValueError(f"preprocessing must have the fields {sorted(wanted)}, got {sorted(record)}")
        return Preprocessing(**record)

    def __call__(self, clip: Clip | NDArray[np.float32], skeleton: Skeleton) -> NDArray[np.float32]:
        """Applies the recipe to one clip.

        Parameters
        ----------
        clip
            A :class:`Clip`, or its frames ``(M, T, V, C)`` float32, in any memory order.
        skeleton
            Its joint layout. Channels behind the layout's 2 or 3 coordinates (scores) are resized only.

        Returns
        -------
        ndarray of shape (C, T, V, M), float32
            Its memory is channels last, ``(M, T, V, C)``.

        Raises
        ------
        ValueError
            If the clip does not fit the skeleton, no frame is valid, the layout lacks what a step needs (shoulders and
            three dimensions to rotate; shoulders and hips to scale by the torso; two dimensions and an image size for
            the image's rules), the torso has no length or the box no extent, or the clip has been preprocessed by
            another recipe.
        TypeError
            If the frames are not float32.
        """
        frames = clip.frames if isinstance(clip, Clip) else clip
        check_frames(frames)
        check_layout(clip, skeleton)
        if isinstance(clip, Clip) and clip.preprocessing is not None:
            if clip.preprocessing != self:
                raise ValueError(f"clip was preprocessed already, by {clip.preprocessing}; got {self}")
            return _logical(np.ascontiguousarray(frames))
        prepared = native().preprocess_clip(
            np.require(frames, np.float32, "A"),
            dims=skeleton.dimensions,
            length=self.length,
            centre=self.centre,
            scale=self.scale,
            rotate=self.rotate,
            **self.joints_of(skeleton),
            up_axis="xyz".index(skeleton.up[1]),
            image=self._image(clip, skeleton),
            out_frames=self.frames or 0,
        )
        return _logical(prepared)

    def joints_of(self, skeleton: Skeleton) -> dict[str, tuple[int, ...]]:
        """The joints that the recipe's steps look at, by the native code's names for them.

        Raises
        ------
        ValueError
            If the layout lacks what a step needs.
        """
        (left, right), (top, bottom) = self._shoulders(skeleton), self._torso(skeleton)
        return {
            "centre_joints": skeleton.centre,
            "left_shoulder": left,
            "right_shoulder": right,
            "torso_top": top,
            "torso_bottom": bottom,
        }

    def _shoulders(self, skeleton: Skeleton) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if self.rotate == "none":
            return (), ()
        if skeleton.dimensions != 3:
            raise ValueError(
                f"rotate={self.rotate!r} needs three dimensions; {skeleton.name} has {skeleton.dimensions} "
                "(the recipe 'pose' does not rotate)"
            )
        if skeleton.shoulders is None:
            raise ValueError(f"rotate={self.rotate!r} needs shoulders; {skeleton.name} names none")
        return skeleton.shoulders

    def _torso(self, skeleton: Skeleton) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if self.scale != "torso":
            return (), ()
        hips = tuple(skeleton.joints.index(name) for name in ("left hip", "right hip") if name in skeleton.joints)
        if skeleton.shoulders is None or len(hips) != 2:
            raise ValueError(
                f"scale={self.scale!r} needs shoulders and joints named 'left hip' and 'right hip'; "
                f"{skeleton.name} lacks them"
            )
        # Each side weighs half, however many joints make it up.
        left, right = skeleton.shoulders
        return left * len(right) + right * len(left), hips

    def _image(self, clip: Clip | NDArray[np.float32], skeleton: Skeleton) -> tuple[int, int]:
        for field, rule in (("centre", self.centre), ("scale", self.scale)):
            if rule != "image":
                continue
            if skeleton.dimensions != 2:
                raise ValueError(f"{field}='image' needs two dimensions; {skeleton.name} has {skeleton.dimensions}")
            size = clip.image_size if isinstance(clip, Clip) else None
            if size is None:
                raise ValueError(
                    f"{field}='image' needs the image's size, and the clip does not know it; got no image_size"
                )
            if min(size) < 1:
                raise ValueError(f"image_size must be a positive width and height, got {size}")
            return int(size[0]), int(size[1])
        return 0, 0


def _logical(channels_last: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(M, T, V, C)`` in memory seen as ``(C, T, V, M)``."""
    view: NDArray[np.float32] = channels_last.transpose(3, 1, 2, 0)
    return view


_NAMED = {
    "default": Preprocessing(),
    "aimclr": Preprocessing(frames=50, length="aimclr", centre="per-body", scale="none", rotate="aimclr"),
    "small": Preprocessing(frames=32, length="drop-empty", centre="per-body", scale="torso", rotate="clip"),
    "pose": Preprocessing(frames=50, length="drop-empty", centre="box", scale="box", rotate="none"),
}
