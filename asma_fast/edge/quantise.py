"""From a folded network to its int8 numbers. Needs torch; csrc/edge/model.hpp tells the tensors.

An activation x becomes a code clamp(rint(x / step) + zero, 0, 127); its step and zero are chosen on calibration clips.
A weight becomes a code of -127..127 by a step of its output channel. Zero points go into the int32 bias of a sum, so
that the engine knows of steps only what turns a sum into the next code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

MOST_CODE = 127
MOST_WORD = 32_766  # of a sum of int16, and 2 to spare
MOST_REACH = 200  # codes that one code of every neighbour makes together: gather.scale then fits into int16
LARGEST_BIAS = 2**26  # in steps of a sum
LARGEST_NUMBER = 2**28  # before it is rounded and clamped
LARGEST_STEP = 2**20  # of a residual, in steps of what it is added to
SAMPLED = 2**18  # numbers of an activation, at most, that steps are chosen by
TOGETHER = 64  # bodies
SHRINKS = np.linspace(0.3, 1, 71)

Tensors = dict[str, NDArray[Any]]
Wide = NDArray[np.float64]


def calibration_clips(given: Any, network: Mapping[str, Any]) -> Tensor:
    """``(bodies, T, V, C)`` float32: the clips' bodies that are there, and an empty one.

    Raises
    ------
    TypeError, ValueError
        If they are no clips ``(N, C, T, V, M)`` of the network's joints and coordinates, or not finite.
    """
    if not isinstance(given, (np.ndarray, Tensor)):
        raise TypeError(f"calibration must be an array or a tensor, got {type(given).__name__}")
    clips = torch.as_tensor(given).detach().cpu().float()
    joints, channels = network["joints"], network["coordinates"]
    if clips.ndim != 5 or clips.shape[1] != channels or clips.shape[3] != joints or 0 in clips.shape:
        raise ValueError(
            f"calibration must have shape (N, {channels}, T, {joints}, M) and a clip, got {tuple(clips.shape)}"
        )
    if not bool(torch.isfinite(clips).all()):
        raise ValueError("calibration must be finite")
    bodies = clips.permute(0, 4, 2, 3, 1).reshape(-1, clips.shape[2], joints, channels)
    there = bodies[bodies.flatten(1).any(1)]
    if not len(there):
        raise ValueError("calibration must have a clip with a body in it")
    return torch.cat([there, torch.zeros_like(there[:1])])


@dataclass(frozen=True)
class Step:
    """How an activation's numbers become codes."""

    size: float
    zero: int

    def error(self, numbers: Wide) -> float:
        """The mean square of what codes lose of them."""
        codes = np.clip(np.rint(numbers / self.size) + self.zero, 0, MOST_CODE)
        return float(np.square((codes - self.zero) * self.size - numbers).mean())

    @classmethod
    def over(cls, low: float, high: float) -> Step:
        """Of codes from ``low``, at most 0, to ``high``, at least 0."""
        size = (high - low) / MOST_CODE or 1.0
        return cls(size, round(-low / size))

    @classmethod
    def of(cls, numbers: Wide) -> Step:
        """The one of least error, of those whose range is a part of the numbers'."""
        low, high = min(0.0, float(numbers.min())), max(0.0, float(numbers.max()))
        steps = [cls.over(share * low, share * high) for share in SHRINKS]
        return min(steps, key=lambda step: step.error(numbers))


