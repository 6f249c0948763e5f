"""The parent's pretraining step, counted: PSTL's recipe and network (``benchmarks/rivals.py``), part by part.

Augmentation and masks run for real; the network, the loss and the optimiser on torch's ``meta`` device, with the one
kernel that dropout is on a GPU.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from gpu_traffic import Kernel, count
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parents[1] / "python_tests"))  # published_networks

from published_networks import PublishedNetwork, published_adjacency
from rivals import (
    BODIES,
    COORDINATES,
    DROPPED_FRAMES,
    DROPPED_JOINTS,
    FRAMES,
    JOINTS,
    SKELETON,
    Draws,
    augment,
    barlow_twins_dxd,
    kept_frames,
    kept_joints,
    projector,
    random_clips,
    take_frames,
)

from asma_fast.nn.stgcn import CHANNELS, STRIDES

CLIPS, WIDTH, ENCODERS = 128, 6144, 2
KEPT_FRAMES, KEPT_JOINTS = FRAMES - 2 * DROPPED_FRAMES, JOINTS - DROPPED_JOINTS


@dataclass(frozen=True)
class Stream:
    """Frames and joints that a stream's network sees."""

    name: str
    frames: int
    joints: int


STREAMS = (
    Stream("anchor", FRAMES, JOINTS),
    Stream("spatial", FRAMES, KEPT_JOINTS),
    Stream("temporal", KEPT_FRAMES, JOINTS),
)
VIEWS, INPUT_NORM, FIRST = "augmentation, masks", "input batch-norm", "first graph convolution"
GRAPH, TEMPORAL, OUTPUT = "graph convolutions 2–10", "batch-norm, ReLU, temporal convolution", "block output"
HEAD, LOSS, ADAM, REST = "pooling, projector", "Barlow Twins", "Adam", "adding up, small arithmetic"
#: Parts of a step.
ROWS = (VIEWS, INPUT_NORM, FIRST, GRAPH, TEMPORAL, OUTPUT, HEAD, LOSS, ADAM, REST)
Counts = dict[str, list[Kernel]]


@contextmanager
def dropout_of_gpus() -> Iterator[None]:
    """Dropout as torch runs it on a GPU: a kernel that also writes a mask of bytes, and one backward."""
    before = nn.functional.dropout
    nn.functional.dropout = lambda x, p=0.5, training=True, inplace=False: torch.native_dropout(x, p, training)[0]
    try:
        yield
    finally:
        nn.functional.dropout = before


def half_flipped(count_: int) -> Draws:
    """Draws of which every second clip is flipped, so that counts are the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return replace(Draws.random(count_), flip=torch.arange(count_) % 2 == 0)


def both_ways(call: Callable[..., Tensor], maps: Sequence[Tensor], *others: Tensor) -> list[Kernel]:
    """Kernels of a call and of its gradients. ``maps`` and parameters are leaves; all on the ``meta`` device."""
    leaves = [one.detach().requires_grad_() for one in maps]
    out: list[Tensor] = []
    kernels = count(lambda: out.append(call(*leaves)))
    wanted = [*leaves, *others]
    cotangent = torch.empty_like(out[0])
    return kernels + count(lambda: torch.autograd.grad(out[0], wanted, cotangent))


@lru_cache
def views(clips: int = CLIPS) -> list[Kernel]:
    """Three augmentations, one set of joints, and frames for each clip."""
    batch, draws = random_clips(clips), half_flipped(clips)
    kernels: list[Kernel] = []
    with torch.random.fork_rng(devices=[]):
        for stream in STREAMS:
            held: list[Tensor] = []
            kernels += count(lambda held=held: held.append(augment(batch, draws)))
            x = held[0]
            if stream.joints < JOINTS:
                kernels += count(lambda: kept_joints(high=True))
            if stream.frames < FRAMES:
                kernels += count(lambda x=x: take_frames(x, kept_frames(x, DROPPED_FRAMES, DROPPED_FRAMES, low=True)))
    return kernels


def network(dtype: torch.dtype = torch.float32) -> PublishedNetwork:
    """On the ``meta`` device, training."""
    adjacency = published_adjacency(JOINTS, SKELETON.edges, SKELETON.centre[0])
    made = PublishedNetwork(adjacency, CHANNELS, STRIDES, dropout=0.5)
    return made.to(device="meta", dtype=dtype).train()


def encoder_parts(stream: Stream, dtype: torch.dtype = torch.float32, clips: int = CLIPS) -> Counts:
    """One stream's pass through the encoder and back, by part; what the parts lack of the whole is ``REST``."""
    made = network(dtype)
    kept = torch.empty(stream.joints, dtype=torch.int64, device="meta") if stream.joints < JOINTS else None
    clip = torch.empty(clips, COORDINATES, stream.frames, JOINTS, BODIES, dtype=dtype, device="meta")
    parameters = [one for one in made.parameters() if one.requires_grad]
    with dropout_of_gpus():
        out: list[Tensor] = []
        whole = count(lambda: out.append(made(clip, kept=kept)))
        whole += count(lambda: torch.autograd.grad(out[0], parameters, torch.empty_like(out[0])))
        parts = _parts(made, clip, kept)
    missing = Counter(whole)
    missing.subtract(Counter(kernel for kernels in parts.values() for kernel in kernels))
    parts[REST] = [kernel for kernel, times in missing.items() for _ in range(max(0, times))]
    return parts


