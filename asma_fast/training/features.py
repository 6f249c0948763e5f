"""Encoders out of checkpoints or untrained, and their features of clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from asma_fast.config import build
from asma_fast.nn import STGCN
from asma_fast.philox import derive_seed
from asma_fast.skeleton import Skeleton
from asma_fast.training.checkpoint import CheckpointError, load_checkpoint, restore
from asma_fast.training.configs import EncoderConfig
from asma_fast.training.dataset import Clips


def initial_seed(seed: int) -> int:
    """Seed of the initial weights of a run: all its encoders, and the untrained one beside them, start alike."""
    return derive_seed(seed, 0)


def build_encoder(
    config: EncoderConfig, skeleton: Skeleton, coordinates: int, seed: int, *, recompute: bool = False
) -> STGCN:
    """An untrained encoder; its weights depend on ``seed`` only, and torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return STGCN(
            skeleton,
            config.channels,
            strides=config.strides,
            in_channels=coordinates,
            dropout=config.dropout,
            bodies=config.pool,
            recompute=recompute,
        )


def recorded_encoder(path: Path, record: dict[str, Any], seed: int) -> STGCN:
    """An untrained encoder of the widths that a checkpoint's record tells."""
    names = EncoderConfig.__dataclass_fields__
    config = build(EncoderConfig, (str(path), {name: record["config"][name] for name in names}))
    return build_encoder(config, Skeleton(**record["skeleton"]), record["coordinates"], seed)


def load_encoder(path: Path) -> tuple[STGCN, dict[str, Any]]:
    """The encoder of a pretraining checkpoint, in eval mode, and the checkpoint's record.

    Raises
    ------
    CheckpointError
        If the file is damaged, or no pretraining checkpoint.
    """
    tensors, record = load_checkpoint(path)
    if record.get("kind") != "pretrain":
        raise CheckpointError(f"{path}: is no pretraining checkpoint")
    encoder = recorded_encoder(path, record, seed=0)
    restore(path, encoder, tensors, "model.encoder.")
    return encoder.eval(), record


def check_fits(path: Path, record: dict[str, Any], clips: Clips) -> None:
    """An encoder's clips were like these.

    Raises
    ------
    CheckpointError
        If skeleton, preprocessing, stream or the number of bodies differ.
    """
    if record["skeleton"]["name"] != clips.skeleton.name or len(record["skeleton"]["joints"]) != len(clips.skeleton):
        raise CheckpointError(
            f"{path}: was trained on skeleton {record['skeleton']['name']}, the store has {clips.skeleton.name}; "
            "--layout maps one layout to another, where a map is known"
        )
    if record["preprocessing"] != clips.preprocessing.to_dict():
        raise CheckpointError(
            f"{path}: was trained on clips preprocessed by {record['preprocessing']}, "
            f"these were by {clips.preprocessing.to_dict()}"
        )
    stream = record.get("stream", "joint")
    if stream != clips.stream:
        raise CheckpointError(f"{path}: was trained on the {stream} stream, these clips are of the {clips.stream} one")
    if record["bodies"] != clips.x.shape[4]:
        raise CheckpointError(f"{path}: was trained on {record['bodies']} bodies a clip, these have {clips.x.shape[4]}")


@torch.no_grad()
def extract_features(encoder: STGCN, clips: Clips, batch: int = 128) -> NDArray[np.float32]:
    """``(N, D)`` float32: an encoder's features of whole clips, in eval mode, unmasked and not augmented."""
    encoder.eval()
    device = next(encoder.parameters()).device
    parts = [encoder(part.x.to(device)).float().cpu() for part in clips.batches(batch)]
    return torch.cat(parts).numpy()


def raw_features(clips: Clips) -> NDArray[np.float32]:
    """``(N, C·T·V·M)`` float32: the coordinates themselves."""
    return clips.batch(slice(None)).x.flatten(1).numpy()


@torch.no_grad()
def calibrate(encoder: STGCN, clips: Clips, batch: int = 128) -> STGCN:
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
