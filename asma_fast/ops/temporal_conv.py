"""Convolution along time, joint by joint."""

from __future__ import annotations

import sys
from typing import Any

from asma_fast._array import Array, channels_last, dense, empty, empty_channels_last
from asma_fast.ops._contract import FLOATS, as_int, check_alike, check_count, check_dtype, check_shape
from asma_fast.ops._op import HAVE_TORCH, TORCH_OPS, Impl, Op, call_native, run

#: Distances between frames are bounded so that no sum of them leaves 64 bits.
MOST_FRAMES = 2**31 - 1


def temporal_conv(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: int = 1,
    padding: int | tuple[int, int] | None = None,
    dilation: int = 1,
    groups: int = 1,
    impl: str | Impl = "auto",
) -> Array:
    """Convolution along time: a k×1 convolution of a feature map.

    ``y[b,o,t,v] = bias[o] + Σ_j Σ_c W[o,c,j] · x[b,c,t·stride + j·dilation − left,v]``, frames outside the map being
    zero.

    The CPU kernels choose by shape between the direct sum and, at stride and dilation 1 from 32 channels on, Winograd's
    F(3, 3) along time (Lavin & Gray, CVPR 2016; from 64 channels on nested with F(2, 3)), whose rounding error is about
    that of a plain float32 sum. By Winograd a frame that is not finite may spread to the five frames
    after or before those that read it, and an infinity becomes NaN there.
    The Triton kernels take the direct sum; a weight that is not finite meets the zeros of the padding there.

    Parameters
    ----------
    x
        Feature map ``(B, C_in, T, V)``.
    weight
        ``(C_out, C_in / groups, k)``.
    bias
        ``(C_out,)``.
    stride, dilation, groups
        At least 1; groups divides C_in and C_out. Stride, dilation and dilation·(k−1) are below 2³¹.
    padding
        Frames of zeros before and after: one number for both, or ``(left, right)``. None keeps the length at stride 1:
        dilation·(k−1) frames in all, the odd one after. Each below 2³¹.
    impl
        ``"auto"``, ``"reference"``, ``"numba"``, ``"cpu"`` (float32, float64), ``"cuda"`` or ``"triton"`` (float32,
        halves).

    Returns
    -------
    array of shape (B, C_out, T', V)
        T' = ⌊(T + left + right − dilation·(k−1) − 1) / stride⌋ + 1, channels last in memory. Differentiable in x,
        weight and bias.

    Raises
    ------
    TypeError, ValueError
        If shapes, dtypes or devices disagree, or the padded map is shorter than the kernel (a map without frames
        may stay one).

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(4, dtype=np.float32).reshape(1, 1, 4, 1)
    >>> temporal_conv(x, np.ones((1, 1, 3), np.float32)).ravel().tolist()
    [1.0, 3.0, 6.0, 5.0]
    """
    return run(OP, impl, x, weight, bias, *sizes_of(weight, stride, padding, dilation, groups))


def sizes_of(
    weight: Array, stride: int, padding: int | tuple[int, int] | None, dilation: int, groups: int
) -> tuple[int, int, int, int, int]:
    """``stride, left, right, dilation, groups`` as ints."""
    stride, dilation, groups = as_int("stride", stride), as_int("dilation", dilation), as_int("groups", groups)
    if padding is None:
        check_shape("weight", weight, "C_out C_in/groups k")
        reach = dilation * max(weight.shape[2] - 1, 0)
        left, right = reach // 2, reach - reach // 2
    elif isinstance(padding, tuple):
        if len(padding) != 2:
            raise ValueError(f"padding must be None, an int or (left, right), got {padding!r}")
        left, right = as_int("padding", padding[0]), as_int("padding", padding[1])
    else:
        left = right = as_int("padding", padding)
    return stride, left, right, dilation, groups


def output_frames(frames: int, taps: int, stride: int, left: int, right: int, dilation: int) -> int:
    """T' of a map of ``frames`` frames."""
    return (frames + left + right - dilation * (taps - 1) - 1) // stride + 1


def _check(
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: int,
    left: int,
    right: int,
    dilation: int,
    groups: int,
) -> None:
    check_shape("x", x, "B C_in T V")
    check_dtype("x", x, FLOATS)
    check_shape("weight", weight, "C_out C_in/groups k")
    for name, value, low in (
        ("stride", stride, 1),
        ("dilation", dilation, 1),
        ("dilation·(k−1)", dilation * max(weight.shape[2] - 1, 0), 0),
        ("padding", left, 0),
        ("padding", right, 0),
    ):
        check_count(name, value, low, MOST_FRAMES)
    check_count("groups", groups, 1)
    check_alike("weight", weight, "x", x)
    c_in, (c_out, per_group, taps) = x.shape[1], weight.shape
    if c_in % groups or c_out % groups or per_group * groups != c_in:
        raise ValueError(
            f"weight must have shape (C_out, C_in/groups, k) with C_in={c_in} and groups={groups} dividing both, "
            f"got {tuple(weight.shape)}"
        )
    if taps < 1:
        raise ValueError("weight must have at least one tap, got k=0")
    if bias is not None:
        check_shape("bias", bias, "C_out", C_out=c_out)
        check_alike("bias", bias, "x", x)
    span = dilation * (taps - 1) + (1 if x.shape[2] else 0)  # a map without frames may stay one
    if x.shape[2] + left + right < span:
        raise ValueError(
            f"x must have, with padding, at least the {span} frames the kernel spans, "
            f"got {x.shape[2]} + {left} + {right}"
        )


