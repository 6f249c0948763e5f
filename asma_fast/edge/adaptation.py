"""A pose estimator's or a sensor's joints, as a network was trained to read them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from asma_fast.data.layout_maps import LayoutMap, layout_map
from asma_fast.skeleton import Skeleton


def adapt(
    frame: NDArray[np.float32], *, source: str, target: Skeleton | str, scores: bool = False
) -> NDArray[np.float32]:
    """Joints of one layout as those of another: order, virtual joints, units and axes.

    A joint that the source does not have is the mean of its neighbours; the maps are ours, in
    :mod:`asma_fast.data.layout_maps`. MediaPipe's are its world landmarks, in metres.

    Parameters
    ----------
    frame
        ``(M, V, C)`` float32, or ``(M, T, V, C)``, as the source gives it: coordinates, then a score where it has one.
    source
        ``"mediapipe"``, ``"coco"``, ``"openpose"``, ``"kinect-v1"``, ``"ntu-rgb+d"``, or another layout that
        ``Skeleton.names()`` tells.
    target
        That of the network: ``session.skeleton``, or a layout's name.
    scores
        Whether the network reads scores; otherwise they are left out.

    Returns
    -------
    ndarray
        ``(M, V', C')`` float32, or ``(M, T, V', C')``, for ``stream.push`` or ``session.classify``; the frame itself
        where nothing is to be changed.

    Raises
    ------
    ValueError
        If no map leads from one layout to the other: a network of 3-D joints takes no 2-D ones; or the shape is not
        that of the source, or scores are wanted and there are none.
    TypeError
        If the frame is not float32.

    Examples
    --------
    >>> import numpy as np
    >>> from asma_fast import Skeleton
    >>> seen = np.random.default_rng(0).normal(size=(1, 33, 4)).astype(np.float32)  # with MediaPipe's visibility
    >>> adapt(seen, source="mediapipe", target=Skeleton.named("ntu-rgb+d")).shape
    (1, 25, 3)
    """
    layout = Skeleton.named(source)
    target = Skeleton.named(target) if isinstance(target, str) else target
    change = None if layout == target else _map(source, target)
    if not isinstance(frame, np.ndarray) or frame.dtype != np.float32:
        raise TypeError(f"frame must be a float32 array, got {getattr(frame, 'dtype', type(frame).__name__)}")
    dimensions = layout.dimensions
    channels = (dimensions + 1,) if scores else (dimensions, dimensions + 1)
    if frame.ndim not in (3, 4) or frame.shape[-2] != len(layout) or frame.shape[-1] not in channels:
        wanted = " or ".join(str(count) for count in channels)
        raise ValueError(
            f"frame must have shape (M, {len(layout)}, {wanted}) or (M, T, {len(layout)}, {wanted}), got {frame.shape}"
        )
    kept = frame if scores else frame[..., :dimensions]
    if change is not None:
        kept = change(kept[:, None])[:, 0] if kept.ndim == 3 else change(kept)
    return np.ascontiguousarray(kept)


@lru_cache(maxsize=64)
def _map(source: str, target: Skeleton) -> LayoutMap:
    return layout_map(Skeleton.named(source), target)
