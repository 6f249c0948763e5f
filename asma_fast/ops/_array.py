"""NumPy arrays and torch tensors as one thing: kind, dtype, allocation, and the struct that native code reads."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from asma_fast._backends import native

Array = Any  # numpy.ndarray or torch.Tensor

# dtype of either kind → native code's; asked for at every call.
_DTYPE_CODES: dict[Any, Any] = {}

# Logical axis order → the order in memory, slowest first: channels last.
_PHYSICAL = {4: (0, 2, 3, 1), 5: (0, 4, 2, 3, 1)}


def is_tensor(value: Any) -> bool:
    """Whether ``value`` is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_array(value: Any) -> bool:
    """Whether ``value`` is of a kind the ops take."""
    return isinstance(value, np.ndarray) or is_tensor(value)


def dtype_name(value: Array) -> str:
    """``"float32"``, ``"bfloat16"``, ``"bool"``, … of an array of either kind."""
    return str(value.dtype).removeprefix("torch.")


def empty(shape: Sequence[int], like: Array, dtype: str | None = None) -> Array:
    """An uninitialised C-ordered array of ``like``'s kind and device."""
    if isinstance(like, np.ndarray):
        return np.empty(shape, dtype=dtype or like.dtype)
    torch = sys.modules["torch"]
    return torch.empty(shape, dtype=getattr(torch, dtype) if dtype else like.dtype, device=like.device)


def empty_channels_last(shape: Sequence[int], like: Array) -> Array:
    """Uninitialised, of logical shape ``(B, C, T, V)`` or ``(N, C, T, V, M)``, channels last in memory."""
    order = _PHYSICAL[len(shape)]
    back = [order.index(axis) for axis in range(len(shape))]
    physical = empty([shape[axis] for axis in order], like)
    return physical.transpose(back) if isinstance(physical, np.ndarray) else physical.permute(back)


def channels_last(x: Array) -> Array:
    """``x`` itself if it lies channels last in memory, else a copy that does."""
    order = _PHYSICAL[x.ndim]
    expected = 1
    strides = [s // x.itemsize for s in x.strides] if isinstance(x, np.ndarray) else x.stride()
    for axis in reversed(order):
        if x.shape[axis] != 1 and strides[axis] != expected:
            copy = empty_channels_last(x.shape, x)
            copy[...] = x
            return copy
        expected *= x.shape[axis]
    return x


def dense(x: Array | None) -> Array | None:
    """``x`` in C order: itself, or a copy."""
    if x is None:
        return None
    return np.ascontiguousarray(x) if isinstance(x, np.ndarray) else x.contiguous()


def as_dense(x: Array, dtype: str) -> Array:
    """``x`` in C order and that dtype: itself, or a copy."""
    if isinstance(x, np.ndarray):
        return np.ascontiguousarray(x, dtype=dtype)
    return x.to(getattr(sys.modules["torch"], dtype)).contiguous()


def to_native(x: Array | None) -> Any:
    """The struct through which native code reads and writes ``x``; it borrows, so keep ``x`` alive."""
    if x is None:
        return None
    module = native()
    if isinstance(x, np.ndarray):
        itemsize = x.itemsize
        if any(s % itemsize for s in x.strides):
            raise ValueError(f"strides must be whole elements of {itemsize} bytes, got {x.strides} bytes")
        address = x.__array_interface__["data"][0]
        return module.Array(address, x.shape, tuple(s // itemsize for s in x.strides), _dtype_code(x))
    return module.Array(x.data_ptr(), x.shape, x.stride(), _dtype_code(x))


def _dtype_code(x: Array) -> Any:
    code = _DTYPE_CODES.get(x.dtype)
    if code is None:
        code = getattr(native().DType, dtype_name(x), None)
        if code is None:
            raise TypeError(f"native code has no dtype {dtype_name(x)}")
        _DTYPE_CODES[x.dtype] = code
    return code


def as_kind_of(value: Array | None, like: Array) -> Array | None:
    """``value`` as a tensor on ``like``'s device where ``like`` is a tensor; index maps may come as NumPy arrays."""
    if value is None or isinstance(like, np.ndarray) or is_tensor(value):
        return value
    return sys.modules["torch"].as_tensor(value, device=like.device)
