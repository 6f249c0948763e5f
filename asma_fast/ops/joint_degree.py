"""How many joints each joint is wired to."""

from __future__ import annotations

import sys
from typing import Any

from asma_fast._array import Array, as_dense, empty
from asma_fast.ops._contract import as_int, check_count, check_dtype, check_shape
from asma_fast.ops._op import HAVE_TORCH, Impl, Op, call_native, run


def joint_degree(edges: Array, joints: int, *, impl: str | Impl = "auto") -> Array:
    """Degree of every joint of an undirected graph. Self-loops are not counted, duplicate edges once.

    Parameters
    ----------
    edges
        ``(E, 2)`` int32 or int64: pairs of joints, in any order. E may be 0.
    joints
        V, the number of joints.
    impl
        ``"auto"``, ``"reference"``, ``"numba"``, ``"cpu"``, ``"cuda"`` or ``"triton"``.

    Returns
    -------
    array of shape (V,), int32
        Of the kind of ``edges``.

    Raises
    ------
    TypeError, ValueError
        If shape or dtype are wrong, or an edge names a joint outside [0, V).

    Examples
    --------
    >>> import numpy as np
    >>> joint_degree(np.array([[0, 1], [1, 2], [1, 0], [2, 2]]), 4).tolist()
    [1, 2, 1, 0]
    """
    return run(OP, impl, edges, as_int("joints", joints))


def _check(edges: Array, joints: int) -> None:
    check_shape("edges", edges, "E 2")
    check_dtype("edges", edges, ("int32", "int64"))
    check_count("joints", joints, 0)


def _allocate(edges: Array, joints: int) -> Array:
    return empty((joints,), edges, "int32")


def _native(edges: Array, joints: int, degree: Array) -> None:
    call_native("joint_degree", as_dense(edges, "int64"), degree)


def _reference(edges: Any, joints: int) -> Any:
    torch = sys.modules["torch"]
    edges = edges.long()
    if (
        not torch.compiler.is_compiling()
        and edges.numel()
        and not (int(edges.min()) >= 0 and int(edges.max()) < joints)
    ):
        raise ValueError(f"edges must lie in [0, {joints}), got {int(edges.min())} to {int(edges.max())}")
    linked = torch.zeros(joints, joints, dtype=torch.bool, device=edges.device)
    linked[edges[:, 0], edges[:, 1]] = True
    return ((linked | linked.T) & ~torch.eye(joints, dtype=torch.bool, device=edges.device)).sum(1, dtype=torch.int32)


OP = Op(
    name="joint_degree",
    stem="joint_degree",
    schema="(Tensor edges, SymInt joints) -> Tensor",
    check=_check,
    allocate=_allocate,
    native=_native,
    reference=_reference,
    triton=True,
)

if HAVE_TORCH:
    from asma_fast.ops._torch import register

    register(OP)
