"""An int8 network from its file, in NumPy's integers: what every instruction set must say, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asma_fast.data.tensor_file import open_tensors

Codes = NDArray[np.int64]


def code(sums: Codes, scale: NDArray[np.float32], beside: NDArray[np.float32] | None = None) -> Codes:
    number = sums.astype(np.float32) * scale
    if beside is not None:
        number = number + beside
    assert number.dtype == np.float32
    return np.clip(np.rint(number), 0, 127).astype(np.int64)


class Reference:
    """Of the file's tensors and description."""

    def __init__(self, path: Path) -> None:
        self.tensors, metadata = open_tensors(path)
        self.network: dict[str, Any] = json.loads(metadata["asma_fast.edge"])["network"]

    def wide(self, name: str) -> Codes:
        return self.tensors[name].astype(np.int64)

    def layer(self, name: str, sums: Codes, beside: NDArray[np.float32] | None = None) -> Codes:
        return code(sums + self.wide(f"{name}.bias"), self.tensors[f"{name}.scale"], beside)

    def conv(self, x: Codes, name: str, told: dict[str, int], beside: NDArray[np.float32] | None = None) -> Codes:
        """Of ``(B, T, V, C)``."""
        weight = self.wide(f"{name}.weight")
        padded = np.pad(x, ((0, 0), (told["left"], told["right"]), (0, 0), (0, 0)))
        frames = (x.shape[1] - 1) // told["stride"] + 1
        sums = np.zeros((*x.shape[:1], frames, x.shape[2], len(weight)), np.int64)
        for tap in range(told["taps"]):
            read = padded[:, tap : tap + (frames - 1) * told["stride"] + 1 : told["stride"]]
            sums += read * weight[:, 0, tap] if told["groups"] > 1 else read @ weight[:, :, tap].T
        return self.layer(name, sums, beside)

    def gather(self, x: Codes, name: str) -> Codes:
        """``(B, T, K, V, C)``."""
        scale, zero = self.wide(f"{name}.gather.scale"), self.wide(f"{name}.gather.zero")
        sums = np.einsum("btvc,kvw->btkwc", x, self.wide(f"{name}.adjacency"))
        assert np.abs(sums).max() < 2**15
        return np.clip(((sums * scale[:, :, None] + 2**14) >> 15) + zero[:, None, None], 0, 127)

    def gather_first(self, x: NDArray[np.float32], name: str) -> Codes:
        adjacency, zero = self.tensors[f"{name}.adjacency"], self.tensors[f"{name}.gather.zero"].astype(np.float32)
        rows, frames, joints, channels = x.shape
        sums = np.zeros((rows, frames, len(adjacency), joints, channels), np.float32) + zero[:, None, None]
        for source in range(joints):
            sums = sums + adjacency[:, source, :, None] * x[:, :, None, source, None]
        return np.clip(np.rint(sums), 0, 2**14 - 1).astype(np.int64)

    def block(self, x: NDArray[Any], name: str, told: dict[str, Any]) -> Codes:
        z = self.gather_first(x, name) if x.dtype == np.float32 else self.gather(x, name)
        weight = self.wide(f"{name}.graph.weight")
        if x.dtype == np.float32:  # a bias of 128
            sums = 128 * (np.einsum("btkwc,koc->btwo", z >> 7, weight) + self.wide(f"{name}.graph.bias"))
            sums += np.einsum("btkwc,koc->btwo", z & 127, weight)
            hidden = code(sums, self.tensors[f"{name}.graph.scale"])
        else:
            hidden = self.layer(f"{name}.graph", np.einsum("btkwc,koc->btwo", z, weight))
        beside = None
        if told["residual"] != "none":
            residual = x
            if told["residual"] == "convolution":
                residual = self.conv(x, f"{name}.residual", told["shortcut"])
            beside = residual.astype(np.float32) * self.tensors[f"{name}.residual.step"]
        if "pointwise" not in told:
            return self.conv(hidden, f"{name}.conv", told["conv"], beside)
        return self.conv(
            self.conv(hidden, f"{name}.conv", told["conv"]), f"{name}.pointwise", told["pointwise"], beside
        )

    def features(self, bodies: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of ``(B, T, V, C)``."""
        x: NDArray[Any] = bodies * self.tensors["input.scale"] + self.tensors["input.shift"]
        for index, told in enumerate(self.network["blocks"]):
            x = self.block(x, f"blocks.{index}", told)
        sums = x.sum(axis=(1, 2)).astype(np.float64) * np.float64(self.tensors["features.scale"])
        return (sums / (x.shape[1] * x.shape[2])).astype(np.float32)

    def logits(self, clips: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of ``(N, M, T, V, C)``."""
        found = []
        for clip in clips:
            features = self.features(clip)
            there = clip.reshape(len(clip), -1).any(axis=1)
            if self.network["bodies"] == "present":
                features = features[there] if there.any() else features[:1]
            mean = np.zeros_like(features[0])
            for one in features:
                mean = mean + one
            mean = mean / np.float32(len(features))
            logits = self.tensors["head.bias"].copy()
            for channel, weight in enumerate(self.tensors["head.weight"].T):
                logits = logits + weight * mean[channel]
            found.append(logits)
        return np.stack(found)
