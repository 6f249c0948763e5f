"""What the GPU groups time: each group's calls, by row, their results held against each other before any is timed.

A group is built on a :class:`gpu_site.Site`. Tests build them on a CPU, with the reference in place of the kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from gpu_site import Call, Group, Site, both_ways, leaves_of, near, products
from published_networks import PublishedNetwork, published_adjacency
from rivals import (
    BODIES,
    COMPILED,
    COORDINATES,
    DROPPED_FRAMES,
    DROPPED_JOINTS,
    EAGER,
    FRAMES,
    JOINTS,
    OFF_DIAGONAL,
    SKELETON,
    barlow_twins_dxd,
    channels_last_clips,
    frame_motion,
    kept_frames,
    pretraining_step,
    random_clips,
    real_taps,
    take_frames,
)
from steps import check_loss, our_step
from torch import Tensor
from works import FirstLayer

from asma_fast import View, ops
from asma_fast.compat import load_stgcn_state_dict
from asma_fast.nn import STGCN, barlow_twins_loss

TAPS = 9


# ---- the ops ----


def first_layer(stream: str, site: Site) -> Group:
    """View, input normalisation in eval mode and first graph convolution."""
    layer = FirstLayer(stream, site.clips).to(site.device)
    frames = FRAMES if layer.frames is None else layer.frames.shape[1]
    read = 4 * site.clips * BODIES * COORDINATES * JOINTS * frames
    group = Group(amounts={"GB": 1e-9 * (read + layer.result_bytes)})
    quiet = torch.no_grad()
    return group.race(
        site, quiet(layer.eager), lambda impl: quiet(partial(layer.ours, impl)), near(layer.eager(), site.precision)
    )


def published_conv(x: Tensor, weight: Tensor, adjacency: Tensor, bias: Tensor) -> Tensor:
    """A 1×1 convolution to K·C_out channels, then the dense adjacency."""
    parts, out, channels = weight.shape
    y = F.conv2d(x, weight.reshape(parts * out, channels, 1, 1), bias.reshape(-1))
    return torch.einsum("nkctv,kvw->nctw", y.view(len(x), parts, out, *y.shape[2:]), adjacency)


def graph_layer(channels: int, out: int, frames: int, back: bool, site: Site) -> Group:
    """One graph convolution of a feature map, or it and its gradients."""
    rows = BODIES * site.clips
    x, weight = site.random(rows, channels, frames, JOINTS), site.random(3, out, channels, seed=1) / channels**0.5
    adjacency = torch.from_numpy(SKELETON.adjacency("spatial")).to(site.device, site.dtype)
    pattern, bias = torch.from_numpy(SKELETON.pattern("spatial")).to(site.device), site.random(3, out, seed=2)
    cotangent = site.random(rows, out, frames, JOINTS, seed=3)
    values = (x, weight, adjacency, bias)
    last = (x.contiguous(memory_format=torch.channels_last), *values[1:])
    flop = 2e-9 * rows * frames * JOINTS * 3 * channels * out
    moved = 1e-9 * x.element_size() * rows * frames * JOINTS * (channels + out)
    ours = lambda impl: partial(ops.graph_conv, pattern=pattern, impl=impl)  # noqa: E731
    if not back:
        wanted = published_conv(*(value.double() for value in values))
        return Group(amounts={"GB": moved, "GFLOP": flop}).race(
            site,
            partial(published_conv, *values),
            lambda impl: partial(ours(impl), *last),
            near(wanted, site.precision),
        )
    exact = list(both_ways(published_conv, leaves_of(*(value.double() for value in values)), cotangent.double()))
    exact[2] = exact[2] * pattern  # ours has no gradient where the skeleton has no edge
    compare = near(exact, site.precision)

    def check(found: object) -> None:
        gradients = list(found)
        gradients[2] = gradients[2] * pattern
        compare(gradients)

    eager = [both_ways, published_conv, leaves_of(*values), cotangent]
    laid_out = cotangent.contiguous(memory_format=torch.channels_last)
    return Group(amounts={"GFLOP": 3 * flop}).race(
        site,
        partial(*eager),
        lambda impl: partial(both_ways, ours(impl), leaves_of(*last), laid_out),
        check,
        lambda: partial(both_ways, torch.compile(published_conv, dynamic=False), *eager[2:]),
    )


def temporal_layer(channels: int, frames: int, stride: int, back: bool, site: Site) -> Group:
    """One temporal convolution, or it and its gradients."""
    rows, kept = BODIES * site.clips, -(-frames // stride)
    x, bias = site.random(rows, channels, frames, JOINTS), site.random(channels, seed=2)
    weight = site.random(channels, channels, TAPS, 1, seed=1) / (TAPS * channels) ** 0.5
    cotangent = site.random(rows, channels, kept, JOINTS, seed=3)
    eager = partial(F.conv2d, stride=(stride, 1), padding=(TAPS // 2, 0))
    last = (x.contiguous(memory_format=torch.channels_last), weight[..., 0].contiguous(), bias)
    flop = 2e-9 * rows * real_taps(frames, stride, TAPS) * JOINTS * channels**2
    ours = lambda impl: partial(ops.temporal_conv, stride=stride, impl=impl)  # noqa: E731
    if not back:
        moved = 1e-9 * x.element_size() * rows * JOINTS * channels * (frames + kept)
        wanted = eager(*(value.double() for value in (x, weight, bias)))
        return Group(amounts={"GB": moved, "GFLOP": flop}).race(
            site, partial(eager, x, weight, bias), lambda impl: partial(ours(impl), *last), near(wanted, site.precision)
        )
    exact = both_ways(eager, leaves_of(*(value.double() for value in (x, weight, bias))), cotangent.double())
    compare = near([one.reshape(exact[1].shape[:3]) if one.ndim == 4 and one.shape[-1] == 1 else one for one in exact],
                   site.precision)  # fmt: skip

    def check(found: object) -> None:
        gradient, weights, biases = found
        compare((gradient, weights.reshape(channels, channels, TAPS), biases))

    laid_out, leaves = cotangent.contiguous(memory_format=torch.channels_last), leaves_of(x, weight, bias)
    return Group(amounts={"GFLOP": 3 * flop}).race(
        site,
        partial(both_ways, eager, leaves, cotangent),
        lambda impl: partial(both_ways, ours(impl), leaves_of(*last), laid_out),
        check,
        lambda: partial(both_ways, torch.compile(lambda *given: eager(*given), dynamic=False), leaves, cotangent),
    )


def motion(site: Site) -> Group:
    """Scores of all frames."""
    clips = random_clips(site.clips).to(site.device)
    x = channels_last_clips(clips)
    check = near(frame_motion(clips.double()), "float32")
    return Group(amounts={"GB": 1e-9 * clips.nbytes}).race(
        site, partial(frame_motion, clips), lambda impl: partial(ops.frame_motion, x, last="zero", impl=impl), check
    )


def masking(site: Site) -> Group:
    """Both masked streams of a batch: scores, sampling, gathering, one mask a clip."""
    clips = random_clips(site.clips).to(site.device)
    x = channels_last_clips(clips)
    weights = torch.as_tensor(SKELETON.degree, dtype=torch.float32, device=site.device)
    seed, ids = torch.tensor(1, device=site.device), torch.arange(site.clips, device=site.device)
    n, c, t, v, m = clips.shape

    def eager() -> tuple[Tensor, Tensor]:
        temporal = take_frames(clips, kept_frames(clips, DROPPED_FRAMES, DROPPED_FRAMES, low=True))
        stay = torch.ones(n, v, dtype=torch.bool, device=clips.device)
        stay = stay.scatter(1, torch.multinomial(weights.expand(n, v), DROPPED_JOINTS), False)
        joints = stay.int().argsort(dim=1, descending=True, stable=True)[:, : v - DROPPED_JOINTS]
        return temporal, clips.clone().gather(3, joints[:, None, None, :, None].expand(n, c, t, -1, m))

    def ours(impl: str) -> tuple[Tensor, Tensor]:
        scores = ops.frame_motion(x, last="zero", impl=impl)
        options = {"seed": seed, "ids": ids, "impl": impl}
        frames = ops.sample_frames(scores, DROPPED_FRAMES, remove="low", random_drop=DROPPED_FRAMES, **options)
        joints = ops.sample_joints(weights, DROPPED_JOINTS, **options)
        return ops.gather_view(x, View(frames=frames), impl=impl), ops.gather_view(x, View(joints=joints), impl=impl)

    def check(found: object) -> None:
        """Of the right sizes, and every frame and joint is one of the clip's, in its order."""
        temporal, spatial = found
        for clip, short, small in zip(clips[:4], temporal, spatial, strict=False):
            for axis, part, size in ((1, short, t - 2 * DROPPED_FRAMES), (2, small, v - DROPPED_JOINTS)):
                whole, part = (one.movedim(axis, 0).flatten(1) for one in (clip, part))
                places = [(whole == one).all(1).nonzero()[0, 0].item() for one in part]
                assert places == sorted(set(places))
                assert len(places) == size

    floats = COORDINATES * BODIES * (FRAMES * JOINTS + 2 * t * (v - DROPPED_JOINTS) + 2 * (t - 2 * DROPPED_FRAMES) * v)
    group = Group(amounts={"GB": 4e-9 * site.clips * floats})
    return group.race(site, eager, lambda impl: partial(ours, impl), check)


