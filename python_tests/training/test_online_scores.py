"""Scores of streams, on sequences small enough to be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from asma_fast.training.online_scores import OnlineScores, Track, held, macro_f1, online_scores, runs


def labels(text: str) -> np.ndarray:
    """A digit a frame, ``.`` for none."""
    return np.array([-1 if one == "." else int(one) for one in text], np.int64)


def scored(truth: str, named: str, likeliest: str | None = None, background: int = 0, classes: int = 3) -> OnlineScores:
    said = labels(named)
    other = said if likeliest is None else labels(likeliest)
    return online_scores([Track(labels(truth), other, said, fps=10.0)], classes, background)


def delays(scores: OnlineScores) -> list[float | None]:
    return [action.delay for track in scores.tracks for action in track.actions]


def false_alarms(scores: OnlineScores) -> int:
    return sum(track.false_alarms for track in scores.tracks)


def test_answers_hold_until_the_next():
    assert held([(2, 1), (4, 0), (4, 2)], 6).tolist() == [-1, -1, 1, 1, 2, 2]
    assert held([], 3).tolist() == [-1, -1, -1]
    assert runs(labels("..110")) == [(-1, 0, 2), (1, 2, 4), (0, 4, 5)]


def test_a_perfect_stream():
    scores = scored("0111022220", "0111022220")
    told = scores.told()
    assert told["accuracy"] == told["accuracy_named"] == told["macro_f1"] == told["macro_f1_named"] == 1
    assert (told["actions"], told["detected"], told["undetected"]) == (2, 1.0, 0)
    assert told["delay_mean"] == told["delay_median"] == told["false_alarms_per_minute"] == 0
    assert told["minutes"] == pytest.approx(1 / 60)
    np.testing.assert_array_equal(scores.confusion, [[3, 0, 0, 0], [0, 3, 0, 0], [0, 0, 4, 0]])


def test_delays_count_from_the_first_frame_and_leave_out_what_is_never_named():
    scores = scored("0111102222", "0001111200")
    assert delays(scores) == [pytest.approx(0.2), pytest.approx(0.1)]
    scores = scored("0111102222", "0001111111")
    assert delays(scores) == [pytest.approx(0.2), None]
    told = scores.told()
    assert (told["detected"], told["undetected"], told["delay_mean"]) == (0.5, 1, pytest.approx(0.2))


def test_an_answer_from_before_that_still_holds_detects_at_once():
    assert delays(scored("0001100", "0111100")) == [0]


@pytest.mark.parametrize(
    ("truth", "named", "alarms"),
    [
        ("0111000", "0011110", 0),  # until after its end
        ("0111000", "0000110", 1),  # begins after its end
        ("0111000", "0222000", 1),  # another one's name
        ("0111000", "2011102", 2),
        ("0111000", "1111111", 0),
        ("0000000", "0101010", 3),
        ("0111000", "......0", 0),
        ("....000", "1100000", 0),  # nothing is known there
        ("....000", "0011100", 1),
    ],
)
def test_false_alarms_are_runs_that_touch_no_action_of_their_class(truth, named, alarms):
    scores = scored(truth, named)
    assert false_alarms(scores) == alarms
    assert scores.told()["false_alarms_per_minute"] == pytest.approx(60 * alarms / 0.7)


def test_naming_nothing_is_the_background_where_there_is_one():
    with_, without = (scored("0011", "..11", background=background) for background in (0, -1))
    assert (with_.accuracy, without.accuracy) == (1, 0.5)
    np.testing.assert_array_equal(without.confusion, [[0, 0, 0, 2], [0, 2, 0, 0], [0, 0, 0, 0]])
    # Without a background its frames are an action of their own.
    assert delays(with_) == [0]
    assert delays(without) == [None, 0]


def test_frames_of_unknown_class_are_not_judged():
    scores = scored("..1100", "221100")
    assert scores.accuracy == 1
    assert scores.told()["frames"] == 4


def test_likeliest_and_named_are_told_apart():
    scores = scored("0011", named="0001", likeliest="0012")
    assert (scores.accuracy, scores.accuracy_named) == (0.75, 0.75)
    assert scores.macro_f1 == pytest.approx((1 + 2 / 3) / 2)
    assert scores.macro_f1_named == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert delays(scores) == [pytest.approx(0.1)]  # by the name


def test_macro_f1_is_over_the_classes_that_occur():
    assert macro_f1(np.array([[1, 1, 0], [0, 2, 0], [0, 0, 0]])) == pytest.approx((2 / 3 + 4 / 5) / 2)
    confusion = np.array([[1, 0, 1], [0, 2, 0]])  # a column for no class
    assert macro_f1(confusion) == pytest.approx((2 / 3 + 1) / 2)


def test_recordings_are_counted_together_and_apart():
    one, other = Track(labels("01"), labels("01"), labels("01"), 10), Track(labels("11"), labels("00"), labels("00"), 5)
    scores = online_scores([one, other], 2, 0)
    assert scores.accuracy == 0.5
    assert [track.right for track in scores.tracks] == [2, 0]
    assert [track.seconds for track in scores.tracks] == [0.2, 0.4]
    assert scores.told()["detected"] == 0.5
    nothing = online_scores([Track(labels("00"), labels("00"), labels("00"), 10)], 2, 0).told()
    assert (nothing["actions"], nothing["detected"], nothing["delay_mean"]) == (0, None, None)


def test_bad_input_is_told():
    with pytest.raises(ValueError, match=r"one number a frame, got shapes \[\(2,\), \(1,\), \(2,\)\]"):
        Track(labels("00"), labels("0"), labels("00"), 10)
    with pytest.raises(ValueError, match="fps must be above 0, got 0"):
        Track(labels("00"), labels("00"), labels("00"), 0)
    with pytest.raises(ValueError, match=r"named must lie in \[−1, 2\), got 0 … 2"):
        scored("00", "02", likeliest="00", classes=2)
    with pytest.raises(ValueError, match="background must be −1 or one of the 2 classes, got 2"):
        scored("00", "00", background=2, classes=2)
    with pytest.raises(ValueError, match="a frame whose class is known, got none"):
        scored("..", "00")