def _parts(made: PublishedNetwork, clip: Tensor, kept: Tensor | None) -> Counts:
    n, c, t, v, m = clip.shape
    parts: Counts = {row: [] for row in ROWS}

    def normalised() -> Tensor:
        x = made.data_bn(clip.permute(0, 4, 3, 1, 2).reshape(n * m, v * c, t))
        x = x.view(n, m, v, c, t).permute(0, 1, 3, 4, 2).reshape(n * m, c, t, v)
        return x if kept is None else x[..., kept]

    parts[INPUT_NORM] = both_ways(normalised, [], *made.data_bn.parameters())
    with torch.no_grad():
        x = normalised()
    for index, block in enumerate(made.st_gcn_networks):
        importance = made.edge_importance[index]

        def graph(x: Tensor, block: nn.Module = block, importance: Tensor = importance) -> Tensor:
            weighted = made.A * importance
            return block.gcn(x, weighted if kept is None else weighted[:, kept][:, :, kept]).contiguous()

        def output(z: Tensor, x: Tensor, block: nn.Module = block) -> Tensor:
            y = block.tcn[3:](z)
            return torch.relu(y + (block.residual(x) if hasattr(block, "residual") else x) if block.skips else y)

        parts[GRAPH if index else FIRST] += both_ways(graph, [x], *block.gcn.parameters(), importance)
        with torch.no_grad():
            y = graph(x)
            z = block.tcn[:3](y)
            parts_of_output = [*block.tcn[3:].parameters(), *getattr(block, "residual", nn.Identity()).parameters()]
        parts[TEMPORAL] += both_ways(block.tcn[:3], [y], *block.tcn[:3].parameters())
        if block.skips:
            parts[OUTPUT] += both_ways(output, [z, x], *parts_of_output)
        else:
            parts[OUTPUT] += both_ways(lambda z, output=output: output(z, z), [z], *parts_of_output)
        with torch.no_grad():
            x = output(z, x)
    parts[HEAD] = both_ways(lambda x: x.mean(dim=(2, 3)).view(n, m, -1).mean(dim=1), [x])
    return parts


def layers(clips: int = CLIPS) -> list[tuple[str, str, list[Kernel]]]:
    """Forward passes of the anchor stream, layer by layer: our op's name, its sizes, the parent's kernels."""
    made, found = network(), []
    x = torch.empty(clips * BODIES, COORDINATES, FRAMES, JOINTS, device="meta")
    with torch.no_grad():
        for block, stride in zip(made.st_gcn_networks, STRIDES, strict=True):
            held: list[Tensor] = []
            graph = count(lambda block=block, x=x, held=held: held.append(block.gcn(x, made.A)))
            y = held.pop()
            temporal = count(lambda block=block, y=y, held=held: held.append(block.tcn[2](y)))
            z = held.pop()
            out = z.shape[1]
            if block is not made.st_gcn_networks[0]:
                found.append(("graph_conv", f"{x.shape[1]}→{out}, T={x.shape[2]}", graph))
            strided = f", stride {stride}" if stride > 1 else ""
            found.append(("temporal_conv", f"{out}→{out}, T={x.shape[2]}{strided}", temporal))
            x = z
    return found


def masks(clips: int = CLIPS) -> list[Kernel]:
    """Both masked streams of a batch, one set of joints and of frames a clip."""
    x, weights = random_clips(clips), torch.as_tensor(SKELETON.degree, dtype=torch.float32)
    n, c, t, v, m = x.shape

    def call() -> None:
        take_frames(x, kept_frames(x, DROPPED_FRAMES, DROPPED_FRAMES, low=True))
        stay = torch.ones(n, v, dtype=torch.bool)
        stay = stay.scatter(1, torch.multinomial(weights.expand(n, v), DROPPED_JOINTS), False)
        joints = stay.nonzero()[:, 1].view(n, KEPT_JOINTS)
        x.clone().gather(3, joints[:, None, None, :, None].expand(n, c, t, -1, m))

    with torch.random.fork_rng(devices=[]):
        return count(call)


@lru_cache
def head(clips: int = CLIPS, width: int = WIDTH) -> list[Kernel]:
    """The projector, forward and backward, once."""
    made = projector(width).to("meta").train()
    return both_ways(made, [torch.empty(clips, CHANNELS[-1], device="meta")], *made.parameters())


@lru_cache
def loss(clips: int = CLIPS, width: int = WIDTH) -> list[Kernel]:
    """Two losses by the D×D matrix, forward and backward."""
    z = [torch.empty(clips, width, device="meta") for _ in range(3)]
    return both_ways(lambda a, b, c: barlow_twins_dxd(a, c) + barlow_twins_dxd(a, b), z)


def adam(parameters: Sequence[Tensor]) -> list[Kernel]:
    """A step of torch's Adam as it is on a GPU by default, over lists of tensors; states are there already."""
    leaves = [nn.Parameter(one.detach()) for one in parameters]
    for leaf in leaves:
        leaf.grad = torch.empty_like(leaf)
    optimiser = torch.optim.Adam(leaves, lr=5e-3, weight_decay=1e-5, foreach=True)
    optimiser.step()
    return count(optimiser.step)


@lru_cache
def step(dtype: torch.dtype = torch.float32) -> Counts:
    """A whole step of both encoders, by part."""
    parts: Counts = {row: [] for row in ROWS}
    parts[VIEWS] = views()
    for stream in STREAMS:
        for row, kernels in encoder_parts(stream, dtype).items():
            parts[row] += kernels
        parts[HEAD] += head()
    parts[LOSS] = loss()
    # Three streams' gradients of each parameter are added up.
    weights = [*network().parameters(), *projector(WIDTH).to("meta").parameters()]
    parts[REST] += 2 * [Kernel("add_", 2.0 * one.numel() * 4, 1.0 * one.numel() * 4) for one in weights]
    parts[ADAM] = adam(weights)
    return {row: ENCODERS * kernels for row, kernels in parts.items()}
