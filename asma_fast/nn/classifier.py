"""An encoder with a linear head."""

from __future__ import annotations

from torch import Tensor, nn

from asma_fast.nn.aligned_encoders import AlignedEncoders
from asma_fast.nn.stgcn import STGCN
from asma_fast.view import View


class Classifier(nn.Module):
    """An encoder followed by one linear layer.

    Parameters
    ----------
    encoder
        An :class:`asma_fast.nn.STGCN` or an :class:`asma_fast.nn.AlignedEncoders`; its ``out_channels`` is the head's
        width.
    classes
        How many logits come out.

    Examples
    --------
    >>> import torch
    >>> from asma_fast import Skeleton
    >>> model = Classifier(STGCN(Skeleton.named("ntu-rgb+d")), classes=60).eval()
    >>> model(torch.zeros(2, 3, 50, 25, 2)).shape
    torch.Size([2, 60])
    """

    def __init__(self, encoder: STGCN | AlignedEncoders, classes: int) -> None:
        super().__init__()
        if classes < 1:
            raise ValueError(f"classes must be at least 1, got {classes}")
        self.encoder = encoder
        self.head = nn.Linear(encoder.out_channels, classes)

    def forward(
        self,
        clip: Tensor,
        view: View | None = None,
        *,
        seed: Tensor | int | None = None,
        ids: Tensor | None = None,
    ) -> Tensor:
        """Logits ``(N, classes)`` of clips ``(N, C, T, V, M)``; arguments as :meth:`asma_fast.nn.STGCN.forward`'s."""
        logits: Tensor = self.head(self.encoder(clip, view, seed=seed, ids=ids))
        return logits
