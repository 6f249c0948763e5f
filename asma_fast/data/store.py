"""The store: one memory-mapped file that holds a whole data set."""

from __future__ import annotations

import hashlib
import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asma_fast.data.clip import Clip, Part
from asma_fast.data.errors import StoreError
from asma_fast.data.preprocessing import Preprocessing
from asma_fast.data.tensor_file import open_tensors
from asma_fast.skeleton import Skeleton

FORMAT = 2
METADATA_KEY = "asma_fast.store"
PARTS: tuple[Part, ...] = ("train", "test")
UNKNOWN = -1


@dataclass(frozen=True)
class StoreRecord:
    """What a store says about itself besides its tensors; JSON in the file's metadata."""

    dataset: str
    skeleton: Skeleton
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    body_rule: str
    missing: str
    sided: bool
    preprocessing: Preprocessing | None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "format": FORMAT}

    @staticmethod
    def from_json(record: dict[str, Any]) -> StoreRecord:
        """Raises ValueError, TypeError or KeyError where the record is not one that :meth:`to_json` wrote."""
        if record.get("format") != FORMAT:
            raise ValueError(f"expected store format {FORMAT}, found {record.get('format')!r}")
        applied = record["preprocessing"]
        for field, kind in (("dataset", str), ("body_rule", str), ("missing", str), ("sided", bool)):
            if not isinstance(record[field], kind):
                raise TypeError(f"{field} must be {kind.__name__}, got {record[field]!r}")
        for field in ("classes", "splits"):
            entries = record[field]
            if not all(isinstance(entry, str) for entry in entries) or len(set(entries)) != len(entries):
                raise ValueError(f"{field} must be distinct strings")
        return StoreRecord(
            dataset=record["dataset"],
            skeleton=Skeleton(**record["skeleton"]),
            classes=tuple(record["classes"]),
            splits=tuple(record["splits"]),
            body_rule=record["body_rule"],
            missing=record["missing"],
            sided=record["sided"],
            preprocessing=None if applied is None else Preprocessing.from_dict(applied),
        )


def fingerprint_of(record: StoreRecord, tensors: Mapping[str, NDArray[Any]]) -> str:
    """A digest of everything but the frames, whose checksums it includes."""
    digest = hashlib.blake2b(json.dumps(record.to_json(), sort_keys=True).encode(), digest_size=16)
    for name in sorted(tensors):
        if name != "frames":
            digest.update(f"{name}{tensors[name].shape}".encode())
            digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


