"""Our pretraining step, counted: the package's own modules, whose ops are the kernels that ``FORMULAS`` say they are.

The modules run on tensors without numbers (torch's fake mode), so the small arithmetic between the passes counts too.
Beside ours stands the least that any code would move and compute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any
from unittest.mock import patch

import torch
from gpu_parent import (
    ADAM,
    BODIES,
    CHANNELS,
    CLIPS,
    COORDINATES,
    DROPPED_FRAMES,
    DROPPED_JOINTS,
    ENCODERS,
    FIRST,
    FRAMES,
    GRAPH,
    HEAD,
    INPUT_NORM,
    JOINTS,
    LOSS,
    OUTPUT,
    REST,
    ROWS,
    SKELETON,
    STREAMS,
    TEMPORAL,
    VIEWS,
    WIDTH,
    Counts,
    Stream,
    random_clips,
)
from gpu_traffic import Kernel, count, moved_bytes
from rivals import channels_last_clips, real_taps
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from asma_fast import View, ops
from asma_fast.nn import STGCN, Projector, barlow_twins_loss, input_norm
from asma_fast.training.augment import Augmentation
from asma_fast.training.configs import PretrainConfig
from asma_fast.training.masks import Masking

#: Channels of a result that a block of threads makes, so that wider results read their input again.
COLUMNS = 64
#: Edges of the graph with its loops, in all partitions, and the joints' loops among them.
EDGES, LOOPS = int(SKELETON.pattern("spatial").sum()), JOINTS


def columns(channels: int) -> int:
    """Tiles of a result's channels."""
    return math.ceil(channels / COLUMNS)


def edges(joints: int) -> float:
    """Entries of the adjacency among kept joints, in the mean over all sets of so many."""
    return LOOPS * joints / JOINTS + (EDGES - LOOPS) * joints * (joints - 1) / (JOINTS * (JOINTS - 1))


def bytes_of(*arrays: Any) -> float:
    """Of tensors, each once; None has none."""
    return float(sum(moved_bytes(one) for one in arrays if isinstance(one, Tensor)))


def kept_bytes(x: Tensor, frames: Tensor | None) -> float:
    """Of what a view reads of a clip: its kept frames, all joints."""
    share = 1.0 if frames is None or x.ndim == 4 else frames.shape[1] / x.shape[2]
    return bytes_of(x) * share


@dataclass
class Passes:
    """Kernels of our ops under three assumptions, in the order of the calls.

    Attributes
    ----------
    cached : list of Kernel
        What a tile of columns reads again comes from the cache; the rest as counted.
    least : list of Kernel
        Each argument read once, each result written once, one kernel an op, no product with padding.
    """

    cached: list[Kernel] = field(default_factory=list)
    least: list[Kernel] = field(default_factory=list)

    def __call__(self, name: str, args: Sequence[Any], result: Any) -> list[Kernel] | None:
        """The op's kernels, tiles reading again from memory. None: one that reads and writes everything once."""
        formula = FORMULAS.get(name.removeprefix("block_").removesuffix("_backward"))
        if formula is None:
            return None
        if name.endswith("_backward") and not name.startswith("block_"):
            args = (args[0], None, None, *args[1:])  # as those of the block: g, the sums' gradient, y
        back = name.endswith("_backward")
        full = formula(args, result, back, True)
        once = formula(args, result, back, False)
        self.cached += once
        self.least.append(_least(once))
        return full


Formula = Callable[[Sequence[Any], Any, bool, bool], "list[Kernel]"]


def _least(kernels: Sequence[Kernel]) -> Kernel:
    """One kernel in place of two that share arguments."""
    flop = sum(one.flop * one.needed for one in kernels)
    read = max(one.read for one in kernels)
    return Kernel(kernels[0].name, read, sum(one.written for one in kernels), flop, kernels[0].width)


