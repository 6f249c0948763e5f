"""One block of ST-GCN."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from asma_fast import ops
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
    dropout
        Probability of dropping an element, after the second batch-norm and before the residual.
    residual
        False: none. True: the block's input, through a 1×1 convolution and a batch-norm where channels or stride
        change.
    index
        The block's place in its network, which keys its dropout.
    impl
        Implementation of the ops.

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
        dropout: float = 0.0,
        residual: bool = True,
        index: int = 0,
        impl: str | ops.Impl = "auto",
    ) -> None:
        super().__init__()
        if stride < 1:
            raise ValueError(f"stride must be at least 1, got {stride}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        self.dropout, self.index, self.impl = float(dropout), index, impl
        self.graph_conv = GraphConv(in_channels, out_channels, skeleton, partition=partition, impl=impl)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.temporal_conv = TemporalConv(out_channels, out_channels, taps, stride=stride, impl=impl)
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
        y = self.graph_conv(x, view=view, nodes=nodes, scale=scale, shift=shift)
        y = self.temporal_conv(functional.relu(self.norm1(y)))
        y = self.norm2(y)
        if self.training and self.dropout > 0:
            if seed is None:
                raise ValueError("seed must be given in training mode with dropout, got None")
            y = ops.dropout(y, self.dropout, seed=seed, ids=ids, block=self.index, impl=self.impl)
        if self.residual is not None:
            y = y + self.residual(x)
        return functional.relu(y)

    def extra_repr(self) -> str:
        return f"dropout={self.dropout}, index={self.index}"
