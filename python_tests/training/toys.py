"""Small clips for tests of training: who waves which hand how fast, on a skeleton of nine joints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from asma_fast import Skeleton
from asma_fast.config import build
from asma_fast.data import Clip, ClipInfo, Preprocessing, StoreWriter
from asma_fast.data.clip import SplitRule
from asma_fast.training.configs import PretrainConfig
from asma_fast.training.dataset import Clips

SKELETON = Skeleton(
    name="toy",
    joints=(
        "hip", "chest", "head", "left shoulder", "left hand", "right shoulder", "right hand", "left hip", "right hip",
    ),
    edges=((0, 1), (1, 2), (1, 3), (3, 4), (1, 5), (5, 6), (0, 7), (0, 8)),
    centre=(1,),
    shoulders=((3,), (5,)),
    pairs=((3, 5), (4, 6), (7, 8)),
    units="metres",
)  # fmt: skip
REST = np.array(
    [[0, 0, 0], [0, 0.5, 0], [0, 0.8, 0], [-0.2, 0.5, 0], [-0.3, 0, 0], [0.2, 0.5, 0], [0.3, 0, 0], [-0.1, -0.5, 0],
     [0.1, -0.5, 0]],
    np.float32,
)  # fmt: skip
CLASSES = ("left", "right", "both")

# A run that takes a second or two.
TINY = {
    "channels": (4, 4, 8),
    "strides": (1, 2, 1),
    "projector": 16,
    "off_diagonal": 0.01,
    "epochs": 4,
    "warmup": 0.25,
    "batch": 8,
    "optimiser": "adamw",
    "lr": 1e-2,
    "dropout": 0.3,
    "accelerator": "cpu",
    "progress": False,
}


def frames_of(label: int, rng: np.random.Generator, length: int = 20) -> np.ndarray:
    """``(M, T, V, C)``: one person who waves the left hand, the right, or both."""
    time = np.arange(length) / length
    body = np.tile(REST, (length, 1, 1)) + rng.normal(scale=0.01, size=(length, 9, 3)).astype(np.float32)
    wave = 0.4 * np.sin(2 * np.pi * (3 * time + rng.uniform())).astype(np.float32) + 0.4
    for joint, moved in ((4, label in (0, 2)), (6, label in (1, 2))):
        if moved:
            body[:, joint, 1] += wave
    return body[None].astype(np.float32)


def toy_clips(count: int = 24, *, frames: int = 16, seed: int = 0) -> Clips:
    """Clips in memory; labels take turns."""
    rng = np.random.default_rng(seed)
    recipe = Preprocessing(frames=frames, rotate="none")
    arrays = [recipe(frames_of(n % 3, rng), SKELETON).transpose(3, 1, 2, 0) for n in range(count)]
    return Clips(
        x=torch.from_numpy(np.ascontiguousarray(np.stack(arrays))).permute(0, 4, 2, 3, 1),
        labels=torch.arange(count) % 3,
        ids=torch.arange(count),
        skeleton=SKELETON,
        preprocessing=recipe,
        classes=CLASSES,
    )


def toy_store(
    path: Path,
    count: int = 36,
    *,
    labels: bool = True,
    skeleton: Skeleton = SKELETON,
    seed: int = 0,
    bodies: int = 1,
    preprocessing: Preprocessing | None = None,
    splits: Mapping[str, SplitRule] | None = None,
) -> Path:
    """A store of such clips with the splits ``half`` (two of three train) and ``none`` (nothing tests), or others."""
    rng = np.random.default_rng(seed)
    with StoreWriter(path, dataset="toy", skeleton=skeleton, preprocessing=preprocessing) as writer:
        for n in range(count):
            frames = np.concatenate([frames_of(n % 3, rng, 15 + n % 7)] * bodies)
            if preprocessing is not None:
                frames = np.ascontiguousarray(preprocessing(frames, skeleton).transpose(3, 1, 2, 0))
            clip = Clip(frames, skeleton.name, label=n % 3 if labels else None, subject=n // 3, name=f"clip{n:03}")
            writer.add(replace(clip, preprocessing=preprocessing))
        writer.finish(classes=CLASSES, splits={"half": half, "none": _nothing_tests} if splits is None else splits)
    return path


def half(info: ClipInfo) -> str:
    return "test" if info.subject is not None and info.subject % 3 == 2 else "train"


def _nothing_tests(info: ClipInfo) -> str:
    return "train"


def tiny(out: Path, **options: object) -> PretrainConfig:
    """A small pretraining run."""
    return build(PretrainConfig, ("tiny", {**TINY, "out": out}), ("test", options))


def renamed(clips: Clips, **values: object) -> Clips:
    """The clips with other facts."""
    return replace(clips, **values)
