"""What distillation can be told, as a typed config. Needs nothing but the standard library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from asma_fast.config import option
from asma_fast.training.configs import AugmentConfig, DataConfig, EncoderConfig, TrainingConfig, _within


@dataclass(frozen=True)
class DistillConfig(TrainingConfig, EncoderConfig, AugmentConfig, DataConfig):
    """Distillation; the encoder is the student's, the stream the one that it reads."""

    channels: tuple[int, ...] = option((8, 8, 8, 16, 16, 32, 32, 48), "channels of each block")
    strides: tuple[int, ...] = option((1, 1, 1, 2, 1, 2, 1, 1), "stride in time of each block")
    dropout: float = option(0.0, "dropout of each block but the first")
    weight_decay: float = option(0.0, "weight decay")
    warmup: float = option(0.0, "epochs of warm-up from 0; below 1, a share of the run")
    out: Path = option(Path("asma-distill"), "folder for checkpoint, metrics and record; a run there is resumed")
    teacher: tuple[Path, ...] = option((), "checkpoint of finetune, align, ...; or one of each stream")
    weights: tuple[float, ...] = option(
        (), "weight of each teacher's logits; by default 1, of several 0.6 joint, 0.4 motion, 0.6 bone"
    )
    views: int = option(8, "augmented view sets, one an epoch in turn, of teacher and student; 0: clips as they are")
    temperature: float = option(1.0, "of both softmaxes")
    alpha: float = option(0.5, "weight of the teacher's word, the rest the labels'; 1: label-free")
    beta: float = option(0.0, "weight of matching the teacher's features through a linear map; 0: none")
    name: str = option("", "label of the row in tables; by default the student and its teacher")

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        EncoderConfig.__post_init__(self)
        AugmentConfig.__post_init__(self)
        DataConfig.__post_init__(self)
        _within(self, 0, 1, "alpha")
        _within(self, 0, float("inf"), "views", "beta")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if self.weights and len(self.weights) != len(self.teacher):
            raise ValueError(
                f"weights must be as many as the teachers, got {len(self.weights)} for {len(self.teacher)}"
            )
        if len(set(self.teacher)) < len(self.teacher):
            raise ValueError(f"each teacher must be named once, got {', '.join(map(str, self.teacher))}")

    @property
    def label_free(self) -> bool:
        """Whether labels are not needed."""
        return self.alpha == 1
