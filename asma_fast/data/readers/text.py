"""Text files: their bytes, their lines, and the cells between their commas."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from asma_fast.data.errors import FormatError


def plain_bytes(path: Path) -> bytes:
    """What is in a text file; one that was compressed by gzip is refused."""
    content = path.read_bytes()
    refuse_gzip(path, content)
    return content


def refuse_gzip(path: Path, content: bytes) -> None:
    """Refuses what begins as a file compressed by gzip does."""
    if content.startswith(b"\x1f\x8b"):
        raise FormatError(path, "plain text", "a file compressed by gzip; unpack it first")


def text_lines(path: Path) -> list[bytes]:
    """The lines of a text file, whatever their ends, without a byte-order mark and the blank lines at the end.

    Raises
    ------
    FormatError
        If the file is compressed or in UTF-16, or has no line that is not blank.
    OSError
        If it cannot be read.
    """
    content = plain_bytes(path)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise FormatError(path, "text in UTF-8", "UTF-16")
    lines = content.removeprefix(b"\xef\xbb\xbf").splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise FormatError(path, "a line of text", "an empty file", 1)
    return lines


def rows_of(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines of a comma-separated file, each with its number; a blank one has no cells.

    Raises
    ------
    FormatError
        If it is not text in UTF-8, or its quotes do not match.
    """
    table = csv.reader(io.StringIO(text_of(path), newline=""), strict=True)
    while True:
        try:
            cells = next(table)
        except StopIteration:
            return
        except csv.Error as error:
            raise FormatError(path, "comma-separated values", str(error), table.line_num) from None
        yield table.line_num, cells


def text_of(path: Path) -> str:
    """A file's text, which must be UTF-8, with or without a byte-order mark."""
    content = plain_bytes(path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise FormatError(path, "text in UTF-8", f"byte {content[error.start]:#04x}", line) from None