def _allocate(
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: int,
    left: int,
    right: int,
    dilation: int,
    groups: int,
) -> Array:
    frames = output_frames(x.shape[2], weight.shape[2], stride, left, right, dilation)
    return empty_channels_last((x.shape[0], weight.shape[0], frames, x.shape[3]), x)


def _native(
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: int,
    left: int,
    right: int,
    dilation: int,
    groups: int,
    out: Array,
) -> None:
    call_native("temporal_conv", channels_last(x), weight, dense(bias), stride, left, dilation, groups, out)


def _reference(x: Any, weight: Any, bias: Any, stride: int, left: int, right: int, dilation: int, groups: int) -> Any:
    functional = sys.modules["torch"].nn.functional
    frames = output_frames(x.shape[2], weight.shape[2], stride, left, right, dilation)
    out = empty_channels_last((x.shape[0], weight.shape[0], frames, x.shape[3]), x)
    if 0 in out.shape:  # torch refuses most of these
        return out + x.sum() * weight.sum() * (1 if bias is None else bias.sum())
    padded = functional.pad(x, (0, 0, left, right))
    y = functional.conv2d(padded, weight[..., None], bias, stride=(stride, 1), dilation=(dilation, 1), groups=groups)
    return out.copy_(y)


def _check_backward(
    g: Array,
    x: Array,
    weight: Array,
    stride: int,
    left: int,
    right: int,
    dilation: int,
    groups: int,
    needs_x: bool,
    needs_weight: bool,
    needs_bias: bool,
) -> None:
    _check(x, weight, None, stride, left, right, dilation, groups)
    frames = output_frames(x.shape[2], weight.shape[2], stride, left, right, dilation)
    check_shape("g", g, "B C_out T' V", **{"B": x.shape[0], "C_out": weight.shape[0], "T'": frames, "V": x.shape[3]})
    check_alike("g", g, "x", x)


def _allocate_backward(g: Array, x: Array, weight: Array, *rest: Any) -> tuple[Array, Array, Array]:
    needs_x, needs_weight, needs_bias = rest[-3:]
    return (
        empty_channels_last(x.shape, x) if needs_x else empty((0,), x),
        empty(weight.shape if needs_weight else (0,), x),
        empty((weight.shape[0] if needs_bias else 0,), x),
    )


def _native_backward(
    g: Array,
    x: Array,
    weight: Array,
    stride: int,
    left: int,
    right: int,
    dilation: int,
    groups: int,
    needs_x: bool,
    needs_weight: bool,
    needs_bias: bool,
    *gradients: Array,
) -> None:
    wanted = (
        gradient if needed else None
        for gradient, needed in zip(gradients, (needs_x, needs_weight, needs_bias), strict=True)
    )
    call_native(
        "temporal_conv_backward", channels_last(g), channels_last(x), weight, stride, left, dilation, groups, *wanted
    )


OP = Op(
    name="temporal_conv",
    stem="temporal_conv",
    schema=(
        "(Tensor x, Tensor weight, Tensor? bias, SymInt stride, SymInt left, SymInt right, SymInt dilation, "
        "SymInt groups) -> Tensor"
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
    name="temporal_conv_backward",
    stem="temporal_conv",
    schema=(
        "(Tensor g, Tensor x, Tensor weight, SymInt stride, SymInt left, SymInt right, SymInt dilation, "
        "SymInt groups, bool needs_x, bool needs_weight, bool needs_bias) -> (Tensor, Tensor, Tensor)"
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
        class _TemporalConv(torch.autograd.Function):
            differentiable = (0, 1, 2)

            @staticmethod
            def forward(x: Any, weight: Any, bias: Any, *sizes: int) -> Any:
                return below_autograd(name, x, weight, bias, *sizes)

            @staticmethod
            def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
                x, weight, _, *ctx.sizes = inputs
                ctx.save_for_backward(x, weight)

            @staticmethod
            @torch.autograd.function.once_differentiable
            def backward(ctx: Any, g: Any) -> Any:
                needed = ctx.needs_input_grad[:3]
                gradients = TORCH_OPS[f"{name}_backward"](g, *ctx.saved_tensors, *ctx.sizes, *needed)
                return (
                    *(gradient if need else None for gradient, need in zip(gradients, needed, strict=True)),
                    *(None for _ in ctx.sizes),
                )

        return _TemporalConv

    register(OP, _autograd)
    register(BACKWARD)
