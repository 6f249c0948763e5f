"""The reader of PYSKL's and MMAction2's annotation files."""

from __future__ import annotations

import pickle
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mutations import clips_of, damaged

from asma_fast.data import FormatError, PrepareConfig, Store, prepare, read_clip
from asma_fast.data.readers import reader
from asma_fast.skeleton import Skeleton

Annotation = dict[str, Any]


def in_space(count: int = 4, **changes: Any) -> list[Annotation]:
    """Clips of NTU, of one or two bodies."""
    rng = np.random.default_rng(0)
    found = []
    for index in range(count):
        frames = 5 + index
        points = rng.normal(size=(1 + index % 2, frames, 25, 3)).astype(np.float16)
        name = f"S001C{1 + index % 3:03}P001R001A{1 + index:03}"
        annotation = {"frame_dir": name, "label": index, "total_frames": frames, "keypoint": points}
        found.append({**annotation, **changes})
    return found


def in_image(count: int = 4, **changes: Any) -> list[Annotation]:
    """Clips of COCO's joints with scores."""
    rng = np.random.default_rng(0)
    found = []
    for index in range(count):
        shape = (1 + index % 3, 6 + index, 17)
        points = rng.uniform(1, 500, (*shape, 2)).astype(np.float16)
        score = rng.uniform(0.6, 1, shape).astype(np.float16)
        annotation = {"frame_dir": f"video {index}", "label": index % 2, "total_frames": shape[1], "keypoint": points}
        annotation |= {"keypoint_score": score, "img_shape": (1080, 1920), "original_shape": (1080, 1920)}
        found.append({**annotation, **changes})
    return found


def names(annotations: list[Annotation]) -> list[str]:
    return [annotation["frame_dir"] for annotation in annotations]


def own_layout(**changes: Any) -> dict[str, Any]:
    return {**asdict(Skeleton.named("ntu-rgb+d-pyskl")), **changes}


def write(path: Path, annotations: Any, **split: Any) -> Path:
    content = {"split": split, "annotations": annotations} if split else annotations
    path.write_bytes(pickle.dumps(content, 2 + path.stat().st_mtime_ns % 4 if path.exists() else 4))
    return path


def config(path: Path, **changes: Any) -> PrepareConfig:
    return replace(PrepareConfig("pyskl", path.parent / "out.safetensors", path), **changes)


def prepared(path: Path, **changes: Any) -> Store:
    settings = config(path, overwrite=True, **changes)
    report = prepare(settings)
    assert report.ok, report
    return Store.open(settings.out)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_joints_in_space(tmp_path: Path, protocol: int) -> None:
    clips = in_space()
    path = tmp_path / "ntu60_3danno.pkl"
    split = {
        "xsub_train": names(clips[:3]),
        "xsub_val": names(clips[3:]),
        "xview_train": names(clips[:1]),
        "xview_val": [],
    }
    path.write_bytes(pickle.dumps({"split": split, "annotations": clips}, protocol))
    report = prepare(config(path))
    assert report.splits == {"xsub": (3, 1), "xview": (1, 0)}
    store = Store.open(tmp_path / "out.safetensors")
    assert store.skeleton.name == "ntu-rgb+d-pyskl"
    assert store.names == tuple(names(clips))
    assert (store.labels.tolist(), store.cameras.tolist()) == ([0, 1, 2, 3], [1, 2, 3, 1])
    assert store.classes[:2] == ("drink water", "eat meal")
    assert store.bodies == 2
    assert store.missing == "keep"
    for clip, annotation in zip(store, clips, strict=True):
        points = annotation["keypoint"]
        np.testing.assert_array_equal(clip.frames[: len(points)], points.astype(np.float32))
        assert not clip.frames[len(points) :].any()
        assert clip.image_size is None


def test_joints_in_an_image(tmp_path: Path) -> None:
    clips = in_image()
    clips[1]["keypoint_score"][0, 2, 5] = 0.1
    clips[1]["keypoint"][1, 3] = clips[1]["keypoint_score"][1, 3] = 0
    path = write(tmp_path / "gym.pkl", clips, train=names(clips[:3]), val=names(clips[3:]))
    store = prepared(path, fps=25.0)
    assert store.skeleton.name == "coco"
    assert store.splits == ("published",)
    assert [len(part) for part in store.split("published")] == [3, 1]
    assert store.classes == ("class 0", "class 1")
    assert store.bodies == 3
    assert set(store.fps) == {25.0}
    for clip, annotation in zip(store, clips, strict=True):
        count = len(annotation["keypoint"])
        np.testing.assert_array_equal(clip.frames[:count, ..., :2], annotation["keypoint"].astype(np.float32))
        np.testing.assert_array_equal(clip.frames[:count, ..., 2], annotation["keypoint_score"].astype(np.float32))
        assert clip.image_size == (1920, 1080)
    (job,) = reader("pyskl").plan(config(path)).jobs
    marked = [clip.missing for clip in job.clips()]
    assert [int(mask.sum()) for mask in marked if mask is not None] == [0, 1, 0, 0]
    assert marked[1] is not None
    assert marked[1][0, 2, 5]


