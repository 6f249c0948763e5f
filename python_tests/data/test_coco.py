"""The reader of keypoints in COCO's formats."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import damaged, read_or_refuse

from asma_fast.data import FormatError, PrepareConfig, Store, prepare, read_clip


def result(rng: np.random.Generator, image: int | str, score: float | None = 0.9, **more: Any) -> dict[str, Any]:
    keypoints = np.column_stack([rng.uniform(1, 640, (17, 2)), rng.uniform(0.5, 1, 17)]).round(3).ravel().tolist()
    known = {} if score is None else {"score": score}
    return {"image_id": image, "category_id": 1, "keypoints": keypoints, **known, **more}


def write(path: Path, record: Any) -> Path:
    path.write_text(json.dumps(record))
    return path


def pose(entry: dict[str, Any]) -> np.ndarray:
    return np.float32(entry["keypoints"]).reshape(17, 3)


def test_results_by_image_and_score(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    late, low, high, middle = (result(rng, i, s) for i, s in ((12, 0.5), (3, 0.1), (3, 0.9), (3, 0.4)))
    clip = read_clip(write(tmp_path / "a.json", [late, low, high, middle]), "coco")
    assert (clip.frames.shape, clip.name, clip.image_size, clip.missing) == ((2, 2, 17, 3), "a", None, None)
    for body, time, entry in ((0, 0, high), (1, 0, middle), (0, 1, late)):
        np.testing.assert_array_equal(clip.frames[body, time], pose(entry))
    assert not clip.frames[1, 1].any()
    assert read_clip(tmp_path / "a.json", "coco", bodies="first").frames.shape[0] == 1


def test_image_names_are_ordered_by_their_numbers(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    names = ["v2_9.jpg", "v2_10.jpg", "v10_1.jpg", "v10_011.jpg", "v10_12.jpg"]
    entries = [result(rng, name) for name in names]
    clip = read_clip(write(tmp_path / "a.json", entries[::-1]), "coco")
    np.testing.assert_array_equal(clip.frames[0], np.stack([pose(entry) for entry in entries]))


def test_annotations_have_frames_without_a_body_and_a_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    entries = [result(rng, image, None) for image in (1, 3, 3, 3)]
    entries[0]["keypoints"][5::3] = [2] * 16
    entries[0]["keypoints"][:3] = [0, 0, 0]
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480} for i in (4, 3, 1, 2)]
    clip = read_clip(write(tmp_path / "a.json", {"images": images, "annotations": entries}), "coco")
    assert (clip.length, clip.image_size) == (4, (640, 480))
    assert clip.frames.any(axis=(2, 3)).tolist() == [[True, False, True, False], [False, False, True, False]]
    np.testing.assert_array_equal(clip.frames[1, 2], pose(entries[2]))
    assert clip.missing is not None
    assert np.argwhere(clip.missing).tolist() == [[0, 0, 0]]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**12), st.floats(0, 1)), min_size=1, max_size=12), st.randoms())
def test_order_in_the_file_does_not_matter(tmp_path_factory: Any, keys: list[tuple[int, float]], shuffle: Any) -> None:
    rng, folder = np.random.default_rng(3), tmp_path_factory.mktemp("clips")
    entries = [result(rng, image, score) for image, score in dict.fromkeys(keys)]
    before = read_clip(write(folder / "a.json", entries), "coco")
    shuffle.shuffle(entries)
    after = read_clip(write(folder / "b.json", entries), "coco")
    np.testing.assert_array_equal(before.frames, after.frames)
    assert before.length == len({image for image, _ in keys})


def test_prepare_into_a_store(tmp_path: Path) -> None:
    rng, raw = np.random.default_rng(4), tmp_path / "raw"
    raw.mkdir()
    images = [{"id": i, "width": 320, "height": 240} for i in range(3)]
    for name in ("a", "b"):
        write(raw / f"{name}.json", {"images": images, "annotations": [result(rng, 1), result(rng, 2)]})
    write(raw / "c.json", [result(rng, 5)])
    write(raw / "d.json", [{}])
    (tmp_path / "mine.csv").write_text("file,label\na.json,1\nb,0\nc,\nd.json,\n")
    out = tmp_path / "out.safetensors"
    report = prepare(PrepareConfig("coco", out, raw, labels=tmp_path / "mine.csv", fps=25))
    assert [failure.file for failure in report.failures] == ["d.json"]
    store = Store.open(out)
    assert (store.names, store.classes, store.labels.tolist()) == (("a", "b", "c"), ("0", "1"), [1, 0, -1])
    assert store.image_sizes.tolist() == [[320, 240], [320, 240], [0, 0]]
    assert (store.lengths.tolist(), store.fps.tolist()) == ([3, 3, 1], [25, 25, 25])
    assert store.skeleton.name == "coco"


RNG = np.random.default_rng(5)
ONE = result(RNG, 1)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, "JSON list of results"),
        ([], "1 to 1,000,000 frames, found 0"),
        ([{**ONE, "keypoints": [1.0] * 50}], "51 numbers, found 50"),
        ([{**ONE, "keypoints": None}], "51 numbers, found None"),
        ([{**ONE, "keypoints": [1.0] * 50 + ["1"]}], "found '1'"),
        ([{**ONE, "keypoints": [True] * 51}], "found True"),
        ([{**ONE, "image_id": 1.5}], "'image_id', a number or a text"),
        ([ONE, {**ONE, "image_id": "1"}], "all numbers, or all texts"),
        ([ONE, result(RNG, 2, None)], "a 'score' for every body or for none"),
        ([{**ONE, "score": "high"}], "a number for 'score'"),
        ([ONE, {**ONE, "category_id": 2}], "one category_id"),
        ({"annotations": [ONE]}, "a list 'images'"),
        ({"annotations": [ONE], "images": [{"id": 2}]}, "image_ids of 'images', found 1"),
        ({"annotations": [ONE], "images": [{"id": 1}, {"id": 1}]}, "distinct ids"),
        ({"annotations": [ONE], "images": [{"id": 1, "width": 3, "height": 0}]}, "width and height from 1"),
        ({"annotations": [ONE], "images": [{"id": 1, "width": 3}, {"id": 2}]}, "images of one size"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, record: Any, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read_clip(write(tmp_path / "a.json", record), "coco")


def test_byte_order_marks_and_line_ends_do_not_matter(tmp_path: Path) -> None:
    entries = [result(np.random.default_rng(7), image) for image in range(3)]
    path = write(tmp_path / "a.json", entries)
    before = read_clip(path, "coco").frames
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(entries, indent=1).replace("\n", "\r\n").encode())
    np.testing.assert_array_equal(read_clip(path, "coco").frames, before)
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(FormatError, match="expected plain text, found a file compressed by gzip"):
        read_clip(path, "coco")


@pytest.mark.parametrize("form", ["results", "annotations"])
def test_damaged_files_are_read_or_refused(tmp_path: Path, form: str) -> None:
    rng, path = np.random.default_rng(6), tmp_path / "a.json"
    record: Any = [result(rng, 1), result(rng, 1), result(rng, 4)]
    if form == "annotations":
        images = [{"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480} for i in (1, 2, 4)]
        record = {"images": images, "annotations": record}
    original = write(path, record).read_bytes()
    clips, refusals = read_or_refuse(path, damaged(original), lambda: read_clip(path, "coco"))
    assert len(clips) + len(refusals) == 2000
    assert min(len(clips), len(refusals)) > 100
    assert all(clip.frames.shape[0] == 2 and clip.frames.shape[2:] == (17, 3) for clip in clips)
    assert max(clip.length for clip in clips) <= 4