def _outputs(result: Any) -> tuple[Any, ...]:
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def _graph(args: Sequence[Any], result: Any, back: bool, again: bool) -> list[Kernel]:
    if back:
        g, _, y, *args = args
    x, weight, adjacency, bias, frames, *maps = args
    y1 = g if back else _outputs(result)[0]
    rows, out, length, joints = y1.shape
    parts, _, wide = weight.shape
    name = "first graph_conv" if x.ndim == 5 else "graph_conv"
    flop = 2.0 * rows * length * (joints * parts * wide * out + edges(joints) * wide)
    small = bytes_of(weight, adjacency, bias, frames, *maps)
    clip, width = kept_bytes(x, frames), min(out, parts * wide)
    tiles = columns(out) if again else 1
    if not back:
        return [Kernel(name, tiles * clip + small, bytes_of(*_outputs(result)), flop, width)]
    maps_read = bytes_of(g, y)
    first = maps_read * (columns(wide) if again else 1) + clip + small
    second = maps_read + tiles * clip + small
    return [
        Kernel(name, first, bytes_of(result[0]), flop, width),
        Kernel(name, second, bytes_of(*result[1:]), flop, width),
    ]


def _temporal(args: Sequence[Any], result: Any, back: bool, again: bool) -> list[Kernel]:
    if back:
        g, _, y, *args = args
    x, weight, bias, *affine = args
    affine, stride = (affine[:-6], affine[-6]) if back else (affine[:-5], affine[-5])
    y1 = g if back else _outputs(result)[0]
    rows, out, length, joints = y1.shape
    wide, taps = weight.shape[1:]
    name = "temporal_conv" if taps > 1 else "residual_conv"
    flop = 2.0 * rows * joints * length * taps * out * wide
    needed = real_taps(x.shape[2], stride, taps) / (length * taps)
    # Of a 1×1 convolution with a stride, only every so many frames are read.
    read = bytes_of(x) / (stride if taps < stride else 1)
    small, width = bytes_of(weight, bias, *affine), min(out, wide * taps)
    tiles, back_tiles = (columns(out), columns(wide)) if again else (1, 1)
    if not back:
        return [Kernel(name, tiles * read + small, bytes_of(*_outputs(result)), flop, width, needed)]
    maps_read = bytes_of(g, y) * back_tiles
    return [
        Kernel(name, maps_read + read + small, bytes_of(result[0], *result[3:]), flop, width, needed),
        Kernel(name, maps_read + tiles * read, bytes_of(*result[1:3]), flop, width, needed),
    ]


def _moments(args: Sequence[Any], result: Any, back: bool, again: bool) -> list[Kernel]:
    x, frames = args
    return [Kernel("moments", kept_bytes(x, frames) + bytes_of(frames), bytes_of(*result))]


def _motion(args: Sequence[Any], result: Any, back: bool, again: bool) -> list[Kernel]:
    return [Kernel("frame_motion", bytes_of(*args), bytes_of(result))]


def _gather(args: Sequence[Any], result: Any, back: bool, again: bool) -> list[Kernel]:
    maps = bytes_of(*args[3:] if back else args[1:])
    read = bytes_of(args[0]) if back else bytes_of(result)
    return [Kernel("gather_view", read + maps, bytes_of(result))]


def _output(args: Sequence[Any], result: Any, back: bool, again: bool) -> list[Kernel]:
    return [Kernel("block_output", bytes_of(*args), bytes_of(*_outputs(result)))]


FORMULAS: dict[str, Formula] = {
    "graph_conv": _graph,
    "temporal_conv": _temporal,
    "moments": _moments,
    "frame_motion": _motion,
    "gather_view": _gather,
    "output": _output,
}


