"""Training for streams: what is drawn, that networks are trained on what streams read, and what is measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from programs import start_verb
from test_processes import finish, start_all
from toys import CLASSES, SKELETON, frames_of, half, toy_store

from asma_fast.cli import main
from asma_fast.config import build
from asma_fast.data import Clip, PrepareConfig, Preprocessing, Store, StoreWriter, prepare
from asma_fast.edge import Session
from asma_fast.training import CheckpointError, OnlineConfig, online
from asma_fast.training.batches import EpochBatches
from asma_fast.training.checkpoint import load_checkpoint
from asma_fast.training.loop import read_losses
from asma_fast.training.models import load_model
from asma_fast.training.online import LastOutputs
from asma_fast.training.online_scores import Track, online_scores
from asma_fast.training.recordings import Recordings, Sample, Windows, by_frame, windows_of
from asma_fast.training.records import read_record
from asma_fast.training.streaming import exported, pushed

FPS = 20.0
TINY = {
    "channels": (4, 4, 8),
    "strides": (1, 2, 1),
    "taps": 5,
    "rate": FPS,
    "window": 12,
    "context": 30,
    "epochs": 2,
    "batch": 8,
    "rotation": "none",
    "shear": 0.1,
    "accelerator": "cpu",
    "progress": False,
}
KINDS = ("real", "held", "other", "cold")


def continuous(path: Path, count: int = 9, *, bodies: int = 1, fps: float = FPS, background: bool = True) -> Path:
    """A store of whole recordings: hands at rest (``none``, or no class at all) between actions that take turns."""
    rng = np.random.default_rng(0)
    names = ("none", *CLASSES) if background else CLASSES
    shift = int(background)
    with StoreWriter(path, dataset="toy", skeleton=SKELETON) as writer:
        for n in range(count):
            labels, pieces = [], []
            for action in rng.permutation(3).tolist():
                for label, length in ((-1, 6 + n % 4), (action, 18)):
                    pieces.append(frames_of(label, rng, length))
                    labels += [label + shift] * length
            frames = np.concatenate(pieces, axis=1).repeat(bodies, axis=0)
            frames[1:, : 20 + n] = frames[:, 5:7] = 0  # who comes later; a while in which nobody is there
            told = np.array(labels, np.int64)
            writer.add(Clip(frames, "toy", subject=n, name=f"whole{n}", fps=fps, frame_labels=told))
        writer.finish(classes=names, splits={"half": half})
    return path


def config_of(data: Path, out: Path = Path("unused"), **options: object) -> OnlineConfig:
    return build(OnlineConfig, ("tiny", {**TINY, "data": data, "out": out, "split": "half"}), ("test", options))


def windows(config: OnlineConfig, shown: Preprocessing | None = None) -> Windows:
    store = Store.open(config.data)
    return windows_of(Recordings.of(config, store, store.split("half")[0]), config, shown)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return continuous(tmp_path_factory.mktemp("whole") / "whole.safetensors")


@pytest.fixture(scope="module")
def trimmed(tmp_path_factory) -> Path:
    return toy_store(tmp_path_factory.mktemp("trimmed") / "trimmed.safetensors", 27)


@pytest.fixture(scope="module")
def trained(whole, tmp_path_factory):
    return {
        causal: online(config_of(whole, tmp_path_factory.mktemp("run") / "run", **options))
        for causal, options in {True: {}, False: {"causal": False, "context": None}}.items()
    }


def test_draws_are_a_function_of_seed_epoch_and_id(whole):
    drawn = windows(config_of(whole))
    ids, count = drawn.ids.numpy(), len(drawn)
    for epoch in (0, 3):
        samples = drawn.samples(epoch, ids, 25, cold=False)
        again = windows(config_of(whole)).samples(epoch, ids[::-1], 25, cold=False)[::-1]
        for one, other in zip(samples, again, strict=True):
            assert one.label == other.label
            assert [place for place, _ in one.pieces] == [place for place, _ in other.pieces]
            for (_, numbers), (_, same) in zip(one.pieces, other.pieces, strict=True):
                np.testing.assert_array_equal(numbers, same)

    def ends(config: OnlineConfig, epoch: int) -> list[int]:
        return [int(one.pieces[-1][1][-1]) for one in windows(config).samples(epoch, ids, 25, cold=False)]

    first = ends(config_of(whole), 0)
    assert first != ends(config_of(whole), 1)
    assert first != ends(config_of(whole, seed=1), 0)
    # A batch's draws are those of its epoch; its length is its own.
    steps = count // 8
    batch = drawn.batch([5 + count * (2 * steps + 1), 3 + count * (2 * steps + 1)])
    cold, frames = drawn.length(2, 1)
    wanted = drawn.samples(2, ids[[5, 3]], frames, cold)
    assert batch.labels.tolist() == [one.label for one in wanted]
    assert batch.ids.tolist() == ids[[5, 3]].tolist()
    assert batch.x.shape == (2, 3, frames, 9, 1)


def test_rows_tell_of_the_step(whole):
    plain, anew = (EpochBatches(20, 6, seed=7, anew=anew) for anew in (False, True))
    plain.epoch = anew.epoch = 4
    for number, (rows, coded) in enumerate(zip(plain, anew, strict=True)):
        assert [row + 20 * (4 * 3 + number) for row in rows] == coded
    parts = [next(iter(EpochBatches(20, 6, seed=7, rank=rank, world=2, anew=True))) for rank in range(2)]
    fresh = EpochBatches(20, 6, seed=7, anew=True)
    assert sorted(parts[0] + parts[1]) == sorted(next(iter(fresh)))


def test_ends_and_labels_and_lengths(whole):
    config = config_of(whole)
    drawn = windows(config)
    recordings = drawn.recordings
    for place in recordings.places.tolist():
        ids = [id_ for id_ in drawn.ids.tolist() if id_ & 0xFFFFFFFF == place]
        length = int(recordings.store.lengths[place])
        assert len(ids) == round(length / config.window)
        for sample, id_ in zip(drawn.samples(1, np.array(ids), 25, False), ids, strict=True):
            end, part = int(sample.pieces[-1][1][-1]), id_ >> 32
            assert part * length // len(ids) <= end < -(-(part + 1) * length // len(ids))
            assert sample.label == recordings.store[place].frame_labels[end]
    lengths = {drawn.length(epoch, number) for epoch in range(40) for number in range(4)}
    # Outputs are of every second frame; six are averaged.
    assert {frames for cold, frames in lengths if cold} == {5, 7, 9, 11}
    assert {frames for cold, frames in lengths if not cold} == set(range(11, 43, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_before_a_window(kind, whole):
    drawn = windows(config_of(whole, before=kind))
    for sample in drawn.samples(0, drawn.ids.numpy(), 31, kind == "cold"):
        place, own = sample.pieces[-1]
        end = int(own[-1])
        first = max(0, end - 11)
        numbers = np.concatenate([numbers for _, numbers in sample.pieces])
        assert len(numbers) == 31
        if kind in ("real", "cold"):
            assert own.tolist() == np.arange(end - 30, end + 1).clip(0).tolist()
        elif kind == "held":
            assert own.tolist() == np.arange(end - 30, end + 1).clip(first).tolist()
        else:
            (other, before), _ = sample.pieces
            assert other != place
            assert own.tolist() == list(range(first, end + 1))
            last = int(drawn.recordings.store.lengths[other]) - 1
            assert before.tolist() == np.arange(last - len(before) + 1, last + 1).clip(0).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_windows_hold_the_last_seconds(kind, tmp_path):
    """At any recorded rate; what is wanting is filled, or of ``cold`` is wanting."""
    config = config_of(continuous(tmp_path / "s", fps=30.0), causal=False, context=None, before=kind, window=30)
    drawn = windows(config)
    for sample in drawn.samples(0, drawn.ids.numpy(), 30, kind == "cold"):
        _, own = sample.pieces[-1]
        end = int(own[-1])
        if kind == "cold":
            assert own.tolist() == list(range(max(0, end - 44), end + 1))
            continue
        assert sum(len(numbers) for _, numbers in sample.pieces) == 45  # 1.5 seconds
        if kind == "other":
            assert own.tolist() == list(range(max(0, end - 44), end + 1))
        else:
            assert own.tolist() == np.arange(end - 44, end + 1).clip(0).tolist()
    assert drawn.batch(range(8)).x.shape == (8, 3, 30, 9, 1)


@pytest.mark.parametrize("rate", [FPS, 13.0, 30.0])
@pytest.mark.parametrize("pool", ["mean", "present"])
def test_a_causal_network_is_trained_on_what_its_stream_answers(pool, rate, tmp_path):
    """Its logits in training are those of the exported model after the same recorded frames."""
    data = continuous(tmp_path / "s", bodies=2)
    config = config_of(data, tmp_path / "run", pool=pool, rate=rate, epochs=1)
    checkpoint = online(config).checkpoint
    network = LastOutputs(load_model(checkpoint)[0], config.outputs)
    session = exported(checkpoint, tmp_path, 2)
    drawn = windows(replace(config, before=("real",)))
    recordings = drawn.recordings
    recipe = replace(drawn.preprocessing, frames=None)

    def wanted(sample: Sample) -> np.ndarray:
        """Of the network; zeros, as a stream says, where nobody was there in the frames of the average."""
        raw = drawn.raw(sample)
        x = torch.from_numpy(by_frame(recipe, raw, SKELETON)[None]).permute(0, 4, 2, 3, 1)
        with torch.no_grad():
            return network(x)[0].numpy() * raw[:, -config.outputs * config.period :].any()

    with session.stream("continual") as stream:
        assert (stream.pool, stream.period) == (config.outputs, config.period)
        for frames in (11, 21, 41):
            # Draws, as frames at the network's rate; recordings from their first frame on, at their own.
            for sample in drawn.samples(0, drawn.ids.numpy()[::3], frames, False):
                said = pushed(stream, drawn.raw(sample), rate, recordings.classes)
                np.testing.assert_allclose(said.logits, wanted(sample), rtol=1e-4, atol=1e-5)
            for place in recordings.places.tolist():
                sample = Sample(((place, np.arange(frames)),), 0)
                upto = int(recordings.recorded(place, np.array([frames - 1]))[0]) + 1
                said = pushed(stream, recordings.frames(place, slice(0, upto)), FPS, recordings.classes)
                np.testing.assert_allclose(said.logits, wanted(sample), rtol=1e-4, atol=1e-5)


def test_a_network_for_windows_is_trained_on_what_its_stream_answers(whole, trained, tmp_path):
    result, config = trained[False], config_of(whole, causal=False, context=None, before="real")
    session = exported(result.checkpoint, tmp_path, 1)
    network, drawn = load_model(result.checkpoint)[0], windows(config)
    recordings, compared = drawn.recordings, 0
    with session.stream("window", **config.streamed(False)) as stream, torch.no_grad():
        batch = drawn.batch(range(len(drawn)))
        for sample, wanted in zip(
            drawn.samples(0, drawn.ids.numpy(), 0, drawn.length(0, 0)[0]), network(batch.x).numpy(), strict=True
        ):
            raw = np.ascontiguousarray(drawn.raw(sample))
            np.testing.assert_allclose(session.run(raw[None])[0], wanted, rtol=1e-4, atol=1e-5)
            place, numbers = sample.pieces[-1]
            if numbers[-1] < config.window or (numbers[-1] - config.window) % config.hop:
                continue  # an answer comes every fifth frame from the first on that is a window's seconds old
            said = pushed(stream, recordings.frames(place, slice(0, int(numbers[-1]) + 1)), FPS, recordings.classes)
            np.testing.assert_allclose(said.logits, wanted, rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(stream.window, raw)
            compared += 1
    assert compared


@pytest.mark.parametrize("causal", [True, False])
def test_a_part_and_the_rest_are_the_whole_bit_for_bit(causal, whole, trained, tmp_path):
    options = {} if causal else {"causal": False, "context": None}
    stopped = online(config_of(whole, tmp_path / "run", **options, stop_after=1))
    assert (stopped.epochs, stopped.record) == (1, {})
    assert "stopped after 1 epochs" in str(stopped)
    result = online(config_of(whole, tmp_path / "run", **options, workers=1))
    one, other = (load_checkpoint(done.checkpoint)[0] for done in (trained[causal], result))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert result.record["online"] == trained[causal].record["online"]


@pytest.mark.parametrize("causal", [True, False])
def test_the_record_holds_what_the_stream_said(causal, whole, trained, tmp_path):
    result, config = trained[causal], config_of(whole, causal=causal, context=None)
    record = read_record(result.files["online"])
    assert record == result.record
    assert (record["kind"], record["mode"]) == ("online", "continual" if causal else "window")
    assert record["clips"] == {"train": 6, "test": 3}
    assert record["background"] == "none"
    session = exported(result.checkpoint, tmp_path, 1)
    store = Store.open(whole)
    tracks = []
    with session.stream(record["mode"], **record["settings"]) as stream:
        for place in store.split("half")[1].tolist():
            clip, likeliest, named = store[place], [], []
            stream.reset()
            last = (-1, -1)
            for number in range(clip.length):
                answer = stream.push(np.ascontiguousarray(clip.frames[:, number]), number / FPS)
                if answer is not None:
                    likely = int(answer.probabilities.argmax()) if answer.probabilities.any() else -1
                    last = likely, -1 if answer.name is None else store.classes.index(answer.name)
                likeliest.append(last[0])
                named.append(last[1])
            tracks.append(Track(clip.frame_labels, np.array(likeliest), np.array(named), FPS))
    told = online_scores(tracks, 4, 0).told()
    assert record["online"] == {**told, "accuracy_end": None}
    assert record["accuracy"] == told["accuracy"]
    assert sum(one["right"] for one in record["recordings"]) == round(told["accuracy"] * told["frames"])
    assert f"accuracy {100 * told['accuracy']:.2f} %" in str(result)
    assert record["settings"] == config.streamed(False)


def test_a_checkpoint_is_exported_with_its_rate_and_pool(trained, tmp_path, capsys):
    path = tmp_path / "model.safetensors"
    assert main(["export", str(trained[True].checkpoint), "--out", str(path)]) == 0
    session = Session(path)
    assert session.description["rate"] == FPS
    assert session.classes == ("none", *CLASSES)
    with session.stream("continual") as stream:
        assert (stream.pool, stream.period) == (6, 2)
    assert main(["export", str(trained[True].checkpoint), "--out", str(path), "--rate", "15"]) == 0
    assert Session(path).description["rate"] == 15


def test_int8_is_calibrated_on_draws(whole, trained, tmp_path):
    path = tmp_path / "int8.safetensors"
    words = ["--precision", "int8", "--calibration", str(whole), "--out", str(path)]
    assert main(["export", str(trained[False].checkpoint), *words]) == 0
    with Session(path).stream("window", seconds=0.6) as stream:
        said = pushed(stream, Store.open(whole)[0].frames, FPS, ("none", *CLASSES))
    assert said.logits.any()


def test_it_learns(whole, tmp_path):
    options = {"channels": (8, 8, 16), "epochs": 40, "batch": 16, "lr": 3e-2, "window": 6, "flip": 0, "shear": 0}
    result = online(config_of(whole, tmp_path, **options, context=10))
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.6 * losses[0]
    told = result.record["online"]
    assert told["accuracy"] > 0.6  # rest is a third
    assert told["detected"] > 0.6


def test_trimmed_clips(trimmed, tmp_path):
    for mode, options in {"continual": {}, "window": {"causal": False, "context": None, "window": 30}}.items():
        result = online(config_of(trimmed, tmp_path / mode, **options))
        record = result.record
        assert record["clips"] == {"train": 18, "test": 9}
        assert record["background"] is None
        assert record["online"]["actions"] == 9
        assert 0 <= record["online"]["accuracy_end"] <= 1
        assert "at the last frame" in str(result)
        assert sum(map(sum, record["confusion"])) > 0


def test_frames_without_a_class_are_the_background_or_left_out(tmp_path):
    data = continuous(tmp_path / "s", background=False)
    store = Store.open(data)
    named = Recordings.of(config_of(data), store, store.split("half")[0])
    assert (named.classes, named.background) == ((*CLASSES, "none"), 3)
    assert set(named.labels(0).tolist()) == {0, 1, 2, 3}
    bare = windows(config_of(data, background=""))
    assert (bare.classes, bare.recordings.background) == (CLASSES, -1)
    assert {one.label for one in bare.samples(0, bare.ids.numpy(), 21, False)} <= {0, 1, 2}
    record = online(config_of(data, tmp_path / "run", epochs=1)).record
    assert list(record["per_class"]) == [*CLASSES, "none"]


def test_a_teacher_tells_of_the_window_alone(whole, trained, tmp_path):
    teacher = trained[False].checkpoint
    recipe = Preprocessing.from_dict(load_checkpoint(teacher)[1]["preprocessing"])
    for options in ({}, {"causal": False, "context": None}):
        drawn = windows(config_of(whole, **options), recipe)
        batch = drawn.batch(range(6))
        assert batch.windows.shape == (6, 3, 12, 9, 1)
        cold, frames = drawn.length(0, 0)
        for one, sample in zip(batch.windows, drawn.samples(0, drawn.ids.numpy()[:6], frames, cold), strict=True):
            raw = drawn.raw(sample)[:, -12:]
            np.testing.assert_array_equal(one, recipe(raw, SKELETON) if raw.any() else np.zeros_like(one))
    result = online(config_of(whole, tmp_path / "run", teacher=str(teacher), epochs=1))
    assert result.record["teacher"]["files"] == [str(teacher)]
    with pytest.raises(CheckpointError, match="was trained with another teacher"):
        online(config_of(whole, tmp_path / "run", epochs=1))
    with pytest.raises(CheckpointError, match="a teacher's frames a clip must be 14, got 12"):
        online(config_of(whole, tmp_path / "other", teacher=str(teacher), window=14))
    with pytest.raises(CheckpointError, match="a teacher's classes must be"):
        online(config_of(continuous(tmp_path / "s", background=False), tmp_path / "other", teacher=str(teacher)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"causal": False}, "context is what a causal network remembers; got context=30 and no-causal"),
        ({"rate": 0}, r"rate must be from 0.01 to 1e\+06, got 0"),
        ({"window": 1}, "window must be at least the 2 frames that one output"),
        ({"window": 0}, "window must be from 1 to 100000, got 0"),
        ({"context": -1}, "context must be from 0"),
        ({"before": ""}, "before must name what comes before a window"),
        ({"before": "real,soon"}, "soon"),
        ({"frames": 20}, "frames of a clip are those of the window, 12; got frames=20"),
        ({"stream": "bone"}, "streams read joints alone; got stream=bone"),
        ({"crop": "pad"}, "crop must be none"),
        ({"temperature": 0}, "temperature must be above 0"),
        ({"alpha": 2}, "alpha must be from 0 to 1, got 2"),
        ({"hop": 0}, "hop must be from 1"),
        ({"teacher": "a,a"}, "each teacher must be named once"),
    ],
)
def test_options_that_do_not_fit_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        config_of(Path("store"), **options)


def test_stores_that_do_not_fit_are_told(whole, trimmed, tmp_path):
    with pytest.raises(ValueError, match="labels neither of frames nor of recordings"):
        online(config_of(toy_store(tmp_path / "bare", 9, labels=False), tmp_path / "run"))
    ready = toy_store(tmp_path / "ready", 9, preprocessing=Preprocessing(16, rotate="none"))
    with pytest.raises(ValueError, match=r"was prepared with 16 frames a clip; streams need frames as\s+recorded"):
        online(config_of(ready, tmp_path / "run"))
    with pytest.raises(ValueError, match=r"a continual stream prepares each frame by itself.*small has others"):
        online(config_of(whole, tmp_path / "run", preprocessing="small"))
    with pytest.raises(ValueError, match="the test part of the split has no labelled clips"):
        online(config_of(trimmed, tmp_path / "run", split="none"))
    with pytest.raises(ValueError, match="bodies must be at most 1, got 2"):
        online(config_of(whole, tmp_path / "run", bodies=2))
    with pytest.raises(ValueError, match="no data"):
        online(replace(config_of(whole), data=None))


def test_a_run_of_other_windows_is_not_continued(whole, tmp_path):
    online(config_of(whole, tmp_path, epochs=1))
    with pytest.raises(CheckpointError, match="was trained with frames=12, this run has frames=14"):
        online(config_of(whole, tmp_path, epochs=1, window=14))
    online(config_of(whole, tmp_path, epochs=1, hop=3))  # of the measurement alone


def words_of(options: dict[str, object]) -> list[str]:
    """A command line."""
    given = {key: ",".join(map(str, value)) if isinstance(value, tuple) else value for key, value in options.items()}
    return ["online", "--no-progress", *(f"--{key}={value}" for key, value in given.items() if key != "progress")]


def test_processes_train_what_one_process_trains(whole, tmp_path):
    one, two = ({**TINY, "lr": 1e-3, "data": whole, "split": "half", "out": tmp_path / name} for name in "ab")
    told = [finish(process) for process in (start_verb(*words_of(one)), *start_all(2, words_of(two)))]
    assert told[0].splitlines()[0] == told[1].splitlines()[0]
    assert told[2] == ""
    first, second = (read_losses(tmp_path / name / "metrics.jsonl")["online"] for name in "ab")
    assert first == pytest.approx(second, rel=1e-5)


def test_precog_end_to_end(recordings, tmp_path, capsys):
    source = tmp_path / "raw"
    source.mkdir()
    for person in (1, 2, 9):
        name = f"Seq1_{person}.csv"
        (source / name).symlink_to(recordings / "precog" / name)
    data = tmp_path / "precog.safetensors"
    assert prepare(PrepareConfig("precog", data, source, cut=False)).ok
    given = {**TINY, "data": data, "out": tmp_path / "run", "rate": 30, "window": 24, "context": 24, "epochs": 1}
    assert main(words_of(given)) == 0
    shown = capsys.readouterr().out
    assert "continual stream over 1 test recordings" in shown
    record = read_record(tmp_path / "run" / "record-online.json")
    assert record["background"] == "none"
    assert record["online"]["frames"] == Store.open(data).lengths[Store.open(data).split("xsub")[1]].sum()
