"""The store: what goes in comes out, and damage never does."""

from __future__ import annotations

import json
import os
import pickle
import re
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asma_fast import Skeleton
from asma_fast.data import Clip, Preprocessing, Store, StoreError, StoreWriter, split_by
from asma_fast.data.work_in_progress import WorkInProgress

NTU = Skeleton.named("ntu-rgb+d")


def clips(count: int = 5, seed: int = 0) -> list[Clip]:
    rng = np.random.default_rng(seed)
    return [
        Clip(
            rng.normal(size=(2, int(rng.integers(1, 9)), 25, 3)).astype(np.float32),
            "ntu-rgb+d",
            label=index % 3,
            subject=None if index == 1 else index,
            camera=None,
            name=f"clip{index}",
            fps=30.0,
        )
        for index in range(count)
    ]


def writer(path: Path, **changes: object) -> StoreWriter:
    return StoreWriter(path, **{"dataset": "mine", "skeleton": NTU, **changes})  # type: ignore[arg-type]


def write(path: Path, recorded: list[Clip], **changes: object) -> Store:
    with writer(path, **changes) as into:
        for clip in recorded:
            into.add(clip)
        return into.finish(classes=("a", "b", "c"), splits={"xsub": split_by("subject", {0, 3})})


def same(store: Store, recorded: list[Clip]) -> None:
    assert len(store) == len(recorded)
    for got, put in zip(store, recorded, strict=True):
        np.testing.assert_array_equal(got.frames, put.frames)
        assert (got.info, got.skeleton, got.fps) == (put.info, put.skeleton, put.fps)


def test_round_trip(tmp_path: Path) -> None:
    recorded = clips()
    store = write(tmp_path / "new" / "a.safetensors", recorded, sided=True)
    same(store, recorded)
    assert store.skeleton == NTU
    assert (store.dataset, store.classes, store.body_rule, store.sided) == ("mine", ("a", "b", "c"), "file-order", True)
    assert store.labels.tolist() == [0, 1, 2, 0, 1]
    assert store.subjects.tolist() == [0, -1, 2, 3, 4]
    assert store.cameras.tolist() == [-1] * 5
    assert store.lengths.tolist() == [clip.length for clip in recorded]
    train, test = store.split("xsub")
    assert (train.tolist(), test.tolist()) == ([0, 3], [2, 4])
    assert store.splits == ("xsub",)
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "a.safetensors"]


def test_frames_are_read_only_views_of_the_file(tmp_path: Path) -> None:
    frames = write(tmp_path / "a", clips())[2].frames
    assert not frames.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        frames[0, 0, 0, 0] = 1


def test_frames_come_alone_too(tmp_path: Path) -> None:
    recorded = clips()
    store = write(tmp_path / "a", recorded)
    for index in (0, 3, -1):
        np.testing.assert_array_equal(store.frames(index), recorded[index].frames.transpose(1, 0, 2, 3))
    for index in (5, -6):
        with pytest.raises(IndexError):
            store.frames(index)


def test_indices_are_a_sequence_s(tmp_path: Path) -> None:
    store = write(tmp_path / "a", clips())
    assert store[-1].name == "clip4"
    with pytest.raises(IndexError):
        store[5]
    with pytest.raises(ValueError, match="split must be one of xsub; got 'xview'"):
        store.split("xview")


def test_any_safetensors_reader_reads_it(tmp_path: Path) -> None:
    load_file = pytest.importorskip("safetensors.numpy").load_file
    recorded = clips()
    tensors = load_file(write(tmp_path / "a", recorded).path)
    np.testing.assert_array_equal(tensors["offsets"], np.cumsum([0, *(clip.length for clip in recorded)]))
    stacked = np.concatenate([clip.frames.transpose(1, 0, 2, 3) for clip in recorded])
    np.testing.assert_array_equal(tensors["frames"], stacked)


def test_pickling_reopens(tmp_path: Path) -> None:
    store = write(tmp_path / "a", clips())
    packed = pickle.dumps(store)
    assert len(packed) < 500
    same(pickle.loads(packed), clips())


def test_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    first = write(tmp_path / "a", clips()).fingerprint
    assert write(tmp_path / "b", clips()).fingerprint == first
    assert write(tmp_path / "c", clips(seed=1)).fingerprint != first
    assert write(tmp_path / "d", clips(4)).fingerprint != first


def test_own_skeletons_and_preprocessed_frames_survive(tmp_path: Path) -> None:
    own = Skeleton(edges=[(0, 1), (1, 2)], joints=("left hip", "spine", "right hip"), name="tiny", pairs=((0, 2),))
    frames = np.ones((1, 4, 3, 3), np.float32)
    recipe = Preprocessing(frames=4, rotate="none")
    with StoreWriter(tmp_path / "a", dataset="own", skeleton=own, preprocessing=recipe) as into:
        into.add(Clip(frames, "tiny", name="x", preprocessing=recipe))
        store = into.finish(classes=())
    assert store.skeleton == own
    assert store.preprocessing == store[0].preprocessing == recipe
    assert store.splits == ()
    np.testing.assert_array_equal(recipe(store[0], own)[:, :, :, 0], 1)


