"""Networks as training may leave them, and their model files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from asma_fast import Skeleton
from asma_fast.edge import export
from asma_fast.nn import STGCN, Classifier
from asma_fast.nn.graph_conv import GraphConv

SEVEN = Skeleton(edges=((0, 1), (1, 2), (1, 3), (3, 4), (1, 5), (5, 6)), centre=(1,), name="seven")
SMALL = {"channels": (5, 5, 8, 17), "strides": (1, 1, 2, 1), "taps": 5}


def network(skeleton: Skeleton = SEVEN, classes: int = 4, **options) -> Classifier:
    """In eval mode; no statistic and no edge importance is what it is before training."""
    torch.manual_seed(3)
    model = Classifier(STGCN(skeleton, **{**SMALL, **options}), classes)
    for module in model.modules():
        if hasattr(module, "running_var"):
            module.running_var.uniform_(0.5, 2)
            module.running_mean.normal_()
        if isinstance(module, GraphConv):
            torch.nn.init.uniform_(module.edge_importance, 0.5, 1.5)
    return model.eval()


def clips(count: int, bodies: int, frames: int, joints: int = 7, seed: int = 0) -> NDArray[np.float32]:
    """``(N, M, T, V, C)``."""
    return np.random.default_rng(seed).normal(size=(count, bodies, frames, joints, 3)).astype(np.float32)


@torch.no_grad()
def logits_of(model: Classifier, given: NDArray[np.float32], dtype: torch.dtype) -> NDArray[np.floating]:
    """By torch, in that dtype."""
    model = Classifier.to(model, dtype)
    result = model(torch.from_numpy(given).to(dtype).permute(0, 4, 2, 3, 1)).numpy()
    model.float()
    return result


def int8_file(folder: Path, model: Classifier, given: NDArray[np.float32], **options) -> Path:
    """Calibrated on these clips ``(N, M, T, V, C)``."""
    return file_of(folder, model, precision="int8", calibration=given.transpose(0, 4, 2, 3, 1), **options)


def file_of(folder: Path, model: Classifier, **options) -> Path:
    return export(model, folder / "model.safetensors", **options)
