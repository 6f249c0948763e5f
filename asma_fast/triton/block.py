"""Triton kernels of :mod:`asma_fast.ops.block`: the convolutions with their sums, and the passes around them.

The convolutions are those of graph_conv and temporal_conv: sums of a result are taken in its tiles, as float64, and
added in the order of the tiles. Their gradients are folded into that of the result before the convolutions' own.
"""

from __future__ import annotations

from typing import Any

import torch

from asma_fast._array import channels_last, dense
from asma_fast.triton._tiles import fold_gradient
from asma_fast.triton.block_output import block_output, block_output_backward
from asma_fast.triton.graph_conv import fill_gradients, graph_conv
from asma_fast.triton.temporal_conv import convolve, packed
from asma_fast.triton.temporal_conv_backward import weight_gradient

__all__ = [
    "block_graph_conv",
    "block_graph_conv_backward",
    "block_inference",
    "block_output",
    "block_output_backward",
    "block_temporal_conv",
    "block_temporal_conv_backward",
]


def _map(x: Any) -> Any:
    return None if x is None else channels_last(x)


def block_graph_conv(*args: Any) -> None:
    """Fill ``y (B, C_out, T', V')`` and ``sums (2, C_out)``, the last two arguments."""
    graph_conv(*args)


def block_graph_conv_backward(g: Any, sums_grad: Any, y: Any, *rest: Any) -> None:
    """Fill the gradients that are needed, of x, weight, adjacency, bias, scale and shift."""
    args, needs, grads = rest[:11], rest[11], rest[12:]
    wanted = [grad if need else None for grad, need in zip(grads, needs, strict=True)]
    g = fold_gradient(channels_last(g), _map(y), dense(sums_grad), None, keep=True)
    fill_gradients(g, args, wanted)


def block_temporal_conv(
    x: Any,
    weight: Any,
    bias: Any,
    scale: Any,
    shift: Any,
    stride: int,
    left: int,
    right: int,
    dilation: int,
    groups: int,
    y: Any,
    sums: Any,
) -> None:
    """Fill ``y (B, C_out, T', V)`` and ``sums (2, C_out)``."""
    sizes, affine = (stride, left, dilation, groups), (dense(scale), dense(shift))
    convolve(channels_last(x), packed(weight, groups), y, sizes, bias=dense(bias), affine=affine, sums=sums)


def block_temporal_conv_backward(g: Any, sums_grad: Any, y: Any, *rest: Any) -> None:
    """Fill the gradients that are needed, of x, weight, bias, scale and shift."""
    (x, weight, _, scale, shift, stride, left, _, dilation, groups), needs, grads = rest[:10], rest[10], rest[11:]
    wanted = [grad if need else None for grad, need in zip(grads, needs, strict=True)]
    x_grad, weight_grad, bias_grad, scale_grad, shift_grad = wanted
    sizes, affine, x = (stride, left, dilation, groups), (dense(scale), dense(shift)), channels_last(x)
    keep = any(grad is not None for grad in (x_grad, weight_grad, scale_grad, shift_grad))
    g = fold_gradient(channels_last(g), _map(y), dense(sums_grad), bias_grad, keep=keep)
    if weight_grad is not None:
        weight_gradient(g, x, weight_grad, sizes, affine)
    if x_grad is None and scale_grad is None and shift_grad is None:
        return
    sums = None
    if scale_grad is not None or shift_grad is not None:
        sums = torch.empty((2, x.shape[1]), dtype=torch.float64, device=x.device)
    inner = (None, None, None) if scale is None else (x, *affine)
    back = packed(weight, groups, transposed=True)
    convolve(g, back, x_grad, sizes, inner=inner, transposed=True, shape=x.shape, sums=sums)
    for grad, row in ((scale_grad, 0), (shift_grad, 1)):
        if grad is not None and sums is not None:
            grad.copy_(sums[row])


def block_inference(
    x: Any,
    scale: Any,
    shift: Any,
    weight: Any,
    bias: Any,
    residual: Any,
    stride: int,
    left: int,
    right: int,
    dilation: int,
    groups: int,
    out: Any,
) -> None:
    """Fill ``out (B, C_out, T', V)``."""
    convolve(
        channels_last(x),
        packed(weight, groups),
        out,
        (stride, left, dilation, groups),
        bias=dense(bias),
        affine=(dense(scale), dense(shift)),
        residual=_map(residual),
        relu=True,
    )
