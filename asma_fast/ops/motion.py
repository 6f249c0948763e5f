"""How much each frame, and each joint, of a clip moves."""

from __future__ import annotations

import sys
from typing import Any

from asma_fast._array import Array, dense, empty
from asma_fast.ops._contract import check_shape
from asma_fast.ops._op import HAVE_TORCH, Impl, Op, call_native, run
from asma_fast.ops.gather_view import check_clip, check_view_indices, view_arguments, view_shape
from asma_fast.view import View


def frame_motion(x: Array, *, view: View | None = None, last: str = "replicate", impl: str | Impl = "auto") -> Array:
    """Motion of every frame: mean over coordinates, joints and bodies of the squared difference to the next frame.

    ``out[n,t] = mean_{e,v,m} (y[n,e,t+1,v,m] − y[n,e,t,v,m])²`` with ``y = gather_view(x, view)``, which is not
    materialised: with S the view's transform and W = SᵀS, a joint whose coordinates change by d changes by q = dᵀWd.

    The score decides which frames are masked, so every implementation and instruction set gives the same bits.
    Differences are taken in the dtype of ``x`` (half precisions: in float32); all else is float64 without fused
    operations. Eight partial sums s_k of a frame are merged as ((s_0 + s_4) + (s_2 + s_6)) + ((s_1 + s_5) +
    (s_3 + s_7)); the sum, never below zero, is divided by the number of values and rounded once to float32. Without a
    transform s_k takes d² of the numbers e = v·C + c ≡ k (mod 8), body by body, e ascending. With one, and U the upper
    triangle of W, doubled off the diagonal, q = Σ_a d_a · (Σ_{b≥a} U_ab d_b) over the coordinates of the transform,
    then + d_c² for each channel beyond them, every sum in ascending order; s_k takes q of the joints v ≡ k (mod 8),
    body by body, joints ascending.

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
        ``"auto"``, ``"reference"``, ``"numba"``, ``"cpu"`` (float32, float64), ``"cuda"`` or ``"triton"`` (float32,
        halves).

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
    _check_last(last)
    x = _with_bodies(x)
    return run(FRAMES, impl, x, *view_arguments(x, view), last == "replicate")


def joint_motion(x: Array, *, view: View | None = None, impl: str | Impl = "auto") -> Array:
    """Motion of every joint: mean over coordinates, pairs of successive frames and bodies of the squared difference.

    ``out[n,v] = mean_{e,t<T'−1,m} (y[n,e,t+1,v,m] − y[n,e,t,v,m])²`` with ``y = gather_view(x, view)``; v is a position
    of the view. Computed as :func:`frame_motion` is and as exactly defined, but for the sum of a joint: one, over
    bodies, then steps from frame to frame; without a transform one for each channel, added in ascending order.

    Parameters
    ----------
    x
        Clip ``(N, C, T, V, M)`` or ``(N, C, T, V)``, floating. Any strides.
    view
        The view to score; None scores the clip.
    impl
        ``"auto"``, ``"reference"``, ``"numba"``, ``"cpu"`` (float32, float64), ``"cuda"`` or ``"triton"`` (float32,
        halves).

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


def frame_and_joint_motion(
    x: Array, *, view: View | None = None, last: str = "replicate", impl: str | Impl = "auto"
) -> tuple[Array, Array]:
    """:func:`frame_motion` and :func:`joint_motion` in one pass over the clip: the same bits.

    Parameters
    ----------
    x, view, last, impl
        As for :func:`frame_motion`.

    Returns
    -------
    arrays of shapes (N, T') and (N, V'), float32
        Of the kind of ``x``; not differentiable.

    Raises
    ------
    TypeError, ValueError
        As :func:`frame_motion` does.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[0, 5], [1, 5], [3, 5]], np.float32).reshape(1, 1, 3, 2)
    >>> [scores.tolist() for scores in frame_and_joint_motion(x)]
    [[[0.5, 2.0, 2.0]], [[2.5, 0.0]]]
    """
    _check_last(last)
    x = _with_bodies(x)
    frames, joints = run(BOTH, impl, x, *view_arguments(x, view), last == "replicate")
    return frames, joints


def _check_last(last: str) -> None:
    if last not in ("replicate", "zero"):
        raise ValueError(f"last must be 'replicate' or 'zero', got {last!r}")


def _with_bodies(x: Array) -> Array:
    check_shape("x", x, "N C T V M", "N C T V")
    return x[..., None] if x.ndim == 4 else x


def _check(
    x: Array, frames: Array | None, joints: Array | None, transform: Array | None, replicate: bool = True
) -> None:
    check_clip(x, frames, joints, transform)


def _allocate_frames(x: Array, frames: Any, joints: Any, transform: Any, replicate: bool) -> Array:
    return empty((x.shape[0], view_shape(x, frames, joints)[2]), x, "float32")


def _allocate_joints(x: Array, frames: Any, joints: Any, transform: Any) -> Array:
    return empty((x.shape[0], view_shape(x, frames, joints)[3]), x, "float32")


def _allocate_both(x: Array, frames: Any, joints: Any, transform: Any, replicate: bool) -> tuple[Array, Array]:
    return _allocate_frames(x, frames, joints, transform, replicate), _allocate_joints(x, frames, joints, transform)


def _native_frames(x: Array, frames: Any, joints: Any, transform: Any, replicate: bool, out: Array) -> None:
    call_native("frame_motion", x, dense(frames), dense(joints), dense(transform), replicate, out)


def _native_joints(x: Array, frames: Any, joints: Any, transform: Any, out: Array) -> None:
    call_native("joint_motion", x, dense(frames), dense(joints), dense(transform), out)


def _native_both(
    x: Array, frames: Any, joints: Any, transform: Any, replicate: bool, frame_out: Array, joint_out: Array
) -> None:
    maps = (dense(frames), dense(joints), dense(transform))
    call_native("frame_and_joint_motion", x, *maps, replicate, frame_out, joint_out)


def _reference_frames(x: Any, frames: Any, joints: Any, transform: Any, replicate: bool) -> Any:
    return _frame_scores(_changes(x, frames, joints, transform), x.shape[1], view_shape(x, frames, joints), replicate)


def _reference_joints(x: Any, frames: Any, joints: Any, transform: Any) -> Any:
    return _joint_scores(_changes(x, frames, joints, transform), x.shape[1], view_shape(x, frames, joints))


def _reference_both(x: Any, frames: Any, joints: Any, transform: Any, replicate: bool) -> Any:
    changes = _changes(x, frames, joints, transform)
    shape = view_shape(x, frames, joints)
    return _frame_scores(changes, x.shape[1], shape, replicate), _joint_scores(changes, x.shape[1], shape)


def _frame_scores(q: Any, channels: int, shape: tuple[int, ...], replicate: bool) -> Any:
    n, pairs, numbers, m = q.shape
    if shape[2] < 2:
        return q.new_zeros((n, shape[2]), dtype=sys.modules["torch"].float32)
    s = [q.new_zeros(n, pairs) for _ in range(8)]
    for body in range(m):
        for e in range(numbers):
            s[e % 8] = s[e % 8] + q[:, :, e, body]
    score = _mean(((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7])), channels * shape[3] * m)
    last = score[:, -1:] if replicate else score.new_zeros(n, 1)
    return sys.modules["torch"].cat([score, last], dim=1)


