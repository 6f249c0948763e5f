"""Two encoders and the module that joins them, as one encoder."""

from __future__ import annotations

from torch import Tensor, nn

from asma_fast._array import as_kind_of
from asma_fast.nn.feature_alignment import FeatureAlignment
from asma_fast.nn.stgcn import STGCN, Tokens
from asma_fast.view import View

# The second encoder's dropout must not repeat the first's: its seed is the given one with these bits turned.
_SECOND = 0x5DEECE66D


class AlignedEncoders(nn.Module):
    """Two encoders of the same clips, joined by a :class:`asma_fast.nn.FeatureAlignment` (ASMa).

    Called as an :class:`asma_fast.nn.STGCN` is, also by :class:`asma_fast.nn.Classifier`.

    Parameters
    ----------
    first, second
        Of one skeleton and as many coordinates.
    alignment
        Its ``widths`` are the encoders' ``out_channels``.
    tokens
        ``"joint"`` or ``"frame"``: what the alignment joins; see :meth:`asma_fast.nn.STGCN.tokens`. Frames have no
        weights, so that the alignment's ``joints`` is None then.

    Attributes
    ----------
    out_channels : int
        The alignment's.

    Raises
    ------
    TypeError, ValueError
        If the three do not fit each other.

    Examples
    --------
    >>> import torch
    >>> from asma_fast import Skeleton
    >>> first, second = (STGCN(Skeleton.named("ntu-rgb+d")) for _ in range(2))
    >>> model = AlignedEncoders(first, second, FeatureAlignment((256, 256), joints=25))
    >>> model(torch.zeros(2, 3, 50, 25, 2), seed=7).shape
    torch.Size([2, 2560])
    """

    def __init__(self, first: STGCN, second: STGCN, alignment: FeatureAlignment, *, tokens: Tokens = "joint") -> None:
        super().__init__()
        for name, encoder in (("first", first), ("second", second)):
            if not isinstance(encoder, STGCN):
                raise TypeError(f"{name} must be an STGCN, got {type(encoder).__name__}")
        if not isinstance(alignment, FeatureAlignment):
            raise TypeError(f"alignment must be a FeatureAlignment, got {type(alignment).__name__}")
        if first.skeleton != second.skeleton:
            raise ValueError(
                f"both encoders must have the same skeleton, got {_named(first)} and {_named(second)}"
                + ("; joints or edges differ" if _named(first) == _named(second) else "")
            )
        if first.in_channels != second.in_channels:
            raise ValueError(
                f"both encoders must read as many coordinates, got {first.in_channels} and {second.in_channels}"
            )
        if alignment.widths != (first.out_channels, second.out_channels):
            raise ValueError(
                f"alignment.widths must be the encoders', {(first.out_channels, second.out_channels)}, "
                f"got {alignment.widths}"
            )
        if tokens not in ("joint", "frame"):
            raise ValueError(f"tokens must be 'joint' or 'frame', got {tokens!r}")
        joints = len(first.skeleton) if tokens == "joint" else None
        wanted = "None" if joints is None else f"None or {joints}"
        if alignment.joints not in (None, joints):
            raise ValueError(f"alignment.joints must be {wanted} for tokens by {tokens}, got {alignment.joints}")
        self.first, self.second, self.alignment = first, second, alignment
        self.tokens: Tokens = tokens
        self.out_channels = alignment.out_channels

    def forward(
        self,
        clip: Tensor,
        view: View | None = None,
        *,
        seed: Tensor | int | None = None,
        ids: Tensor | None = None,
    ) -> Tensor:
        """Features ``(N, out_channels)`` of clips ``(N, C, T, V, M)``; as :meth:`asma_fast.nn.STGCN.forward`.

        Both encoders read the clip through the same view. Their dropout follows from the one seed and differs.
        """
        first = self.first.tokens(clip, view, per=self.tokens, seed=seed, ids=ids)
        other = None if seed is None else seed ^ _SECOND
        second = self.second.tokens(clip, view, per=self.tokens, seed=other, ids=ids)
        nodes = None if view is None else as_kind_of(view.graph_nodes, clip)
        joined: Tensor = self.alignment(first, second, nodes=nodes, seed=seed, ids=ids)
        return joined

    def extra_repr(self) -> str:
        return f"tokens={self.tokens!r}"


def _named(encoder: STGCN) -> str:
    return f"{encoder.skeleton.name} ({len(encoder.skeleton)} joints)"
