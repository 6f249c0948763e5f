"""The ST-GCN encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from asma_fast import ops
from asma_fast._array import as_kind_of
from asma_fast.nn.block import STGCNBlock
from asma_fast.nn.input_norm import InputNorm
from asma_fast.ops._contract import check_count, check_shape
from asma_fast.ops.gather_view import view_arguments
from asma_fast.skeleton import Partition, Skeleton
from asma_fast.view import View

Bodies = Literal["mean", "present"]
Tokens = Literal["joint", "frame"]

CHANNELS = (16, 16, 16, 16, 32, 32, 32, 64, 64, 256)
STRIDES = (1, 1, 1, 1, 2, 1, 1, 2, 1, 1)


class STGCN(nn.Module):
    """Spatial-temporal graph convolutional encoder (Yan et al., AAAI 2018), by default at PSTL's widths.

    An input batch-norm by node and channel, ten blocks, the mean over frames and joints, the mean over bodies. Block 1
    has neither dropout nor residual and reads the clip through the view: masking, augmentation and normalisation cost
    no pass of their own. Parameters start as torch's convolutions do, as in PSTL.

    Parameters
    ----------
    skeleton
        V joints; the graph.
    channels
        Width of each block; the last is the width D of the result.
    strides
        Of each block along time. As many as ``channels``.
    in_channels
        Coordinates of a joint, or coordinates and score.
    dropout
        In training mode, of all blocks but the first.
    bodies
        ``"mean"``: over all M bodies, empty ones included, as the published networks do. ``"present"``: over those
        with a non-zero coordinate in the view; a clip in which no body is present is averaged over all.
    partition
        ``"spatial"``, ``"distance"`` or ``"uniform"``.
    taps
        Frames that a temporal convolution sums over.
    separable
        Temporal convolutions of each channel alone, then 1×1 ones: far fewer parameters, for students.
    causal
        No temporal convolution reads later frames: output frame t depends on the clip's frames up to t times the
        product of the strides, and :meth:`asma_fast.edge.Session.stream` can run the network frame by frame.
    recompute
        Keep only the input of each block for the backward pass, and run the block again there: in training less than
        half of the memory, at the cost of a second forward pass.
    impl
        Implementation of the ops.

    Attributes
    ----------
    out_channels : int
        D.
    period : int
        Frames that one of the last block's stands for: the product of the strides.

    Raises
    ------
    ValueError
        If ``channels`` and ``strides`` are not as many, or a value is out of range.

    Examples
    --------
    >>> import torch
    >>> from asma_fast import Skeleton
    >>> encoder = STGCN(Skeleton.named("ntu-rgb+d"))
    >>> sum(parameter.numel() for parameter in encoder.parameters())
    821380
    >>> encoder(torch.zeros(4, 3, 50, 25, 2), seed=7).shape
    torch.Size([4, 256])
    """

    def __init__(
        self,
        skeleton: Skeleton,
        channels: Sequence[int] = CHANNELS,
        *,
        strides: Sequence[int] = STRIDES,
        in_channels: int = 3,
        dropout: float = 0.5,
        bodies: Bodies = "mean",
        partition: Partition = "spatial",
        taps: int = 9,
        separable: bool = False,
        causal: bool = False,
        recompute: bool = False,
        impl: str | ops.Impl = "auto",
    ) -> None:
        super().__init__()
        if not isinstance(skeleton, Skeleton):
            raise TypeError(f"skeleton must be a Skeleton, got {type(skeleton).__name__}")
        if not channels or len(channels) != len(strides):
            raise ValueError(
                f"strides must name one stride a block, got {len(strides)} strides for {len(channels)} channels"
            )
        if min(channels) < 1 or in_channels < 1:
            raise ValueError(f"channels must be at least 1, got {in_channels} in and {tuple(channels)}")
        if bodies not in ("mean", "present"):
            raise ValueError(f"bodies must be 'mean' or 'present', got {bodies!r}")
        self.skeleton, self.partition, self.bodies, self.causal = skeleton, partition, bodies, causal
        self.in_channels, self.out_channels = in_channels, channels[-1]
        self.period = math.prod(strides)
        self.dropout = float(dropout)
        self.input_norm = InputNorm(skeleton, in_channels)
        self.blocks = nn.ModuleList(
            STGCNBlock(
                wide,
                out,
                skeleton,
                partition=partition,
                taps=taps,
                stride=stride,
                separable=separable,
                causal=causal,
                dropout=dropout if index else 0.0,
                residual=index > 0,
                index=index,
                recompute=recompute,
                impl=impl,
            )
            for index, (wide, out, stride) in enumerate(zip((in_channels, *channels), channels, strides, strict=False))
        )

    def forward(
        self,
        clip: Tensor,
        view: View | None = None,
        *,
        last: int | None = None,
        seed: Tensor | int | None = None,
        ids: Tensor | None = None,
    ) -> Tensor:
        """Features of clips, read through a view.

        Parameters
        ----------
        clip
            ``(N, C, T, V, M)`` in the parameters' dtype.
        view
            Of N rows or 1; its nodes are the skeleton's joints. None: the clip as it is.
        last
            Average over so many of the last block's frames alone, the last ones, or as many as there are; bodies are
            present that are there in the ``last * period`` kept frames up to that of the last. Of a causal network this
            is what a continual stream of ``pool=last`` says (:class:`asma_fast.edge.stream.Continual`).
        seed
            Keys dropout: int64 tensor of shape (), or an int. None draws one from torch's default generator.
        ids
            ``(N,)`` int64: a clip's dropout depends on its id, not on its place in the batch. None: 0 … N−1.

        Returns
        -------
        Tensor of shape (N, D)

        Raises
        ------
        TypeError, ValueError
            If the clip does not fit the skeleton, or the view does not fit the clip or keeps no frame or no joint.
        """
        if last is not None:
            check_count("last", last, 1)
        x, frames, joints = self._feature_map(clip, view, seed, ids)
        if last is not None:
            end = (x.shape[2] - 1) * self.period + 1
            if frames is None:
                frames = torch.arange(clip.shape[2], device=clip.device)[None]
            frames = frames[:, max(0, end - last * self.period) : end]
            x = x[:, :, -last:]
        return over_bodies(x.mean(dim=(2, 3)), clip, self.bodies, frames, joints)

    def tokens(
        self,
        clip: Tensor,
        view: View | None = None,
        *,
        per: Tokens = "joint",
        seed: Tensor | int | None = None,
        ids: Tensor | None = None,
    ) -> Tensor:
        """What :meth:`forward` averages: one token a kept joint, or a frame, of each clip.

        ``tokens(…).mean(1)`` is ``forward(…)`` up to rounding: the mean over frames (or joints) is taken, and the one
        over bodies, by the encoder's own rule.

        Parameters
        ----------
        clip, view, seed, ids
            As of :meth:`forward`.
        per
            ``"joint"``: P = V' tokens, in the order of the view's joints. ``"frame"``: P = T'' tokens, one a kept frame
            that the strides leave.

        Returns
        -------
        Tensor of shape (N, P, D)

        Raises
        ------
        TypeError, ValueError
            As :meth:`forward` does, or if ``per`` is neither.

        Examples
        --------
        >>> import torch
        >>> from asma_fast import Skeleton
        >>> encoder, clip = STGCN(Skeleton.named("ntu-rgb+d")), torch.zeros(4, 3, 50, 25, 2)
        >>> encoder.tokens(clip, seed=7).shape, encoder.tokens(clip, per="frame", seed=7).shape
        (torch.Size([4, 25, 256]), torch.Size([4, 13, 256]))
        """
        if per not in ("joint", "frame"):
            raise ValueError(f"per must be 'joint' or 'frame', got {per!r}")
        x, frames, joints = self._feature_map(clip, view, seed, ids)
        pooled = x.mean(dim=2 if per == "joint" else 3)
        return over_bodies(pooled, clip, self.bodies, frames, joints).transpose(1, 2)

    def _feature_map(
        self, clip: Tensor, view: View | None, seed: Tensor | int | None, ids: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The last block's result ``(N·M, D, T'', V')``, and the frames and joints that the view keeps."""
        check_shape("clip", clip, "N C T V M", C=self.in_channels, V=len(self.skeleton))
        if not isinstance(clip, Tensor):
            raise TypeError(f"clip must be a torch tensor, got {type(clip).__name__}")
        if view is not None and not isinstance(view, View):
            raise TypeError(f"view must be a View, got {type(view).__name__}")
        frames, joints, _ = view_arguments(clip, view)
        nodes = None if view is None else as_kind_of(view.graph_nodes, clip)
        kept = clip.shape[2] if frames is None else frames.shape[1], clip.shape[3] if nodes is None else nodes.shape[1]
        if 0 in kept:
            raise ValueError(f"at least one frame and one joint must be kept, got {kept[0]} and {kept[1]}")
        if ids is not None:
            check_shape("ids", ids, "N", N=clip.shape[0])
        if self.training and self.dropout > 0:
            if seed is None:
                seed = torch.randint(torch.iinfo(torch.int64).max, (), dtype=torch.int64, device=clip.device)
            if ids is None:
                ids = torch.arange(clip.shape[0], device=clip.device)

        scale, shift = self.input_norm(clip, view)
        x = clip
        for index, block in enumerate(self.blocks):
            if index == 0:
                x = block(x, view=view, scale=scale, shift=shift)
            else:
                x = block(x, nodes=nodes, seed=seed, ids=ids)
        return x, frames, joints

    def extra_repr(self) -> str:
        return (
            f"joints={len(self.skeleton)}, partition={self.partition!r}, bodies={self.bodies!r}, causal={self.causal}"
        )


