"""The reader of CTR-GCN's archives."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mutations import clips_of

from asma_fast.data import Clip, FormatError, PrepareConfig, Preprocessing, Store, prepare, read_clip
from asma_fast.data import npz as npz_module
from asma_fast.data.readers import reader

SAVE: dict[str, Callable[..., None]] = {"stored": np.savez, "compressed": np.savez_compressed}


def clips(count: int, frames: int = 300, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    """``(N, T, 150)`` in which clip i has 40 − i % 7 frames at most and every third one body."""
    array = np.zeros((count, frames, 150), dtype)
    rng = np.random.default_rng(seed)
    for index in range(count):
        length = min(frames, 40 - index % 7)
        array[index, :length] = rng.normal(size=(length, 150)).astype(dtype)
        if index % 3 == 0:
            array[index, :, 75:] = 0
    return array


def one_hot(labels: Any, classes: int = 60) -> np.ndarray:
    return np.eye(classes)[np.asarray(labels)]


def contents(train: int = 5, test: int = 3, **more: Any) -> dict[str, Any]:
    return {
        "x_train": clips(train),
        "y_train": one_hot(np.arange(train) % 60),
        "x_test": clips(test, seed=1),
        "y_test": one_hot(np.arange(test) % 60),
        **more,
    }


def config(path: Path, **changes: Any) -> PrepareConfig:
    return replace(PrepareConfig("ctrgcn", path.parent / "out.safetensors", path), **changes)


def read_all(path: Path) -> list[Clip]:
    return clips_of(reader("ctrgcn").plan(config(path)).jobs)


@pytest.mark.parametrize("how", SAVE)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_trip(tmp_path: Path, how: str, dtype: Any) -> None:
    path = tmp_path / "NTU60_CS.npz"
    arrays = contents()
    arrays["x_train"] = clips(5, dtype=dtype)
    SAVE[how](path, **arrays)
    report = prepare(config(path))
    assert report.ok
    assert report.splits == {"xsub": (5, 3)}
    store = Store.open(tmp_path / "out.safetensors")
    assert store.preprocessing is None
    assert store.names[:2] == ("train_00000", "train_00001")
    assert store.names[5:] == ("test_00000", "test_00001", "test_00002")
    assert store.labels.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert (store.classes[0], len(store.classes)) == ("drink water", 60)
    assert store.lengths.tolist() == [40, 39, 38, 37, 36, 40, 39, 38]
    for clip, array in zip(store, (*arrays["x_train"], *arrays["x_test"]), strict=True):
        # as CTR-GCN's feeder lays them out: (C, T, V, M)
        expected = array.reshape(300, 2, 25, 3).transpose(3, 0, 2, 1).astype(np.float32)[:, : clip.length]
        np.testing.assert_array_equal(clip.frames.transpose(3, 1, 2, 0), expected)
        assert not array[clip.length :].any()


def test_any_preprocessing_may_follow(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **contents())
    prepare(config(tmp_path / "a.npz", preprocessing="default"))
    assert Store.open(tmp_path / "out.safetensors").preprocessing == Preprocessing()


@pytest.mark.parametrize(
    ("name", "split"),
    [("NTU60_CV", "xview"), ("NTU120_CSub", "xsub"), ("NTU120_CSet", "xset"), ("mine", "published")],
)
def test_the_split_is_the_names(tmp_path: Path, name: str, split: str) -> None:
    width = 120 if "120" in name else 7
    np.savez(tmp_path / f"{name}.npz", **contents(y_train=np.eye(width)[:5], y_test=np.eye(width)[:3]))
    assert prepare(config(tmp_path / f"{name}.npz")).splits == {split: (5, 3)}
    classes = Store.open(tmp_path / "out.safetensors").classes
    assert (len(classes), classes[0]) == ((120, "drink water") if width == 120 else (7, "class 0"))


@pytest.mark.parametrize("how", SAVE)
def test_jobs_in_any_order_give_the_same_clips(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz_module, "_CHUNK", 40_000)
    path = tmp_path / "a.npz"
    arrays = contents(train=67, test=2, x_train=clips(67, frames=20), x_test=clips(2, frames=20))
    SAVE[how](path, **arrays)
    jobs = reader("ctrgcn").plan(config(path)).jobs
    assert (len(jobs) > 20) == (how == "compressed")
    order = np.random.default_rng(0).permutation(len(jobs))
    found = {clip.name: clip for index in order for clip in jobs[index].clips()}
    assert len(found) == 69
    for index, array in enumerate(arrays["x_train"]):
        clip = found[f"train_{index:05}"]
        np.testing.assert_array_equal(clip.frames.transpose(1, 0, 2, 3).reshape(-1, 150), array[: clip.length])


def test_workers_do_not_matter_and_excluded_clips_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz_module, "_CHUNK", 40_000)
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **contents(train=40, x_train=clips(40, frames=20)))
    leave_out = tmp_path / "leave-out.txt"
    leave_out.write_text("train_00003\ntest_00000\n")
    found = set()
    for workers in (1, 4):
        settings = config(path, workers=workers, exclude=leave_out, overwrite=True)
        report = prepare(settings)
        assert (report.clips, report.excluded) == (41, ("train_00003", "test_00000"))
        found.add(settings.out.read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize("how", SAVE)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": clips(4)}, r"y_train one-hot \(4, classes\), found float64 of shape \(5, 60\)"),
        ({"x_train": np.zeros((5, 300, 75))}, r"numbers \(N, T, 150\)"),
        ({"x_train": np.zeros((5, 2, 300, 75))}, r"numbers \(N, T, 150\)"),
        ({"x_train": np.zeros((5, 0, 150))}, r"numbers \(N, T, 150\)"),
        ({"x_train": np.full((5, 3, 150), "a")}, r"numbers \(N, T, 150\)"),
        ({"x_train": np.array([None, 1])}, "numbers or strings"),
        ({"y_train": np.arange(5)}, "one-hot"),
        ({"y_train": one_hot(np.arange(5)) * 2}, "one-hot labels, found none or several"),
        ({"y_train": np.ones((5, 60))}, "one-hot labels, found none or several"),
        ({"y_train": one_hot(np.arange(5), 61)}, r"labels of \[60, 61\] classes"),
        ({"x_train": np.zeros((5, 300, 150))}, "none in 300 frames of clip 'train_00000'"),
        ({"x_test": np.full((3, 3, 150), 1e39)}, "float32 can hold"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, how: str, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "a.npz"
    SAVE[how](path, **contents(**changes))
    with pytest.raises(FormatError, match=message):
        read_all(path)


def test_sources_that_are_none(tmp_path: Path) -> None:
    for source in (None, tmp_path, tmp_path / "nowhere.npz"):
        with pytest.raises(ValueError, match=r"source must be an archive of CTR-GCN's"):
            prepare(config(tmp_path / "a.npz", source=source))
    for content, message in (
        (b"", "npz archive"),
        (b"\x1f\x8b\x08", "npz archive"),
        (b"PK\x05\x06" + bytes(18), "no arrays"),
    ):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(FormatError, match=message):
            prepare(config(tmp_path / "a.npz"))
    np.savez(tmp_path / "a.npz", x_train=clips(1))
    with pytest.raises(FormatError, match="an array y_train, found none"):
        prepare(config(tmp_path / "a.npz"))
    np.savez(tmp_path / "a.npz", x_test=clips(1), y_test=one_hot([3]), more=np.zeros(3))
    report = prepare(config(tmp_path / "a.npz"))
    assert (report.clips, report.ignored) == (1, ("more",))
    assert read_clip(tmp_path / "a.npz", "ctrgcn").label == 3


def test_altered_numbers_are_noticed(tmp_path: Path) -> None:
    """Where no byte of the archive's own structure is hit, its checksum tells."""
    path = tmp_path / "a.npz"
    np.savez(path, **contents())
    content = bytearray(path.read_bytes())
    content[20_000] ^= 1
    path.write_bytes(content)
    with pytest.raises(FormatError, match="CRC"):
        prepare(config(path))


