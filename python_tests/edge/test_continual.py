"""Continual streams: the causal network frame by frame says what torch's says of all frames so far."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from edge.networks import SEVEN, clips, file_of, int8_file, network
from mutations import damaged
from numpy.typing import NDArray
from ops.contract import assert_within_budget, instruction_set, instruction_sets, pairwise

from asma_fast import Skeleton
from asma_fast.data import Preprocessing
from asma_fast.edge import ContinualStream, EdgeError, Session
from asma_fast.nn import Classifier, TemporalConv

ASIS = Preprocessing(None, centre="none", rotate="none")
RAW = {"smoothing": 0.0, "unknown_below": 0.0, "hysteresis": 0.0}
KINDS = {
    "plain": {},
    "separable": {"separable": True},
    "student": {"channels": (16, 16, 32, 48), "strides": (2, 1, 2, 1)},
    "strides-of-three": {"channels": (5, 20, 20, 33), "strides": (1, 3, 1, 2)},
    "separable-strided": {"channels": (4, 24, 24, 40), "strides": (2, 1, 3, 1), "separable": True},
    "wide": {"channels": (64, 64, 96), "strides": (1, 1, 2)},
    "one": {"channels": (3,), "strides": (1,), "partition": "uniform"},
    "present": {"bodies": "present", "strides": (2, 1, 1, 1)},
}
CASES = pairwise(kind=tuple(KINDS), taps=(1, 3, 5, 9), bodies=(1, 2, 3), pool=(1, 4, 13), spread=(False, True))


def causal(skeleton: Skeleton = SEVEN, **options) -> Classifier:
    return network(skeleton, causal=True, **options)


def session_of(
    folder: Path, model: Classifier, preprocessing: Preprocessing = ASIS, bodies: int = 2, **options
) -> Session:
    path = file_of(folder, model, preprocessing=preprocessing, bodies=bodies, rate=30.0, **options)
    return Session(path, max_bodies=bodies)


def frames_of(count: int, bodies: int = 2, joints: int = 7, seed: int = 0) -> NDArray[np.float32]:
    """``(T, M, V, C)``."""
    return np.ascontiguousarray(clips(1, bodies, count, joints, seed=seed)[0].swapaxes(0, 1))


@torch.no_grad()
def logits_after(
    model: Classifier, frames: NDArray[np.float32], pool: int, dtype: torch.dtype = torch.float64
) -> NDArray[np.floating]:
    """By torch ``(outputs, classes)``: of the frames up to each output, its last ``pool`` ones averaged."""
    wide = copy.deepcopy(model).to(dtype)
    given = torch.from_numpy(frames).to(dtype).permute(3, 0, 2, 1)[None]
    tokens = wide.encoder.tokens(given, per="frame")[0]
    means = [tokens[max(0, t + 1 - pool) : t + 1].mean(0) for t in range(len(tokens))]
    return wide.head(torch.stack(means)).numpy()


def told(stream: ContinualStream, frames: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Of which frame, and the logits."""
    for t, frame in enumerate(frames):
        result = stream.push(frame)
        if result is not None:
            assert result.frames - 1 == t - stream.delay
            assert result.time == pytest.approx((result.frames - 1) / 30)
            yield result.frames - 1, result.logits


@pytest.mark.parametrize("isa", instruction_sets())
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_every_frame_says_what_the_network_says_of_all_so_far(isa, case, tmp_path):
    model = causal(**{**KINDS[case["kind"]], "taps": case["taps"]})
    recorded = frames_of(64, case["bodies"])
    with instruction_set(isa):
        session = session_of(tmp_path, model, bodies=case["bodies"])
        with session.stream("continual", pool=case["pool"], spread=case["spread"], **RAW) as stream:
            period = stream.period
            assert stream.delay < period
            assert stream.delay == 0 or case["spread"]
            frames, results = zip(*told(stream, recorded), strict=True)
    assert frames == tuple(range(0, len(recorded) - stream_delay(session, case), period))
    exact, reference = (
        logits_after(model, recorded, case["pool"], dtype)[: len(results)] for dtype in (torch.float64, torch.float32)
    )
    assert_within_budget(np.stack(results), exact, reference, what="logits", times=4)


