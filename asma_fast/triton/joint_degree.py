"""Kernel of :mod:`asma_fast.ops.joint_degree`: a program counts the others that an edge joins to each of its joints."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from asma_fast.triton._launch import blocks_of, launch

#: Joints of a program, and others it looks at at once.
JOINTS = 32


def joint_degree(edges: Any, joints: int, degree: Any) -> None:
    """Fill ``degree (V,)`` from ``edges (E, 2)``."""
    programs = blocks_of(joints, JOINTS)
    launch(degree_kernel, programs, edges, degree, edges.shape[0], joints, *edges.stride(), JOINTS=JOINTS, num_warps=4)


@triton.jit(do_not_specialize=["count", "joints"])
def degree_kernel(edges, degree, count, joints, edge, end, JOINTS: tl.constexpr):
    v = tl.program_id(0) * JOINTS + tl.arange(0, JOINTS)
    total = tl.zeros((JOINTS,), tl.int32)
    for first in range(0, joints, JOINTS):
        w = first + tl.arange(0, JOINTS)
        linked = tl.zeros((JOINTS, JOINTS), tl.int1)
        at = edges
        for _e in range(0, count):
            a = tl.load(at)
            b = tl.load(at + end)
            tl.device_assert((a >= 0) & (a < joints) & (b >= 0) & (b < joints), "edges must lie in [0, joints)")
            linked |= ((v[:, None] == a) & (w[None, :] == b)) | ((v[:, None] == b) & (w[None, :] == a))
            at += edge
        total += tl.sum((linked & (v[:, None] != w[None, :])).to(tl.int32), axis=1)
    tl.store(degree + v, total, mask=v < joints)
