"""What the study compares, as tables: settings, encoders, rows, data sets and their folds. PROTOCOL.md says why."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asma_fast.data import Preprocessing, Store
from asma_fast.data.summary import check
from asma_fast.training.configs import PRETRAIN_PRESETS, PretrainConfig
from asma_fast.training.dataset import Clips, load_clips

LAYOUT, FRAMES = "common-15", 32
CHANNELS = (8, 8, 8, 8, 16, 16, 16, 32, 32, 128)
SEEDS = (0, 1, 2, 3, 4)
SECOND = 100  # added to the seed of a row's second encoder
PRETRAINED_ON = ("nw-ucla", "utd-mhad")  # training parts, joined
SHOTS = 5

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
    align_lr: float = 1e-2
    finetune_lr: float = 1e-3
    scratch_lr: float = 1e-3

    @property
    def name(self) -> str:
        """Of what decides the pretraining, as a file name."""
        told = {key: value for key, value in vars(self).items() if not key.endswith("_lr")}
        return "_".join(f"{key}={value:g}" for key, value in told.items())

    def deciding(self, column: str, row: Row) -> dict[str, Any]:
        """Those that decide a measurement, and the budgets of what is trained for it."""
        scratch, taught = row.kind == "scratch", column.startswith("student")
        trained = column in ("finetuned", "shots", "transfer", "student-of-finetuned")
        joined = len(row.encoders) > 1 and (trained or taught or column == "aligned")
        used = {"align_lr": joined, "finetune_lr": trained and not scratch, "scratch_lr": scratch}
        told: dict[str, Any] = {key: value for key, value in vars(self).items() if used.get(key, True)}
        distilled = {**DISTILL, **(CHOSEN if column == "student-chosen" else {})}
        budgets = {"align": ALIGN if joined else {}, "distill": distilled if taught else {}}
        budgets["rbf"] = RBF if column == "rbf" else {}
        few = column in ("shots", "transfer")
        budgets["finetune"] = FINETUNE_SHOTS if few else FINETUNE if trained else {}
        told.update((name, json.loads(json.dumps(budget))) for name, budget in budgets.items() if budget)
        return told

    @property
    def whole_name(self) -> str:
        """Of everything."""
        rates = (f"{key}={value:g}" for key, value in vars(self).items() if key.endswith("_lr"))
        return "_".join([self.name, *rates])

    def pretraining(self, encoder: str, seed: int, work: Path, sets: Sequence[str], out: Path) -> PretrainConfig:
        """The config of one encoder's pretraining, on the training parts of those sets."""
        small = PRETRAIN_PRESETS["small"]
        own = {
            **ENCODERS.get(encoder, {}),
            **self.views,
            "steps": self.steps,
            "batch": self.batch,
            "lr": self.lr,
            "projector": self.projector,
            "off_diagonal": self.off_diagonal * self.batch / self.projector,
        }
        return PretrainConfig(
            **{**small, "channels": CHANNELS, **own},
            data=Path(",".join(str(SETS[name].file(work)) for name in sets)),
            split=",".join(SETS[name].splits[0] for name in sets),
            layout=LAYOUT,
            frames=FRAMES,
            bodies=1,
            seed=seed,
            out=out,
            save_every=5,
            accelerator="cpu",
            progress=False,
        )

    @property
    def views(self) -> dict[str, Any]:
        """Augmentation, with and without labels."""
        small = PRETRAIN_PRESETS["small"]
        kept = {key: small[key] for key in ("crop", "rotation", "rotation_other")}
        return {**kept, "shear": self.shear, "rotation_main": self.rotation, "flip": 0.0}

    def labelled(self, seed: int, out: Path, **own: Any) -> dict[str, Any]:
        """Options of any training with labels."""
        return {
            **self.views,
            "preprocessing": "small",
            "layout": LAYOUT,
            "frames": FRAMES,
            "optimiser": "adamw",
            "weight_decay": 1e-4,
            "schedule": "step",
            "warmup": 0.05,
            **own,
            "seed": seed,
            "out": out,
            "save_every": 10_000,
            "accelerator": "cpu",
            "progress": False,
        }


# Of training with labels. The student has 7.1 % of its teacher's parameters.
ALIGN: dict[str, Any] = {"mode": "weighted", "pools": 4, "steps": 500, "batch": 64, "weight_decay": 1.0}
# Of the radial basis functions; gamma over width and variance of the features.
RBF: dict[str, Any] = {
    "C": [1, 10, 100],
    "gamma": [0.1, 0.3, 1, 3],
    "folds": "inner splits",
    "standardised": [True, False],
}
FINETUNE: dict[str, Any] = {"steps": 300, "batch": 32}
FINETUNE_SHOTS: dict[str, Any] = {"steps": 200, "batch": 32}
DISTILL: dict[str, Any] = {
    "channels": (16, 16, 32, 48),
    "strides": (2, 1, 2, 1),
    "taps": 5,
    "steps": 1500,
    "batch": 32,
    "lr": 2e-3,
}
LOSS: dict[str, Any] = {"temperature": 4.0, "alpha": 0.7}  # of the students of the claims
CHOSEN: dict[str, Any] = {"temperature": 1.0, "alpha": 0.5}  # by `students.py`, after the claims were known