def test_clips_of_one_source_agree_on_frame_labels(tmp_path: Path) -> None:
    first, second = clips(2)
    labelled = replace(second, frame_labels=np.zeros(second.length, np.int64))
    with writer(tmp_path / "a") as into:
        for pair in ((first, labelled), (labelled, first)):
            with pytest.raises(ValueError, match="frame_labels, or none"):
                into.add(*pair)
        into.add(first)
        with pytest.raises(ValueError, match="frame_labels, or none"):
            into.add(labelled)


@pytest.mark.parametrize("names", [("walk", "run"), ("übung 1", "歩く"), (os.fsdecode(b"caf\xe9"), "plain")])
def test_any_name_survives(tmp_path: Path, names: tuple[str, ...]) -> None:
    recorded = [replace(clip, name=name) for clip, name in zip(clips(2), names, strict=True)]
    store = write(tmp_path / "a", recorded)
    assert store.names == names
    same(pickle.loads(pickle.dumps(store)), recorded)


def test_order_can_be_chosen(tmp_path: Path) -> None:
    recorded = clips()
    with writer(tmp_path / "a") as into:
        into.add(recorded[3], recorded[1], source="s2")
        into.add(recorded[0], source="s1")
        assert into.finished == {"s2": "", "s1": ""}
        with pytest.raises(ValueError, match="order must name every source once"):
            into.finish(classes="abc", order=["s1"])
        same(into.finish(classes="abc", order=["s1", "s2"]), [recorded[0], recorded[3], recorded[1]])


def test_clips_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    good, other = clips(2)
    zeros = np.zeros((2, 3, 25, 3), np.float32)
    with writer(tmp_path / "a") as into:
        into.add(good)
        for clip, message in (
            (good, "distinct"),
            (Clip(zeros, "ntu-rgb+d", fps=30.0), "distinct and not empty"),
            (Clip(zeros, "sbu", name="x", fps=30.0), "skeleton must be 'ntu-rgb+d'"),
            (Clip(zeros, "ntu-rgb+d", name="x", fps=-25.0), "fps must be None or positive"),
            (Clip(zeros[:, :, :20], "ntu-rgb+d", name="x", fps=30.0), "must have the same"),
            (Clip(zeros[:1], "ntu-rgb+d", name="x", fps=30.0), "must have the same"),
            (Clip(np.full_like(zeros, np.inf), "ntu-rgb+d", name="x", fps=30.0), "finite"),
            (Clip(zeros, "ntu-rgb+d", name="x", fps=30.0, label=-2), "label must be None or at least 0"),
        ):
            with pytest.raises(ValueError, match=re.escape(message)):
                into.add(clip, source=f"another {message}")
        with pytest.raises(ValueError, match="source 'clip0' is in the store"):
            into.add(other, source="clip0")
        with pytest.raises(ValueError, match="at least one clip"):
            into.add()
        into.add(Clip(zeros, "ntu-rgb+d", name="x", fps=30.0, label=3))
        with pytest.raises(ValueError, match="'x' has label 3, classes 3"):
            into.finish(classes=("a", "b", "c"))
        assert len(into.finish(classes=("a", "b", "c", "d"))) == 2


def test_empty_store_is_refused(tmp_path: Path) -> None:
    with writer(tmp_path / "a") as into:
        with pytest.raises(ValueError, match="at least one clip"):
            into.finish(classes=())
        into.discard()
    assert not list(tmp_path.iterdir())


def test_an_existing_store_is_not_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write(path, clips())
    with pytest.raises(FileExistsError, match="overwrite was not asked for"):
        writer(path)
    same(write(path, clips(seed=1), overwrite=True), clips(seed=1))


def test_what_a_writer_killed_after_the_rename_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, partial = tmp_path / "a", tmp_path / "a.partial"
    with monkeypatch.context() as killed:
        killed.setattr(WorkInProgress, "discard", WorkInProgress.close)
        write(path, clips())
    assert partial.exists()
    with pytest.raises(FileExistsError):
        writer(path)
    assert not partial.exists()
    same(Store.open(path), clips())


def test_work_on_another_store_outlives_a_writer_that_may_not_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write(path, clips())
    with writer(path, overwrite=True) as interrupted:
        interrupted.add(clips(seed=1)[0])
    with pytest.raises(FileExistsError):
        writer(path)
    with writer(path, overwrite=True) as resumed:
        assert list(resumed.finished) == ["clip0"]


