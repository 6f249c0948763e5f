"""What the edge verbs can be told, as typed configs. Needs nothing but the standard library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from asma_fast.config import option


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
    dataset: str = option("ntu", "data set whose files are like it, named as for prepare")
    model: Path = option(Path("model.safetensors"), "model file, written by export")
    top: int = option(5, "classes to tell")
    format: Literal["table", "json"] = option("table", "lines for people, or one JSON object")
    threads: int = option(1, "threads that share the work")
    follow: bool = option(
        False, 'read frames from standard input, a JSON object a line: {"joints": (M, V, C), "time": …, "ids": […]}'
    )
    source: str | None = option(None, "follow: layout of the frames; by default the model's")
    seconds: float = option(2.0, "follow: of the window that is classified")
    hop: int = option(5, "follow: frames from one answer to the next")

    def __post_init__(self) -> None:
        for name in ("top", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.follow and self.path is not None:
            raise ValueError(f"follow reads standard input, and no recording; got {self.path}")
