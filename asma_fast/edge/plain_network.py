"""A trained classifier as layers that every runtime knows: for exporters of other formats. Needs torch."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from asma_fast.edge.exporter import Tensors, check_layers, fold
from asma_fast.nn import STGCN, AlignedEncoders, Classifier, FeatureAlignment
from asma_fast.nn.stgcn import Bodies, Tokens, over_bodies


class PlainEncoder(nn.Module):
    """An :class:`asma_fast.nn.STGCN` in eval mode: products with the adjacency, 1×1 and temporal convolutions.

    Every weight is held as the layer takes it: an exporter that sees one reshaped may not know it for a constant.
    """

    def __init__(self, encoder: STGCN) -> None:
        super().__init__()
        network, tensors = fold(encoder)
        self.bodies: Bodies = network["bodies"]
        self.scale = _by_channel(tensors["input.scale"])
        self.shift = _by_channel(tensors["input.shift"])
        self.blocks = nn.ModuleList(
            _PlainBlock(told, f"blocks.{index}", tensors) for index, told in enumerate(network["blocks"])
        )

    def forward(self, clips: Tensor) -> Tensor:
        """Clips ``(N, C, T, V, M)`` to the last block's result ``(N·M, D, T', V)``."""
        n, channels, frames, joints, bodies = clips.shape
        return self.rows(clips.permute(0, 4, 1, 2, 3).reshape(n * bodies, channels, frames, joints))

    def rows(self, bodies: Tensor) -> Tensor:
        """The same of bodies ``(N·M, C, T, V)``."""
        x = bodies * self.scale + self.shift
        for block in self.blocks:
            x = block(x)
        return x

    def pooled(self, clips: Tensor) -> Tensor:
        """``(N, D)``, as :meth:`asma_fast.nn.STGCN.forward`."""
        return over_bodies(self(clips).mean(dim=(2, 3)), clips, self.bodies)

    def tokens(self, clips: Tensor, per: Tokens) -> Tensor:
        """``(N, P, D)``, as :meth:`asma_fast.nn.STGCN.tokens`."""
        return over_bodies(self(clips).mean(dim=2 if per == "joint" else 3), clips, self.bodies).transpose(1, 2)


class _PlainBlock(nn.Module):
    def __init__(self, told: dict[str, Any], name: str, tensors: Tensors) -> None:
        super().__init__()
        self.parts = nn.ParameterList(map(_constant, tensors[f"{name}.adjacency"]))
        weight = tensors[f"{name}.graph.weight"]  # (K, O, C)
        self.weight = _constant(weight.swapaxes(0, 1).reshape(weight.shape[1], -1, 1, 1))
        self.bias = _by_channel(tensors[f"{name}.graph.bias"])
        self.conv = _PlainConv(told["conv"], f"{name}.conv", tensors)
        self.pointwise: _PlainConv | None = None
        if "pointwise" in told:
            self.pointwise = _PlainConv(told["pointwise"], f"{name}.pointwise", tensors)
        self.residual: str = told["residual"]
        self.shortcut: _PlainConv | None = None
        if "shortcut" in told:
            self.shortcut = _PlainConv(told["shortcut"], f"{name}.residual", tensors)

    def forward(self, x: Tensor) -> Tensor:
        gathered = torch.cat([x @ part for part in self.parts], dim=1)
        out: Tensor = self.conv(torch.relu(functional.conv2d(gathered, self.weight) + self.bias))
        if self.pointwise is not None:
            out = self.pointwise(torch.relu(out))
        if self.shortcut is not None:
            out = out + self.shortcut(x)
        elif self.residual == "identity":
            out = out + x
        return torch.relu(out)


class _PlainConv(nn.Module):
    def __init__(self, told: dict[str, int], name: str, tensors: Tensors) -> None:
        super().__init__()
        self.weight = _constant(tensors[f"{name}.weight"][..., None])
        self.bias = _constant(tensors[f"{name}.bias"])
        self.stride, self.groups = told["stride"], told["groups"]
        self.left, self.right = told["left"], told["right"]

    def forward(self, x: Tensor) -> Tensor:
        left = self.left
        if left != self.right:
            x, left = functional.pad(x, (0, 0, left, self.right)), 0
        return functional.conv2d(x, self.weight, self.bias, (self.stride, 1), (left, 0), groups=self.groups)


def _constant(array: NDArray[np.float32]) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(np.array(array)), requires_grad=False)


def _by_channel(array: NDArray[np.float32]) -> nn.Parameter:
    """``(V, C)`` as ``(C, 1, V)``."""
    return _constant(array.T[:, None])


class PlainClassifier(nn.Module):
    """A :class:`asma_fast.nn.Classifier` over one encoder or two aligned ones, in eval mode.

    Raises
    ------
    TypeError, ValueError
        If the model is another network, a layer of it was replaced, or a weight is not finite.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        if not isinstance(model, Classifier) or not isinstance(model.encoder, (STGCN, AlignedEncoders)):
            raise TypeError(f"model must be a Classifier over STGCN or AlignedEncoders, got {type(model).__name__}")
        check_layers(model)
        for name, tensor in model.state_dict().items():
            if not tensor.isfinite().all():
                raise ValueError(f"the model must be finite; {name} is not")
        self.head = copy.deepcopy(model.head)
        self.second: PlainEncoder | None = None
        self.alignment: FeatureAlignment | None = None
        if isinstance(model.encoder, AlignedEncoders):
            pair = model.encoder
            self.first, self.second = PlainEncoder(pair.first), PlainEncoder(pair.second)
            self.alignment, self.per = copy.deepcopy(pair.alignment), pair.tokens
        else:
            self.first = PlainEncoder(model.encoder)
        self.eval()

    def forward(self, clips: Tensor) -> Tensor:
        """Clips ``(N, C, T, V, M)`` to logits ``(N, classes)``."""
        if self.second is None or self.alignment is None:
            logits: Tensor = self.head(self.first.pooled(clips))
        else:
            tokens = (encoder.tokens(clips, self.per) for encoder in (self.first, self.second))
            logits = self.head(self.alignment(*tokens))
        return logits