@pytest.mark.parametrize("line", [{"other": 1}, {"forget": "nothing"}, [1], {"source": "x", "clips": 3}])
def test_journal_lines_of_another_release_are_not_taken_up(tmp_path: Path, line: object) -> None:
    with writer(tmp_path / "a") as first:
        first.add(clips()[0])
    text = json.dumps(line)
    with (tmp_path / "a.partial" / "journal").open("a") as journal:
        journal.write(f"{zlib.crc32(text.encode()):08x} {text}\n")
    with writer(tmp_path / "a") as second:
        assert list(second.finished) == ["clip0"]


def test_a_second_writer_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with writer(path) as first:
        first.add(clips()[0])
        with pytest.raises(StoreError, match=r"being written by another process \(pid \d+\)"):
            writer(path)
    with writer(path) as second:
        assert list(second.finished) == ["clip0"]


def test_an_interrupted_writer_is_resumed(tmp_path: Path) -> None:
    recorded = clips()
    with writer(tmp_path / "a") as first:
        first.add(recorded[0], token="v1")
        first.add(recorded[1], recorded[2], source="both")
        first.forget("clip0")
    assert not (tmp_path / "a").exists()
    with writer(tmp_path / "a") as second:
        assert second.finished == {"both": ""}
        second.add(recorded[0])
        for clip in recorded[3:]:
            second.add(clip)
        order = ["clip0", "both", "clip3", "clip4"]
        same(second.finish(classes="abc", order=order), recorded)


def test_work_of_another_description_is_dropped(tmp_path: Path) -> None:
    for changes in ({}, {"origin": "elsewhere"}, {"sided": True}, {"dataset": "other"}):
        with writer(tmp_path / "a", **changes) as into:
            assert not into.finished
            into.add(clips()[0])


@pytest.mark.parametrize("file", ["journal", "frames", "about.json"])
def test_damaged_work_is_never_taken_up(tmp_path: Path, file: str) -> None:
    """However a piece is cut or altered, what is taken up is a sound beginning, and the store comes out the same."""
    recorded = clips(4)
    whole = write(tmp_path / "whole", recorded).path.read_bytes()
    rng = np.random.default_rng(2)
    path, taken_up = tmp_path / "a", set()
    for trial in range(40):
        with writer(path, overwrite=True) as first:
            for clip in recorded[len(first.finished) :]:
                first.add(clip)
        piece = tmp_path / "a.partial" / file
        content = bytearray(piece.read_bytes())
        if trial % 3 == 0:
            del content[rng.integers(len(content)) :]
        elif trial % 3 == 1:
            content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        else:
            content += bytes(rng.integers(0, 256, 30, dtype=np.uint8))
        piece.write_bytes(content)
        with writer(path, overwrite=True) as second:
            taken_up.add(len(second.finished))
            assert list(second.finished) == [clip.name for clip in recorded[: len(second.finished)]]
            for clip in recorded[len(second.finished) :]:
                second.add(clip)
            second.finish(classes=("a", "b", "c"), splits={"xsub": split_by("subject", {0, 3})})
        assert path.read_bytes() == whole
    assert (taken_up == {0}) == (file == "about.json")


def test_truncated_and_lengthened_stores_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a", clips()).path
    content = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 300, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(StoreError, match=r"a: "):
            Store.open(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(StoreError, match=rf"expected {len(content)} bytes, found {len(content) + 1}"):
        Store.open(path)


def test_no_altered_byte_passes_for_other_content(tmp_path: Path) -> None:
    recorded = clips(2)
    path = write(tmp_path / "a", recorded).path
    content = path.read_bytes()
    rng = np.random.default_rng(3)
    refused, places = 0, rng.permutation(len(content))[:1000]
    for place in places:
        altered = bytearray(content)
        altered[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(altered)
        try:
            store = Store.open(path)
            read = list(store)
        except StoreError:
            refused += 1
            continue
        for got, put in zip(read, recorded, strict=True):
            np.testing.assert_array_equal(got.frames, put.frames)
            assert got.info == put.info
        assert store.split("xsub")[0].tolist() == [0]
    assert refused > 0.97 * len(places)


def test_other_files_are_refused(tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.numpy").save_file
    path = tmp_path / "a"
    save_file({"weights": np.zeros(3, np.float16)}, path)
    with pytest.raises(StoreError, match="found 'F16'"):
        Store.open(path)
    save_file({"weights": np.zeros(3, np.float32)}, path)
    with pytest.raises(StoreError, match="but no store"):
        Store.open(path)
    path.write_bytes(b"PK\x03\x04" * 100)
    with pytest.raises(StoreError, match="expected a header"):
        Store.open(path)
    with pytest.raises(FileNotFoundError):
        Store.open(tmp_path / "nowhere")
