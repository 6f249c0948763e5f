"""Features of clips: those of an encoder, or the coordinates themselves."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from asma_fast.training.dataset import Clips

Encoder = TypeVar("Encoder", bound=nn.Module)


@torch.no_grad()
def extract_features(encoder: nn.Module, clips: Clips, batch: int = 128) -> NDArray[np.float32]:
    """``(N, D)`` float32: an encoder's features of whole clips, in eval mode, unmasked and not augmented."""
    encoder.eval()
    device = next(encoder.parameters()).device
    parts = [encoder(part.x.to(device)).float().cpu() for part in clips.batches(batch)]
    return torch.cat(parts).numpy()


def raw_features(clips: Clips) -> NDArray[np.float32]:
    """``(N, C·T·V·M)`` float32: the coordinates themselves."""
    return clips.batch(slice(None)).x.flatten(1).numpy()


@torch.no_grad()
def calibrate(encoder: Encoder, clips: Clips, batch: int = 128) -> Encoder:
    """Sets an untrained encoder's batch-norm statistics to their means over the clips, by one pass in train mode."""
    norms: list[Any] = [module for module in encoder.modules() if hasattr(module, "running_mean")]
    momenta = [norm.momentum for norm in norms]
    encoder.train()
    for number, part in enumerate(clips.batches(batch), start=1):
        for norm in norms:
            norm.momentum = 1 / number  # the running value becomes the plain mean of the batches so far
        encoder(part.x, seed=0, ids=part.ids)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return encoder.eval()
