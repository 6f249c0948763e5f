"""NumPy arrays and torch tensors as one thing: kind, dtype, allocation, and the struct that native code reads."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from asma_fast._backends import native, why_not

Array = Any  # numpy.ndarray or torch.Tensor

# dtype of either kind → native code's; asked for at every call.
_DTYPE_CODES: dict[Any, Any] = {}

# torch.Tensor alone, and the types of tensors that are what they seem, once torch is there: asked for many times at
# every call.
_TENSOR: tuple[type, ...] = ()
_REAL_TENSORS: tuple[type, ...] = ()

# Numbers of 8 bytes in the least that the native pool serves (csrc/core/memory_pool.hpp).
_POOLED_COUNT = (2 << 20) // 8

# Logical axis order → the order in memory, slowest first: channels last.
_PHYSICAL = {4: (0, 2, 3, 1), 5: (0, 4, 2, 3, 1)}


def is_tensor(value: Any) -> bool:
    """Whether ``value`` is a torch tensor, without importing torch."""
    return isinstance(value, _TENSOR or find_tensor_type())


def find_tensor_type() -> tuple[type, ...]:
    """torch.Tensor where torch is imported, looked up once."""
    global _TENSOR, _REAL_TENSORS
    torch = sys.modules.get("torch")
    if torch is not None:
        _TENSOR = (torch.Tensor,)
        _REAL_TENSORS = (torch.Tensor, torch.nn.Parameter)
    return _TENSOR


def is_array(value: Any) -> bool:
    """Whether ``value`` is of a kind the ops take."""
    return isinstance(value, np.ndarray) or is_tensor(value)


def dtype_name(value: Array) -> str:
    """``"float32"``, ``"bfloat16"``, ``"bool"``, … of an array of either kind."""
    return str(value.dtype).removeprefix("torch.")


def empty(shape: Sequence[int], like: Array, dtype: str | None = None, order: Sequence[int] | None = None) -> Array:
    """An uninitialised array of ``like``'s kind and device, its axes in memory in ``order``, slowest first."""
    order = range(len(shape)) if order is None else order
    if isinstance(like, np.ndarray):
        physical = np.empty([shape[axis] for axis in order], dtype=dtype or like.dtype)
        return physical.transpose(np.argsort(order)) if len(shape) else physical
    torch = sys.modules["torch"]
    strides, step = [1] * len(shape), 1
    for axis in reversed(order):
        strides[axis] = step
        step = step * shape[axis]
    # A size is asked for only of real tensors: of others it may be symbolic, and asking would make a guard.
    if type(like) in _REAL_TENSORS and not torch.compiler.is_compiling() and step >= _POOLED_COUNT and like.is_cpu:
        pooled = _pooled(torch, tuple(shape), tuple(order), dtype or dtype_name(like))
        if pooled is not None:
            return pooled
    # Not empty().permute(): an output that is a view of something cannot be modified in place under autograd.
    kind = getattr(torch, dtype) if dtype else like.dtype
    return torch.empty_strided(tuple(shape), tuple(strides), dtype=kind, device=like.device)


def _pooled(torch: Any, shape: tuple[int, ...], order: tuple[int, ...], dtype: str) -> Array | None:
    """A large tensor in the native pool's memory, which is not given back to the system between two calls; or None."""
    if dtype not in ("float32", "float64") or why_not("cpu") is not None:
        return None
    if torch.utils.deterministic.fill_uninitialized_memory and torch.are_deterministic_algorithms_enabled():
        return None  # torch fills what it allocates
    capsule = native().pooled_tensor(shape, order, getattr(native().DType, dtype))
    return None if capsule is None else torch.from_dlpack(capsule)


def empty_channels_last(shape: Sequence[int], like: Array) -> Array:
    """Uninitialised, of logical shape ``(B, C, T, V)`` or ``(N, C, T, V, M)``, channels last in memory."""
    return empty(shape, like, order=_PHYSICAL[len(shape)])


def channels_last(x: Array) -> Array:
    """``x`` itself if it lies channels last in memory, else a copy that does."""
    order = _PHYSICAL[x.ndim]
    expected = 1
    strides = [s // x.itemsize for s in x.strides] if isinstance(x, np.ndarray) else x.stride()
    right = not isinstance(x, np.ndarray) or _readable(x)
    for axis in reversed(order):
        right = right and (x.shape[axis] == 1 or strides[axis] == expected)
        expected *= x.shape[axis]
    if right:
        return x
    copy = empty_channels_last(x.shape, x)
    copy[...] = x
    return copy


def dense(x: Array | None) -> Array | None:
    """``x`` itself if it is C-ordered, else a copy that is: small maps and weights, which kernels read densely."""
    if x is None:
        return None
    return np.ascontiguousarray(x) if isinstance(x, np.ndarray) else x.contiguous()


def as_dense(x: Array, dtype: str) -> Array:
    """``x`` in C order and that dtype: itself, or a copy."""
    if isinstance(x, np.ndarray):
        return np.ascontiguousarray(x, dtype=dtype)
    return x.to(getattr(sys.modules["torch"], dtype)).contiguous()


def aligned(x: Array) -> Array:
    """``x`` itself if native code can read it where it lies, else a copy with its axes in the same order in memory."""
    if isinstance(x, np.ndarray):
        return x if _readable(x) else x.copy(order="K")
    return x.clone() if x.data_ptr() % x.element_size() else x


def _readable(x: Any) -> bool:
    """Whether the NumPy array is aligned and its strides are whole elements."""
    return x.flags.aligned and not any(stride % x.itemsize for stride in x.strides)


def to_native(x: Array) -> Any:
    """The struct through which native code reads and writes an aligned array; it borrows, so keep ``x`` alive."""
    code = _DTYPE_CODES.get(x.dtype) or _dtype_code(x)
    if isinstance(x, np.ndarray):
        itemsize = x.itemsize
        address = x.__array_interface__["data"][0]
        return native().Array(address, x.shape, tuple(s // itemsize for s in x.strides), code)
    if x.is_cpu:
        return native().Array(x.data_ptr(), x.shape, x.stride(), code)
    device = x.get_device()
    stream = sys.modules["torch"].cuda.current_stream(device).cuda_stream
    return native().Array(x.data_ptr(), x.shape, x.stride(), code, device, stream)


def to_tensor(x: Array, device: Any = None) -> Any:
    """A tensor of the same values, sharing memory where torch can: it takes no negative strides, no unaligned and no
    read-only memory."""
    torch = sys.modules["torch"]
    if isinstance(x, np.ndarray):
        x = aligned(x)
        if not x.flags.writeable or any(stride < 0 for stride in x.strides):
            x = x.copy()
        x = torch.from_numpy(x)
    return x if device is None else x.to(device)


def _dtype_code(x: Array) -> Any:
    code = getattr(native().DType, dtype_name(x), None)
    if code is None:
        raise TypeError(f"native code has no dtype {dtype_name(x)}")
    _DTYPE_CODES[x.dtype] = code
    return code


def as_kind_of(value: Array | None, like: Array) -> Array | None:
    """``value`` as a tensor on ``like``'s device where ``like`` is a tensor; index maps may come as NumPy arrays."""
    if value is None or isinstance(like, np.ndarray) or is_tensor(value):
        return value
    return to_tensor(value, like.device)
