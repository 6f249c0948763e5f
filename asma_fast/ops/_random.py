"""What the ops that draw share: seeds and sample ids as arrays, and Philox4x32-10 on tensors for the references."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from asma_fast._array import Array, is_array, is_tensor
from asma_fast.ops._contract import check_array, check_dtype, check_shape, check_together


def as_seed(seed: int | Array, like: Array) -> Array:
    """``seed`` as a 0-d int64 array of ``like``'s kind and device.

    Raises
    ------
    TypeError, ValueError
        If it is no int or 0-d int64 array, or does not fit into 64 bits.
    """
    if isinstance(seed, np.integer):
        seed = int(seed)
    if is_array(seed):
        return _array_seed(seed, like)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an int or an int64 array of shape (), got {type(seed).__name__}")
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed must fit into int64, got {seed}")
    if is_tensor(like):
        torch = sys.modules["torch"]
        return torch.tensor(seed, dtype=torch.int64, device=like.device)
    return np.array(seed, dtype=np.int64)


def _array_seed(seed: Any, like: Array) -> Array:
    check_dtype("seed", seed, ("int64",))
    if seed.ndim != 0:
        raise ValueError(f"seed must be an int or have shape (), got {tuple(seed.shape)}")
    if is_tensor(like):
        return seed if is_tensor(seed) else sys.modules["torch"].as_tensor(seed, device=like.device)
    return seed.numpy() if is_tensor(seed) else seed


def as_ids(ids: Array | None, count: int, like: Array) -> Array:
    """``ids`` as they are, or 0 … count−1 of ``like``'s kind and device."""
    if ids is not None:
        check_array("ids", ids)
        if not is_tensor(like) or (is_tensor(ids) and ids.device == like.device):
            return ids
        return sys.modules["torch"].as_tensor(ids, device=like.device)
    if is_tensor(like):
        torch = sys.modules["torch"]
        return torch.arange(count, dtype=torch.int64, device=like.device)
    return np.arange(count, dtype=np.int64)


def check_random(x_name: str, x: Array, seed: Array, ids: Array, **sizes: int) -> None:
    """``seed ()`` and ``ids (N,)`` are int64 and live where ``x`` does."""
    if _plainly_right(x, seed, ids, sizes.get("N")):
        return
    check_shape("seed", seed, "")
    check_shape("ids", ids, "N", **sizes)
    for name, value in (("seed", seed), ("ids", ids)):
        check_dtype(name, value, ("int64",))
        check_together(name, value, x_name, x)


def _plainly_right(x: Any, seed: Any, ids: Any, count: int | None) -> bool:
    """Whether the checks will pass; asked first of tensors on the CPU, because the checks take microseconds."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not type(x) is type(seed) is type(ids) is torch.Tensor:
        return False
    if not (x.is_cpu and seed.is_cpu and ids.is_cpu) or not seed.dtype is ids.dtype is torch.int64:
        return False
    return seed.ndim == 0 and ids.ndim == 1 and (count is None or ids.shape[0] == count)


def philox_words(seed: Any, ids: Any, draw: Any, purpose: int) -> tuple[Any, Any, Any, Any]:
    """The four words of Philox4x32-10 as int64 tensors; arguments broadcast. As :func:`asma_fast.philox.philox`.

    Products of 32-bit words are split in halves, so that nothing exceeds int64 on any device.
    """
    low = 0xFFFFFFFF
    key0, key1 = seed & low, (seed >> 32) & low
    c0, c1 = ids & low, (ids >> 32) & low
    c2, c3 = draw + c0 * 0, purpose + c0 * 0
    for _ in range(10):
        high0, low0 = _multiply(c0, 0xD2511F53)
        high1, low1 = _multiply(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0
        key0, key1 = (key0 + 0x9E3779B9) & low, (key1 + 0xBB67AE85) & low
    return c0, c1, c2, c3


def _multiply(word: Any, by: int) -> tuple[Any, Any]:
    """High and low 32 bits of the product of two 32-bit words."""
    upper, lower = (word >> 16) * by, (word & 0xFFFF) * by
    middle = lower + ((upper & 0xFFFF) << 16)
    return (upper >> 16) + (middle >> 32), middle & 0xFFFFFFFF
