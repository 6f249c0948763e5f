"""One's own arrays: a ``.npy``, ``.npz`` or ``.csv`` file a clip, a joint layout, and a labels.csv."""

from __future__ import annotations

import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from asma_fast.data.clip import Clip, ClipInfo, SplitRule
from asma_fast.data.errors import FormatError, printable, reason, short
from asma_fast.data.labels_csv import suggestion
from asma_fast.data.preprocessing import MAX_FRAMES
from asma_fast.data.readers.base import Plan
from asma_fast.data.readers.clip_files import ClipFiles, Recording, low_scores
from asma_fast.data.readers.json_file import load_json
from asma_fast.data.readers.numbers import number_in, numbers_of, rounded
from asma_fast.data.readers.text import refuse_gzip, rows_of
from asma_fast.skeleton import Skeleton

if TYPE_CHECKING:
    from asma_fast.data.prepare import PrepareConfig
    from asma_fast.data.readers.npz_file import NpzFile

LAYOUT = "layout.json"
MAX_BODIES = 32
MAX_JOINTS = 1000
_KEYS = ("frames", "keypoints")


class Shape(NamedTuple):
    """What a file's header says: M, and C with or without a score."""

    bodies: int
    channels: int


class Arrays(ClipFiles):
    """``*.npy``, ``*.npz`` or ``*.csv``, a clip each, at any depth of a folder.

    An array is ``(T, V, C)`` or ``(M, T, V, C)`` of floating point or whole numbers, M up to 32; C is the layout's
    dimensions (2 or 3), or one more, the last being the joints' score. A ``.npz`` holds one array, or one named
    ``frames`` or ``keypoints``. A ``.csv`` has a frame a line of V·C numbers, joint by joint, commas between, an empty
    cell for an unknown one; its first line may be a header, which is one that holds no number, or the numbers 0, 1, 2,
    … of its columns. Nothing pickled is read.

    M is the largest of all files; the others get absent bodies. C must be the same in all. The layout is the one asked
    for (a name, or a ``.json`` of :class:`Skeleton`'s fields), else that of a ``layout.json`` in the folder.

    The source may also be one ``.npz`` of a whole data set, as ``convert --to npz`` writes it
    (:class:`asma_fast.data.readers.npz_file.NpzFile`); it brings its labels, splits, layout and preprocessing.
    """

    options = frozenset({"labels", "fps", "min_score", "layout"})
    dataset = "arrays"
    skeleton = "custom"
    bodies = 1
    pattern = re.compile(r"[^.].*\.(npy|npz|csv)", re.DOTALL)

    def __init__(self) -> None:
        super().__init__()
        self._layout: Skeleton | None = None
        self._shape: Shape | None = None
        self._whole: NpzFile | None = None

    def plan(self, config: PrepareConfig) -> Plan:
        path = config.source
        if path is None or not path.is_file():
            return super().plan(config)
        from asma_fast.data.readers.npz_file import NpzFile

        if path.suffix in (".npy", ".csv"):
            raise ValueError(f"source must be a folder, or a .npz of a whole data set, got {path}")
        if config.labels is not None:
            raise ValueError(f"a .npz of a whole data set has labels of its own; got {config.labels} besides")
        self._settle(config)
        asked = None if config.layout is None else _asked_layout(config.layout, path.parent)
        self._whole = whole = NpzFile(path, layout=asked, min_score=self.min_score, rate=self.rate)
        self._layout, self.applied = whole.layout, whole.applied
        self.sided, self.ready_made = whole.sided, True  # type: ignore[misc]
        return whole.plan(config)

    def protocol(self, clips: Collection[ClipInfo]) -> tuple[tuple[str, ...], Mapping[str, SplitRule]]:
        return super().protocol(clips) if self._whole is None else (self._whole.classes, self._whole.splits)

    def layout(self) -> Skeleton:
        if self._layout is None:
            raise ValueError("arrays have no layout of their own; prepare reads it, or layout.json beside the file")
        return self._layout

    def learn(self, config: PrepareConfig, folder: Path, recordings: Sequence[Recording]) -> None:
        self._layout = _asked_layout(config.layout, folder)
        shapes: dict[Shape, str] = {}
        for recording in recordings:
            try:
                shapes.setdefault(header_of(recording.path, self._layout), recording.source)
            except (FormatError, OSError):  # its job will tell
                continue
        channels = {shape.channels: source for shape, source in shapes.items()}
        if len(channels) > 1:
            counts = ", ".join(f"{count} in {source}" for count, source in sorted(channels.items()))
            raise ValueError(f"all arrays must have the same number of channels, got {counts}")
        if shapes:
            self._shape = Shape(max(shape.bodies for shape in shapes), *channels)

    def recordings(self, folder: Path, paths: Any) -> tuple[list[Recording], list[str]]:
        return super().recordings(folder, [path for path in paths if path != folder / LAYOUT])

    def settings(self) -> tuple[object, ...]:
        return *super().settings(), self._shape

    def read(self, path: Path, bodies: str) -> Clip:
        layout = self._layout or _asked_layout(None, path.parent)
        array = _numbers(path, layout)
        if array.ndim == 3:
            array = array[None]
        if array.shape[1] > MAX_FRAMES:
            raise FormatError(path, f"1 to {MAX_FRAMES:,} frames", str(array.shape[1]))
        wanted = self._shape or Shape(array.shape[0], array.shape[3])
        if (found := array.shape[3]) != wanted.channels or array.shape[0] > wanted.bodies:
            raise FormatError(path, f"up to {wanted.bodies} bodies, {wanted.channels} channels", f"{array.shape}")
        frames = np.zeros((wanted.bodies, *array.shape[1:]), np.float32)
        frames[: len(array)] = rounded(path, array)
        missing = low_scores(path, frames, self.min_score) if found > layout.dimensions else None
        return Clip(frames, layout.name, name=printable(path.stem), fps=self.rate, missing=missing)


