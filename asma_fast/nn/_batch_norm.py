"""Batch-norm as the affine map that the next op reads, from sums that the op before gave."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def is_plain(norm: nn.Module) -> bool:
    """Whether it is torch's own batch-norm, affine, with running statistics, in float32 or float64, without hooks."""
    return (
        type(norm) is nn.BatchNorm2d
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


def batch_affine(norm: nn.BatchNorm2d, y: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """``scale, shift``, each ``(C,)``, of the norm of ``y``, whose sums they are; running statistics stay.

    In float64 until the end: the mean may be far larger than the spread.

    Raises
    ------
    ValueError
        If the norm is in training mode and a channel has one value, as torch does.
    """
    if not norm.training:
        return running_affine(norm)
    count = y.shape[0] * y.shape[2] * y.shape[3]
    if count == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {tuple(y.shape)}")
    mean, square = (sums / max(count, 1)).unbind()
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
def update_running(norm: nn.BatchNorm2d, count: int, sums: Tensor) -> None:
    """Move the running statistics of a norm in training mode as torch does, by ``count`` values a channel."""
    if not norm.training:
        return
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    if count == 0:
        return
    mean, square = (sums / count).unbind()
    variance = torch.addcmul(square, mean, mean, value=-1).clamp_min_(0).mul_(count / (count - 1))
    dtype = norm.running_mean.dtype
    if norm.momentum is None:
        weight = 1 / norm.num_batches_tracked.to(dtype)
        norm.running_mean.lerp_(mean.to(dtype), weight)
        norm.running_var.lerp_(variance.to(dtype), weight)
    else:
        norm.running_mean.lerp_(mean.to(dtype), norm.momentum)
        norm.running_var.lerp_(variance.to(dtype), norm.momentum)
