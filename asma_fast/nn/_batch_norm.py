"""Batch-norm as the affine map that the next op reads, from sums that the op before gave."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from asma_fast.nn._ranks import Ranks


def is_plain(norm: nn.Module) -> bool:
    """Whether it is torch's batch-norm or our synchronised one, affine, with statistics, real, without hooks."""
    return (
        type(norm) in (nn.BatchNorm2d, SynchronisedBatchNorm2d)
        and isinstance(norm, nn.BatchNorm2d)
        and norm.affine
        and norm.track_running_stats
        and norm.running_mean is not None
        and norm.weight.dtype in (torch.float32, torch.float64)
        and has_no_hooks(norm)
    )


def has_no_hooks(module: nn.Module) -> bool:
    """Whether a call of the module is a call of its ``forward``: a fused pass calls neither."""
    return not (
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def over_ranks(norm: nn.BatchNorm2d, y: Tensor, sums: Tensor) -> Tensor:
    """The sums of ``y``; where the norm is synchronised, those of all ranks, with their count as one more column."""
    if norm.training and isinstance(norm, SynchronisedBatchNorm2d) and norm.ranks.size() > 1:
        return norm.ranks.total(sums, y.shape[0] * y.shape[2] * y.shape[3])
    return sums


def _mean_and_square(sums: Tensor, channels: int, count: int) -> tuple[Tensor, Tensor, int | Tensor]:
    """Means of the values and of their squares, and their count: the column's, where there is one."""
    if sums.shape[1] == channels:
        mean, square = (sums / max(count, 1)).unbind()
        return mean, square, count
    total = sums[0, -1].detach()
    mean, square = (sums[:, :-1] / total.clamp_min(1)).unbind()
    return mean, square, total


def batch_affine(norm: nn.BatchNorm2d, y: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """``scale, shift``, each ``(C,)``, of the norm of ``y``, by the sums (see ``over_ranks``); running statistics stay.

    In float64 until the end: the mean may be far larger than the spread.

    Raises
    ------
    ValueError
        If the norm is in training mode and a channel has one value, as torch does.
    """
    if not norm.training:
        return running_affine(norm)
    mean, square, count = _mean_and_square(sums, norm.num_features, y.shape[0] * y.shape[2] * y.shape[3])
    if not isinstance(count, Tensor) and count == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {tuple(y.shape)}")
    variance = torch.addcmul(square, mean, mean, value=-1).clamp_min(0)
    return _affine(norm, mean, variance)


def running_affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """``scale, shift``, each ``(C,)``, by the running statistics."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return _affine(norm, norm.running_mean.double(), norm.running_var.double())


def _affine(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    shift = torch.addcmul(norm.bias.double(), mean, scale, value=-1)
    return scale.to(norm.weight.dtype), shift.to(norm.weight.dtype)


@torch.no_grad()
def update_running(norm: _BatchNorm, count: int, sums: Tensor) -> None:
    """Move the running statistics of a norm in training mode as torch does, by ``count`` values a channel.

    Where the sums are all ranks', by their count.
    """
    if not norm.training:
        return
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    mean, square, total = _mean_and_square(sums, norm.num_features, count)
    if not isinstance(total, Tensor) and total == 0:
        return
    variance = torch.addcmul(square, mean, mean, value=-1).clamp_min_(0).mul_(total / (total - 1))
    dtype = norm.running_mean.dtype
    if norm.momentum is None:
        weight = 1 / norm.num_batches_tracked.to(dtype)
        norm.running_mean.lerp_(mean.to(dtype), weight)
        norm.running_var.lerp_(variance.to(dtype), weight)
    else:
        norm.running_mean.lerp_(mean.to(dtype), norm.momentum)
        norm.running_var.lerp_(variance.to(dtype), norm.momentum)


class _Synchronised(_BatchNorm):
    """Batch-norm whose training statistics run over all ranks; made by :func:`asma_fast.nn.synchronise`."""

    ranks: Ranks

    def forward(self, x: Tensor) -> Tensor:
        """As torch's, of an input of any rank's own size."""
        if not self.training or self.ranks.size() == 1:
            return super().forward(x)
        self._check_input_dim(x)  # type: ignore[no-untyped-call]
        axes = [axis for axis in range(x.ndim) if axis != 1]
        wide = x.double()
        sums = torch.stack([wide.sum(axes), wide.square().sum(axes)])
        sums = self.ranks.total(sums, x.numel() // max(x.shape[1], 1))
        if self.track_running_stats:
            update_running(self, 0, sums.detach())
        mean, square, _ = _mean_and_square(sums, self.num_features, 0)
        scale = torch.rsqrt(torch.addcmul(square, mean, mean, value=-1).clamp_min(0) + self.eps)
        shape = (-1, *[1] * (x.ndim - 2))
        dtype = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
        y = x.to(dtype) - mean.to(dtype).view(shape)
        if self.affine:
            y = torch.addcmul(self.bias.to(dtype).view(shape), y, (scale * self.weight).to(dtype).view(shape))
        else:
            y = y * scale.to(dtype).view(shape)
        return y.to(x.dtype)


class SynchronisedBatchNorm1d(_Synchronised, nn.BatchNorm1d):
    """``BatchNorm1d`` over all ranks."""


class SynchronisedBatchNorm2d(_Synchronised, nn.BatchNorm2d):
    """``BatchNorm2d`` over all ranks."""
