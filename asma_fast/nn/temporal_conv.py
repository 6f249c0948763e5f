"""Convolution along time as a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asma_fast import ops
from asma_fast.nn._parameters import reset_convolution


class TemporalConv(nn.Module):
    """:func:`asma_fast.ops.temporal_conv` with parameters.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the feature map and of the result.
    taps
        Frames that one output frame sums over.
    stride, padding, dilation, groups
        As the op's; with padding None the length is kept at stride 1.
    bias
        Whether a bias is added.
    impl
        Implementation of the op.

    Attributes
    ----------
    weight : Parameter of shape (C_out, C_in / groups, taps)
    bias : Parameter of shape (C_out,), or None

    Raises
    ------
    ValueError
        If ``groups`` does not divide both numbers of channels.

    Examples
    --------
    >>> import torch
    >>> TemporalConv(16, 32, 9, stride=2)(torch.zeros(2, 16, 50, 25)).shape
    torch.Size([2, 32, 25, 25])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        taps: int = 9,
        *,
        stride: int = 1,
        padding: int | tuple[int, int] | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        impl: str | ops.Impl = "auto",
    ) -> None:
        super().__init__()
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(f"groups must divide {in_channels} and {out_channels} channels, got {groups}")
        if taps < 1:
            raise ValueError(f"taps must be at least 1, got {taps}")
        self.in_channels, self.out_channels, self.taps = in_channels, out_channels, taps
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.impl = impl
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, taps))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As torch's convolutions start."""
        reset_convolution(self.weight, self.bias, self.in_channels // self.groups * self.taps)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve a feature map ``(B, C_in, T, V)`` into ``(B, C_out, T', V)``, channels last in memory."""
        return ops.temporal_conv(  # type: ignore[no-any-return]
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            impl=self.impl,
        )

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, taps={self.taps}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, bias={self.bias is not None}"
        )