def header_of(path: Path, layout: Skeleton) -> Shape:
    """What a file's beginning says of its array.

    Raises
    ------
    FormatError
        If it is no array that fits the layout.
    OSError
        If it cannot be read.
    """
    if path.suffix == ".csv":
        with path.open("rb") as file:
            line = file.readline(1 << 20)
        refuse_gzip(path, line)
        return Shape(1, _channels(path, line.count(b",") + 1, layout))
    if path.suffix == ".npz":
        with _unpacked(path) as file:
            return _shape(path, _npy_header(path, file)[0], layout)
    with path.open("rb") as file:
        return _shape(path, _npy_header(path, file)[0], layout)


def _numbers(path: Path, layout: Skeleton) -> NDArray[Any]:
    if path.suffix == ".csv":
        return _table(path, layout)
    if path.suffix == ".npz":
        with _unpacked(path) as file:
            shape, fortran, dtype = _npy_header(path, file)
            _shape(path, shape, layout)
            content = file.read()
        _check_size(path, shape, dtype, len(content))
        return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
    with path.open("rb") as file:
        shape, fortran, dtype = _npy_header(path, file)
        _shape(path, shape, layout)
        size, begin = os.fstat(file.fileno()).st_size, file.tell()
    _check_size(path, shape, dtype, size - begin)
    return np.memmap(path, dtype, "r", begin, shape, "F" if fortran else "C")