def test_two_dimensions_without_scores(tmp_path: Path) -> None:
    clips = [{key: clip[key] for key in ("frame_dir", "label", "keypoint")} for clip in in_image(2)]
    store = prepared(write(tmp_path / "a.pkl", clips))
    assert store[0].frames.shape == (2, 6, 17, 2)
    assert store[0].image_size is None
    assert store.splits == ()


@pytest.mark.parametrize(
    ("lists", "splits"),
    [
        ({"xsub_train": 3, "xsub_test": 1}, {"xsub": (3, 1)}),
        ({"train": 2, "test": 1}, {"published": (2, 1)}),
        ({"train1": 2, "test1": 1, "train2": 1, "test2": 3}, {"split1": (2, 1), "split2": (1, 3)}),
        ({"train": 2, "val": 1, "test": 2}, {"published": (2, 1), "published_test": (2, 2)}),
        ({"a_b_train": 2}, {"a_b": (2, 0)}),
    ],
)
def test_names_of_splits(tmp_path: Path, lists: dict[str, int], splits: dict[str, tuple[int, int]]) -> None:
    clips = in_space()
    found = {key: names(clips[:size] if "train" in key else clips[::-1][:size]) for key, size in lists.items()}
    report = prepare(config(write(tmp_path / "a.pkl", clips, **found)))
    if "train2" not in lists:
        assert report.splits == splits
    assert set(report.splits) == set(splits)


def test_a_layout_can_be_asked_for(tmp_path: Path) -> None:
    clips = in_space()
    for clip in clips:
        clip["keypoint"] = clip["keypoint"][:, :, :20]
    path = write(tmp_path / "a.pkl", clips)
    with pytest.raises(FormatError, match="a layout named by --layout, found 20 joints in 3"):
        prepare(config(path))
    assert prepared(path, layout="kinect-v1").skeleton.name == "kinect-v1"


def test_flawed_clips_fail_alone_and_can_be_left_out(tmp_path: Path) -> None:
    clips = in_space(8)
    clips[1]["total_frames"] = 99
    clips[2]["keypoint"] = clips[2]["keypoint"][:, :, :24]
    clips[3]["keypoint"] = np.zeros((2, 8, 25, 3), np.float16)
    path = write(tmp_path / "a.pkl", clips)
    report = prepare(config(path))
    assert report.clips == 5
    reasons = "\n".join(failure.reason for failure in report.failures)
    for clip, reason in zip(
        clips[1:4], ("expected total_frames 6", r"keypoint of shape (M, T, 25, 3)", "none in 8 frames"), strict=True
    ):
        assert clip["frame_dir"] in reasons
        assert reason in reasons
    leave_out = tmp_path / "leave-out.txt"
    leave_out.write_text("\n".join(names(clips[1:4])))
    report = prepare(config(path, exclude=leave_out, overwrite=True))
    assert (report.ok, report.clips, len(report.excluded)) == (True, 5, 3)


def test_jobs_are_of_a_bounded_size(tmp_path: Path) -> None:
    points = np.ones((1, 1, 25, 3), np.float16)
    clips = [{"frame_dir": str(i), "label": 0, "total_frames": 1, "keypoint": points + i} for i in range(600)]
    jobs = reader("pyskl").plan(config(write(tmp_path / "a.pkl", clips))).jobs
    assert [len(job.clips()) for job in jobs] == [256, 256, 88]
    assert [clip.frames[0, 0, 0, 0] for job in jobs for clip in job.clips()] == list(range(1, 601))
    with pytest.raises(TypeError, match="not read a second time"):
        pickle.dumps(jobs)


def test_a_flawed_clip_costs_no_other(tmp_path: Path) -> None:
    points = np.ones((1, 1, 25, 3), np.float16)
    clips = [{"frame_dir": str(i), "label": 0, "total_frames": 1, "keypoint": points} for i in range(300)]
    clips[7]["label"], clips[40]["frame_dir"] = -1, "39"
    report = prepare(config(write(tmp_path / "a.pkl", clips), out=tmp_path / "out"))
    assert (report.clips, len(report.failures)) == (298, 2)
    assert all(any(name in failure.reason for failure in report.failures) for name in ("'7'", "39"))


