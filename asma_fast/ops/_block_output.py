"""The last pass of a training block: normalisation, dropout, residual and ReLU."""

from __future__ import annotations

import sys
from typing import Any

from asma_fast._array import Array, channels_last, dense, empty_channels_last
from asma_fast.ops._contract import FLOATS, as_float, as_int, check_alike, check_count, check_dtype, check_shape
from asma_fast.ops._op import HAVE_TORCH, TORCH_OPS, Impl, Op, allocate_grads, call_native, check_needs, run, wanted
from asma_fast.ops._random import as_ids, as_seed
from asma_fast.ops.dropout import MOST_BLOCKS, cut
from asma_fast.ops.dropout import OP as DROPOUT


def block_output(
    x: Array,
    scale: Array,
    shift: Array,
    residual: Array | None = None,
    *,
    residual_scale: Array | None = None,
    residual_shift: Array | None = None,
    p: float = 0.0,
    seed: int | Array | None = None,
    block: int = 0,
    ids: Array | None = None,
    impl: str | Impl = "auto",
) -> Array:
    """``relu(dropout(scale · x + shift) + residual)`` in one pass, the residual itself scaled and shifted where asked.

    Dropout is :func:`asma_fast.ops.dropout`'s, decision by decision. Its mask is drawn again for the backward pass,
    which keeps ``out`` and what the gradients of the scales need: ``x``, and ``residual`` where it is scaled.

    Parameters
    ----------
    x
        Feature map ``(B, C, T, V)``, floating.
    scale, shift
        ``(C,)``: the affine map of the batch-norm.
    residual
        ``(B, C, T, V)``, or None.
    residual_scale, residual_shift
        ``(C,)``, both or neither; only with a residual.
    p, seed, block, ids
        As of :func:`asma_fast.ops.dropout`; where p is 0, seed and ids are not needed.
    impl
        ``"auto"``, ``"reference"``, ``"numba"``, ``"cpu"`` (float32, float64) or ``"triton"`` (float32, halves).

    Returns
    -------
    array of shape (B, C, T, V)
        Channels last in memory. Differentiable in x, scale, shift, residual, residual_scale and residual_shift.

    Raises
    ------
    TypeError, ValueError
        If shapes, dtypes or devices disagree, ``p`` or ``block`` is out of range, or ``seed`` is missing.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(4, dtype=np.float32).reshape(1, 1, 4, 1)
    >>> one = np.ones(1, np.float32)
    >>> block_output(x, 2 * one, -3 * one, residual=x).ravel().tolist()
    [0.0, 0.0, 3.0, 6.0]
    """
    p, block = as_float("p", p), as_int("block", block)
    if p == 0:
        seed = ids = None
    elif seed is None:
        raise ValueError(f"seed must be given where p is not 0, got None with p={p}")
    else:
        check_shape("x", x, "B C T V")
        seed, ids = as_seed(seed, x), as_ids(ids, x.shape[0], x)
    return run(OP, impl, x, scale, shift, residual, residual_scale, residual_shift, seed, ids, p, block)


def _check(
    x: Array,
    scale: Array,
    shift: Array,
    residual: Array | None,
    residual_scale: Array | None,
    residual_shift: Array | None,
    seed: Array | None,
    ids: Array | None,
    p: float,
    block: int,
) -> None:
    check_shape("x", x, "B C T V")
    check_dtype("x", x, FLOATS)
    if residual is None and (residual_scale is not None or residual_shift is not None):
        raise ValueError("residual_scale and residual_shift go with a residual, got None")
    if (residual_scale is None) != (residual_shift is None):
        raise ValueError("residual_scale and residual_shift must be given together")
    affine = (
        ("scale", scale),
        ("shift", shift),
        ("residual_scale", residual_scale),
        ("residual_shift", residual_shift),
    )
    for name, value in affine:
        if value is not None or name in ("scale", "shift"):
            check_shape(name, value, "C", C=x.shape[1])
            check_alike(name, value, "x", x)
    if residual is not None:
        check_shape("residual", residual, "B C T V", **dict(zip("BCTV", x.shape, strict=True)))
        check_alike("residual", residual, "x", x)
    _check_dropout(x, seed, ids, p, block)


def _check_dropout(x: Array, seed: Array | None, ids: Array | None, p: float, block: int) -> None:
    as_float("p", p)
    if seed is not None and ids is not None:
        DROPOUT.check(x, seed, ids, p, block)
    elif p != 0:
        raise ValueError(f"seed and ids must be given where p is not 0, got None with p={p}")
    check_count("block", block, 0, MOST_BLOCKS - 1)


def _allocate(x: Array, *rest: Any) -> Array:
    return empty_channels_last(x.shape, x)


def _map(x: Array | None) -> Array | None:
    return None if x is None else channels_last(x)


def _native(
    x: Array,
    scale: Array,
    shift: Array,
    residual: Array | None,
    residual_scale: Array | None,
    residual_shift: Array | None,
    seed: Array | None,
    ids: Array | None,
    p: float,
    block: int,
    out: Array,
) -> None:
    affine = (_map(residual), residual_scale, residual_shift)
    call_native("block_output", channels_last(x), scale, shift, *affine, seed, dense(ids), cut(p), block, out)


