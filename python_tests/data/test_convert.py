"""convert: out and back gives the same bits, and what a format cannot hold is refused or told."""

from __future__ import annotations

import argparse
import csv
import json
import pickle
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mutations import damaged

from asma_fast.config import add_options, from_options
from asma_fast.data import Clip, FormatError, PrepareConfig, Preprocessing, Store, StoreWriter, prepare, split_by
from asma_fast.data import exports as exports_module
from asma_fast.data.convert import ConvertConfig, ConvertReport, convert
from asma_fast.data.layout_maps import layout_map
from asma_fast.skeleton import Skeleton

CLASSES = ("walk", "run, fast", "jump")


SIDED = "that classes tell left from right has no place there: read the files with prepare --sided"


def a_store(
    path: Path,
    layout: str = "ntu-rgb+d",
    *,
    clips: int = 7,
    bodies: int = 2,
    channels: int | None = None,
    length: int = 30,
    preprocessing: Preprocessing | None = None,
    skeleton: Skeleton | None = None,
    **changes: Any,
) -> Store:
    """A store of clips of different lengths, subjects, cameras and rates; every second one has one body."""
    skeleton = skeleton or Skeleton.named(layout)
    rng = np.random.default_rng(0)
    with StoreWriter(path, dataset="mine", skeleton=skeleton, sided=True, preprocessing=preprocessing) as writer:
        for index in range(clips):
            shape = (bodies, length - index, len(skeleton), channels or skeleton.dimensions)
            frames = rng.normal(size=shape).astype(np.float32)
            frames[1 + index % 2 :] = 0
            clip = Clip(frames, skeleton.name, label=index % 3, name=f"clip {index}", preprocessing=preprocessing)
            known = {
                "subject": 1 + index % 4,
                "camera": None if index == 2 else 1,
                "fps": None if index == 3 else 29.97,
            }
            if skeleton.dimensions == 2:
                known["image_size"] = (640, 480)
            writer.add(replace(clip, **{**known, **changes}))
        splits = {"xsub": split_by("subject", {1, 2}), "part": split_by("camera", {1})}
        return writer.finish(classes=CLASSES, splits=splits)


def converted(store: Store, out: Path, **changes: Any) -> ConvertReport:
    return convert(ConvertConfig(store.path, out, **changes))


def read_back(dataset: str, source: Path, **changes: Any) -> Store:
    config = PrepareConfig(dataset, source.parent / f"{dataset}.again", source, overwrite=True, **changes)
    report = prepare(config)
    assert report.ok, report
    return Store.open(config.out)


def assert_same(one: Store, other: Store, fields: tuple[str, ...], order: list[int] | None = None) -> None:
    assert len(one) == len(other)
    for field in fields:
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field), err_msg=field)
    for clip, again in zip(one, other, strict=True):
        assert clip.frames.shape == again.frames.shape
        assert np.ascontiguousarray(clip.frames).tobytes() == np.ascontiguousarray(again.frames).tobytes()


EVERYTHING = ("names", "labels", "subjects", "cameras", "lengths", "fps", "image_sizes", "classes", "splits", "sided")


@pytest.mark.parametrize(
    ("layout", "channels", "changes"),
    [
        ("ntu-rgb+d", 3, {}),
        ("ntu-rgb+d-pyskl", 3, {"label": None}),
        ("kinect-v1", 3, {"bodies": 1}),
        ("coco", 2, {}),
        ("coco", 3, {"bodies": 3}),
        ("mediapipe", 4, {}),
    ],
)
def test_pyskl_and_back(tmp_path: Path, layout: str, channels: int, changes: dict[str, Any]) -> None:
    store = a_store(tmp_path / "a.safetensors", layout, channels=channels, **changes)
    report = converted(store, tmp_path / "a.pkl", to="pyskl")
    assert (report.clips, report.notes) == (7, ())
    again = read_back("pyskl", tmp_path / "a.pkl")
    assert_same(store, again, EVERYTHING)
    assert again.skeleton == store.skeleton
    for split in store.splits:
        for one, other in zip(store.split(split), again.split(split), strict=True):
            np.testing.assert_array_equal(one, other)


def test_pyskl_of_a_layout_and_frame_labels_of_ones_own(tmp_path: Path) -> None:
    own = Skeleton(edges=((0, 1), (1, 2)), joints=("a", "b", "c"), name="own", centre=(1, 2), shoulders=((0,), (1, 2)))
    labels = np.array([-1, 0, 2, 1], np.int64)
    store = a_store(tmp_path / "a.safetensors", skeleton=own, clips=1, length=4, frame_labels=labels)
    converted(store, tmp_path / "a.pkl", to="pyskl")
    again = read_back("pyskl", tmp_path / "a.pkl")
    assert_same(store, again, (*EVERYTHING, "frame_labels"))
    assert again.skeleton == own