# Column that decides (``scratch``: fine-tuned, of that row) and settings that are tried; one line after the other, the
# best so far kept.
GRID: tuple[tuple[str, tuple[dict[str, Any], ...]], ...] = (
    ("linear", ({"lr": 1e-3}, {"lr": 3e-3})),
    ("linear", ({"shear": 0.2, "rotation": 45}, {"shear": 0.5, "rotation": 45}, {"shear": 0.2, "rotation": 15})),
    (
        "linear",
        (
            {"projector": 256, "off_diagonal": 0.02},
            {"projector": 512, "off_diagonal": 0.02},
            {"projector": 512, "off_diagonal": 0.01},
            {"projector": 1024, "off_diagonal": 0.02},
        ),
    ),
    (
        "linear",
        ({}, {"off_diagonal": 0.04}, {"lr": 6e-3}, {"projector": 128}),
    ),  # beyond the edges at which the best were
    ("aligned", ({"align_lr": 3e-3}, {"align_lr": 1e-2}, {"align_lr": 3e-2})),
    ("finetuned", ({"finetune_lr": 1e-3}, {"finetune_lr": 3e-3})),
    ("scratch", ({"scratch_lr": 1e-3}, {"scratch_lr": 3e-3})),
)
SETTINGS = Settings(lr=3e-3, shear=0.5, projector=256, finetune_lr=3e-3, scratch_lr=3e-3)  # by `study.py select`

ENCODERS: dict[str, dict[str, Any]] = {
    "pstl": {"encoders": ("high-high",), "last": "zero"},
    "hl": {"encoders": ("hl",)},
    "lh": {"encoders": ("lh",)},
    "low-low": {"encoders": ("low-low",)},
    "random-random": {"encoders": ("random-random",)},
    "none-none": {"encoders": ("none-none",)},
}
# What an ablation changes in both encoders of ASMa: key, name, options of the masks.
ABLATIONS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("degree-2", "ASMa, degree to the power of 2", {"joint_exponent": 2.0}),
    ("degree-4", "ASMa, degree to the power of 4", {"joint_exponent": 4.0}),
    ("motion", "ASMa, joints by their motion", {"joint_weight": "motion"}),
    ("half", "ASMa, half the share masked", {"mask_joints": 0.16, "mask_frames": 0.1, "mask_frames_random": 0.1}),
    ("more", "ASMa, one and a half times", {"mask_joints": 0.48, "mask_frames": 0.3, "mask_frames_random": 0.3}),
)
ENCODERS.update(
    {
        f"{encoder}-{key}": {**ENCODERS[encoder], **options}
        for encoder, (key, _, options) in itertools.product(("hl", "lh"), ABLATIONS)
    }
)
DEFAULT_CHANNELS = PretrainConfig.channels  # of the published network
ENCODERS.update({f"{name}-256": {**ENCODERS[name], "channels": DEFAULT_CHANNELS} for name in ("pstl", "hl", "lh")})
UNTRAINED = "untrained"  # beside them: the network before pretraining, batch-norms calibrated on the training clips


@dataclass(frozen=True)
class Row:
    """A line of the tables: its encoders, each with what is added to the seed.

    Parameters
    ----------
    key, name
        In file names, and in tables.
    kind
        ``encoders``, whose weights are read; ``scratch``: their shapes alone; or ``raw`` coordinates.
    count
        Of the study's seeds, from the first.
    """

    key: str
    name: str
    encoders: tuple[tuple[str, int], ...] = ()
    kind: str = "encoders"
    count: int = len(SEEDS)

    @property
    def seeds(self) -> tuple[int, ...]:
        """With which it is made."""
        return SEEDS[: self.count]


def _twice(key: str, name: str, first: str, second: str = "") -> Row:
    return Row(key, name, ((first, 0), (second or first, SECOND)))


