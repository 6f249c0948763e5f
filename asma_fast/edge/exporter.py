"""From a trained classifier to a model file. Needs torch; csrc/edge/model.hpp tells the file's layout."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from asma_fast._files import replacing
from asma_fast.data import Preprocessing
from asma_fast.data.tensor_file import header
from asma_fast.edge._description import FORMAT, KEY
from asma_fast.edge.quantise import calibration_clips, quantised
from asma_fast.nn import STGCN, AlignedEncoders, Classifier, FeatureAlignment, TemporalConv
from asma_fast.nn._batch_norm import has_no_hooks
from asma_fast.nn.block import STGCNBlock
from asma_fast.nn.input_norm import InputNorm
from asma_fast.ops._contract import check_count
from asma_fast.ops.temporal_conv import sizes_of
from asma_fast.skeleton import Skeleton

MOST_BODIES = 64
RATES = (0.01, 1e6)

Tensors = dict[str, NDArray[Any]]
Wide = NDArray[np.float64]


def write_model(
    model: Any,
    path: Path,
    preprocessing: Preprocessing | None,
    bodies: int,
    class_names: Sequence[str] | None,
    precision: str = "fp32",
    calibration: Any = None,
    rate: float | None = None,
) -> Path:
    """See :func:`asma_fast.edge.export`."""
    if precision not in ("fp32", "int8"):
        raise ValueError(f"precision must be 'fp32' or 'int8', got {precision!r}")
    if (calibration is not None) != (precision == "int8"):
        wanted = "needs" if precision == "int8" else "takes no"
        raise ValueError(f"precision {precision!r} {wanted} calibration clips")
    if type(model) is not Classifier or type(model.encoder) is not STGCN:
        inside = f" over {type(model.encoder).__name__}" if isinstance(model, Classifier) else ""
        raise TypeError(
            f"model must be a Classifier over one STGCN, got {type(model).__name__}{inside}; "
            "distil a teacher of two encoders into one that is"
        )
    check_layers(model)
    check_count("bodies", bodies, 0, MOST_BODIES)
    if rate is not None and not RATES[0] <= rate <= RATES[1]:
        raise ValueError(f"rate must be from {RATES[0]:g} to {RATES[1]:g} frames a second, got {rate}")
    if path.suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors, got {path.name}")
    names = names_of(model, class_names)
    encoder = model.encoder
    network, tensors = fold(encoder)
    _add(tensors, "head.weight", _wide(model.head.weight))
    _add(tensors, "head.bias", _wide(model.head.bias))
    if precision == "int8":
        tensors = quantised(tensors, network, calibration_clips(calibration, network))
    description = {
        "format": FORMAT,
        "precision": precision,
        "classes": names,
        "skeleton": asdict(encoder.skeleton),
        "preprocessing": None if preprocessing is None else _recipe(preprocessing, bodies, encoder.skeleton),
        "network": network,
    }
    if rate is not None:
        description["rate"] = float(rate)
    _write(path, tensors, {KEY: json.dumps(description)})
    return path


def fold(encoder: STGCN) -> tuple[dict[str, Any], Tensors]:
    """An encoder as a model file tells of it, batch-norms in the weights before them: its shape, and its tensors."""
    tensors: Tensors = {}
    network = {
        "joints": len(encoder.skeleton),
        "coordinates": encoder.in_channels,
        "bodies": encoder.bodies,
        "blocks": [_block(block, f"blocks.{index}", tensors) for index, block in enumerate(encoder.blocks)],
    }
    scale, shift = _affine(encoder.input_norm)
    _add(tensors, "input.scale", scale)
    _add(tensors, "input.shift", shift)
    return network, tensors


def names_of(model: Classifier, class_names: Sequence[str] | None) -> list[str]:
    """The names of its classes: those given, or numbers."""
    names = [str(index) for index in range(model.head.out_features)] if class_names is None else list(class_names)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"class_names must be strings, got {', '.join(sorted({type(name).__name__ for name in names}))}"
        )
    if len(names) != model.head.out_features:
        raise ValueError(f"class_names must be as many as the classes, {model.head.out_features}, got {len(names)}")
    return names


def check_layers(model: Classifier) -> None:
    """Every layer is what the classes made of it: a file tells of nothing else."""
    encoder = model.encoder
    kinds: dict[str, tuple[nn.Module, type[nn.Module]]] = {
        "the model": (model, Classifier),
        "head": (model.head, nn.Linear),
    }
    parts: dict[str, Any] = {"": encoder}
    if isinstance(encoder, AlignedEncoders):
        kinds["the encoder"] = (encoder, AlignedEncoders)
        kinds["alignment"] = (encoder.alignment, FeatureAlignment)
        parts = {"first.": encoder.first, "second.": encoder.second}
    for name, part in parts.items():
        kinds[f"{name}encoder" if name else "the encoder"] = (part, STGCN)
        kinds[f"{name}input_norm"] = (part.input_norm, InputNorm)
        kinds.update({f"{name}blocks.{index}": (block, STGCNBlock) for index, block in enumerate(part.blocks)})
    for name, (module, kind) in kinds.items():
        fits = type(module) is kind and has_no_hooks(module)
        if not fits or (isinstance(module, STGCNBlock) and not module._fuses()):
            raise ValueError(f"the model's layers must be those of nn.STGCN; {name} was replaced, or carries a hook")
    if model.head.bias is None:
        raise ValueError("the model's head must have a bias, got none")


def _wide(tensor: Tensor) -> Wide:
    found: Wide = tensor.detach().cpu().double().numpy()
    return found


def _add(tensors: Tensors, name: str, numbers: Wide) -> None:
    if not np.isfinite(numbers).all():
        raise ValueError(f"the model must be finite; {name} is not")
    tensors[name] = np.ascontiguousarray(numbers, dtype=np.float32)


def _affine(norm: nn.Module) -> tuple[Wide, Wide]:
    """A batch-norm of running statistics, as scale and shift."""
    assert isinstance(norm, (nn.BatchNorm2d, InputNorm))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = _wide(norm.weight) / np.sqrt(_wide(norm.running_var) + norm.eps)
    return scale, _wide(norm.bias) - _wide(norm.running_mean) * scale


def _block(module: nn.Module, name: str, tensors: Tensors) -> dict[str, Any]:
    assert isinstance(module, STGCNBlock)
    block, graph = module, module.graph_conv
    scale, shift = _affine(block.norm1)
    adjacency = _wide(graph.adjacency * graph.edge_importance)
    bias = np.broadcast_to(shift, (adjacency.shape[1], len(shift)))
    if graph.bias is not None:
        bias = bias + adjacency.sum(axis=1).T @ _wide(graph.bias) * scale
    _add(tensors, f"{name}.adjacency", adjacency)
    _add(tensors, f"{name}.graph.weight", _wide(graph.weight) * scale[:, None])
    _add(tensors, f"{name}.graph.bias", bias)
    told: dict[str, Any] = {"parts": int(adjacency.shape[0]), "channels": int(graph.out_channels)}
    if block.pointwise is None or block.between is None:
        told["conv"] = _conv(block.temporal_conv, block.norm2, f"{name}.conv", tensors)
    else:
        told["conv"] = _conv(block.temporal_conv, block.between, f"{name}.conv", tensors)
        told["pointwise"] = _conv(block.pointwise, block.norm2, f"{name}.pointwise", tensors)
    if isinstance(block.residual, nn.Sequential):
        told["residual"] = "convolution"
        conv, norm = block.residual
        told["shortcut"] = _conv(conv, norm, f"{name}.residual", tensors)
    else:
        told["residual"] = "none" if block.residual is None else "identity"
    return told


def _conv(conv: nn.Module, norm: nn.Module, name: str, tensors: Tensors) -> dict[str, int]:
    assert isinstance(conv, TemporalConv)
    stride, left, right, dilation, groups = sizes_of(conv.weight, conv.stride, conv.padding, conv.dilation, conv.groups)
    taps = conv.weight.shape[2]
    if dilation != 1 or left + right != taps - 1:
        raise ValueError(
            f"a temporal convolution must have dilation 1 and taps - 1 frames of padding to be exported, "
            f"got dilation {dilation} and {left} + {right} frames for {taps} taps in {name}"
        )
    scale, shift = _affine(norm)
    _add(tensors, f"{name}.weight", _wide(conv.weight) * scale[:, None, None])
    _add(tensors, f"{name}.bias", shift if conv.bias is None else shift + _wide(conv.bias) * scale)
    told = {"taps": taps, "stride": stride, "left": left, "right": right, "groups": groups}
    return {key: int(value) for key, value in told.items()}


def _recipe(recipe: Preprocessing, bodies: int, skeleton: Skeleton) -> dict[str, Any]:
    if "image" in (recipe.centre, recipe.scale):
        raise ValueError("preprocessing by the image's size cannot be exported: a recording does not tell it")
    return {
        **recipe.to_dict(),
        "frames": recipe.frames or 0,
        "bodies": bodies,
        "dims": skeleton.dimensions,
        "up_axis": "xyz".index(skeleton.up[1]),
        **{name: list(joints) for name, joints in recipe.joints_of(skeleton).items()},
    }


def _write(path: Path, tensors: Tensors, metadata: Mapping[str, str]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        ordered = sorted(tensors.items(), key=lambda one: -one[1].itemsize)  # so that each lies on its own boundary
        file.write(header({name: (array.dtype, array.shape) for name, array in ordered}, metadata))
        for _, array in ordered:
            file.write(array.tobytes())
