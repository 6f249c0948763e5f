"""A view of a clip, materialised."""

from __future__ import annotations

import sys
from typing import Any

from asma_fast._array import Array, as_kind_of, dense, dtype_name, empty_channels_last, is_array, is_tensor
from asma_fast.ops._contract import FLOATS, check_dtype, check_shape, check_view
from asma_fast.ops._op import HAVE_TORCH, TORCH_OPS, Impl, Op, call_native, run
from asma_fast.view import View

if HAVE_TORCH:
    import torch


def gather_view(x: Array, view: View, *, impl: str | Impl = "auto") -> Array:
    """Read a clip through a view: crop, masks, flip, shear and rotation at once.

    ``out[n,e,t,v,m] = Σ_c transform[n,e,c] · x[n,c,frames[n,t],joints[n,v],m]``

    Parameters
    ----------
    x
        Clip ``(N, C, T, V, M)``, floating. Any strides.
    view
        Maps of N rows or 1. Its nodes play no part here.
    impl
        ``"auto"``, ``"reference"``, ``"numba"``, ``"cpu"`` (float32, float64), ``"cuda"`` or ``"triton"`` (float32,
        halves).

    Returns
    -------
    array of shape (N, C, T', V', M)
        Of the kind and dtype of ``x``, channels last in memory. Differentiable in ``x``, not in the transform.

    Raises
    ------
    TypeError, ValueError
        If shapes, dtypes or devices disagree, or an index lies outside the clip.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(6, dtype=np.float32).reshape(1, 1, 3, 2, 1)
    >>> view = View(frames=np.array([[2, 0]], np.int32), joints=np.array([[1]], np.int32))
    >>> gather_view(x, view).ravel().tolist()
    [5.0, 1.0]
    """
    if view is None:
        raise TypeError("view must be a View, got NoneType")
    return run(OP, impl, x, *view_arguments(x, view))


def view_arguments(x: Array, view: View | None) -> tuple[Array | None, Array | None, Array | None]:
    """``(frames, joints, transform)`` as arrays of ``x``'s kind; the transform detached and float32 or wider."""
    if view is None or not is_array(x):
        return None, None, None
    if not isinstance(view, View):
        raise TypeError(f"view must be a View, got {type(view).__name__}")
    frames, joints, transform = (as_kind_of(a, x) for a in (view.frames, view.joints, view.transform))
    if transform is not None:
        wanted = "float64" if dtype_name(x) == "float64" else "float32"
        if is_tensor(transform):
            transform = transform.detach().to(getattr(sys.modules["torch"], wanted))
        elif is_array(transform):
            transform = transform.astype(wanted, copy=False)
    return frames, joints, transform


def view_shape(x: Array, frames: Array | None, joints: Array | None) -> tuple[int, int, int, int, int]:
    """Shape of ``x (N, C, T, V, M)`` read through a view."""
    n, c, t, v, m = x.shape
    return n, c, t if frames is None else frames.shape[1], v if joints is None else joints.shape[1], m


def check_view_indices(x: Any, frames: Any, joints: Any) -> None:
    """The index ranges of a view of the tensor ``x``, where a reference reads it; not checked while compiling."""
    for name, index, limit in (("view.frames", frames, x.shape[2]), ("view.joints", joints, x.shape[3])):
        if index is None or sys.modules["torch"].compiler.is_compiling() or index.numel() == 0:
            continue
        if int(index.min()) < 0 or int(index.max()) >= limit:
            raise ValueError(f"{name} must lie in [0, {limit}), got {int(index.min())} to {int(index.max())}")


def check_clip(x: Array, frames: Array | None, joints: Array | None, transform: Array | None) -> None:
    """A clip ``(N, C, T, V, M)`` and the arrays of a view of it."""
    if _plainly_right(x, frames, joints, transform):
        return
    check_shape("x", x, "N C T V M")
    check_dtype("x", x, FLOATS)
    check_view(x, frames, joints, transform)


def _plainly_right(x: Any, frames: Any, joints: Any, transform: Any) -> bool:
    """Whether the checks will pass; asked first of float32 tensors on the CPU, because the checks take microseconds."""
    if not HAVE_TORCH or type(x) is not torch.Tensor or transform is not None:
        return False
    if x.ndim != 5 or not x.is_cpu or x.dtype is not torch.float32:
        return False
    for index in (frames, joints):
        if index is None:
            continue
        if type(index) is not torch.Tensor or not index.is_cpu or index.dtype is not torch.int32:
            return False
        if index.ndim != 2 or index.shape[0] not in (1, x.shape[0]):
            return False
    return True


