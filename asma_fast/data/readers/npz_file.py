"""A whole data set in one ``.npz`` that ``np.load`` opens without pickles, as ``convert --to npz`` writes it."""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from asma_fast.data.clip import Clip, ClipInfo, Part, SplitRule
from asma_fast.data.errors import FormatError, reason, short
from asma_fast.data.npy import read_header
from asma_fast.data.npz import Member, members
from asma_fast.data.preprocessing import Preprocessing
from asma_fast.data.readers.arrays import layout_of
from asma_fast.data.readers.base import Job, Plan
from asma_fast.data.readers.clip_files import low_scores
from asma_fast.data.readers.ready_made import CLIPS_A_JOB, float32_frames, left_out, span, token_of
from asma_fast.skeleton import Skeleton

if TYPE_CHECKING:
    from asma_fast.data.prepare import PrepareConfig

REQUIRED = ("frames", "offsets", "names", "labels", "classes")
NUMBERS: Mapping[str, int] = {"labels": -1, "subjects": -1, "cameras": -1, "missing_joints": 0, "dropped_bodies": 0}
"""Arrays of a whole number a clip, and the least that each may hold."""
OTHERS = ("layout", "about", "fps", "image_sizes", "frame_labels")
SPLIT = "split_"
PARTS: tuple[Part, ...] = ("train", "test")
ABOUT = ("dataset", "bodies", "missing", "sided", "preprocessing")
LONGEST_NAME = 1000
_JOB_BYTES = 4 << 20
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, struct.error, RuntimeError, ValueError, LookupError, OSError)


@dataclass(frozen=True)
class Table:
    """What the file says of some of its clips; the frames themselves stay in it."""

    frames: Member
    layout: Skeleton
    names: tuple[str, ...]
    bounds: NDArray[np.int64]
    """(N, 2): first row of a clip's frames, and the row behind its last."""
    numbers: Mapping[str, NDArray[np.int64]]
    fps: NDArray[np.float64]
    image_sizes: NDArray[np.int64]
    frame_labels: tuple[NDArray[np.int64], ...] | None
    applied: Preprocessing | None
    rate: float | None
    min_score: float | None
    """None where the file counts missing joints itself."""

    def part(self, indices: Sequence[int]) -> Table:
        """The table of these clips alone."""
        labels = self.frame_labels
        return replace(
            self,
            names=tuple(self.names[index] for index in indices),
            bounds=self.bounds[indices],
            numbers={field: values[indices] for field, values in self.numbers.items()},
            fps=self.fps[indices],
            image_sizes=self.image_sizes[indices],
            frame_labels=None if labels is None else tuple(labels[index] for index in indices),
        )

    def clips(self) -> list[Clip]:
        """Reads the clips."""
        return [self._clip(index, name) for index, name in enumerate(self.names)]

    def _clip(self, index: int, name: str) -> Clip:
        path = self.frames.path
        rows = self.frames.rows(*self.bounds[index].tolist())
        with np.errstate(invalid="ignore"):  # signalling NaN
            frames = float32_frames(path, name, np.array(rows.transpose(1, 0, 2, 3), order="C"))
        known = {field: int(values[index]) for field, values in self.numbers.items()}
        optional = {field: None if known.get(f"{field}s", -1) < 0 else known[f"{field}s"]
                    for field in ("label", "subject", "camera")}  # fmt: skip
        width, height = map(int, self.image_sizes[index])
        scored = self.min_score is not None and frames.shape[3] == self.layout.dimensions + 1
        return Clip(
            frames,
            self.layout.name,
            **optional,
            name=name,
            fps=self.rate if math.isnan(self.fps[index]) else float(self.fps[index]),
            preprocessing=self.applied,
            missing=low_scores(path, frames, self.min_score or 0.0) if scored else None,
            missing_joints=known.get("missing_joints", 0),
            dropped_bodies=known.get("dropped_bodies", 0),
            frame_labels=None if self.frame_labels is None else self.frame_labels[index],
            image_size=(width, height) if width else None,
        )