def stream_delay(session: Session, case: dict[str, object]) -> int:
    return session.stream("continual", spread=case["spread"]).delay


def test_other_layers_say_the_same(tmp_path):
    """Groups of several channels, and a graph in which every joint is linked to every other."""
    nine = Skeleton(edges=tuple((a, b) for a in range(9) for b in range(a)), centre=(0,), name="nine")
    model = causal(nine, channels=(8, 72), strides=(1, 2), partition="uniform")
    model.encoder.blocks[1].temporal_conv = TemporalConv(72, 72, 3, stride=2, padding=(2, 0), groups=2)
    recorded = frames_of(40, 2, 9)
    for spread in (False, True):
        stream = session_of(tmp_path, model).stream("continual", pool=4, spread=spread, **RAW)
        wanted = logits_after(model, recorded, 4)
        results = dict(told(stream, recorded))
        assert len(results) >= 19
        for frame, logits in results.items():
            np.testing.assert_allclose(logits, wanted[frame // 2], rtol=1e-4, atol=1e-5)


def test_spread_gives_the_same_numbers_later(tmp_path):
    session = session_of(tmp_path, causal(**KINDS["student"], taps=5))
    recorded = frames_of(50)
    recorded[10:40, 1] = 0
    plain, spread = (session.stream("continual", spread=spread, **RAW) for spread in (False, True))
    assert 0 < spread.delay < spread.period == 4
    wanted, late = (dict(told(stream, recorded)) for stream in (plain, spread))
    assert list(late) == list(wanted)[: len(late)]
    for frame, logits in late.items():
        np.testing.assert_array_equal(logits, wanted[frame])


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("bodies", ["mean", "present"])
def test_bodies_come_and_go(bodies, spread, tmp_path):
    """Empty ones cost nothing once they are forgotten, and nothing differs."""
    model = causal(bodies=bodies, taps=3, strides=(2, 1, 2, 1))
    recorded = frames_of(200, 3)
    recorded[:9, 0] = recorded[30:, 0] = 0
    recorded[17:19, 1] = recorded[60:120, 1] = recorded[160:170, 1] = 0
    recorded[:70, 2] = recorded[75:133, 2] = 0
    stream = session_of(tmp_path, model, bodies=3).stream("continual", pool=5, spread=spread, **RAW)
    results = dict(told(stream, recorded))
    if bodies == "mean":
        wanted = logits_after(model, recorded, 5)
    else:  # whoever was there in the frames of the average
        alone = np.stack([features_after(model, recorded[:, m : m + 1], 5) for m in range(3)])
        there = np.stack(
            [recorded[max(0, t + 1 - 20) : t + 1].any(axis=(0, 2, 3)) for t in range(0, len(recorded), 4)], axis=1
        )
        means = (alone * there[..., None]).sum(0) / np.maximum(there.sum(0), 1)[:, None]
        wanted = means @ model.head.weight.detach().double().numpy().T + model.head.bias.detach().double().numpy()
    for frame, logits in results.items():
        somebody = recorded[max(0, frame + 1 - 20) : frame + 1].any()
        np.testing.assert_allclose(logits, wanted[frame // 4] * somebody, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def features_after(model: Classifier, frames: NDArray[np.float32], pool: int) -> NDArray[np.float64]:
    """Of one body ``(outputs, D)``."""
    tokens = (
        copy.deepcopy(model)
        .double()
        .encoder.tokens(torch.from_numpy(frames).double().permute(3, 0, 2, 1)[None], per="frame")[0]
    )
    return torch.stack([tokens[max(0, t + 1 - pool) : t + 1].mean(0) for t in range(len(tokens))]).numpy()


def test_who_was_forgotten_leaves_no_trace(tmp_path):
    """To the bit: a body long gone, and a slot that went to another track, are as one that never was there."""
    session = session_of(tmp_path, causal(taps=3, strides=(2, 1, 2, 1)))
    recorded = frames_of(120)
    first, other = (session.stream("continual", pool=3, **RAW) for _ in range(2))
    visited = recorded.copy()
    recorded[:80, 1] = visited[12:80, 1] = 0
    wanted, found = dict(told(first, recorded)), dict(told(other, visited))
    for frame in range(60, 120, 4):
        np.testing.assert_array_equal(found[frame], wanted[frame])
    # Tracks: 7 and 9, then 4 in 9's place.
    visited = frames_of(60)
    recorded = visited.copy()
    recorded[:31, 1] = 0
    streams = [session.stream("continual", pool=3, **RAW) for _ in range(2)]
    for t in range(60):
        ids = [7, 9] if t < 31 else [7, 4]
        results = [stream.push(frame[t], ids=ids) for stream, frame in zip(streams, (recorded, visited), strict=True)]
        if t >= 31 and results[0] is not None:
            np.testing.assert_array_equal(results[1].logits, results[0].logits)


def test_the_pool_is_as_long_as_a_training_clip(tmp_path):
    session = session_of(tmp_path, causal(strides=(1, 2, 2, 1)), Preprocessing(50, centre="none", rotate="none"))
    assert session.stream("continual").pool == 13
    assert session.stream("continual", pool=7).pool == 7
    assert session_of(tmp_path, causal()).stream("continual").pool == 25


@pytest.mark.parametrize("recipe", [{}, {"centre": "none", "rotate": "none"}, {"rotate": "none"}])
def test_frames_are_prepared_as_clips_are(recipe, tmp_path):
    skeleton, rules = Skeleton.named("ntu-rgb+d"), Preprocessing(None, **recipe)
    model = causal(skeleton, bodies="present")
    stream = session_of(tmp_path, model, rules).stream("continual", pool=6, **RAW)
    recorded = frames_of(40, 2, 25)
    recorded[10:20, 1] = recorded[35:, 0] = 0
    recorded[25, 0, 4] = recorded[25, 0, 8]  # shoulders in one point: the turn before holds
    prepared = np.ascontiguousarray(rules(recorded.swapaxes(0, 1), skeleton).transpose(1, 3, 2, 0))
    wanted = logits_after(model, prepared, 6)
    for frame, logits in told(stream, recorded):
        np.testing.assert_allclose(logits, wanted[frame // 2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("step", [1 / 30, 0.011, 0.05, 0.0771])
def test_frames_are_read_at_the_networks_rate(step, tmp_path):
    model = causal(taps=3)
    stream = session_of(tmp_path, model).stream("continual", pool=4, **RAW)
    recorded = frames_of(40)
    recorded[11:13, 1] = 0
    times = 5 + step * np.arange(40)
    grid = np.arange(5, times[-1] + 1e-6, 1 / 30)
    read = np.stack([np.interp(grid, times, numbers) for numbers in recorded.reshape(40, -1).T], axis=1)
    wanted = logits_after(model, read.reshape(len(grid), 2, 7, 3).astype(np.float32), 4)
    last = -2
    for frame, time in zip(recorded, times, strict=True):
        result = stream.push(frame, time)
        reached = int(np.searchsorted(grid, time + 1e-6)) - 1
        if reached // 2 > last // 2:
            assert result.frames - 1 == reached // 2 * 2
            assert result.time == pytest.approx(grid[result.frames - 1])
            np.testing.assert_allclose(result.logits, wanted[reached // 2], rtol=1e-4, atol=1e-4)
        else:
            assert result is None
        last = reached


def test_after_a_gap_or_a_reset_the_stream_begins_anew(tmp_path):
    session = session_of(tmp_path, causal())
    recorded = frames_of(30)
    stream, fresh = (session.stream("continual", spread=True, **RAW) for _ in range(2))
    for t in range(17):
        stream.push(recorded[t], t / 30)
    assert stream.restarts == 0
    for begins in (9.0, 20.0):
        for t in range(13):
            results = [one.push(recorded[t], begins + t / 30) for one in (stream, fresh)]
            assert (results[0] is None) == (results[1] is None)
            if results[0] is not None:
                np.testing.assert_array_equal(results[0].logits, results[1].logits)
                assert results[0][4:] == results[1][4:]
    assert (stream.restarts, fresh.restarts) == (2, 1)
    stream.reset()
    again = dict(told(stream, recorded))
    for frame, logits in told(session.stream("continual", **RAW), recorded):
        if frame in again:
            np.testing.assert_array_equal(again[frame], logits)


def test_where_nobody_is_nothing_is_named(tmp_path):
    session = session_of(tmp_path, causal(taps=3))
    stream = session.stream("continual", pool=2, **RAW)  # of 4 frames
    nobody, recorded = np.zeros((0, 7, 3), np.float32), frames_of(9)
    assert stream.push(nobody).name is None
    names = [result.name for result in (stream.push(frame) for frame in recorded) if result is not None]
    assert set(names) <= set(session.classes)
    answers = [result for result in (stream.push(nobody) for _ in range(8)) if result is not None]
    assert [answer.name is None for answer in answers] == [False, False, True, True]
    assert not answers[-1].probabilities.any()
    assert not answers[-1].logits.any()


def test_a_body_that_is_not_finite_is_not_there_and_counted(tmp_path):
    session = session_of(tmp_path, causal())
    recorded = frames_of(21)
    damaged = recorded.copy()
    recorded[5, 1] = recorded[7] = 0
    damaged[5, 1, 3, 0] = np.nan
    damaged[7] = np.inf
    streams = [session.stream("continual", **RAW) for _ in range(2)]
    wanted, found = (dict(told(stream, frames)) for stream, frames in zip(streams, (recorded, damaged), strict=True))
    for frame, logits in wanted.items():
        np.testing.assert_array_equal(found[frame], logits)
    assert [stream.missing for stream in streams] == [0, 3]


def test_numbers_that_overflow_are_forgotten(tmp_path):
    session = session_of(tmp_path, causal(taps=3))
    recorded = frames_of(80)
    damaged = recorded.copy()
    damaged[3, 0] = 3e38
    stream, clean = (session.stream("continual", pool=3) for _ in range(2))
    results = [[one.push(frame) for frame in frames] for one, frames in ((stream, damaged), (clean, recorded))]
    assert results[0][4].name is None
    np.testing.assert_array_equal(results[0][78].logits, results[1][78].logits)


def test_decisions_are_those_of_every_stream(tmp_path):
    model = causal()
    model.head.weight.data *= 5
    session = session_of(tmp_path, model)
    settings = {"smoothing": 0.8, "unknown_below": 0.5, "hysteresis": 0.1}
    stream, raw = session.stream("continual", pool=1, **settings), session.stream("continual", pool=1, **RAW)
    before, named = None, None
    for frame in frames_of(60):
        result, plain = stream.push(frame), raw.push(frame)
        if result is None:
            continue
        chances = plain.probabilities if before is None else 0.8 * before + 0.2 * plain.probabilities
        np.testing.assert_allclose(result.probabilities, chances, atol=2e-6)
        if result.name is None:
            assert chances.max() < 0.5 + 1e-6
        elif result.name != named:
            assert chances.max() >= 0.5 - 1e-6
        before, named = result.probabilities, result.name


def test_frames_that_do_not_fit_are_refused_and_change_nothing(tmp_path):
    session = session_of(tmp_path, causal())
    recorded = frames_of(20)
    stream, untouched = (session.stream("continual", **RAW) for _ in range(2))
    for t in range(10):
        for one in (stream, untouched):
            one.push(recorded[t], t / 30, [1, 2])
    for frame, time, ids, message in (
        (recorded[0, :, :6], 1.0, [1, 2], r"a frame must have shape \(M, 7, 3\)"),
        (frames_of(1, 3)[0], 1.0, [1, 2, 3], "at most 2 bodies, as the stream was made for, got 3"),
        (recorded[0], 1.0, [5, 5], "the ids of a frame must differ, got 5 twice"),
        (recorded[0], 9 / 30, [1, 2], "in order of time, got 0.3 after 0.3 seconds"),
        (recorded[0], 0.1, [3, 4], "in order of time, got 0.1 after 0.3 seconds"),
        (recorded[0], np.nan, [1, 2], "must be a number of seconds, got one that is not finite"),
        (recorded[0], None, [1, 2], "must all have a time, or none of them"),
        (recorded[0], 0.4, None, "likewise ids"),
    ):
        with pytest.raises(EdgeError, match=message):
            stream.push(frame, time, ids)
    results = [one.push(recorded[10], 10 / 30, [1, 2]) for one in (stream, untouched)]
    np.testing.assert_array_equal(results[0].logits, results[1].logits)
    stream.close()
    for use in (lambda: stream.push(recorded[11]), stream.reset, lambda: stream.missing, lambda: stream.period):
        with pytest.raises(EdgeError, match="the stream is closed: it takes no more frames"):
            use()


def test_a_stream_belongs_to_one_call_at_a_time(tmp_path):
    session = session_of(tmp_path, causal(channels=(64, 64), strides=(1, 1), taps=9))
    recorded = frames_of(1)[0]
    stream, refused, taken = session.stream("continual"), [], []

    def calls() -> None:
        for _ in range(300):
            try:
                taken.append(stream.push(recorded).frames)
            except EdgeError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=calls) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) + len(refused) == 1200
    assert sorted(taken) == list(range(1, len(taken) + 1))
    assert all("one call at a time" in message for message in refused)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pool": 0}, "pool must be at least 1, got 0"),
        ({"pool": 70_000}, "pool must be from 1 to 65536 outputs of the last block, got 70000"),
        ({"pool": 2.5}, "a stream's settings must be numbers, n_streams and pool whole ones"),
        ({"rate": 0}, "rate must be from 0.01 to 1000000, got 0"),
        ({"rate": 1e6}, "a gap must have at most 10000 frames, got 0.5 seconds of 1000000"),
        ({"gap": -1}, "gap must be from 0 to 3600, got -1"),
        ({"smoothing": 1}, "smoothing must be from 0 to below 1, got 1"),
        ({"seconds": 3}, "seconds is a setting of mode 'window', got 3 with mode 'continual'"),
        ({"hop": 1}, "hop is a setting of mode 'window', got 1 with mode 'continual'"),
        ({"least_seconds": 1}, "least_seconds is a setting of mode 'window', got 1"),
        ({"max_rate": 60}, "max_rate is a setting of mode 'window', got 60"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message, tmp_path):
    with pytest.raises(EdgeError, match=message):
        session_of(tmp_path, causal()).stream("continual", **settings)


def test_models_that_cannot_run_frame_by_frame_are_refused(tmp_path):
    with pytest.raises(EdgeError, match=r"needs a causal network, .*; block 0 is padded by 2 frames on the left and 2"):
        session_of(tmp_path, network()).stream("continual")
    whole = int8_file(tmp_path, causal(), clips(2, 2, 8), preprocessing=ASIS, bodies=2, rate=30.0)
    with pytest.raises(EdgeError, match="runs float32 models, this one is int8: mode window runs it"):
        Session(whole).stream("continual")
    with pytest.raises(EdgeError, match="the model tells of no preprocessing"):
        Session(file_of(tmp_path, causal(), rate=30.0)).stream("continual")
    untold = Session(file_of(tmp_path, causal(), preprocessing=ASIS, bodies=2))
    with pytest.raises(EdgeError, match="must know how many frames a second the network reads: export with rate"):
        untold.stream("continual")
    assert untold.stream("continual", rate=25).push(frames_of(1)[0]).frames == 1
    skeleton = Skeleton.named("ntu-rgb+d")
    for rules in ({"centre": "first"}, {"scale": "torso"}, {"rotate": "clip"}, {"centre": "none"}):
        with pytest.raises(EdgeError, match="prepares each frame by itself: preprocessing must have centre per-body"):
            session_of(tmp_path, causal(skeleton), Preprocessing(50, **rules)).stream("continual")
    reaching = causal(separable=True)
    reaching.encoder.blocks[2].pointwise = TemporalConv(8, 8, 3, padding=(2, 0))
    with pytest.raises(EdgeError, match="pointwise and residual convolutions of one tap; block 2 has one of 3"):
        session_of(tmp_path, reaching).stream("continual")
    with pytest.raises(EdgeError, match="strides whose product is at most 1024, got 2048"):
        session_of(tmp_path, causal(channels=(2,) * 11, strides=(2,) * 11, taps=2)).stream("continual")
    with pytest.raises(EdgeError, match="look back at most 16384 frames, got 23388"):
        session_of(tmp_path, causal(channels=(2,) * 2, strides=(256, 4), taps=92)).stream("continual")


def test_streams_share_weights_and_outlive_their_session(tmp_path):
    session = session_of(tmp_path, causal())
    recorded = frames_of(20)
    wanted = dict(told(session.stream("continual", **RAW), recorded))
    stream = session.stream("continual", **RAW)
    window = session.stream(seconds=0.2, hop=1, **RAW)
    del session
    for t, frame in enumerate(recorded):
        result = stream.push(frame)
        window.push(frame)
        if result is not None:
            np.testing.assert_array_equal(result.logits, wanted[t])


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("bodies", ["mean", "present"])
def test_streams_that_run_together_say_what_each_would_alone(bodies, spread, tmp_path):
    session = session_of(tmp_path, causal(bodies=bodies, taps=3))
    recorded = np.stack([frames_of(90, seed=seed) for seed in range(3)], axis=1)  # (T, streams, M, V, C)
    recorded[20:, 0, 1] = recorded[:30, 1] = recorded[10:60, 2] = 0
    settings = {"pool": 4, "spread": spread, "smoothing": 0.4}
    together = session.stream("continual", n_streams=3, **settings)
    alone = [session.stream("continual", **settings) for _ in range(3)]
    assert (together.period, together.pool, together.delay) == (alone[0].period, 4, alone[0].delay)
    for t, frame in enumerate(recorded):
        ids = [[7, 8 + t // 40], [7, 8], [t // 50, 3]]
        results = together.push(frame, t / 25, ids)
        single = [stream.push(one, t / 25, row) for stream, one, row in zip(alone, frame, ids, strict=True)]
        assert (results is None) == (single[0] is None)
        for result, wanted in zip(results or [], single, strict=results is not None):
            assert (result.name, result.time, result.frames) == (wanted.name, wanted.time, wanted.frames)
            np.testing.assert_array_equal(result.logits, wanted.logits)
            np.testing.assert_array_equal(result.probabilities, wanted.probabilities)


def test_frames_of_streams_that_do_not_fit_are_refused(tmp_path):
    session = session_of(tmp_path, causal())
    stream = session.stream("continual", n_streams=2)
    recorded = np.stack([frames_of(1)[0]] * 2)
    for frame, ids, message in (
        (recorded[0], None, r"a frame must have shape \(2, M, 7, 3\)"),
        (recorded[:1], None, r"a frame must have shape \(2, M, 7, 3\)"),
        (recorded, [[1, 2]], "a frame must have an id for each of its 4 bodies, got 2"),
        (recorded, [[1, 2], [3, 3]], "the ids of a frame must differ, got 3 twice"),
        (recorded, [1, 2], "ids must be a list of ids for each stream"),
    ):
        with pytest.raises(EdgeError, match=message):
            stream.push(frame, 0.0, ids)
    assert len(stream.push(recorded, 0.0, [[1, 2], [2, 1]])) == 2
    assert len(session.stream("continual", n_streams=1).push(recorded[:1])) == 1
    for wanted, message in (
        (0, "n_streams must be from 1 to 4096, got 0"),
        (1.5, "must be numbers, n_streams and"),
    ):
        with pytest.raises(EdgeError, match=message):
            session.stream("continual", n_streams=wanted)
    with pytest.raises(EdgeError, match="n_streams is a setting of mode 'continual', got 2 with mode 'window'"):
        session.stream(n_streams=2)


def test_damaged_files_are_refused_or_run(tmp_path):
    model = causal(channels=(2, 3), strides=(1, 2), taps=3)
    content, ran = file_of(tmp_path, model, preprocessing=ASIS, bodies=2, rate=30.0).read_bytes(), 0
    path, recorded = tmp_path / "damaged.safetensors", frames_of(5)
    for changed in damaged(content, count=2000):
        path.write_bytes(changed)
        try:
            stream = Session(path, max_frames=4).stream("continual", spread=bool(ran % 2))
            for frame in recorded:
                stream.push(frame)
            ran += 1
        except EdgeError:
            pass
    assert 50 < ran < 1000
