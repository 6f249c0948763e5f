"""Pieces of work that are timed in one file and whose memory is measured in another, each as every rival does it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from rivals import (
    COMPILED,
    EAGER,
    FRAMES,
    JOINTS,
    OURS,
    SKELETON,
    Draws,
    augment,
    augmentation_view,
    channels_last_clips,
    encoders,
    random_clips,
    take_frames,
)
from torch import Tensor, nn

from asma_fast import View, ops

Call = Callable[[], object]


def their_clips(kind: str, count: int) -> Tensor:
    """Clips in the layout that an encoder's kind is fed with."""
    clips = random_clips(count)
    return channels_last_clips(clips) if kind == OURS else clips


def train_call(encoder: nn.Module, clips: Tensor, weights: Tensor | None = None) -> Call:
    """Forward and backward of an encoder in training mode, gradients of all parameters anew."""
    cotangent = torch.ones(len(clips), 256) if weights is None else weights

    def call() -> Tensor:
        encoder.zero_grad(set_to_none=True)
        features: Tensor = encoder(clips)
        features.backward(cotangent)
        return features.detach()

    return call


class FirstLayer:
    """The view of a batch, the input normalisation in eval mode and the first graph convolution, 3 → 16 channels.

    ``stream``: ``"anchor"`` removes nothing, ``"spatial"`` 8 joints, one set for the batch, ``"temporal"`` 20 frames,
    another set for each clip. Which ones is drawn beforehand.
    """

    channels = 16

    def __init__(self, stream: str, count: int) -> None:
        generator = torch.Generator().manual_seed(3)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            self.draws = Draws.random(count)
        self.clips = random_clips(count)
        self.laid_out = channels_last_clips(self.clips)
        self.weight = torch.randn(3, self.channels, 3, generator=generator)
        self.bias = torch.randn(3, self.channels, generator=generator)
        self.adjacency = torch.from_numpy(SKELETON.adjacency("spatial"))
        self.pattern = torch.from_numpy(SKELETON.pattern("spatial"))
        self.mean, self.shift = torch.randn(2, JOINTS, 3, generator=generator)
        self.variance, self.scale = torch.rand(2, JOINTS, 3, generator=generator) + 0.5
        self.joints: Tensor | None = None
        self.frames: Tensor | None = None
        if stream == "spatial":
            self.joints = torch.randperm(JOINTS, generator=generator)[:17].sort().values
        if stream == "temporal":
            order = torch.rand(count, FRAMES, generator=generator).argsort(dim=1)
            self.frames = order[:, :30].sort(dim=1).values
        self.view = self._view()
        factor = self.scale * torch.rsqrt(self.variance + 1e-5)
        self.folded = factor, self.shift - self.mean * factor

    def to(self, device: torch.device | str) -> FirstLayer:
        """This one, on another device."""
        for name, value in vars(self).items():
            if isinstance(value, (Tensor, View, Draws)):
                setattr(self, name, value.to(device))
        factor, shift = self.folded
        self.folded = factor.to(device), shift.to(device)
        return self

    def _view(self) -> View:
        view = augmentation_view(self.draws)
        if self.joints is not None:
            view = view.then(View(joints=self.joints[None].int()))
        return view if self.frames is None else view.then(View(frames=self.frames.int()))

    def ours(self, impl: str = "auto") -> Tensor:
        """One pass over the clip."""
        return ops.graph_conv(  # type: ignore[no-any-return]
            self.laid_out,
            self.weight,
            self.adjacency,
            self.bias,
            view=self.view,
            scale=self.folded[0],
            shift=self.folded[1],
            pattern=self.pattern,
            impl=impl,
        )

    def eager(self) -> Tensor:
        """Crop, shear, three rotations, flip, frames, batch-norm, joints, 1×1 convolution, dense adjacency."""
        x = augment(self.clips, self.draws)
        if self.frames is not None:
            x = take_frames(x, self.frames)
        n, c, t, v, m = x.shape
        x = x.permute(0, 4, 3, 1, 2).reshape(n * m, v * c, t)
        statistics = (value.reshape(-1) for value in (self.mean, self.variance, self.scale, self.shift))
        x = F.batch_norm(x, *statistics)
        x = x.view(n, m, v, c, t).permute(0, 1, 3, 4, 2).reshape(n * m, c, t, v)
        adjacency = self.adjacency
        if self.joints is not None:
            x, adjacency = x[..., self.joints], adjacency[:, self.joints][:, :, self.joints]
        y = F.conv2d(x, self.weight.view(-1, c, 1, 1), self.bias.view(-1))
        return torch.einsum("nkctv,kvw->nctw", y.view(n * m, 3, self.channels, t, -1), adjacency)

    def call(self, kind: str) -> Call:
        """As ``kind`` does it."""
        return {OURS: self.ours, EAGER: self.eager}[kind]

    @property
    def result_bytes(self) -> int:
        """Of the result: what no implementation can leave unwritten."""
        frames = FRAMES if self.frames is None else self.frames.shape[1]
        joints = JOINTS if self.joints is None else len(self.joints)
        return 4 * self.channels * 2 * len(self.clips) * frames * joints


def _encoder_work(kind: str, count: int) -> tuple[Call, Call]:
    encoder = encoders(0.5)[kind].train()
    whole = train_call(encoder, their_clips(kind, count))
    # A compiled network is made for one shape.
    return (whole if kind == COMPILED else train_call(encoder, their_clips(kind, 2))), whole


def _view_work(kind: str, count: int) -> tuple[Call, Call]:
    return FirstLayer("spatial", 2).call(kind), FirstLayer("spatial", count).call(kind)


WORKS: dict[str, Callable[..., tuple[Call, Call]]] = {"encoder": _encoder_work, "view": _view_work}
