"""The passes of a training block: convolutions that also give what batch-norm needs of their results.

The last pass, :func:`block_output`, stands in a file of its own; the op of inference is here. The file is long because
three ops and their gradients share one contract.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from asma_fast._array import Array, channels_last, dense, empty
from asma_fast.ops._block_output import block_output
from asma_fast.ops._contract import check_alike, check_dtype, check_shape, check_together
from asma_fast.ops._op import (
    HAVE_TORCH,
    TORCH_OPS,
    Impl,
    Op,
    allocate_grads,
    call_native,
    check_needs,
    run,
    wanted,
)
from asma_fast.ops.graph_conv import _ARGUMENTS as GRAPH_ARGUMENTS
from asma_fast.ops.graph_conv import DIFFERENTIABLE as GRAPH_DIFFERENTIABLE
from asma_fast.ops.graph_conv import OP as GRAPH_CONV
from asma_fast.ops.graph_conv import _dense_parameters, canonical
from asma_fast.ops.temporal_conv import OP as TEMPORAL_CONV
from asma_fast.ops.temporal_conv import sizes_of
from asma_fast.view import View

__all__ = ["block_graph_conv", "block_inference", "block_output", "block_temporal_conv"]


def block_graph_conv(
    x: Array,
    weight: Array,
    adjacency: Array,
    bias: Array | None = None,
    *,
    view: View | None = None,
    nodes: Array | None = None,
    scale: Array | None = None,
    shift: Array | None = None,
    pattern: Array | None = None,
    impl: str | Impl = "auto",
) -> tuple[Array, Array]:
    """:func:`asma_fast.ops.graph_conv` with the sums that batch-norm needs of its result.

    Mean and biased variance of n values of a channel are ``sums[0] / n`` and ``sums[1] / n − mean²``. The sums are
    taken about a value near the mean and merged in float64 in a fixed order, so that this difference keeps its digits;
    as outputs with gradients they may be all-reduced between ranks. For the backward pass only inputs and ``y`` are
    kept.

    Parameters
    ----------
    x, weight, adjacency, bias, view, nodes, scale, shift, pattern, impl
        As of :func:`asma_fast.ops.graph_conv`.

    Returns
    -------
    y : array of shape (B, C_out, T', V')
        As :func:`asma_fast.ops.graph_conv` gives it.
    sums : array of shape (2, C_out), float64
        Of ``y`` and of its square over rows, frames and joints. Both are differentiable in x, weight, adjacency, bias,
        scale and shift.

    Raises
    ------
    TypeError, ValueError
        As :func:`asma_fast.ops.graph_conv` does.

    Examples
    --------
    >>> import numpy as np
    >>> x, weight = np.full((2, 3, 4, 5), 2, np.float32), np.ones((1, 7, 3), np.float32)
    >>> y, sums = block_graph_conv(x, weight, np.eye(5, dtype=np.float32)[None])
    >>> y.shape, sums[:, 0].tolist()
    ((2, 7, 4, 5), [240.0, 1440.0])
    """
    arguments = canonical(x, weight, adjacency, bias, view, nodes, scale, shift, pattern)
    return run(GRAPH, impl, *arguments)  # type: ignore[no-any-return]


def block_temporal_conv(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    scale: Array | None = None,
    shift: Array | None = None,
    stride: int = 1,
    padding: int | tuple[int, int] | None = None,
    dilation: int = 1,
    groups: int = 1,
    impl: str | Impl = "auto",
) -> tuple[Array, Array]:
    """:func:`asma_fast.ops.temporal_conv` of ``relu(scale · x + shift)``, with the sums that batch-norm needs.

    The normalised map is never stored: it is computed as the convolution and its gradient read ``x``. Frames of padding
    are zero after the normalisation.

    Parameters
    ----------
    x
        Feature map ``(B, C_in, T, V)``.
    weight, bias, stride, padding, dilation, groups, impl
        As of :func:`asma_fast.ops.temporal_conv`.
    scale, shift
        ``(C_in,)``, both or neither: the affine map of the batch-norm before. None: ``x`` is read as it is, without
        ReLU.

    Returns
    -------
    y : array of shape (B, C_out, T', V)
        Channels last in memory.
    sums : array of shape (2, C_out), float64
        Of ``y`` and of its square over rows, frames and joints, as :func:`block_graph_conv` gives them. Both are
        differentiable in x, weight, bias, scale and shift.

    Raises
    ------
    TypeError, ValueError
        As :func:`asma_fast.ops.temporal_conv` does, or if only one of scale and shift is given or has another shape.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(4, dtype=np.float32).reshape(1, 1, 4, 1)
    >>> one = np.ones(1, np.float32)
    >>> y, sums = block_temporal_conv(x, np.ones((1, 1, 3), np.float32), scale=2 * one, shift=-3 * one)
    >>> y.ravel().tolist(), sums.ravel().tolist()
    ([0.0, 1.0, 4.0, 4.0], [9.0, 33.0])
    """
    sizes = sizes_of(weight, stride, padding, dilation, groups)
    return run(TEMPORAL, impl, x, weight, bias, scale, shift, *sizes)  # type: ignore[no-any-return]


def block_inference(
    x: Array,
    scale: Array,
    shift: Array,
    weight: Array,
    bias: Array | None = None,
    residual: Array | None = None,
    *,
    stride: int = 1,
    padding: int | tuple[int, int] | None = None,
    dilation: int = 1,
    groups: int = 1,
    impl: str | Impl = "auto",
) -> Array:
    """``relu(temporal_conv(relu(scale · x + shift)) + residual)`` in one pass, forward only.

    The rest of an ST-GCN block after its graph convolution, in eval mode: the second batch-norm is folded into weight
    and bias.

    Parameters
    ----------
    x
        Feature map ``(B, C_in, T, V)``.
    scale, shift
        ``(C_in,)``.
    weight, bias, stride, padding, dilation, groups, impl
        As of :func:`asma_fast.ops.temporal_conv`.
    residual
        ``(B, C_out, T', V)``, or None.

    Returns
    -------
    array of shape (B, C_out, T', V)
        Channels last in memory. It has no gradient.

    Raises
    ------
    TypeError, ValueError
        As :func:`block_temporal_conv` does, or if ``residual`` has another shape.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(4, dtype=np.float32).reshape(1, 1, 4, 1)
    >>> one = np.ones(1, np.float32)
    >>> block_inference(x, 2 * one, -3 * one, -np.ones((1, 1, 3), np.float32), one, residual=x).ravel().tolist()
    [1.0, 1.0, 0.0, 0.0]
    """
    return run(
        INFERENCE, impl, x, scale, shift, weight, bias, residual, *sizes_of(weight, stride, padding, dilation, groups)
    )


def _allocate_sums(y: Array) -> Array:
    return empty((2, y.shape[1]), y, "float64")


def _with_sums(y: Any) -> tuple[Any, Any]:
    wide = y.double()
    return y, sys.modules["torch"].stack([wide.sum((0, 2, 3)), wide.square().sum((0, 2, 3))])


# ---- graph convolution ----


def _allocate_graph(*args: Any) -> tuple[Array, Array]:
    y = GRAPH_CONV.allocate(*args)
    return y, _allocate_sums(y)


def _native_graph(*args: Any) -> None:
    call_native("graph_conv", *_dense_parameters(args))


def _reference_graph(*args: Any) -> tuple[Any, Any]:
    assert GRAPH_CONV.reference is not None
    return _with_sums(GRAPH_CONV.reference(*args))


# ---- temporal convolution ----


def _check_affine(x: Array, scale: Array | None, shift: Array | None) -> None:
    if (scale is None) != (shift is None):
        raise ValueError("scale and shift must be given together")
    for name, value in (("scale", scale), ("shift", shift)):
        if value is not None:
            check_shape(name, value, "C_in", C_in=x.shape[1])
            check_alike(name, value, "x", x)


def _check_temporal(
    x: Array, weight: Array, bias: Array | None, scale: Array | None, shift: Array | None, *sizes: int
) -> None:
    TEMPORAL_CONV.check(x, weight, bias, *sizes)
    _check_affine(x, scale, shift)


def _allocate_temporal(x: Array, weight: Array, bias: Any, scale: Any, shift: Any, *sizes: int) -> tuple[Array, Array]:
    y = TEMPORAL_CONV.allocate(x, weight, bias, *sizes)
    return y, _allocate_sums(y)


def _native_temporal(
    x: Array,
    weight: Array,
    bias: Array | None,
    scale: Array | None,
    shift: Array | None,
    stride: int,
    left: int,
    right: int,
    dilation: int,
    groups: int,
    y: Array,
    sums: Array,
) -> None:
    sizes = (stride, left, dilation, groups)
    affine = (dense(scale), dense(shift))
    call_native("temporal_conv", channels_last(x), weight, dense(bias), *sizes, y, *affine, None, False, sums)


def _activated(x: Any, scale: Any, shift: Any) -> Any:
    """What the convolution reads."""
    return x if scale is None else (x * scale[:, None, None] + shift[:, None, None]).relu()


def _reference_temporal(x: Any, weight: Any, bias: Any, scale: Any, shift: Any, *sizes: int) -> tuple[Any, Any]:
    assert TEMPORAL_CONV.reference is not None
    return _with_sums(TEMPORAL_CONV.reference(_activated(x, scale, shift), weight, bias, *sizes))


# ---- inference ----


def _check_inference(
    x: Array, scale: Array, shift: Array, weight: Array, bias: Array | None, residual: Array | None, *sizes: int
) -> None:
    _check_temporal(x, weight, bias, scale, shift, *sizes)
    if residual is not None:
        b, c, t, v = TEMPORAL_CONV.allocate(x, weight, bias, *sizes).shape
        check_shape("residual", residual, "B C_out T' V", **{"B": b, "C_out": c, "T'": t, "V": v})
        check_alike("residual", residual, "x", x)


def _allocate_inference(
    x: Array, scale: Any, shift: Any, weight: Array, bias: Any, residual: Any, *sizes: int
) -> Array:
    return TEMPORAL_CONV.allocate(x, weight, bias, *sizes)


def _native_inference(
    x: Array,
    scale: Array,
    shift: Array,
    weight: Array,
    bias: Array | None,
    residual: Array | None,
    stride: int,
    left: int,
    right: int,
    dilation: int,
    groups: int,
    out: Array,
) -> None:
    sizes = (stride, left, dilation, groups)
    residual = None if residual is None else channels_last(residual)
    affine = (dense(scale), dense(shift))
    call_native("temporal_conv", channels_last(x), weight, dense(bias), *sizes, out, *affine, residual, True)


def _reference_inference(x: Any, scale: Any, shift: Any, weight: Any, bias: Any, residual: Any, *sizes: int) -> Any:
    assert TEMPORAL_CONV.reference is not None
    y = TEMPORAL_CONV.reference(_activated(x, scale, shift), weight, bias, *sizes)
    return (y if residual is None else y + residual).relu_()


# ---- backward: canonical arguments are g, sums_grad, y, those of the op, needs ----


def _check_backward(op: Op, places: tuple[int, ...]) -> Callable[..., None]:
    def check(g: Array, sums_grad: Array | None, y: Array | None, *rest: Any) -> None:
        args, needs = rest[:-1], rest[-1]
        op.check(*args)
        shape = op.allocate(*args)[0].shape
        sizes = dict(zip(("B", "C_out", "T'", "V"), shape, strict=True))
        if (sums_grad is None) != (y is None):
            raise ValueError("sums_grad and y must be given together")
        for name, value in (("g", g), ("y", y)):
            if value is not None:
                check_shape(name, value, "B C_out T' V", **sizes)
                check_alike(name, value, "x", args[0])
        if sums_grad is not None:
            check_shape("sums_grad", sums_grad, "2 C_out", **sizes)
            check_dtype("sums_grad", sums_grad, ("float64",))
            check_together("sums_grad", sums_grad, "x", args[0])
        check_needs(needs, args, places)

    return check


def _allocate_backward(places: tuple[int, ...]) -> Callable[..., tuple[Array, ...]]:
    def allocate(g: Array, sums_grad: Array | None, y: Array | None, *rest: Any) -> tuple[Array, ...]:
        return allocate_grads(rest[-1], rest, places, g)

    return allocate


def _native_graph_backward(g: Array, sums_grad: Array | None, y: Array | None, *rest: Any) -> None:
    args, needs, grads = rest[:11], rest[11], rest[12:]
    y = None if y is None else channels_last(y)
    call_native(
        "graph_conv_backward", channels_last(g), *_dense_parameters(args), *wanted(needs, grads), y, dense(sums_grad)
    )


def _native_temporal_backward(g: Array, sums_grad: Array | None, y: Array | None, *rest: Any) -> None:
    (x, weight, _, scale, shift, stride, left, _, dilation, groups), needs, grads = rest[:10], rest[10], rest[11:]
    x_grad, weight_grad, bias_grad, scale_grad, shift_grad = wanted(needs, grads)
    call_native(
        "temporal_conv_backward",
        channels_last(g),
        channels_last(x),
        weight,
        stride,
        left,
        dilation,
        groups,
        x_grad,
        weight_grad,
        bias_grad,
        dense(scale),
        dense(shift),
        scale_grad,
        shift_grad,
        None if y is None else channels_last(y),
        dense(sums_grad),
    )


_TEMPORAL_DIFFERENTIABLE = (0, 1, 2, 3, 4)
_SIZES = "SymInt stride, SymInt left, SymInt right, SymInt dilation, SymInt groups"
_TEMPORAL_ARGUMENTS = f"Tensor x, Tensor weight, Tensor? bias, Tensor? scale, Tensor? shift, {_SIZES}"
_BACKWARD_ARGUMENTS = "Tensor g, Tensor? sums_grad, Tensor? y"

GRAPH = Op(
    name="block_graph_conv",
    stem="block",
    schema=f"({GRAPH_ARGUMENTS}) -> (Tensor, Tensor)",
    check=GRAPH_CONV.check,
    allocate=_allocate_graph,
    native=_native_graph,
    reference=_reference_graph,
    autocast=True,
    keeps_dtype=True,
    triton=True,
)
GRAPH_BACKWARD = Op(
    name="block_graph_conv_backward",
    stem="block",
    schema=f"({_BACKWARD_ARGUMENTS}, {GRAPH_ARGUMENTS}, bool[] needs) -> ({', '.join(['Tensor'] * 6)})",
    check=_check_backward(GRAPH, GRAPH_DIFFERENTIABLE),
    allocate=_allocate_backward(GRAPH_DIFFERENTIABLE),
    native=_native_graph_backward,
    triton=True,
)
TEMPORAL = Op(
    name="block_temporal_conv",
    stem="block",
    schema=f"({_TEMPORAL_ARGUMENTS}) -> (Tensor, Tensor)",
    check=_check_temporal,
    allocate=_allocate_temporal,
    native=_native_temporal,
    reference=_reference_temporal,
    autocast=True,
    keeps_dtype=True,
    triton=True,
)
TEMPORAL_BACKWARD = Op(
    name="block_temporal_conv_backward",
    stem="block",
    schema=f"({_BACKWARD_ARGUMENTS}, {_TEMPORAL_ARGUMENTS}, bool[] needs) -> ({', '.join(['Tensor'] * 5)})",
    check=_check_backward(TEMPORAL, _TEMPORAL_DIFFERENTIABLE),
    allocate=_allocate_backward(_TEMPORAL_DIFFERENTIABLE),
    native=_native_temporal_backward,
    triton=True,
)
INFERENCE = Op(
    name="block_inference",
    stem="block",
    schema=(
        "(Tensor x, Tensor scale, Tensor shift, Tensor weight, Tensor? bias, Tensor? residual, "
        + _SIZES
        + ") -> Tensor"
    ),
    check=_check_inference,
    allocate=_allocate_inference,
    native=_native_inference,
    reference=_reference_inference,
    autocast=True,
    keeps_dtype=True,
    triton=True,
)

if HAVE_TORCH:
    import torch

    from asma_fast.ops._torch import below_autograd, register

    def _autograd(places: tuple[int, ...], arrays: int, name: str) -> type[torch.autograd.Function]:
        """Of an op whose first ``arrays`` arguments are tensors or None, with gradients at ``places``."""

        class _BlockConvolution(torch.autograd.Function):
            differentiable = places

            @staticmethod
            def forward(*args: Any) -> Any:
                return below_autograd(name, *args)

            @staticmethod
            def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
                ctx.set_materialize_grads(False)
                ctx.save_for_backward(*inputs[:arrays], output[0])
                ctx.sizes = inputs[arrays:]

            @staticmethod
            @torch.autograd.function.once_differentiable
            def backward(ctx: Any, g: Any, sums_grad: Any) -> Any:
                *args, y = ctx.saved_tensors
                result: list[Any] = [None] * len(ctx.needs_input_grad)
                if g is None and sums_grad is None:
                    return tuple(result)
                needs = [ctx.needs_input_grad[place] for place in places]
                g = torch.zeros_like(y) if g is None else g
                y = None if sums_grad is None else y
                grads = TORCH_OPS[f"{name}_backward"](g, sums_grad, y, *args, *ctx.sizes, needs)
                for place, needed, grad in zip(places, needs, grads, strict=True):
                    if needed:
                        result[place] = grad
                return tuple(result)

        return _BlockConvolution

    register(GRAPH, partial(_autograd, GRAPH_DIFFERENTIABLE, 11))
    register(GRAPH_BACKWARD)
    register(TEMPORAL, partial(_autograd, _TEMPORAL_DIFFERENTIABLE, 5))
    register(TEMPORAL_BACKWARD)
    register(INFERENCE)
