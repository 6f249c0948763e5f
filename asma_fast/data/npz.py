"""NumPy's ``.npz`` archives, read a few rows at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from asma_fast.data.errors import FormatError
from asma_fast.data.npy import map_array, read_header

_CHUNK = 16 << 20  # bytes of an array that are unpacked at a time
_CHUNK_ROWS = 256
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, struct.error, RuntimeError, ValueError, LookupError, OverflowError)


class Member:
    """One array of an archive: mapped where it is stored as it is, unpacked in order where it is compressed."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        found = members(path).get(name)
        if found is None:
            raise FormatError(path, f"an array {name}", "none")
        self.info = found
        with _damage_told(path, name), zipfile.ZipFile(path) as archive, archive.open(self.info) as file:
            self.header = read_header(file, path, member=name)
        if self.header.size + self.header.bytes != self.info.file_size:
            shape, size = self.header.shape, self.info.file_size - self.header.size
            raise FormatError(path, f"{self.header.bytes} bytes of {name} for its shape {shape}", f"{size} bytes")
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._next = 0
        self._kept: dict[int, NDArray[Any]] = {}

    def __reduce__(self) -> tuple[type[Member], tuple[Path, str]]:
        return Member, (self.path, self.name)

    @property
    def mapped(self) -> bool:
        """Whether rows can be read from the file as they lie."""
        return self.info.compress_type == zipfile.ZIP_STORED

    @property
    def chunk(self) -> int:
        """Rows that are unpacked at a time."""
        row = self.header.bytes // max(1, self.header.shape[0])
        return min(_CHUNK_ROWS, max(1, _CHUNK // max(1, row)))

    def rows(self, begin: int, end: int) -> NDArray[Any]:
        """Rows begin to end; of a compressed array they must lie within one chunk."""
        if self.mapped:
            return self._mapped_array()[begin:end]
        if self.header.fortran:
            raise FormatError(self.path, f"{self.name} in C order where it is compressed", "Fortran order")
        first = begin // self.chunk
        return self._unpacked(first)[begin - first * self.chunk : end - first * self.chunk]

    def chunks(self) -> list[NDArray[Any]]:
        """All rows, a chunk after the other."""
        count = self.header.shape[0]
        return [self.rows(begin, min(count, begin + self.chunk)) for begin in range(0, count, self.chunk)]

    def verify(self) -> None:
        """Checks what is mapped by the archive's checksum; what is compressed is checked as it is unpacked."""
        if not self.mapped:
            return
        with _damage_told(self.path, self.name), zipfile.ZipFile(self.path) as archive, archive.open(self.info) as file:
            while file.read(_CHUNK):
                pass

    def close(self) -> None:
        """Lets go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self.close()

    def _mapped_array(self) -> NDArray[Any]:
        with _damage_told(self.path, self.name), self.path.open("rb") as file:
            file.seek(self.info.header_offset)
            local = file.read(30)
            if len(local) < 30 or local[:4] != b"PK\x03\x04":
                raise FormatError(self.path, f"the array {self.name} where the archive's table says", repr(local[:4]))
            offset = self.info.header_offset + 30 + sum(struct.unpack("<HH", local[26:30]))
            return map_array(self.path, offset=offset, size=self.info.file_size, member=self.name)

    def _unpacked(self, chunk: int) -> NDArray[Any]:
        """Jobs ask for chunks nearly in order; one that is passed over is kept for the job that is late."""
        with self._lock:
            if chunk in self._kept:
                return self._kept.pop(chunk)
            with _damage_told(self.path, self.name):
                if self._file is None or chunk < self._next:
                    self._open()
                while self._next < chunk:
                    passed = self._next
                    self._kept[passed] = self._read_chunk()
                    while len(self._kept) > 2 * (os.cpu_count() or 1):
                        del self._kept[next(iter(self._kept))]
                return self._read_chunk()

    def _open(self) -> None:
        self.close()
        self._file = zipfile.ZipFile(self.path).open(self.info)  # noqa: SIM115
        read_header(self._file, self.path, member=self.name)
        self._next = 0

    def _read_chunk(self) -> NDArray[Any]:
        assert self._file is not None
        shape = self.header.shape
        rows = min(self.chunk, shape[0] - self._next * self.chunk)
        size = rows * (self.header.bytes // shape[0])
        try:
            content = self._file.read(size)
            if len(content) != size:
                raise EOFError(f"{size - len(content)} bytes too few")
        except BaseException:
            self.close()  # it stands somewhere within a chunk
            raise
        self._next += 1
        if self._next * self.chunk >= shape[0]:
            self.close()
        return np.frombuffer(content, self.header.dtype).reshape(rows, *shape[1:])


@contextlib.contextmanager
def _damage_told(path: Path, name: str = "") -> Iterator[None]:
    """Tells a damaged archive in a sentence."""
    expected = f"a sound .npz archive{name and f' with {name}'}"
    try:
        yield
    except FormatError:
        raise
    except _DAMAGE as error:
        raise FormatError(path, expected, f"{type(error).__name__}: {error}"[:120]) from None
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):
            raise
        raise FormatError(path, expected, str(error)[:120]) from None


def members(path: Path) -> dict[str, zipfile.ZipInfo]:
    """The archive's arrays by name."""
    with _damage_told(path), zipfile.ZipFile(path) as archive:
        return {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
