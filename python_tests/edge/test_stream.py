"""Streams: what a session says of the last seconds, frame by frame; slots, gaps, decisions, input that is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from edge.networks import SEVEN, clips, file_of, network
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from asma_fast import Skeleton
from asma_fast.data import Preprocessing
from asma_fast.edge import EdgeError, Session

RECIPES = {"resampled": Preprocessing(16, rotate="none"), "whole": Preprocessing(None, rotate="none")}
RAW = {"smoothing": 0.0, "unknown_below": 0.0, "hysteresis": 0.0}


@pytest.fixture(scope="module", params=RECIPES)
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Session:
    rules = RECIPES[request.param]
    return Session(
        file_of(tmp_path_factory.mktemp(request.param), network(SEVEN), preprocessing=rules, bodies=2), max_frames=2500
    )


def frames_of(count: int, bodies: int = 2, seed: int = 0) -> NDArray[np.float32]:
    """``(T, M, V, C)``."""
    return np.ascontiguousarray(clips(1, bodies, count, seed=seed)[0].swapaxes(0, 1))


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    chances = np.exp(logits.astype(np.float64) - logits.max())
    return np.asarray(chances / chances.sum())


@pytest.mark.parametrize("timed", [True, False])
def test_an_answer_is_the_sessions_of_the_last_seconds_to_the_bit(session, timed):
    recorded = frames_of(70)
    recorded[20:30, 1] = 0
    answers = []
    with session.stream(seconds=1, hop=7, **RAW) as stream:
        for t, frame in enumerate(recorded):
            result = stream.push(frame, t / 30 if timed else None)
            if result is not None:
                window = recorded[max(0, t - 29) : t + 1].swapaxes(0, 1)
                np.testing.assert_array_equal(stream.window, window)
                np.testing.assert_array_equal(result.logits, session.run(window[None])[0])
                np.testing.assert_allclose(result.probabilities, softmax(result.logits), rtol=1e-5)
                likeliest = session.classify(window, top=1)[0]
                assert (result.name, result.frames) == (likeliest.name, window.shape[1])
                assert result.probability == pytest.approx(likeliest.probability, rel=1e-5)
                assert result.time == pytest.approx(t / 30)
                answers.append(t)
    assert answers == list(range(30, 70, 7))


def test_times_decide_what_the_window_holds(session):
    recorded, times = frames_of(40), np.cumsum(np.random.default_rng(1).uniform(0.005, 0.1, size=40))
    stream = session.stream(seconds=0.7, hop=1, least_seconds=0, **RAW)
    for t, frame in enumerate(recorded):
        result = stream.push(frame, times[t])
        held = recorded[(times > times[t] - 0.7) & (times <= times[t])].swapaxes(0, 1)
        assert result is not None
        np.testing.assert_array_equal(result.logits, session.run(held[None])[0])


def test_after_a_gap_the_stream_begins_anew(session):
    recorded = frames_of(30)
    stream = session.stream(seconds=1, hop=1, least_seconds=0, gap=0.5)
    for t, frame in enumerate(recorded):
        stream.push(frame, t / 30)
    assert stream.push(recorded[0], 29 / 30 + 0.5).frames == 16  # as long as the gap, not longer
    assert stream.restarts == 0
    again = stream.push(recorded[3], 3.0)
    assert (again.frames, stream.restarts) == (1, 1)
    fresh = session.stream(seconds=1, hop=1, least_seconds=0, gap=0.5).push(recorded[3], 0.0)
    np.testing.assert_array_equal(again.probabilities, fresh.probabilities)
    stream.reset()
    np.testing.assert_array_equal(stream.push(recorded[3]).probabilities, fresh.probabilities)  # without a time now
    assert stream.restarts == 1


def test_a_track_keeps_its_slot_and_another_begins_empty(session):
    first, second, third = frames_of(9, 3).swapaxes(0, 1)
    stream = session.stream(seconds=10, hop=100)
    stream.push(np.stack([first[0], second[0]]), ids=[7, 9])
    stream.push(np.stack([second[1], first[1]]), ids=[9, 7])
    stream.push(first[None, 2], ids=[7])
    expected = np.zeros((2, 3, 7, 3), np.float32)
    expected[0], expected[1, :2] = first[:3], second[:2]
    np.testing.assert_array_equal(stream.window, expected)
    stream.push(np.stack([third[3], first[3]]), ids=[4, 7])  # 9's slot, which nobody has now
    expected = np.zeros((2, 4, 7, 3), np.float32)
    expected[0], expected[1, 3] = first[:4], third[3]
    np.testing.assert_array_equal(stream.window, expected)
    stream.push(np.stack([second[4], third[4]]), ids=[-1, 2**40])  # two new ones
    window = stream.window
    assert not window[:, :4].any()
    assert {window[m, 4].tobytes() for m in (0, 1)} == {second[4].tobytes(), third[4].tobytes()}


def test_a_body_that_is_not_finite_is_not_there_and_counted(session):
    recorded = frames_of(12)
    damaged = recorded.copy()
    recorded[5, 1] = recorded[7] = 0
    damaged[5, 1, 3, 0] = np.nan
    damaged[7] = np.inf
    streams = [session.stream(seconds=1, hop=12, least_seconds=0) for _ in range(2)]
    for clean, frame in zip(recorded, damaged, strict=True):
        results = [stream.push(one) for stream, one in zip(streams, (clean, frame), strict=True)]
    np.testing.assert_array_equal(results[0].logits, results[1].logits)
    assert [stream.missing for stream in streams] == [0, 3]


def test_where_nobody_is_nothing_is_named(session):
    stream = session.stream(seconds=0.1, hop=1, least_seconds=0, **RAW)
    assert stream.push(frames_of(1)[0]).name in session.classes
    for _ in range(3):
        result = stream.push(np.zeros((0, 7, 3), np.float32))
    assert result.name is None
    assert result.probability == 0
    assert not result.probabilities.any()
    assert not result.logits.any()
    assert stream.push(frames_of(1)[0]).name in session.classes


@given(seed=st.integers(0, 2**32 - 1), smoothing=st.floats(0, 0.95), below=st.floats(0, 1), margin=st.floats(0, 1))
def test_decisions_follow_their_rules(decisive, seed, smoothing, below, margin):
    settings = {"smoothing": smoothing, "unknown_below": below, "hysteresis": margin}
    stream = decisive.stream(seconds=0.2, hop=1, least_seconds=0, **settings)
    before, named = None, None
    for frame in 3 * frames_of(25, seed=seed):
        result = stream.push(frame)
        now = softmax(result.logits)
        wanted = now if before is None else smoothing * before + (1 - smoothing) * now
        np.testing.assert_allclose(result.probabilities, wanted, atol=2e-6)
        before = chances = result.probabilities.astype(np.float64)
        best, said = int(chances.argmax()), None if result.name is None else decisive.classes.index(result.name)
        if said is None:
            assert chances[best] < below
        else:
            assert chances[said] >= below - margin
            assert chances[said] >= below or said == named
            assert chances[best] <= chances[said] + margin or chances[best] < below
        if named is not None and said != named:  # for a reason
            assert chances[named] < below - margin or (said is not None and chances[said] > chances[named] + margin)
        named = said
        assert result.probability == pytest.approx(chances[best if said is None else said])


@pytest.fixture(scope="module")
def decisive(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Whose classes change often."""
    model = network(SEVEN)
    model.head.weight.data *= 5
    return Session(file_of(tmp_path_factory.mktemp("decisive"), model, preprocessing=RECIPES["resampled"], bodies=2))