def _npy_header(path: Path, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, memory order and type of a .npy, whose file is left at the first number."""
    try:
        version = npy.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = npy.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, fortran, dtype = npy.read_array_header_2_0(file)
        else:
            raise FormatError(path, "a .npy of version 1 or 2", str(version))
    except (FormatError, OSError):
        raise
    except Exception as error:  # NumPy lets its parser's own errors through, and those of tokenize and ast
        raise FormatError(path, "an array as NumPy saves it", reason(error)) from None
    if dtype.kind not in "fiu":
        raise FormatError(path, "an array of numbers", f"one of {dtype}")
    return shape, fortran, dtype


def _check_size(path: Path, shape: Sequence[int], dtype: np.dtype[Any], found: int) -> None:
    expected = math.prod(shape) * dtype.itemsize
    if found != expected:
        raise FormatError(path, f"{expected} bytes of numbers, as the header says", str(found))


@contextmanager
def _unpacked(path: Path) -> Iterator[IO[bytes]]:
    """The file of the array in a .npz; what is wrong with the archive, in opening or reading it, is a FormatError."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(_entry(path, archive)) as file:
            yield file
    except (FormatError, FileNotFoundError, PermissionError):
        raise
    except (ValueError, OSError, RuntimeError, EOFError, struct.error, zlib.error, zipfile.BadZipFile) as error:
        raise FormatError(path, "a .npz archive as NumPy saves it", reason(error)) from None


def _entry(path: Path, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
    if {"frames", "offsets"} <= entries.keys():
        raise FormatError(path, "one clip", "a whole data set; it is prepared by itself, as the source")
    named = [entries[key] for key in _KEYS if key in entries]
    if (len(named) != 1 and len(entries) != 1) or len(entries) < len(archive.infolist()):
        raise FormatError(
            path,
            f"one array, or one named {' or '.join(_KEYS)}",
            short([entry.filename for entry in archive.infolist()]),
        )
    entry = named[0] if named else next(iter(entries.values()))
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise FormatError(path, "an archive as NumPy saves it", f"packing of kind {entry.compress_type}")
    packed = path.stat().st_size
    if entry.file_size > max(1 << 26, 100 * packed):
        raise FormatError(path, "an array at most 100 times its file", f"{entry.file_size} bytes in {packed}")
    return entry


def _table(path: Path, layout: Skeleton) -> NDArray[np.float64]:
    rows: list[NDArray[np.float64]] = []
    blank = count = 0
    for line, cells in rows_of(path):
        if not cells:
            blank = blank or line
            continue
        if blank:
            raise FormatError(path, "a frame in each line", "a blank line", blank)
        if not count:
            count = len(cells)
            _channels(path, count, layout)
            numbers = [number_in(cell) for cell in cells]
            named = any(cell.strip() for cell in cells) and not any(map(_is_number, cells))
            if count > 1 and (named or numbers == list(range(count))):
                continue
        rows.append(numbers_of(path, line, cells, count))
    if not rows:
        raise FormatError(path, "a line a frame", "none")
    return np.stack(rows).reshape(len(rows), len(layout), -1)


def _is_number(cell: str) -> bool:
    return cell.strip() != "" and number_in(cell) is not None


def _channels(path: Path, columns: int, layout: Skeleton) -> int:
    dims, joints = layout.dimensions, len(layout)
    if columns not in (joints * dims, joints * (dims + 1)):
        raise FormatError(
            path, f"{joints * dims} columns, or {joints * (dims + 1)} with scores, for {joints} joints", str(columns), 1
        )
    return columns // joints


def _shape(path: Path, shape: tuple[int, ...], layout: Skeleton) -> Shape:
    dims, joints = layout.dimensions, len(layout)
    fits = len(shape) in (3, 4) and shape[-2] == joints and shape[-1] in (dims, dims + 1) and min(shape) >= 1
    bodies = shape[0] if len(shape) == 4 else 1
    if not fits or bodies > MAX_BODIES:
        wanted = f"(T, {joints}, C) or (M, T, {joints}, C), C {dims} or {dims + 1}, M up to {MAX_BODIES}"
        raise FormatError(path, f"an array {wanted}", f"shape {short(shape)}")
    return Shape(bodies, shape[-1])


def _asked_layout(asked: str | None, folder: Path) -> Skeleton:
    if asked is None:
        if not (folder / LAYOUT).is_file():
            raise ValueError(
                f"arrays need a joint layout: one of {', '.join(Skeleton.names())}, or a .json of Skeleton's fields, "
                f"or {LAYOUT} in {folder}; got none"
            )
        return read_layout(folder / LAYOUT)
    return read_layout(Path(asked)) if asked.endswith(".json") else Skeleton.named(asked)


def read_layout(path: Path) -> Skeleton:
    """A joint layout from a JSON object of :class:`Skeleton`'s fields, of which ``edges`` is required.

    Raises
    ------
    FormatError
        If it is none: an unknown field, a value of another kind, a graph that is not connected, more than 1,000 joints,
        or the name of a layout of the package for another one.
    OSError
        If it cannot be read.
    """
    return layout_of(path, load_json(path))


def layout_of(path: Path, record: Any) -> Skeleton:
    """What :func:`read_layout` makes of a file's JSON."""
    known = [field.name for field in fields(Skeleton)]
    if not isinstance(record, dict) or "edges" not in record:
        raise FormatError(path, "a JSON object with 'edges'", short(record))
    for field, value in record.items():
        if field not in known:
            raise FormatError(path, f"fields {', '.join(known)}", short(field) + suggestion(field, known))
        _check_field(path, field, value)
    edges, joints = record["edges"], record.get("joints", ())
    top = max((joint for edge in edges for joint in edge), default=0)
    count = max(top + 1, len(joints))
    if count > min(MAX_JOINTS, len(edges) + 1):  # before anything of that size is made
        raise FormatError(path, f"at most {MAX_JOINTS} joints, connected by edges", f"{count}, {len(edges)} edges")
    try:
        skeleton = Skeleton(**{field: _tuples(value) for field, value in record.items()})
    except ValueError as error:
        raise FormatError(path, "a joint layout", reason(error)) from None
    if skeleton.name in Skeleton.names() and skeleton != Skeleton.named(skeleton.name):
        raise FormatError(path, "a name of its own", f"{skeleton.name!r}, another layout's")
    return skeleton


def _check_field(path: Path, field: str, value: Any) -> None:
    def whole(one: Any) -> bool:
        return type(one) is int and 0 <= one < 1 << 31

    def wholes(many: Any) -> bool:
        return isinstance(many, list) and all(map(whole, many))

    def pairs(many: Any) -> bool:
        return isinstance(many, list) and all(wholes(pair) and len(pair) == 2 for pair in many)

    def sides(both: Any) -> bool:
        return isinstance(both, list) and len(both) == 2 and all(whole(side) or wholes(side) for side in both)

    def text(one: Any) -> bool:
        return isinstance(one, str) and one.isprintable() and 0 < len(one) <= 200

    checks: Mapping[str, tuple[bool, str]] = {
        "edges": (pairs(value), "pairs of joints"),
        "pairs": (pairs(value), "pairs of joints"),
        "joints": (isinstance(value, list) and all(map(text, value)), "a list of names"),
        "centre": (whole(value) or wholes(value), "a joint or a list of joints"),
        "shoulders": (value is None or sides(value), "left and right, each a joint or a list of joints"),
        "dimensions": (whole(value), "2 or 3"),
    }
    holds, wanted = checks.get(field, (text(value), "a text"))
    if not holds:
        raise FormatError(path, f"{wanted} for '{field}'", short(value))


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
