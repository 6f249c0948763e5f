"""The reader of MediaPipe's world landmarks."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import TOKENS, damaged, read_or_refuse

from asma_fast.data import FormatError, PrepareConfig, Store, prepare, read_clip

FIELDS = ("x", "y", "z", "visibility")
WIDE = [f"{field}{joint}" for joint in range(33) for field in FIELDS]


def poses(seed: int, count: int) -> np.ndarray:
    """``(count, 33, 4)``."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(size=(count, 33, 3)), rng.uniform(0.5, 1, (count, 33, 1))], axis=2).round(4)


def landmarks(pose: np.ndarray) -> list[dict[str, float]]:
    return [dict(zip(FIELDS, joint.tolist(), strict=True)) for joint in pose]


def write_json(path: Path, record: Any) -> Path:
    path.write_text(json.dumps(record))
    return path


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_forms_of_json(tmp_path: Path) -> None:
    given = poses(0, 6)
    one, two, *more = map(landmarks, given)
    frames = [one, {"landmarks": two}, None, [], {"landmarks": None}, more[:2], {"pose_world_landmarks": more[1:]}]
    clip = read_clip(write_json(tmp_path / "a.json", frames), "mediapipe")
    assert (clip.frames.shape, clip.skeleton, clip.missing) == ((2, 7, 33, 4), "mediapipe", None)
    wanted = np.zeros((2, 7, 33, 4), np.float32)
    wanted[0, :2], wanted[:, 5], wanted[:, 6] = given[:2], given[2:4], given[3:5]
    np.testing.assert_array_equal(clip.frames, wanted)
    np.testing.assert_array_equal(read_clip(tmp_path / "a.json", "mediapipe", bodies="first").frames, wanted[:1])


def test_forms_of_tables(tmp_path: Path) -> None:
    given = poses(1, 3)
    wanted = np.zeros((2, 5, 33, 4), np.float32)
    wanted[0, [0, 2, 4]] = given
    flat = given.reshape(3, -1).tolist()
    blank = [""] * 132
    lines = write_csv(tmp_path / "lines.csv", WIDE, [flat[0], blank, flat[1], blank, flat[2]])
    order = np.random.default_rng(2).permutation(132)
    numbered = [[7 + 2 * i, *(flat[i][place] for place in order)] for i in (2, 0, 1)]
    framed = write_csv(tmp_path / "framed.csv", ["frame", *(WIDE[place] for place in order)], numbered)
    joints = [[7 + 2 * i, joint, *given[i, joint].tolist()] for joint in reversed(range(33)) for i in range(3)]
    long = write_csv(tmp_path / "long.csv", ["frame", "joint", *FIELDS], joints)
    for path in (lines, framed, long):
        np.testing.assert_array_equal(read_clip(path, "mediapipe").frames, wanted, err_msg=path.name)


def test_low_visibility_and_joints_left_out_are_missing(tmp_path: Path) -> None:
    given = poses(3, 1)
    given[0, 4, 3], given[0, 5, 3] = 0.4999, 0.5
    rows = [[0, joint, *given[0, joint].tolist()] for joint in range(33) if joint != 9]
    clip = read_clip(write_csv(tmp_path / "a.csv", ["frame", "joint", *FIELDS], rows), "mediapipe")
    assert clip.missing is not None
    assert np.argwhere(clip.missing).tolist() == [[0, 0, 4], [0, 0, 9]]
    assert np.isfinite(clip.frames).all()
    given[0, 7] = np.nan
    flat = ["" if np.isnan(value) else value for value in given.ravel().tolist()]
    clip = read_clip(write_csv(tmp_path / "b.csv", WIDE, [flat]), "mediapipe")
    assert np.isnan(clip.frames[0, 0, 7, :3]).all()
    assert clip.frames[0, 0, 7, 3] == 0