def test_frames_that_do_not_fit_are_refused_and_change_nothing(session):
    recorded = frames_of(20)
    stream, untouched = (session.stream(seconds=0.5, hop=1, least_seconds=0, max_rate=30) for _ in range(2))
    for t in range(10):
        last = [one.push(recorded[t], t / 30, [1, 2]) for one in (stream, untouched)]
    for frame, time, ids, message in (
        (recorded[0, :, :6], 1.0, [1, 2], r"a frame must have shape \(M, 7, 3\)"),
        (frames_of(1, 3)[0], 1.0, [1, 2, 3], "at most 2 bodies, as the stream was made for, got 3"),
        (recorded[0], 1.0, [1], "an id for each of its 2 bodies, got 1"),
        (recorded[0], 1.0, [5, 5], "the ids of a frame must differ, got 5 twice"),
        (recorded[0], 9 / 30, [1, 2], "in order of time, got 0.3 after 0.3 seconds"),
        (recorded[0], 0.1, [1, 2], "in order of time, got 0.1 after 0.3 seconds"),
        (recorded[0], np.nan, [1, 2], "must be a number of seconds, got one that is not finite"),
        (recorded[0], None, [1, 2], "must all have a time, or none of them"),
        (recorded[0], 0.4, None, "likewise ids"),
    ):
        with pytest.raises(EdgeError, match=message):
            stream.push(frame, time, ids)
    with pytest.raises(TypeError, match="frame must be a float32 array, got float64"):
        stream.push(recorded[0].astype(np.float64), 1.0, [1, 2])
    last = [one.push(recorded[10], 10 / 30, [1, 2]) for one in (stream, untouched)]
    np.testing.assert_array_equal(last[0].probabilities, last[1].probabilities)
    np.testing.assert_array_equal(stream.window, untouched.window)
    fast = session.stream(seconds=0.5, hop=1, least_seconds=0, max_rate=30)
    for t in range(16):
        fast.push(recorded[t], t / 100)
    with pytest.raises(EdgeError, match=r"at most 30 a second, got 16 within 0\.5 seconds"):
        fast.push(recorded[16], 0.16)
    assert fast.window.shape[1] == 16


