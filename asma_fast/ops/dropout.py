"""Dropout whose mask belongs to the sample, not to the moment."""

from __future__ import annotations

import sys
from typing import Any

from asma_fast._array import Array, channels_last, dense, empty_channels_last
from asma_fast.ops._contract import FLOATS, as_float, as_int, check_count, check_dtype, check_shape
from asma_fast.ops._op import HAVE_TORCH, TORCH_OPS, Impl, Op, call_native, run
from asma_fast.ops._random import as_ids, as_seed, check_random, philox_words
from asma_fast.philox import Purpose

#: Blocks have 24 bits, so that their purposes stay clear of the others and of 32 bits.
MOST_BLOCKS = 1 << 24


def dropout(
    x: Array,
    p: float,
    *,
    seed: int | Array,
    block: int = 0,
    ids: Array | None = None,
    impl: str | Impl = "auto",
) -> Array:
    """Zero each element with probability ``p``, to the nearest 1/65536, and scale the others to keep the mean.

    Row b of ``x`` belongs to sample n = b // (B / N) and is its row m = b mod (B / N). Element (c, t, v) of it has
    index i = ((m·T + t)·V + v)·C + c in its sample. With q = round(65536·p), it is zero if its 16 random bits are below
    q, else ``x · 65536 / (65536 − q)``. One Philox4x32-10 call, key ``seed``, counter (id low, id high, ⌊i / 8⌋,
    dropout + block), serves eight elements: i takes word ⌊i / 2⌋ mod 4, its low half if i is even, else its high half.

    Nothing is stored for the backward pass: it applies the op to the gradient.

    Parameters
    ----------
    x
        Feature map ``(B, C, T, V)``, floating. Any strides; channels last is read without a copy.
    p
        Probability, at least 0; at most 1 − 2⁻¹⁷ (so that q < 65536).
    seed
        int, or int64 array of shape () (a tensor does not recompile ``torch.compile``).
    block
        Which of a network's dropouts this is, below 2²⁴.
    ids
        ``(N,)`` int64, N dividing B: who each sample is. None: 0 … B−1, one row each.
    impl
        ``"auto"``, ``"reference"``, ``"numba"`` or ``"cpu"`` (float32, float64).

    Returns
    -------
    array of shape (B, C, T, V)
        Of the kind and dtype of ``x``, channels last in memory. Differentiable in ``x``. What is dropped is zero even
        where ``x`` is not finite.

    Raises
    ------
    TypeError, ValueError
        If shapes or dtypes are wrong, ``p`` or ``block`` is out of range, or N does not divide B.

    Examples
    --------
    >>> import numpy as np
    >>> dropout(np.ones((1, 6, 1, 1), np.float32), 0.5, seed=1).ravel().tolist()
    [0.0, 2.0, 2.0, 2.0, 0.0, 0.0]
    """
    check_shape("x", x, "B C T V")
    p, block = as_float("p", p), as_int("block", block)
    return run(OP, impl, x, as_seed(seed, x), as_ids(ids, x.shape[0], x), p, block)


def _check(x: Array, seed: Array, ids: Array, p: float, block: int) -> None:
    check_shape("x", x, "B C T V")
    check_dtype("x", x, FLOATS)
    check_random("x", x, seed, ids)
    if (x.shape[0] % ids.shape[0] if ids.shape[0] else x.shape[0]) != 0:
        raise ValueError(f"ids must have a size that divides the {x.shape[0]} rows of x, got {ids.shape[0]}")
    as_float("p", p)
    if not 0 <= p <= 1 - 2.0**-17:
        raise ValueError(f"p must be in [0, 1 − 2⁻¹⁷], got {p}")
    check_count("block", block, 0, MOST_BLOCKS - 1)


def _allocate(x: Array, seed: Array, ids: Array, p: float, block: int) -> Array:
    return empty_channels_last(x.shape, x)


def cut(p: float) -> int:
    """q: an element whose 16 random bits are below it is dropped."""
    return min(round(p * 65536), 65535)


def _native(x: Array, seed: Array, ids: Array, p: float, block: int, out: Array) -> None:
    call_native("dropout", channels_last(x), seed, dense(ids), cut(p), block, out)


def _reference(x: Any, seed: Any, ids: Any, p: float, block: int) -> Any:
    torch = sys.modules["torch"]
    b, c, t, v = x.shape
    q = cut(p)
    physical = x.permute(0, 2, 3, 1)
    rows = b // max(ids.shape[0], 1)
    size = rows * t * v * c
    calls = torch.arange((size + 7) // 8, device=x.device)
    words = torch.stack(philox_words(seed, ids[:, None], calls, Purpose.DROPOUT.value + block), dim=-1)
    bits = torch.stack([words & 0xFFFF, words >> 16], dim=-1).flatten(1)[:, :size]
    dropped = (bits < q).reshape(b, t, v, c)
    out = empty_channels_last((b, c, t, v), x)
    return out.copy_(torch.where(dropped, 0, physical * (65536 / (65536 - q))).permute(0, 3, 1, 2))


OP = Op(
    name="dropout",
    stem="dropout",
    schema="(Tensor x, Tensor seed, Tensor ids, float p, SymInt block) -> Tensor",
    check=_check,
    allocate=_allocate,
    native=_native,
    reference=_reference,
    autocast=True,
    keeps_dtype=True,
)

if HAVE_TORCH:
    import torch

    from asma_fast.ops._torch import below_autograd, register

    def _autograd(name: str) -> type[torch.autograd.Function]:
        class _Dropout(torch.autograd.Function):
            differentiable = (0,)

            @staticmethod
            def forward(x: Any, seed: Any, ids: Any, p: float, block: int) -> Any:
                return below_autograd(name, x, seed, ids, p, block)

            @staticmethod
            def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
                _, seed, ids, ctx.p, ctx.block = inputs
                ctx.save_for_backward(seed, ids)

            @staticmethod
            @torch.autograd.function.once_differentiable
            def backward(ctx: Any, g: Any) -> Any:
                return TORCH_OPS[name](g, *ctx.saved_tensors, ctx.p, ctx.block), None, None, None, None

        return _Dropout

    register(OP, _autograd)
