"""Triton kernels of :mod:`asma_fast.ops.graph_conv`.

One read of what is kept and one write of the result: each tile reads its frames through the view, aggregates them along
the links on the side of the input's channels, and multiplies by the channels' matrix. The gradient of x̂ is the same
pass along the links the other way.
"""

from __future__ import annotations

from typing import Any

import torch

from asma_fast._array import channels_last, dense
from asma_fast.triton.gather_view import gather_view_backward
from asma_fast.triton.graph_conv_gradients import adjacency_gradient, bias_gradient, through_affine
from asma_fast.triton.graph_conv_links import Links, check_pattern, links_of
from asma_fast.triton.graph_conv_rows import Reading, convolve, reading, weight_gradient


def _read(x: Any, *view: Any) -> Reading:
    """The reading of the canonical arguments from ``frames`` to ``shift``; maps lie channels last, clips anyhow."""
    return reading(channels_last(x) if x.ndim == 4 else x, *(dense(array) for array in view))


def graph_conv(
    x: Any,
    weight: Any,
    adjacency: Any,
    bias: Any,
    frames: Any,
    joints: Any,
    nodes: Any,
    transform: Any,
    scale: Any,
    shift: Any,
    pattern: Any,
    out: Any,
    sums: Any = None,
) -> None:
    """Fill ``out (B, C_out, T', V')`` and, unless None, ``sums (2, C_out)`` of it, float64."""
    check_pattern(adjacency, pattern)
    read = _read(x, frames, joints, nodes, transform, scale, shift)
    links = links_of(adjacency, dense(nodes), read.batch, read.joints)
    convolve(read, links, dense(weight), dense(bias), out, sums)


def graph_conv_backward(g: Any, *rest: Any) -> None:
    """Fill the gradients that are needed, of x, weight, adjacency, bias, scale and shift."""
    args, needs, grads = rest[:11], rest[11], rest[12:]
    fill_gradients(channels_last(g), args, [grad if need else None for grad, need in zip(grads, needs, strict=True)])


def fill_gradients(g: Any, args: Any, grads: Any) -> None:
    """Fill each of the gradients that is not None from the cotangent ``g``, channels last."""
    x, weight, adjacency, bias, frames, joints, nodes, transform, scale, shift, pattern = args
    x_grad, weight_grad, adjacency_grad, bias_grad, scale_grad, shift_grad = grads
    check_pattern(adjacency, pattern)
    read = _read(x, frames, joints, nodes, transform, scale, shift)
    nodes, weight = read.arrays[4], weight.contiguous()
    if weight_grad is not None or bias_grad is not None or adjacency_grad is not None:
        links = links_of(adjacency, nodes, read.batch, read.joints)
        if weight_grad is not None:
            weight_gradient(read, links, g, weight_grad)
        if bias_grad is not None:
            bias_gradient(read, links, g, bias_grad)
        if adjacency_grad is not None:
            adjacency_gradient(read, links, g, weight, dense(bias), pattern, adjacency_grad)
    if x_grad is None and scale_grad is None and shift_grad is None:
        return
    back = links_of(adjacency, nodes, read.batch, read.joints, transposed=True)
    _spread(g, args, read, back, weight.transpose(1, 2).contiguous(), (x_grad, scale_grad, shift_grad))


def _spread(g: Any, args: Any, read: Reading, back: Links, weight: Any, grads: Any) -> None:
    """The gradient of x̂, and from it those of x, scale and shift."""
    x, _, _, _, frames, joints, _, transform, scale, _, _ = args
    x_grad, scale_grad, shift_grad = grads
    rows = (read.batch, read.frames, read.joints, read.channels)
    whole = frames is None and joints is None and transform is None
    viewed: Any = None
    if x_grad is not None:
        viewed = _as_rows(x_grad) if whole else torch.empty(rows, dtype=g.dtype, device=g.device)
    spread = viewed if scale is None else torch.empty(rows, dtype=torch.float32, device=g.device)
    convolve(reading(g), back, weight, None, spread)
    if scale is not None:
        through_affine(read, spread, viewed, scale_grad, shift_grad)
    if x_grad is not None and not whole:
        clips, _, x_frames, x_joints, bodies = x.shape
        as_clip = viewed.view(clips, bodies, *rows[1:]).permute(0, 4, 2, 3, 1)
        gather_view_backward(as_clip, frames, joints, transform, x_frames, x_joints, x_grad)


def _as_rows(x_grad: Any) -> Any:
    """A gradient that lies channels last, as rows ``(B, T, V, C)``."""
    if x_grad.ndim == 4:
        return x_grad.permute(0, 2, 3, 1)
    return x_grad.permute(0, 4, 2, 3, 1).flatten(0, 1)