class _Sample:
    """Some numbers of each activation, evenly spaced, and its extremes."""

    def __init__(self, batches: int) -> None:
        self.most = max(1, SAMPLED // batches)
        self.found: dict[str, list[Tensor]] = {}

    def add(self, name: str, numbers: Tensor) -> None:
        flat = numbers.flatten()
        every = flat[:: -(-len(flat) // self.most)]
        self.found.setdefault(name, []).extend([every, flat.amin()[None], flat.amax()[None]])

    def step(self, name: str) -> Step:
        return Step.of(torch.cat(self.found[name]).double().numpy())


def _blocks(network: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for index, told in enumerate(network["blocks"]):
        yield f"blocks.{index}", told


def _convolved(x: Tensor, weight: NDArray[Any], bias: NDArray[Any], told: Mapping[str, int]) -> Tensor:
    """Of ``(B, C, T, V)``."""
    padded = functional.pad(x, (0, 0, told["left"], told["right"]))
    return functional.conv2d(
        padded,
        torch.from_numpy(weight)[..., None],
        torch.from_numpy(bias),
        stride=(told["stride"], 1),
        groups=told["groups"],
    )


@torch.no_grad()
def activations(tensors: Tensors, network: Mapping[str, Any], bodies: Tensor, sample: _Sample) -> None:
    """Runs the folded network on ``(B, T, V, C)``; its activations go into the sample."""
    x = bodies * torch.from_numpy(tensors["input.scale"]) + torch.from_numpy(tensors["input.shift"])
    x = x.permute(0, 3, 1, 2)
    sample.add("input", x)
    for name, told in _blocks(network):
        gathered = torch.einsum("bctv,kvw->bkctw", x, torch.from_numpy(tensors[f"{name}.adjacency"]))
        for part in range(gathered.shape[1]):
            sample.add(f"{name}.gather.{part}", gathered[:, part])
        weight = torch.from_numpy(tensors[f"{name}.graph.weight"])
        hidden = torch.einsum("bkctw,koc->botw", gathered, weight)
        hidden = (hidden + torch.from_numpy(tensors[f"{name}.graph.bias"]).T[:, None]).relu()
        sample.add(f"{name}.graph", hidden)

        def run(layer: str, key: str, source: Tensor, name: str = name, told: Mapping[str, Any] = told) -> Tensor:
            layer = f"{name}.{layer}"
            return _convolved(source, tensors[f"{layer}.weight"], tensors[f"{layer}.bias"], told[key])

        out = run("conv", "conv", hidden)
        if "pointwise" in told:
            out = out.relu()
            sample.add(f"{name}.conv", out)
            out = run("pointwise", "pointwise", out)
        if told["residual"] == "convolution":
            beside = run("residual", "shortcut", x)
            sample.add(f"{name}.residual", beside)
            out = out + beside
        elif told["residual"] == "identity":
            out = out + x
        x = out.relu()
        sample.add(name, x)


def quantised(tensors: Tensors, network: Mapping[str, Any], bodies: Tensor) -> Tensors:
    """The int8 tensors of a folded network of float32, by calibration on ``(B, T, V, C)``."""
    batches = bodies.split(TOGETHER)
    sample = _Sample(len(batches))
    for batch in batches:
        activations(tensors, network, batch, sample)
    x = sample.step("input")
    found: Tensors = {
        "input.scale": (tensors["input.scale"].astype(np.float64) / x.size).astype(np.float32),
        "input.shift": (tensors["input.shift"].astype(np.float64) / x.size + x.zero).astype(np.float32),
        "head.weight": tensors["head.weight"],
        "head.bias": tensors["head.bias"],
    }
    for name, told in _blocks(network):
        steps = [sample.step(f"{name}.gather.{part}") for part in range(told["parts"])]
        steps = _gather(found, name, tensors[f"{name}.adjacency"].astype(np.float64), x, steps)
        hidden = sample.step(f"{name}.graph")
        _graph(found, name, tensors, steps, hidden)
        out, beside = sample.step(name), None
        if told["residual"] != "none":
            beside = x
            if told["residual"] == "convolution":
                beside = sample.step(f"{name}.residual")
                _conv(found, f"{name}.residual", tensors, x, beside)
            found[f"{name}.residual.step"] = np.array([min(beside.size / out.size, LARGEST_STEP)], np.float32)
        last = f"{name}.conv"
        if "pointwise" in told:
            between = sample.step(last)
            _conv(found, last, tensors, hidden, between)
            last, hidden = f"{name}.pointwise", between
        _conv(found, last, tensors, hidden, out, beside)
        x = out
    found["features.scale"] = np.array([x.size], np.float32)
    return found


def _gather(found: Tensors, name: str, adjacency: Wide, x: Step, steps: list[Step]) -> list[Step]:
    """The adjacency in whole numbers, each target's as fine as its sums fit into int16; the steps of the parts."""
    parts, joints, _ = adjacency.shape
    codes = np.zeros(adjacency.shape, np.int16)
    start, scale = np.zeros((parts, joints), np.int16), np.ones((parts, joints), np.int16)
    kept = []
    for part, step in enumerate(steps):
        largest = float(np.abs(adjacency[part]).sum(axis=0).max()) * x.size
        step = Step(max(step.size, largest / MOST_REACH), step.zero)
        kept.append(step)
        for target in range(joints):
            entries = adjacency[part, :, target] * x.size / step.size * 2**15
            least = max(1, int(np.abs(entries).sum() * MOST_CODE // MOST_WORD))
            while np.abs(np.rint(entries / least)).sum() * MOST_CODE > MOST_WORD:
                least += 1
            codes[part, :, target] = np.rint(entries / least)
            scale[part, target] = least
        start[part] = -x.zero * codes[part].sum(axis=0, dtype=np.int64)
    found[f"{name}.adjacency"], found[f"{name}.gather.start"] = codes, start
    found[f"{name}.gather.scale"] = scale
    found[f"{name}.gather.zero"] = np.array([step.zero for step in kept], np.int16)
    return kept


def _weights(weight: Wide, unit: Wide, bias: Wide) -> tuple[NDArray[np.int8], Wide]:
    """Codes ``(O, …)`` and what a step of a column's sum means, for weights of inputs in steps of ``unit``."""
    in_units = weight * unit
    size = np.abs(in_units).reshape(len(weight), -1).max(axis=1) / MOST_CODE
    size = np.maximum(size, np.abs(bias).reshape(-1, len(weight)).max(axis=0) / LARGEST_BIAS)
    size = np.maximum(size, 1e-30)
    codes = np.rint(in_units / size.reshape(-1, *[1] * (weight.ndim - 1)))
    return codes.astype(np.int8), size


def _add(found: Tensors, name: str, codes: NDArray[np.int8], bias: Wide, scale: Wide) -> None:
    """Codes ``(O, …)``; a scale so large that any sum saturates is as good as a larger one."""
    found[f"{name}.weight"] = np.ascontiguousarray(codes)
    found[f"{name}.bias"] = np.rint(bias).astype(np.int32)
    sums = MOST_CODE * np.abs(codes.reshape(len(codes), -1).astype(np.int64)).sum(axis=1)
    sums = sums + np.abs(np.rint(bias)).reshape(-1, len(codes)).max(axis=0)
    found[f"{name}.scale"] = np.minimum(scale, LARGEST_NUMBER / np.maximum(sums, 1)).astype(np.float32)


def _graph(found: Tensors, name: str, tensors: Tensors, steps: list[Step], hidden: Step) -> None:
    weight = tensors[f"{name}.graph.weight"].astype(np.float64).transpose(1, 0, 2)
    bias = tensors[f"{name}.graph.bias"].astype(np.float64)
    codes, size = _weights(weight, np.array([step.size for step in steps])[:, None], bias)
    zeros = np.array([step.zero for step in steps])
    shift = (codes.sum(axis=2, dtype=np.int64) * zeros).sum(axis=1)
    _add(found, f"{name}.graph", codes, bias / size - shift, size / hidden.size)
    found[f"{name}.graph.weight"] = np.ascontiguousarray(codes.transpose(1, 0, 2))


def _conv(found: Tensors, name: str, tensors: Tensors, source: Step, out: Step, beside: Step | None = None) -> None:
    weight, bias = (tensors[f"{name}.{what}"].astype(np.float64) for what in ("weight", "bias"))
    bias = bias + out.zero * out.size - (0 if beside is None else beside.zero * beside.size)
    codes, size = _weights(weight, np.array(source.size), bias)
    shift = source.zero * codes.sum(axis=(1, 2), dtype=np.int64)
    _add(found, name, codes, bias / size - shift, size / out.size)
