"""The networks whose checkpoints :mod:`asma_fast.compat` loads, written anew from their published code, plainly.

ST-GCN (yysijie/st-gcn), AimCLR's encoder and PSTL's encoder share everything but the head and PSTL's removal of joints.
Names of modules and the layout of every tensor are the published ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn


def published_adjacency(joints: int, edges: Sequence[tuple[int, int]], centre: int) -> Tensor:
    """The spatial partition, distances measured to one hop, everything farther at infinity."""
    hops = np.full((joints, joints), np.inf)
    for a, b in edges:
        hops[a, b] = hops[b, a] = 1
    np.fill_diagonal(hops, 0)
    linked = (hops <= 1).astype(float)
    normalised = linked @ np.diag(1 / linked.sum(axis=0))
    own, inward, outward = np.zeros((3, joints, joints))
    for j in range(joints):
        for i in range(joints):
            if hops[j, i] == 0:
                own[j, i] = normalised[j, i]
            elif hops[j, i] == 1 and hops[j, centre] < hops[i, centre]:
                outward[j, i] = normalised[j, i]
            elif hops[j, i] == 1:
                inward[j, i] = normalised[j, i]
    return torch.tensor(np.stack([own, inward, outward]), dtype=torch.float32)


class _SpatialConv(nn.Module):
    def __init__(self, c_in: int, c_out: int, partitions: int) -> None:
        super().__init__()
        self.partitions = partitions
        self.conv = nn.Conv2d(c_in, c_out * partitions, kernel_size=1)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        y = self.conv(x)
        b, kc, t, v = y.shape
        y = y.view(b, self.partitions, kc // self.partitions, t, v)
        return torch.einsum("nkctv,kvw->nctw", y, adjacency)


class _Block(nn.Module):
    def __init__(self, c_in: int, c_out: int, partitions: int, stride: int, dropout: float, residual: bool) -> None:
        super().__init__()
        self.memory_format = torch.contiguous_format
        self.gcn = _SpatialConv(c_in, c_out, partitions)
        self.tcn = nn.Sequential(
            nn.BatchNorm2d(c_out),
            nn.ReLU(),
            nn.Conv2d(c_out, c_out, (9, 1), (stride, 1), (4, 0)),
            nn.BatchNorm2d(c_out),
            nn.Dropout(dropout),
        )
        self.skips = residual
        if residual and (c_in != c_out or stride != 1):
            self.residual = nn.Sequential(nn.Conv2d(c_in, c_out, 1, (stride, 1)), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        y = self.tcn(self.gcn(x, adjacency).contiguous(memory_format=self.memory_format))
        if self.skips:
            y = y + (self.residual(x) if hasattr(self, "residual") else x)
        return torch.relu(y)


class PublishedNetwork(nn.Module):
    """``head`` None: PSTL's encoder; ``"fcn"``: ST-GCN, a 1×1 convolution; ``"fc"``: AimCLR, a linear layer."""

    def __init__(
        self,
        adjacency: Tensor,
        channels: Sequence[int],
        strides: Sequence[int],
        *,
        in_channels: int = 3,
        dropout: float = 0.0,
        head: str | None = None,
        classes: int = 0,
        edge_importance: bool = True,
    ) -> None:
        super().__init__()
        partitions, joints, _ = adjacency.shape
        self.register_buffer("A", adjacency)
        self.data_bn = nn.BatchNorm1d(in_channels * joints)
        widths = (in_channels, *channels)
        self.st_gcn_networks = nn.ModuleList(
            _Block(widths[i], widths[i + 1], partitions, strides[i], dropout if i else 0.0, i > 0)
            for i in range(len(channels))
        )
        self.weighted = edge_importance
        if edge_importance:
            self.edge_importance = nn.ParameterList(nn.Parameter(torch.ones_like(adjacency)) for _ in channels)
        if head == "fcn":
            self.fcn = nn.Conv2d(channels[-1], classes, kernel_size=1)
        elif head == "fc":
            self.fc = nn.Linear(channels[-1], classes)

    def forward(self, clip: Tensor, removed: Sequence[int] = (), *, kept: Tensor | None = None) -> Tensor:
        """``kept``: the joints that stay, a tensor, so that compiled code serves any; or ``removed``: the others."""
        n, c, t, v, m = clip.shape
        x = clip.permute(0, 4, 3, 1, 2).reshape(n * m, v * c, t)
        x = self.data_bn(x)
        x = x.view(n, m, v, c, t).permute(0, 1, 3, 4, 2).reshape(n * m, c, t, v)
        if removed:
            kept = torch.tensor([joint for joint in range(v) if joint not in set(removed)])
        if kept is not None:
            x = x[..., kept]
        for index, block in enumerate(self.st_gcn_networks):
            adjacency = self.A * self.edge_importance[index] if self.weighted else self.A
            x = block(x, adjacency if kept is None else adjacency[:, kept][:, :, kept])
        x = x.mean(dim=(2, 3))
        x = x.view(n, m, -1).mean(dim=1)
        if hasattr(self, "fcn"):
            return self.fcn(x[..., None, None])[..., 0, 0]
        return self.fc(x) if hasattr(self, "fc") else x


def in_channels_last(network: PublishedNetwork) -> PublishedNetwork:
    """The same network on feature maps that lie channels last in memory."""
    for block in network.st_gcn_networks:
        block.memory_format = torch.channels_last
    return network


def randomised(network: PublishedNetwork, seed: int = 0) -> PublishedNetwork:
    """As after some training: every parameter and statistic away from its starting value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var") or name.startswith("edge_importance"):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
            elif name.endswith("num_batches_tracked"):
                value.fill_(17)
            elif name != "A" and value.ndim == 1:
                value.copy_(torch.randn(value.shape, generator=generator) * 0.3 + name.endswith("weight"))
    return network
