"""What the study compares, as tables: settings, encoders, rows, data sets and their folds. PROTOCOL.md says why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asma_fast.data import Preprocessing, Store
from asma_fast.training.configs import PRETRAIN_PRESETS, PretrainConfig
from asma_fast.training.dataset import Clips, load_clips

LAYOUT, FRAMES = "common-15", 32
CHANNELS = (8, 8, 8, 8, 16, 16, 16, 32, 32, 128)
SEEDS = (0, 1, 2, 3, 4)
SECOND = 100  # added to the seed of a row's second encoder
PRETRAINED_ON = ("nw-ucla", "utd-mhad")  # training parts, joined

Rows = NDArray[np.int64]
Folds = dict[str, tuple[Rows, Rows]]  # name → rows that train, rows that are asked


@dataclass(frozen=True)
class Settings:
    """What every pretraining of the study shares.

    Parameters
    ----------
    off_diagonal
        Weight of Barlow Twins' off-diagonal terms, times width, divided by batch.
    """

    steps: int = 500
    batch: int = 64
    lr: float = 1e-3
    shear: float = 0.2
    rotation: float = 45.0
    projector: int = 512
    off_diagonal: float = 0.02

    @property
    def name(self) -> str:
        """As a file name."""
        return "_".join(f"{key}={value:g}" for key, value in vars(self).items())

    def pretraining(self, encoder: str, seed: int, data: Path, out: Path) -> PretrainConfig:
        """The config of one encoder's pretraining."""
        small = PRETRAIN_PRESETS["small"]
        own = {
            "steps": self.steps,
            "batch": self.batch,
            "lr": self.lr,
            "shear": self.shear,
            "rotation_main": self.rotation,
            "projector": self.projector,
            "off_diagonal": self.off_diagonal * self.batch / self.projector,
        }
        return PretrainConfig(
            **{**small, **own, **ENCODERS[encoder]},
            data=data,
            layout=LAYOUT,
            frames=FRAMES,
            bodies=1,
            flip=0.0,
            channels=CHANNELS,
            seed=seed,
            out=out,
            save_every=5,
            accelerator="cpu",
            progress=False,
        )


# One after the other, in this order, the best so far kept.
GRID: tuple[tuple[dict[str, float], ...], ...] = (
    ({"lr": 1e-3}, {"lr": 3e-3}),
    ({"shear": 0.2, "rotation": 45}, {"shear": 0.5, "rotation": 45}, {"shear": 0.2, "rotation": 15}),
    (
        {"projector": 256, "off_diagonal": 0.02},
        {"projector": 512, "off_diagonal": 0.02},
        {"projector": 512, "off_diagonal": 0.01},
        {"projector": 1024, "off_diagonal": 0.02},
    ),
)

ENCODERS: dict[str, dict[str, Any]] = {
    "pstl": {"encoders": ("high-high",), "last": "zero"},
    "hl": {"encoders": ("hl",)},
    "lh": {"encoders": ("lh",)},
    "low-low": {"encoders": ("low-low",)},
    "random-random": {"encoders": ("random-random",)},
    "none-none": {"encoders": ("none-none",)},
}


@dataclass(frozen=True)
class Row:
    """A line of the tables: its encoders, each with what is added to the seed.

    Parameters
    ----------
    kind
        ``pretrained``; ``random``, untrained with batch-norms calibrated on the training clips; or ``raw`` coordinates.
    """

    name: str
    encoders: tuple[tuple[str, int], ...] = ()
    kind: str = "pretrained"


def _twice(name: str, first: str, second: str = "") -> Row:
    return Row(name, ((first, 0), (second or first, SECOND)))


ASMA = _twice("ASMa (hl + lh)", "hl", "lh")
PSTL1 = Row("PSTL ×1", (("pstl", 0),))
PSTL2 = _twice("PSTL ×2", "pstl")
RAW = Row("raw coordinates", kind="raw")
RANDOM1 = Row("untrained ×1", (("pstl", 0),), "random")
RANDOM2 = Row("untrained ×2", (("pstl", 0), ("pstl", SECOND)), "random")
ROWS = (
    RAW,
    RANDOM1,
    RANDOM2,
    _twice("no masks ×2", "none-none"),
    _twice("random masks ×2", "random-random"),
    PSTL1,
    PSTL2,
    _twice("low-low ×2", "low-low"),
    _twice("hl ×2", "hl"),
    _twice("lh ×2", "lh"),
    ASMA,
)


def pretrainings() -> list[tuple[str, int]]:
    """Encoder and seed of all that is pretrained: what the claims are about first."""
    rows = [PSTL1, PSTL2, ASMA, *ROWS]
    wanted = [(encoder, seed + more) for row in rows for seed in SEEDS for encoder, more in _trained(row)]
    return list(dict.fromkeys(wanted))


def _trained(row: Row) -> tuple[tuple[str, int], ...]:
    return row.encoders if row.kind == "pretrained" else ()


@dataclass(frozen=True)
class DataSet:
    """A data set: how it is prepared, and its folds.

    Parameters
    ----------
    source
        Folder of the raw recordings, below that of all.
    bodies
        Of a clip.
    inner
        Folds within the training part, by a column of the store.
    """

    name: str
    source: str
    bodies: int = 1
    inner: Callable[[Store], Folds] = field(default=lambda store: {})

    def file(self, work: Path) -> Path:
        """The prepared store."""
        return work / "stores" / f"{self.name}.safetensors"

    def folds(self, store: Store) -> Folds:
        """The published ones."""
        return {name: store.split(name) for name in store.splits}

    def clips(self, store: Store, rows: Rows) -> Clips:
        """As the encoders see them."""
        recipe = replace(Preprocessing.named("small"), frames=FRAMES)
        return load_clips(store, rows, recipe, self.bodies, layout=LAYOUT)


def _each_held_out(split: str, column: str) -> Callable[[Store], Folds]:
    """Each value that a column has in the training part of a split, held out in turn."""

    def folds(store: Store) -> Folds:
        train = store.split(split)[0]
        values = np.asarray(getattr(store, column))[train]
        return {
            f"{column}-{value}": (train[values != value], train[values == value])
            for value in np.unique(values).tolist()
        }

    return folds


SETS: Mapping[str, DataSet] = {
    one.name: one
    for one in (
        DataSet("nw-ucla", "nw-ucla/all_sqe", inner=_each_held_out("xview", "cameras")),
        DataSet("utd-mhad", "utd-mhad/Skeleton", inner=_each_held_out("xsub", "subjects")),
        DataSet("sbu", "sbu", bodies=2),
        DataSet("irds", "irds/RawDataCopy"),
    )
}


def joined(work: Path, sets: Sequence[str] = PRETRAINED_ON) -> Path:
    """The stores that are pretrained on, as ``pretrain --data`` names them."""
    return Path(",".join(str(SETS[name].file(work)) for name in sets))