def test_pyskl_tells_what_was_applied(tmp_path: Path) -> None:
    recipe = Preprocessing.named("small")
    store = a_store(tmp_path / "a.safetensors", preprocessing=recipe)
    converted(store, tmp_path / "a.pkl", to="pyskl")
    assert read_back("pyskl", tmp_path / "a.pkl").preprocessing == recipe
    with pytest.raises(ValueError, match="preprocessed already"):
        read_back("pyskl", tmp_path / "a.pkl", preprocessing="aimclr")


def test_pyskl_is_what_pickle_reads(tmp_path: Path) -> None:
    store = a_store(tmp_path / "a.safetensors", "coco", channels=3)
    converted(store, tmp_path / "a.pkl", to="pyskl", split="xsub")
    content = pickle.loads((tmp_path / "a.pkl").read_bytes())
    train, val = ([store.names[i] for i in part] for part in store.split("xsub"))
    assert content["split"] == {"xsub_train": train, "xsub_val": val}
    assert [type(annotation["label"]) for annotation in content["annotations"]] == [int] * 7
    for clip, annotation in zip(store, content["annotations"], strict=True):
        assert (annotation["frame_dir"], annotation["total_frames"]) == (clip.name, clip.length)
        assert annotation["img_shape"] == annotation["original_shape"] == (480, 640)
        assert annotation["keypoint"].dtype == np.float32
        np.testing.assert_array_equal(annotation["keypoint"], clip.frames[..., :2])
        np.testing.assert_array_equal(annotation["keypoint_score"], clip.frames[..., 2])
    assert b"numpy._core" not in (tmp_path / "a.pkl").read_bytes()


@pytest.mark.parametrize("bodies", [1, 2, 3])
def test_ctrgcn_and_back(tmp_path: Path, bodies: int) -> None:
    store = a_store(tmp_path / "a.safetensors", bodies=bodies)
    report = converted(store, tmp_path / "a_cs.npz", to="ctrgcn", split="xsub")
    assert report.notes == (SIDED,)
    again = read_back("ctrgcn", tmp_path / "a_cs.npz")
    train, test = store.split("xsub")
    order = [*train, *test]
    assert again.names == tuple(
        [f"train_{i:05}" for i in range(len(train))] + [f"test_{i:05}" for i in range(len(test))]
    )
    assert [len(part) for part in again.split("xsub")] == [len(train), len(test)]
    assert len(again.classes) == 3
    for index, clip in zip(order, again, strict=True):
        assert clip.label == store[index].label
        both = min(2, bodies)
        assert np.array_equal(clip.frames[:both], store[index].frames[:both])
        assert not clip.frames[both:].any()
    with np.load(tmp_path / "a_cs.npz") as archive:
        assert archive["x_train"].shape == (len(train), 300, 150)
        assert archive["x_train"].dtype == np.float32
        np.testing.assert_array_equal(archive["y_test"].argmax(1), store.labels[test])
        feeder = archive["x_test"].reshape(len(test), 300, 2, 25, 3).transpose(0, 4, 1, 3, 2)
        first = store[test[0]]
        np.testing.assert_array_equal(feeder[0, :, : first.length, :, 0], first.frames[0].transpose(2, 0, 1))


def test_what_a_ctrgcn_archive_has_no_place_for(tmp_path: Path) -> None:
    store = a_store(tmp_path / "a.safetensors")
    report = converted(store, tmp_path / "a.npz", to="ctrgcn", split="part")
    assert report.notes == ("1 clips are in neither part of split part and were left out", SIDED)
    assert "left out" in str(report)
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({}, {}, "split must name the one that makes train and test: xsub, part"),
        ({"label": None}, {}, "clip 'clip 0': a CTR-GCN archive needs a label"),
        ({"length": 301}, {}, "clip 'clip 0': at most 300 frames fit, got 301"),
        ({"layout": "kinect-v1"}, {}, "25 joints in three dimensions, got 20 joints of kinect-v1"),
        ({"channels": 4}, {}, "with 4 channels"),
        ({"preprocessing": Preprocessing.named("small")}, {}, "cannot say that clips were preprocessed"),
    ]
    for index, (changes, settings, message) in enumerate(cases):
        other = a_store(tmp_path / f"{index}.safetensors", **changes)
        settings = settings if index == 0 else {"split": "xsub"}
        with pytest.raises(ValueError, match=message):
            converted(other, tmp_path / "b.npz", to="ctrgcn", **settings)
    assert not (tmp_path / "b.npz").exists()


def test_more_bodies_and_empty_last_frames(tmp_path: Path) -> None:
    skeleton = Skeleton.named("ntu-rgb+d")
    frames = np.ones((3, 5, 25, 3), np.float32)
    for name, present in (("three", 3), ("two", 2)):
        frames[present:] = 0
        frames[:, 4] = 0
        with StoreWriter(tmp_path / name, dataset="mine", skeleton=skeleton) as writer:
            writer.add(Clip(frames, skeleton.name, label=0, subject=1, name="only"))
            writer.finish(classes=CLASSES, splits={"xsub": split_by("subject", {1})})
    with pytest.raises(ValueError, match="clip 'only': at most 2 bodies fit"):
        converted(Store.open(tmp_path / "three"), tmp_path / "a.npz", to="ctrgcn")
    report = converted(Store.open(tmp_path / "two"), tmp_path / "a.npz", to="ctrgcn")
    assert "1 clips end in frames without a body" in report.notes[0]