def over_bodies(
    pooled: Tensor, clip: Tensor, bodies: Bodies, frames: Tensor | None = None, joints: Tensor | None = None
) -> Tensor:
    """``(N·M, D, …)`` to the mean ``(N, D, …)`` over a clip's bodies, by an encoder's rule."""
    pooled = pooled.view(clip.shape[0], clip.shape[4], *pooled.shape[1:])
    if bodies == "mean":
        return pooled.mean(dim=1)
    present = _present_bodies(clip, frames, joints).to(pooled.dtype)
    present = torch.where(present.any(dim=1, keepdim=True), present, 1)
    present = present.view(*present.shape, *[1] * (pooled.ndim - 2))
    return (pooled * present).sum(dim=1) / present.sum(dim=1)


def _present_bodies(clip: Tensor, frames: Tensor | None, joints: Tensor | None) -> Tensor:
    """``(N, M)`` bool: which bodies have a non-zero coordinate among the kept frames and joints."""
    n, _, _, _, m = clip.shape
    moving = (clip != 0).any(dim=1)
    if frames is not None:
        moving = moving.gather(1, frames.long()[:, :, None, None].expand(n, -1, moving.shape[2], m))
    if joints is not None:
        moving = moving.gather(2, joints.long()[:, None, :, None].expand(n, moving.shape[1], -1, m))
    return moving.flatten(1, 2).any(dim=1)
