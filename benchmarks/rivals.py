"""What this package is timed against: PSTL's recipe and network in plain PyTorch, written anew from their
description.

The network is :mod:`published_networks` of the tests, whose outputs and gradients equal ours. The recipe (PSTL, AAAI
2023, after AimCLR) is crop → shear → rotation about each axis → flip, then, for the spatial stream, joints removed
between the input batch-norm and the first block, and, for the temporal stream, frames removed by the rank of their
motion and at random. Each step copies the batch and moves coordinates. As in PSTL, one set of joints is removed from
a whole batch, which is the quickest for a dense adjacency; all other draws are each clip's own, batched.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from published_networks import PublishedNetwork, in_channels_last, published_adjacency
from torch import Tensor, nn

from asma_fast import Skeleton, View
from asma_fast.compat import load_stgcn_state_dict
from asma_fast.nn import STGCN
from asma_fast.nn.stgcn import CHANNELS, STRIDES

SKELETON = Skeleton.named("ntu-rgb+d")
FRAMES, JOINTS, BODIES, COORDINATES = 50, len(SKELETON), 2, 3
DROPPED_JOINTS, DROPPED_FRAMES = 8, FRAMES // 5
OFF_DIAGONAL = 2e-4
EAGER, CHANNELS_LAST, COMPILED, OURS = "eager", "eager, channels last", "torch.compile", "asma_fast"
#: Best of these is what "the best rival" means for networks.
NETWORKS = (OURS, EAGER, CHANNELS_LAST, COMPILED)

_FLIP = {
    kind: torch.from_numpy(SKELETON.flip).long().to(kind) for kind in ("cpu", *["cuda"] * torch.cuda.is_available())
}


def random_clips(count: int, *, frames: int = FRAMES, seed: int = 0) -> Tensor:
    """``(N, 3, T, 25, 2)``, contiguous, as a loader of PSTL hands it over."""
    return torch.randn(count, COORDINATES, frames, JOINTS, BODIES, generator=torch.Generator().manual_seed(seed))


def channels_last_clips(clips: Tensor) -> Tensor:
    """The same clips as our store and loader lay them out: ``(N, M, T, V, C)`` in memory."""
    return clips.permute(0, 4, 2, 3, 1).contiguous().permute(0, 4, 2, 3, 1)


# ---- networks ----


def encoders(
    dropout: float, *, seed: int = 0, device: torch.device | str = "cpu", impl: str = "auto"
) -> dict[str, nn.Module]:
    """One network in every rival's form, with the same weights, in training mode; ``impl`` is that of our ops."""
    torch.manual_seed(seed)
    adjacency = published_adjacency(JOINTS, SKELETON.edges, SKELETON.centre[0])
    eager = PublishedNetwork(adjacency, CHANNELS, STRIDES, dropout=dropout)
    mine = STGCN(SKELETON, dropout=dropout, impl=impl)
    load_stgcn_state_dict(mine, eager.state_dict())
    eager, mine = eager.to(device), mine.to(device)
    channels_last = in_channels_last(copy.deepcopy(eager)).to(memory_format=torch.channels_last)
    torch._dynamo.config.recompile_limit = 64  # every batch, stream and mode of a session has its own code
    compiled = torch.compile(copy.deepcopy(eager), dynamic=False)
    return {OURS: mine, EAGER: eager, CHANNELS_LAST: channels_last, COMPILED: compiled}