@pytest.mark.parametrize(("layout", "channels"), [("ntu-rgb+d", 3), ("coco", 3), ("sbu", 3)])
def test_plain_arrays(tmp_path: Path, layout: str, channels: int) -> None:
    store = a_store(tmp_path / "a.safetensors", layout, channels=channels)
    report = converted(store, tmp_path / "folder", to="arrays")
    assert len(report.notes) == 1 + (layout == "coco")
    with (tmp_path / "folder" / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    parts = {name: [{i: "train" for i in t} | {i: "test" for i in e}] for name, (t, e) in
             ((name, store.split(name)) for name in store.splits)}  # fmt: skip
    for index, (clip, row) in enumerate(zip(store, rows, strict=True)):
        assert np.load(tmp_path / "folder" / row["file"]).tobytes() == np.ascontiguousarray(clip.frames).tobytes()
        label = None if clip.label is None else store.classes[clip.label]
        known = [clip.name, label, clip.subject, clip.camera, clip.fps]
        assert [row[k] for k in ("name", "label", "subject", "camera", "fps")] == [
            "" if value is None else str(value) for value in known
        ]
        for split in store.splits:
            assert row[f"split:{split}"] == parts[split][0].get(index, "")
    layout_file = json.loads((tmp_path / "folder" / "layout.json").read_text())
    assert Skeleton(**layout_file) == store.skeleton
    assert (tmp_path / "folder" / "classes.txt").read_text().splitlines() == list(CLASSES)


def test_arrays_and_back(tmp_path: Path) -> None:
    pytest.importorskip("asma_fast.data.readers.arrays")
    store = a_store(tmp_path / "a.safetensors")
    converted(store, tmp_path / "folder", to="arrays")
    again = read_back("arrays", tmp_path / "folder")
    assert_same(store, again, ("names", "labels", "subjects", "cameras", "lengths", "fps", "classes", "splits"))
    assert again.skeleton == store.skeleton
    for split in store.splits:
        for one, other in zip(store.split(split), again.split(split), strict=True):
            np.testing.assert_array_equal(one, other)


ALL = (*EVERYTHING, "frame_labels", "missing_joints", "dropped_bodies", "preprocessing", "skeleton")


@pytest.mark.parametrize(
    ("layout", "channels", "changes"),
    [
        ("ntu-rgb+d", 3, {}),
        ("ntu-rgb+d-pyskl", 3, {"label": None}),
        ("coco", 3, {"bodies": 3, "missing_joints": 4, "dropped_bodies": 1}),
        ("mediapipe", 5, {"bodies": 1, "fps": None}),
        ("ntu-rgb+d", 3, {"preprocessing": Preprocessing.named("small")}),
    ],
)
def test_npz_and_back(tmp_path: Path, layout: str, channels: int, changes: dict[str, Any]) -> None:
    store = a_store(tmp_path / "a.safetensors", layout, channels=channels, **changes)
    report = converted(store, tmp_path / "a.npz", to="npz")
    assert (report.clips, report.notes) == (7, ())
    again = read_back("arrays", tmp_path / "a.npz")
    assert_same(store, again, ALL)
    for split in store.splits:
        for one, other in zip(store.split(split), again.split(split), strict=True):
            np.testing.assert_array_equal(one, other)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        assert sorted({**archive}) == sorted(
            ("frames", "offsets", "names", "labels", "subjects", "cameras", "fps", "image_sizes", "missing_joints",
             "dropped_bodies", "classes", "layout", "about", "split_xsub", "split_part")
        )  # fmt: skip
        frames, offsets = archive["frames"], archive["offsets"]
        assert (frames.dtype, archive["split_xsub"].dtype, archive["layout"].shape) == (np.float32, np.int8, ())
        assert (archive["names"].tolist(), archive["classes"].tolist()) == (list(store.names), list(CLASSES))
        for index, clip in enumerate(store):
            np.testing.assert_array_equal(
                frames[offsets[index] : offsets[index + 1]], clip.frames.transpose(1, 0, 2, 3)
            )
        train, test = (np.flatnonzero(archive["split_part"] == code) for code in (0, 1))
        assert [train.tolist(), test.tolist()] == [part.tolist() for part in store.split("part")]
        assert json.loads(str(archive["layout"]))["name"] == layout
        assert json.loads(str(archive["about"]))["sided"] is True


def test_npz_of_a_layout_and_frame_labels_of_ones_own(tmp_path: Path) -> None:
    own = Skeleton(edges=((0, 1), (1, 2)), joints=("a", "b", "ç"), name="own", centre=(1, 2), shoulders=((0,), (1, 2)))
    labels = np.array([-1, 0, 2, 1], np.int64)
    store = a_store(tmp_path / "a.safetensors", skeleton=own, clips=1, length=4, frame_labels=labels)
    converted(store, tmp_path / "a", to="npz", split="part")
    again = read_back("arrays", tmp_path / "a")
    assert_same(store, again, tuple(field for field in ALL if field != "splits"))
    assert again.splits == ("part",)


def test_npz_of_unusual_names(tmp_path: Path) -> None:
    skeleton = Skeleton.named("coco")
    clip = Clip(np.ones((1, 2, 17, 2), np.float32), "coco", label=0)
    for index, (name, classes, splits, message) in enumerate(
        [
            ("a\0b \n é \U0001f600", ("", " x ", "ü"), ("a/b.npy", "Ω"), None),
            ("a\0", ("x",), (), "do not end in NUL, got 'a"),
            ("a", ("x\0",), (), "do not end in NUL"),
            ("a", ("x\ud800",), (), "Unicode names"),
            ("a" * 1001, ("x",), (), "at most 1000 characters"),
            ("a", ("x",), ("s\n",), "printable names"),
            ("a", ("x",), ("",), "printable names"),
        ]
    ):
        with StoreWriter(tmp_path / f"{index}.st", dataset="mine", skeleton=skeleton) as writer:
            writer.add(replace(clip, name=name))
            store = writer.finish(classes=classes, splits={split: split_by("subject", {1}) for split in splits})
        if message is None:
            converted(store, tmp_path / f"{index}.npz", to="npz")
            again = read_back("arrays", tmp_path / f"{index}.npz")
            assert (again.names, again.classes, again.splits) == ((name,), classes, splits)
            continue
        with pytest.raises(ValueError, match=message):
            converted(store, tmp_path / f"{index}.npz", to="npz")
        assert not (tmp_path / f"{index}.npz").exists()


def test_npz_clips_left_out_and_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from asma_fast.data.readers import npz_file

    monkeypatch.setattr(npz_file, "_JOB_BYTES", 20_000)
    store = a_store(tmp_path / "a.safetensors", clips=20)
    converted(store, tmp_path / "a.npz", to="npz")
    (tmp_path / "out.txt").write_text("clip 3\nclip 4\n")
    settings = {"exclude": tmp_path / "out.txt", "fps": 7.0}
    for workers in (1, 3):
        again = read_back("arrays", tmp_path / "a.npz", workers=workers, **settings)
        assert again.names == tuple(name for name in store.names if name not in ("clip 3", "clip 4"))
        for clip in again:
            other = store[store.names.index(clip.name)]
            assert (clip.info, clip.fps) == (other.info, other.fps)
            np.testing.assert_array_equal(clip.frames, other.frames)
    (tmp_path / "out.txt").write_text("\n".join(store.names))
    with pytest.raises(ValueError, match="exclude leaves out all 20 clips"):
        read_back("arrays", tmp_path / "a.npz", **settings)


def own_arrays() -> dict[str, Any]:
    """What somebody with two clips of COCO joints and scores might save."""
    rng = np.random.default_rng(0)
    return {
        "frames": rng.uniform(1, 2, (7, 1, 17, 3)),
        "offsets": np.array([0, 3, 7]),
        "names": np.array(["one", "two"]),
        "labels": np.array([0, 1], np.uint8),
        "classes": np.array(["walk", "run"]),
        "layout": np.array(json.dumps({"name": "mine", "edges": [[i, i + 1] for i in range(16)], "dimensions": 2})),
    }


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_npz_of_ones_own(tmp_path: Path, order: Any) -> None:
    arrays = own_arrays()
    arrays["frames"][1, 0, 5, 2] = 0.25
    arrays["frames"] = np.asarray(arrays["frames"], order=order)
    np.savez(tmp_path / "own.npz", **arrays)
    again = read_back("arrays", tmp_path / "own.npz", fps=25.0)
    assert (again.names, again.classes, again.splits) == (("one", "two"), ("walk", "run"), ())
    assert again.skeleton.name == "mine"
    assert (again.fps.tolist(), again.subjects.tolist(), again.missing_joints.tolist()) == ([25, 25], [-1, -1], [1, 0])
    both = np.concatenate([clip.frames for clip in again], axis=1).transpose(1, 0, 2, 3)
    np.testing.assert_array_equal(both, arrays["frames"].astype(np.float32))
    assert read_back("arrays", tmp_path / "own.npz", layout="coco").skeleton == Skeleton.named("coco")
    del arrays["layout"]
    np.savez(tmp_path / "own.npz", **arrays)
    assert read_back("arrays", tmp_path / "own.npz", layout="coco").skeleton == Skeleton.named("coco")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(({name: None}, f"expected an array {name}, found") for name in own_arrays()),
        ({"lables": np.zeros(2)}, "split_NAME, found 'lables'"),
        ({"frames": np.ones((7, 17, 3))}, "expected frames of numbers .F, M, 17, 2 or more., found float64 of shape"),
        ({"frames": np.ones((7, 1, 16, 3))}, r"found float64 of shape \(7, 1, 16, 3\)"),
        ({"frames": np.ones((7, 1, 17, 1))}, "2 or more"),
        ({"frames": np.ones((0, 1, 17, 3))}, "expected frames of numbers"),
        ({"frames": np.full((7, 1, 17, 3), "x")}, "expected frames of numbers"),
        ({"frames": np.ones((7, 1, 17, 3), object)}, "frames of numbers or strings, found dtype '|O'"),
        ({"frames": np.ones((8, 1, 17, 3))}, r"offsets ascending from 0 to 8, found \[0, 3, 7\]"),
        ({"offsets": np.array([0, 3, 3, 7])}, "offsets ascending"),
        ({"offsets": np.array([0, 5, 3, 7])}, "offsets ascending"),
        ({"offsets": np.array([1, 3, 7])}, "offsets ascending"),
        ({"offsets": np.array([0, 3, 9])}, "offsets from 0 to 7, found 9"),
        ({"offsets": np.array([0])}, "offsets ascending"),
        ({"offsets": np.array([0.0, 3, 7])}, "offsets: whole numbers of shape .any., found float64"),
        ({"offsets": np.array([0, 7])}, "a name for each of 1 clips, found 2 names"),
        ({"names": np.array(["one", "one"])}, "distinct names, found 'one' twice"),
        ({"names": np.array(["one", ""])}, "distinct names, found an empty one"),
        ({"names": np.array([b"one", b"two"])}, "names: texts of shape"),
        ({"names": np.array(["one", "two"], object)}, "numbers or strings, found dtype '|O'"),
        ({"names": np.array(["one", "t" * 1001])}, "names of at most 1000 characters"),
        ({"names": np.array([1, 2**31], "<u4").view("<U1")}, "names of Unicode characters"),
        ({"names": np.array([1, 0x110000], ">u4").view(">U1")}, "names of Unicode characters, found 0x110000"),
        ({"names": np.array(["one", "t\ud800"])}, "names of Unicode characters"),
        ({"labels": np.array([0, 2])}, "labels from -1 to 1, found 2"),
        ({"labels": np.array([0, 1, 1])}, r"labels: whole numbers of shape \(2\), found int64 of shape \(3,\)"),
        ({"labels": np.array([0, 1], np.uint64)}, "labels of int64, found uint64"),
        ({"subjects": np.array([-2, 1])}, "subjects from -1"),
        ({"fps": np.array([0.0, 1])}, "fps that are positive, or NaN, found 0.0"),
        ({"image_sizes": np.array([[1, 0], [1, 1]])}, "width and height"),
        ({"frame_labels": np.zeros(6, int)}, "frame_labels: whole numbers"),
        ({"frame_labels": np.full(7, 2)}, "frame_labels from -1 to 1, found 2"),
        ({"split_xsub": np.array([0, 2])}, "split_xsub from -1 to 1, found 2"),
        ({"layout": np.array("{")}, "JSON in layout"),
        ({"layout": np.array("[" * 100_000)}, "JSON in layout"),
        ({"layout": np.array('{"name": "x"}')}, "a JSON object with 'edges'"),
        ({"layout": np.array(["{}"])}, "layout: a text of JSON"),
        ({"about": np.array('{"sided": 1}')}, "sided true or false"),
        ({"about": np.array('{"other": 1}')}, "about to be a JSON object"),
        ({"about": np.array('{"preprocessing": {"frames": 50}}')}, "preprocessing as a recipe's fields"),
        ({"about": np.array('{"preprocessing": [1]}')}, "preprocessing as a recipe's fields"),
    ],
)
def test_other_npz_files_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    arrays = {name: array for name, array in {**own_arrays(), **changes}.items() if array is not None}
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(FormatError, match=message):
        read_back("arrays", tmp_path / "own.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["own.npz"]


def test_npz_frames_that_are_not_finite(tmp_path: Path) -> None:
    """They are told, or filled in where that is asked for; a signalling NaN is one like any other."""
    arrays = own_arrays()
    arrays["frames"] = arrays["frames"][..., :2].copy()
    arrays["frames"][4, 0, 3, 0] = np.array(0x7FF0000000000001, np.uint64).view(np.float64)
    arrays["fps"] = np.array([30, 0x7F800001], np.uint32).view(np.float32)
    arrays["fps"][0] = 30
    np.savez(tmp_path / "own.npz", **arrays)
    report = prepare(PrepareConfig("arrays", tmp_path / "a", tmp_path / "own.npz"))
    assert [report.clips, len(report.failures)] == [1, 1]
    assert "clip 'two': frames must be finite" in report.failures[0].reason
    filled = read_back("arrays", tmp_path / "own.npz", missing="fill")
    assert (filled.missing_joints.tolist(), filled.fps[0]) == ([0, 1], 30)
    assert np.isnan(filled.fps[1])


def test_npz_files_that_are_packed_or_in_the_wrong_place(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    np.savez_compressed(path, **own_arrays())
    with pytest.raises(FormatError, match="frames that are not compressed"):
        read_back("arrays", path)
    np.savez(path, **own_arrays())
    (tmp_path / "labels.csv").write_text("file,label\nx,1\n")
    with pytest.raises(ValueError, match="labels of its own"):
        read_back("arrays", path, labels=tmp_path / "labels.csv")
    (tmp_path / "folder").mkdir()
    path.rename(tmp_path / "folder" / "own.npz")
    report = prepare(PrepareConfig("arrays", tmp_path / "out", tmp_path / "folder", layout="coco"))
    assert "expected one clip, found a whole data set" in report.failures[0].reason
    (tmp_path / "own.npy").touch()
    with pytest.raises(ValueError, match=r"a folder, or a \.npz of a whole data set"):
        read_back("arrays", tmp_path / "own.npy")
    path.write_bytes(b"\x1f\x8b" + bytes(100))
    with pytest.raises(FormatError, match=r"a sound \.npz archive"):
        read_back("arrays", path)


def test_npz_in_little_memory(tmp_path: Path) -> None:
    """Frames are streamed both ways, and a small array that unpacks to a lot is refused before it does."""
    store = a_store(tmp_path / "a.safetensors", clips=100, length=1500)
    assert store.path.stat().st_size > 80 << 20
    for work in (
        lambda: converted(store, tmp_path / "a.npz", to="npz"),
        lambda: prepare(PrepareConfig("arrays", tmp_path / "again", tmp_path / "a.npz", workers=1)),
    ):
        tracemalloc.start()
        work()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 40 << 20, peak
    assert_same(store, Store.open(tmp_path / "again"), ALL)
    arrays = own_arrays()
    np.savez(tmp_path / "own.npz", **{name: array for name, array in arrays.items() if name != "names"})
    about = {"descr": "<U1000", "fortran_order": False, "shape": (1 << 15,)}
    packed = zipfile.ZipFile(tmp_path / "own.npz", "a", zipfile.ZIP_DEFLATED)
    with packed as archive, archive.open("names.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, about)
        for _ in range(125):
            member.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(FormatError, match="names at most 100 times its file"):
        read_back("arrays", tmp_path / "own.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20


def test_damaged_npz_files_are_read_or_refused(tmp_path: Path) -> None:
    own = Skeleton(edges=((0, 1),), joints=("a", "b"), name="own", dimensions=2)
    store = a_store(tmp_path / "a.safetensors", skeleton=own, clips=2, length=4)
    path = tmp_path / "a.npz"
    converted(store, path, to="npz")
    refused = []
    for content in damaged(path.read_bytes(), 500):
        path.write_bytes(content)
        try:
            report = prepare(PrepareConfig("arrays", tmp_path / "again", path, overwrite=True, workers=1))
        except FormatError as error:
            refused.append(error)
            continue
        assert report.ok, report
        assert_same(store, Store.open(tmp_path / "again"), ALL)
    assert 250 < len(refused) < 500
    assert {Path(error.file) for error in refused} == {path}
    assert max(len(str(error)) for error in refused) < 1000


def test_damaged_arrays_in_a_sound_archive(tmp_path: Path) -> None:
    """Where the checksums fit, a file is refused as a whole, or a clip is, or there is a store that opens."""
    path = tmp_path / "own.npz"
    more = {"fps": np.array([1.0, 2]), "split_a": np.array([0, 1], np.int8), "about": np.array('{"sided": true}')}
    np.savez(path, **own_arrays(), **more, image_sizes=np.array([[1, 2], [0, 0]]), frame_labels=np.zeros(7, int))
    with zipfile.ZipFile(path) as archive:
        whole = {name: archive.read(name) for name in archive.namelist()}
    refused, opened = [], 0
    for seed, name in enumerate(whole):
        for content in damaged(whole[name], 50, seed):
            with zipfile.ZipFile(path, "w") as archive:
                for other in whole:
                    archive.writestr(other, content if other == name else whole[other])
            try:
                report = prepare(PrepareConfig("arrays", tmp_path / "again", path, overwrite=True, workers=1))
            except FormatError as error:
                refused.append(str(error))
                continue
            assert all("float32" in failure.reason for failure in report.failures)
            if report.out is not None:
                opened += len(Store.open(report.out)) == 2 - len(report.failures)
    assert len(refused) > 400
    assert opened > 5
    assert max(map(len, refused)) < 1000


def test_folders_of_other_things_are_never_replaced(tmp_path: Path) -> None:
    store = a_store(tmp_path / "a.safetensors")
    folder = tmp_path / "folder"
    converted(store, folder, to="arrays")
    with pytest.raises(FileExistsError, match="overwrite was not asked for"):
        converted(store, folder, to="arrays")
    (folder / "clip 0.npy").write_bytes(b"old")
    converted(store, folder, to="arrays", overwrite=True)
    assert (folder / "clip 0.npy").read_bytes() != b"old"
    (folder / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="no earlier conversion"):
        converted(store, folder, to="arrays", overwrite=True)
    assert (folder / "thesis.tex").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "folder"]


@pytest.mark.parametrize("to", ["pyskl", "ctrgcn", "arrays", "npz"])
def test_a_failure_leaves_nothing_and_what_was_there(tmp_path: Path, to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = a_store(tmp_path / "a.safetensors")
    out = tmp_path / "out"
    converted(store, out, to=to, split="xsub")
    before = {path: path.read_bytes() for path in (out.rglob("*") if out.is_dir() else (out,))}
    with pytest.raises(FileExistsError):
        converted(store, out, to=to, split="xsub")
    replaced = converted(store, out, to=to, split="xsub", overwrite=True)
    assert replaced.clips == 7
    assert {path: path.read_bytes() for path in before} == before

    def full(*arguments: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exports_module, "sync_folder", full)
    for name in ("_annotation", "_ctrgcn_rows", "_rows"):
        monkeypatch.setattr(exports_module, name, full)
    monkeypatch.setattr(np, "save", full)
    for target in (out, tmp_path / "new"):
        with pytest.raises(OSError, match="No space left"):
            converted(store, target, to=to, split="xsub", overwrite=True)
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "out"]


def test_files_do_not_depend_on_when_they_are_written(tmp_path: Path) -> None:
    store = a_store(tmp_path / "a.safetensors")
    for to in ("pyskl", "npz", "ctrgcn"):
        for out in ("one", "two"):
            converted(store, tmp_path / out, to=to, split="xsub", overwrite=True)
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    with zipfile.ZipFile(tmp_path / "one") as archive:
        assert archive.testzip() is None


MAPPED = [
    ("ntu-rgb+d", "kinect-v1", {"hip centre": "spine base", "spine": "spine mid", "shoulder centre": "spine shoulder"}),
    ("ntu-rgb+d", "utd-mhad", {"hip centre": "spine base", "spine": "spine mid", "shoulder centre": "spine shoulder"}),
    ("ntu-rgb+d", "common-15", {"neck": "spine shoulder", "torso": "spine mid"}),
    ("ntu-rgb+d", "ntu-rgb+d-pyskl", {}),
    ("kinect-v1", "utd-mhad", {}),
    ("utd-mhad", "kinect-v1", {}),
    ("kinect-v1", "common-15", {"neck": "shoulder centre", "torso": "spine"}),
    ("openpose", "coco", {}),
]


@pytest.mark.parametrize(("old", "new", "names"), MAPPED)
def test_joints_keep_their_bits_in_another_layout(tmp_path: Path, old: str, new: str, names: dict[str, str]) -> None:
    store = a_store(tmp_path / "a.safetensors", old)
    converted(store, tmp_path / "b.safetensors", layout=new)
    other = Store.open(tmp_path / "b.safetensors")
    before, after = Skeleton.named(old), Skeleton.named(new)
    assert other.skeleton == after
    order = [before.joints.index(names.get(joint, joint)) for joint in after.joints]
    for clip, mapped in zip(store, other, strict=True):
        assert np.ascontiguousarray(clip.frames[:, :, order]).tobytes() == np.ascontiguousarray(mapped.frames).tobytes()
        assert replace(clip, frames=mapped.frames, skeleton=new).info == mapped.info
    for field in (*EVERYTHING, "missing_joints", "dropped_bodies", "dataset", "body_rule"):
        np.testing.assert_array_equal(getattr(store, field), getattr(other, field))
    for split in store.splits:
        assert [part.tolist() for part in store.split(split)] == [part.tolist() for part in other.split(split)]


def test_a_permutation_there_and_back_is_nothing(tmp_path: Path) -> None:
    store = a_store(tmp_path / "a.safetensors", "kinect-v1")
    converted(store, tmp_path / "b.safetensors", layout="utd-mhad")
    converted(Store.open(tmp_path / "b.safetensors"), tmp_path / "c.safetensors", layout="kinect-v1")
    assert (tmp_path / "c.safetensors").read_bytes() == store.path.read_bytes()


def test_units_turns_and_virtual_joints() -> None:
    rng = np.random.default_rng(0)
    frames = rng.normal(size=(2, 3, 33, 4)).astype(np.float32)
    frames[1] = 0
    mediapipe, common = Skeleton.named("mediapipe"), Skeleton.named("common-15")
    mapped = layout_map(mediapipe, common)(frames)
    ears = frames[0][:, [7, 8]]
    np.testing.assert_allclose(mapped[0, :, 0, :3], ears[..., :3].mean(axis=1) * [-1, -1, 1], rtol=1e-6)
    np.testing.assert_array_equal(mapped[0, :, 0, 3], ears[..., 3].min(axis=1))
    assert mapped[1].tobytes() == bytes(mapped[1].nbytes)
    knees = mapped[0, :, common.joints.index("left knee"), :3]
    np.testing.assert_array_equal(knees, frames[0, :, 25, :3] * np.float32([-1, -1, 1]))
    bodies = rng.normal(size=(2, 3, 25, 3)).astype(np.float32)
    ntu = Skeleton.named("ntu-rgb+d")
    millimetres = layout_map(ntu, Skeleton.named("sbu"))(bodies)
    np.testing.assert_allclose(millimetres, layout_map(ntu, common)(bodies) * 1000.0, rtol=1e-6)
    back = layout_map(Skeleton.named("sbu"), common)(millimetres)
    np.testing.assert_allclose(back, layout_map(ntu, common)(bodies), rtol=1e-6)
    neck = layout_map(Skeleton.named("coco"), Skeleton.named("openpose"))(rng.normal(size=(1, 2, 17, 2)).astype("f4"))
    assert neck.shape == (1, 2, 18, 2)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("common-15", "kinect-v1", "from common-15: sbu"),
        ("coco", "common-15", "2-D joints do not become 3-D ones"),
        ("mediapipe", "coco", "3-D joints do not become 2-D ones"),
        ("ntu-rgb+d", "unheard-of", "layout must be one of"),
    ],
)
def test_layouts_without_a_map(tmp_path: Path, old: str, new: str, message: str) -> None:
    store = a_store(tmp_path / "a.safetensors", old)
    with pytest.raises(ValueError, match=message):
        converted(store, tmp_path / "b.safetensors", layout=new)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors"]


def test_a_layout_on_the_way(tmp_path: Path) -> None:
    store = a_store(tmp_path / "a.safetensors")
    converted(store, tmp_path / "a.pkl", to="pyskl", layout="common-15")
    again = read_back("pyskl", tmp_path / "a.pkl")
    assert again.skeleton == Skeleton.named("common-15")
    np.testing.assert_array_equal(again[0].frames[:, :, 1], store[0].frames[:, :, 20])


def test_bad_configurations(tmp_path: Path) -> None:
    store = a_store(tmp_path / "a.safetensors")
    applied = a_store(tmp_path / "b.safetensors", preprocessing=Preprocessing.named("small"))
    cases: list[tuple[Store, dict[str, Any], str]] = [
        (store, {"to": "c3d"}, "to must be one of store, pyskl, ctrgcn, arrays, npz; got 'c3d'"),
        (store, {"to": "pyskl", "split": "nowhere"}, "split must be one of xsub, part"),
        (store, {}, "layout must name another layout than the store's, ntu-rgb\\+d"),
        (store, {"out": store.path, "to": "pyskl", "overwrite": True}, "out must be another file than the store"),
        (applied, {"layout": "kinect-v1"}, "a layout is changed before preprocessing"),
        (applied, {"to": "arrays"}, "plain arrays cannot say that clips were preprocessed"),
    ]
    for one, changes, message in cases:
        with pytest.raises(ValueError, match=message):
            converted(one, **{"out": tmp_path / "out", **changes})
    with pytest.raises(FileNotFoundError):
        convert(ConvertConfig(tmp_path / "nowhere", tmp_path / "out"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_genuine_recordings(recordings: Path, tmp_path: Path) -> None:
    """NTU RGB+D's own files to each format and back, and in the layout of Kinect v1."""
    prepare(PrepareConfig("ntu", tmp_path / "ntu.safetensors", recordings / "ntu-raw"))
    store = Store.open(tmp_path / "ntu.safetensors")
    converted(store, tmp_path / "a.pkl", to="pyskl")
    assert_same(store, read_back("pyskl", tmp_path / "a.pkl"), EVERYTHING[:-1])
    converted(store, tmp_path / "a.npz", to="ctrgcn", split="xview")
    again = read_back("ctrgcn", tmp_path / "a.npz")
    for index, clip in zip([*store.split("xview")[0], *store.split("xview")[1]], again, strict=True):
        np.testing.assert_array_equal(clip.frames, store[index].frames[:, : clip.length])
        assert not store[index].frames[:, clip.length :].any()
    converted(store, tmp_path / "whole.npz", to="npz")
    assert_same(store, read_back("arrays", tmp_path / "whole.npz"), ALL)
    converted(store, tmp_path / "kinect.safetensors", layout="kinect-v1")
    assert Store.open(tmp_path / "kinect.safetensors")[0].frames.shape[2] == 20


def test_a_command_line_can_say_all_of_it() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, ConvertConfig)
    words = ["a.st", "b.npz", "--to", "ctrgcn", "--layout", "ntu-rgb+d", "--split", "xsub", "--overwrite"]
    config = from_options(ConvertConfig, parser.parse_args(words))
    assert config == ConvertConfig(Path("a.st"), Path("b.npz"), "ctrgcn", "ntu-rgb+d", "xsub", True)


def test_classes_named_by_numbers_stay_what_they_are(tmp_path: Path) -> None:
    """Label 0 of classes 1, 2, 3 must not come back as class 0's neighbour."""
    skeleton = Skeleton.named("sbu")
    with StoreWriter(tmp_path / "a", dataset="mine", skeleton=skeleton) as writer:
        for index in range(6):
            frames = np.full((1, 2, 15, 3), 1 + index, np.float32)
            writer.add(Clip(frames, "sbu", label=index % 3, name=f"clip{index}"))
        store = writer.finish(classes=("1", "2", "3"))
    converted(store, tmp_path / "folder", to="arrays")
    prepare(PrepareConfig("arrays", tmp_path / "b", tmp_path / "folder"))
    back = Store.open(tmp_path / "b")
    assert [back.classes[label] for label in back.labels] == [store.classes[label] for label in store.labels]
