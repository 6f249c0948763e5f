"""``labels.csv``: what is known of the clips of one's own data, a line a clip.

Comma-separated, in UTF-8, with a header. The column ``file`` is required: the clip's file, relative to the folder that
is read, with or without its ending. All others are optional, and so is a value in each: ``label``, a number from 0 or a
class name; ``subject`` and ``camera``, numbers; ``fps``, frames a second; ``name``, the clip's name in the store, by
default that of the file; and for each split of one's own a column ``split:NAME`` with ``train`` or ``test``.
"""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from asma_fast.data.clip import ClipInfo, Part, SplitRule
from asma_fast.data.errors import FormatError, short
from asma_fast.data.readers.text import rows_of, text_of

COLUMNS = ("file", "label", "subject", "camera", "fps", "name")
PARTS: Mapping[str, Part] = {"train": "train", "test": "test"}
MAX_CLASSES = 100_000


@dataclass(frozen=True)
class Row:
    """What one line says of a clip; None where it says nothing."""

    line: int
    name: str
    label: int | None = None
    subject: int | None = None
    camera: int | None = None
    fps: float | None = None


@dataclass(frozen=True)
class Labels:
    """What a labels.csv says: rows by the default name of their clip, class names by label, splits by name."""

    rows: Mapping[str, Row]
    classes: tuple[str, ...]
    splits: Mapping[str, SplitRule]


def read_labels(
    path: Path, files: Mapping[str, str], *, optional: Collection[str] = (), classes: Path | None = None
) -> Labels:
    """Reads a labels.csv and matches it with the files that it speaks of.

    Parameters
    ----------
    path
        The labels.csv.
    files
        What may stand in the column ``file`` → the clip's default name.
    optional
        Default names that need no line.
    classes
        Text file of class names by label, one a line. Without it, class names are those in the column ``label``,
        sorted; numbers name themselves.

    Returns
    -------
    Labels

    Raises
    ------
    FormatError
        If the file is no such table, has an unknown column, a value of another kind, an unknown class, a name twice, a
        line without a file, or leaves out a file.
    OSError
        If it cannot be read.
    """
    table = ((line, [cell.strip() for cell in cells]) for line, cells in rows_of(path) if cells)
    line, header = next(table, (1, []))
    _check_header(path, line, header)
    records = []
    for line, cells in table:
        if len(cells) != len(header):
            raise FormatError(path, f"{len(header)} cells as in the header", str(len(cells)), line)
        records.append((line, dict(zip(header, cells, strict=True))))
    places = _places(path, records, files)
    left_out = sorted(set(files.values()) - set(places) - set(optional))
    if left_out:
        raise FormatError(path, "a line for each file", f"none for {len(left_out)}: {_some(left_out)}")
    labels, names = _labels(path, [(line, record.get("label", "")) for line, record in records], classes)
    rows: dict[str, Row] = {}
    for default, (line, record), label in zip(places, records, labels, strict=True):
        subject, camera = (_whole(path, line, field, record.get(field, "")) for field in ("subject", "camera"))
        fps = _rate(path, line, record.get("fps", ""))
        rows[default] = Row(line, record.get("name") or default, label, subject, camera, fps)
    _check_names(path, rows.values())
    splits = {
        column.partition(":")[2]: _split(path, column, records, rows.values())
        for column in header
        if column.startswith("split:")
    }
    return Labels(rows, names, splits)


