"""Summaries count what was put in, and checks find what was made wrong, and nothing else."""

from __future__ import annotations

import math
import tracemalloc
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asma_fast import Skeleton
from asma_fast.data import Clip, PrepareConfig, Store, StoreWriter, Synthetic, prepare, split_by
from asma_fast.data import scan as scanning
from asma_fast.data.clip import SplitRule
from asma_fast.data.summary import check, summarise

SYNTHETIC = Synthetic(clips_per_class=8, subjects=8, seed=1)
XSUB = {"xsub": split_by("subject", {1, 2, 3, 4})}


@pytest.fixture(scope="module")
def people() -> list[Clip]:
    return [SYNTHETIC.clip(index) for index in range(len(SYNTHETIC.names))]


def written(path: Path, clips: list[Clip], splits: Mapping[str, SplitRule] = XSUB, classes: int = 12) -> Store:
    layout = Skeleton.named(clips[0].skeleton)
    with StoreWriter(path / "s.safetensors", dataset="mine", skeleton=layout, overwrite=True) as writer:
        for clip in clips:
            writer.add(clip)
        return writer.finish(classes=[f"action {label}" for label in range(classes)], splits=splits)


def moved(clip: Clip, frames: np.ndarray) -> Clip:
    return replace(clip, frames=np.ascontiguousarray(frames, np.float32))


def kinds(store: Store) -> list[str]:
    return [finding.kind for finding in check(store)]


def test_a_summary_counts_and_measures(tmp_path: Path) -> None:
    """A body that slides 0.1 a frame, joint 2 twice as fast; another body joins in the second clip."""
    layout = Skeleton(edges=[(0, 1), (1, 2)], name="three", units="metres")
    base = np.array([[1, 0, 0], [1, 1, 0], [1, 2, 0]], np.float32)
    slide = np.arange(5)[:, None, None] * np.array([[0.1], [0.1], [0.2]]) * np.array([1.0, 0, 0])
    body = (base + slide).astype(np.float32)
    two = np.stack([body, np.where(np.arange(5)[:, None, None] < 2, body, 0)])
    one = np.stack([body, np.zeros_like(body)])
    clips = [
        Clip(one, "three", 0, 1, 7, "a", 10.0, missing_joints=2),
        Clip(two, "three", 1, 2, 7, "b", 10.0, dropped_bodies=1),
        Clip(one[:, :3], "three", None, None, None, "c", 10.0),
    ]
    with StoreWriter(tmp_path / "s", dataset="mine", skeleton=layout) as writer:
        for clip in clips:
            writer.add(clip)
        store = writer.finish(classes=("walk", "run", "fly"), splits={"xsub": split_by("subject", {1})})
    told = summarise(store)
    assert (told.clips, told.frames, told.lengths) == (3, 13, (3, 5.0, 5))
    assert told.splits == {"xsub": (1, 1, 1)}
    assert told.classes == {"walk": 1, "run": 1, "fly": 0, "(unlabelled)": 1}
    assert told.class_splits["xsub"] == {"walk": (1, 0), "run": (0, 1), "fly": (0, 0), "(unlabelled)": (0, 0)}
    assert (told.subjects, told.cameras) == ({-1: 1, 1: 1, 2: 1}, {-1: 1, 7: 2})
    assert (told.bodies, told.fps) == ({1: 2, 2: 1}, {10.0: 3})
    assert (told.missing_joints, told.dropped_bodies) == (2, 1)
    assert told.speed_unit == "metres/s"
    assert list(told.joint_speeds.values()) == pytest.approx([1.0, 1.0, 2.0], rel=1e-5)
    assert told.class_speeds["walk"] == pytest.approx(4 / 3, rel=1e-5)
    assert told.class_speeds["fly"] == 0
    assert told.low == pytest.approx((1, 0, 0))
    assert told.high == pytest.approx((1.8, 2, 0))
    assert 1.0 < told.body_size < 1.2
    text = str(told)
    for shown in ("3, 13 frames; 3 to 5 a clip, median 5", "1 train, 1 test, 1 neither", "walk", "1/0", "unknown: 1"):
        assert shown in text


def test_speeds_are_per_frame_where_a_rate_is_unknown(tmp_path: Path, people: list[Clip]) -> None:
    known = summarise(written(tmp_path, people))
    unknown = summarise(written(tmp_path, [replace(people[0], fps=None), *people[1:]]))
    assert (known.speed_unit, unknown.speed_unit) == ("metres/s", "metres/frame")
    assert unknown.joint_speeds["head"] == pytest.approx(known.joint_speeds["head"] / 30)
    assert sum(unknown.fps.values()) == len(people)
    assert any(map(math.isnan, unknown.fps))


