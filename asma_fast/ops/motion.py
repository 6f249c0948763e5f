"""How much each frame, and each joint, of a clip moves."""

from __future__ import annotations

import sys
from typing import Any

from asma_fast._array import Array, dense, empty
from asma_fast.ops._contract import FLOATS, check_dtype, check_shape, check_view
from asma_fast.ops._op import HAVE_TORCH, Impl, Op, call_native, run
from asma_fast.ops.gather_view import check_view_indices, view_arguments, view_shape
from asma_fast.view import View


def frame_motion(x: Array, *, view: View | None = None, last: str = "replicate", impl: str | Impl = "auto") -> Array:
    """Motion of every frame: mean over coordinates, joints and bodies of the squared difference to the next frame.

    ``out[n,t] = mean_{e,v,m} (y[n,e,t+1,v,m] − y[n,e,t,v,m])²`` with ``y = gather_view(x, view)``, which is not
    materialised: the sum is tr(S G_t Sᵀ), with S the view's transform and G_t the moments of the differences.

    The score decides which frames are masked, so every implementation and instruction set gives the same bits.
    Differences are taken in the dtype of ``x`` (half precisions: in float32); all else is float64 without fused
    operations: each entry of G_t is summed over bodies, then joints; with W = SᵀS the trace is Σ_a W_aa G_aa, then
    2 W_ab G_ab for a < b, then the channels beyond the transform; never below zero; divided by the number of values,
    and rounded once to float32.

    Parameters
    ----------
    x
        Clip ``(N, C, T, V, M)`` or ``(N, C, T, V)``, floating. Any strides.
    view
        The view to score; None scores the clip.
    last
        Score of the last frame, which has no next: ``"replicate"`` repeats its predecessor's, ``"zero"`` gives 0, as
        PSTL does (which protects it from one mask and dooms it in the other).
    impl
        ``"auto"``, ``"reference"``, ``"numba"`` or ``"cpu"`` (float32, float64).

    Returns
    -------
    array of shape (N, T'), float32
        Of the kind of ``x``; not differentiable. A clip of one frame, or a view of no joints, has motion 0.

    Raises
    ------
    TypeError, ValueError
        If shapes, dtypes or devices disagree, an index lies outside the clip, or ``last`` is neither of the two.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([0, 1, 3], np.float32).reshape(1, 1, 3, 1)
    >>> frame_motion(x).tolist()
    [[1.0, 4.0, 4.0]]
    """
    if last not in ("replicate", "zero"):
        raise ValueError(f"last must be 'replicate' or 'zero', got {last!r}")
    x = _with_bodies(x)
    return run(FRAMES, impl, x, *view_arguments(x, view), last == "replicate")


def joint_motion(x: Array, *, view: View | None = None, impl: str | Impl = "auto") -> Array:
    """Motion of every joint: mean over coordinates, pairs of successive frames and bodies of the squared difference.

    ``out[n,v] = mean_{e,t<T'−1,m} (y[n,e,t+1,v,m] − y[n,e,t,v,m])²`` with ``y = gather_view(x, view)``; v is a position
    of the view. Computed as :func:`frame_motion` is, with sums over bodies, then frames, and as exactly defined.

    Parameters
    ----------
    x
        Clip ``(N, C, T, V, M)`` or ``(N, C, T, V)``, floating. Any strides.
    view
        The view to score; None scores the clip.
    impl
        ``"auto"``, ``"reference"``, ``"numba"`` or ``"cpu"`` (float32, float64).

    Returns
    -------
    array of shape (N, V'), float32
        Of the kind of ``x``; not differentiable. A clip of one frame has motion 0.

    Raises
    ------
    TypeError, ValueError
        If shapes, dtypes or devices disagree, or an index lies outside the clip.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[0, 5], [1, 5], [3, 5]], np.float32).reshape(1, 1, 3, 2)
    >>> joint_motion(x).tolist()
    [[2.5, 0.0]]
    """
    x = _with_bodies(x)
    return run(JOINTS, impl, x, *view_arguments(x, view))


def _with_bodies(x: Array) -> Array:
    check_shape("x", x, "N C T V M", "N C T V")
    return x[..., None] if x.ndim == 4 else x


def _check(
    x: Array, frames: Array | None, joints: Array | None, transform: Array | None, replicate: bool = True
) -> None:
    check_shape("x", x, "N C T V M")
    check_dtype("x", x, FLOATS)
    check_view(x, frames, joints, transform)