@lru_cache
def views(clips: int = CLIPS) -> tuple[list[Kernel], Passes]:
    """Three views of a batch with both masks: small arrays, and one pass over the clips for their motion."""
    config, passes = PretrainConfig(batch=clips), Passes()
    augmentation, masking = Augmentation(config, SKELETON), Masking.of("hl", config, SKELETON)
    batch, ids = channels_last_clips(random_clips(clips)), torch.arange(clips)
    kernels: list[Kernel] = []
    for stream in STREAMS:
        view = augmentation.view(FRAMES, seed=1, ids=ids)
        kernels += [Kernel("copy to the device", 0.0, bytes_of(one)) for one in view.arrays()]
        mask = {"spatial": masking.spatial, "temporal": masking.temporal}.get(stream.name)
        if mask is not None:
            kernels += count(partial(mask, batch, view, seed=1, ids=ids), passes)
    return kernels, passes


@lru_cache
def encoder_pass(stream: Stream, clips: int = CLIPS) -> tuple[list[Kernel], list[Kernel], Passes]:
    """One stream's pass through the encoder, and back."""
    passes = Passes()
    with patch.object(input_norm, "_check_range", lambda *unread: None), FakeTensorMode(allow_non_fake_inputs=True):
        made = STGCN(SKELETON, dropout=0.5, impl="cpu").train()
        x = torch.empty(clips, BODIES, FRAMES, JOINTS, COORDINATES).permute(0, 4, 2, 3, 1)
        joints = torch.empty(clips, stream.joints, dtype=torch.int32)
        frames = torch.empty(clips, stream.frames, dtype=torch.int32)
        view = View(frames, joints, joints.clone(), torch.empty(clips, 3, 3))
        seed, ids = torch.empty((), dtype=torch.int64), torch.empty(clips, dtype=torch.int64)
        out: list[Tensor] = []
        forward = count(lambda: out.append(made(x, view, seed=seed, ids=ids)), passes)
        parameters, cotangent = list(made.parameters()), torch.empty_like(out[0])
        backward = count(lambda: torch.autograd.grad(out[0], parameters, cotangent), passes)
    return forward, backward, passes


_PARTS = {
    "moments": INPUT_NORM,
    "first graph_conv": FIRST,
    "graph_conv": GRAPH,
    "temporal_conv": TEMPORAL,
    "residual_conv": OUTPUT,
    "block_output": OUTPUT,
    "mean": HEAD,
}


def encoder_parts(stream: Stream, maps: float = 1.0) -> Counts:
    """One stream's pass through the encoder and back, by part; ``maps``: size of a number of a map, by float32's.

    What comes before the first graph convolution normalises the input; other small ops are the rest.
    """
    forward, backward, _ = encoder_pass(stream)
    first = [one.name for one in forward].index("first graph_conv")
    parts: Counts = {row: [] for row in ROWS}
    for place, kernel in enumerate([*forward, *backward]):
        row = INPUT_NORM if place < first else _PARTS.get(kernel.name, REST)
        parts[row].append(kernel if row == INPUT_NORM else kernel.scaled(maps))
    return parts


def _both_ways(call: Callable[..., Tensor], leaves: Sequence[Tensor], *others: Tensor) -> list[Kernel]:
    out: list[Tensor] = []
    kernels = count(lambda: out.append(call(*leaves)))
    return kernels + count(lambda: torch.autograd.grad(out[0], [*leaves, *others], torch.empty_like(out[0])))


@lru_cache
def head(clips: int = CLIPS, width: int = WIDTH) -> list[Kernel]:
    """The projector, forward and backward, once."""
    with FakeTensorMode():
        made = Projector(CHANNELS[-1], width).train()
        return _both_ways(made, [torch.empty(clips, CHANNELS[-1], requires_grad=True)], *made.parameters())


@lru_cache
def loss(clips: int = CLIPS, width: int = WIDTH) -> list[Kernel]:
    """Two losses by Gram matrices, forward and backward."""
    with FakeTensorMode():
        z = [torch.empty(clips, width, requires_grad=True) for _ in range(3)]
        return _both_ways(lambda a, b, c: barlow_twins_loss(a, c) + barlow_twins_loss(a, b), z)


