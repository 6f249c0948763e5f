"""The module that joins the features of two encoders."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from asma_fast import ops
from asma_fast.ops._contract import check_alike, check_count, check_shape
from asma_fast.ops.dropout import MOST_BLOCKS

Mode = Literal["attention", "first-to-second", "second-to-first", "concat", "mean"]
MODES = ("attention", "first-to-second", "second-to-first", "concat", "mean")


class FeatureAlignment(nn.Module):
    """Two encoders' tokens of the same clips as one feature vector a clip (the alignment module of ASMa).

    By default one layer of cross-attention each way. Both encoders' tokens are normalised (layer norm); each token x of
    one encoder asks all tokens of the other, by ``heads`` heads of scaled dot-product attention (Vaswani et al.,
    NeurIPS 2017); head h's answer a_h is weighted by a gate between 0 and 1 that x itself opens, g = sigmoid(G·x + b);
    and ``norm(x + O·[g_1·a_1, …, g_h·a_h])`` is averaged over the tokens. The two averages are concatenated. That the
    module attends both ways and by several heads is the method's; gate, norms and fusion are this package's choice.

    Parameters
    ----------
    widths
        D1 and D2: ``out_channels`` of the two encoders.
    width
        Of queries, keys and values over all heads; with ``"mean"`` of the result.
    heads
        They divide ``width``.
    mode
        ``"attention"``: both ways. ``"first-to-second"``: only the second's tokens ask, the first's are normalised and
        averaged; ``"second-to-first"``: the reverse. ``"concat"``: the averages of the tokens as they are,
        concatenated, without a parameter. ``"mean"``: the averages, each projected to ``width``, and their mean.
    dropout
        In training mode, of what attention adds to a token. Keyed by sample, as the encoders'.

    Attributes
    ----------
    out_channels : int
        Width of the result: D1 + D2; ``width`` with ``"mean"``.

    Raises
    ------
    ValueError
        If a width is less than 1, ``heads`` does not divide ``width``, ``mode`` is unknown or ``dropout`` is not in
        [0, 1).

    Examples
    --------
    >>> import torch
    >>> align = FeatureAlignment((256, 64), width=128)
    >>> align(torch.randn(4, 25, 256), torch.randn(4, 25, 64)).shape
    torch.Size([4, 320])
    """

    def __init__(
        self,
        widths: tuple[int, int],
        *,
        width: int = 256,
        heads: int = 4,
        mode: Mode = "attention",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))}, got {mode!r}")
        first, second = widths
        for name, value in (("widths", first), ("widths", second), ("width", width), ("heads", heads)):
            check_count(name, value, 1)
        if width % heads:
            raise ValueError(f"heads must divide the width {width}, got {heads}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        self.widths, self.mode = (first, second), mode
        self.out_channels = width if mode == "mean" else first + second
        self.project: nn.ModuleList | None = None
        self.norms: nn.ModuleList | None = None
        self.first_reads: CrossAttention | None = None
        self.second_reads: CrossAttention | None = None
        if mode == "mean":
            self.project = nn.ModuleList(nn.Linear(wide, width) for wide in widths)
        elif mode != "concat":
            self.norms = nn.ModuleList(nn.LayerNorm(wide) for wide in widths)
            if mode != "first-to-second":
                self.first_reads = CrossAttention(first, second, width, heads, dropout, block=MOST_BLOCKS - 1)
            if mode != "second-to-first":
                self.second_reads = CrossAttention(second, first, width, heads, dropout, block=MOST_BLOCKS - 2)

    def forward(
        self, first: Tensor, second: Tensor, *, seed: Tensor | int | None = None, ids: Tensor | None = None
    ) -> Tensor:
        """Join tokens ``(N, P1, D1)`` and ``(N, P2, D2)``, as :meth:`asma_fast.nn.STGCN.tokens` gives them.

        ``seed`` and ``ids`` key dropout, as of :meth:`asma_fast.nn.STGCN.forward`.

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
        if self.project is not None:
            one, other = (
                project(tokens.mean(dim=1)) for project, tokens in zip(self.project, (first, second), strict=True)
            )
            return (one + other) / 2  # type: ignore[no-any-return]
        if self.norms is not None:
            first, second = self.norms[0](first), self.norms[1](second)
            asking = first, second
            if self.first_reads is not None:
                first = self.first_reads(first, asking[1], seed, ids)
            if self.second_reads is not None:
                second = self.second_reads(second, asking[0], seed, ids)
        return torch.cat([first.mean(dim=1), second.mean(dim=1)], dim=1)

    def extra_repr(self) -> str:
        return f"widths={self.widths}, out_channels={self.out_channels}, mode={self.mode!r}"


class CrossAttention(nn.Module):
    """One way of the alignment: tokens of width ``wide`` ask tokens of width ``other``."""

    def __init__(self, wide: int, other: int, width: int, heads: int, dropout: float, *, block: int) -> None:
        super().__init__()
        self.heads, self.dropout, self.block = heads, float(dropout), block
        self.query = nn.Linear(wide, width)
        self.key = nn.Linear(other, width, bias=False)  # a bias would shift all of a query's scores alike
        self.value = nn.Linear(other, width)
        self.gate = nn.Linear(wide, heads)
        self.out = nn.Linear(width, wide)
        self.norm = nn.LayerNorm(wide)

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
        result: Tensor = self.norm(tokens + added)
        return result

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
