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

    Every weight is that of a layer, as the layer takes it: an exporter that sees one reshaped, or handed to a function,
    may not know it for a constant.
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
        adjacency = tensors[f"{name}.adjacency"]
        self.parts = len(adjacency)
        for k, part in enumerate(adjacency):
            self.register_buffer(f"part{k}", torch.from_numpy(np.array(part)))
        weight = tensors[f"{name}.graph.weight"]  # (K, O, C)
        parts, out, wide = weight.shape
        self.product = nn.Conv2d(parts * wide, out, 1, bias=False)
        self.product.weight = _constant(weight.swapaxes(0, 1).reshape(out, parts * wide, 1, 1))
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
        out: Tensor = self.conv(torch.relu(self.product(self.gathered(x)) + self.bias))
        if self.pointwise is not None:
            out = self.pointwise(torch.relu(out))
        if self.shortcut is not None:
            out = out + self.shortcut(x)
        elif self.residual == "identity":
            out = out + x
        return torch.relu(out)

    def gathered(self, x: Tensor) -> Tensor:
        """``(N·M, K·C, T, V)``: each part's sums of joints, side by side."""
        return torch.cat([x @ self.get_buffer(f"part{k}") for k in range(self.parts)], dim=1)


class _PlainConv(nn.Module):
    def __init__(self, told: dict[str, int], name: str, tensors: Tensors) -> None:
        super().__init__()
        weight, left, right = tensors[f"{name}.weight"], told["left"], told["right"]
        self.pad = (0, 0, left, right) if left != right else None
        self.conv = nn.Conv2d(
            weight.shape[1] * told["groups"],
            len(weight),
            (told["taps"], 1),
            stride=(told["stride"], 1),
            padding=(0 if self.pad else left, 0),
            groups=told["groups"],
        )
        self.conv.weight = _constant(weight[..., None])
        self.conv.bias = _constant(tensors[f"{name}.bias"])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x if self.pad is None else functional.pad(x, self.pad))
        return out


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
