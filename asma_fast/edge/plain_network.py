"""A trained classifier as layers that every runtime knows: for exporters of other formats. Needs torch."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from asma_fast.edge.exporter import check_layers, fold
from asma_fast.nn import STGCN, AlignedEncoders, Classifier, FeatureAlignment
from asma_fast.nn.stgcn import Bodies, Tokens, over_bodies


class PlainEncoder(nn.Module):
    """An :class:`asma_fast.nn.STGCN` in eval mode: products with the adjacency, 1×1 and temporal convolutions."""

    def __init__(self, encoder: STGCN) -> None:
        super().__init__()
        network, tensors = fold(encoder)
        self.bodies: Bodies = network["bodies"]
        self.blocks: list[dict[str, Any]] = network["blocks"]
        for name, array in tensors.items():
            self.register_buffer(name.replace(".", "_"), torch.from_numpy(array))

    def forward(self, clips: Tensor) -> Tensor:
        """Clips ``(N, C, T, V, M)`` to the last block's result ``(N·M, D, T', V)``."""
        n, channels, frames, joints, bodies = clips.shape
        x = clips.permute(0, 4, 1, 2, 3).reshape(n * bodies, channels, frames, joints)
        x = x * self._of("input.scale").T[:, None] + self._of("input.shift").T[:, None]
        for index, told in enumerate(self.blocks):
            x = self._block(x, told, f"blocks.{index}")
        return x

    def pooled(self, clips: Tensor) -> Tensor:
        """``(N, D)``, as :meth:`asma_fast.nn.STGCN.forward`."""
        return over_bodies(self(clips).mean(dim=(2, 3)), clips, self.bodies)

    def tokens(self, clips: Tensor, per: Tokens) -> Tensor:
        """``(N, P, D)``, as :meth:`asma_fast.nn.STGCN.tokens`."""
        return over_bodies(self(clips).mean(dim=2 if per == "joint" else 3), clips, self.bodies).transpose(1, 2)

    def _of(self, name: str) -> Tensor:
        return self.get_buffer(name.replace(".", "_"))

    def _block(self, x: Tensor, told: dict[str, Any], name: str) -> Tensor:
        weight = self._of(f"{name}.graph.weight")  # (K, O, C)
        gathered = torch.cat([x @ part for part in self._of(f"{name}.adjacency")], dim=1)
        hidden = functional.conv2d(gathered, weight.transpose(0, 1).flatten(1)[..., None, None])
        hidden = torch.relu(hidden + self._of(f"{name}.graph.bias").T[:, None])
        out = self._conv(hidden, told["conv"], f"{name}.conv")
        if "pointwise" in told:
            out = self._conv(torch.relu(out), told["pointwise"], f"{name}.pointwise")
        if told["residual"] == "identity":
            out = out + x
        elif told["residual"] == "convolution":
            out = out + self._conv(x, told["shortcut"], f"{name}.residual")
        return torch.relu(out)

    def _conv(self, x: Tensor, told: dict[str, int], name: str) -> Tensor:
        left, right = told["left"], told["right"]
        if left != right:
            x = functional.pad(x, (0, 0, left, right))
            left = 0
        weight, bias = self._of(f"{name}.weight")[..., None], self._of(f"{name}.bias")
        return functional.conv2d(x, weight, bias, (told["stride"], 1), (left, 0), groups=told["groups"])


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
