"""The projector between an encoder and the Barlow Twins loss."""

from __future__ import annotations

from torch import nn


class Projector(nn.Sequential):
    """Linear-BatchNorm-ReLU twice, then Linear; no bias (PSTL, AAAI 2023).

    Parameters
    ----------
    in_features
        The encoder's ``out_channels``.
    width
        Of the hidden layers and of the result.

    Examples
    --------
    >>> import torch
    >>> Projector(256, width=512)(torch.zeros(4, 256)).shape
    torch.Size([4, 512])
    """

    def __init__(self, in_features: int, width: int = 6144) -> None:
        super().__init__(
            nn.Linear(in_features, width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
            nn.Linear(width, width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
            nn.Linear(width, width, bias=False),
        )
