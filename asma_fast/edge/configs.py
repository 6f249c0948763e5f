"""What the edge verbs can be told, as typed configs. Needs nothing but the standard library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from asma_fast.config import option

OF_RECORDING = ("dataset", "top", "format")  # of classify
OF_STREAM = ("source", "mode", "seconds", "hop", "pool", "spread", "rate")


@dataclass(frozen=True)
class ExportConfig:
    """Export."""

    checkpoint: Path | None = option(
        None,
        "checkpoint of distill, online, finetune, semi or transfer; of two encoders to ONNX alone",
        positional=True,
    )
    out: Path = option(Path("model.safetensors"), "model file to write; *.onnx: for other runtimes")
    rate: float | None = option(
        None, "frames a second of the training clips, for streams that run frame by frame; by default `online`'s own"
    )
    precision: Literal["fp32", "int8"] = option(
        "fp32", "int8: a smaller file, and faster where the CPU multiplies bytes; see --calibration"
    )
    calibration: Path | None = option(
        None, "int8: a prepared store, such as the one trained on; ranges are chosen on clips of its training part"
    )

    def __post_init__(self) -> None:
        if (self.calibration is not None) != (self.precision == "int8"):
            raise ValueError(
                "precision int8 needs a store for calibration"
                if self.precision == "int8"
                else f"calibration is for precision int8, got {self.precision}"
            )


@dataclass(frozen=True)
class ClassifyConfig:
    """Classification of one recording, or of a live stream."""

    path: Path | None = option(None, "raw file of one recording", positional=True)
    dataset: str | None = option(None, "data set whose files are like it, named as for prepare; by default ntu")
    model: Path = option(Path("model.safetensors"), "model file, written by export")
    top: int | None = option(None, "classes to tell; by default 5")
    format: Literal["table", "json"] | None = option(
        None, "table: a line for people, the default; json: one JSON object"
    )
    threads: int = option(1, "threads that share the work")
    follow: bool = option(
        False, 'read frames from standard input, a JSON object a line: {"joints": (M, V, C), "time": …, "ids": […]}'
    )
    source: str | None = option(None, "follow: layout of the frames; by default the model's")
    mode: Literal["window", "continual"] | None = option(
        None, "follow: window, the default: the last seconds as one clip; continual: a causal network, frame by frame"
    )
    seconds: float | None = option(None, "follow, window: of the window that is classified; by default 2")
    hop: int | None = option(None, "follow, window: frames from one answer to the next; by default 5")
    pool: int | None = option(None, "follow, continual: outputs that are averaged; by default a training clip's")
    spread: bool = option(False, "follow, continual: about the same work every frame, for answers somewhat later")
    rate: float | None = option(None, "follow: frames a second, where they have no times; by default the model's")

    def __post_init__(self) -> None:
        for name in ("top", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.follow and self.path is not None:
            raise ValueError(f"follow reads standard input, and no recording; got {self.path}")
        for name in OF_RECORDING if self.follow else OF_STREAM:
            value = getattr(self, name)
            if value is not None and value is not False:
                other = "a recording, not for follow" if self.follow else "follow, not for a recording"
                raise ValueError(f"{name} is for {other}; got {value}")
