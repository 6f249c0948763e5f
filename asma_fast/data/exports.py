"""Clips in other toolboxes' files, written as a stream: a file appears whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pickle
import re
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from asma_fast._files import sync_folder
from asma_fast.data.clip import Clip
from asma_fast.data.readers.arrays import layout_of
from asma_fast.data.readers.ctrgcn import BODIES, JOINTS, PARTS
from asma_fast.data.readers.npz_file import LONGEST_NAME, NUMBERS, SPLIT
from asma_fast.data.readers.pyskl import EXTRA
from asma_fast.data.store import Store
from asma_fast.skeleton import Skeleton

CTRGCN_FRAMES = 300
_ARRAYS_FILES = {"labels.csv", "layout.json", "classes.txt"}
_FILE_NAME = re.compile(r"[a-zA-Z0-9][\w #+=.,-]{0,99}", re.ASCII)


@dataclass(frozen=True)
class Source:
    """The clips to write.

    Parameters
    ----------
    store
        Where they come from.
    skeleton
        Their layout, which may be another than the store's.
    mapped
        Turns the store's frames into that layout's.
    splits
        The splits to write.
    """

    store: Store
    skeleton: Skeleton
    mapped: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    splits: tuple[str, ...]

    def clips(self) -> Iterator[tuple[Clip, NDArray[np.float32]]]:
        """Each clip of the store, and its frames ``(M, T, V, C)``, dense."""
        for clip in self.store:
            yield clip, np.ascontiguousarray(self.mapped(clip.frames))

    def parts(self) -> Mapping[str, tuple[Sequence[str], Sequence[str]]]:
        """Split → names of the clips that train and that test."""
        return {name: self._named(*self.store.split(name)) for name in self.splits}

    def _named(self, *parts: NDArray[np.int64]) -> tuple[list[str], list[str]]:
        train, test = ([self.store.names[index] for index in part] for part in parts)
        return train, test


# PYSKL.


def write_pyskl(source: Source, path: Path, overwrite: bool) -> list[str]:
    """One pickle; what the format has no place for stands under a key that PYSKL does not look at."""
    store, dimensions = source.store, source.skeleton.dimensions
    channels = store[0].frames.shape[3]
    if channels > dimensions + 1:
        raise ValueError(
            f"a PYSKL file holds {dimensions} coordinates and a score, {store.path} has {channels} channels"
        )
    lists = {f"{name}_{part}": names for name, both in source.parts().items()
             for part, names in zip(("train", "val"), both, strict=True)}  # fmt: skip
    about = {
        "dataset": store.dataset,
        "skeleton": asdict(source.skeleton),
        "classes": list(store.classes),
        "sided": store.sided,
        "preprocessing": None if store.preprocessing is None else store.preprocessing.to_dict(),
    }
    with whole_file(path, overwrite) as file:
        file.write(b"\x80\x03}(")
        for key, value in (("split", lists), (EXTRA, about)):
            file.write(_pickled(key) + _pickled(value))
        file.write(_pickled("annotations") + b"](")
        for clip, frames in source.clips():
            file.write(_pickled(_annotation(clip, frames, dimensions)))
        file.write(b"eu.")
    return []


def _annotation(clip: Clip, frames: NDArray[np.float32], dimensions: int) -> dict[str, Any]:
    annotation: dict[str, Any] = {"frame_dir": clip.name, "label": clip.label, "total_frames": frames.shape[1]}
    annotation["keypoint"] = frames[..., :dimensions]
    if frames.shape[3] > dimensions:
        annotation["keypoint_score"] = frames[..., dimensions]
    if clip.image_size is not None:
        annotation["img_shape"] = annotation["original_shape"] = clip.image_size[::-1]
    for field in ("subject", "camera", "fps", "frame_labels"):
        if getattr(clip, field) is not None:
            annotation[field] = getattr(clip, field)
    return annotation


def _pickled(value: Any) -> bytes:
    """The operations of pickle's protocol 3 that push a value; without a memo, so that they can be joined.

    Arrays bear the names that NumPy 1 gave its functions, which NumPy 2 understands too.
    """
    if isinstance(value, dict):
        return b"}(" + b"".join(_pickled(key) + _pickled(entry) for key, entry in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(_pickled, value)) + b"e"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_pickled, value)) + b"t"
    if isinstance(value, np.ndarray):
        return _pickled_array(value)
    if isinstance(value, str):
        text = value.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(text)) + text
    return pickle.dumps(value, 3)[2:-1]


def _pickled_array(array: NDArray[Any]) -> bytes:
    dtype = array.dtype.newbyteorder("<")
    content = np.ascontiguousarray(array, dtype).tobytes()
    if len(content) >= 2**32:
        raise ValueError(f"a PYSKL file holds arrays of less than 4 GiB, got {len(content)} bytes")
    return b"".join(
        (
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n",
            _pickled((0,)) + b"C\x01b\x87R(K\x01",
            _pickled(array.shape) + b"cnumpy\ndtype\n",
            _pickled((dtype.str[1:], False, True)) + b"R",
            _pickled((3, "<", None, None, None, -1, -1, 0)) + b"b\x89B",
            struct.pack("<I", len(content)) + content + b"tb",
        )
    )


# CTR-GCN.


def write_ctrgcn(source: Source, path: Path, overwrite: bool) -> list[str]:
    """One archive of two parts, not compressed; names, subjects and cameras have no place in it."""
    store, notes = source.store, []
    _check_ctrgcn(source)
    (parts,) = (store.split(name) for name in source.splits)
    left_out = len(store) - sum(map(len, parts))
    if left_out:
        notes.append(f"{left_out} clips are in neither part of split {source.splits[0]} and were left out")
    padded = 0
    with whole_file(path, overwrite) as file, zipfile.ZipFile(file, "w") as archive:
        for part, indices in zip(PARTS, parts, strict=True):
            shape = (len(indices), CTRGCN_FRAMES, BODIES * JOINTS * 3)
            with archive.open(zipfile.ZipInfo(f"x_{part}.npy"), "w", force_zip64=True) as member:
                _write_header(member, shape)
                for index in map(int, indices):
                    rows = _ctrgcn_rows(source, store[index])
                    padded += not rows[store.lengths[index] - 1].any()
                    member.write(rows.tobytes())
            with archive.open(zipfile.ZipInfo(f"y_{part}.npy"), "w", force_zip64=True) as member:
                _write_header(member, (len(indices), len(store.classes)))
                for index in map(int, indices):
                    member.write((np.arange(len(store.classes)) == store.labels[index]).astype("<f4").tobytes())
    if padded:
        notes.append(f"{padded} clips end in frames without a body, which the format does not tell from padding")
    return [*notes, *_unsaid(store)]


def _check_ctrgcn(source: Source) -> None:
    store, wanted = source.store, f"a CTR-GCN archive holds {JOINTS} joints in three dimensions"
    joints, channels = len(source.skeleton), store[0].frames.shape[3]
    if (joints, source.skeleton.dimensions, channels) != (JOINTS, 3, 3):
        raise ValueError(f"{wanted}, got {joints} joints of {source.skeleton.name} with {channels} channels")
    if store.preprocessing is not None:
        raise ValueError(f"a CTR-GCN archive cannot say that clips were preprocessed; {store.path} holds such")
    if len(source.splits) != 1:
        raise ValueError(f"split must name the one that makes train and test: {', '.join(store.splits) or 'none'}")
    for index, name in enumerate(store.names):
        if store.lengths[index] > CTRGCN_FRAMES:
            raise ValueError(f"clip {name!r}: at most {CTRGCN_FRAMES} frames fit, got {store.lengths[index]}")
        if store.labels[index] < 0:
            raise ValueError(f"clip {name!r}: a CTR-GCN archive needs a label, got none")


def _ctrgcn_rows(source: Source, clip: Clip) -> NDArray[np.float32]:
    frames = source.mapped(clip.frames)
    if frames[BODIES:].any():
        raise ValueError(f"clip {clip.name!r}: at most {BODIES} bodies fit, got {len(frames)}")
    rows = np.zeros((CTRGCN_FRAMES, BODIES, JOINTS, 3), "<f4")
    rows[: frames.shape[1], : len(frames)] = frames[:BODIES].transpose(1, 0, 2, 3)
    return rows.reshape(CTRGCN_FRAMES, -1)


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})


# One archive of everything.


def write_npz(source: Source, path: Path, overwrite: bool) -> list[str]:
    """One archive of plain arrays, not compressed, that ``np.load`` opens without pickles.

    ``frames (F, M, V, C)`` float32, of which clip n has rows ``offsets[n]`` to ``offsets[n + 1]``; ``names``,
    ``labels``, ``subjects``, ``cameras``, ``fps``, ``missing_joints``, ``dropped_bodies`` ``(N,)``, ``image_sizes
    (N, 2)`` and, where the store has them, ``frame_labels (F,)``, as :class:`Store` tells them; ``classes``;
    ``split_NAME (N,)`` int8, 0 for training, 1 for testing, −1 for neither; ``layout`` and ``about``, texts of JSON.
    """
    store = source.store
    small = _small_arrays(source, path)
    shape = (int(store.lengths.sum()), store.bodies, len(source.skeleton), store[0].frames.shape[3])
    with whole_file(path, overwrite) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in small.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        with archive.open(zipfile.ZipInfo("frames.npy"), "w", force_zip64=True) as member:
            _write_header(member, shape)
            for _, frames in source.clips():
                member.write(_rows(frames, shape[1:]))
    return []


def _rows(frames: NDArray[np.float32], shape: tuple[int, ...]) -> bytes:
    rows = np.ascontiguousarray(frames.transpose(1, 0, 2, 3), "<f4")
    assert rows.shape[1:] == shape
    return rows.tobytes()


def _small_arrays(source: Source, path: Path) -> dict[str, NDArray[Any]]:
    """Everything but the frames."""
    store = source.store
    layout = json.dumps(asdict(source.skeleton))
    layout_of(path, json.loads(layout))  # what would not be read back is not written
    for name in source.splits:
        if not name or not name.isprintable() or len(name) > LONGEST_NAME:
            raise ValueError(f"a .npz holds splits with short, printable names, got {name[:50]!r}")
    about = {
        "dataset": store.dataset,
        "bodies": store.body_rule,
        "missing": store.missing,
        "sided": store.sided,
        "preprocessing": None if store.preprocessing is None else store.preprocessing.to_dict(),
    }
    arrays = {
        "names": _texts(store.names),
        "offsets": np.cumsum([0, *store.lengths.tolist()], dtype="<i8"),
        **{name: getattr(store, name).astype("<i8") for name in (*NUMBERS, "image_sizes")},
        "fps": store.fps.astype("<f8"),
        "classes": _texts(store.classes),
    }
    if store.frame_labels is not None:
        arrays["frame_labels"] = store.frame_labels.astype("<i8")
    for name in source.splits:
        parts = np.full(len(store), -1, np.int8)
        for code, indices in enumerate(store.split(name)):
            parts[indices] = code
        arrays[SPLIT + name] = parts
    return {**arrays, "layout": np.array(layout), "about": np.array(json.dumps(about))}


def _texts(texts: Sequence[str]) -> NDArray[np.str_]:
    longest = max(map(len, texts), default=0)
    for text in texts:
        broken = any("\ud800" <= character <= "\udfff" for character in text)
        if broken or text.endswith("\0") or len(text) > LONGEST_NAME:
            wanted = f"Unicode names of at most {LONGEST_NAME} characters that do not end in NUL"
            raise ValueError(f"a .npz holds {wanted}, got {text[:50]!r} of {len(text)}")
    return np.array(texts, f"<U{max(1, longest)}")


# Plain arrays.


def write_arrays(source: Source, folder: Path, overwrite: bool) -> list[str]:
    """A folder: one ``NAME.npy`` ``(M, T, V, C)`` a clip, ``labels.csv``, ``layout.json``, ``classes.txt``."""
    store = source.store
    if store.frame_labels is not None:
        raise ValueError(f"plain arrays hold no label of each frame; {store.path} has them")
    if store.preprocessing is not None:
        raise ValueError(f"plain arrays cannot say that clips were preprocessed; {store.path} holds such")
    for name in (*store.names, *store.classes, *source.splits):
        if not name or name != " ".join(name.split()):
            raise ValueError(
                f"names in a labels.csv are not empty, without line breaks or blanks at their ends, got {name!r}"
            )
    plain = {name for name in store.names if _FILE_NAME.fullmatch(name)}
    with whole_folder(folder, overwrite) as new:
        table = io.StringIO()
        rows = csv.writer(table, lineterminator="\n")
        splits = {name: {clip: part for part, names in zip(PARTS, both, strict=True) for clip in names}
                  for name, both in source.parts().items()}  # fmt: skip
        rows.writerow(["file", "name", "label", "subject", "camera", "fps", *(f"split:{name}" for name in splits)])
        for index, (clip, frames) in enumerate(source.clips()):
            file = f"{clip.name if clip.name in plain else f'_{index:06}'}.npy"
            np.save(new / file, frames, allow_pickle=False)
            label = None if clip.label is None else store.classes[clip.label]
            fields = (label, clip.subject, clip.camera, clip.fps)
            row = ["" if field is None else field for field in fields]
            rows.writerow([file, clip.name, *row, *(parts.get(clip.name, "") for parts in splits.values())])
        (new / "labels.csv").write_text(table.getvalue(), encoding="utf-8")
        layout = json.dumps(asdict(source.skeleton), indent=1, ensure_ascii=False)
        (new / "layout.json").write_text(layout + "\n", encoding="utf-8")
        (new / "classes.txt").write_text("".join(f"{name}\n" for name in store.classes), encoding="utf-8")
    sizes = int((store.image_sizes > 0).any(axis=1).sum())
    notes = [f"the image sizes of {sizes} clips have no place in plain arrays"] if sizes else []
    return [*notes, *_unsaid(store)]


def _unsaid(store: Store) -> list[str]:
    """A note on what files that know clips only cannot say."""
    if not store.sided:
        return []
    return ["that classes tell left from right has no place there: read the files with prepare --sided"]


# Whole or not at all.


@contextlib.contextmanager
def whole_file(path: Path, overwrite: bool) -> Iterator[IO[bytes]]:
    """A file that takes its name when it is complete."""
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists and overwrite was not asked for")
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb", buffering=1 << 20) as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def whole_folder(folder: Path, overwrite: bool) -> Iterator[Path]:
    """A folder that takes its name when it is complete; only one of an earlier conversion is ever replaced."""
    if folder.exists():
        if not overwrite:
            raise FileExistsError(f"{folder} exists and overwrite was not asked for")
        inside = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        others = sorted(name for name in inside - _ARRAYS_FILES if not name.endswith(".npy"))
        if not inside >= _ARRAYS_FILES or others:
            raise FileExistsError(f"{folder} is no earlier conversion and is not replaced")
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield new
        new.chmod(0o777 & ~_umask())
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            os.replace(folder, old)  # onto an empty folder
            os.replace(new, folder)
            shutil.rmtree(old)
        else:
            os.replace(new, folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
