"""The reader of OpenPose's folders of frames and of Kinetics-skeleton."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import damaged, read_or_refuse

from asma_fast.data import Clip, FormatError, PrepareConfig, Store, prepare, read_clip
from asma_fast.data.readers import reader
from asma_fast.skeleton import Skeleton

BODY_25 = (
    "nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist",
    "middle of the hips", "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle",
    "right eye", "left eye", "right ear", "left ear", *["foot"] * 6,
)  # fmt: skip


def person(rng: np.random.Generator, joints: int = 18, least: float = 0.5) -> list[float]:
    return np.column_stack([rng.uniform(1, 640, (joints, 2)), rng.uniform(least, 1, joints)]).round(3).ravel().tolist()


def write_frame(folder: Path, number: int, people: list[list[float]], name: str = "video") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}_{number:012}_keypoints.json"
    path.write_text(json.dumps({"version": 1.3, "people": [{"pose_keypoints_2d": one} for one in people]}))
    return path


def kinetics(frames: dict[int, list[list[float]]], **labels: Any) -> str:
    def skeleton(values: list[float]) -> dict[str, list[float]]:
        table = np.reshape(values, (18, 3))
        return {"pose": table[:, :2].ravel().tolist(), "score": table[:, 2].tolist()}

    data = [{"frame_index": index, "skeleton": [skeleton(one) for one in people]} for index, people in frames.items()]
    return json.dumps({"data": data, **labels})


def config(source: Path, **changes: Any) -> PrepareConfig:
    given = {"dataset": "openpose", "source": source, "out": source.parent / "out.safetensors"}
    return PrepareConfig(**{**given, **changes})


def test_round_trip(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    people = [[person(rng) for _ in range(count)] for count in (1, 2, 0, 3)]
    for number, present in enumerate(people):
        write_frame(tmp_path, 7 + number, present)
    clip = read_clip(tmp_path, "openpose")
    assert (clip.frames.shape, clip.skeleton, clip.name, clip.label) == ((2, 4, 18, 3), "openpose", "video", None)
    for time, present in enumerate(people):
        for body in range(2):
            wanted = np.reshape(present[body], (18, 3)) if body < len(present) else np.zeros((18, 3))
            np.testing.assert_array_equal(clip.frames[body, time], wanted.astype(np.float32))
    assert clip.missing is None
    first = read_clip(tmp_path, "openpose", bodies="first")
    np.testing.assert_array_equal(first.frames, clip.frames[:1])


def test_body_25_keeps_the_joints_of_the_same_names(tmp_path: Path) -> None:
    values = person(np.random.default_rng(1), 25)
    write_frame(tmp_path, 0, [values])
    clip = read_clip(tmp_path, "openpose")
    for joint, name in enumerate(Skeleton.named("openpose").joints):
        wanted = np.reshape(values, (25, 3))[BODY_25.index(name)]
        np.testing.assert_array_equal(clip.frames[0, 0, joint], wanted.astype(np.float32))


def test_gaps_are_frames_without_a_body(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for number in (1000, 1001, 1005):
        write_frame(tmp_path, number, [person(rng)])
    frames = read_clip(tmp_path, "openpose").frames
    assert frames[0].any(axis=(1, 2)).tolist() == [True, True, False, False, False, True]
    write_frame(tmp_path, 999_999_999_999, [person(rng)])
    with pytest.raises(FormatError, match="frame numbers without wide gaps, found 4 from 1000 to 999999999999"):
        read_clip(tmp_path, "openpose")


def test_low_scores_are_missing(tmp_path: Path) -> None:
    values = np.reshape(person(np.random.default_rng(3)), (18, 3))
    values[3, 2], values[4], values[5, 2] = 0.49, 0, 0.5
    write_frame(tmp_path / "raw" / "clip", 0, [values.ravel().tolist()])
    clip = read_clip(tmp_path / "raw" / "clip", "openpose")
    assert clip.missing is not None
    assert np.argwhere(clip.missing).tolist() == [[0, 0, 3], [0, 0, 4]]
    np.testing.assert_array_equal(clip.frames[0, 0], values.astype(np.float32))
    for least, missing in ((0.0, [4]), (0.6, [3, 4, 5])):
        chosen = reader("openpose")
        (job,) = chosen.plan(config(tmp_path / "raw", min_score=least)).jobs
        (clip,) = job.clips()
        assert clip.missing is not None
        low = np.flatnonzero(clip.missing[0, 0]).tolist()
        assert [joint for joint in low if joint in (3, 4, 5)] == missing


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.sampled_from([18, 25]), st.integers(0, 10**6))
def test_any_number_of_people(tmp_path_factory: Any, counts: list[int], joints: int, first: int) -> None:
    folder, rng = tmp_path_factory.mktemp("clip"), np.random.default_rng(first)
    for number, count in enumerate(counts):
        write_frame(folder, first + number, [person(rng, joints) for _ in range(count)])
    frames = read_clip(folder, "openpose").frames
    assert frames.shape == (2, len(counts), 18, 3)
    present = frames.any(axis=(2, 3))
    assert present.sum(axis=0).tolist() == [min(count, 2) for count in counts]


def test_prepare_names_labels_and_splits(tmp_path: Path) -> None:
    rng, raw = np.random.default_rng(4), tmp_path / "raw"
    for clip in ("walk/a", "walk/b", "run/c"):
        for number in range(3):
            write_frame(raw / clip, number, [person(rng)])
    write_frame(raw / "two", 0, [person(rng)], "left")
    write_frame(raw / "two", 0, [person(rng)], "right")
    (raw / "two" / "picture_keypoints.json").write_text("{}")
    (raw / "labels.csv").write_text(
        "file,label,subject,camera,fps,split:mine\nwalk/a,walk,1,2,25,train\nwalk/b,walk,2,2,,test\nrun/c,run,1,1,,\n"
        "two/left,run,3,1,,train\ntwo/right,run,3,1,,train\n"
    )
    report = prepare(config(raw, fps=30, split="subject:1"))
    assert report.ok
    assert report.ignored == ("two/picture_keypoints.json",)
    assert report.splits == {"mine": (3, 1), "xsub": (2, 3)}
    store = Store.open(tmp_path / "out.safetensors")
    assert store.names == ("run/c", "two/left", "two/right", "walk/a", "walk/b")
    assert (store.classes, store.labels.tolist()) == (("run", "walk"), [0, 0, 0, 1, 1])
    assert store.fps.tolist() == [30, 30, 30, 25, 30]
    assert (store.cameras.tolist(), store.bodies) == ([1, 1, 1, 2, 2], 2)


def test_kinetics_labels_come_from_the_files(tmp_path: Path) -> None:
    rng, raw = np.random.default_rng(5), tmp_path / "raw"
    raw.mkdir()
    frames = {1: [person(rng)], 2: [], 4: [person(rng), person(rng)]}
    (raw / "v1.json").write_text(kinetics(frames, label="yoga", label_index=2))
    (raw / "v2.json").write_text(kinetics(frames, label="abseiling", label_index=0))
    (raw / "kinetics_train_label.json").write_text("{}")
    clip = read_clip(raw / "v1.json", "openpose")
    assert (clip.frames.shape, clip.label) == ((2, 4, 18, 3), 2)
    np.testing.assert_array_equal(clip.frames[1, 3].ravel(), np.float32(frames[4][1]))
    report = prepare(config(raw))
    assert report.ok
    store = Store.open(tmp_path / "out.safetensors")
    assert (store.classes, store.labels.tolist()) == (("abseiling", "1", "yoga"), [2, 0])
    (raw / "v3.json").write_text(kinetics(frames, label="juggling", label_index=0))
    with pytest.raises(ValueError, match=r"label_index 0 must have one label, got 'abseiling' .* and 'juggling' in v3"):
        prepare(config(raw, overwrite=True))


def test_plans_notice_what_changes_and_can_be_pickled(tmp_path: Path) -> None:
    rng, raw = np.random.default_rng(6), tmp_path / "raw"
    for number in range(3):
        write_frame(raw / "a", number, [person(rng)])

    def token(**changes: Any) -> str:
        (job,) = pickle.loads(pickle.dumps(reader("openpose").plan(config(raw, **changes)).jobs))
        (clip,) = job.clips()
        assert clip.length == 3
        return str(job.token)

    tokens = [token(), token(min_score=0.4), token(fps=30)]
    (raw / "labels.csv").write_text("file,label\na,walk\n")
    tokens.append(token())
    assert len(set(tokens)) == 4
    assert token() == tokens[-1]
    write_frame(raw / "a", 1, [person(rng), person(rng)])
    assert token() != tokens[-1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"people": {}}', "list 'people'"),
        ('{"people": [{}]}', "people with 'pose_keypoints_2d'"),
        (json.dumps({"people": [{"pose_keypoints_2d": [1.0] * 53}]}), "54 or 75 numbers, found 53"),
        (json.dumps({"people": [{"pose_keypoints_2d": [1.0] * 53 + [None]}]}), "found None"),
        (json.dumps({"people": [{"pose_keypoints_2d": [1.0] * 53 + [float("nan")]}]}), "finite scores, found nan"),
        (json.dumps({"people": [{"pose_keypoints_2d": [1e39] * 54}]}), "float32 can hold, found 1e"),
        (json.dumps({"people": [{"pose_keypoints_2d": [1] * 75}]}), r"the same joints .* found \[18, 25\]"),
        ('{"people": [1e999]}', "beyond any float"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, content: str, message: str) -> None:
    write_frame(tmp_path, 0, [person(np.random.default_rng(0))])
    path = write_frame(tmp_path, 1, [])
    path.write_text(content)
    with pytest.raises(FormatError, match=message):
        read_clip(tmp_path, "openpose")


def test_pipes_and_dangling_links_do_no_harm(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_frame(raw / "a", 0, [person(np.random.default_rng(0))])
    os.mkfifo(raw / "a" / "video_000000000001_keypoints.json")
    (raw / "b.json").symlink_to(raw / "nowhere.json")
    report = prepare(config(raw))
    assert (report.clips, report.ignored) == (1, ("a/video_000000000001_keypoints.json",))
    assert [failure.file for failure in report.failures] == ["b.json"]


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no clip of openpose"):
        prepare(config(tmp_path))
    write_frame(tmp_path, 1, [])
    shutil.copy(write_frame(tmp_path, 2, []), tmp_path / "video_2_keypoints.json")
    with pytest.raises(FormatError, match=r"a file a frame, found video_0*2_keypoints.json and video_2_keypoints.json"):
        read_clip(tmp_path, "openpose")


def test_damaged_frames_are_read_or_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    write_frame(tmp_path, 0, [person(rng)])
    path = write_frame(tmp_path, 1, [person(rng), person(rng)])
    contents = damaged(path.read_bytes())

    def read_as_another_would() -> Clip:
        clip = read_clip(tmp_path, "openpose")
        people = json.loads(path.read_bytes())["people"]
        for body, one in enumerate(people[:2]):
            wanted = np.float32(one["pose_keypoints_2d"]).reshape(18, 3)
            np.testing.assert_array_equal(clip.frames[body, 1], wanted)
        assert not clip.frames[len(people) :, 1].any()
        return clip

    clips, refusals = read_or_refuse(path, contents, read_as_another_would)
    assert len(clips) + len(refusals) == 2000
    assert min(len(clips), len(refusals)) > 100
    assert {clip.frames.shape for clip in clips} == {(2, 2, 18, 3)}


def test_damaged_kinetics_files_are_read_or_refused(tmp_path: Path) -> None:
    rng, path = np.random.default_rng(8), tmp_path / "a.json"
    original = kinetics({1: [person(rng)], 3: [person(rng)]}, label="yoga", label_index=3).encode()
    clips, refusals = read_or_refuse(path, damaged(original), lambda: read_clip(path, "openpose"))
    assert len(clips) + len(refusals) == 2000
    assert min(len(clips), len(refusals)) > 100
    for content in damaged(original, 300, seed=1):
        path.write_bytes(content)
        plan = reader("openpose").plan(config(tmp_path))
        assert len(plan.jobs) == 1