def gathering(site: Site) -> Group:
    """A view with everything: frames, joints and a transform."""
    clips, random = random_clips(site.clips).to(site.device), torch.Generator().manual_seed(0)
    x, n = channels_last_clips(clips), site.clips
    kept = [torch.rand(n, size, generator=random).argsort(dim=1)[:, :count].sort(dim=1).values.to(site.device)
            for size, count in ((FRAMES, FRAMES - 2 * DROPPED_FRAMES), (JOINTS, JOINTS - DROPPED_JOINTS))]  # fmt: skip
    frames, joints = kept
    transform = site.random(n, 3, 3).float()
    view = View(frames=frames.int(), joints=joints.int(), transform=transform)

    def eager() -> Tensor:
        part = take_frames(clips, frames)
        part = part.gather(3, joints[:, None, None, :, None].expand(*part.shape[:3], -1, part.shape[4]))
        return torch.einsum("nec,nctvm->netvm", transform, part)

    wanted = eager()
    group = Group(amounts={"GB": 2e-9 * wanted.nbytes})
    return group.race(
        site, eager, lambda impl: partial(ops.gather_view, x, view, impl=impl), near(wanted, site.precision)
    )


def barlow_twins(site: Site, width: int = 6144) -> Group:
    """The loss and its gradients; ours is torch's products, whatever the implementation of the ops."""
    z = [site.random(site.clips, width, seed=seed).float() for seed in (0, 1)]

    def call(loss: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        leaves = leaves_of(*z)
        return torch.autograd.grad(loss(*leaves, OFF_DIAGONAL), leaves)

    check = near(call(lambda a, b, share: barlow_twins_dxd(a.double(), b.double(), share)), site.precision)
    return Group().race(site, partial(call, barlow_twins_dxd), lambda impl: partial(call, barlow_twins_loss), check)


# ---- the network ----


def block(channels: int, out: int, frames: int, stride: int, site: Site) -> Group:
    """A training block forward and backward, dropout 0.5; results are compared without dropout."""
    rows = BODIES * site.clips
    x, ids = site.random(rows, channels, frames, JOINTS), torch.arange(site.clips, device=site.device)
    seed = torch.tensor(1, device=site.device)
    cotangent = site.random(rows, out, -(-frames // stride), JOINTS, seed=3)

    def networks(dropout: float, impl: str = "auto") -> tuple[PublishedNetwork, STGCN]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            adjacency = published_adjacency(JOINTS, SKELETON.edges, SKELETON.centre[0])
            theirs = PublishedNetwork(adjacency, (channels, out), (1, stride), dropout=dropout)
            mine = STGCN(SKELETON, (channels, out), strides=(1, stride), dropout=dropout, impl=impl)
        load_stgcn_state_dict(mine, theirs.state_dict())
        return theirs.to(site.device, site.dtype).train(), mine.to(site.device, site.dtype).train()

    def eager(dropout: float, *, compiled: bool = False) -> Call:
        network, _ = networks(dropout)
        made, importance = network.st_gcn_networks[1], network.edge_importance[1]
        (leaf,) = leaves_of(x)
        wanted = [leaf, importance, *made.parameters()]
        run = torch.compile(made, dynamic=False) if compiled else made
        return lambda: torch.autograd.grad(run(leaf, network.A * importance), wanted, cotangent)

    def ours(impl: str, dropout: float) -> Call:
        _, network = networks(dropout, impl)
        made = network.blocks[1]
        (leaf,) = leaves_of(x.contiguous(memory_format=torch.channels_last))
        wanted = [leaf, *made.parameters()]
        laid_out = cotangent.contiguous(memory_format=torch.channels_last)
        return lambda: torch.autograd.grad(made(leaf, seed=seed, ids=ids), wanted, laid_out)

    def of_the_map(call: Call) -> Tensor:
        return call()[0]

    # Two batch-norms and two ReLUs between: an error grows, so a coarser precision's is allowed.
    check = near(of_the_map(eager(0.0)), "TF32" if site.precision == "float32" else "bfloat16")
    products = frames * 3 * channels * out + real_taps(frames, stride) * out * out
    products += -(-frames // stride) * channels * out * (channels != out or stride != 1)

    def checked(impl: str) -> Call:
        check(of_the_map(ours(impl, 0.0)))
        return ours(impl, 0.5)

    group = Group(amounts={"GFLOP": 6e-9 * rows * JOINTS * products})
    return group.race(site, eager(0.5), checked, lambda found: None, lambda: eager(0.5, compiled=True))


def step(site: Site, width: int = 6144) -> Group:
    """The whole pretraining step of both encoders."""
    clips = random_clips(site.clips).to(site.device)

    def ours(impl: str) -> Call:
        with products("float32"):
            check_loss(device=site.device, impl=impl)
        return our_step(width, channels_last_clips(clips), impl)

    return Group(amounts={"clips": float(site.clips)}).race(
        site,
        pretraining_step(EAGER, width, clips),
        ours,
        lambda found: None,
        lambda: pretraining_step(COMPILED, width, clips),
    )