def test_one_clip_can_be_read(tmp_path: Path) -> None:
    assert read_clip(write(tmp_path / "a.pkl", in_space(1)), "pyskl").label == 0
    with pytest.raises(FormatError, match="one clip, found many"):
        read_clip(write(tmp_path / "a.pkl", in_space(2)), "pyskl")


def test_annotations_without_joints(recordings: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"an array 'keypoint' in every annotation, such as .*, found keys .*label"):
        prepare(config(tmp_path / "a.pkl", source=recordings / "formats" / "pyskl_style_annotations.pkl"))
    with pytest.raises(FormatError, match=r"annotations that are dicts, found a int"):
        prepare(config(tmp_path / "a.pkl", source=recordings / "formats" / "label_list.pkl"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": -1}, "label of clip"),
        ({"label": 1.5}, "label of clip"),
        ({"label": [[]]}, "label of clip"),
        ({"frame_dir": 3}, "a frame_dir in annotation 0"),
        ({"frame_dir": "same"}, "names must be distinct"),
        ({"keypoint": "none"}, "an array 'keypoint'"),
        ({"keypoint": np.ones((1, 5, 25, 3), bool), "total_frames": 5}, "numbers, found bool"),
        ({"keypoint": np.full((1, 5, 25, 3), 1e39), "total_frames": 5}, "float32 can hold"),
        ({"keypoint": np.zeros((25, 3))}, "keypoint of shape"),
        ({"keypoint": np.zeros((65, 5, 25, 3))}, "M from 1 to 64"),
        ({"total_frames": True}, "total_frames"),
        ({"keypoint_score": np.ones(3)}, "keypoint_score of shape"),
        ({"fps": -1}, "frames a second"),
        ({"frame_labels": np.zeros(2)}, "frame_labels"),
        ({"subject": "x"}, "subject of clip"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, changes: Annotation, message: str) -> None:
    path = write(tmp_path / "a.pkl", in_space(2, **changes))
    try:
        report = prepare(config(path))
    except FormatError as error:
        told = str(error)
    else:
        assert not report.ok
        told = report.failures[0].reason
    assert message in told


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "an empty list"),
        ("text", "a dict with 'annotations'"),
        ({"annotations": in_space(2), "split": [1]}, "a dict 'split'"),
        ({"annotations": in_space(2), "split": {"training": []}}, "end in train, val or test"),
        ({"annotations": in_space(2), "split": {"a_train": [1]}}, "a list of clip names"),
        ({"annotations": in_space(2), "asma_fast": {"classes": ["a", "a"]}}, "distinct class names"),
        ({"annotations": in_space(2), "asma_fast": {"classes": [[], 1]}}, "class names"),
        ({"annotations": in_space(2), "asma_fast": {"skeleton": {"edges": ((0, 10**9),)}}}, "a layout of 25 joints"),
        ({"annotations": in_space(2), "asma_fast": {"skeleton": own_layout(name="ntu-rgb+d")}}, "another layout's"),
        ({"annotations": in_space(2), "asma_fast": {"skeleton": own_layout(edges=((0, 1),))}}, "must be connected"),
        ({"annotations": in_space(2), "asma_fast": {"preprocessing": {"frames": [[[[[]]]]]}}}, "preprocessing"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(FormatError, match=message):
        prepare(config(tmp_path / "a.pkl"))


def test_one_array_under_many_names_does_not_fill_the_disk(tmp_path: Path) -> None:
    points = np.ones((2, 300, 25, 3), np.float32)
    clips = [{"frame_dir": str(i), "label": 0, "keypoint": points} for i in range(1000)]
    path = write(tmp_path / "a.pkl", clips)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(FormatError, match="arrays that share their bytes"):
        prepare(config(path))


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(1, 9, (1, 1, 17, 2)).astype(np.float16)
    score = np.ones((1, 1, 17), np.float16)
    about = {"label": 1, "total_frames": 1, "img_shape": (4, 5), "keypoint": points, "keypoint_score": score}
    clips = [{"frame_dir": name, **about} for name in ("first", "second")]
    content = {"split": {"a_train": ["first"], "a_val": ["second"]}, "annotations": clips}
    path, refused = tmp_path / "a.pkl", 0
    for changed in (copy for protocol in range(2, 6) for copy in damaged(pickle.dumps(content, protocol), 500)):
        path.write_bytes(changed)
        try:
            own = reader("pyskl")
            found = clips_of(own.plan(config(path)).jobs)
            own.protocol([clip.info for clip in found])
            assert {clip.frames.shape[2] for clip in found} == {len(own.layout())}
            assert all(clip.length == 1 and clip.name for clip in found)
        except ValueError:
            refused += 1
    assert 500 < refused < 2000
