"""The verbs ``export`` and ``classify``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from asma_fast.data import Preprocessing, fill_missing, read_clip
from asma_fast.data.layout_maps import layout_map
from asma_fast.edge import Prediction, Session, export, export_onnx
from asma_fast.edge.configs import ClassifyConfig, ExportConfig
from asma_fast.skeleton import Skeleton

if TYPE_CHECKING:
    import torch

    from asma_fast.training.dataset import Clips


def export_checkpoint(config: ExportConfig) -> Path:
    """Writes the classifier of a checkpoint as a model file, with its preprocessing and the names of its classes; where
    ``out`` ends in ``.onnx`` as an ONNX file, without preprocessing.

    Raises
    ------
    ValueError
        If none is named, it reads a stream that is not made of a recording by preprocessing alone, or the store for
        calibration does not fit it.
    CheckpointError
        If the file is damaged, or holds no classifier.
    TypeError
        If it is over two encoders, which ONNX alone can tell of.
    """
    from asma_fast.nn import Classifier
    from asma_fast.training.checkpoint import CheckpointError
    from asma_fast.training.models import load_model

    if config.checkpoint is None:
        raise ValueError("name a checkpoint; `asma-fast distill` trains one")
    model, record = load_model(config.checkpoint)
    if not isinstance(model, Classifier):
        raise CheckpointError(f"{config.checkpoint}: has no head to name classes; `asma-fast distill` trains one")
    if config.out.suffix == ".onnx":
        if config.rate is not None:
            raise ValueError(f"rate is for streams of the engine, which an ONNX file has none of; got {config.rate}")
        if config.precision != "fp32":
            raise ValueError(f"an ONNX file is fp32: its runtime's own tools make {config.precision} of it")
        return export_onnx(model, config.out, class_names=record["classes"])
    stream = record.get("stream", "joint")
    if stream != "joint":
        raise ValueError(
            f"{config.checkpoint}: reads the stream {stream!r}; a model file makes joints alone of a recording: "
            "asma_fast.edge.export writes one without preprocessing"
        )
    return export(
        model,
        config.out,
        preprocessing=Preprocessing.from_dict(record["preprocessing"]),
        bodies=record["bodies"],
        class_names=record["classes"],
        precision=config.precision,
        calibration=None if config.calibration is None else _calibration_clips(config.calibration, config, record),
        rate=record.get("rate") if config.rate is None else config.rate,
    )


def _calibration_clips(store: Path, config: ExportConfig, record: dict[str, Any]) -> torch.Tensor:
    """Some of the store's training clips, prepared, or drawn out of recordings, as the network's were."""
    import torch

    from asma_fast.edge.quantise import MOST_BODIES
    from asma_fast.training.configs_measure import PredictConfig
    from asma_fast.training.models import check_fits
    from asma_fast.training.parts import any_clips
    from asma_fast.training.recordings import windows_again

    assert config.checkpoint is not None
    if record.get("kind") == "online":
        clips: Clips = windows_again(record, store)
    else:
        _, _, clips = any_clips(PredictConfig(data=store), [record], "train", config.checkpoint)
    check_fits(config.checkpoint, record, clips)
    return clips.batch(torch.linspace(0, len(clips) - 1, min(len(clips), MOST_BODIES)).round().long()).x


@dataclass(frozen=True)
class Classified:
    """What a network says of one recording; prints as a line.

    Parameters
    ----------
    name
        Of the recording.
    predictions
        The likeliest classes, best first.
    """

    name: str
    predictions: tuple[Prediction, ...]

    def json_line(self) -> str:
        """One JSON object."""
        told = [{"class": one.name, "probability": round(one.probability, 6)} for one in self.predictions]
        return json.dumps({"name": self.name, "predicted": told}, ensure_ascii=False)

    def __str__(self) -> str:
        return f"{self.name}: " + ", ".join(f"{one.name} {100 * one.probability:.1f} %" for one in self.predictions)


def classify(config: ClassifyConfig) -> Classified:
    """Names the class of one raw recording by a model file; needs NumPy alone.

    Missing joints are filled in as ``asma-fast prepare`` does, and joints mapped to the model's layout.

    Raises
    ------
    ValueError
        If no recording is named, it cannot be mapped to the model's layout, or it has no frame that can be used;
        ``FormatError`` if it is damaged, ``EdgeError`` if the model file is.
    """
    if config.path is None:
        raise ValueError("name the raw file of a recording")
    clip = read_clip(config.path, config.dataset or "ntu")
    source = Skeleton.named(clip.skeleton)
    clip = fill_missing(clip, source)
    frames: NDArray[np.float32] = clip.frames
    session = Session(config.model, threads=config.threads, max_bodies=frames.shape[0], max_frames=frames.shape[1])
    if session.skeleton != source:
        frames = layout_map(source, session.skeleton)(frames)
    return Classified(clip.name or config.path.stem, tuple(session.classify(frames, config.top or 5)))
