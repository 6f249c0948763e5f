"""Batch-norm of a clip by graph node and channel, folded into the affine map that the first graph convolution reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from asma_fast import ops
from asma_fast._array import as_kind_of
from asma_fast.nn._ranks import Ranks
from asma_fast.ops._contract import check_shape, check_together, check_view
from asma_fast.ops.gather_view import view_arguments
from asma_fast.skeleton import Skeleton
from asma_fast.view import View


class InputNorm(nn.Module):
    """The ``data_bn`` of the published ST-GCN family: one scale and shift for each node and channel.

    The statistics run over clips, bodies and frames of the *transformed, kept* frames, with all joints, those that the
    view removes included. They come from moments of the recorded clip (a joint's Σx and Σxxᵀ over the kept frames,
    float64), so no view is materialised.

    Parameters
    ----------
    skeleton
        V joints.
    channels
        C coordinates of a joint.
    eps, momentum
        As in torch's batch-norm; the running variance is the unbiased one.

    Attributes
    ----------
    weight, bias : Parameters of shape (V, C)
    running_mean, running_var : buffers of shape (V, C)
    num_batches_tracked : buffer, int64

    Notes
    -----
    A view names the recorded joints of the kept nodes only. What a removed node would have read is inferred for each
    clip: if a kept node reads a joint other than itself, the clip is flipped and removed nodes read their mirror joint
    (``Skeleton.flip``), else themselves. A flipped clip of which only joints on the midline are kept is therefore
    taken for one that is not flipped.

    Examples
    --------
    >>> import torch
    >>> from asma_fast import Skeleton
    >>> scale, shift = InputNorm(Skeleton.named("ntu-rgb+d"))(torch.randn(4, 3, 50, 25, 2))
    >>> scale.shape
    torch.Size([25, 3])
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    flip: Tensor
    ranks: Ranks | None = None  # set by asma_fast.nn.synchronise

    def __init__(self, skeleton: Skeleton, channels: int = 3, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        shape = (len(skeleton), channels)
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))
        self.register_buffer("running_mean", torch.zeros(shape))
        self.register_buffer("running_var", torch.ones(shape))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.int64))
        self.register_buffer("flip", torch.from_numpy(skeleton.flip).long(), persistent=False)

    def forward(self, clip: Tensor, view: View | None = None) -> tuple[Tensor, Tensor]:
        """``scale, shift``, each ``(V, C)``, of a clip ``(N, C, T, V, M)`` read through a view.

        In training mode from the batch, whose statistics update the running ones and through which gradients flow to
        the clip; in eval mode from the running statistics.

        Raises
        ------
        ValueError
            If the clip does not fit, or in training mode a node has fewer than two values.
        """
        check_shape("clip", clip, "N C T V M", V=self.weight.shape[0], C=self.weight.shape[1])
        if self.training:
            mean, variance = self._batch_statistics(clip, view)
        else:
            mean, variance = self.running_mean.double(), self.running_var.double()
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return scale.to(self.weight.dtype), shift.to(self.bias.dtype)

    def _batch_statistics(self, clip: Tensor, view: View | None) -> tuple[Tensor, Tensor]:
        frames, joints, transform = view_arguments(clip, view)
        check_view(clip, frames, joints, transform)
        n, _, t, _, m = clip.shape
        count = n * m * (t if frames is None else frames.shape[1])
        ranks = self.ranks if self.ranks is not None and self.ranks.size() > 1 else None
        if count < 2 and ranks is None:
            raise ValueError(f"input batch-norm needs at least 2 values of each joint in training mode, got {count}")
        # The native op has no gradient: where the clip wants one, torch takes the moments.
        wanted = clip.requires_grad and torch.is_grad_enabled()
        first, second = ops.moments(clip, frames, impl="reference" if wanted else "auto")
        first, second = _transformed(first, second, transform)
        if view is not None and view.graph_nodes is not None:
            source = self._sources(joints, as_kind_of(view.graph_nodes, clip))[..., None].expand(n, -1, clip.shape[1])
            first, second = first.gather(1, source), second.gather(1, source)
        first, second = first.sum(0), second.sum(0)
        values: int | Tensor = count
        if ranks is not None:
            total = ranks.total(torch.stack([first.flatten(), second.flatten()]), count)
            values = total[0, -1].detach()
            first, second = total[:, :-1].view(2, *first.shape)
        mean = first / values
        variance = (second / values - mean.square()).clamp_min(0)
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            unbiased = variance * (values / (values - 1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
            self.num_batches_tracked.add_(1)
        return mean, variance

    def _sources(self, joints: Any, nodes: Any) -> Tensor:
        """``(N, V)`` or ``(1, V)``: the recorded joint that each node reads, or would read were it kept."""
        count = self.flip.shape[0]
        own = torch.arange(count, device=nodes.device)
        check_shape("view.nodes", nodes, "N joints")
        check_together("view.nodes", nodes, "view.joints", nodes if joints is None else joints)
        read = own[None] if joints is None else joints.long()
        if read.shape[1] != nodes.shape[1]:
            raise ValueError(f"view.nodes must name the {count} joints of the clip, got {nodes.shape[1]}")
        _check_range("view.joints", read, count)
        _check_range("view.nodes", nodes, count)
        rows = max(read.shape[0], nodes.shape[0])
        read, nodes = read.expand(rows, -1), nodes.long().expand(rows, -1)
        flipped = (read != nodes).any(dim=1, keepdim=True)
        return torch.where(flipped, self.flip, own).scatter(1, nodes, read)

    def extra_repr(self) -> str:
        joints, channels = self.weight.shape
        return f"joints={joints}, channels={channels}, eps={self.eps}, momentum={self.momentum}"


def _check_range(name: str, index: Tensor, limit: int) -> None:
    if torch.compiler.is_compiling() or index.device.type != "cpu" or index.numel() == 0:
        return
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= limit:
        raise ValueError(f"{name} must lie in [0, {limit}), got {low} to {high}")


def _transformed(first: Tensor, second: Tensor, transform: Tensor | None) -> tuple[Tensor, Tensor]:
    """Σ and Σ of squares ``(N, V, C)`` after the transform of the first coordinates."""
    squares = second.diagonal(dim1=-2, dim2=-1)
    if transform is None:
        return first, squares
    matrix = transform.double()
    d = matrix.shape[-1]
    moved = first[..., :d] @ matrix.transpose(-1, -2)
    # Σ (s·x)² = Σ_cd s_c s_d (Σ x_c x_d): one product for all coordinates.
    pairs = (matrix[..., :, None] * matrix[..., None, :]).flatten(2)
    spread = second[..., :d, :d].flatten(2) @ pairs.transpose(-1, -2)
    return torch.cat([moved, first[..., d:]], -1), torch.cat([spread, squares[..., d:]], -1)