def test_a_closed_stream_says_so(session):
    stream = session.stream()
    stream.close()
    stream.close()
    for use in (lambda: stream.push(frames_of(1)[0]), stream.reset, lambda: stream.window, lambda: stream.missing):
        with pytest.raises(EdgeError, match="the stream is closed: it takes no more frames"):
            use()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seconds": 0}, "seconds must be from 0.01 to 3600, got 0"),
        ({"seconds": float("nan")}, "seconds must be from 0.01 to 3600, got nan"),
        ({"least_seconds": 3}, "least_seconds must be from 0 to 2, got 3"),
        ({"hop": 0}, "hop must be from 1 to 1000000, got 0"),
        ({"rate": 0}, "rate must be from 0.01 to 1000000, got 0"),
        ({"max_rate": float("nan")}, "max_rate must be from 0.01 to 1000000, got nan"),
        ({"gap": -1}, "gap must be from 0 to 3600, got -1"),
        ({"hop": 5.0}, "a stream's settings must be numbers, hop a whole one"),
        ({"hop": 2**70}, "a stream's settings must be numbers, hop a whole one"),
        ({"seconds": "two"}, "a stream's settings must be numbers"),
        ({"least_seconds": -1}, "least_seconds must be at least 0, got -1"),
        ({"mode": "both"}, "mode must be 'window' or 'continual', got 'both'"),
        ({"rate": -1}, "rate must be at least 0, got -1"),
        ({"pool": 5}, "pool is a setting of mode 'continual', got 5 with mode 'window'"),
        ({"spread": True}, "spread is a setting of mode 'continual', got True with mode 'window'"),
        ({"smoothing": 1}, "smoothing must be from 0 to below 1, got 1"),
        ({"unknown_below": -0.1}, "unknown_below must be from 0 to 1, got -0.1"),
        ({"hysteresis": 2}, "hysteresis must be from 0 to 1, got 2"),
        ({"seconds": 3600, "max_rate": 1e6}, "a window must have at most 1000000 frames, got 3600 seconds of 1000000"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message, session):
    with pytest.raises(EdgeError, match=message):
        session.stream(**settings)


def test_a_model_of_prepared_clips_has_no_stream(tmp_path):
    with pytest.raises(EdgeError, match="the model tells of no preprocessing"):
        Session(file_of(tmp_path, network())).stream()


def test_a_full_ring_goes_on(session):
    """At the highest rate that there is room for: every place of the ring is used many times."""
    recorded = frames_of(90)
    stream = session.stream(seconds=0.3, hop=1, least_seconds=0, max_rate=30, rate=30, **RAW)
    for t, frame in enumerate(recorded):
        result = stream.push(frame)
        window = recorded[max(0, t - 8) : t + 1].swapaxes(0, 1)
        np.testing.assert_array_equal(stream.window, window)
        np.testing.assert_array_equal(result.logits, session.run(window[None])[0])


@pytest.mark.parametrize("recipe", RECIPES)
def test_numbers_that_overflow_are_forgotten(recipe, tmp_path):
    model = network(SEVEN)
    model.head.weight.data *= 1e6
    session = Session(file_of(tmp_path, model, preprocessing=RECIPES[recipe], bodies=2))
    recorded = frames_of(30)
    stream, clean = (session.stream(seconds=0.2, hop=1, least_seconds=0) for _ in range(2))
    damaged = recorded.copy()
    damaged[3, 0, 2, 1] = 3e38
    for t in range(3):
        stream.push(damaged[t])
    result = stream.push(damaged[3])
    assert (result.name, result.probability) == (None, 0)
    for t in range(4, 10):
        result = stream.push(damaged[t])
        wanted = clean.push(recorded[t])
    assert result.name is not None
    np.testing.assert_array_equal(result.logits, wanted.logits)