@settings(max_examples=40, deadline=None)
@given(st.sets(st.integers(0, 200), min_size=1, max_size=5), st.integers(0, 2**31))
def test_tables_and_json_agree(tmp_path_factory: Any, numbers: set[int], seed: int) -> None:
    folder, given = tmp_path_factory.mktemp("clips"), poses(seed, len(numbers))
    at = dict(zip(sorted(numbers), given, strict=True))
    frames = [landmarks(at[i]) if i in at else None for i in range(min(at), max(at) + 1)]
    rows = [[i, joint, *pose[joint].tolist()] for i, pose in at.items() for joint in range(33)]
    one = read_clip(write_json(folder / "a.json", frames), "mediapipe")
    other = read_clip(write_csv(folder / "b.csv", ["frame", "joint", *FIELDS], rows), "mediapipe")
    np.testing.assert_array_equal(one.frames, other.frames)


def test_prepare_into_a_store(tmp_path: Path) -> None:
    raw, given = tmp_path / "raw", poses(4, 4)
    raw.mkdir()
    write_json(raw / "a.json", [landmarks(pose) for pose in given])
    write_csv(raw / "b.csv", WIDE, given[:2].reshape(2, -1).tolist())
    (raw / "labels.csv").write_bytes(b"\xef\xbb\xbflabel,file,name\r\nwave,a,first\r\nbow,b.csv,\r\n")
    (raw / "classes.txt").write_text("wave\nbow\njump\n")
    report = prepare(PrepareConfig("mediapipe", tmp_path / "out", raw, fps=15, bodies="first"))
    assert report.ok
    assert report.ignored == ()
    store = Store.open(tmp_path / "out")
    assert (store.names, store.classes, store.labels.tolist()) == (("first", "b"), ("wave", "bow", "jump"), [0, 1])
    assert (store.bodies, store[0].frames.shape[3], store.body_rule) == (1, 4, "first")
    np.testing.assert_array_equal(store[0].frames[0], given.astype(np.float32))


ONE = landmarks(poses(5, 1)[0])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, "a JSON list of frames"),
        ([], "1 to 1,000,000 frames"),
        ([ONE[:32]], "33 landmarks in a pose, found 32"),
        ([[ONE, ONE[:4]]], "33 landmarks in a pose, found 4"),
        ([{"pose_landmarks": ONE}], "'landmarks' or 'pose_world_landmarks'"),
        ([[*ONE[:32], {"x": 1, "y": 1, "z": 1}]], "landmarks with x, y, z, visibility"),
        ([[*ONE[:32], {**ONE[32], "z": "1"}]], "found '1'"),
        ([[*ONE[:32], {**ONE[32], "z": 1e39}]], "float32 can hold"),
        ([[*ONE[:32], {**ONE[32], "visibility": float("inf")}]], "finite scores"),
        ([3], "a list of 33 landmarks in a frame, found 3"),
    ],
)
def test_other_json_is_refused(tmp_path: Path, record: Any, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read_clip(write_json(tmp_path / "a.json", record), "mediapipe")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a column 'x0'"),
        (",".join(WIDE), "a line a frame or joint, found none"),
        (",".join(["X0", *WIDE[1:]]), r"line 1: .* found 'X0' \(did you mean 'x0'\?\)"),
        (",".join([*WIDE, "x0"]), "each once, found 'x0'"),
        (",".join(WIDE[1:]), "a column 'x0', found 131 columns"),
        (",".join(WIDE) + "\n" + ",".join(["1"] * 131), "line 2: expected 132 numbers, found 131"),
        (",".join(WIDE) + "\n" + ",".join(["1"] * 131 + ["one"]), "line 2: expected a number, found 'one'"),
        (",".join(WIDE) + "\n" + ",".join(["1"] * 131 + ["1_0"]), "expected a number, found '1_0'"),
        (",".join(WIDE) + "\n" + ",".join(["1"] * 131 + ["1e999"]), "a float can hold, found '1e999'"),
        ("frame,joint,x,y,z\n", "a column 'visibility'"),
        ("frame,joint,x,y,z,visibility\n0,33,1,1,1,1", "line 2: expected a joint from 0 to 32, found 33"),
        ("frame,joint,x,y,z,visibility\n0,3,1,1,1,1\n0,3,1,1,1,1", "line 3: expected each joint of a frame once"),
        ("frame,joint,x,y,z,visibility\n0.5,3,1,1,1,1", "a number from 0 for frame, found 0.5"),
        ("frame,joint,x,y,z,visibility\n0,3,1,1,1,1\n5000,3,1,1,1,1", "without wide gaps, found 2 from 0 to 5000"),
        ('frame,joint,x,y,z,visibility\n"0,3,1,1,1,1', "comma-separated values"),
    ],
)
def test_other_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(FormatError, match=message):
        read_clip(tmp_path / "a.csv", "mediapipe")


