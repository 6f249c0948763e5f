"""What training for streams can be told, as a typed config. Needs nothing but the standard library."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

from asma_fast.config import option
from asma_fast.training.configs import EncoderConfig, _within
from asma_fast.training.configs_supervised import LabelledConfig

Before = Literal["real", "held", "other", "cold"]
CONTEXT = 150  # frames, of a causal network: about the receptive field of the encoder by default


@dataclass(frozen=True)
class OnlineConfig(LabelledConfig, EncoderConfig):
    """Training for streams; the encoder is the one that they run.

    Defaults are ours; those of window, learning rate and shear were chosen on an inner split of PRECOG
    (``benchmarks/accuracy/ONLINE.md``).
    """

    causal: bool = option(
        True, "for continual streams: temporal convolutions read no later frames; else for streams of windows"
    )
    channels: tuple[int, ...] = option((8, 8, 8, 16, 16, 32, 32, 48), "channels of each block")
    strides: tuple[int, ...] = option((1, 1, 1, 2, 1, 2, 1, 1), "stride in time of each block")
    dropout: float = option(0.0, "dropout of each block but the first")
    out: Path = option(Path("asma-online"), "folder for checkpoint, metrics and record; a run there is resumed")
    rate: float = option(
        30.0, "frames a second that the network reads; recordings that tell of no rate are taken to be at it"
    )
    window: int = option(24, "frames that an answer is about")
    context: int | None = option(
        None, f"causal: the most frames before the window, drawn for each batch; by default {CONTEXT}"
    )
    before: tuple[Before, ...] = option(
        ("real", "held", "other", "cold"),
        "what comes before a window, each as often as it is named: the recording's own frames; its first pose, held; "
        "the end of another recording; nothing, for a whole batch",
    )
    background: str = option(
        "none", "class that is no action: the store's of that name; also that of frames without a label"
    )
    teacher: tuple[Path, ...] = option(
        (), "checkpoints that name the same classes by clips of as many frames: what they say of the window is learnt"
    )
    temperature: float = option(4.0, "of both softmaxes, with a teacher")
    alpha: float = option(0.7, "weight of the teacher's word, the rest the labels'")
    hop: int = option(5, "streams of windows, when measured: frames from one answer to the next")
    crop: Literal["pad", "resize", "none"] = option("none", "none: what is read is cut out of recordings by its time")
    shear: float = option(0.1, "off-diagonals of the shear are U(-x, x)")
    rotation: Literal["axis", "vertical", "none"] = option(
        "vertical", "axis: one random main axis; vertical: about the axis that points up, either way"
    )
    rotation_other: float = option(5.0, "largest angle about the others, degrees")
    optimiser: Literal["adam", "adamw"] = option("adamw", "Adam with L2 in the gradient, or AdamW")
    lr: float = option(1e-2, "learning rate after warm-up")
    weight_decay: float = option(1e-4, "weight decay")
    warmup: float = option(0.05, "epochs of warm-up from 0; below 1, a share of the run")
    schedule: Literal["epoch", "step"] = option("step", "change the learning rate each epoch or each step")
    epochs: int = option(100, "passes over the recordings, with a draw for each window that they are long")
    batch: int = option(32, "draws a step, over all devices")

    def __post_init__(self) -> None:
        LabelledConfig.__post_init__(self)
        EncoderConfig.__post_init__(self)
        _within(self, 0.01, 1e6, "rate")
        _within(self, 1, 100_000, "window")
        _within(self, 1, 1_000_000, "hop")
        _within(self, 0, 1, "alpha")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if self.context is not None:
            _within(self, 0, 100_000, "context")
            if self.context and not self.causal:
                raise ValueError(
                    f"context is what a causal network remembers; got context={self.context} and no-causal"
                )
        if not self.before:
            raise ValueError("before must name what comes before a window: real, held, other, cold; got nothing")
        if self.window < self.period:
            raise ValueError(
                f"window must be at least the {self.period} frames that one output of the last block stands for (the "
                f"product of the strides), got {self.window}"
            )
        if self.frames not in (0, self.window):
            raise ValueError(f"frames of a clip are those of the window, {self.window}; got frames={self.frames}")
        if self.stream != "joint":
            raise ValueError(f"streams read joints alone; got stream={self.stream}")
        if self.crop != "none":
            raise ValueError(f"crop must be none: what is read is cut out of recordings by its time; got {self.crop}")
        if len(set(self.teacher)) < len(self.teacher):
            raise ValueError(f"each teacher must be named once, got {', '.join(map(str, self.teacher))}")

    @property
    def period(self) -> int:
        """Frames that one output of the last block stands for."""
        return prod(self.strides)

    @property
    def outputs(self) -> int:
        """Outputs of the last block that an answer averages: as a continual stream's ``pool=None`` has it."""
        return (self.window - 1) // self.period + 1

    @property
    def longest(self) -> int:
        """The most frames before the window."""
        return 0 if not self.causal else CONTEXT if self.context is None else self.context

    @property
    def mode(self) -> Literal["window", "continual"]:
        """Of the streams that run the network."""
        return "continual" if self.causal else "window"

    def streamed(self, trimmed: bool) -> dict[str, Any]:
        """Settings of the streams that the network is measured by, the others being those by default.

        Of windows: as long as in training, every ``hop`` frames; ``trimmed`` clips may be shorter, and are answered
        before.
        """
        if self.causal:
            return {}
        settings: dict[str, Any] = {"seconds": self.window / self.rate, "hop": self.hop}
        return {**settings, "least_seconds": 0.0} if trimmed else settings
