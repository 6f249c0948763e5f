"""The reader of AimCLR's arrays and those of the same make."""

from __future__ import annotations

import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mutations import clips_of, damaged

from asma_fast.data import FormatError, PrepareConfig, Preprocessing, Store, prepare, read_clip
from asma_fast.skeleton import Skeleton

NTU = Skeleton.named("ntu-rgb+d")


def names(count: int, camera: int = 1, start: int = 0) -> list[str]:
    return [f"S001C{camera:03}P{1 + i % 5:03}R{1 + i // 60:03}A{1 + i % 60:03}" for i in range(start, start + count)]


def write(
    folder: Path, part: str, array: np.ndarray, own: list[str], kind: str = "position", labels: Any = None
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    labels = [int(name[17:20]) - 1 for name in own] if labels is None else labels
    (folder / f"{part}_label.pkl").write_bytes(pickle.dumps((own, labels)))
    path = folder / f"{part}_{kind}.npy"
    np.save(path, array)
    return path


def recorded(count: int, length: int = 60, seed: int = 0) -> np.ndarray:
    """``(N, 3, 300, 25, 2)`` in which clip i has ``length − i % 7`` frames and every third one body."""
    rng = np.random.default_rng(seed)
    array = np.zeros((count, 3, 300, 25, 2), np.float32)
    for index in range(count):
        array[index, :, : length - index % 7] = rng.normal(size=(3, length - index % 7, 25, 2))
        if index % 3 == 0:
            array[index, ..., 1] = 0
    return array


def aimclr_arrays(array: np.ndarray) -> np.ndarray:
    """What AimCLR makes of recorded clips."""
    recipe = Preprocessing.named("aimclr")
    return np.stack([recipe(np.ascontiguousarray(clip.transpose(3, 1, 2, 0)), NTU) for clip in array])


def config(source: Path, **changes: Any) -> PrepareConfig:
    return replace(PrepareConfig("aimclr", source.parent / "out.safetensors", source), **changes)


def test_preprocessed_arrays_are_taken_as_they_are(tmp_path: Path) -> None:
    raw = recorded(5)
    train, val = aimclr_arrays(raw[:3]), aimclr_arrays(raw[3:])
    write(tmp_path / "xview", "train", train, names(3, camera=2))
    write(tmp_path / "xview", "val", val, names(2, camera=1, start=3))
    report = prepare(config(tmp_path / "xview"))
    assert report.ok
    assert report.splits == {"xview": (3, 2)}
    store = Store.open(tmp_path / "out.safetensors")
    recipe = Preprocessing.named("aimclr")
    assert store.preprocessing == recipe
    assert len(store.classes) == 60
    assert store.names == (*names(3, camera=2), *names(2, camera=1, start=3))
    assert store.cameras.tolist() == [2, 2, 2, 1, 1]
    assert store.labels.tolist() == [0, 1, 2, 3, 4]
    assert np.isnan(store.fps).all()
    for clip, expected in zip(store, (*train, *val), strict=True):
        np.testing.assert_array_equal(clip.frames.transpose(3, 1, 2, 0), expected)
        np.testing.assert_array_equal(recipe(clip, NTU), expected)
        with pytest.raises(ValueError, match="preprocessed already"):
            Preprocessing.named("default")(clip, NTU)


def test_nothing_is_done_twice(tmp_path: Path) -> None:
    write(tmp_path / "xsub", "train", aimclr_arrays(recorded(2)), names(2))
    plain, asked = config(tmp_path / "xsub"), config(tmp_path / "xsub", preprocessing="aimclr", overwrite=True)
    prepare(plain)
    before = plain.out.read_bytes()
    prepare(asked)
    assert plain.out.read_bytes() == before
    with pytest.raises(ValueError, match="preprocessed already, by"):
        prepare(config(tmp_path / "xsub", preprocessing="small", overwrite=True))
    assert plain.out.read_bytes() == before


@pytest.mark.parametrize("kind", ["position", "data", "data_joint"])
def test_recorded_arrays_lose_their_padding_only(tmp_path: Path, kind: str) -> None:
    raw = recorded(8)
    raw[1, :, 4] = 0  # a frame without a body, between others
    write(tmp_path / "mine", "train", raw[:6], [f"{name}.skeleton" for name in names(6)], kind)
    write(tmp_path / "mine", "val", raw[6:].astype(np.float64), names(2, start=6), kind)
    assert prepare(config(tmp_path / "mine")).splits == {"published": (6, 2)}
    store = Store.open(tmp_path / "out.safetensors")
    assert store.preprocessing is None
    assert store.names == tuple(names(8))
    assert store.lengths.tolist() == [60 - i % 7 for i in range(8)]
    assert set(store.fps) == {30.0}
    for clip, array in zip(store, raw, strict=True):
        np.testing.assert_array_equal(clip.frames, array.transpose(3, 1, 2, 0)[:, : clip.length])
    applied = config(tmp_path / "mine", preprocessing="aimclr", overwrite=True)
    prepare(applied)
    for clip, expected in zip(Store.open(applied.out), aimclr_arrays(raw[:1]), strict=False):
        np.testing.assert_array_equal(clip.frames.transpose(3, 1, 2, 0), expected)
        break


def test_fifty_frames_elsewhere_are_not_taken_for_aimclrs(tmp_path: Path) -> None:
    raw = recorded(3, length=50)[:, :, :50]
    write(tmp_path / "mine", "train", raw, names(3))
    prepare(config(tmp_path / "mine"))
    assert Store.open(tmp_path / "out.safetensors").preprocessing is None
    mixed = aimclr_arrays(recorded(200))
    mixed[101, :, 7, 20] = 1
    write(tmp_path / "mixed", "train", mixed, names(200))
    report = prepare(config(tmp_path / "mixed", overwrite=True))
    assert "spine-shoulder at the origin" in report.failures[0].reason
    assert names(200)[101] in report.failures[0].reason


def test_one_array_and_its_labels(tmp_path: Path) -> None:
    array = write(tmp_path / "a", "val", recorded(2), ["walk 1", "run 1"], labels=np.array([3, 1]))
    prepare(config(array))
    store = Store.open(tmp_path / "a" / "out.safetensors")
    assert (store.names, store.labels.tolist()) == (("walk 1", "run 1"), [3, 1])
    assert store.classes == ("class 0", "class 1", "class 2", "class 3")
    other = array.rename(tmp_path / "a" / "other.npy")
    with pytest.raises(ValueError, match=r"labels must name the \.pkl"):
        prepare(config(other, overwrite=True))
    labels = tmp_path / "a" / "val_label.pkl"
    assert prepare(config(other, labels=labels, overwrite=True)).splits == {}
    with pytest.raises(ValueError, match="labels goes with a single array"):
        prepare(config(tmp_path / "a", labels=labels))


def test_a_clip_without_frames_fails_alone(tmp_path: Path) -> None:
    raw = recorded(5)
    raw[2] = 0
    write(tmp_path / "mine", "train", raw, names(5))
    report = prepare(config(tmp_path / "mine"))
    assert (report.clips, len(report.failures)) == (4, 1)
    assert f"none in 300 frames of clip '{names(5)[2]}'" in report.failures[0].reason
    leave_out = tmp_path / "leave-out.txt"
    leave_out.write_text(f"{names(5)[2]}.skeleton\r\n", encoding="utf-8-sig")
    report = prepare(config(tmp_path / "mine", exclude=leave_out, overwrite=True))
    assert (report.ok, report.clips, report.excluded) == (True, 4, (names(5)[2],))


def test_jobs_are_of_a_bounded_size(tmp_path: Path) -> None:
    from asma_fast.data.readers import reader

    array = np.zeros((600, 3, 2, 25, 1), np.float16)
    array[:, 0, 0, 3] = np.arange(1, 601)[:, None]
    write(tmp_path / "mine", "train", array, names(600))
    jobs = reader("aimclr").plan(config(tmp_path / "mine")).jobs
    assert [len(job.clips()) for job in jobs] == [256, 256, 88]
    assert len({job.source for job in jobs}) == 3
    clips = clips_of(jobs)
    assert [clip.frames[0, 0, 3, 0] for clip in clips] == list(range(1, 601))


def test_one_clip_can_be_read(tmp_path: Path) -> None:
    one = write(tmp_path / "one", "train", recorded(1), names(1))
    assert read_clip(one, "aimclr").name == names(1)[0]
    many = write(tmp_path / "many", "train", recorded(2), names(2))
    with pytest.raises(FormatError, match="one clip, found many"):
        read_clip(many, "aimclr")


@pytest.mark.parametrize(
    ("array", "labels", "message"),
    [
        (np.zeros((2, 3, 5, 24, 2)), None, r"shape \(N, 3, T, 25, 2\)"),
        (np.zeros((2, 2, 5, 25, 2)), None, r"shape \(N, 3, T, 25, 2\)"),
        (np.zeros((2, 3, 5, 25)), None, r"shape \(N, 3, T, 25, 2\)"),
        (np.zeros((2, 3, 5, 25, 3)), None, r"shape \(N, 3, T, 25, 2\)"),
        (np.zeros((2, 3, 5, 25, 2), bool), None, "found bool"),
        (np.ones((3, 3, 5, 25, 2)), None, "3 names and labels, as in train_position.npy, found 2"),
        (np.ones((2, 3, 5, 25, 2)), [1, -1], "label of clip"),
        (np.ones((2, 3, 5, 25, 2)), [1, 2.5], "label of clip"),
        (np.ones((2, 3, 5, 25, 2)), [1], "as many names as labels"),
        (np.ones((2, 3, 5, 25, 2)), "ab", "as many names as labels"),
        (np.full((2, 3, 5, 25, 2), 1e300), None, "float32 can hold"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, array: np.ndarray, labels: Any, message: str) -> None:
    write(tmp_path / "mine", "train", array, names(2), labels=labels)
    try:
        report = prepare(config(tmp_path / "mine"))
    except ValueError as error:
        told = str(error)
    else:
        told = report.failures[0].reason
    assert re.search(message, told)


def test_sources_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="source must be a folder of AimCLR's arrays"):
        prepare(config(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"expected train_position.npy, found notes.txt"):
        prepare(config(tmp_path / "empty"))
    write(tmp_path / "both" / "xsub", "train", recorded(1), names(1))
    write(tmp_path / "both" / "xview", "train", recorded(1), names(1))
    with pytest.raises(ValueError, match="found them in xsub, xview; name one"):
        prepare(config(tmp_path / "both"))
    write(tmp_path / "both" / "xsub", "train", recorded(1), names(1), "data")
    with pytest.raises(ValueError, match="name one as source"):
        prepare(config(tmp_path / "both" / "xsub"))
    (tmp_path / "both" / "xsub" / "train_label.pkl").unlink()
    with pytest.raises(OSError, match="train_label"):
        prepare(config(tmp_path / "both" / "xsub" / "train_data.npy"))


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    array = np.zeros((2, 3, 3, 25, 1), np.float32)
    array[:, :, :2] = rng.normal(size=(2, 3, 2, 25, 1))
    path = write(tmp_path / "mine", "train", array, names(2))
    label = path.with_name("train_label.pkl")
    originals = {path: path.read_bytes(), label: label.read_bytes()}
    from asma_fast.data.readers import reader

    refused = 0
    for file, content in [(file, copy) for file, original in originals.items() for copy in damaged(original, 1000)]:
        file.write_bytes(content)
        try:
            for job in reader("aimclr").plan(config(tmp_path / "mine")).jobs:
                for clip in clips_of([job]):
                    assert clip.frames.shape[0::2] == (1, 25)
                    assert clip.label is not None
        except ValueError:
            refused += 1
        file.write_bytes(originals[file])
    assert 500 < refused < 2000
