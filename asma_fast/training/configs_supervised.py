"""What training with labels can be told, as typed configs. Needs nothing but the standard library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from asma_fast.config import option
from asma_fast.training.configs import AugmentConfig, DataConfig, TrainingConfig, _within


@dataclass(frozen=True)
class LabelledConfig(TrainingConfig, AugmentConfig, DataConfig):
    """Training with labels."""

    weight_decay: float = option(0.0, "weight decay")
    warmup: float = option(0.0, "epochs of warm-up from 0; below 1, a share of the run")
    augment: Literal["train", "none"] = option("train", "train on augmented views, or on the clips as they are")
    label_smoothing: float = option(0.0, "share of a label that is spread over all classes")
    name: str = option("", "label of the row in tables; by default the verb and the encoder")

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        AugmentConfig.__post_init__(self)
        DataConfig.__post_init__(self)
        _within(self, 0, 0.999, "label_smoothing")


@dataclass(frozen=True)
class SupervisedConfig(LabelledConfig):
    """Training of an encoder that there is."""

    dropout: float | None = option(None, "dropout of the encoder's blocks but the first; by default as in pretraining")
    freeze: Literal["none", "encoder"] = option("none", "train all parameters, or the head alone")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dropout is not None:
            _within(self, 0, 0.999, "dropout")


@dataclass(frozen=True)
class FinetuneConfig(SupervisedConfig):
    """Fine-tuning."""

    out: Path = option(Path("asma-finetune"), "folder for checkpoints, metrics and records; a run there is resumed")
    run: Path = option(Path("asma-run"), "folder of the pretraining run, or of an alignment")
    encoders: tuple[str, ...] = option((), "encoders of the run, each fine-tuned alone; by default all")
    align: Path | None = option(None, "checkpoint of `asma-fast align`: fine-tune both encoders under their alignment")
    from_: Literal["run", "scratch"] = option(
        "run", "start from the run's weights, or train the same network from untrained ones"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.align is not None and self.encoders:
            raise ValueError("align brings its own encoders: leave out --encoders, or --align")


@dataclass(frozen=True)
class FewLabels(FinetuneConfig):
    """Few labels."""

    fractions: tuple[float, ...] = option((), "shares of each class's training clips, at least one clip each")
    shots: tuple[int, ...] = option((), "also so many training clips of each class")
    draws: int = option(5, "draws of the labelled clips; any method sees the same for the same seed")

    def __post_init__(self) -> None:
        super().__post_init__()
        _within(self, 1, float("inf"), "draws")
        if any(not 0 < fraction <= 1 for fraction in self.fractions):
            raise ValueError(f"fractions must be above 0 and at most 1, got {', '.join(map(str, self.fractions))}")
        if any(shots < 1 for shots in self.shots):
            raise ValueError(f"shots must be at least 1, got {', '.join(map(str, self.shots))}")


@dataclass(frozen=True)
class SemiConfig(FewLabels):
    """Semi-supervised."""

    out: Path = option(Path("asma-semi"), "folder for checkpoints, metrics and records; a run there is resumed")
    fractions: tuple[float, ...] = option((0.01, 0.1), "shares of each class's training clips, at least one clip each")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.fractions and not self.shots:
            raise ValueError("name fractions or shots, one or more")


@dataclass(frozen=True)
class TransferConfig(FewLabels):
    """Transfer; without fractions and shots, all labels are used."""

    out: Path = option(Path("asma-transfer"), "folder for checkpoints, metrics and records; a run there is resumed")


@dataclass(frozen=True)
class AlignConfig(SupervisedConfig):
    """Alignment."""

    out: Path = option(Path("asma-align"), "folder for checkpoint, metrics and record; a run there is resumed")
    optimiser: Literal["adam", "adamw"] = option("adamw", "Adam with L2 in the gradient, or AdamW")
    lr: float = option(1e-2, "learning rate after warm-up")
    weight_decay: float = option(1.0, "weight decay")
    run: Path = option(Path("asma-run"), "folder of the pretraining run")
    encoders: tuple[str, ...] = option(
        ("hl", "lh"), "two encoders of the run; or checkpoints, of other runs too, such as a/hl.safetensors"
    )
    mode: Literal["weighted", "attention", "first-to-second", "second-to-first", "concat", "mean"] = option(
        "weighted",
        "how they are joined: averages with learnt weights of joints, also after attention both ways or one; "
        "concatenated, or the mean of both, projected",
    )
    tokens: Literal["joint", "frame"] = option("joint", "what is joined: joints, or frames, which have no weights")
    pools: int = option(4, "weighted averages of each encoder's joints")
    width: int = option(256, "of the attention over all heads, or of the mean")
    heads: int = option(4, "heads of the attention; they divide the width")
    attention_dropout: float = option(0.0, "dropout of what attention adds to a token")
    freeze: Literal["none", "encoder"] = option("encoder", "train alignment and head alone, or all parameters (none)")
    augment: Literal["train", "none"] = option(
        "none", "train on augmented views, or on the clips as they are: frozen encoders then read each only once"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.encoders) != 2:
            raise ValueError(
                f"encoders must be two to be aligned, got {','.join(self.encoders) or 'none'}; one alone is fine-tuned"
            )
        if self.weight_decay > 0.1 and (self.freeze == "none" or self.optimiser == "adam"):
            raise ValueError(
                f"weight_decay {self.weight_decay:g} is for a module over frozen encoders by adamw: with freeze=none, "
                "or optimiser=adam, name one of at most 0.1, and a rate that suits (1e-3, say)"
            )
        _within(self, 1, float("inf"), "width", "heads", "pools")
        _within(self, 0, 0.999, "attention_dropout")

    @property
    def alignment(self) -> dict[str, Any]:
        """Options of the module."""
        names = {"pools": "pools", "width": "width", "heads": "heads", "mode": "mode", "dropout": "attention_dropout"}
        return {name: getattr(self, option) for name, option in names.items()}
