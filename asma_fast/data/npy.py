"""NumPy's ``.npy`` format, read through a memory map or as a stream, without pickles."""

from __future__ import annotations

import ast
import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from asma_fast.data.errors import FormatError
from asma_fast.data.pickles import PLAIN_DTYPE

_MAGIC = b"\x93NUMPY"
_LONGEST_HEADER = 10_000


@dataclass(frozen=True)
class NpyHeader:
    """What an array's header says; ``size`` is the header's own length in bytes."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    size: int

    @property
    def bytes(self) -> int:
        """Length of the array behind the header."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file: IO[bytes], path: Path, *, member: str = "") -> NpyHeader:
    """The header at the file's position; ``member`` names the array in an error.

    Raises
    ------
    FormatError
        If it is no such header, or the array is not of numbers, booleans or strings.
    """
    wanted = f"a NumPy array{member and f' {member}'}"
    start = file.read(8)
    if len(start) < 8 or start[:6] != _MAGIC or start[6] not in (1, 2, 3):
        raise FormatError(path, wanted, f"{start[:8]!r} at its beginning" if start else "no content")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(file.read(width), "little")
    text = file.read(min(length, _LONGEST_HEADER + 1))
    if not 0 < length <= _LONGEST_HEADER or len(text) != length:
        raise FormatError(path, f"{wanted} with a header of at most {_LONGEST_HEADER} bytes", f"{length} bytes")
    try:
        record = ast.literal_eval(text.decode("utf-8").strip())
        descr, fortran, shape = (record.pop(key) for key in ("descr", "fortran_order", "shape"))
        sound = not record and type(fortran) is bool and type(shape) is tuple
    except (ValueError, SyntaxError, TypeError, AttributeError, KeyError, MemoryError, RecursionError):
        sound = False
    if not sound or len(shape) > 32 or not all(type(size) is int and 0 <= size < 2**48 for size in shape):
        raise FormatError(path, f"{wanted} with a dtype, an order and a shape", f"{text[:80]!r}")
    if not isinstance(descr, str) or descr[:1] not in "<>|=" or not PLAIN_DTYPE.fullmatch(descr[1:]):
        raise FormatError(path, f"{wanted} of numbers or strings", f"dtype {descr!r}"[:100])
    return NpyHeader(shape, np.dtype(descr), fortran, 8 + width + length)


def map_array(path: Path, *, offset: int = 0, size: int | None = None, member: str = "") -> NDArray[Any]:
    """The array as a read-only view of the mapped file.

    Parameters
    ----------
    path
        The file.
    offset, size
        Where in the file it begins, and how many bytes it has with its header; by default the whole file.
    member
        Names the array in an error.

    Raises
    ------
    FormatError
        If the file is no such array, truncated, or longer than its header says.
    OSError
        If it cannot be opened.
    """
    with path.open("rb") as file:
        available = file.seek(0, 2) - offset
        file.seek(offset)
        header = read_header(file, path, member=member)
        found = available if size is None else min(size, available)
        if found != header.size + header.bytes:
            expected = f"{header.bytes} bytes for an array of shape {header.shape} and dtype {header.dtype}"
            raise FormatError(path, expected, f"{found - header.size} bytes")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    order: Any = "F" if header.fortran else "C"
    array: NDArray[Any] = np.ndarray(header.shape, header.dtype, mapped, offset + header.size, order=order)
    return array
