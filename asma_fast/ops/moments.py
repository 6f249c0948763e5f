"""Sums and sums of products of the coordinates of every joint of a clip."""

from __future__ import annotations

import sys
from typing import Any

from asma_fast._array import Array, dense, empty
from asma_fast.ops._contract import FLOATS, check_dtype, check_shape, check_view
from asma_fast.ops._op import HAVE_TORCH, Impl, Op, call_native, run
from asma_fast.ops.gather_view import check_view_indices


def moments(x: Array, frames: Array | None = None, *, impl: str | Impl = "auto") -> tuple[Array, Array]:
    """First and second moments of every clip and recorded joint, over the kept frames of all bodies, as sums.

    ``first[n,v,c] = Σ_m Σ_t x[n,c,frames[n,t],v,m]`` and
    ``second[n,v,c,d] = Σ_m Σ_t x[n,c,frames[n,t],v,m] · x[n,d,frames[n,t],v,m]``: what the mean and variance of any
    linear transform of the coordinates follow from (input batch-norm, :class:`asma_fast.nn.InputNorm`).

    Parameters
    ----------
    x
        Clip ``(N, C, T, V, M)``, floating. Any strides.
    frames
        ``(N, T')`` or ``(1, T')`` int32: the kept frames; a repeated frame counts as often. None: all, once.
    impl
        ``"auto"``, ``"reference"``, ``"numba"`` or ``"cpu"`` (float32, float64).

    Returns
    -------
    first, second : arrays of shape (N, V, C) and (N, V, C, C), float64
        Of the kind of ``x``. A frame that is not kept plays no part, nor do its NaNs. Only the reference is
        differentiable, in ``x``.

    Raises
    ------
    TypeError, ValueError
        If shapes, dtypes or devices disagree, or an index lies outside the clip.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(3, dtype=np.float32).reshape(1, 1, 3, 1, 1)
    >>> first, second = moments(x, np.array([[1, 2, 2]], np.int32))
    >>> first.item(), second.item()
    (5.0, 9.0)
    """
    return run(OP, impl, x, frames)  # type: ignore[no-any-return]


def _check(x: Array, frames: Array | None) -> None:
    check_shape("x", x, "N C T V M")
    check_dtype("x", x, FLOATS)
    check_view(x, frames, None, None)


def _allocate(x: Array, frames: Array | None) -> tuple[Array, Array]:
    n, c, _, v, _ = x.shape
    return empty((n, v, c), x, "float64"), empty((n, v, c, c), x, "float64")


def _native(x: Array, frames: Array | None, first: Array, second: Array) -> None:
    call_native("moments", x, dense(frames), first, second)


def _reference(x: Any, frames: Any) -> Any:
    torch = sys.modules["torch"]
    check_view_indices(x, frames, None)
    n, c, t, v, m = x.shape
    x = x.double().permute(0, 3, 1, 4, 2).reshape(n, v, c, m * t)
    weighted = x
    if frames is not None:
        index = frames.long().expand(n, -1)
        reads = x.new_zeros(n, t).scatter_add(1, index, x.new_ones(1, 1).expand_as(index)).repeat(1, m)[:, None, None]
        x = torch.where(reads > 0, x, 0)
        weighted = x * reads
    return weighted.sum(-1), weighted @ x.transpose(-1, -2)


OP = Op(
    name="moments",
    stem="moments",
    schema="(Tensor x, Tensor? frames) -> (Tensor, Tensor)",
    check=_check,
    allocate=_allocate,
    native=_native,
    reference=_reference,
    autocast=True,
)

if HAVE_TORCH:
    from asma_fast.ops._torch import register

    register(OP)
