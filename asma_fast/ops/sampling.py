"""Which joints and frames a mask removes. Integer arithmetic: every implementation gives the same numbers."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from asma_fast._array import Array, as_dense, dense, empty
from asma_fast.ops._contract import REALS, as_int, check_array, check_count, check_dtype, check_shape
from asma_fast.ops._op import HAVE_TORCH, Impl, Op, call_native, run
from asma_fast.ops._random import as_ids, as_seed, check_random, philox_words
from asma_fast.philox import Purpose

WEIGHTS = (*REALS, "int32", "int64")
#: Above this, the sum of the integer weights times a 32-bit word would not fit into 64 bits.
MOST_JOINTS = 32767


def sample_joints(
    weights: Array, drop: int, *, seed: int | Array, ids: Array | None = None, impl: str | Impl = "auto"
) -> Array:
    """Keep all joints of each clip but ``drop`` distinct ones, drawn by weight without replacement.

    Integer weights q = round-half-even(w / max w · 65536), at least 1 where w > 0. Draw d takes the first word u of
    Philox4x32-10 with key ``seed`` and counter (id low, id high, d, joints), and removes the first joint at which the
    cumulative sum of q over the joints still there exceeds ⌊u · Σq / 2³²⌋.

    Parameters
    ----------
    weights
        ``(V,)`` or ``(N, V)``, float32, float64, int32 or int64; finite, not negative, not all zero in a row: how
        readily a joint is dropped. A joint of weight 0 never is. V at most 32767.
    drop
        Joints to remove, at most the number of positive weights of each row.
    seed
        int, or int64 array of shape () (a tensor does not recompile ``torch.compile``).
    ids
        ``(N,)`` int64: who each clip is, so that its mask does not depend on its place in the batch. None: 0 … N−1,
        with N = 1 for weights ``(V,)``.
    impl
        ``"auto"``, ``"reference"``, ``"numba"``, ``"cpu"``, ``"cuda"`` or ``"triton"``.

    Returns
    -------
    array of shape (N, V − drop), int32
        Of the kind of ``weights``: the kept joints, ascending; ``joints`` of a :class:`~asma_fast.View`. Not
        differentiable.

    Raises
    ------
    TypeError, ValueError
        If shapes or dtypes are wrong, a weight is not allowed, or fewer joints than ``drop`` have a positive weight.

    Examples
    --------
    >>> import numpy as np
    >>> sample_joints(np.array([0, 0, 5, 0, 1]), 2, seed=3).tolist()
    [[0, 1, 3]]
    """
    check_array("weights", weights)
    count = weights.shape[0] if weights.ndim == 2 else 1
    return run(JOINTS, impl, weights, as_int("drop", drop), as_seed(seed, weights), as_ids(ids, count, weights))


def sample_frames(
    scores: Array,
    drop: int,
    *,
    remove: str = "high",
    random_drop: int = 0,
    seed: int | Array,
    ids: Array | None = None,
    impl: str | Impl = "auto",
) -> Array:
    """Keep all frames of each clip but the ``drop`` of highest or lowest score and ``random_drop`` of the rest.

    Frames are ranked by the float32 score cut to 12 mantissa bits (towards zero); of equal ones, the frame with the
    smaller Philox key goes first: the first word for counter (id low, id high, frame, ties); then the smaller index.
    Draw d of the random ones takes the first word u for counter (id low, id high, d, frames) and removes the
    ⌊u · remaining / 2³²⌋-th of the frames still there, counted from 0.

    Parameters
    ----------
    scores
        ``(N, T)`` float32; float64 is rounded to float32 first. Infinities are ordered, NaN is an error.
    drop, random_drop
        Frames to remove, together at most T.
    remove
        ``"high"`` or ``"low"``: which scores go.
    seed
        int, or int64 array of shape () (a tensor does not recompile ``torch.compile``).
    ids
        ``(N,)`` int64: who each clip is; None: 0 … N−1.
    impl
        ``"auto"``, ``"reference"``, ``"numba"``, ``"cpu"``, ``"cuda"`` or ``"triton"``.

    Returns
    -------
    array of shape (N, T − drop − random_drop), int32
        Of the kind of ``scores``: the kept frames, ascending; ``frames`` of a :class:`~asma_fast.View`. Not
        differentiable.

    Raises
    ------
    TypeError, ValueError
        If shapes or dtypes are wrong, a score is NaN, or more frames go than there are.

    Examples
    --------
    >>> import numpy as np
    >>> sample_frames(np.array([[3, 1, 2, 9]], np.float32), 2, remove="low", seed=0).tolist()
    [[0, 3]]
    """
    if remove not in ("high", "low"):
        raise ValueError(f"remove must be 'high' or 'low', got {remove!r}")
    check_shape("scores", scores, "N T")
    count = scores.shape[0]
    return run(
        FRAMES,
        impl,
        scores,
        as_int("drop", drop),
        remove == "high",
        as_int("random_drop", random_drop),
        as_seed(seed, scores),
        as_ids(ids, count, scores),
    )


def _check_joints(weights: Array, drop: int, seed: Array, ids: Array) -> None:
    check_shape("weights", weights, "V", "N V")
    check_dtype("weights", weights, WEIGHTS)
    joints = weights.shape[-1]
    if joints < 1 or joints > MOST_JOINTS:
        raise ValueError(f"weights must be of 1 to {MOST_JOINTS} joints, got {joints}")
    check_count("drop", drop, 0, joints)
    check_random("weights", weights, seed, ids, **({"N": weights.shape[0]} if weights.ndim == 2 else {}))


def _allocate_joints(weights: Array, drop: int, seed: Array, ids: Array) -> Array:
    return empty((ids.shape[0], weights.shape[-1] - drop), weights, "int32")


def _check_frames(scores: Array, drop: int, high: bool, random_drop: int, seed: Array, ids: Array) -> None:
    check_shape("scores", scores, "N T")
    check_dtype("scores", scores, REALS)
    check_count("drop", drop, 0, scores.shape[1])
    check_count("random_drop", random_drop, 0)
    if drop + random_drop > scores.shape[1]:
        raise ValueError(
            f"drop and random_drop must together be at most the {scores.shape[1]} frames, got {drop} + {random_drop}"
        )
    check_random("scores", scores, seed, ids, N=scores.shape[0])


def _allocate_frames(scores: Array, drop: int, high: bool, random_drop: int, seed: Array, ids: Array) -> Array:
    return empty((scores.shape[0], scores.shape[1] - drop - random_drop), scores, "int32")


def _native_joints(weights: Array, drop: int, seed: Array, ids: Array, kept: Array) -> None:
    call_native("sample_joints", as_dense(weights, "float64"), drop, seed, dense(ids), kept)


def _native_frames(
    scores: Array, drop: int, high: bool, random_drop: int, seed: Array, ids: Array, kept: Array
) -> None:
    if isinstance(scores, np.ndarray):
        with np.errstate(over="ignore"):  # a float64 score beyond float32 is an infinity, which is ordered
            scores = as_dense(scores, "float32")
    else:
        scores = as_dense(scores, "float32")
    call_native("sample_frames", scores, drop, high, random_drop, seed, dense(ids), kept)


def check_weights(lowest: Any, highest: Any, positive: Any, drop: int) -> None:
    """The extremes and the number of positive weights of each row, as arrays, allow the draw."""
    if not bool(((lowest >= 0) & (highest < float("inf"))).all()):
        raise ValueError("weights must be finite and not negative, got others")
    if not bool((highest > 0).all()):
        raise ValueError("weights must not all be zero, got a row of zeros")
    if not bool((positive >= drop).all()):
        raise ValueError(f"drop must be at most the number of positive weights, {int(positive.min())}, got {drop}")


def _reference_joints(weights: Any, drop: int, seed: Any, ids: Any) -> Any:
    torch = sys.modules["torch"]
    w = weights.detach().to(torch.float64).expand(ids.shape[0], weights.shape[-1])
    if not torch.compiler.is_compiling():
        check_weights(w.amin(1), w.amax(1), (w > 0).sum(1), drop)
    q = torch.round(w / w.amax(1, keepdim=True) * 65536).clamp(min=1)
    q = torch.where(w > 0, q, 0).to(torch.int64)
    kept = _draw(q, torch.ones_like(q, dtype=torch.bool), drop, seed, ids, Purpose.JOINTS)
    return _positions(kept, w.shape[1] - drop)


def _reference_frames(scores: Any, drop: int, high: bool, random_drop: int, seed: Any, ids: Any) -> Any:
    torch = sys.modules["torch"]
    scores = scores.detach().to(torch.float32)
    if not torch.compiler.is_compiling() and bool(scores.isnan().any()):
        raise ValueError("scores must not be NaN, got NaN")
    bits = scores.contiguous().view(torch.int32).to(torch.int64)
    magnitude = bits & 0x7FFFF800
    rank = torch.where(bits < 0, -magnitude, magnitude)
    frames = torch.arange(scores.shape[1], device=scores.device)
    ties = philox_words(seed, ids[:, None], frames, Purpose.TIES)[0]
    order = torch.argsort(((-rank if high else rank) << 32) + ties, dim=1, stable=True)
    kept = torch.ones_like(bits, dtype=torch.bool).scatter(1, order[:, :drop], False)
    kept = _draw(torch.ones_like(bits), kept, random_drop, seed, ids, Purpose.FRAMES)
    return _positions(kept, scores.shape[1] - drop - random_drop)


def _draw(q: Any, kept: Any, count: int, seed: Any, ids: Any, purpose: Purpose) -> Any:
    """Remove ``count`` positions of each row from ``kept``, by integer weight, without replacement."""
    torch = sys.modules["torch"]
    for draw in range(count):
        cumulative = torch.where(kept, q, 0).cumsum(1)
        word = philox_words(seed, ids, draw, purpose)[0]
        threshold = (word * cumulative[:, -1]) >> 32
        kept = kept.scatter(1, (cumulative <= threshold[:, None]).sum(1, keepdim=True), False)
    return kept


def _positions(kept: Any, count: int) -> Any:
    """``(N, count)`` int32: where each row of ``kept`` is true, ascending."""
    torch = sys.modules["torch"]
    return torch.argsort((~kept).to(torch.int8), dim=1, stable=True)[:, :count].to(torch.int32)


JOINTS = Op(
    name="sample_joints",
    stem="sampling",
    schema="(Tensor weights, SymInt drop, Tensor seed, Tensor ids) -> Tensor",
    check=_check_joints,
    allocate=_allocate_joints,
    native=_native_joints,
    reference=_reference_joints,
    triton=True,
)
FRAMES = Op(
    name="sample_frames",
    stem="sampling",
    schema="(Tensor scores, SymInt drop, bool high, SymInt random_drop, Tensor seed, Tensor ids) -> Tensor",
    check=_check_frames,
    allocate=_allocate_frames,
    native=_native_frames,
    reference=_reference_frames,
    triton=True,
)

if HAVE_TORCH:
    from asma_fast.ops._torch import register

    register(JOINTS)
    register(FRAMES)
