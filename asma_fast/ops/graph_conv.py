"""Graph convolution over the joints of a skeleton, reading a feature map or, through a view, a clip."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from asma_fast._array import Array, as_kind_of, channels_last, dense, empty_channels_last, is_array
from asma_fast.ops._contract import FLOATS, check_alike, check_dtype, check_shape, check_together, check_view
from asma_fast.ops._op import HAVE_TORCH, TORCH_OPS, Impl, Op, allocate_grads, call_native, check_needs, run, wanted
from asma_fast.ops.gather_view import OP as GATHER_VIEW
from asma_fast.ops.gather_view import view_arguments, view_shape
from asma_fast.view import View


def graph_conv(
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
) -> Array:
    """Graph convolution (ST-GCN, Yan et al., AAAI 2018), with masking, augmentation and input normalisation fused.

    ``y[b,o,t,w] = Σ_k Σ_v A[k,v,w] (Σ_c W[k,o,c] x̂[b,c,t,v] + bias[k,o])`` over the kept joints; A's rows and columns
    are selected by node and not renormalised; ``x̂ = scale[node] · x + shift[node]`` after the view's transform. An
    adjacency entry of exactly zero carries nothing, not even a NaN.

    Parameters
    ----------
    x
        Feature map ``(B, C, T, V)``, or clip ``(N, C, T, V, M)``, whose bodies become rows n·M + m of the result.
    weight
        ``(K, C_out, C)``.
    adjacency
        ``(K, V_graph, V_graph)``, or one a row of the result: ``(B, K, V_graph, V_graph)``.
    bias
        ``(K, C_out)``: added before the aggregation, as the published networks do.
    view
        How to read a clip. Only with a clip.
    nodes
        ``(N, V)`` or ``(1, V)`` int32: the node each joint of a feature map plays; row b belongs to clip b // (B / N).
        Only with a feature map. Without ``view`` and ``nodes``, V must be V_graph.
    scale, shift
        ``(V_graph, C)``, both or neither: an affine map by node and channel, the folded input batch-norm.
    pattern
        ``(K, V_graph, V_graph)`` bool. None: the exact dense gradient of the adjacency. Given: entries outside must be
        zero, and their gradient is exactly zero.
    impl
        ``"auto"``, ``"reference"``, ``"numba"``, ``"cpu"`` (float32, float64), ``"cuda"`` or ``"triton"`` (float32,
        halves).

    Returns
    -------
    array of shape (B, C_out, T', V')
        Channels last in memory. Differentiable in x, weight, adjacency, bias, scale and shift.

    Raises
    ------
    TypeError, ValueError
        If shapes, dtypes or devices disagree, a node or an index of the view is out of range, both ``view`` and
        ``nodes`` are given, the adjacency is not zero outside ``pattern``, or, of the CPU and Triton kernels, K·V'² is
        not below 2³¹.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.ones((2, 3, 4, 5), np.float32)
    >>> weight, adjacency = np.ones((1, 7, 3), np.float32), np.eye(5, dtype=np.float32)[None]
    >>> y = graph_conv(x, weight, adjacency)
    >>> y.shape, float(y[0, 0, 0, 0])
    ((2, 7, 4, 5), 3.0)
    """
    return run(OP, impl, *canonical(x, weight, adjacency, bias, view, nodes, scale, shift, pattern))


def canonical(
    x: Array,
    weight: Array,
    adjacency: Array,
    bias: Array | None,
    view: View | None,
    nodes: Array | None,
    scale: Array | None,
    shift: Array | None,
    pattern: Array | None,
) -> tuple[Any, ...]:
    """The arguments of the op: the view taken apart, once it is known to go with ``x``."""
    if view is not None:
        if not isinstance(view, View):
            raise TypeError(f"view must be a View, got {type(view).__name__}")
        if nodes is not None:
            raise ValueError("view and nodes exclude each other: a view names its own nodes")
        if is_array(x) and x.ndim == 4:
            raise ValueError(f"view reads a clip (N, C, T, V, M); x is a feature map of shape {tuple(x.shape)}")
        nodes = view.graph_nodes
    elif nodes is not None and is_array(x) and x.ndim == 5:
        raise ValueError(f"nodes belong to a feature map (B, C, T, V); x is a clip of shape {tuple(x.shape)}: use view")
    frames, joints, transform = view_arguments(x, view)
    return x, weight, adjacency, bias, frames, joints, as_kind_of(nodes, x), transform, scale, shift, pattern


def output_shape(x: Array, weight: Array, frames: Array | None, joints: Array | None) -> tuple[int, int, int, int]:
    """Shape of the result, ``(B, C_out, T', V')``."""
    if x.ndim == 4:
        return x.shape[0], weight.shape[1], x.shape[2], x.shape[3]
    n, _, t, v, m = view_shape(x, frames, joints)
    return n * m, weight.shape[1], t, v


def _check(
    x: Array,
    weight: Array,
    adjacency: Array,
    bias: Array | None,
    frames: Array | None,
    joints: Array | None,
    nodes: Array | None,
    transform: Array | None,
    scale: Array | None,
    shift: Array | None,
    pattern: Array | None,
) -> None:
    check_shape("x", x, "B C T V", "N C T V M")
    check_dtype("x", x, FLOATS)
    check_shape("weight", weight, "K C_out C", C=x.shape[1])
    if x.ndim == 5:
        check_view(x, frames, joints, transform)
    elif frames is not None or joints is not None or transform is not None:
        raise ValueError(f"view reads a clip (N, C, T, V, M); x is a feature map of shape {tuple(x.shape)}")
    rows, out, _, v = output_shape(x, weight, frames, joints)
    k, graph = weight.shape[0], adjacency.shape[-1] if hasattr(adjacency, "shape") and adjacency.ndim else 0
    sizes = {"K": k, "V": graph, "B": rows, "C": x.shape[1], "C_out": out}
    check_shape("adjacency", adjacency, "K V V", "B K V V", **sizes)
    if bias is not None:
        check_shape("bias", bias, "K C_out", **sizes)
    if (scale is None) != (shift is None):
        raise ValueError("scale and shift must be given together")
    for name, value in (("scale", scale), ("shift", shift)):
        if value is not None:
            check_shape(name, value, "V C", **sizes)
    for name, value in (
        ("weight", weight),
        ("adjacency", adjacency),
        ("bias", bias),
        ("scale", scale),
        ("shift", shift),
    ):
        if value is not None:
            check_alike(name, value, "x", x)
    if pattern is not None:
        check_shape("pattern", pattern, "K V V", **sizes)
        check_dtype("pattern", pattern, ("bool",))
        check_together("pattern", pattern, "x", x)
    _check_nodes(nodes, x, v, graph)


def _check_nodes(nodes: Array | None, x: Array, joints: int, graph: int) -> None:
    if nodes is None:
        if joints != graph:
            raise ValueError(
                f"x has {joints} joints, the adjacency {graph} nodes; name the node of each by nodes or view"
            )
        return
    if x.ndim == 5:
        check_shape("view.nodes", nodes, "N joints", "1 joints", N=x.shape[0], joints=joints)
    else:
        check_shape("nodes", nodes, "N joints", joints=joints)
        if x.shape[0] % nodes.shape[0] if nodes.shape[0] else x.shape[0]:
            raise ValueError(
                f"nodes must have a number of rows that divides the {x.shape[0]} rows of x, got {nodes.shape[0]}"
            )
    check_dtype("nodes", nodes, ("int32",))
    check_together("nodes", nodes, "x", x)


def _allocate(x: Array, weight: Array, adjacency: Array, bias: Any, frames: Any, joints: Any, *rest: Any) -> Array:
    return empty_channels_last(output_shape(x, weight, frames, joints), x)


def _dense_parameters(args: Sequence[Any]) -> list[Any]:
    """The canonical arguments; all but x, adjacency, pattern and outputs in C order, as the kernels read them."""
    return [dense(arg) if place in (1, *range(3, 10)) else arg for place, arg in enumerate(args)]


def _native(*args: Any) -> None:
    call_native("graph_conv", *_dense_parameters(args))


def _carry(carrier: Any, value: Any, alive: Any) -> Any:
    """``carrier · value`` where alive; elsewhere nothing, not even a NaN, and yet the carrier's exact gradient."""
    torch = sys.modules["torch"]
    nothing = (carrier - carrier.detach()) * value.detach().nan_to_num()
    return torch.where(alive, carrier * value, nothing)


