"""Checkpoints: one safetensors file each, its record as JSON in the header, a digest over both, written atomically."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from asma_fast._files import replacing

_KEY = "asma_fast.checkpoint"
VERSION = 1


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, has been altered, or belongs to another network or run."""


def write_text(path: Path, text: str) -> None:
    """Writes a small text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_checkpoint(path: Path, tensors: Mapping[str, torch.Tensor], record: Mapping[str, Any]) -> None:
    """Writes tensors and a JSON record as one file.

    Raises
    ------
    CheckpointError
        If a tensor holds a number that is not finite.
    OSError
        If it cannot be written; a checkpoint that was there before still is.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    dense = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    for name, tensor in dense.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: not written, for {name} is not finite")
    header = {"version": VERSION, "record": dict(record), "digest": _digest(dense, record)}
    with replacing(path) as temporary:
        try:
            save_file(dense, temporary, metadata={_KEY: json.dumps(header)})
        except SafetensorError as error:
            raise OSError(f"{path}: cannot be written: {error}") from error


def load_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and record of a checkpoint, all or nothing.

    Raises
    ------
    CheckpointError
        If the file is missing, truncated, of another format, or was altered since it was written.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(_KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: truncated, or not a safetensors file: {error}") from error
    if not isinstance(header, dict) or not {"version", "record", "digest"} <= header.keys():
        raise CheckpointError(f"{path}: holds tensors, but is no checkpoint of asma_fast")
    if header["version"] != VERSION:
        raise CheckpointError(f"{path}: format version {header['version']!r}, this release reads {VERSION}")
    if header["digest"] != _digest(tensors, header["record"]):
        raise CheckpointError(f"{path}: altered since it was written: the digest does not match")
    return tensors, header["record"]


def restore(path: Path, module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], prefix: str) -> None:
    """Loads the tensors under ``prefix`` into a module, once all of them are known to fit.

    Raises
    ------
    CheckpointError
        Naming what is missing, unknown, or of another shape.
    """
    given = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    wanted = module.state_dict()
    for fault, names in (("lacks", wanted.keys() - given.keys()), ("has the unknown", given.keys() - wanted.keys())):
        if names:
            raise CheckpointError(f"{path}: is of another network: {fault} {prefix}{min(names)}")
    for name, tensor in given.items():
        if tensor.shape != wanted[name].shape or tensor.dtype != wanted[name].dtype:
            raise CheckpointError(
                f"{path}: is of another network: {prefix}{name} must be {wanted[name].dtype} of shape "
                f"{tuple(wanted[name].shape)}, got {tensor.dtype} of shape {tuple(tensor.shape)}"
            )
    module.load_state_dict(given)


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """State of Adam or AdamW as flat tensors; its settings come from the config."""
    return {
        f"optimiser.{index}.{name}": torch.as_tensor(value)
        for index, state in optimiser.state_dict()["state"].items()
        for name, value in state.items()
    }


def restore_optimiser(path: Path, optimiser: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Loads what :func:`optimiser_tensors` gave.

    Raises
    ------
    CheckpointError
        If it is the state of other parameters.
    """
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimiser."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = tensor
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for place, entries in state.items():
        if place >= len(parameters) or any(
            tensor.ndim and tensor.shape != parameters[place].shape for tensor in entries.values()
        ):
            raise CheckpointError(f"{path}: holds the optimiser's state of another network")
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def tensor_digest(*tensors: torch.Tensor) -> str:
    """SHA-256 of tensors: dtype, shape and bytes."""
    digest = hashlib.sha256()
    for tensor in tensors:
        _update(digest, tensor)
    return digest.hexdigest()


def _digest(tensors: Mapping[str, torch.Tensor], record: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        _update(digest, tensors[name])
    return digest.hexdigest()


def _update(digest: Any, tensor: torch.Tensor) -> None:
    digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    # Through bytes, since NumPy has no bfloat16; a flat copy is made only of tensors that do not lie C-ordered.
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if flat.numel():
        digest.update(flat.view(torch.uint8).numpy().data)
