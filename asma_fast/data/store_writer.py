"""Writing a store: as a stream, safe against crashes, and resumable."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

import asma_fast
from asma_fast._files import sync_folder
from asma_fast.data.clip import Clip, ClipInfo, SplitRule
from asma_fast.data.errors import StoreError
from asma_fast.data.preprocessing import Preprocessing
from asma_fast.data.store import (
    METADATA_KEY,
    PARTS,
    UNKNOWN,
    Store,
    StoreRecord,
    checksum,
    fingerprint_of,
    name_tensors,
)
from asma_fast.data.tensor_file import header
from asma_fast.data.work_in_progress import ASSEMBLED, WorkInProgress
from asma_fast.skeleton import Skeleton


@dataclass(frozen=True)
class _Written:
    """A clip whose frames lie in the frames file."""

    info: ClipInfo
    begin: int  # byte
    frames: int
    checksum: int
    fps: float | None
    missing_joints: int
    dropped_bodies: int
    image_size: tuple[int, int] | None
    frame_labels: list[int] | None

    def bytes(self, shape: tuple[int, int, int]) -> int:
        return 4 * self.frames * math.prod(shape)


@dataclass(frozen=True)
class _Batch:
    """The clips of one source, recorded together or not at all."""

    source: str
    token: str
    shape: tuple[int, int, int]
    clips: tuple[_Written, ...]
    lost: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        # dataclasses.asdict copies deeply, at a third of the whole cost of adding a clip.
        return {**vars(self), "clips": [{**vars(clip), "info": vars(clip.info)} for clip in self.clips]}

    @staticmethod
    def from_json(record: dict[str, Any]) -> _Batch:
        clips = tuple(_Written(**{**clip, "info": ClipInfo(**clip["info"])}) for clip in record["clips"])
        bodies, joints, channels = record["shape"]
        lost = tuple((name, reason) for name, reason in record["lost"])
        return _Batch(record["source"], record["token"], (bodies, joints, channels), clips, lost)


class StoreWriter:
    """Writes a store clip by clip; what is written survives a crash, and the store appears whole or not at all.

    Work in progress lies in ``PATH.partial/``: frames in one file, and a journal with a checked line for each source.
    A writer opened on the same path with the same description takes up what an interrupted one finished, after
    verifying it; with another description it starts anew. :meth:`finish` assembles ``PATH.partial/whole`` and renames
    it to PATH. While it does, the disk holds the frames twice.

    Parameters
    ----------
    path
        The store to write.
    dataset, skeleton, body_rule, missing, sided, preprocessing
        As :class:`Store` tells them; every clip must agree.
    origin
        Anything that, when it changes, makes earlier partial work worthless, such as the folder read. Not stored.
    overwrite
        Whether an existing store may be replaced (at the end, in one step).

    Raises
    ------
    FileExistsError
        If the store exists and ``overwrite`` is False, or what exists is no store.
    StoreError
        If another process is writing the same store.
    OSError
        If the disk refuses, here or in any method. What was finished stays and a new writer resumes from it.

    Examples
    --------
    >>> with StoreWriter("mine.safetensors", dataset="mine", skeleton=skeleton) as writer:  # doctest: +SKIP
    ...     for clip in clips:
    ...         writer.add(clip)
    ...     writer.finish(classes=("walk", "run"), splits={"xsub": split_by("subject", {1, 2})})
    """

    def __init__(
        self,
        path: str | Path,
        *,
        dataset: str,
        skeleton: Skeleton,
        body_rule: str = "file-order",
        missing: str = "keep",
        sided: bool = False,
        preprocessing: Preprocessing | None = None,
        origin: str = "",
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        self._about = StoreRecord(dataset, skeleton, (), (), body_rule, missing, sided, preprocessing)
        self._batches: dict[str, _Batch] = {}
        self._names: dict[str, str] = {}
        self._finished: Mapping[str, str] | None = None
        if self.path.exists() and not overwrite:
            self._tidy()
            raise FileExistsError(errno.EEXIST, "the store exists and overwrite was not asked for", str(self.path))
        if self.path.exists() and not _looks_like_a_store(self.path):
            raise FileExistsError(errno.EEXIST, "a file that is no store is not overwritten", str(self.path))
        self._work = WorkInProgress(self.path)
        with self._telling_about_the_disk():
            self._work.open()
            try:
                about = json.dumps(
                    {**self._about.to_json(), "origin": origin, "asma_fast": asma_fast.__version__}, sort_keys=True
                )
                self._work.take_up(about, self._recall)
            except BaseException:
                self.close()
                raise

    @property
    def finished(self) -> Mapping[str, str]:
        """Sources that are written, and their tokens."""
        if self._finished is None:
            self._finished = MappingProxyType({source: batch.token for source, batch in self._batches.items()})
        return self._finished

    @property
    def clips(self) -> Sequence[ClipInfo]:
        """The clips that are written, in the order of adding."""
        return [clip.info for batch in self._batches.values() for clip in batch.clips]

    @property
    def names(self) -> Collection[str]:
        """Names of the clips that are written."""
        return self._names.keys()

    @property
    def lost(self) -> Sequence[tuple[str, str]]:
        """What the written sources held besides and could not be taken, as told to :meth:`add`."""
        return [lost for batch in self._batches.values() for lost in batch.lost]

    def add(
        self, *clips: Clip, source: str | None = None, token: str = "", lost: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Writes the clips of one source, together or not at all.

        Parameters
        ----------
        clips
            At least one.
        source
            Where they come from; a name under which :attr:`finished` lists them. By default the first clip's name.
        token
            The state of the source, so that a later run can tell whether it has changed.
        lost
            ``(name, reason)`` of each clip of the source that could not be taken, for a resumed run to report again.

        Raises
        ------
        ValueError
            If a clip does not fit the store, its frames are not finite, or its name or source is there already.
        """
        if not clips:
            raise ValueError("add needs at least one clip")
        source = clips[0].name if source is None else source
        if source in self._batches:
            raise ValueError(f"source {source!r} is in the store already")
        counts = Counter(clip.name for clip in clips)
        for name, count in counts.items():
            if not name or count > 1 or name in self._names:
                found = f"{name!r} again, first from {self._names[name]!r}" if name in self._names else repr(name)
                raise ValueError(f"clip names must be distinct and not empty, got {found}")
        shapes = {(clip.frames.shape[0], *clip.frames.shape[2:]) for clip in clips}
        shapes |= {batch.shape for batch in islice(self._batches.values(), 1)}
        if len(shapes) > 1:
            raise ValueError(f"all clips must have the same (M, V, C), got {sorted(shapes)}")
        labelled = {clip.frame_labels is not None for clip in clips}
        labelled |= {batch.clips[0].frame_labels is not None for batch in islice(self._batches.values(), 1)}
        if len(labelled) > 1:
            raise ValueError("all clips must have frame_labels, or none")
        for clip in clips:
            self._check(clip)
        with self._telling_about_the_disk():
            written = []
            for clip in clips:
                dense = np.ascontiguousarray(clip.frames.transpose(1, 0, 2, 3))
                begin = self._work.append_frames(dense.tobytes())
                written.append(_described(clip, begin, checksum(dense)))
            batch = _Batch(source, token, shapes.pop(), tuple(written), tuple(lost))
            self._work.append_line(batch.to_json())
        self._remember(batch)

    def forget(self, source: str) -> None:
        """Leaves the clips of a source out of the store, for instance because it has changed."""
        self._unremember(source)
        with self._telling_about_the_disk():
            self._work.append_line({"forget": source})

    def finish(
        self,
        *,
        classes: Sequence[str],
        splits: Mapping[str, SplitRule] | None = None,
        order: Sequence[str] | None = None,
    ) -> Store:
        """Makes the store and opens it.

        Parameters
        ----------
        classes
            Class names by label.
        splits
            Name → rule that says of each clip whether it trains, tests or neither (None).
        order
            Sources in the order in which their clips shall stand; by default that of adding.

        Raises
        ------
        ValueError
            If there is no clip, a label has no class, or ``order`` does not name each source once.
        """
        if not self._batches:
            raise ValueError("a store needs at least one clip")
        if order is not None and sorted(order) != sorted(self._batches):
            raise ValueError("order must name every source once")
        batches = [self._batches[source] for source in (self._batches if order is None else order)]
        clips = [clip for batch in batches for clip in batch.clips]
        for clip in clips:
            for label in (-1 if clip.info.label is None else clip.info.label, *(clip.frame_labels or ())):
                if not -1 <= label < len(classes):
                    raise ValueError(f"clip {clip.info.name!r} has label {label}, classes {len(classes)}")
        tensors = _small_tensors(clips, splits or {})
        record = replace(self._about, classes=tuple(classes), splits=tuple(splits or {}))
        with self._telling_about_the_disk():
            self._assemble(record, tensors, clips, batches[0].shape)
            self._work.discard()
        return Store.open(self.path)

    def discard(self) -> None:
        """Gives up: removes the partial work and closes."""
        with self._telling_about_the_disk():
            self._work.discard()

    def close(self) -> None:
        """Stops writing. Partial work stays for the next writer."""
        self._work.close()

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, clip: Clip) -> None:
        about = self._about
        for field, wanted, got in (
            ("skeleton", about.skeleton.name, clip.skeleton),
            ("preprocessing", about.preprocessing, clip.preprocessing),
        ):
            if wanted != got:
                raise ValueError(f"clip {clip.name!r}: {field} must be {wanted!r} as in the store, got {got!r}")
        joints, channels = clip.frames.shape[2:]
        if joints != len(about.skeleton) or channels < about.skeleton.dimensions:
            wanted_shape = f"(M, T, {len(about.skeleton)}, {about.skeleton.dimensions} or more)"
            raise ValueError(f"clip {clip.name!r}: frames must have shape {wanted_shape}, got {clip.frames.shape}")
        if not np.isfinite(clip.frames).all():
            raise ValueError(f"clip {clip.name!r}: frames must be finite")
        if clip.missing is not None:
            raise ValueError(f"clip {clip.name!r}: missing joints are stored after fill_missing only")
        if clip.fps is not None and not 0 < clip.fps < math.inf:
            raise ValueError(f"clip {clip.name!r}: fps must be None or positive, got {clip.fps}")
        if clip.image_size is not None and min(clip.image_size) < 1:
            raise ValueError(f"clip {clip.name!r}: image_size must be positive, got {clip.image_size}")
        for field in ("label", "subject", "camera"):
            number = getattr(clip, field)
            if number is not None and not 0 <= number < 2**63:
                raise ValueError(f"clip {clip.name!r}: {field} must be None or at least 0, got {number}")

    def _recall(self, record: dict[str, Any]) -> int | None:
        """Takes up one line of an earlier journal; returns where its frames end, None if they are not sound."""
        if "forget" in record:
            self._unremember(record["forget"])
            return 0
        batch = _Batch.from_json(record)
        for clip in batch.clips:
            if zlib.crc32(self._read(clip, batch.shape)) != clip.checksum:
                return None
        self._remember(batch)
        return max(clip.begin + clip.bytes(batch.shape) for clip in batch.clips)

    def _read(self, clip: _Written, shape: tuple[int, int, int]) -> bytes:
        return self._work.read(clip.begin, clip.bytes(shape))

    def _remember(self, batch: _Batch) -> None:
        self._batches[batch.source] = batch
        self._finished = None
        self._names.update({clip.info.name: batch.source for clip in batch.clips})

    def _unremember(self, source: str) -> None:
        self._finished = None
        for clip in self._batches.pop(source).clips:
            del self._names[clip.info.name]

    def _assemble(
        self,
        record: StoreRecord,
        tensors: dict[str, NDArray[Any]],
        clips: Sequence[_Written],
        shape: tuple[int, int, int],
    ) -> None:
        total = sum(clip.frames for clip in clips)
        described = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
        described["frames"] = (np.dtype("<f4"), (total, *shape))
        # Wide elements first: so every tensor lies aligned in the file.
        described = dict(sorted(described.items(), key=lambda entry: -entry[1][0].itemsize))
        about = {**record.to_json(), "fingerprint": fingerprint_of(record, tensors), "asma_fast": asma_fast.__version__}
        whole = self._work.folder / "whole"
        try:
            with whole.open("wb", buffering=1 << 20) as file:
                file.write(header(described, {METADATA_KEY: json.dumps(about)}))
                for name in described:
                    if name != "frames":
                        file.write(tensors[name].tobytes())
                        continue
                    for clip in clips:
                        content = self._read(clip, shape)
                        if zlib.crc32(content) != clip.checksum:
                            raise StoreError(
                                f"{self._work.folder}: the frames of {clip.info.name!r} changed on the disk"
                            )
                        file.write(content)
                file.flush()
                os.fsync(file.fileno())
            (self._work.folder / ASSEMBLED).write_text(about["fingerprint"], encoding="utf-8")
            os.replace(whole, self.path)
        except BaseException:
            whole.unlink(missing_ok=True)
            raise
        sync_folder(self.path.parent)

    def _tidy(self) -> None:
        """Removes the partial work of a writer that died after the store was in place and before it had tidied up."""
        work = WorkInProgress(self.path)
        with contextlib.suppress(OSError, StoreError):
            if (work.folder / ASSEMBLED).read_text(encoding="utf-8") == Store.open(self.path).fingerprint:
                work.open()
                work.discard()

    @contextlib.contextmanager
    def _telling_about_the_disk(self) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except OSError as error:
            self.close()
            raise OSError(
                error.errno,
                f"{error.strerror or error} while writing the store; what was finished stays in "
                f"{self.path.name}.partial and the next run resumes from it",
                str(self.path),
            ) from error


