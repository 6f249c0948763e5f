"""Joints that a recording lacks: every rule against NumPy, and what must never change."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from programs import program_output

from asma_fast import Skeleton
from asma_fast.data import Clip, FormatError, PrepareConfig, Preprocessing, Store, prepare, read_clip
from asma_fast.data.missing import fill_missing
from asma_fast.data.prepare import Treatment
from asma_fast.data.readers.nw_ucla import NwUcla
from asma_fast.data.store_writer import StoreWriter

#     5 - 0 - 1 - 2 - 3
#             |
#             4          the centre is joint 1
TREE = Skeleton(edges=[(0, 1), (1, 2), (2, 3), (1, 4), (0, 5)], centre=(1,), name="tree")
PLANE = replace(TREE, dimensions=2, name="plane")
PARENT = (1, 1, 1, 2, 1, 0)
FROM_CENTRE = (1, 0, 1, 2, 1, 2)
SPACE = Skeleton.named("ntu-rgb+d")

Frames = NDArray[np.float32]
Marks = NDArray[np.bool_]


def clip_of(frames: Frames, missing: Marks | None = None, skeleton: Skeleton = TREE, **facts: object) -> Clip:
    return Clip(frames, skeleton.name, missing=missing, **facts)  # type: ignore[arg-type]


def reference(frames: Frames, marks: Marks | None, dims: int) -> tuple[NDArray[np.float64], int, int]:
    """The rules for TREE, in NumPy → frames, missing joints, dropped bodies."""
    lacks = ~np.isfinite(frames).all(axis=-1)
    if marks is not None:
        lacks |= marks
    there = (frames != 0).any(axis=(2, 3))
    dropped = there & (lacks.mean(axis=-1) > 0.5)
    there &= ~dropped
    out = np.where(there[..., None, None], frames, 0).astype(np.float64)
    scores = out[..., dims:]
    scores[~np.isfinite(scores)] = 0
    for m in range(len(frames)):
        times = np.flatnonzero(there[m])
        known = [v for v in range(6) if not lacks[m, times, v].all()]
        if not known:
            continue
        for v in known:
            at = times[~lacks[m, times, v]]
            for c in range(dims):
                out[m, times, v, c] = np.interp(times, at, frames[m, at, v, c].astype(np.float64))
        if 1 not in known:
            nearest = min(known, key=lambda v: (FROM_CENTRE[v], v))
            out[m, times, 1, :dims] = out[m, times, nearest, :dims]
        for v in sorted(set(range(6)) - set(known) - {1}, key=lambda v: FROM_CENTRE[v]):
            out[m, times, v, :dims] = out[m, times, PARENT[v], :dims]
    return out, int((lacks & there[..., None]).sum()), int(dropped.sum())


@st.composite
def recordings_with_gaps(draw: st.DrawFn) -> tuple[Frames, Marks | None, Skeleton]:
    skeleton = draw(st.sampled_from([TREE, PLANE]))
    scored = draw(st.integers(0, 1))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    bodies, length = draw(st.integers(1, 3)), draw(st.integers(1, 12))
    size = (bodies, length, 6)
    frames = rng.normal(size=(*size, skeleton.dimensions + scored)).astype(np.float32)
    frames[rng.random(size) < draw(st.sampled_from([0, 0.05, 0.3]))] = 0
    frames[rng.random(size[:2]) < draw(st.sampled_from([0, 0.3]))] = 0
    rate = draw(st.sampled_from([0, 0.1, 0.3, 0.6]))
    holes = rng.random(frames.shape) < rate / frames.shape[-1]
    frames[holes] = rng.choice(np.array([np.nan, np.inf, -np.inf], np.float32), size=int(holes.sum()))
    marks = rng.random(size) < draw(st.sampled_from([0, 0.1, 0.4]))
    marks[..., [v for v in range(6) if rng.random() < 0.2]] = True
    return frames, (marks if draw(st.booleans()) else None), skeleton


@settings(max_examples=300, deadline=None)
@given(recordings_with_gaps())
def test_every_rule_against_numpy(drawn: tuple[Frames, Marks | None, Skeleton]) -> None:
    frames, marks, skeleton = drawn
    filled = fill_missing(clip_of(frames, marks, skeleton), skeleton)
    expected, joints, bodies = reference(frames, marks, skeleton.dimensions)
    np.testing.assert_allclose(filled.frames, expected, rtol=2e-7, atol=1e-7)
    assert (filled.missing_joints, filled.dropped_bodies) == (joints, bodies)
    assert filled.missing is None
    assert filled.frames.dtype == np.float32


@settings(max_examples=100, deadline=None)
@given(recordings_with_gaps())
def test_known_joints_keep_their_bits_and_absent_bodies_are_zero(drawn: tuple[Frames, Marks | None, Skeleton]) -> None:
    frames, marks, skeleton = drawn
    before = frames.tobytes()
    filled = fill_missing(clip_of(frames, marks, skeleton), skeleton).frames
    lacks = ~np.isfinite(frames).all(axis=-1) | (False if marks is None else marks)
    dropped = lacks.sum(axis=-1) > 3
    same = ~lacks & ~dropped[..., None]
    assert filled[same].tobytes() == frames[same].tobytes()
    assert not filled[dropped | ~(frames != 0).any(axis=(2, 3))].any()
    assert frames.tobytes() == before


@settings(max_examples=100, deadline=None)
@given(recordings_with_gaps())
def test_filling_twice_is_filling_once(drawn: tuple[Frames, Marks | None, Skeleton]) -> None:
    frames, marks, skeleton = drawn
    once = fill_missing(clip_of(frames, marks, skeleton), skeleton)
    twice = fill_missing(once, skeleton)
    assert twice.frames is once.frames
    assert (twice.missing_joints, twice.dropped_bodies) == (once.missing_joints, once.dropped_bodies)


@settings(max_examples=100, deadline=None)
@given(recordings_with_gaps(), st.randoms())
def test_memory_order_and_alignment_do_not_matter(
    drawn: tuple[Frames, Marks | None, Skeleton], rng: random.Random
) -> None:
    frames, marks, skeleton = drawn
    expected = fill_missing(clip_of(frames, marks, skeleton), skeleton)
    order = [0, 1, 2, 3]
    rng.shuffle(order)
    transposed = np.ascontiguousarray(frames.transpose(order)).transpose(np.argsort(order))
    backwards = np.ascontiguousarray(frames[::-1, ::-1, ::-1, ::-1])[::-1, ::-1, ::-1, ::-1]
    misaligned = np.frombuffer(b"\0" + frames.tobytes(), np.uint8)[1:].view(np.float32).reshape(frames.shape)
    assert not misaligned.flags.writeable
    turned = None if marks is None else np.repeat(marks.T.copy(), 2, axis=0)[::2].T
    for other in (transposed, backwards, misaligned, np.repeat(frames, 2, axis=2)[:, :, ::2]):
        filled = fill_missing(clip_of(other, turned, skeleton), skeleton)
        np.testing.assert_array_equal(filled.frames, expected.frames)
        assert filled.missing_joints == expected.missing_joints


def test_the_same_array_comes_back_where_nothing_is_missing() -> None:
    frames = np.random.default_rng(1).normal(size=(2, 9, 6, 3)).astype(np.float32)
    frames[1, 4:] = 0
    frames.setflags(write=False)
    absent = np.zeros((2, 9, 6), bool)
    absent[1, 4:] = True
    for marks in (None, np.zeros((2, 9, 6), bool), absent):
        filled = fill_missing(clip_of(frames, marks), TREE)
        assert filled.frames is frames
        assert filled.missing is None
        assert (filled.missing_joints, filled.dropped_bodies) == (0, 0)


def test_a_steady_movement_survives_any_gap() -> None:
    time = np.arange(16, dtype=np.float32)
    frames = np.ones((1, 16, 6, 3), np.float32) + time[:, None, None] * np.arange(18, dtype=np.float32).reshape(6, 3)
    holed = frames.copy()
    holed[0, 3:11, 2] = np.nan
    holed[0, 1:15, 5, 1] = np.inf
    filled = fill_missing(clip_of(holed), TREE)
    np.testing.assert_array_equal(filled.frames, frames)
    assert filled.missing_joints == 8 + 14


def test_time_is_the_frame_number_even_where_the_body_is_away() -> None:
    frames = np.ones((1, 5, 6, 3), np.float32)
    frames[0, :, 3, 0] = 0, np.nan, 2, np.nan, 8
    frames[0, 2] = 0
    np.testing.assert_array_equal(fill_missing(clip_of(frames), TREE).frames[0, :, 3, 0], [0, 2, 0, 6, 8])


def test_a_body_is_dropped_at_more_than_half_and_not_at_half() -> None:
    frames = np.random.default_rng(2).normal(size=(2, 4, 6, 4)).astype(np.float32)
    marks = np.zeros((2, 4, 6), bool)
    marks[0, 1, :4], marks[0, 2, 3:], marks[1, 3] = True, True, True
    filled = fill_missing(clip_of(frames, marks), TREE)
    assert (filled.missing_joints, filled.dropped_bodies) == (3, 2)
    assert not filled.frames[0, 1].any()
    assert not filled.frames[1, 3].any()
    np.testing.assert_array_equal(filled.frames[0, 2, 3:, 3], frames[0, 2, 3:, 3])
    steps = np.array([1, 2]) / 3
    for joint in (3, 4, 5):  # of body 0, frame 1 is gone: frames 0 and 3 know
        between = frames[0, 0, joint, :3] + steps[1] * (frames[0, 3, joint, :3] - frames[0, 0, joint, :3])
        np.testing.assert_allclose(filled.frames[0, 2, joint, :3], between, atol=1e-6)


def test_what_a_mark_covers_is_not_read() -> None:
    frames = np.random.default_rng(3).normal(size=(1, 8, 6, 3)).astype(np.float32)
    marks = np.zeros((1, 8, 6), bool)
    marks[0, 2:5, 4], marks[0, :, 5] = True, True
    other = frames.copy()
    other[marks] = 1e30
    np.testing.assert_array_equal(
        fill_missing(clip_of(frames, marks), TREE).frames, fill_missing(clip_of(other, marks), TREE).frames
    )


def test_a_joint_no_frame_knows_follows_its_parent() -> None:
    frames = np.random.default_rng(4).normal(size=(2, 5, 6, 3)).astype(np.float32)
    frames[0, :, [2, 3]] = np.nan
    frames[0, 1, 1] = np.nan
    frames[0, 3] = 0
    filled = fill_missing(clip_of(frames), TREE).frames
    assert np.isfinite(filled).all()
    np.testing.assert_array_equal(filled[0, :, 3], filled[0, :, 1])
    np.testing.assert_array_equal(filled[0, :, 2], filled[0, :, 1])
    assert not filled[0, 3].any()
    np.testing.assert_array_equal(filled[1], frames[1])


@pytest.mark.parametrize(("unknown", "nearest"), [((1,), 0), ((0, 1), 2), ((0, 1, 2), 4), ((1, 2, 4), 0)])
def test_an_unknown_centre_takes_the_nearest_known_joint(unknown: tuple[int, ...], nearest: int) -> None:
    frames = np.random.default_rng(5).normal(size=(1, 5, 6, 3)).astype(np.float32)
    frames[0][:, unknown] = np.nan
    filled = fill_missing(clip_of(frames), TREE).frames
    for joint in unknown:
        np.testing.assert_array_equal(filled[0, :, joint], filled[0, :, nearest])


def test_scores_stay_and_one_that_is_no_number_is_none() -> None:
    frames = np.random.default_rng(6).normal(size=(1, 6, 6, 3)).astype(np.float32)
    marks = np.zeros((1, 6, 6), bool)
    marks[0, 1, 0] = marks[0, 2, 0] = True
    scored = frames.copy()
    scored[0, 3, 2, 2] = np.nan
    filled = fill_missing(clip_of(scored, marks, PLANE), PLANE)
    assert filled.missing_joints == 3
    assert filled.frames[0, 3, 2, 2] == 0
    scored[0, 3, 2, 2] = 0
    np.testing.assert_array_equal(filled.frames[..., 2], scored[..., 2])
    middle = (frames[0, 2, 2, :2].astype(np.float64) + frames[0, 4, 2, :2]) / 2
    np.testing.assert_allclose(filled.frames[0, 3, 2, :2], middle, rtol=1e-6)


def test_one_joint_and_one_frame() -> None:
    dot = Skeleton(edges=[(0, 0)], joints=("only",), name="dot")
    frames = np.full((2, 1, 1, 3), np.nan, np.float32)
    frames[1] = 1
    filled = fill_missing(clip_of(frames, skeleton=dot), dot)
    assert filled.frames.ravel().tolist() == [0, 0, 0, 1, 1, 1]
    assert (filled.missing_joints, filled.dropped_bodies) == (0, 1)


def test_values_at_the_ends_of_float32_do_not_overflow() -> None:
    largest = np.finfo(np.float32).max
    frames = np.ones((1, 3, 6, 3), np.float32)
    frames[0, :, 2, 0] = -largest, np.nan, largest
    filled = fill_missing(clip_of(frames), TREE).frames
    assert filled[0, :, 2, 0].tolist() == [-largest, 0, largest]


def test_keep_counts_and_changes_nothing() -> None:
    frames = np.random.default_rng(7).normal(size=(2, 5, 6, 3)).astype(np.float32)
    frames[1, 3:] = 0
    marks = np.zeros((2, 5, 6), bool)
    marks[0, 1], marks[0, 2, 0], marks[1, 3:] = True, True, True
    kept = fill_missing(clip_of(frames, marks), TREE, rule="keep")
    assert kept.frames is frames
    assert kept.missing is None
    assert (kept.missing_joints, kept.dropped_bodies) == (7, 0)
    for hole in (np.nan, np.inf):
        for channel in (1, 3):
            scored = np.concatenate([frames, np.ones((2, 5, 6, 1), np.float32)], axis=-1)
            scored[0, 0, 0, channel] = hole
            with pytest.raises(ValueError, match=r"clip 'x': frames must be finite .* 'fill' fills it in"):
                fill_missing(clip_of(scored, marks, name="x"), TREE, rule="keep")


def test_everything_else_of_the_clip_stays() -> None:
    frames = np.ones((1, 4, 6, 2), np.float32)
    frames[0, 2, 2] = np.nan
    labels = np.arange(4)
    clip = clip_of(frames, skeleton=PLANE, label=3, subject=4, camera=5, name="a", fps=25.0, frame_labels=labels,
                   image_size=(640, 480))  # fmt: skip
    filled = fill_missing(clip, PLANE)
    assert (filled.info, filled.fps, filled.image_size) == (clip.info, 25.0, (640, 480))
    assert filled.frame_labels is labels
    assert filled.missing_joints == 1


def test_bad_input_is_refused_in_a_sentence() -> None:
    frames = np.full((1, 4, 6, 3), np.nan, np.float32)
    with pytest.raises(ValueError, match="rule must be one of fill, keep; got 'drop'"):
        fill_missing(clip_of(frames), TREE, rule="drop")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="6 joints of tree, got 5"):
        fill_missing(clip_of(frames[:, :, :5]), TREE)
    with pytest.raises(ValueError, match="3 coordinates or more, got 2"):
        fill_missing(clip_of(frames[..., :2]), TREE)
    with pytest.raises(ValueError, match="is of skeleton 'plane', got skeleton 'tree'"):
        fill_missing(clip_of(frames, skeleton=PLANE), TREE)


def test_the_native_entry_trusts_nothing() -> None:
    from asma_fast._native import fill_missing as native

    frames = np.ones((1, 4, 6, 3), np.float32)
    frames[0, 1, 2] = np.nan
    for parents in ((1, 0, 1, 2, 1, 0), (1, 1, 2, 2, 1, 0), (1, 1, 1, 6, 1, 0), (1, 1, 1, -1, 1, 0), (1, 1, 1)):
        with pytest.raises(ValueError, match="parent"):
            native(frames, None, dims=3, parents=parents)
    with pytest.raises(ValueError, match="marks must have"):
        native(frames, np.zeros((1, 4, 5), bool), dims=3, parents=PARENT)
    with pytest.raises(ValueError, match="channels"):
        native(frames[..., :2].copy(), None, dims=3, parents=PARENT)


def test_from_the_reader_to_the_store(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    frames = (rng.normal(size=(2, 30, 25, 3)) + 3).astype(np.float32)
    frames[1, 10:] = 0
    marks = np.zeros((2, 30, 25), bool)
    marks[0, 5:9, 7], marks[0, 12, :20] = True, True
    frames[0, 20, 11] = np.nan
    clip = Clip(frames, SPACE.name, label=0, name="made", missing=marks)
    recipe = Preprocessing.named("small")
    filled = fill_missing(clip, SPACE)
    assert (filled.missing_joints, filled.dropped_bodies) == (5, 1)
    for applied in (None, recipe):
        path = tmp_path / f"{applied is None}.safetensors"
        with StoreWriter(path, dataset="made", skeleton=SPACE, missing="fill", preprocessing=applied) as writer:
            writer.add(Treatment("fill", applied, SPACE)(clip, "made"))
            store = writer.finish(classes=("act",), splits={})
        assert (store.missing_joints.tolist(), store.dropped_bodies.tolist()) == ([5], [1])
        stored = Store.open(path)[0]
        assert (stored.missing_joints, stored.dropped_bodies) == (5, 1)
        expected = filled.frames if applied is None else recipe(filled, SPACE).transpose(3, 1, 2, 0)
        np.testing.assert_array_equal(stored.frames, expected)


@pytest.fixture
def sensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six NW-UCLA files, read as if the sensor had lost a hand for two frames, all joints for one, and file 5 whole."""
    rng = np.random.default_rng(9)
    for number in range(6):
        name = f"a01_s{number + 1:02}_e00_v{1 + number % 3:02}"
        record = {"file_name": name, "label": 1, "skeletons": rng.normal(size=(8, 20, 3)).tolist()}
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    read = NwUcla.read

    def lossy(self: NwUcla, path: Path, bodies: str) -> Clip:
        clip = read(self, path, bodies)
        marks = np.zeros((1, 8, 20), bool)
        marks[0, 2:4, 7], marks[0, 6] = True, True
        marks |= clip.subject == 5
        return replace(clip, missing=marks)

    monkeypatch.setattr(NwUcla, "read", lossy)
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "rule"),
    [({}, "fill"), ({"missing": "keep"}, "keep"), ({"preprocessing": "aimclr"}, "keep"),
     ({"preprocessing": "aimclr", "missing": "fill"}, "fill"), ({"preprocessing": "small"}, "fill")],
)  # fmt: skip
def test_prepare_fills_or_keeps_what_the_reader_marks(sensor: Path, asked: dict[str, str], rule: str) -> None:
    report = prepare(PrepareConfig("nw-ucla", sensor / "out.safetensors", sensor, workers=2, **asked))  # type: ignore[arg-type]
    lost = [failure.file for failure in report.failures]
    assert lost == (["a01_s05_e00_v02.json"] if rule == "fill" else [])
    store = Store.open(sensor / "out.safetensors")
    assert store.missing == rule
    skeleton = Skeleton.named("kinect-v1")
    for index in range(len(store)):
        clip = store[index]
        whole = clip.subject == 5
        expected = (2, 1) if rule == "fill" else (160 if whole else 22, 0)
        assert (clip.missing_joints, clip.dropped_bodies) == expected
        recorded = read_clip(sensor / f"{clip.name}.json", "nw-ucla")
        settled = fill_missing(recorded, skeleton, rule=rule)  # type: ignore[arg-type]
        if clip.preprocessing is None:
            np.testing.assert_array_equal(clip.frames, settled.frames)
        else:
            np.testing.assert_array_equal(clip.preprocessing(clip, skeleton), clip.preprocessing(settled, skeleton))


def test_a_clip_of_nothing_but_missing_joints_is_refused_by_prepare() -> None:
    frames = np.ones((1, 3, 6, 3), np.float32)
    clip = clip_of(frames, np.ones((1, 3, 6), bool))
    with pytest.raises(FormatError, match=r"a\.txt.*a body in some frame.*none in 3 frames"):
        Treatment("fill", None, TREE)(clip, "a.txt")
    assert Treatment("keep", None, TREE)(clip, "a.txt").missing_joints == 18


def test_numpy_alone_is_enough() -> None:
    program = (
        "import numpy as np\n"
        "from asma_fast import Skeleton\n"
        "from asma_fast.data import Clip\n"
        "from asma_fast.data.missing import fill_missing\n"
        "frames = np.ones((1, 3, 25, 3), np.float32)\n"
        "frames[0, 1, 3] = np.nan\n"
        "print(fill_missing(Clip(frames, 'ntu-rgb+d'), Skeleton.named('ntu-rgb+d')).frames.sum())\n"
    )
    assert program_output(program, without=("torch", "scipy", "safetensors", "numba", "sklearn")) == "225.0"
