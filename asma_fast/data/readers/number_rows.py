"""Lines of numbers in a comma-separated file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from asma_fast.data.errors import FormatError


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
        number = number_in(cell)
        if number is None:
            raise FormatError(path, "a number", repr(cell)[:60], line)
        values[index] = number
    for place in np.flatnonzero(np.isinf(values)).tolist():
        if "inf" not in cells[place].lower():
            raise FormatError(path, "a number that a float can hold", repr(cells[place])[:60], line)
    return values


def number_in(cell: str) -> float | None:
    """The number that a cell holds; None where it is none."""
    try:
        return float(cell) if "_" not in cell and cell.isascii() else None
    except ValueError:
        return None if cell.strip() else float("nan")