def suggestion(word: str, known: Collection[str]) -> str:
    """A question after the nearest known word, if one is near."""
    near = get_close_matches(word.lower(), list(known), 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _check_header(path: Path, line: int, header: Sequence[str]) -> None:
    known, times = f"columns of {', '.join(COLUMNS)} and split:NAME", Counter(header)
    for column in header:
        if column not in COLUMNS and not (re.fullmatch("split:.+", column) and column.isprintable()):
            raise FormatError(path, known, short(column) + suggestion(column, (*COLUMNS, "split:")), line)
        if times[column] > 1:
            raise FormatError(path, f"a column {column!r} once", f"{times[column]} of them", line)
    if "file" not in header:
        raise FormatError(path, "a column 'file'", ", ".join(header) or "no header", line)


def _places(path: Path, records: Sequence[tuple[int, Mapping[str, str]]], files: Mapping[str, str]) -> dict[str, int]:
    """The default name each line speaks of → the line."""
    places: dict[str, int] = {}
    lost = [(line, record["file"]) for line, record in records if record["file"] not in files]
    if lost:
        names = _some([name or "(empty)" for _, name in lost])
        raise FormatError(path, "names of files in the folder", f"{len(lost)} others: {names}", lost[0][0])
    for line, record in records:
        default = files[record["file"]]
        if default in places:
            raise FormatError(
                path, "one line a file", f"{record['file']!r} again, first in line {places[default]}", line
            )
        places[default] = line
    return places


def _check_names(path: Path, rows: Collection[Row]) -> None:
    lines: dict[str, int] = {}
    for row in rows:
        if not row.name.isprintable():
            raise FormatError(path, "a printable name", repr(row.name), row.line)
        if row.name in lines:
            raise FormatError(path, "distinct names", f"{row.name!r} again, first in line {lines[row.name]}", row.line)
        lines[row.name] = row.line


def _labels(
    path: Path, cells: Sequence[tuple[int, str]], classes: Path | None
) -> tuple[list[int | None], tuple[str, ...]]:
    given = [(line, text) for line, text in cells if text]
    numeric = [re.fullmatch("[0-9]{1,9}", text) is not None for _, text in given]
    if classes is not None:
        names = _class_names(classes)
    elif all(numeric):
        top, line = max(((int(text), line) for line, text in given), default=(-1, 0))
        if top >= MAX_CLASSES:
            raise FormatError(path, f"labels below {MAX_CLASSES}", str(top), line)
        names = tuple(str(label) for label in range(top + 1))
    elif any(numeric):
        line, text = given[numeric.index(not numeric[0])]
        raise FormatError(path, "labels that are all numbers from 0, or all names", f"{text!r} among the others", line)
    else:
        names = tuple(sorted({text for _, text in given}))
    odd = next(((line, text) for line, text in given if not text.isprintable()), None)
    if odd is not None:
        raise FormatError(path, "a printable label", short(odd[1]), odd[0])
    index = {name: label for label, name in enumerate(names)}
    labels: list[int | None] = []
    for line, text in cells:
        if text and text not in index and not (re.fullmatch("[0-9]{1,9}", text) and int(text) < len(names)):
            where = f"a class of {classes.name}" if classes is not None else "a class"
            raise FormatError(path, where, short(text) + suggestion(text, names), line)
        labels.append(None if not text else index[text] if text in index else int(text))
    return labels, names


def _class_names(path: Path) -> tuple[str, ...]:
    lines = [line.strip() for line in io.StringIO(text_of(path), newline=None)]
    while lines and not lines[-1]:
        lines.pop()
    first: dict[str, int] = {}
    for number, name in enumerate(lines, 1):
        if not name or not name.isprintable():
            raise FormatError(path, "a class name", repr(name), number)
        if first.setdefault(name, number) != number:
            raise FormatError(path, "distinct class names", f"{name!r} again, first in line {first[name]}", number)
    return tuple(lines)


def _whole(path: Path, line: int, field: str, text: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch("[0-9]{1,18}", text):
        raise FormatError(path, f"a number from 0 for {field}", short(text), line)
    return int(text)


def _rate(path: Path, line: int, text: str) -> float | None:
    if not text:
        return None
    if re.fullmatch(r"[0-9.]{1,18}(e[+-]?[0-9]{1,2})?", text):
        try:
            fps = float(text)
        except ValueError:
            fps = math.nan
        if 0 < fps < math.inf:
            return fps
    raise FormatError(path, "frames a second above 0 for fps", short(text), line)


def _split(
    path: Path, column: str, records: Sequence[tuple[int, Mapping[str, str]]], rows: Collection[Row]
) -> SplitRule:
    parts: dict[str, Part] = {}
    for (line, record), row in zip(records, rows, strict=True):
        cell = record[column]
        if cell in PARTS:
            parts[row.name] = PARTS[cell]
        elif cell:
            raise FormatError(path, f"train, test or nothing for {column}", short(cell), line)

    def rule(clip: ClipInfo) -> Part | None:
        return parts.get(clip.name)

    return rule


def _some(names: Sequence[str]) -> str:
    return ", ".join(repr(name)[1:-1][:80] for name in names[:5]) + (", …" if len(names) > 5 else "")