class NpzFile:
    """What an archive says of a data set; the arrays are those that ``write_npz`` in ``asma_fast.data.exports`` lists.

    Parameters
    ----------
    path
        The archive. ``frames`` must be stored as they are, so that they can be mapped; the rest may be compressed.
    layout
        The joint layout, where another than the file's is asked for or the file has none.
    min_score
        A joint with a lower score is marked missing; unused where the file counts missing joints itself.
    rate
        Frames a second of clips without.

    Raises
    ------
    FormatError
        If an array is lacking, unknown, of another type or shape, altered, or does not agree with the others.
    OSError
        If the file cannot be read.
    """

    def __init__(self, path: Path, *, layout: Skeleton | None, min_score: float, rate: float | None) -> None:
        self.path = path
        self._found = members(path)
        known = (*REQUIRED, *NUMBERS, *OTHERS)
        lacking = [name for name in (*REQUIRED, *(() if layout else ("layout",))) if name not in self._found]
        strange = [name for name in self._found if name not in known and not name.startswith(SPLIT)]
        if lacking or strange:
            wanted = f"an array {lacking[0]}" if lacking else f"arrays {', '.join(known)}, {SPLIT}NAME"
            raise FormatError(path, wanted, short(strange[0]) if not lacking else f"arrays {short([*self._found])}")
        self.layout = layout or layout_of(path, self._json("layout"))
        self.sided, applied = self._about()
        self.applied = applied
        frames = self._frames()
        names, bounds = self._names(), self._bounds(frames.header.shape[0])
        if len(names) != len(bounds):
            raise FormatError(path, f"a name for each of {len(bounds)} clips", f"{len(names)} names")
        self.classes = self._texts("classes")
        count = len(names)
        numbers = {name: self._numbers(name, (count,), low) for name, low in NUMBERS.items() if name in self._found}
        self.splits = {name[len(SPLIT) :]: _rule(names, self._numbers(name, (count,), -1, len(PARTS)))
                       for name in self._found if name.startswith(SPLIT)}  # fmt: skip
        self.table = Table(
            frames,
            self.layout,
            names,
            bounds,
            numbers,
            self._fps(count),
            self._sizes(count),
            self._frame_labels(bounds, frames.header.shape[0]),
            applied,
            rate,
            None if "missing_joints" in self._found else min_score,
        )

    def plan(self, config: PrepareConfig) -> Plan:
        """Jobs of neighbouring clips, of some megabytes each."""
        exclude, names = left_out(config), self.table.names
        kept = [index for index, name in enumerate(names) if name not in exclude]
        if not kept:
            raise ValueError(f"exclude leaves out all {len(names)} clips of {self.path}")
        state = (self.path, config.fps, config.min_score, config.layout)
        jobs = [
            Job(f"{self.path.name}, {span(group)}", token_of(*state, group), partial(_read, self.table.part(group)))
            for group in self._groups(kept)
        ]
        return Plan(tuple(jobs), (), tuple(name for name in names if name in exclude))

    def _groups(self, kept: Sequence[int]) -> Iterator[list[int]]:
        row = self.table.frames.header.bytes // self.table.frames.header.shape[0]
        lengths = (self.table.bounds[:, 1] - self.table.bounds[:, 0]).tolist()
        group: list[int] = []
        held = 0
        for index in kept:
            if group and (len(group) == CLIPS_A_JOB or held + lengths[index] * row > _JOB_BYTES):
                yield group
                group, held = [], 0
            group.append(index)
            held += lengths[index] * row
        yield group

    def _frames(self) -> Member:
        frames = Member(self.path, "frames")
        shape, dims, joints = frames.header.shape, self.layout.dimensions, len(self.layout)
        fits = len(shape) == 4 and 0 not in shape and shape[2] == joints and shape[3] >= dims
        if not fits or frames.header.dtype.kind not in "fiu":
            wanted = f"frames of numbers (F, M, {joints}, {dims} or more)"
            raise FormatError(self.path, wanted, f"{frames.header.dtype} of shape {shape}")
        if not frames.mapped:
            raise FormatError(self.path, "frames that are not compressed, as np.savez saves them", "compressed ones")
        frames.verify()
        return frames

    def _array(self, name: str, kinds: str, what: str, *shape: int | None) -> NDArray[Any]:
        """A small array, as a whole; None is any length."""
        info, packed = self._found[name], self.path.stat().st_size
        if info.file_size > max(1 << 26, 100 * packed):
            raise FormatError(self.path, f"{name} at most 100 times its file", f"{info.file_size} bytes in {packed}")
        header = Member(self.path, name).header
        fits = len(header.shape) == len(shape) and all(n in (None, m) for n, m in zip(shape, header.shape, strict=True))
        if not fits or header.dtype.kind not in kinds:
            dimensions = ", ".join("any" if n is None else str(n) for n in shape)
            wanted = f"{name}: {what} of shape ({dimensions})"
            raise FormatError(self.path, wanted, f"{header.dtype} of shape {header.shape}")
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(info) as file:
                content = file.read()
        except _DAMAGE as error:
            raise FormatError(self.path, f"a sound .npz archive with {name}", reason(error)) from None
        header = read_header(io.BytesIO(content), self.path, member=name)
        order: Any = "F" if header.fortran else "C"
        array: NDArray[Any] = np.ndarray(header.shape, header.dtype, content, header.size, order=order)
        return array

    def _numbers(self, name: str, shape: tuple[int | None, ...], low: int, high: int = 2**63) -> NDArray[np.int64]:
        array = self._array(name, "iu", "whole numbers", *shape)
        if not np.can_cast(array.dtype, np.int64):
            raise FormatError(self.path, f"{name} of int64", str(array.dtype))
        numbers = array.astype(np.int64)
        if name == "labels":
            high = len(self.classes)
        if numbers.size and not (low <= numbers.min() and numbers.max() < high):
            found = numbers[(numbers < low) | (numbers >= high)].flat[0]
            raise FormatError(self.path, f"{name} from {low} to {high - 1}", str(found))
        return numbers

    def _texts(self, name: str) -> tuple[str, ...]:
        array = self._array(name, "U", "texts", None)
        if array.dtype.itemsize > 4 * LONGEST_NAME:
            raise FormatError(self.path, f"{name} of at most {LONGEST_NAME} characters", str(array.dtype))
        return tuple(self._decoded(name, array))

    def _decoded(self, name: str, array: NDArray[Any]) -> Any:
        codes = np.frombuffer(array.astype(array.dtype.newbyteorder("=")).tobytes(), np.uint32)
        wrong = (codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))
        if wrong.any():
            raise FormatError(self.path, f"{name} of Unicode characters", f"{codes[wrong][0]:#x}")
        return array.tolist()

    def _names(self) -> tuple[str, ...]:
        names, seen = self._texts("names"), set()
        for name in names:
            if not name or name in seen:
                raise FormatError(self.path, "distinct names", f"{short(name)} twice" if name else "an empty one")
            seen.add(name)
        return names

    def _bounds(self, rows: int) -> NDArray[np.int64]:
        offsets = self._numbers("offsets", (None,), 0, rows + 1)
        if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != rows or not (np.diff(offsets) > 0).all():
            raise FormatError(self.path, f"offsets ascending from 0 to {rows}", short(offsets.tolist()))
        return np.stack([offsets[:-1], offsets[1:]], axis=1)

    def _fps(self, count: int) -> NDArray[np.float64]:
        if "fps" not in self._found:
            return np.full(count, np.nan)
        with np.errstate(invalid="ignore"):
            fps = self._array("fps", "fiu", "numbers", count).astype(np.float64)
            wrong = ~(np.isnan(fps) | ((fps > 0) & np.isfinite(fps)))
        if wrong.any():
            raise FormatError(self.path, "fps that are positive, or NaN", str(fps[wrong][0]))
        return fps

    def _sizes(self, count: int) -> NDArray[np.int64]:
        if "image_sizes" not in self._found:
            return np.zeros((count, 2), np.int64)
        sizes = self._numbers("image_sizes", (count, 2), 0)
        wrong = (sizes > 0).sum(axis=1) == 1
        if wrong.any():
            raise FormatError(self.path, "image_sizes of width and height, or 0 and 0", str(sizes[wrong][0].tolist()))
        return sizes

    def _frame_labels(self, bounds: NDArray[np.int64], rows: int) -> tuple[NDArray[np.int64], ...] | None:
        if "frame_labels" not in self._found:
            return None
        labels = self._numbers("frame_labels", (rows,), -1, len(self.classes))
        return tuple(labels[begin:end] for begin, end in bounds.tolist())

    def _json(self, name: str) -> Any:
        text = self._decoded(name, self._array(name, "U", "a text of JSON"))
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise FormatError(self.path, f"JSON in {name}", reason(error)) from None

    def _about(self) -> tuple[bool, Preprocessing | None]:
        """Whether classes are sided, and what was applied to the frames."""
        about = self._json("about") if "about" in self._found else {}
        if not isinstance(about, dict) or not set(about) <= set(ABOUT):
            raise FormatError(self.path, f"about to be a JSON object of {', '.join(ABOUT)}", short(about))
        sided, applied = about.get("sided", False), about.get("preprocessing")
        if type(sided) is not bool:
            raise FormatError(self.path, "sided true or false", short(sided))
        if applied is None:
            return sided, None
        try:
            if not {type(value) for value in applied.values()} <= {int, str, type(None)}:
                raise TypeError("fields must be numbers or texts")
            return sided, Preprocessing.from_dict(applied)
        except (AttributeError, TypeError, ValueError) as error:
            raise FormatError(self.path, "preprocessing as a recipe's fields", reason(error)) from None


def _read(table: Table) -> list[Clip]:
    return table.clips()


def _rule(names: Sequence[str], codes: NDArray[np.int64]) -> SplitRule:
    parts = {name: PARTS[code] for name, code in zip(names, codes.tolist(), strict=True) if code >= 0}

    def rule(clip: ClipInfo) -> Part | None:
        return parts.get(clip.name)

    return rule