def _allocate_frames(x: Array, frames: Any, joints: Any, transform: Any, replicate: bool) -> Array:
    return empty((x.shape[0], view_shape(x, frames, joints)[2]), x, "float32")


def _allocate_joints(x: Array, frames: Any, joints: Any, transform: Any) -> Array:
    return empty((x.shape[0], view_shape(x, frames, joints)[3]), x, "float32")


def _native_frames(x: Array, frames: Any, joints: Any, transform: Any, replicate: bool, out: Array) -> None:
    call_native("frame_motion", x, dense(frames), dense(joints), dense(transform), replicate, out)


def _native_joints(x: Array, frames: Any, joints: Any, transform: Any, out: Array) -> None:
    call_native("joint_motion", x, dense(frames), dense(joints), dense(transform), out)


def _reference_frames(x: Any, frames: Any, joints: Any, transform: Any, replicate: bool) -> Any:
    step = _steps(x, frames, joints)
    n, c, pairs, v, m = step.shape
    if (t := view_shape(x, frames, joints)[2]) < 2:
        return step.new_zeros((n, t), dtype=sys.modules["torch"].float32)
    terms = [step[:, :, :, joint, body] for body in range(m) for joint in range(v)]
    score = _score(terms, transform, step.new_zeros(n, pairs), c * v * m)
    last = score[:, -1:] if replicate else score.new_zeros(n, 1)
    return sys.modules["torch"].cat([score, last], dim=1)


def _reference_joints(x: Any, frames: Any, joints: Any, transform: Any) -> Any:
    step = _steps(x, frames, joints)
    n, c, pairs, v, m = step.shape
    terms = [step[:, :, t, :, body] for body in range(m) for t in range(pairs)]
    return _score(terms, transform, step.new_zeros(n, v), c * pairs * m)


def _steps(x: Any, frames: Any, joints: Any) -> Any:
    """Differences between successive frames of the untransformed view, ``(N, C, T'−1, V', M)`` float64."""
    torch = sys.modules["torch"]
    check_view_indices(x, frames, joints)
    x = x.detach() if x.dtype == torch.float64 else x.detach().to(torch.float32)
    n, c, t, v, m = view_shape(x, frames, joints)
    if frames is not None:
        x = x.gather(2, frames.long()[:, None, :, None, None].expand(n, c, t, x.shape[3], m))
    if joints is not None:
        x = x.gather(3, joints.long()[:, None, None, :, None].expand(n, c, t, v, m))
    return (x[:, :, 1:] - x[:, :, :-1]).to(torch.float64)


def _score(terms: list[Any], transform: Any, zero: Any, count: int) -> Any:
    """tr(S G Sᵀ) / count for G the sum of the outer products of ``terms``, each ``(N, C, …)``, in their order."""
    torch = sys.modules["torch"]
    dims = 0 if transform is None else transform.shape[1]
    channels = terms[0].shape[1] if terms else 0

    def moment(a: int, b: int) -> Any:
        total = zero
        for term in terms:
            total = total + term[:, a] * term[:, b]
        return total

    def weight(a: int, b: int) -> Any:
        s = transform.to(torch.float64)
        total = s[:, 0, a] * s[:, 0, b]
        for e in range(1, dims):
            total = total + s[:, e, a] * s[:, e, b]
        return total[:, None]

    trace = zero
    if channels:
        for a in range(dims):
            trace = trace + weight(a, a) * moment(a, a)
        for a in range(dims):
            for b in range(a + 1, dims):
                trace = trace + 2 * (weight(a, b) * moment(a, b))
    for c in range(dims, channels):
        trace = trace + moment(c, c)
    return (torch.where(trace < 0, 0.0, trace) / max(count, 1)).to(torch.float32)


FRAMES = Op(
    name="frame_motion",
    stem="motion",
    schema="(Tensor x, Tensor? frames, Tensor? joints, Tensor? transform, bool replicate) -> Tensor",
    check=_check,
    allocate=_allocate_frames,
    native=_native_frames,
    reference=_reference_frames,
    autocast=True,
)
JOINTS = Op(
    name="joint_motion",
    stem="motion",
    schema="(Tensor x, Tensor? frames, Tensor? joints, Tensor? transform) -> Tensor",
    check=_check,
    allocate=_allocate_joints,
    native=_native_joints,
    reference=_reference_joints,
    autocast=True,
)

if HAVE_TORCH:
    from asma_fast.ops._torch import register

    register(FRAMES)
    register(JOINTS)