def test_continuous_recordings_are_counted_by_their_frames(tmp_path: Path) -> None:
    """Two recordings of both classes, the second class twice as fast; nothing about them is unlabelled."""
    layout = Skeleton(edges=[(0, 1)], name="two")
    labels = np.repeat([0, -1, 1], 10)
    place = np.cumsum(np.where(labels == 1, 0.2, 0.1))[:, None, None]
    frames = (np.array([[0.0, 0, 1], [0, 1, 1]]) + place * [1, 0, 0]).astype(np.float32)[None]
    clips = [Clip(frames + offset, "two", name=f"r{offset}", fps=30.0, frame_labels=labels) for offset in range(2)]
    with StoreWriter(tmp_path / "s", dataset="mine", skeleton=layout) as writer:
        for clip in clips:
            writer.add(clip)
        splits: dict[str, SplitRule] = {"first": lambda clip: "train" if clip.name == "r0" else "test"}
        store = writer.finish(classes=("slow", "fast"), splits=splits)
    told = summarise(store)
    assert told.classes == {"slow": 2, "fast": 2}
    assert told.class_splits == {"first": {"slow": (1, 1), "fast": (1, 1)}}
    assert told.class_speeds == pytest.approx({"slow": 3.0, "fast": 6.0}, rel=1e-5)
    assert check(store) == ()


def test_blocks_do_not_matter(tmp_path: Path, people: list[Clip], monkeypatch: pytest.MonkeyPatch) -> None:
    store = written(tmp_path, people)
    whole = scanning.scan(store, range(len(store)))
    monkeypatch.setattr(scanning, "_BLOCK", 100)
    parts = scanning.scan(store, range(len(store)))
    for name, value in vars(whole).items():
        np.testing.assert_allclose(getattr(parts, name), value, rtol=1e-12, err_msg=name)


def test_memory_does_not_grow_with_the_clips(
    tmp_path: Path, people: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning, "_BLOCK", 500)
    peaks = []
    for repeats in (1, 6):
        clips = [replace(clip, name=f"{clip.name} {turn}") for turn in range(repeats) for clip in people]
        store = written(tmp_path, clips)
        tracemalloc.start()
        summarise(store)
        check(store)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_nothing_is_found_where_all_is_well(tmp_path: Path, people: list[Clip]) -> None:
    assert check(written(tmp_path, people)) == ()


def test_what_is_wrong_with_a_clip_is_found(tmp_path: Path, people: list[Clip]) -> None:
    layout = Skeleton.named("ntu-rgb+d")
    far = people[6].frames.copy()
    far[0, 3, 9] = (30, -4, 900)
    spoilt = list(people)
    spoilt[2] = moved(people[2], np.repeat(people[2].frames[:, :1], 20, axis=1))
    spoilt[4] = moved(people[4], people[4].frames[:, :1])
    spoilt[6] = moved(people[6], far)
    spoilt[9] = moved(people[9], people[9].frames[:, :, layout.flip])
    spoilt[11] = moved(people[11], people[11].frames * np.float32([-1, 1, 1]))
    spoilt[20] = moved(people[20], people[21].frames)
    spoilt[30] = replace(people[30], label=None)
    found = {finding.kind: finding.clips for finding in check(written(tmp_path, spoilt, {}))}
    assert found == {
        "constant": (2,),
        "one frame": (4,),
        "exploding": (6,),
        "mirrored": (9, 11),
        "identical": (20, 21),
        "unlabelled": (30,),
    }


def test_a_set_that_is_mirrored_as_a_whole_is_one_finding(tmp_path: Path, people: list[Clip]) -> None:
    flip = Skeleton.named("ntu-rgb+d").flip
    (finding,) = check(written(tmp_path, [moved(clip, clip.frames[:, :, flip]) for clip in people]))
    assert finding.kind == "mirrored"
    assert "in the set as a whole: feet point backwards in 96 of 96 clips" in finding.text


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_layout_without_feet_is_judged_as_a_set(tmp_path: Path, people: list[Clip], mirrored: bool) -> None:
    ntu, layout = Skeleton.named("ntu-rgb+d"), Skeleton.named("common-15")
    alias = {"torso": "spine mid", "left foot": "left ankle", "right foot": "right ankle"}
    joints = [ntu.joints.index(alias.get(name, name)) for name in layout.joints]
    clips = [replace(moved(clip, clip.frames[:, :, joints]), skeleton=layout.name) for clip in people]
    if mirrored:
        clips = [moved(clip, clip.frames[:, :, layout.flip]) for clip in clips]
    assert kinds(written(tmp_path, clips)) == ["mirrored"] * mirrored


def test_bodies_may_turn_any_way(tmp_path: Path, people: list[Clip]) -> None:
    rng = np.random.default_rng(5)
    turned = []
    for clip in people:
        rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        rotation *= np.sign(np.linalg.det(rotation))
        turned.append(
            moved(clip, clip.frames @ rotation.T + rng.normal(size=3) * clip.frames.any((2, 3), keepdims=True))
        )
    assert check(written(tmp_path, turned)) == ()