def test_who_leaves_and_comes_back_in_a_tracked_stream(session):
    recorded, nobody = frames_of(4), np.zeros((0, 7, 3), np.float32)
    stream = session.stream(seconds=1, hop=1, least_seconds=0, **RAW)
    assert stream.push(nobody).name is None
    stream.push(recorded[0], ids=[3, 4])
    stream.push(nobody, ids=[])
    stream.push(nobody)
    stream.push(recorded[1][::-1].copy(), ids=[4, 3])
    expected = np.zeros((2, 5, 7, 3), np.float32)
    expected[:, 1], expected[:, 4] = recorded[0], recorded[1]
    np.testing.assert_array_equal(stream.window, expected)
    with pytest.raises(EdgeError, match="likewise ids"):
        stream.push(recorded[2])


def test_a_stream_has_a_slot_for_every_body_that_is_read(tmp_path):
    one = Session(file_of(tmp_path, network(), preprocessing=RECIPES["resampled"], bodies=1), max_bodies=2)
    recorded = frames_of(20)
    stream = one.stream(seconds=0.5, hop=1, least_seconds=0, **RAW)
    with pytest.raises(EdgeError, match="at most 1 bodies"):
        stream.push(recorded[0], ids=[7, 9])
    for t in range(10):
        stream.push(recorded[t, :1], ids=[7])
    for t in range(10, 20):
        result = stream.push(recorded[t, 1:], ids=[9])
    alone = recorded[10:, 1:].swapaxes(0, 1)[None]
    window = np.concatenate([np.zeros((1, 1, 5, 7, 3), np.float32), alone], axis=2)
    np.testing.assert_array_equal(stream.window, window[0])
    np.testing.assert_array_equal(result.logits, one.run(np.ascontiguousarray(window))[0])


def test_a_window_in_which_the_recipe_finds_nobody(tmp_path):
    """AimCLR's looks at the first body alone."""
    skeleton = Skeleton.named("ntu-rgb+d")
    given = Session(file_of(tmp_path, network(skeleton), preprocessing=Preprocessing.named("aimclr"), bodies=2))
    recorded = np.ascontiguousarray(clips(1, 2, 30, 25)[0].swapaxes(0, 1))
    stream = given.stream(seconds=0.2, hop=1, least_seconds=0, unknown_below=0)
    assert stream.push(recorded[0], ids=[7, 9]).name is not None
    names = [stream.push(recorded[t, 1:], ids=[9]).name for t in range(1, 10)]
    assert names[-1] is None
    assert stream.push(recorded[10], ids=[8, 9]).name is not None


def test_windows_longer_than_the_session_takes_are_refused_at_once(tmp_path):
    given = Session(file_of(tmp_path, network(), preprocessing=RECIPES["whole"], bodies=1), max_frames=100)
    with pytest.raises(EdgeError, match="was made for 100, got 2 seconds of max_rate 120; ask for more"):
        given.stream()
    given.stream(max_rate=50)


def test_threads_that_share_a_stream_are_told(session):
    stream, recorded = session.stream(seconds=0.2, hop=1, least_seconds=0), frames_of(1)[0]
    said: set[str] = set()

    def use(work: Callable[[], object]) -> None:
        for _ in range(300):
            try:
                work()
            except EdgeError as error:
                said.add(str(error))

    works = [lambda: stream.push(recorded), lambda: stream.push(recorded), lambda: stream.window, stream.reset]
    threads = [threading.Thread(target=use, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("one call at a time" in one or "120 a second" in one for one in said)
    stream.reset()
    fresh = session.stream(seconds=0.2, hop=1, least_seconds=0)
    np.testing.assert_array_equal(stream.push(recorded).logits, fresh.push(recorded).logits)


@pytest.mark.parametrize("ids", [[1.5, 2], [float("inf"), 1], ["a", 1], [2**63, 1]])
def test_ids_are_whole_numbers(ids, session):
    with pytest.raises(EdgeError, match="ids must be whole numbers of 64 bits"):
        session.stream().push(frames_of(1)[0], ids=ids)