ASMA = _twice("asma", "ASMa (hl + lh)", "hl", "lh")
PSTL1 = Row("pstl-1", "PSTL ×1", (("pstl", 0),))
PSTL2 = _twice("pstl-2", "PSTL ×2", "pstl")
RAW = Row("raw", "raw coordinates", kind="raw")
UNTRAINED1, UNTRAINED2 = (
    Row("untrained-1", "untrained ×1", ((UNTRAINED, 0),)),
    _twice("untrained-2", "untrained ×2", UNTRAINED),
)
SCRATCH1 = replace(PSTL1, key="scratch-1", name="from scratch ×1", kind="scratch")
SCRATCH2 = replace(PSTL2, key="scratch-2", name="from scratch ×2", kind="scratch")
ROWS = (
    RAW,
    UNTRAINED1,
    UNTRAINED2,
    _twice("none-2", "no masks ×2", "none-none"),
    _twice("random-2", "random masks ×2", "random-random"),
    PSTL1,
    PSTL2,
    _twice("low-low-2", "low-low ×2", "low-low"),
    _twice("hl-2", "hl ×2", "hl"),
    _twice("lh-2", "lh ×2", "lh"),
    ASMA,
)
PAIRS = tuple(row for row in ROWS if len(row.encoders) == 2)
FEWER = 1  # seeds of the ablations
ABLATED = tuple(
    replace(_twice(f"asma-{key}", name, f"hl-{key}", f"lh-{key}"), count=FEWER) for key, name, _ in ABLATIONS
)
DEFAULT_SIZE = tuple(
    replace(
        row,
        key=f"{row.key}-256",
        name=f"{row.name}, 16 → 256",
        encoders=tuple((f"{name}-256", more) for name, more in row.encoders),
        count=1,
    )
    for row in (PSTL1, PSTL2, ASMA)
)
LABELLED = (SCRATCH1, SCRATCH2, PSTL1, PSTL2, ASMA)


@dataclass(frozen=True)
class Column:
    """One thing that is measured.

    Parameters
    ----------
    sets, rows
        Of which data sets, in which rows.
    """

    name: str
    sets: tuple[str, ...]
    rows: tuple[Row, ...]


LARGE, ALL = ("nw-ucla", "utd-mhad"), ("nw-ucla", "utd-mhad", "sbu", "irds")
# In the order in which they are measured.
COLUMNS = (
    Column("linear", ALL, ROWS),
    Column("aligned", ALL, PAIRS),
    Column("robust", LARGE, (PSTL1, PSTL2, ASMA)),
    Column("knn", ALL, ROWS),
    Column("rbf", LARGE, (RAW,)),
    Column("student", LARGE, (ASMA,)),
    Column("student-alone", LARGE, (ASMA,)),
    Column("finetuned", LARGE, LABELLED),
    Column("student-of-finetuned", LARGE, (ASMA,)),
    Column("student-chosen", LARGE, (ASMA,)),
    Column("shots", LARGE, LABELLED),
    Column("transfer", LARGE, (PSTL1, ASMA)),
)

# Beside them, with fewer seeds: tables of their own.
FURTHER = (
    Column("linear", LARGE, ABLATED),
    Column("aligned", LARGE, ABLATED),
    Column("linear", LARGE[:1], DEFAULT_SIZE),
    Column("aligned", LARGE[:1], DEFAULT_SIZE[1:]),
)


def pretrainings() -> list[tuple[tuple[str, ...], str, int]]:
    """Data sets, encoder and seed of all that is pretrained: what most claims are about first."""
    rows = [UNTRAINED1, UNTRAINED2, PSTL1, PSTL2, ASMA, *(row for row in ROWS if row.encoders)]
    transfer = COLUMNS[-1]
    wanted: list[tuple[tuple[str, ...], str, int]] = [(PRETRAINED_ON, *one) for one in _encoders(rows[:5])]
    wanted += [((dataset,), *one) for dataset in transfer.sets for one in _encoders(transfer.rows)]
    wanted += [(PRETRAINED_ON, *one) for one in _encoders([*rows, *DEFAULT_SIZE, *ABLATED])]
    return list(dict.fromkeys(wanted))


def _encoders(rows: Sequence[Row]) -> list[tuple[str, int]]:
    return [
        (encoder, seed + more) for seed in SEEDS for row in rows if seed in row.seeds for encoder, more in row.encoders
    ]


@dataclass(frozen=True)
class DataSet:
    """A data set: how it is prepared, and its folds.

    Parameters
    ----------
    source
        Folder of the raw recordings, below that of all.
    splits
        Its folds: names of the store's splits.
    bodies
        Of a clip.
    inner
        Folds within the training part, by a column of the store.
    """

    name: str
    source: str
    splits: tuple[str, ...]
    bodies: int = 1
    inner: Callable[[Store], Folds] = field(default=lambda store: {})

    def file(self, work: Path) -> Path:
        """The prepared store."""
        return work / "stores" / f"{self.name}.safetensors"

    def folds(self, store: Store) -> Folds:
        """The published ones."""
        return {name: store.split(name) for name in self.splits}

    def repeated(self, store: Store) -> Rows:
        """Test clips that hold the frames of a training clip."""
        leaks = [finding.clips for finding in check(store) if finding.kind == "leak"]
        return np.array(sorted({clip for clips in leaks for clip in clips}), dtype=np.int64)

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
        DataSet("nw-ucla", "nw-ucla/all_sqe", ("xview",), inner=_each_held_out("xview", "cameras")),
        DataSet("utd-mhad", "utd-mhad/Skeleton", ("xsub",), inner=_each_held_out("xsub", "subjects")),
        DataSet("sbu", "sbu", ("fold1", "fold2", "fold3", "fold4", "fold5"), bodies=2),
        DataSet("irds", "irds/RawDataCopy", ("subject215", "subject216", "subject217")),
    )
}
