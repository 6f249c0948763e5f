"""Features of clips as arrays, for work of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from asma_fast._files import replacing
from asma_fast.nn import STGCN, AlignedEncoders
from asma_fast.training.configs_measure import ExtractConfig
from asma_fast.training.dataset import Clips
from asma_fast.training.features import extract_features
from asma_fast.training.frozen import Frozen, extractor, load_frozen
from asma_fast.training.parts import any_clips
from asma_fast.training.records import Floats


@dataclass(frozen=True, eq=False)
class ExtractResult:
    """What was written; prints as a table.

    Parameters
    ----------
    path
        The file.
    arrays
        Its arrays.
    """

    path: Path
    arrays: dict[str, NDArray[Any]]

    def __str__(self) -> str:
        lines = [f"  {name:<24} {array.dtype} {array.shape}" for name, array in self.arrays.items()]
        return "\n".join([f"{self.path}: {len(self.arrays['ids'])} clips", *lines])


def extract(config: ExtractConfig) -> ExtractResult:
    """Writes features of a store's clips to one ``.npz`` file, which needs no pickle to be read.

    Its arrays: ``features (N, D)`` float32, of all encoders joined; ``features_NAME`` and ``tokens_NAME (N, P, D)`` of
    each; ``labels (N,)`` int64, −1 where unknown; ``ids``, places in the store; ``names``; ``part``, ``train``,
    ``test`` or nothing; ``classes``; ``fingerprint`` of the store and ``clips`` of what was made of its clips.

    Raises
    ------
    ValueError
        If there are no clips, or the options do not fit store and run.
    CheckpointError
        If a checkpoint is damaged, or of another skeleton, preprocessing or number of bodies.
    """
    frozen = load_frozen(config)
    store, part, clips = any_clips(config, frozen.records, config.part, frozen.where)
    frozen.check(clips)
    calibration = clips
    if config.features == "random":
        calibration = clips.take(torch.from_numpy(part == "train")) if (part == "train").any() else clips
    arrays: dict[str, NDArray[Any]] = {"features": extractor(config, frozen, calibration)(clips)}
    if config.features == "encoder":
        arrays |= _of_each(config, frozen, clips, arrays["features"])
    ids = clips.ids.numpy()
    arrays |= {
        "labels": clips.labels.numpy(),
        "ids": ids,
        "names": np.array([store.names[place] for place in ids]),
        "part": part,
        "classes": np.array(store.classes),
        "fingerprint": np.array(store.fingerprint),
        "clips": np.array(clips.fingerprint),
    }
    with replacing(config.out) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return ExtractResult(config.out, arrays)


def _of_each(config: ExtractConfig, frozen: Frozen, clips: Clips, joined: Floats) -> dict[str, Floats]:
    """Features, and tokens, of each encoder; of one alone, its features are those that are joined."""
    encoders = encoders_of(frozen)
    arrays = {}
    for name, encoder in encoders.items():
        alone = len(encoders) == 1
        arrays[f"features_{name}"] = joined if alone else extract_features(encoder, clips, config.batch)
        if config.tokens != "none":
            arrays[f"tokens_{name}"] = _tokens(encoder, clips, config)
    return arrays


def encoders_of(frozen: Frozen) -> dict[str, STGCN]:
    """Encoders by name: of two that are aligned, ``first`` and ``second``."""
    named: dict[str, nn.Module] = {}
    for path, encoder in zip(frozen.paths, frozen.encoders, strict=True):
        if isinstance(encoder, AlignedEncoders):
            named |= {"first": encoder.first, "second": encoder.second}
        else:
            named[path.stem] = encoder
    encoders = {name: encoder for name, encoder in named.items() if isinstance(encoder, STGCN)}
    assert len(encoders) == len(named)
    return encoders


@torch.no_grad()
def _tokens(encoder: STGCN, clips: Clips, config: ExtractConfig) -> Floats:
    device = next(encoder.parameters()).device
    per: Any = config.tokens
    parts = [encoder.tokens(batch.x.to(device), per=per).float().cpu() for batch in clips.batches(config.batch)]
    return torch.cat(parts).numpy()
