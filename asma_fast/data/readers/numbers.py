"""Numbers in files: spelled out in text, and as float32, which holds less than a file may."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asma_fast.data.errors import FormatError, short


def rounded(
    path: Path, numbers: NDArray[Any], where: str = "", *, axes: Sequence[str] = (), first_line: int | None = None
) -> NDArray[np.float32]:
    """A copy of numbers as float32; NaN and infinities stay so.

    Parameters
    ----------
    path
        Named in errors.
    numbers
        An array of real numbers.
    where
        What an error says behind the number: ``"in clip 'a'"``.
    axes
        What the first axes count, for an error to say where: ``("frame", "joint")``.
    first_line
        The line of the first index, where the first axis counts lines.

    Raises
    ------
    FormatError
        If a finite number would be infinite.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # the latter: signalling NaN
        result = numbers.astype(np.float32, order="C")
    beyond = np.isinf(result)
    if beyond.any():
        beyond &= np.isfinite(numbers)
    if beyond.any():
        place = tuple(map(int, np.argwhere(beyond)[0]))
        named = ", ".join(f"{axis} {index}" for axis, index in zip(axes, place, strict=False))
        found = " ".join(filter(None, (f"{numbers[place]:.9g}", where, named and f"in {named}")))
        line = None if first_line is None else first_line + place[0]
        raise FormatError(path, "numbers that float32 can hold", found, line)
    return result


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
            rows.append(np.array([*map(_decimal, tokens)] if b"_" in line else [*map(float, tokens)]))
        except ValueError:
            wrong = next(token for token in tokens if number_in(token) is None)
            raise FormatError(path, "a number", short(wrong), number) from None
    values = np.array(rows)
    large = np.abs(values) > np.finfo(np.float32).max
    for index in np.flatnonzero(large.any(axis=1)).tolist():
        tokens = split(lines[index], first + index)
        for place in np.flatnonzero(large[index]).tolist():
            if b"inf" not in tokens[place].lower():
                raise FormatError(path, "a number that float32 holds", short(tokens[place]), first + index)
    return values


def numbers_of(path: Path, line: int, cells: Sequence[str], count: int) -> NDArray[np.float64]:
    """A line's cells as so many numbers; an empty cell, or ``nan``, is NaN.

    Raises
    ------
    FormatError
        If there are more or fewer, or one is no number or beyond any float.
    """
    if len(cells) != count:
        raise FormatError(path, f"{count} numbers", str(len(cells)), line)
    values = np.empty(count)
    for index, cell in enumerate(cells):
        number = number_in(cell) if cell.strip() else math.nan
        if number is None:
            raise FormatError(path, "a number", short(cell), line)
        values[index] = number
    for place in np.flatnonzero(np.isinf(values)).tolist():
        if "inf" not in cells[place].lower():
            raise FormatError(path, "a number that a float can hold", short(cells[place]), line)
    return values


def integer(path: Path, token: bytes, least: int, most: int, what: str, line: int) -> int:
    """A whole number in a range, or a FormatError that calls it ``what``."""
    token = token.strip()
    value = int(token) if token.isdigit() and len(token) < 19 else least - 1
    if not least <= value <= most:
        raise FormatError(path, f"{what} from {least} to {most}", short(token), line)
    return value


def number_in(token: bytes | str) -> float | None:
    """The decimal number, NaN or infinity that a token spells; None where it is none."""
    try:
        return _decimal(token if isinstance(token, bytes) else token.encode(errors="replace"))
    except ValueError:
        return None


def _decimal(token: bytes) -> float:
    if b"_" in token:  # which Python takes for a separator of digits
        raise ValueError
    return float(token)