def encoder_gflop(clips: int, frames: int = FRAMES, joints: int = JOINTS, taps: int = 9) -> float:
    """Of one forward pass: 1×1 products, temporal convolutions counted as direct ones, taps in the padding left out."""
    operations, wide = 0, COORDINATES
    edges = int(SKELETON.pattern("spatial").sum())
    for index, (out, stride) in enumerate(zip(CHANNELS, STRIDES, strict=True)):
        kept = -(-frames // stride)
        operations += frames * (joints * 3 * wide * out + edges * wide)
        operations += real_taps(frames, stride, taps) * joints * out * out
        operations += kept * joints * wide * out * (index > 0 and (wide != out or stride != 1))
        wide, frames = out, kept
    return 2e-9 * clips * BODIES * operations


def real_taps(frames: int, stride: int = 1, taps: int = 9) -> int:
    """Taps of one joint's and channel's temporal convolution that read a frame, not padding."""
    return sum(0 <= t + tap - taps // 2 < frames for t in range(0, frames, stride) for tap in range(taps))


# ---- PSTL's recipe ----


@dataclass(frozen=True)
class Draws:
    """What the augmentation of a batch draws.

    Parameters
    ----------
    start
        ``(N,)`` int64: first frame of the window in the padded clip.
    shear
        ``(N, 3, 3)``.
    angles
        ``(N, 3)``: about x, y and z, radians.
    flip
        ``(N,)`` bool.
    """

    start: Tensor
    shear: Tensor
    angles: Tensor
    flip: Tensor

    @staticmethod
    def random(count: int, frames: int = FRAMES, device: torch.device | str = "cpu") -> Draws:
        """From the device's default generator, in PSTL's ranges."""
        shear = torch.empty(count, 3, 3, device=device).uniform_(-1, 1)
        shear.diagonal(dim1=1, dim2=2).fill_(1)
        angles = torch.rand(count, 3, device=device)
        main = torch.randint(3, (count, 1), device=device)
        angles.scatter_(1, main, 30 * angles.gather(1, main))
        start = torch.randint(2 * (frames // 6) + 1, (count,), device=device)
        return Draws(start, shear, angles.deg2rad(), torch.rand(count, device=device) < 0.5)

    def to(self, device: torch.device | str) -> Draws:
        """The same on another device."""
        return Draws(*(value.to(device) for value in (self.start, self.shear, self.angles, self.flip)))


def crop(x: Tensor, start: Tensor) -> Tensor:
    """Mirrors T // 6 frames at both ends and takes a window of T frames."""
    n, c, t, v, m = x.shape
    pad = t // 6
    padded = torch.cat([x[:, :, :pad].flip(2), x, x[:, :, t - pad :].flip(2)], dim=2)
    index = start[:, None] + torch.arange(t, device=start.device)
    return padded.gather(2, index[:, None, :, None, None].expand(n, c, t, v, m))


def _turned(x: Tensor, matrix: Tensor) -> Tensor:
    n, c, t, v, m = x.shape
    moved = x.clone().permute(0, 2, 3, 4, 1).reshape(n, t * v * m, c)
    return (moved @ matrix.transpose(1, 2)).view(n, t, v, m, c).permute(0, 4, 1, 2, 3)


def axis_rotations(angles: Tensor) -> list[Tensor]:
    """``(N, 3, 3)`` about x, y, z: clockwise seen from the tip of the axis, as AimCLR turns."""
    matrices = []
    for axis, (a, b, sign) in enumerate([(1, 2, 1.0), (0, 2, -1.0), (0, 1, 1.0)]):
        cos, sin = angles[:, axis].cos(), angles[:, axis].sin()
        matrix = torch.eye(3, device=angles.device).repeat(len(angles), 1, 1)
        matrix[:, a, a] = matrix[:, b, b] = cos
        matrix[:, a, b], matrix[:, b, a] = sign * sin, -sign * sin
        matrices.append(matrix)
    return matrices


def flip(x: Tensor, flipped: Tensor) -> Tensor:
    """Exchanges left and right joints of the clips that are flipped."""
    x = x.clone()
    x[flipped] = x[flipped][:, :, :, _FLIP[x.device.type]]
    return x


def augment(x: Tensor, draws: Draws) -> Tensor:
    """Crop, shear, three rotations, flip, each over the whole batch."""
    x = crop(x, draws.start)
    x = _turned(x, draws.shear)
    for matrix in axis_rotations(draws.angles):
        x = _turned(x, matrix)
    return flip(x, draws.flip)


def augmentation_view(draws: Draws, frames: int = FRAMES) -> View:
    """The same augmentation as our three small arrays."""
    device = draws.start.device
    index = draws.start[:, None] + torch.arange(frames, device=device) - frames // 6
    index = torch.where(index < 0, -1 - index, index)
    index = torch.where(index >= frames, 2 * frames - 1 - index, index)
    about_x, about_y, about_z = axis_rotations(draws.angles)
    nodes = torch.arange(JOINTS, device=device)
    joints = torch.where(draws.flip[:, None], _FLIP[device.type], nodes)
    return View(
        index.int(), joints.int(), nodes.expand(len(index), -1).int(), about_z @ about_y @ about_x @ draws.shear
    )


def frame_motion(x: Tensor) -> Tensor:
    """``(N, T)``: mean squared difference to the next frame, zero for the last."""
    motion = torch.zeros_like(x)
    motion[:, :, :-1] = x[:, :, 1:] - x[:, :, :-1]
    return (motion**2).mean((1, 3, 4))


def kept_frames(x: Tensor, ranked: int, extra: int, *, low: bool) -> Tensor:
    """``(N, T − ranked − extra)``: frames that are left after the ``ranked`` lowest or highest and ``extra`` others."""
    n, t = x.shape[0], x.shape[2]
    stay = frame_motion(x).argsort(dim=1, descending=low)[:, : t - ranked]
    chance = torch.rand(n, t - ranked, device=x.device).argsort(dim=1)[:, extra:]
    return stay.gather(1, chance).sort(dim=1).values


def take_frames(x: Tensor, kept: Tensor) -> Tensor:
    """The kept frames as a new, shorter batch."""
    n, c, _, v, m = x.shape
    return x.clone().gather(2, kept[:, None, :, None, None].expand(n, c, -1, v, m))


def kept_joints(*, high: bool, device: torch.device | str = "cpu") -> Tensor:
    """``(17,)``: one set for a batch, what is left after eight distinct joints drawn by degree, high or low."""
    degree = torch.as_tensor(SKELETON.degree, dtype=torch.float32, device=device)
    stay = torch.ones(JOINTS, dtype=torch.bool, device=device)
    stay[torch.multinomial(degree if high else 1 / degree, DROPPED_JOINTS)] = False
    return stay.nonzero()[:, 0]


# ---- the loss and the step ----


def barlow_twins_dxd(z1: Tensor, z2: Tensor, off_diagonal: float = OFF_DIAGONAL) -> Tensor:
    """By the D×D cross-correlation, as the paper's and PSTL's code have it."""
    n, d = z1.shape
    normalise = nn.functional.batch_norm
    first, second = (normalise(z, None, None, training=True) for z in (z1, z2))
    correlation = first.T @ second
    correlation = correlation.div(n)
    on = (correlation.diagonal() - 1).pow(2).sum()
    others = correlation.flatten()[:-1].view(d - 1, d + 1)[:, 1:].flatten()
    return on + off_diagonal * others.pow(2).sum()


def projector(width: int) -> nn.Sequential:
    """PSTL's: three linear layers without bias, batch-norm and ReLU between."""
    return nn.Sequential(
        nn.Linear(CHANNELS[-1], width, bias=False),
        nn.BatchNorm1d(width),
        nn.ReLU(inplace=True),
        nn.Linear(width, width, bias=False),
        nn.BatchNorm1d(width),
        nn.ReLU(inplace=True),
        nn.Linear(width, width, bias=False),
    )


def pretraining_loss(
    encoder: nn.Module, head: nn.Module, clips: Tensor, streams: tuple[Draws, Draws, Draws], *, high: bool
) -> Tensor:
    """PSTL's three streams and their two losses; ``high``: encoder hl's masks, else lh's."""
    anchor, spatial, temporal = (augment(clips, draws) for draws in streams)
    kept = kept_frames(temporal, DROPPED_FRAMES, DROPPED_FRAMES, low=high)
    first = head(encoder(anchor))
    second = head(encoder(spatial, kept=kept_joints(high=high, device=clips.device)))
    third = head(encoder(take_frames(temporal, kept)))
    return barlow_twins_dxd(first, third) + barlow_twins_dxd(first, second)


def pretraining_step(kind: str, width: int, clips: Tensor) -> Callable[[], float]:
    """One step of both encoders, hl and lh: three streams each, loss, backward, Adam."""
    runs = []
    for seed, high in enumerate((True, False)):
        encoder = encoders(0.5, seed=seed, device=clips.device)[kind]
        head = projector(width).to(clips.device)
        parameters = [*encoder.parameters(), *head.parameters()]
        runs.append((encoder, head, torch.optim.Adam(parameters, lr=5e-3, weight_decay=1e-5), high))

    def step() -> float:
        total = 0.0
        for encoder, head, optimiser, high in runs:
            a, b, c = (Draws.random(len(clips), clips.shape[2], clips.device) for _ in range(3))
            loss = pretraining_loss(encoder, head, clips, (a, b, c), high=high)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            total += loss.item()
        assert math.isfinite(total)
        return total

    return step
