"""The ops: one contract, several implementations. NumPy arrays always; torch tensors where torch is installed."""

from __future__ import annotations

from asma_fast.ops._op import Impl
from asma_fast.ops.block import block_graph_conv, block_inference, block_output, block_temporal_conv
from asma_fast.ops.dropout import dropout
from asma_fast.ops.gather_view import gather_view
from asma_fast.ops.graph_conv import graph_conv
from asma_fast.ops.joint_degree import joint_degree
from asma_fast.ops.moments import moments
from asma_fast.ops.motion import frame_and_joint_motion, frame_motion, joint_motion
from asma_fast.ops.sampling import sample_frames, sample_joints
from asma_fast.ops.temporal_conv import temporal_conv

__all__ = [
    "Impl",
    "block_graph_conv",
    "block_inference",
    "block_output",
    "block_temporal_conv",
    "dropout",
    "frame_and_joint_motion",
    "frame_motion",
    "gather_view",
    "graph_conv",
    "joint_degree",
    "joint_motion",
    "moments",
    "sample_frames",
    "sample_joints",
    "temporal_conv",
]
