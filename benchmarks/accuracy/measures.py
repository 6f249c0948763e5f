"""What the study measures of encoders that it has: features, made once, and probes of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from design import PRETRAINED_ON, SETS, Folds, Row, Rows, Settings, joined

from asma_fast.data import Store
from asma_fast.training.checkpoint import replacing
from asma_fast.training.configs import ProbeConfig
from asma_fast.training.dataset import Clips, training_clips
from asma_fast.training.features import calibrate, extract_features, raw_features
from asma_fast.training.models import build_encoder, initial_seed, load_encoder
from asma_fast.training.probe import ProbeResult, probe_features
from asma_fast.training.records import Floats


@dataclass(frozen=True)
class Study:
    """Where the study is kept, and its settings."""

    work: Path
    settings: Settings

    def encoder(self, name: str, seed: int) -> Path:
        """Folder of one encoder's pretraining."""
        return self.work / "encoders" / self.settings.name / f"{name}-{seed}"

    def checkpoint(self, name: str, seed: int) -> Path:
        """Of one encoder."""
        (file,) = self.encoder(name, seed).glob("*.safetensors")
        return file

    def store(self, dataset: str) -> Store:
        """A prepared store."""
        return _store(SETS[dataset].file(self.work))

    def clips(self, dataset: str, rows: Rows) -> Clips:
        """Clips as the encoders see them."""
        return _clips(SETS[dataset].file(self.work), dataset).take(_places(rows))

    def features(self, row: Row, seed: int, dataset: str) -> Floats:
        """``(N, D)`` of all clips of a data set, by each encoder of a row, joined."""
        if row.kind == "raw":
            return raw_features(_clips(SETS[dataset].file(self.work), dataset))
        return np.concatenate(
            [self._of_one(row.kind, name, seed + more, dataset) for name, more in row.encoders], axis=1
        )

    def _of_one(self, kind: str, name: str, seed: int, dataset: str) -> Floats:
        path = self.encoder(name if kind == "pretrained" else kind, seed) / f"features-{dataset}.npy"
        if not path.exists():
            encoder = load_encoder(self.checkpoint(name, seed))[0] if kind == "pretrained" else self.untrained(seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            made = extract_features(encoder, _clips(SETS[dataset].file(self.work), dataset))
            with replacing(path) as temporary, open(temporary, "wb") as file:
                np.save(file, made)
        found: Floats = np.load(path)
        return found

    def untrained(self, seed: int) -> Any:
        """The network before pretraining, batch-norms calibrated on the clips that are pretrained on."""
        config = self.settings.pretraining("pstl", seed, joined(self.work), self.work)
        clips = training_clips(config)[1]
        return calibrate(build_encoder(config, clips.skeleton, clips.x.shape[1], initial_seed(seed)), clips)

    def probe(self, config: ProbeConfig, row: Row, seed: int, dataset: str, fold: tuple[Rows, Rows]) -> ProbeResult:
        """A probe of one fold."""
        store, features = self.store(dataset), self.features(row, seed, dataset)
        train, test = ((features[rows], store.labels[rows].astype(np.int64)) for rows in fold)
        return probe_features(config, train, test, store.classes)

    def inner_accuracy(self, row: Row, seed: int) -> dict[str, float]:
        """Linear accuracy on the inner folds: mean over those of each set; test clips are not touched."""
        found = {}
        for dataset in PRETRAINED_ON:
            folds: Folds = SETS[dataset].inner(self.store(dataset))
            results = [self.probe(ProbeConfig(), row, seed, dataset, fold).accuracy for fold in folds.values()]
            found[dataset] = float(np.mean(results))
        return found


@cache
def _store(path: Path) -> Store:
    return Store.open(path)


@cache
def _clips(path: Path, dataset: str) -> Clips:
    store = _store(path)
    return SETS[dataset].clips(store, np.arange(len(store)))


def _places(rows: Rows) -> Any:
    import torch

    return torch.from_numpy(np.asarray(rows, dtype=np.int64))
