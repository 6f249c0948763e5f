"""What verbs that measure trained networks can be told, as typed configs. Needs nothing but the standard library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from asma_fast.config import option
from asma_fast.training.configs import DataConfig, FeaturesConfig, ProbeConfig, _within

Part = Literal["all", "train", "test"]
# Kinds of noise → largest amount, and its unit.
NOISES: dict[str, tuple[float, str]] = {
    "jitter": (1e6, "cm"),
    "missing": (50.0, "% of the joints"),
    "dropped": (99.0, "% of the frames"),
    "yaw": (180.0, "degrees"),
}
CONDITIONS = ("jitter-1", "jitter-3", "jitter-5", "missing-10", "missing-30", "dropped-20", "yaw-30", "yaw-60")
# AimCLR's weights of the three streams' logits (AAAI 2022).
STREAM_WEIGHTS = {"joint": 0.6, "motion": 0.4, "bone": 0.6}


def noise_of(condition: str) -> tuple[str, float]:
    """Kind and amount of a condition such as ``jitter-3``.

    Raises
    ------
    ValueError
        If it is none.

    Examples
    --------
    >>> noise_of("missing-10")
    ('missing', 10.0)
    """
    kind, _, amount = condition.partition("-")
    try:
        value = float(amount)
    except ValueError:
        value = -1.0
    if kind not in NOISES or not 0 < value <= NOISES[kind][0]:
        known = "; ".join(f"{name}-X, X in {unit}, at most {most:g}" for name, (most, unit) in NOISES.items())
        raise ValueError(f"a condition is one of {known}; got {condition!r}")
    return kind, value


@dataclass(frozen=True)
class RobustConfig(ProbeConfig):
    """Robustness."""

    conditions: tuple[str, ...] = option(
        CONDITIONS,
        "noise on the recorded test clips: jitter-CM, missing-PERCENT of the joints, dropped-PERCENT of the frames, "
        "yaw-DEGREES either way",
    )
    out: Path = option(Path("asma-robust.json"), "the record; logits beside it as .npz, curves as .png")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.conditions or len(set(self.conditions)) != len(self.conditions):
            raise ValueError(f"conditions must be named, each once; got {','.join(self.conditions) or 'none'}")
        for condition in self.conditions:
            noise_of(condition)


@dataclass(frozen=True)
class RetrieveConfig(FeaturesConfig):
    """Retrieval."""

    ranks: tuple[int, ...] = option((1, 5), "recall among so many nearest training clips")
    out: Path = option(Path("asma-retrieve.json"), "the record; similarities by class beside it, as .npz")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ranks or min(self.ranks) < 1:
            raise ValueError(f"ranks must be at least 1, got {', '.join(map(str, self.ranks)) or 'none'}")


@dataclass(frozen=True)
class ExtractConfig(FeaturesConfig):
    """Extraction."""

    part: Part = option("all", "clips to take: all of the store, or a part of its split")
    tokens: Literal["none", "joint", "frame"] = option(
        "none", "also each encoder's tokens: one a joint, or one a frame that the strides leave"
    )
    out: Path = option(Path("asma-features.npz"), "the file to write")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.out.suffix != ".npz":
            raise ValueError(f"out must end in .npz, got {self.out}")
        if self.tokens != "none" and self.features == "raw":
            raise ValueError("tokens are an encoder's: raw coordinates have none")


@dataclass(frozen=True)
class PredictConfig(DataConfig):
    """Prediction."""

    path: Path | None = option(None, "a prepared store, or a raw file (with --dataset)", positional=True)
    checkpoint: Path | None = option(None, "checkpoint with a head: of finetune, semi, transfer, align or distill")
    dataset: str | None = option(None, "data set of a raw file, named as for prepare")
    part: Part = option("all", "clips of a store: all, or a part of its split")
    top: int = option(3, "classes to tell of each clip")
    format: Literal["table", "json"] = option("table", "lines for people, or one JSON object a line")
    batch: int = option(128, "clips a batch")
    out: Path | None = option(None, "file to write the lines to; by default they are printed")

    def __post_init__(self) -> None:
        super().__post_init__()
        _within(self, 1, float("inf"), "top", "batch")


@dataclass(frozen=True)
class FuseConfig:
    """Fusion."""

    records: tuple[Path, ...] = option((), "records with logits of the same test clips", positional=True)
    weights: str = option(
        "published",
        "published: by stream, joint 0.6, motion 0.4, bone 0.6; equal; fitted, on held-out training scores; or numbers "
        "with commas between, in the order of the records",
    )
    name: str = option("", "label of the row in tables; by default the streams")
    out: Path = option(Path("asma-fuse.json"), "the record; fused logits beside it, as .npz")

    def __post_init__(self) -> None:
        if len(self.records) < 2:
            raise ValueError(f"fusion takes two records or more, got {len(self.records)}")
        if self.out in self.records:
            raise ValueError(f"out must be another file than the records that are fused, got {self.out}")
        if self.weights not in ("published", "equal", "fitted"):
            self.numbers()

    def numbers(self) -> list[float]:
        """Weights given as numbers.

        Raises
        ------
        ValueError
            If they are no numbers, are negative or all 0, or are not as many as the records.
        """
        try:
            found = [float(word) for word in self.weights.split(",")]
        except ValueError:
            found = []
        if len(found) != len(self.records) or not all(0 <= one < float("inf") for one in found) or not sum(found):
            raise ValueError(
                f"weights must be published, equal, fitted, or {len(self.records)} numbers of at least 0; "
                f"got {self.weights!r}"
            )
        return found


@dataclass(frozen=True)
class TableConfig:
    """Table."""

    records: tuple[Path, ...] = option((), "records to compare; several seeds of one row are joined", positional=True)
    baseline: tuple[Path, ...] = option((), "record that the others are compared with; several: its seeds")
    resamples: int = option(10_000, "of the paired bootstrap")
    seed: int = option(0, "of the bootstrap")
    out: Path | None = option(None, "file to write the table to; by default it is printed")

    def __post_init__(self) -> None:
        _within(self, 100, float("inf"), "resamples")
        _within(self, 0, 2**62, "seed")
        if not self.records:
            raise ValueError("name one record or more")
