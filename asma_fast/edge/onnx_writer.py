"""From a trained classifier to an ONNX file. Needs torch, onnx and onnxscript."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from asma_fast._files import replacing
from asma_fast.edge._description import FORMAT, KEY
from asma_fast.edge.exporter import names_of
from asma_fast.edge.plain_network import PlainClassifier
from asma_fast.nn import AlignedEncoders

OPSET = 18
INPUT, OUTPUT = "clips", "logits"


def write_onnx(model: Any, path: Path, class_names: Sequence[str] | None) -> Path:
    """See :func:`asma_fast.edge.export_onnx`."""
    plain = PlainClassifier(model)
    if path.suffix != ".onnx":
        raise ValueError(f"path must end in .onnx, got {path.name}")
    names = names_of(model, class_names)
    encoder = model.encoder.first if isinstance(model.encoder, AlignedEncoders) else model.encoder
    sizes = {"joints": len(encoder.skeleton), "coordinates": encoder.in_channels}
    clips = torch.zeros(2, encoder.in_channels, 8, sizes["joints"], 2)
    dynamic = {axis: torch.export.Dim(name) for axis, name in ((0, "clips"), (2, "frames"), (4, "bodies"))}
    with _quiet():
        program = torch.onnx.export(
            plain.cpu().float(),
            (clips,),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={INPUT: dynamic},
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    file = program.model_proto
    description = {"format": FORMAT, "classes": names, "skeleton": asdict(encoder.skeleton), "network": sizes}
    file.metadata_props.add(key=KEY, value=json.dumps(description))
    with replacing(path) as temporary:
        temporary.write_bytes(file.SerializeToString())
    return path


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter says of packages that nothing here needs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
