"""How many numbers a trained network needs for inference."""

from __future__ import annotations

import itertools

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from asma_fast.nn.block import STGCNBlock
from asma_fast.nn.graph_conv import GraphConv


def inference_parameters(module: nn.Module) -> int:
    """Learned numbers of a module once batch-norms and edge importance are folded: what its exported form holds.

    A batch-norm goes into weight and bias of the layer before it. That of a graph convolution, whose bias is weighted
    by the adjacency, leaves a shift of its own, one number a channel; the one of the input stays an affine map, two
    numbers for each joint and coordinate. Edge importance goes into the adjacency, of which the entries on edges count:
    the others are zero for good. All other parameters count as they are; layers that share them, once.

    Parameters
    ----------
    module
        An encoder, a classifier, or any other module.

    Examples
    --------
    >>> from asma_fast import Skeleton
    >>> from asma_fast.nn import STGCN
    >>> inference_parameters(STGCN(Skeleton.named("ntu-rgb+d")))
    801024
    """
    count, folded = 0, _folded_norms(module)
    seen: set[int] = set()
    for child in module.modules():
        for name, parameter in child.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if isinstance(child, GraphConv) and name == "edge_importance":
                count += int(child.pattern.sum())
            elif isinstance(child, _BatchNorm) and child in folded:
                count += parameter.numel() if name == "bias" and folded[child] else 0
            else:
                count += parameter.numel()
    return count


def _folded_norms(module: nn.Module) -> dict[nn.Module, bool]:
    """Batch-norms that fold into the layer before, and whether each leaves a shift: it has no bias to go into."""
    folded: dict[nn.Module, bool] = {}
    for child in module.modules():
        if isinstance(child, STGCNBlock):
            folded[child.norm1] = True
            folded[child.norm2] = (child.pointwise or child.temporal_conv).bias is None
            if child.between is not None:
                folded[child.between] = child.temporal_conv.bias is None
        elif isinstance(child, nn.Sequential):
            layers = list(child)
            for before, norm in itertools.pairwise(layers):
                if isinstance(norm, _BatchNorm) and isinstance(getattr(before, "weight", None), nn.Parameter):
                    folded[norm] = getattr(before, "bias", None) is None
    return folded