def _reference(
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
) -> Any:
    torch = sys.modules["torch"]
    _check_values(adjacency, nodes, pattern, clip=x.ndim == 5)
    if pattern is not None:
        adjacency = torch.where(pattern, adjacency, 0)
    if x.ndim == 5:
        assert GATHER_VIEW.reference is not None
        clip = GATHER_VIEW.reference(x, frames, joints, transform)
        n, c, t, v, m = clip.shape
        x = clip.permute(0, 4, 1, 2, 3).reshape(n * m, c, t, v)
    rows, _, _, v = x.shape
    graph = adjacency.shape[-1]
    if nodes is None:
        nodes = torch.arange(v, device=x.device)[None]
    nodes = nodes.long().repeat_interleave(rows // nodes.shape[0] if nodes.shape[0] else 1, dim=0)
    if scale is not None:
        x = x * scale[nodes].transpose(1, 2)[:, :, None] + shift[nodes].transpose(1, 2)[:, :, None]
    if adjacency.ndim == 3:
        adjacency = adjacency.expand(rows, *adjacency.shape)
    picked = adjacency.gather(2, nodes[:, None, :, None].expand(-1, adjacency.shape[1], -1, graph))
    picked = picked.gather(3, nodes[:, None, None, :].expand(-1, adjacency.shape[1], v, -1))
    aggregated = x.new_zeros(rows, weight.shape[0], *x.shape[1:])
    for source in range(v):
        entries = picked[:, :, None, None, source]
        aggregated = aggregated + _carry(entries, x[:, None, :, :, source, None], entries != 0)
    y = torch.einsum("koc,bkctw->botw", weight, aggregated)
    if bias is not None:
        alive = (picked != 0).any(2)[..., None]
        y = y + _carry(picked.sum(2)[..., None], bias[:, None], alive).sum(1).transpose(1, 2)[:, :, None]
    out = empty_channels_last(y.shape, y)
    return out.copy_(y)


def _check_values(adjacency: Any, nodes: Any, pattern: Any, *, clip: bool) -> None:
    """What the native entry checks before it touches memory; skipped while torch.compile traces."""
    if sys.modules["torch"].compiler.is_compiling():
        return
    graph = adjacency.shape[-1]
    if nodes is not None and nodes.numel() and not (int(nodes.min()) >= 0 and int(nodes.max()) < graph):
        name = "view.nodes" if clip else "nodes"
        raise ValueError(f"{name} must lie in [0, {graph}), got {int(nodes.min())} to {int(nodes.max())}")
    if pattern is not None:
        outside = (adjacency != 0) & ~pattern
        if bool(outside.any()):
            place = tuple(outside.nonzero()[0].tolist())
            raise ValueError(f"adjacency must be zero outside pattern, got {float(adjacency[place])} at {place}")


DIFFERENTIABLE = (0, 1, 2, 3, 8, 9)  # of the canonical arguments: x, weight, adjacency, bias, scale, shift


def _check_backward(g: Array, *rest: Any) -> None:
    args, needs = rest[:-1], rest[-1]
    _check(*args)
    rows, out, frames, joints = output_shape(args[0], args[1], args[4], args[5])
    check_shape("g", g, "B C_out T V", B=rows, C_out=out, T=frames, V=joints)
    check_alike("g", g, "x", args[0])
    check_needs(needs, args, DIFFERENTIABLE)


def _allocate_backward(g: Array, *rest: Any) -> tuple[Array, ...]:
    return allocate_grads(rest[-1], rest, DIFFERENTIABLE, g)


def _native_backward(g: Array, *rest: Any) -> None:
    args, needs, grads = rest[:11], rest[11], rest[12:]
    call_native("graph_conv_backward", channels_last(g), *_dense_parameters(args), *wanted(needs, grads))


_ARGUMENTS = (
    "Tensor x, Tensor weight, Tensor adjacency, Tensor? bias, Tensor? frames, Tensor? joints, Tensor? nodes, "
    "Tensor? transform, Tensor? scale, Tensor? shift, Tensor? pattern"
)
OP = Op(
    name="graph_conv",
    stem="graph_conv",
    schema=f"({_ARGUMENTS}) -> Tensor",
    check=_check,
    allocate=_allocate,
    native=_native,
    reference=_reference,
    autocast=True,
    keeps_dtype=True,
    triton=True,
)
BACKWARD = Op(
    name="graph_conv_backward",
    stem="graph_conv",
    schema=f"(Tensor g, {_ARGUMENTS}, bool[] needs) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    check=_check_backward,
    allocate=_allocate_backward,
    native=_native_backward,
    triton=True,
)

if HAVE_TORCH:
    import torch

    from asma_fast.ops._torch import below_autograd, register

    def _autograd(name: str) -> type[torch.autograd.Function]:
        class _GraphConv(torch.autograd.Function):
            differentiable = DIFFERENTIABLE

            @staticmethod
            def forward(*args: Any) -> Any:
                return below_autograd(name, *args)

            @staticmethod
            def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
                ctx.save_for_backward(*inputs)

            @staticmethod
            @torch.autograd.function.once_differentiable
            def backward(ctx: Any, g: Any) -> Any:
                needs = [ctx.needs_input_grad[place] for place in DIFFERENTIABLE]
                grads = TORCH_OPS[f"{name}_backward"](g, *ctx.saved_tensors, needs)
                result = [None] * len(ctx.saved_tensors)
                for place, needed, grad in zip(DIFFERENTIABLE, needs, grads, strict=True):
                    if needed:
                        result[place] = grad
                return tuple(result)

        return _GraphConv

    register(OP, _autograd)
    register(BACKWARD)
