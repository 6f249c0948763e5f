"""JSON files, and lists of numbers in them."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asma_fast.data.errors import FormatError, reason, short
from asma_fast.data.readers.text import plain_bytes


def load_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises
    ------
    FormatError
        If it is no JSON, is nested too deeply, or has a number that no float can hold.
    """
    content = plain_bytes(path)
    try:
        return json.loads(content, parse_float=_decimal)
    except json.JSONDecodeError as error:
        rest = error.doc[error.pos : error.pos + 20]
        found = short(rest) if rest else "the end of the file"
        raise FormatError(path, f"JSON ({error.msg})", found, error.lineno) from None
    except UnicodeDecodeError as error:
        raise FormatError(path, "JSON in UTF-8", f"byte {error.object[error.start]:#04x}") from None
    except (ValueError, RecursionError) as error:
        raise FormatError(path, "JSON of plain numbers and lists", reason(error)) from None


def _decimal(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:20]} is beyond any float")
    return value


def plain_numbers(path: Path, values: Any, counts: Collection[int], what: str) -> NDArray[np.float64]:
    """A JSON list of so many numbers as an array."""
    wanted = f"{what}: {' or '.join(map(str, counts))} numbers"
    if not isinstance(values, list) or len(values) not in counts:
        raise FormatError(path, wanted, f"{len(values)}" if isinstance(values, list) else short(values))
    if not set(map(type, values)) <= {int, float}:
        raise FormatError(path, wanted, short(next(value for value in values if type(value) not in (int, float))))
    try:
        return np.array(values, np.float64)
    except OverflowError:
        raise FormatError(path, wanted, "one beyond any float") from None