def test_byte_order_marks_and_line_ends_do_not_matter(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", WIDE, poses(8, 3).reshape(3, -1).tolist())
    before = read_clip(path, "mediapipe").frames
    content = path.read_bytes().replace(b"\r\n", b"\n")
    for other in (content, b"\xef\xbb\xbf" + content, content.replace(b"\n", b"\r\n"), content.strip()):
        path.write_bytes(other)
        np.testing.assert_array_equal(read_clip(path, "mediapipe").frames, before)
    path.write_bytes(gzip.compress(content))
    with pytest.raises(FormatError, match="expected plain text, found a file compressed by gzip"):
        read_clip(path, "mediapipe")


def test_empty_frames_do_not_become_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, [ONE] + [None] * 50_000)
    assert read_clip(path, "mediapipe").length == 50_001
    path.write_text("[" + "null," * 900_000 + "null]")
    with pytest.raises(FormatError, match="more frames with a body, found 0 of 900001"):
        read_clip(path, "mediapipe")


def test_damaged_numbers_are_those_of_the_file(tmp_path: Path) -> None:
    path, checked = tmp_path / "a.json", 0
    write_json(path, [landmarks(pose) for pose in poses(7, 3)])
    for content in damaged(path.read_bytes()):
        path.write_bytes(content)
        try:
            frames = read_clip(path, "mediapipe").frames
        except FormatError:
            continue
        for time, frame in enumerate(json.loads(content)):
            frame = frame["landmarks"] if isinstance(frame, dict) else frame
            wanted = np.float32([[joint[field] for field in FIELDS] for joint in frame or []])
            np.testing.assert_array_equal(frames[0, time], wanted if frame else 0)
        assert frames.shape[1] == time + 1
        checked += 1
    assert checked > 50


@pytest.mark.parametrize("form", ["json", "wide", "long"])
def test_damaged_files_are_read_or_refused(tmp_path: Path, form: str) -> None:
    given = poses(6, 3)
    path = tmp_path / ("a.json" if form == "json" else "a.csv")
    if form == "json":
        write_json(path, [landmarks(given[0]), None, [landmarks(pose) for pose in given[1:]]])
    elif form == "wide":
        write_csv(path, ["frame", *WIDE], [[3 * i, *pose.ravel().tolist()] for i, pose in enumerate(given)])
    else:
        rows = [[3 * i, joint, *pose[joint].tolist()] for i, pose in enumerate(given) for joint in range(33)]
        write_csv(path, ["frame", "joint", *FIELDS], rows)
    contents = damaged(path.read_bytes(), tokens=(*TOKENS, b"\n", b"7", b"1000", b"nan", b"1_0"))
    clips, refusals = read_or_refuse(path, contents, lambda: read_clip(path, "mediapipe"))
    assert len(clips) + len(refusals) == 2000
    assert min(len(clips), len(refusals)) > 50
    assert all(clip.frames.shape[0] == 2 and clip.frames.shape[2:] == (33, 4) for clip in clips)
    assert all(np.isfinite(clip.frames[..., 3]).all() for clip in clips)