def _allocate(x: Array, frames: Array | None, joints: Array | None, transform: Array | None) -> Array:
    return empty_channels_last(view_shape(x, frames, joints), x)


def _native(x: Array, frames: Array | None, joints: Array | None, transform: Array | None, out: Array) -> None:
    call_native("gather_view", x, dense(frames), dense(joints), dense(transform), out)


def _reference(x: Any, frames: Any, joints: Any, transform: Any) -> Any:
    torch = sys.modules["torch"]
    n, c, t, v, m = view_shape(x, frames, joints)
    check_view_indices(x, frames, joints)
    if frames is not None:
        x = x.gather(2, frames.long()[:, None, :, None, None].expand(n, c, t, x.shape[3], m))
    if joints is not None:
        x = x.gather(3, joints.long()[:, None, None, :, None].expand(n, c, t, v, m))
    if transform is not None:
        dims = transform.shape[1]
        moved = torch.einsum("nec,nctvm->netvm", transform.expand(n, dims, dims), x[:, :dims])
        x = torch.cat([moved, x[:, dims:]], dim=1)
    out = empty_channels_last((n, c, t, v, m), x)
    return out.copy_(x)


def _check_backward(
    g: Array,
    frames: Array | None,
    joints: Array | None,
    transform: Array | None,
    x_frames: int,
    x_joints: int,
) -> None:
    check_shape("g", g, "N C T V M")
    check_dtype("g", g, FLOATS)
    check_view(g, frames, joints, transform)
    for name, index, axis in (("view.frames", frames, 2), ("view.joints", joints, 3)):
        if index is not None and index.shape[1] != g.shape[axis]:
            raise ValueError(f"{name} must name the {g.shape[axis]} positions of g, got {index.shape[1]}")
    for index, axis, size in ((frames, 2, x_frames), (joints, 3, x_joints)):
        if index is None and g.shape[axis] != size:
            raise ValueError(f"g must have size {size} along axis {axis}, got {tuple(g.shape)}")


def _allocate_backward(g: Array, frames: Any, joints: Any, transform: Any, x_frames: int, x_joints: int) -> Array:
    n, c, _, _, m = g.shape
    return empty_channels_last((n, c, x_frames, x_joints, m), g)


def _native_backward(
    g: Array, frames: Any, joints: Any, transform: Any, x_frames: int, x_joints: int, x_grad: Array
) -> None:
    if not (is_tensor(x_grad) and x_grad.is_cuda):  # there each number is written
        x_grad[...] = 0
    call_native("gather_view_backward", g, dense(frames), dense(joints), dense(transform), x_grad)


OP = Op(
    name="gather_view",
    stem="gather_view",
    schema="(Tensor x, Tensor? frames, Tensor? joints, Tensor? transform) -> Tensor",
    check=check_clip,
    allocate=_allocate,
    native=_native,
    reference=_reference,
    autocast=True,
    keeps_dtype=True,
    triton=True,
)
BACKWARD = Op(
    name="gather_view_backward",
    stem="gather_view",
    schema=(
        "(Tensor g, Tensor? frames, Tensor? joints, Tensor? transform, SymInt x_frames, SymInt x_joints) -> Tensor"
    ),
    check=_check_backward,
    allocate=_allocate_backward,
    native=_native_backward,
    triton=True,
)

if HAVE_TORCH:
    from asma_fast.ops._torch import below_autograd, register

    def _autograd(name: str) -> type[torch.autograd.Function]:
        class _GatherView(torch.autograd.Function):
            differentiable = (0,)

            @staticmethod
            def forward(x: Any, frames: Any, joints: Any, transform: Any) -> Any:
                return below_autograd(name, x, frames, joints, transform)

            @staticmethod
            def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
                x, frames, joints, transform = inputs
                ctx.save_for_backward(frames, joints, transform)
                ctx.x_frames, ctx.x_joints = x.shape[2], x.shape[3]

            @staticmethod
            @torch.autograd.function.once_differentiable
            def backward(ctx: Any, g: Any) -> Any:
                maps = ctx.saved_tensors
                return (
                    TORCH_OPS[f"{name}_backward"](g, *maps, ctx.x_frames, ctx.x_joints),
                    None,
                    None,
                    None,
                )

        return _GatherView

    register(OP, _autograd)
    register(BACKWARD)