def _reference(
    x: Any,
    scale: Any,
    shift: Any,
    residual: Any,
    residual_scale: Any,
    residual_shift: Any,
    seed: Any,
    ids: Any,
    p: float,
    block: int,
) -> Any:
    y = x * scale[:, None, None] + shift[:, None, None]
    if p > 0:
        assert DROPOUT.reference is not None
        y = DROPOUT.reference(y, seed, ids, p, block)
    if residual is not None:
        if residual_scale is not None:
            residual = residual * residual_scale[:, None, None] + residual_shift[:, None, None]
        y = y + residual
    out = empty_channels_last(y.shape, y)
    return sys.modules["torch"].relu(out.copy_(y))


DIFFERENTIABLE = (0, 1, 2, 3, 4, 5)  # x, scale, shift, residual, residual_scale, residual_shift


def _as_large(out: Array, scale: Array) -> tuple[Array, ...]:
    """Arrays as large as the differentiable arguments, of which the backward op gets those that it reads."""
    return out, scale, scale, out, scale, scale


def _check_backward(
    g: Array,
    out: Array,
    x: Array | None,
    scale: Array,
    residual: Array | None,
    residual_scale: Array | None,
    seed: Array | None,
    ids: Array | None,
    p: float,
    block: int,
    needs: Any,
) -> None:
    check_shape("out", out, "B C T V")
    check_dtype("out", out, FLOATS)
    sizes = dict(zip("BCTV", out.shape, strict=True))
    for name, value in (("g", g), ("x", x), ("residual", residual)):
        if value is not None:
            check_shape(name, value, "B C T V", **sizes)
            check_alike(name, value, "out", out)
    for name, value in (("scale", scale), ("residual_scale", residual_scale)):
        if value is not None:
            check_shape(name, value, "C", **sizes)
            check_alike(name, value, "out", out)
    check_needs(needs, _as_large(out, scale), DIFFERENTIABLE)
    if needs[1] and x is None:
        raise ValueError("x must be given where the gradient of scale is needed, got None")
    if needs[4] and (residual is None or residual_scale is None):
        raise ValueError("residual and residual_scale must be given where the gradient of the latter is needed")
    _check_dropout(out, seed, ids, p, block)


def _allocate_backward(g: Array, out: Array, *rest: Any) -> tuple[Array, ...]:
    return allocate_grads(rest[-1], _as_large(out, rest[1]), DIFFERENTIABLE, out, maps=(0, 3))


def _native_backward(
    g: Array,
    out: Array,
    x: Array | None,
    scale: Array,
    residual: Array | None,
    residual_scale: Array | None,
    seed: Array | None,
    ids: Array | None,
    p: float,
    block: int,
    needs: Any,
    *grads: Array,
) -> None:
    maps = (channels_last(g), channels_last(out), _map(x), scale, _map(residual), residual_scale)
    call_native("block_output_backward", *maps, seed, dense(ids), cut(p), block, *wanted(needs, grads))


OP = Op(
    name="block_output",
    stem="block",
    schema=(
        "(Tensor x, Tensor scale, Tensor shift, Tensor? residual, Tensor? residual_scale, Tensor? residual_shift, "
        "Tensor? seed, Tensor? ids, float p, SymInt block) -> Tensor"
    ),
    check=_check,
    allocate=_allocate,
    native=_native,
    reference=_reference,
    autocast=True,
    keeps_dtype=True,
    triton=True,
)
BACKWARD = Op(
    name="block_output_backward",
    stem="block",
    schema=(
        "(Tensor g, Tensor out, Tensor? x, Tensor scale, Tensor? residual, Tensor? residual_scale, Tensor? seed, "
        f"Tensor? ids, float p, SymInt block, bool[] needs) -> ({', '.join(['Tensor'] * 6)})"
    ),
    check=_check_backward,
    allocate=_allocate_backward,
    native=_native_backward,
    triton=True,
)

if HAVE_TORCH:
    import torch

    from asma_fast.ops._torch import below_autograd, register

    def _autograd(name: str) -> type[torch.autograd.Function]:
        class _BlockOutput(torch.autograd.Function):
            differentiable = DIFFERENTIABLE

            @staticmethod
            def forward(*args: Any) -> Any:
                return below_autograd(name, *args)

            @staticmethod
            def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
                x, scale, _, residual, residual_scale, _, seed, ids, ctx.p, ctx.block = inputs
                x = x if ctx.needs_input_grad[1] else None
                residual = residual if ctx.needs_input_grad[4] else None
                ctx.save_for_backward(output, x, scale, residual, residual_scale, seed, ids)

            @staticmethod
            @torch.autograd.function.once_differentiable
            def backward(ctx: Any, g: Any) -> Any:
                needs = list(ctx.needs_input_grad[:6])
                grads = TORCH_OPS[f"{name}_backward"](g, *ctx.saved_tensors, ctx.p, ctx.block, needs)
                return (*(grad if needed else None for grad, needed in zip(grads, needs, strict=True)), *[None] * 4)

        return _BlockOutput

    register(OP, _autograd)
    register(BACKWARD)