def test_what_is_wrong_with_a_split_is_found(tmp_path: Path, people: list[Clip]) -> None:
    def leaky(clip):
        return "test" if clip.name == people[0].name or clip.subject in (1, 2) else "train"

    assert kinds(written(tmp_path, people, {"xsub": leaky})) == ["shared subject"] * (people[0].subject not in (1, 2))
    by_class = {"halves": lambda clip: "train" if clip.label else "test", "none": lambda clip: "train"}
    texts = [str(finding) for finding in check(written(tmp_path, people, by_class, classes=13))]
    assert texts == [
        "class without clips: 1 class of 13 (action 12)",
        "class without clips: split halves has no training clips of 1 class (action 0)",
        "class without clips: split halves has no test clips of 11 classes (action 1, action 2, action 3, action 4, "
        "action 5, …)",
        "empty part: split none has no test clips",
    ]


def test_subjects_are_watched_where_a_split_is_by_subject_in_all_but_name(tmp_path: Path, people: list[Clip]) -> None:
    many = [replace(clip, subject=1 + index % 24) for index, clip in enumerate(people)]
    odd = many[30].name

    def nearly(clip):
        return "train" if clip.subject > 12 or clip.name == odd else "test"

    assert many[30].subject == 7
    findings = [finding for finding in check(written(tmp_path, many, {"fold-1": nearly})) if "subject" in finding.kind]
    assert [finding.text for finding in findings] == ["split fold-1 has clips of 1 subject in both parts (7)"]
    at_random = {"fold-1": lambda clip: "train" if zlib.crc32(clip.name.encode()) % 2 else "test"}
    assert "shared subject" not in kinds(written(tmp_path, many, at_random))


def test_frames_that_train_and_test_under_two_names_are_a_leak(tmp_path: Path, people: list[Clip]) -> None:
    train = next(index for index, clip in enumerate(people) if clip.subject == 1)
    test = next(index for index, clip in enumerate(people) if clip.subject == 8)
    twice = list(people)
    twice[test] = moved(people[test], people[train].frames)
    found = {finding.kind: set(finding.clips) for finding in check(written(tmp_path, twice))}
    assert found == {"identical": {train, test}, "leak": {test}}


def test_altered_frames_are_found_and_the_rest_is_looked_at(tmp_path: Path, people: list[Clip]) -> None:
    store = written(tmp_path, [people[0], moved(people[1], people[1].frames[:, :1]), *people[2:]])
    content = bytearray(store.path.read_bytes())
    place = content.index(store.frames(7).tobytes())
    content[place + 40] ^= 4
    store.path.write_bytes(content)
    found = {finding.kind: finding.clips for finding in check(Store.open(store.path))}
    assert found == {"damaged": (7,), "one frame": (1,)}
    with pytest.raises(ValueError, match="were altered"):
        summarise(Store.open(store.path))


@pytest.mark.parametrize(("dataset", "under"), [("nw-ucla", "nw-ucla"), ("utd-mhad", "utd-mhad"), ("ntu", "ntu-raw")])
def test_genuine_sets_are_not_mirrored_and_their_mirrored_clips_are(
    recordings: Path, tmp_path: Path, dataset: str, under: str
) -> None:
    prepare(PrepareConfig(dataset, tmp_path / "a.safetensors", recordings / under))
    store = Store.open(tmp_path / "a.safetensors")
    assert not {"mirrored", "exploding", "constant", "shared subject", "damaged"} & set(kinds(store))
    step = 2 if len(store) < 100 else 30
    clips = [
        moved(clip, clip.frames[:, :, store.skeleton.flip]) if index % step == 0 else clip
        for index, clip in enumerate(store)
    ]
    clips = [replace(clip, label=None) for clip in clips]
    found = {finding.kind: finding.clips for finding in check(written(tmp_path, clips, {}))}
    swapped = set(range(0, len(store), step))
    assert set(found["mirrored"]) <= swapped or len(swapped) > len(store) / 2
    assert len(set(found["mirrored"]) & swapped) >= 0.85 * len(swapped)


def test_published_nw_ucla_repeats_clips_across_its_split(recordings: Path, tmp_path: Path) -> None:
    """95 of the 464 test clips have the same frames as a training clip; their files differ in the name inside only."""
    prepare(PrepareConfig("nw-ucla", tmp_path / "a.safetensors", recordings / "nw-ucla"))
    found = {finding.kind: finding.clips for finding in check(Store.open(tmp_path / "a.safetensors"))}
    assert sorted(found) == ["identical", "leak", "one frame"]
    assert (len(found["leak"]), len(found["one frame"])) == (95, 2)
