"""One block of ST-GCN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from asma_fast import ops
from asma_fast.nn._batch_norm import batch_affine, has_no_hooks, is_plain, over_ranks, running_affine, update_running
from asma_fast.nn.graph_conv import GraphConv
from asma_fast.nn.temporal_conv import TemporalConv
from asma_fast.skeleton import Partition, Skeleton
from asma_fast.view import View


class STGCNBlock(nn.Module):
    """Graph convolution, batch-norm, ReLU, temporal convolution, batch-norm, dropout, residual, ReLU.

    The block of ST-GCN (Yan et al., AAAI 2018).

    Parameters
    ----------
    in_channels, out_channels
        Channels of the feature map (or clip) and of the result.
    skeleton, partition
        The graph; see :class:`asma_fast.nn.GraphConv`.
    taps, stride
        Of the temporal convolution.
    separable
        The temporal convolution in two (MobileNet, Howard et al., 2017): ``taps`` frames of each channel alone, with
        the stride; batch-norm and ReLU; and a 1×1 convolution of the channels.
    causal
        The temporal convolution reads no later frame: it is padded by ``taps`` - 1 frames, all on the left. Output
        frame t depends on the frames up to t · ``stride``.
    dropout
        Probability of dropping an element, after the second batch-norm and before the residual.
    residual
        False: none. True: the block's input, through a 1×1 convolution and a batch-norm where channels or stride
        change.
    index
        The block's place in its network, which keys its dropout.
    recompute
        Keep only the block's input for the backward pass, and run the block again there: less memory, more time.
    impl
        Implementation of the ops.

    Notes
    -----
    The layers run as fused ops: :func:`asma_fast.ops.block_graph_conv`, :func:`asma_fast.ops.block_temporal_conv` and
    :func:`asma_fast.ops.block_output`; in eval mode without gradients :func:`asma_fast.ops.block_inference`. Where a
    layer was replaced by another kind of module (SyncBatchNorm, say) or carries a hook, they are called one by one, and
    ``recompute`` does nothing.

    Raises
    ------
    ValueError
        If ``stride`` is less than 1 or ``dropout`` is not in [0, 1).

    Examples
    --------
    >>> import torch
    >>> from asma_fast import Skeleton
    >>> block = STGCNBlock(16, 32, Skeleton.named("ntu-rgb+d"), stride=2)
    >>> block(torch.zeros(4, 16, 50, 25)).shape
    torch.Size([4, 32, 25, 25])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        skeleton: Skeleton,
        *,
        partition: Partition = "spatial",
        taps: int = 9,
        stride: int = 1,
        separable: bool = False,
        causal: bool = False,
        dropout: float = 0.0,
        residual: bool = True,
        index: int = 0,
        recompute: bool = False,
        impl: str | ops.Impl = "auto",
    ) -> None:
        super().__init__()
        if stride < 1:
            raise ValueError(f"stride must be at least 1, got {stride}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        self.dropout, self.index, self.recompute, self.impl = float(dropout), index, recompute, impl
        self.graph_conv = GraphConv(in_channels, out_channels, skeleton, partition=partition, impl=impl)
        self.norm1 = nn.BatchNorm2d(out_channels)
        groups = out_channels if separable else 1
        self.temporal_conv = TemporalConv(
            out_channels,
            out_channels,
            taps,
            stride=stride,
            padding=(taps - 1, 0) if causal else None,
            groups=groups,
            impl=impl,
        )
        self.between: nn.BatchNorm2d | None = nn.BatchNorm2d(out_channels) if separable else None
        self.pointwise = TemporalConv(out_channels, out_channels, 1, impl=impl) if separable else None
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.residual: nn.Module | None = None
        if residual and in_channels == out_channels and stride == 1:
            self.residual = nn.Identity()
        elif residual:
            self.residual = nn.Sequential(
                TemporalConv(in_channels, out_channels, 1, stride=stride, impl=impl), nn.BatchNorm2d(out_channels)
            )

    def forward(
        self,
        x: Tensor,
        *,
        view: View | None = None,
        nodes: Tensor | None = None,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
        seed: Tensor | int | None = None,
        ids: Tensor | None = None,
    ) -> Tensor:
        """Run the block on a feature map ``(B, C, T, V)``, or, without residual, on a clip ``(N, C, T, V, M)``.

        ``view``, ``nodes``, ``scale`` and ``shift`` are :func:`asma_fast.ops.graph_conv`'s; ``seed`` and ``ids``
        :func:`asma_fast.ops.dropout`'s, and in training mode with dropout ``seed`` is required.

        Returns
        -------
        Tensor of shape (B, C_out, T', V'), channels last in memory
        """
        if self.residual is not None and x.ndim == 5:
            raise ValueError(
                f"x must have shape (B, C, T, V) for a block with a residual, got the clip {tuple(x.shape)}"
            )
        if self.training and self.dropout > 0 and seed is None:
            raise ValueError("seed must be given in training mode with dropout, got None")
        if not self._fuses():
            return self._one_by_one(x, view, nodes, scale, shift, seed, ids)
        norms = self._norms()
        if not (self.training and self.dropout > 0) and not any(norm.training for norm in norms):
            wanted = (x, scale, shift, *self.parameters()) if torch.is_grad_enabled() else ()
            if not any(value is not None and value.requires_grad for value in wanted):
                return self._inference(x, view, nodes, scale, shift)
        arguments = (x, view, nodes, scale, shift, seed, ids)
        out: Tensor
        if self.recompute and torch.is_grad_enabled():
            out, *sums = checkpoint(self._passes, *arguments, use_reentrant=False, preserve_rng_state=False)
        else:
            out, *sums = self._passes(*arguments)
        frames = x.shape[2] if view is None or view.frames is None else view.frames.shape[1]
        rows = out.shape[0] * out.shape[3]
        for norm, some in zip(norms, sums, strict=True):
            update_running(norm, rows * (frames if norm is self.norm1 else out.shape[2]), some)
        return out

    def _norms(self) -> list[nn.BatchNorm2d]:
        """In the order in which the passes give sums."""
        layers = self._residual_layers()
        between = [] if self.between is None else [self.between]
        return [self.norm1, *between, self.norm2, *([] if layers is None else layers[1:])]

    def _residual_layers(self) -> tuple[TemporalConv, nn.BatchNorm2d] | None:
        return tuple(self.residual) if isinstance(self.residual, nn.Sequential) else None  # type: ignore[return-value]

    def _fuses(self) -> bool:
        """Whether every layer is what this class made of it, so that the fused ops do what calling them would."""
        layers: list[nn.Module] = [self.graph_conv, self.temporal_conv]
        norms: list[nn.Module] = [self.norm1, self.norm2]
        if self.pointwise is not None and self.between is not None:
            layers.append(self.pointwise)
            norms.append(self.between)
        if self.residual is not None:
            if type(self.residual) is nn.Sequential and len(self.residual) == 2:
                layers.append(self.residual[0])
                norms.append(self.residual[1])
            elif type(self.residual) is not nn.Identity:
                return False
            if not has_no_hooks(self.residual):
                return False
        kinds = (GraphConv, TemporalConv, TemporalConv, TemporalConv)
        return all(is_plain(norm) and norm.weight.dtype == self.norm1.weight.dtype for norm in norms) and all(
            type(layer) is kind and has_no_hooks(layer) and layer.weight.dtype == self.norm1.weight.dtype
            for layer, kind in zip(layers, kinds, strict=False)
        )

    def _passes(
        self,
        x: Tensor,
        view: View | None,
        nodes: Tensor | None,
        scale: Tensor | None,
        shift: Tensor | None,
        seed: Tensor | int | None,
        ids: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """The result and the sums of what each norm normalises. Pure: running statistics are the caller's to move."""
        graph = self.graph_conv
        y1, sums1 = ops.block_graph_conv(
            x,
            graph.weight,
            graph.adjacency * graph.edge_importance,
            graph.bias,
            view=view,
            nodes=nodes,
            scale=scale,
            shift=shift,
            pattern=graph.pattern,
            impl=graph.impl,
        )
        sums1 = over_ranks(self.norm1, y1, sums1)
        y2, sums2 = _convolve(self.temporal_conv, y1, *batch_affine(self.norm1, y1, sums1))
        sums = [sums1]
        if self.pointwise is not None and self.between is not None:
            sums.append(over_ranks(self.between, y2, sums2))
            y2, sums2 = _convolve(self.pointwise, y2, *batch_affine(self.between, y2, sums[-1]))
        sums2 = over_ranks(self.norm2, y2, sums2)
        residual: Tensor | None = None if self.residual is None else x
        affine: tuple[Tensor | None, Tensor | None] = (None, None)
        sums.append(sums2)
        if (layers := self._residual_layers()) is not None:
            residual, last = _convolve(layers[0], x)
            last = over_ranks(layers[1], residual, last)
            affine = batch_affine(layers[1], residual, last)
            sums.append(last)
        out = ops.block_output(
            y2,
            *batch_affine(self.norm2, y2, sums2),
            residual,
            residual_scale=affine[0],
            residual_shift=affine[1],
            p=self.dropout if self.training else 0.0,
            seed=seed,
            block=self.index,
            ids=ids,
            impl=self.impl,
        )
        return out, *sums

    def _inference(
        self, x: Tensor, view: View | None, nodes: Tensor | None, scale: Tensor | None, shift: Tensor | None
    ) -> Tensor:
        """By running statistics, without gradients: the second norm is folded into the convolution."""
        y = self.graph_conv(x, view=view, nodes=nodes, scale=scale, shift=shift)
        residual = None if self.residual is None else x
        if (layers := self._residual_layers()) is not None:
            residual = _folded(*layers, ops.temporal_conv, x)
        first = running_affine(self.norm1)
        conv = self.temporal_conv
        if self.pointwise is not None and self.between is not None:
            y = _folded(conv, self.between, ops.block_inference, y, *first)
            # It is not negative: the ReLU through which the next pass reads leaves it as it is.
            conv, first = self.pointwise, (torch.ones_like(first[0]), torch.zeros_like(first[1]))
        return _folded(conv, self.norm2, ops.block_inference, y, *first, residual=residual)

    def _one_by_one(
        self,
        x: Tensor,
        view: View | None,
        nodes: Tensor | None,
        scale: Tensor | None,
        shift: Tensor | None,
        seed: Tensor | int | None,
        ids: Tensor | None,
    ) -> Tensor:
        y = self.graph_conv(x, view=view, nodes=nodes, scale=scale, shift=shift)
        y = self.temporal_conv(functional.relu(self.norm1(y)))
        if self.pointwise is not None and self.between is not None:
            y = self.pointwise(functional.relu(self.between(y)))
        y = self.norm2(y)
        if self.training and self.dropout > 0:
            assert seed is not None
            y = ops.dropout(y, self.dropout, seed=seed, ids=ids, block=self.index, impl=self.impl)
        if self.residual is not None:
            y = y + self.residual(x)
        return functional.relu(y)

    def extra_repr(self) -> str:
        return f"dropout={self.dropout}, index={self.index}"


def _convolve(
    conv: TemporalConv, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Result and sums."""
    return ops.block_temporal_conv(x, conv.weight, conv.bias, scale=scale, shift=shift, **_options(conv))


def _folded(
    conv: TemporalConv, norm: nn.BatchNorm2d, op: Callable[..., Tensor], *arguments: Tensor, **more: Tensor | None
) -> Tensor:
    """``op`` with the convolution's parameters, the norm after it folded into them."""
    scale, shift = running_affine(norm)
    bias = shift if conv.bias is None else torch.addcmul(shift, conv.bias, scale)
    return op(*arguments, conv.weight * scale[:, None, None], bias, **more, **_options(conv))


def _options(conv: TemporalConv) -> dict[str, Any]:
    return {
        "stride": conv.stride,
        "padding": conv.padding,
        "dilation": conv.dilation,
        "groups": conv.groups,
        "impl": conv.impl,
    }