def _looks_like_a_store(path: Path) -> bool:
    """Whether the file's beginning speaks of a store, sound or not."""
    with path.open("rb") as file:
        return METADATA_KEY.encode() in file.read(1 << 20)


def _described(clip: Clip, begin: int, crc: int) -> _Written:
    labels = None if clip.frame_labels is None else clip.frame_labels.tolist()
    fps = None if clip.fps is None else float(clip.fps)
    size = None if clip.image_size is None else (int(clip.image_size[0]), int(clip.image_size[1]))
    lacking, dropped = int(clip.missing_joints), int(clip.dropped_bodies)
    return _Written(clip.info, begin, clip.length, crc, fps, lacking, dropped, size, labels)


def _small_tensors(clips: Sequence[_Written], splits: Mapping[str, SplitRule]) -> dict[str, NDArray[Any]]:
    """Everything but the frames."""
    codes = np.full((len(splits), len(clips)), UNKNOWN, np.int8)
    for row, rule in enumerate(splits.values()):
        for column, clip in enumerate(clips):
            part = rule(clip.info)
            if part is not None:
                codes[row, column] = PARTS.index(part)
    tensors: dict[str, NDArray[Any]] = {
        "offsets": np.cumsum([0, *(clip.frames for clip in clips)], dtype=np.int64),
        "checksums": np.array([clip.checksum for clip in clips], np.int64),
    }
    for field in ("label", "subject", "camera"):
        numbers = (getattr(clip.info, field) for clip in clips)
        tensors[field + "s"] = np.array([UNKNOWN if number is None else number for number in numbers], np.int64)
    for field in ("missing_joints", "dropped_bodies"):
        tensors[field] = np.array([getattr(clip, field) for clip in clips], np.int64)
    tensors["fps"] = np.array([math.nan if clip.fps is None else clip.fps for clip in clips], np.float64)
    tensors["image_sizes"] = np.array([clip.image_size or (0, 0) for clip in clips], np.int64)
    if clips[0].frame_labels is not None:
        tensors["frame_labels"] = np.array([label for clip in clips for label in clip.frame_labels or ()], np.int64)
    return {**tensors, "splits": codes, **name_tensors([clip.info.name for clip in clips])}