@lru_cache
def step(maps: float = 1.0) -> Counts:
    """A whole step of both encoders, by part."""
    parts: Counts = {row: [] for row in ROWS}
    parts[VIEWS] = views()[0]
    for stream in STREAMS:
        for row, kernels in encoder_parts(stream, maps).items():
            parts[row] += kernels
        parts[HEAD] += head()
    parts[LOSS] = loss()
    weights = _weights()
    parts[REST] += 2 * [Kernel("add_", 8.0 * one, 4.0 * one) for one in weights]
    # The training loop's Adam is fused on a GPU.
    return {row: ENCODERS * kernels for row, kernels in parts.items()} | {ADAM: least_adam()}


@lru_cache
def masks(clips: int = CLIPS) -> tuple[list[Kernel], Passes]:
    """Both masked streams of a batch, materialised: motion, sampling, gathering."""
    x, passes = channels_last_clips(random_clips(clips)), Passes()
    weights = torch.as_tensor(SKELETON.degree, dtype=torch.float32)
    seed, ids = torch.tensor(1), torch.arange(clips)

    def call() -> None:
        scores = ops.frame_motion(x, last="zero")
        dropped = DROPPED_FRAMES
        frames = ops.sample_frames(scores, dropped, remove="low", random_drop=dropped, seed=seed, ids=ids)
        joints = ops.sample_joints(weights, DROPPED_JOINTS, seed=seed, ids=ids)
        ops.gather_view(x, View(frames=frames))
        ops.gather_view(x, View(joints=joints))

    return count(call, passes), passes


@lru_cache
def _weights() -> list[int]:
    """Sizes of all parameters of an encoder and its projector."""
    with FakeTensorMode():
        modules = STGCN(SKELETON), Projector(CHANNELS[-1], WIDTH)
        return [one.numel() for made in modules for one in made.parameters()]


def _from_passes(which: str, maps: float) -> Counts:
    """Of the encoder's ops alone."""
    parts: Counts = {row: [] for row in ROWS}
    for stream in STREAMS:
        for kernel in getattr(encoder_pass(stream)[2], which):
            row = _PARTS[kernel.name]
            parts[row].append(kernel if row == INPUT_NORM else kernel.scaled(maps))
    return {row: ENCODERS * kernels for row, kernels in parts.items()}


def improved(maps: float = 1.0) -> Counts:
    """A step whose tiles read again from the cache, and with a small kernel a batch-norm and direction."""
    parts = dict(step(maps))
    parts |= {row: kernels for row, kernels in _from_passes("cached", maps).items() if row in (FIRST, GRAPH, TEMPORAL)}
    maps_added = [one for one in parts[REST] if one.moved > 1e5]
    norms = 2 * ENCODERS * sum(one.name.endswith("_conv") for one in _forward_ops())
    parts[REST] = maps_added + norms * [Kernel("batch-norm", 0.0, 0.0)]
    return parts


def _forward_ops() -> list[Kernel]:
    return [one for stream in STREAMS for one in encoder_pass(stream)[0]]


def least_loss() -> list[Kernel]:
    """The three projections read, their gradients written."""
    features = 4.0 * CLIPS * WIDTH
    return [Kernel("loss", 3 * features, 3 * features, sum(one.flop for one in loss()), CLIPS)]


def least_adam() -> list[Kernel]:
    """Weight, gradient and two moments read, all but the gradient written."""
    numbers = 4.0 * sum(_weights())
    return ENCODERS * [Kernel("adam", 4 * numbers, 3 * numbers)]


@lru_cache
def least(maps: float = 1.0) -> Counts:
    """What a step cannot go below while each of our ops is a pass: bytes once, no padding, no small arithmetic."""
    parts = _from_passes("least", maps)
    parts[VIEWS] = ENCODERS * views()[1].least
    parts[HEAD] = ENCODERS * len(STREAMS) * [one for one in head() if one.flop]
    parts[LOSS] = ENCODERS * least_loss()
    parts[ADAM] = least_adam()
    return parts