class Store:
    """A prepared data set, memory-mapped: clips are read from the file when they are asked for.

    ``Store.open(path)`` opens one; ``len(store)``, ``store[i]`` and iteration give :class:`Clip` objects whose frames
    are read-only views of the file. A store can be pickled (it is reopened) and shared by forked processes.

    Attributes
    ----------
    path
        The file.
    dataset, body_rule, missing, sided, preprocessing
        Where the clips come from, how bodies were chosen, whether missing joints were filled in (``"fill"``) or kept as
        the files had them, whether classes tell left from right, and what was applied to the frames (None: as
        recorded).
    skeleton
        The joint layout.
    classes, names, splits
        Class names by label, clip names, and names of the train-test splits.
    labels, subjects, cameras
        ``(N,)`` int64; −1 where unknown.
    lengths
        ``(N,)`` int64: frames of each clip.
    fps
        ``(N,)`` float64: frames a second; NaN where unknown.
    missing_joints, dropped_bodies
        ``(N,)`` int64, counted over frames as :class:`Clip` says.
    image_sizes
        ``(N, 2)`` int64: width and height in pixels; 0 where unknown and in three dimensions.
    frame_labels
        ``(F,)`` int64: the class of each frame of each clip, one clip after the other, −1 for none; None where the
        recordings have no such labels.
    bodies
        M of every clip.
    checksums
        CRC-32 of each clip's frames.
    fingerprint
        A digest of the whole content: equal for equal stores.

    Examples
    --------
    >>> store = Store.open("nw-ucla.safetensors")  # doctest: +SKIP
    >>> train, test = store.split("xview")  # doctest: +SKIP
    >>> store[train[0]].frames.shape  # doctest: +SKIP
    (1, 34, 20, 3)
    """

    def __init__(
        self,
        path: Path,
        record: StoreRecord,
        names: tuple[str, ...],
        tensors: dict[str, NDArray[Any]],
        fingerprint: str,
    ) -> None:
        self.path = path
        self.dataset = record.dataset
        self.skeleton = record.skeleton
        self.classes = record.classes
        self.names = names
        self.splits = record.splits
        self.body_rule = record.body_rule
        self.sided = record.sided
        self.missing = record.missing
        self.preprocessing = record.preprocessing
        self.fingerprint = fingerprint
        self.labels: NDArray[np.int64] = tensors["labels"]
        self.subjects: NDArray[np.int64] = tensors["subjects"]
        self.cameras: NDArray[np.int64] = tensors["cameras"]
        self.lengths: NDArray[np.int64] = np.diff(tensors["offsets"])
        self.fps: NDArray[np.float64] = tensors["fps"]
        self.missing_joints: NDArray[np.int64] = tensors["missing_joints"]
        self.dropped_bodies: NDArray[np.int64] = tensors["dropped_bodies"]
        self.image_sizes: NDArray[np.int64] = tensors["image_sizes"]
        self.frame_labels: NDArray[np.int64] | None = tensors.get("frame_labels")
        self.bodies = int(tensors["frames"].shape[1])
        self._offsets = tensors["offsets"].tolist()
        self.checksums: tuple[int, ...] = tuple(tensors["checksums"].tolist())
        self._frames: NDArray[np.float32] = tensors["frames"]
        self._parts = tensors["splits"]
        self._verified = bytearray(len(self.names))

    @staticmethod
    def open(path: str | Path) -> Store:
        """Opens a store and checks all of it but the frames, each clip of which is checked when first read.

        Raises
        ------
        StoreError
            If the file is truncated, altered, no store or of another version.
        OSError
            If it cannot be opened.
        """
        path = Path(path)
        tensors, metadata = open_tensors(path)
        if METADATA_KEY not in metadata:
            raise StoreError(f"{path}: a safetensors file, but no store: expected metadata {METADATA_KEY!r}")
        try:
            text = json.loads(metadata[METADATA_KEY])
            record = StoreRecord.from_json(text)
            expected = text["fingerprint"]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise StoreError(f"{path}: the store's record cannot be read: {error}") from None
        _check_tensors(path, record, tensors)
        found = fingerprint_of(record, tensors)
        if found != expected:
            raise StoreError(f"{path}: altered after it was written: expected fingerprint {expected}, found {found}")
        return Store(path, record, _names(path, tensors), tensors, found)

    def __len__(self) -> int:
        return len(self.names)

    def frames(self, index: int) -> NDArray[np.float32]:
        """``(T, M, V, C)``: the frames of a clip as they lie in the file, a read-only view; ``store[index]`` without
        the rest.

        Raises
        ------
        StoreError
            If they were altered after writing.
        """
        index = index if 0 <= index < len(self._verified) else range(len(self))[index]
        frames = self._frames[self._offsets[index] : self._offsets[index + 1]]
        if not self._verified[index]:
            if checksum(frames) != self.checksums[index]:
                raise StoreError(f"{self.path}: the frames of clip {self.names[index]!r} were altered after writing")
            self._verified[index] = 1
        return frames

    def __getitem__(self, index: int) -> Clip:
        index = range(len(self))[index]
        rows = slice(self._offsets[index], self._offsets[index + 1])
        width = self.image_sizes.item(index, 0)
        return Clip(
            self.frames(index).transpose(1, 0, 2, 3),
            self.skeleton.name,
            label=_known(self.labels.item(index)),
            subject=_known(self.subjects.item(index)),
            camera=_known(self.cameras.item(index)),
            name=self.names[index],
            fps=None if math.isnan(fps := self.fps.item(index)) else fps,
            preprocessing=self.preprocessing,
            missing_joints=self.missing_joints.item(index),
            dropped_bodies=self.dropped_bodies.item(index),
            frame_labels=None if self.frame_labels is None else self.frame_labels[rows],
            image_size=(width, self.image_sizes.item(index, 1)) if width else None,
        )

    def __iter__(self) -> Iterator[Clip]:
        return (self[index] for index in range(len(self)))

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Store.open, (os.fspath(self.path.absolute()),)

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}: {len(self)} clips of {self.dataset}, {len(self.classes)} classes)"

    def split(self, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices of the clips that train and that test, ascending.

        Raises
        ------
        ValueError
            If the store has no split of that name.
        """
        if name not in self.splits:
            raise ValueError(f"split must be one of {', '.join(self.splits) or '(none)'}; got {name!r}")
        parts = self._parts[self.splits.index(name)]
        train, test = (np.flatnonzero(parts == code) for code in range(len(PARTS)))
        return train, test


def checksum(frames: NDArray[np.float32]) -> int:
    """CRC-32 of a clip's dense bytes."""
    return zlib.crc32(np.ascontiguousarray(frames).view(np.uint8).data)


def _known(number: int) -> int | None:
    return None if number == UNKNOWN else number


# File names need not be UTF-8: Python stands lone surrogates for their other bytes, and they come back as they were.
_NAMES = ("utf-8", "surrogatepass")


def name_tensors(names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The names one after the other in UTF-8, and where each begins: read much faster than JSON."""
    encoded = [name.encode(*_NAMES) for name in names]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return {"name_offsets": offsets, "names": np.frombuffer(b"".join(encoded), np.uint8)}


def _names(path: Path, tensors: Mapping[str, NDArray[Any]]) -> tuple[str, ...]:
    content, offsets = tensors["names"].tobytes(), tensors["name_offsets"].tolist()
    try:
        if content.isascii():
            text = content.decode("ascii")
            names = tuple(text[begin:end] for begin, end in pairwise(offsets))
        else:
            names = tuple(content[begin:end].decode(*_NAMES) for begin, end in pairwise(offsets))
    except UnicodeDecodeError as error:
        raise StoreError(f"{path}: expected clip names in UTF-8, found byte {error.object[error.start]:#04x}") from None
    if len(set(names)) != len(names):
        raise StoreError(f"{path}: expected distinct clip names, found {len(set(names))} in {len(names)}")
    return names


def _check_tensors(path: Path, record: StoreRecord, tensors: Mapping[str, NDArray[Any]]) -> None:
    def expect(holds: bool, expected: str, found: object) -> None:
        if not holds:
            raise StoreError(f"{path}: expected {expected}, found {found}")

    clips = tensors["offsets"].size - 1 if "offsets" in tensors else 0
    counts = ("labels", "subjects", "cameras", "checksums", "missing_joints", "dropped_bodies")
    wanted = {"frames", "offsets", "names", "name_offsets", "splits", "fps", "image_sizes", *counts}
    wanted |= {"frame_labels"} & set(tensors)
    expect(set(tensors) == wanted, f"tensors {sorted(wanted)}", sorted(tensors))
    described: dict[str, tuple[str, tuple[int, ...]]] = {name: ("int64", (clips,)) for name in counts}
    described |= {"offsets": ("int64", (clips + 1,)), "splits": ("int8", (len(record.splits), clips))}
    described |= {"fps": ("float64", (clips,)), "image_sizes": ("int64", (clips, 2))}
    described |= {"names": ("uint8", (tensors["names"].size,)), "name_offsets": ("int64", (clips + 1,))}
    if "frame_labels" in tensors:
        described["frame_labels"] = ("int64", tensors["frames"].shape[:1])
    for name, expected in described.items():
        found = (tensors[name].dtype.name, tensors[name].shape)
        expect(found == expected, f"{name} to be {expected}", found)
    frames = tensors["frames"]
    fits = frames.dtype == np.float32 and frames.ndim == 4 and 0 not in frames.shape
    expect(fits, "frames float32 of shape (F, M, V, C)", (frames.dtype, frames.shape))
    joints, dimensions = len(record.skeleton), record.skeleton.dimensions
    expect(frames.shape[2] == joints, f"frames of {joints} joints", frames.shape[2])
    expect(frames.shape[3] >= dimensions, f"frames of {dimensions} coordinates or more", frames.shape[3])
    for name, all_of in (("offsets", "frames"), ("name_offsets", "names")):
        bounds, end = tensors[name], len(tensors[all_of])
        ascending = bool(clips >= 1 and bounds[0] == 0 and bounds[-1] == end and (np.diff(bounds) > 0).all())
        expect(ascending, f"{name} ascending from 0 to {end}", f"{bounds[:3]} … {bounds[-3:]}")
    ranges = [("labels", UNKNOWN, len(record.classes)), ("splits", UNKNOWN, len(PARTS))]
    ranges += [(name, UNKNOWN, len(record.classes)) for name in ("frame_labels",) if name in tensors]
    for name, low, high in ranges:
        inside = bool(((tensors[name] >= low) & (tensors[name] < high)).all())
        expect(inside, f"{name} in [{low}, {high})", np.unique(tensors[name])[:9])
    lowest = {"subjects": UNKNOWN, "cameras": UNKNOWN, "missing_joints": 0, "dropped_bodies": 0, "image_sizes": 0}
    for name, low in lowest.items():
        expect(bool((tensors[name] >= low).all()), f"{name} of at least {low}", tensors[name].min(initial=0))
    fps = tensors["fps"]
    expect(bool((np.isnan(fps) | ((fps > 0) & np.isfinite(fps))).all()), "fps positive or NaN", fps[:3])
