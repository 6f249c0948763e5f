"""From a folded network to its int8 numbers. Needs torch; csrc/edge/model.hpp tells the tensors.

An activation x of a channel becomes a code clamp(rint(x / step) + zero, 0, 127), a weight one of -127..127 by a step of
its output channel. Steps of activations go into the weights that read them, and zero points into the biases of sums, so
that the engine knows of steps only what turns a sum into the next code. The network runs twice on calibration clips, as
it is and by codes: each step is chosen where little is lost, weights are rounded together, and each bias makes up for
the mean of what was lost before it (Nagel et al., ICCV 2019).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from asma_fast.edge.rounding import products, rounded, row_limit

MOST_CODE = 127
FIRST_MOST, FIRST_UNIT = 2**14 - 1, 2**7  # codes that the first block gathers; the step of its bias
MOST_WORD = 32_766  # of a sum of int16, and one to spare
MOST_REACH = 200  # codes that one code of every neighbour makes together: gather.scale then fits into int16
LARGEST_BIAS = 2**25  # in steps of a sum
LARGEST_NUMBER = 2**28  # before it is rounded and clamped
LARGEST_STEP = 2**20  # of a residual, in steps of what it is added to
MOST_BODIES = 512  # of the calibration clips
MOST_NUMBERS = 2**26  # of a map, while it is calibrated
SAMPLED = 2**13  # numbers of a channel, by which its step is chosen
OWN_SHARE = 0.75  # of a channel's own step in its step, against that of all channels: measured on two data sets
SHRINKS = tuple(np.linspace(0.3, 1, 41))  # of a range, to choose from
TIGHTER = 0.8  # of the step by which the least squares are lost: a few clips lose more, most less; measured likewise

Tensors = dict[str, NDArray[Any]]
Wide = NDArray[np.float64]


def calibration_clips(given: Any, network: Mapping[str, Any]) -> Tensor:
    """``(B, C, T, V)`` float32: bodies of the clips that are there, evenly chosen, and an empty one.

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
    bodies = clips.permute(0, 4, 1, 2, 3).flatten(0, 1)
    bodies = bodies[bodies.flatten(1).any(1)]
    if not len(bodies):
        raise ValueError("calibration must have a clip with a body in it")
    widest = max(channels, *(block["channels"] for block in network["blocks"]))
    count = min(len(bodies), MOST_BODIES, max(8, MOST_NUMBERS // (clips.shape[2] * joints * widest)))
    bodies = bodies[torch.linspace(0, len(bodies) - 1, count).round().long()]
    return torch.cat([bodies, torch.zeros_like(bodies[:1])])


@dataclass(frozen=True)
class Steps:
    """How the numbers of each channel become codes."""

    size: Wide
    zero: Wide

    def applied(self, x: Tensor) -> Tensor:
        """``(B, C, T, V)``, by their codes."""
        size, zero = (torch.from_numpy(each).float()[:, None, None] for each in (self.size, self.zero))
        return ((x / size).round() + zero).clamp(0, MOST_CODE).sub(zero) * size


def _sampled(x: Tensor) -> Tensor:
    """``(C, n)`` of ``(B, C, T, V)``; its extremes among them."""
    flat = x.transpose(0, 1).flatten(1)
    places = torch.linspace(0, flat.shape[1] - 1, min(flat.shape[1], SAMPLED)).long()
    return torch.cat([flat[:, places], flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)], 1)


def _best(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Size and zero for each row of ``(R, n)``: the part of its range by whose codes the least is lost."""
    low, high = numbers.amin(1, keepdim=True).clamp_max(0), numbers.amax(1, keepdim=True).clamp_min(0)
    least = torch.full_like(low, torch.inf)
    best, best_zero = torch.ones_like(low), torch.zeros_like(low)
    for share in SHRINKS:
        size = (high - low) * share / MOST_CODE
        size = torch.where(size > 0, size, 1)
        zero = (-low * share / size).round()
        lost = ((numbers / size).round() + zero).clamp(0, MOST_CODE).sub(zero).mul(size).sub(numbers)
        loss = lost.square().mean(1, keepdim=True)
        better = loss < least
        least, best = torch.where(better, loss, least), torch.where(better, size, best)
        best_zero = torch.where(better, zero, best_zero)
    return best[:, 0], best_zero[:, 0]


def steps_of(x: Tensor) -> Steps:
    """For ``(B, C, T, V)``. Between those of a channel and those of all: both lose, the one in the next weights."""
    numbers = _sampled(x)
    size, zero = _best(numbers)
    if bool((numbers >= 0).all()):
        size = size**OWN_SHARE * _best(numbers.reshape(1, -1))[0] ** (1 - OWN_SHARE)
        size = torch.maximum(size, size.max() / 64)  # a channel that says next to nothing
        size = TIGHTER * size
    return Steps(size.double().numpy(), zero.double().numpy())


def quantised(tensors: Tensors, network: Mapping[str, Any], clips: Tensor) -> Tensors:
    """The int8 tensors of a folded network of float32, by calibration on ``(B, C, T, V)``."""
    found = {name: tensors[name] for name in ("input.scale", "input.shift", "head.weight", "head.bias")}
    scale, shift = (torch.from_numpy(tensors[f"input.{what}"]).T[:, None] for what in ("scale", "shift"))
    with torch.no_grad():
        exact = clips * scale + shift
        block = _Block(found, tensors, exact, exact, None)
        for index, told in enumerate(network["blocks"]):
            block = block.through(f"blocks.{index}", told)
        lost = (block.exact - block.coded).mean((0, 2, 3)).double().numpy()
    assert block.steps is not None
    found["features.scale"] = block.steps.size.astype(np.float32)
    weight = tensors["head.weight"].astype(np.float64)
    found["head.bias"] = (tensors["head.bias"] + weight @ lost).astype(np.float32)
    return found


@dataclass
class _Block:
    """What a block reads: as it is, and by codes."""

    found: Tensors
    tensors: Tensors
    exact: Tensor
    coded: Tensor
    steps: Steps | None  # None: numbers, the first block's

    def wide(self, name: str) -> Wide:
        return self.tensors[name].astype(np.float64)

    def through(self, name: str, told: Mapping[str, Any]) -> _Block:
        """What the next one reads."""
        exact, coded, steps = self.graph(name)
        beside: tuple[Tensor, Tensor, Steps] | None = None
        if told["residual"] == "identity":
            assert self.steps is not None
            beside = (self.exact, self.coded, self.steps)
        elif told["residual"] == "convolution":
            assert self.steps is not None
            beside = self.conv(f"{name}.residual", told["shortcut"], (self.exact, self.coded, self.steps), relu=False)
        last = "pointwise" if "pointwise" in told else "conv"
        if last == "pointwise":
            exact, coded, steps = self.conv(f"{name}.conv", told["conv"], (exact, coded, steps))
        exact, coded, steps = self.conv(f"{name}.{last}", told[last], (exact, coded, steps), beside)
        if beside is not None:
            self.found[f"{name}.residual.step"] = np.minimum(beside[2].size / steps.size, LARGEST_STEP).astype(
                np.float32
            )
        return _Block(self.found, self.tensors, exact, coded, steps)

    def graph(self, name: str) -> tuple[Tensor, Tensor, Steps]:
        """The hidden map: as it is, by codes, their steps."""
        adjacency, weight = self.wide(f"{name}.adjacency"), self.wide(f"{name}.graph.weight").transpose(1, 0, 2)
        exact = _gathered(self.exact, adjacency)
        gather = self.gather_first if self.steps is None else self.gather
        sizes, zeros, coded = gather(name, adjacency, exact)
        bias = self.wide(f"{name}.graph.bias")
        most, unit = (MOST_CODE, 1) if self.steps else (FIRST_MOST, FIRST_UNIT)
        some = _some(coded[0], weight[0].size)
        read = (coded[:, some] / torch.from_numpy(sizes).float()[:, None, :, None, None]).round()
        gram = products((body.permute(2, 3, 0, 1).flatten(0, 1).flatten(1) for body in read.unbind(1)), weight[0].size)
        codes, size = _codes(weight * sizes, bias / unit, gram)
        kept = torch.from_numpy(codes * size[:, None, None] / sizes).float()
        given = torch.from_numpy(bias).float().T[:, None]
        whole = torch.einsum("kbctw,okc->botw", exact, torch.from_numpy(weight).float()) + given
        part = torch.einsum("kbctw,okc->botw", coded, kept) + given
        lost = (whole - part).mean((0, 2, 3))
        steps = steps_of(whole.relu())
        shift = (codes.sum(axis=2, dtype=np.int64) * zeros).sum(axis=1)
        start = (bias + lost.double().numpy()) / size - shift
        _add(self.found, f"{name}.graph", codes, start, size / steps.size, most, unit)
        self.found[f"{name}.graph.weight"] = np.ascontiguousarray(codes.transpose(1, 0, 2))
        return whole.relu(), steps.applied((part + lost[:, None, None]).relu()), steps

    def gather_first(self, name: str, adjacency: Wide, exact: Tensor) -> tuple[Wide, Wide, Tensor]:
        """Sizes ``(K, 1)`` and zeros of the parts, and what their codes say."""
        low, high = (extremes.double().numpy() for extremes in torch.aminmax(exact.flatten(1), dim=1))
        margin = 0.25 * (high - low)  # fine enough to be wasted
        low, high = np.minimum(low - margin, 0), np.maximum(high + margin, 0)
        sizes = np.where(high > low, high - low, 1) / FIRST_MOST
        zeros = np.rint(-low / sizes)
        self.found[f"{name}.adjacency"] = (adjacency / sizes[:, None, None]).astype(np.float32)
        self.found[f"{name}.gather.zero"] = zeros.astype(np.int16)
        return sizes[:, None], zeros, exact

    def gather(self, name: str, adjacency: Wide, exact: Tensor) -> tuple[Wide, Wide, Tensor]:
        """Sizes ``(K, C)`` and zeros; the adjacency in whole numbers, each target's as fine as int16 holds its sums."""
        assert self.steps is not None
        parts, joints, _ = adjacency.shape
        unit = torch.from_numpy(self.steps.size).float()[:, None, None]
        codes, scale = np.zeros(adjacency.shape, np.int16), np.ones((parts, joints), np.int16)
        ratios, zeros = np.ones(parts), np.zeros(parts)
        for part in range(parts):
            size, zero = _best(_sampled(exact[part] / unit).reshape(1, -1))
            largest = float(np.abs(adjacency[part]).sum(axis=0).max())
            ratios[part], zeros[part] = max(TIGHTER * float(size), largest / MOST_REACH), float(zero)
            for target in range(joints):
                entries = adjacency[part, :, target] / ratios[part] * 2**15
                least = max(1, int(np.abs(entries).sum() * MOST_CODE // MOST_WORD))
                while np.abs(np.rint(entries / least)).sum() * MOST_CODE > MOST_WORD:
                    least += 1
                codes[part, :, target] = np.rint(entries / least)
                scale[part, target] = least
        self.found[f"{name}.adjacency"], self.found[f"{name}.gather.scale"] = codes, scale
        self.found[f"{name}.gather.zero"] = zeros.astype(np.int16)
        sizes = ratios[:, None] * self.steps.size
        kept = codes * (scale[:, None] * ratios[:, None, None] / 2**15)
        coded = _gathered(self.coded, kept)
        each = [Steps(size, np.full(len(size), zero)) for size, zero in zip(sizes, zeros, strict=True)]
        return sizes, zeros, torch.stack([steps.applied(part) for steps, part in zip(each, coded, strict=True)])

    def conv(
        self,
        name: str,
        told: Mapping[str, int],
        source: tuple[Tensor, Tensor, Steps],
        beside: tuple[Tensor, Tensor, Steps] | None = None,
        *,
        relu: bool = True,
    ) -> tuple[Tensor, Tensor, Steps]:
        """Its result: as it is, by codes, their steps."""
        exact, coded, steps = source
        weight, bias = self.wide(f"{name}.weight"), self.wide(f"{name}.bias")
        if told["groups"] not in (1, len(weight)):
            raise ValueError(f"int8 takes convolutions of one group or as many as channels, got {told['groups']}")
        sizes = steps.size[:, None, None] if told["groups"] > 1 else steps.size[:, None]
        gram = None if told["groups"] > 1 else _products_of_frames(coded, steps.size, told)
        codes, size = _codes(weight * sizes, bias[None], gram)
        kept = codes * size[:, None, None] / sizes
        whole, part = _convolved(exact, weight, bias, told), _convolved(coded, kept, bias, told)
        if beside is not None:
            whole, part = whole + beside[0], part + beside[1]
        lost = (whole - part).mean((0, 2, 3))
        part = part + lost[:, None, None]
        if relu:
            whole, part = whole.relu(), part.relu()
        out = steps_of(whole)
        start = bias + lost.double().numpy() + out.zero * out.size
        if beside is not None:
            start = start - beside[2].zero * beside[2].size
        zeros = steps.zero[:, None, None] if told["groups"] > 1 else steps.zero[:, None]
        shift = (codes.astype(np.int64) * zeros).sum(axis=(1, 2))
        _add(self.found, name, codes, start / size - shift, size / out.size, MOST_CODE, 1)
        return whole, out.applied(part), out


def _gathered(x: Tensor, adjacency: Wide) -> Tensor:
    """``(K, B, C, T, V)``."""
    return torch.einsum("bctv,kvw->kbctw", x, torch.from_numpy(adjacency).float())


def _convolved(x: Tensor, weight: Wide, bias: Wide, told: Mapping[str, int]) -> Tensor:
    padded = functional.pad(x, (0, 0, told["left"], told["right"]))
    kernel, start = torch.from_numpy(weight).float()[..., None], torch.from_numpy(bias).float()
    return functional.conv2d(padded, kernel, start, stride=(told["stride"], 1), groups=told["groups"])


def _some(x: Tensor, width: int) -> Tensor:
    """Bodies of ``(B, C, T, V)``, evenly chosen, that are enough for the products of so many inputs."""
    count = min(len(x), 1 + row_limit(width) // (x.shape[2] * x.shape[3]))
    return torch.linspace(0, len(x) - 1, count).round().long()


def _products_of_frames(x: Tensor, size: Wide, told: Mapping[str, int]) -> Wide:
    """Of what a convolution of one group reads ``(B, C, T, V)``, in steps: ``(C · taps, C · taps)``."""
    width = x.shape[1] * told["taps"]
    read = (x[_some(x, width)] / torch.from_numpy(size).float()[:, None, None]).round()
    padded = functional.pad(read, (0, 0, told["left"], told["right"])).unfold(2, told["taps"], told["stride"])
    return products((body.permute(1, 2, 0, 3).flatten(0, 1).flatten(1) for body in padded), width)


def _codes(weight: Wide, bias: Wide, gram: Wide | None) -> tuple[NDArray[np.int8], Wide]:
    """Of weights ``(O, …)`` for inputs in their steps, and what a step of a column's sum means; biases ``(…, O)``.

    With the products of the inputs they are rounded together.
    """
    size = np.abs(weight).reshape(len(weight), -1).max(axis=1) / MOST_CODE
    size = np.maximum(np.maximum(size, np.abs(bias).max(axis=0) / LARGEST_BIAS), 1e-30)
    wide = weight / size.reshape(-1, *[1] * (weight.ndim - 1))
    codes = np.rint(wide) if gram is None else rounded(wide.reshape(len(wide), -1), gram, MOST_CODE)
    return codes.reshape(weight.shape).astype(np.int8), size


def _add(found: Tensors, name: str, codes: NDArray[np.int8], start: Wide, scale: Wide, most: int, unit: int) -> None:
    """Codes ``(O, …)``; a scale so large that any sum saturates is as good as a larger one."""
    bias = np.rint(start / unit)
    found[f"{name}.weight"], found[f"{name}.bias"] = np.ascontiguousarray(codes), bias.astype(np.int32)
    sums = most * np.abs(codes.reshape(len(codes), -1).astype(np.int64)).sum(axis=1)
    sums = sums + unit * np.abs(bias).reshape(-1, len(codes)).max(axis=0)
    found[f"{name}.scale"] = np.minimum(scale, LARGEST_NUMBER / np.maximum(sums, 1)).astype(np.float32)