def _joint_scores(q: Any, channels: int, shape: tuple[int, ...]) -> Any:
    n, pairs, numbers, m = q.shape
    sums = q.new_zeros(n, numbers)
    for body in range(m):
        for step in range(pairs):
            sums = sums + q[:, step, :, body]
    total = q.new_zeros(n, shape[3])
    each = numbers // max(shape[3], 1)
    for c in range(each):
        total = total + sums[:, c::each]
    return _mean(total, channels * pairs * m)


def _mean(total: Any, count: int) -> Any:
    torch = sys.modules["torch"]
    return (torch.where(total < 0, 0.0, total) / max(count, 1)).to(torch.float32)


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


def _changes(x: Any, frames: Any, joints: Any, transform: Any) -> Any:
    """What a frame sums up, float64: the squared change q of every joint, ``(N, T'−1, V', M)``; without a transform
    that of every number, ``(N, T'−1, V'·C, M)``."""
    d = _steps(x, frames, joints)
    n, channels, pairs, v, m = d.shape
    if transform is None:
        return (d * d).permute(0, 2, 3, 1, 4).reshape(n, pairs, v * channels, m)
    dims = transform.shape[1]
    q = d.new_zeros(n, pairs, v, m)

    def weight(a: int, b: int) -> Any:
        s = transform.to(d.dtype)
        total = s[:, 0, a] * s[:, 0, b]
        for e in range(1, dims):
            total = total + s[:, e, a] * s[:, e, b]
        return (total if a == b else 2 * total)[:, None, None, None]

    for a in range(dims):
        row = weight(a, a) * d[:, a]
        for b in range(a + 1, dims):
            row = row + weight(a, b) * d[:, b]
        q = q + d[:, a] * row
    for c in range(dims, channels):
        q = q + d[:, c] * d[:, c]
    return q


FRAMES = Op(
    name="frame_motion",
    stem="motion",
    schema="(Tensor x, Tensor? frames, Tensor? joints, Tensor? transform, bool replicate) -> Tensor",
    check=_check,
    allocate=_allocate_frames,
    native=_native_frames,
    reference=_reference_frames,
    autocast=True,
    triton=True,
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
    triton=True,
)
BOTH = Op(
    name="frame_and_joint_motion",
    stem="motion",
    schema="(Tensor x, Tensor? frames, Tensor? joints, Tensor? transform, bool replicate) -> (Tensor, Tensor)",
    check=_check,
    allocate=_allocate_both,
    native=_native_both,
    reference=_reference_both,
    autocast=True,
    triton=True,
)

if HAVE_TORCH:
    from asma_fast.ops._torch import register

    register(FRAMES)
    register(JOINTS)
    register(BOTH)