def test_lengths_that_a_header_only_claims(tmp_path: Path) -> None:
    header = b"\x93NUMPY\x01\x00"
    for shape in ((10**9, 300, 150), (10**14, 10**14, 150), (5, 10**7, 150), (-5, 3, 150)):
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n".encode()
        with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x_train.npy", header + len(text).to_bytes(2, "little") + text + bytes(1000))
            archive.writestr("y_train.npy", b"")
        with pytest.raises(FormatError):
            prepare(config(tmp_path / "a.npz"))


@pytest.mark.parametrize("how", SAVE)
def test_damaged_files_are_read_or_refused(tmp_path: Path, how: str) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "a.npz"
    arrays = {"x_train": clips(2, frames=2), "y_train": one_hot([1, 0], 3)}
    arrays |= {"x_test": clips(1, frames=2), "y_test": one_hot([2], 3)}
    SAVE[how](path, **arrays)
    original = path.read_bytes()
    places = np.concatenate([np.arange(0, 250), np.arange(len(original) - 500, len(original))])
    refused = 0
    for trial in range(2000):
        content = bytearray(original)
        for _ in range(rng.integers(1, 4)):
            content[rng.choice(places) if trial % 2 else rng.integers(len(content))] = rng.integers(256)
        if trial % 10 == 0:
            del content[rng.integers(len(content)) :]
        path.write_bytes(content)
        try:
            for clip in read_all(path):
                expected = arrays[f"x_{clip.name[:-6]}"][int(clip.name[-5:])][: clip.length]
                np.testing.assert_array_equal(clip.frames.transpose(1, 0, 2, 3).reshape(-1, 150), expected)
        except FormatError:
            refused += 1
    assert 1000 < refused < 2000
