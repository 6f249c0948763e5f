"""The checks that every implementation and the fake kernels share. An error says what was wanted and what came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from asma_fast._array import Array, dtype_name, is_array, is_tensor

FLOATS = ("float32", "float64", "float16", "bfloat16")
REALS = ("float32", "float64")
HALVES = ("float16", "bfloat16")


def check_array(name: str, value: Any) -> None:
    """``value`` is a NumPy array or a torch tensor."""
    if not is_array(value):
        raise TypeError(f"{name} must be a NumPy array or a torch tensor, got {type(value).__name__}")


def check_shape(name: str, value: Array, *shapes: str, **sizes: int) -> None:
    """``value`` has one of the shapes, each written as ``"N C T V"``: letters in ``sizes`` must have that size."""
    check_array(name, value)
    found = value.shape
    for shape in shapes:
        axes = shape.split()
        if len(found) != len(axes):
            continue
        for axis, size in zip(axes, found, strict=True):
            if axis in sizes:
                if size != sizes[axis]:
                    break
            elif axis.isdigit() and size != int(axis):
                break
        else:
            return
    wanted = " or ".join(_describe(shape.split(), sizes) for shape in shapes)
    raise ValueError(f"{name} must have shape {wanted}, got {tuple(value.shape)}")


def _describe(axes: list[str], sizes: dict[str, int]) -> str:
    known = [f"{axis}={sizes[axis]}" if axis in sizes else axis for axis in axes]
    return f"({', '.join(known)}{',' if len(axes) == 1 else ''})"


def check_dtype(name: str, value: Array, allowed: Sequence[str]) -> None:
    """``value`` has one of the dtypes."""
    if dtype_name(value) not in allowed:
        raise TypeError(f"{name} must be {' or '.join(allowed)}, got {dtype_name(value)}")


def check_alike(name: str, value: Array, x_name: str, x: Array) -> None:
    """``value`` is of the kind, on the device and of the dtype of ``x``."""
    check_together(name, value, x_name, x)
    if value.dtype != x.dtype:
        raise TypeError(f"{name} must have the dtype of {x_name}, {dtype_name(x)}, got {dtype_name(value)}")


def check_together(name: str, value: Array, x_name: str, x: Array) -> None:
    """``value`` is of the kind and on the device of ``x``."""
    check_array(name, value)
    tensors = is_tensor(x)
    if is_tensor(value) != tensors:
        kinds = ("NumPy array", "torch tensor")
        raise TypeError(f"{name} must be a {kinds[tensors]} as {x_name} is, got a {kinds[not tensors]}")
    if tensors and value.device != x.device:
        raise ValueError(f"{name} must be on the device of {x_name}, {x.device}, got {value.device}")


def as_int(name: str, value: Any) -> Any:
    """``value`` as a Python int (a symbolic one under torch.compile stays what it is); bool is not one."""
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, bool) or (not isinstance(value, int) and not hasattr(value, "node")):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    return value


def as_float(name: str, value: Any) -> Any:
    """``value`` as a Python number (a symbolic one under torch.compile stays what it is); bool is not one."""
    if isinstance(value, (np.floating, np.integer)):
        return float(value)
    if isinstance(value, bool) or (not isinstance(value, (int, float)) and not hasattr(value, "node")):
        raise TypeError(f"{name} must be a float, got {type(value).__name__}")
    return value


def check_count(name: str, value: int, low: int, high: int | None = None) -> None:
    """``low ≤ value`` (``≤ high``)."""
    as_int(name, value)
    if value < low or (high is not None and value > high):
        wanted = f"at least {low}" if high is None else f"in [{low}, {high}]"
        raise ValueError(f"{name} must be {wanted}, got {value}")


def check_view(x: Array, frames: Array | None, joints: Array | None, transform: Array | None) -> None:
    """A view's arrays fit the clip ``x (N, C, T, V, M)``; index ranges are the kernels' to check."""
    for name, value in (("view.frames", frames), ("view.joints", joints)):
        if value is not None:
            check_shape(name, value, "N positions", "1 positions", N=x.shape[0])
            check_dtype(name, value, ("int32",))
            check_together(name, value, "x", x)
    if transform is not None:
        check_shape("view.transform", transform, "N d d", "1 d d", N=x.shape[0], d=transform.shape[-1])
        check_together("view.transform", transform, "x", x)
        check_dtype("view.transform", transform, ("float64",) if dtype_name(x) == "float64" else ("float32",))
        if transform.shape[-1] not in (2, 3):
            raise ValueError(f"view.transform must be 2×2 or 3×3, got {tuple(transform.shape)}")
        if transform.shape[-1] > x.shape[1]:
            raise ValueError(f"view.transform acts on {transform.shape[-1]} channels, but x has {x.shape[1]}")
