"""What the readers of plain text share: lines, and numbers that say where they are wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from asma_fast.data.errors import FormatError


def text_lines(path: Path) -> list[bytes]:
    """The lines of a text file, whatever their ends, without a byte-order mark and the blank lines at the end.

    Raises
    ------
    FormatError
        If the file is compressed or in UTF-16, or has no line that is not blank.
    OSError
        If it cannot be read.
    """
    content = path.read_bytes()
    if content.startswith(b"\x1f\x8b"):
        raise FormatError(path, "plain text", "gzip data: decompress the file first")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise FormatError(path, "text in UTF-8", "UTF-16")
    lines = content.removeprefix(b"\xef\xbb\xbf").splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise FormatError(path, "a line of text", "an empty file", 1)
    return lines


def number_rows(
    path: Path, lines: Sequence[bytes], split: Callable[[bytes, int], list[bytes]], first: int = 1
) -> NDArray[np.float64]:
    """Lines of numbers as ``(lines, numbers)``.

    Parameters
    ----------
    path
        Named in errors.
    lines
        The lines; at least one.
    split
        Takes a line and its number in the file to its tokens, as many for each line.
    first
        Number of the first line in the file.

    Returns
    -------
    NDArray
        NaN and infinities where the file spells them out; anything else is in the range of float32.

    Raises
    ------
    FormatError
        If a token is no number, or too large for float32.
    """
    rows = []
    for number, line in enumerate(lines, first):
        tokens = split(line, number)
        try:
            rows.append(np.array(list(map(_number, tokens) if b"_" in line else map(float, tokens))))
        except ValueError:
            wrong = next(token for token in tokens if not is_number(token))
            raise FormatError(path, "a number", shown(wrong), number) from None
    values = np.array(rows)
    large = np.abs(values) > np.finfo(np.float32).max
    for index in np.flatnonzero(large.any(axis=1)).tolist():
        tokens = split(lines[index], first + index)
        for place in np.flatnonzero(large[index]).tolist():
            if b"inf" not in tokens[place].lower():
                raise FormatError(path, "a number that float32 holds", shown(tokens[place]), first + index)
    return values


def integer(path: Path, token: bytes, least: int, most: int, what: str, line: int) -> int:
    """A whole number in a range, or a FormatError that calls it ``what``."""
    token = token.strip()
    value = int(token) if token.isdigit() and len(token) < 19 else least - 1
    if not least <= value <= most:
        raise FormatError(path, f"{what} from {least} to {most}", shown(token), line)
    return value


def shown(text: bytes) -> str:
    """The beginning of what stands in a file, in quotes."""
    readable = text[:40].decode("ascii", "replace").replace("\ufffd", "?")
    return repr(readable + ("…" if len(text) > 40 else ""))


def _number(token: bytes) -> float:
    if b"_" in token:  # which Python takes for a separator of digits
        raise ValueError
    return float(token)


def is_number(token: bytes) -> bool:
    """Whether a token is a decimal number, NaN or an infinity."""
    try:
        _number(token)
    except ValueError:
        return False
    return True
