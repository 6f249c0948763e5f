"""What goes wrong with files."""

from __future__ import annotations

import os
import reprlib


def printable(text: str) -> str:
    """The text with whatever cannot be printed (file names may hold anything) escaped as in Python."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def short(value: object) -> str:
    """The beginning of a value, whatever it holds; bytes as the text they are."""
    if isinstance(value, bytes):
        value = value[:60].decode("ascii", "replace").replace("\ufffd", "?")
    text = repr(value[:60]) if isinstance(value, str) else reprlib.repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def reason(error: Exception) -> str:
    """What an error of other software says, on one line."""
    return f"{type(error).__name__}: {printable(' '.join(str(error).split())[:160])}"


class FormatError(ValueError):
    """A raw file is not what its data set's format asks for.

    Parameters
    ----------
    file
        The file.
    expected, found
        What the format wants at that place and what stands there.
    line
        The line, from 1; None where the format has no lines.
    """

    def __init__(self, file: str | os.PathLike[str], expected: str, found: str, line: int | None = None) -> None:
        self.file = os.fspath(file)
        self.expected = expected
        self.found = found
        self.line = line
        where = self.file if line is None else f"{self.file}, line {line}"
        super().__init__(printable(f"{where}: expected {expected}, found {found}"))

    def __reduce__(self) -> tuple[type[FormatError], tuple[str, str, str, int | None]]:
        return type(self), (self.file, self.expected, self.found, self.line)


class StoreError(ValueError):
    """A store is truncated, altered or of another version; or another process is writing it."""
