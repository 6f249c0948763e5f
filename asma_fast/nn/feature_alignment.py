"""The module that joins the features of two encoders."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from asma_fast import ops
from asma_fast.ops._contract import check_alike, check_count, check_shape
from asma_fast.ops.dropout import MOST_BLOCKS

Mode = Literal["weighted", "attention", "first-to-second", "second-to-first", "concat", "mean"]
MODES = ("weighted", "attention", "first-to-second", "second-to-first", "concat", "mean")
# A logit of a joint's weight is this times its parameter: the head's rate of learning then serves both.
SHARPNESS = 10.0


class FeatureAlignment(nn.Module):
    """Two encoders' tokens of the same clips as one feature vector a clip (the alignment module of ASMa).

    Of each encoder's tokens it takes the plain average, and ``pools`` averages whose weights of the joints it learns:
    softmax of one logit a joint, all alike at first. All of these, standardised (batch-norm without affine), are
    concatenated. So it begins as the standardised concatenation of both encoders' features and learns which joints of
    which encoder to hear; encoders that lost different joints in pretraining know different joints well. In the modes
    with attention a layer of cross-attention comes before: each token x of one encoder asks all tokens of the other, by
    ``heads`` heads of scaled dot-product attention (Vaswani et al., NeurIPS 2017), of normalised tokens (layer norm);
    head h's answer a_h is weighted by a gate between 0 and 1 that x opens, g = sigmoid(G·x + b); and x becomes
    ``x + O·[g_1·a_1, …, g_h·a_h]``, with O zero at first.

    A learnable module is the method's (that it attends both ways by several heads is said of it at second hand).
    Weights of joints, standardisation, gate and fusion are this package's choice, and so is the default, made on inner
    splits of NW-UCLA and UTD-MHAD (``benchmarks/accuracy/PROTOCOL.md``): there attention costs about a point.

    Parameters
    ----------
    widths
        D1 and D2: ``out_channels`` of the two encoders.
    joints
        V, of the encoders' skeleton. None: the tokens are no joints, and only their plain average is taken.
    pools
        Weighted averages of each encoder's joints.
    width
        Of queries, keys and values over all heads; with ``"mean"`` of the result.
    heads
        They divide ``width``.
    mode
        ``"weighted"``: without attention. ``"attention"``: both ways. ``"first-to-second"``: only the second's tokens
        ask; ``"second-to-first"``: only the first's. To compare: ``"concat"``, the averages of the tokens as they are,
        concatenated, without a parameter; ``"mean"``, the averages, each projected to ``width``, and their mean.
    dropout
        In training mode, of what attention adds to a token. Keyed by sample, as the encoders'.

    Attributes
    ----------
    out_channels : int
        Width of the result: (1 + pools) · (D1 + D2) with joints, D1 + D2 without; ``width`` with ``"mean"``.

    Raises
    ------
    ValueError
        If a width or number is less than 1, ``heads`` does not divide ``width``, ``mode`` is unknown, ``dropout`` is
        not in [0, 1), or ``joints`` is given to a mode that has no weights of them.

    Examples
    --------
    >>> align = FeatureAlignment((256, 64), joints=25)
    >>> align(torch.randn(4, 25, 256), torch.randn(4, 25, 64)).shape
    torch.Size([4, 1600])
    """

    def __init__(
        self,
        widths: tuple[int, int],
        *,
        joints: int | None = None,
        pools: int = 4,
        width: int = 256,
        heads: int = 4,
        mode: Mode = "weighted",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))}, got {mode!r}")
        first, second = widths
        counts = {"widths": (first, second), "pools": (pools,), "width": (width,), "heads": (heads,)}
        counts["joints"] = () if joints is None else (joints,)
        for name, values in counts.items():
            for value in values:
                check_count(name, value, 1)
        if width % heads:
            raise ValueError(f"heads must divide the width {width}, got {heads}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        plain = mode in ("concat", "mean")
        if plain and joints is not None:
            raise ValueError(f"joints must be None with mode {mode!r}, which weighs none, got {joints}")
        self.widths, self.mode, self.joints = (first, second), mode, joints
        self.out_channels = width if mode == "mean" else first + second
        self.project: nn.ModuleList | None = None
        self.norms: nn.ModuleList | None = None
        self.first_reads: CrossAttention | None = None
        self.second_reads: CrossAttention | None = None
        self.joint_logits: nn.ParameterList | None = None
        self.standardise: nn.BatchNorm1d | None = None
        if mode == "mean":
            self.project = nn.ModuleList(nn.Linear(wide, width) for wide in widths)
        if mode in ("attention", "first-to-second", "second-to-first"):
            self.norms = nn.ModuleList(nn.LayerNorm(wide) for wide in widths)
            if mode != "first-to-second":
                self.first_reads = CrossAttention(first, second, width, heads, dropout, block=MOST_BLOCKS - 1)
            if mode != "second-to-first":
                self.second_reads = CrossAttention(second, first, width, heads, dropout, block=MOST_BLOCKS - 2)
        if joints is not None:
            self.joint_logits = nn.ParameterList(torch.zeros(pools, joints) for _ in widths)
            self.out_channels *= 1 + pools
        if not plain:
            self.standardise = nn.BatchNorm1d(self.out_channels, affine=False)

    def forward(
        self,
        first: Tensor,
        second: Tensor,
        *,
        nodes: Tensor | None = None,
        seed: Tensor | int | None = None,
        ids: Tensor | None = None,
    ) -> Tensor:
        """Join tokens ``(N, P1, D1)`` and ``(N, P2, D2)``, as :meth:`asma_fast.nn.STGCN.tokens` gives them.

        ``nodes``, ``(N, P)`` or ``(1, P)`` integers, says which joint each token is (a view's ``graph_nodes``); by
        default there are V tokens, and token v is joint v. The weights of those present are made to sum to 1. ``seed``
        and ``ids`` key dropout, as of :meth:`asma_fast.nn.STGCN.forward`.

        Returns
        -------
        Tensor of shape (N, out_channels)

        Raises
        ------
        TypeError, ValueError
            If shapes, dtypes or devices disagree, or an encoder has no token.
        """
        check_shape("first", first, "N P1 D1", D1=self.widths[0])
        check_shape("second", second, "N P2 D2", N=first.shape[0], D2=self.widths[1])
        check_alike("second", second, "first", first)
        if 0 in (first.shape[1], second.shape[1]):
            raise ValueError(f"each encoder must give at least one token, got {first.shape[1]} and {second.shape[1]}")
        if self.joint_logits is not None:
            self._check_joints(first, second, nodes)
        if self.project is not None:
            one, other = (
                project(tokens.mean(dim=1)) for project, tokens in zip(self.project, (first, second), strict=True)
            )
            return (one + other) / 2  # type: ignore[no-any-return]
        if self.norms is not None:
            normal = self.norms[0](first), self.norms[1](second)
            if self.first_reads is not None:
                first = first + self.first_reads(*normal, seed, ids)
            if self.second_reads is not None:
                second = second + self.second_reads(*reversed(normal), seed, ids)
        averages = [first.mean(dim=1), second.mean(dim=1)]
        if self.joint_logits is not None:
            for logits, tokens in zip(self.joint_logits, (first, second), strict=True):
                at = logits[None] if nodes is None else logits[:, nodes.long()].transpose(0, 1)
                averages.append((torch.softmax(SHARPNESS * at, dim=-1) @ tokens).flatten(1))
        joined = torch.cat(averages, dim=1)
        return joined if self.standardise is None else self.standardise(joined)

    def _check_joints(self, first: Tensor, second: Tensor, nodes: Tensor | None) -> None:
        tokens = self.joints if nodes is None else nodes.shape[-1]
        if first.shape[1] != tokens or second.shape[1] != tokens:
            raise ValueError(
                f"both encoders must give a token for each of {tokens} joints, "
                f"got {first.shape[1]} and {second.shape[1]}"
            )
        if nodes is not None and nodes.shape[0] not in (1, first.shape[0]):
            raise ValueError(f"nodes must have shape ({first.shape[0]} or 1, {tokens}), got {tuple(nodes.shape)}")

    def extra_repr(self) -> str:
        return f"widths={self.widths}, joints={self.joints}, out_channels={self.out_channels}, mode={self.mode!r}"


class CrossAttention(nn.Module):
    """One way of the alignment: what tokens of width ``wide`` hear from tokens of width ``other``; nothing at first."""

    def __init__(self, wide: int, other: int, width: int, heads: int, dropout: float, *, block: int) -> None:
        super().__init__()
        self.heads, self.dropout, self.block = heads, float(dropout), block
        self.query = nn.Linear(wide, width)
        self.key = nn.Linear(other, width, bias=False)  # a bias would shift all of a query's scores alike
        self.value = nn.Linear(other, width)
        self.gate = nn.Linear(wide, heads)
        self.out = nn.Linear(width, wide)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, tokens: Tensor, others: Tensor, seed: Tensor | int | None = None, ids: Tensor | None = None
    ) -> Tensor:
        """``(N, P, wide)``, of tokens ``(N, P, wide)`` and others ``(N, P', other)``."""
        query, key, value = map(self._split, (self.query(tokens), self.key(others), self.value(others)))
        answer = functional.scaled_dot_product_attention(query, key, value)
        answer = answer * torch.sigmoid(self.gate(tokens)).transpose(1, 2)[..., None]
        added: Tensor = self.out(answer.transpose(1, 2).flatten(2))
        if self.training and self.dropout > 0:
            added = self._drop(added, seed, ids)
        return added

    def _split(self, x: Tensor) -> Tensor:
        """``(N, P, width)`` as ``(N, heads, P, width / heads)``."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def _drop(self, x: Tensor, seed: Tensor | int | None, ids: Tensor | None) -> Tensor:
        if seed is None:
            seed = torch.randint(torch.iinfo(torch.int64).max, (), dtype=torch.int64, device=x.device)
        rows = x.transpose(1, 2)[..., None]
        dropped: Tensor = ops.dropout(rows, self.dropout, seed=seed, ids=ids, block=self.block)
        return dropped.squeeze(-1).transpose(1, 2)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, dropout={self.dropout}"
