"""The ``.safetensors`` container, written as a stream and read as a memory map, with NumPy alone.

Layout: 8 bytes of header length, little-endian; the header, JSON; the tensors, dense and without gaps.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asma_fast.data.errors import StoreError

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_LONGEST_HEADER = 100_000_000


def header(tensors: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """The bytes before the first tensor, for tensors that follow in this order; a multiple of 8 long."""
    table: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        table[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def open_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The tensors, read-only views of the mapped file, and the metadata.

    Raises
    ------
    StoreError
        If the file is truncated, longer than its header says, or no such container.
    OSError
        If it cannot be opened.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise StoreError(f"{path}: expected a header of {length if size >= 8 else 8} bytes, found {size} in all")
        table, metadata = _parse(path, file.read(length))
        buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    tensors: dict[str, NDArray[Any]] = {}
    end = 0
    for name, (dtype, shape, begin, stop) in sorted(table.items(), key=lambda entry: entry[1][2:]):
        if begin != end or stop - begin != math.prod(shape) * dtype.itemsize:
            raise StoreError(f"{path}: tensor {name!r} of shape {shape} does not fill bytes {begin} to {stop}")
        end = stop
    if 8 + length + end != size:
        raise StoreError(f"{path}: expected {8 + length + end} bytes, found {size}")
    for name, (dtype, shape, begin, _) in table.items():
        flat = np.frombuffer(buffer, dtype, math.prod(shape), 8 + length + begin)
        tensors[name] = flat.reshape(shape)
    return tensors, metadata


_Entry = tuple[np.dtype[Any], tuple[int, ...], int, int]


def _parse(path: Path, text: bytes) -> tuple[dict[str, _Entry], dict[str, str]]:
    try:
        table = json.loads(text)
        metadata = table.pop("__metadata__", {})
        entries = {name: _entry(**entry) for name, entry in table.items()}
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("metadata must be strings")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StoreError(f"{path}: the header is not a store's: {error}") from None
    return entries, metadata


def _entry(dtype: str, shape: list[int], data_offsets: list[int]) -> _Entry:
    if dtype not in DTYPES:
        raise ValueError(f"stores hold tensors of {', '.join(DTYPES)}, found {dtype!r}")
    begin, end = data_offsets
    for number in (*shape, begin, end):
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise ValueError(f"expected a count, found {number!r}")
    return DTYPES[dtype], tuple(shape), begin, end
