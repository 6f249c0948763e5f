"""Graph convolution as a module: weights, bias and learnable edge importance over a skeleton's adjacency."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asma_fast import ops
from asma_fast.nn._parameters import reset_convolution
from asma_fast.skeleton import Partition, Skeleton
from asma_fast.view import View


class GraphConv(nn.Module):
    """:func:`asma_fast.ops.graph_conv` with parameters, the adjacency being ``A · edge_importance``.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the feature map or clip, and of the result.
    skeleton
        Its joints are the nodes of the graph.
    partition
        ``"spatial"`` (K=3), ``"distance"`` (K=2) or ``"uniform"`` (K=1); see :meth:`asma_fast.Skeleton.adjacency`.
    bias
        Whether each partition adds a bias before the aggregation, as the published networks do.
    impl
        Implementation of the op.

    Attributes
    ----------
    weight : Parameter of shape (K, C_out, C_in)
    bias : Parameter of shape (K, C_out), or None
    edge_importance : Parameter of shape (K, V, V)
        Ones at the start. Entries where the skeleton has no edge carry nothing and get a gradient of exactly zero.

    Examples
    --------
    >>> import torch
    >>> from asma_fast import Skeleton
    >>> layer = GraphConv(3, 16, Skeleton.named("ntu-rgb+d"))
    >>> layer(torch.zeros(2, 3, 10, 25)).shape
    torch.Size([2, 16, 10, 25])
    """

    adjacency: Tensor
    pattern: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        skeleton: Skeleton,
        *,
        partition: Partition = "spatial",
        bias: bool = True,
        impl: str | ops.Impl = "auto",
    ) -> None:
        super().__init__()
        adjacency = torch.from_numpy(skeleton.adjacency(partition))
        self.in_channels, self.out_channels = in_channels, out_channels
        self.impl = impl
        # Both follow from the skeleton, so no checkpoint carries them.
        self.register_buffer("adjacency", adjacency, persistent=False)
        self.register_buffer("pattern", torch.from_numpy(skeleton.pattern(partition)), persistent=False)
        self.weight = nn.Parameter(torch.empty(adjacency.shape[0], out_channels, in_channels))
        self.bias = nn.Parameter(torch.empty(adjacency.shape[0], out_channels)) if bias else None
        self.edge_importance = nn.Parameter(torch.empty_like(adjacency))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As torch's 1×1 convolution (and so PSTL's networks) starts; edge importance at one."""
        reset_convolution(self.weight, self.bias, self.in_channels)
        nn.init.ones_(self.edge_importance)

    def forward(
        self,
        x: Tensor,
        *,
        view: View | None = None,
        nodes: Tensor | None = None,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> Tensor:
        """Convolve a feature map ``(B, C, T, V)``, or a clip ``(N, C, T, V, M)`` through a view; arguments as the op's.

        Returns
        -------
        Tensor of shape (B, C_out, T', V'), channels last in memory
        """
        return ops.graph_conv(  # type: ignore[no-any-return]
            x,
            self.weight,
            self.adjacency * self.edge_importance,
            self.bias,
            view=view,
            nodes=nodes,
            scale=scale,
            shift=shift,
            pattern=self.pattern,
            impl=self.impl,
        )

    def extra_repr(self) -> str:
        k, v = self.adjacency.shape[:2]
        return f"{self.in_channels}, {self.out_channels}, partitions={k}, joints={v}, bias={self.bias is not None}"
