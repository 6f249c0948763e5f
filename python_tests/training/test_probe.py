"""Probes: what separates is separated, chance is chance, and what cannot be probed is said in a sentence."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from toys import CLASSES, SKELETON, half, renamed, tiny, toy_clips, toy_store

from asma_fast import Skeleton
from asma_fast.data import Preprocessing
from asma_fast.training import CheckpointError, ProbeConfig, pretrain, probe
from asma_fast.training.batches import EpochBatches
from asma_fast.training.features import calibrate, extract_features
from asma_fast.training.models import build_encoder, load_encoder
from asma_fast.training.probe import probe_features

METHODS = ("logistic", "linear", "knn")


def _blobs(count, spread, seed=0):
    """Three classes around the corners of a triangle, in ten dimensions of different scales."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 3
    x = rng.normal(scale=spread, size=(count, 10)).astype(np.float32)
    x[np.arange(count), y] += 3
    return x * np.float32(0.5) + np.float32(0.1), y


@pytest.mark.parametrize("method", METHODS)
def test_what_is_separable_is_separated(method):
    result = probe_features(ProbeConfig(method=method), _blobs(240, 0.4), _blobs(90, 0.4, 1), CLASSES)
    assert result.accuracy > 0.97
    assert result.confusion.sum() == 90
    assert (result.confusion.sum(1) == 30).all()
    assert min(result.per_class) > 0.9


@pytest.mark.parametrize("method", METHODS)
def test_what_means_nothing_is_at_chance(method):
    rng = np.random.default_rng(0)
    parts = [(rng.normal(size=(300, 10)).astype(np.float32), rng.integers(0, 3, 300)) for _ in range(2)]
    result = probe_features(ProbeConfig(method=method, epochs=20), *parts, CLASSES)
    assert abs(result.accuracy - 1 / 3) < 0.12


def test_a_probe_repeats_itself_and_its_record_holds_what_it_measured():
    config = ProbeConfig(method="linear", epochs=5, seed=3)
    first, second = (probe_features(config, _blobs(60, 1.0), _blobs(60, 1.0, 1), CLASSES) for _ in range(2))
    assert first.record == second.record
    record = json.loads(json.dumps(first.record))
    assert record["accuracy"] == first.accuracy
    assert record["confusion"] == first.confusion.tolist()
    assert set(record["per_class"]) == set(CLASSES)
    assert record["config"]["seed"] == 3
    assert record["clips"] == {"train": 60, "test": 60}
    assert {"asma_fast", "torch", "numpy", "python"} <= record["versions"].keys()
    assert f"{100 * first.accuracy:.2f} %" in str(first)


def test_accuracy_counts_the_diagonal_and_a_class_without_test_clips_has_none():
    x, y = _blobs(90, 0.2)
    test = _blobs(30, 0.2, 1)
    kept = test[1] != 2
    result = probe_features(ProbeConfig(), (x, y), (test[0][kept], test[1][kept]), CLASSES)
    assert np.isnan(result.per_class[2])
    assert result.record["per_class"]["both"] is None
    assert result.accuracy == result.confusion.diagonal().sum() / result.confusion.sum()


def test_the_nearest_neighbour_decides_a_tie():
    x = np.array([[1, 0], [0.9, 0.1], [0, 1], [-1, 0]], np.float32)
    y = np.array([1, 0, 0, 1])
    config = ProbeConfig(method="knn", neighbours=2)
    # (1, 0.01) is nearest to class 1, then to class 0.
    result = probe_features(config, (x, y), (np.array([[1, 0.01]], np.float32), np.array([1])), ("a", "b"))
    assert result.accuracy == 1


def test_neighbours_are_found_by_angle_not_by_length():
    x = np.array([[100, 0], [0, 0.01]] * 3, np.float32)
    y = np.array([0, 1] * 3)
    test = (np.array([[0.01, 0], [0, 100]], np.float32), np.array([0, 1]))
    assert probe_features(ProbeConfig(method="knn", neighbours=3), (x, y), test, ("a", "b")).accuracy == 1


@pytest.mark.parametrize(
    ("train", "test", "config", "message"),
    [
        ([0, 0, 0], [0], {}, "two classes or more to tell apart, got only 'left'"),
        ([0, 1, 2], [], {}, "the test part of the split has no labelled clips"),
        ([], [0], {}, "the training part of the split has no labelled clips"),
        ([0, 1, 2], [0], {"method": "knn", "neighbours": 9}, "at most the 3 training clips, got 9"),
    ],
)
def test_what_cannot_be_probed_is_said(train, test, config, message):
    parts = [(np.ones((len(y), 2), np.float32), np.array(y, dtype=np.int64)) for y in (train, test)]
    with pytest.raises(ValueError, match=message):
        probe_features(ProbeConfig(**config), *parts, CLASSES)


def test_features_that_are_not_finite_are_refused():
    x, y = _blobs(30, 1.0)
    x[3, 3] = np.nan
    with pytest.raises(ValueError, match="features of the training part must be finite"):
        probe_features(ProbeConfig(), (x, y), _blobs(30, 1.0), CLASSES)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A store and a short run of both encoders on it."""
    folder = tmp_path_factory.mktemp("probe")
    store = toy_store(folder / "toy.safetensors", 54)
    pretrain(tiny(folder / "run", data=store, split="half", frames=16, preprocessing="default", epochs=6))
    return folder


def _config(folder, **options):
    given = {"data": folder / "toy.safetensors", "split": "half", "run": folder / "run", "out": folder / "probe.json"}
    return ProbeConfig(**{**given, **options})


def test_encoders_are_probed_alone_or_joined_beside_raw_and_untrained(run):
    widths = {}
    for name, options in {
        "both": {},
        "hl": {"encoders": ("hl",)},
        "raw": {"features": "raw", "preprocessing": "default", "frames": 16},
        "random": {"features": "random"},
    }.items():
        result = probe(_config(run, **options))
        widths[name] = result.record["width"]
        assert json.loads((run / "probe.json").read_text()) == result.record
        assert result.record["data"]["split"] == "half"
        # Which hand waves: the coordinates tell, while encoders trained on flipped clips need not.
        assert result.accuracy > 0.5 or name != "raw"
    assert widths == {"both": 16, "hl": 8, "raw": 3 * 16 * 9, "random": 8}


def test_the_record_tells_the_budget_of_each_encoder(run):
    record = probe(_config(run)).record
    assert {name: budget["epoch"] for name, budget in record["encoders"].items()} == {"hl": 6, "lh": 6}
    assert record["preprocessing"]["frames"] == 16


def test_features_do_not_depend_on_the_batch(run):
    encoder, _ = load_encoder(run / "run" / "hl.safetensors")
    clips = toy_clips(13)
    np.testing.assert_allclose(
        extract_features(encoder, clips, 13), extract_features(encoder, clips, 4), rtol=1e-4, atol=1e-5
    )


def test_calibration_gives_each_batch_norm_the_statistics_of_the_clips():
    clips = toy_clips(32)
    encoder = build_encoder(tiny("unused", dropout=0.0), SKELETON, 3, seed=0)
    calibrate(encoder, clips, batch=32)
    whole = clips.x.permute(0, 2, 4, 3, 1).reshape(-1, 9, 3)
    np.testing.assert_allclose(encoder.input_norm.running_mean, whole.mean(0), atol=1e-5)
    np.testing.assert_allclose(encoder.input_norm.running_var, whole.var(0), atol=1e-5)
    assert encoder.input_norm.momentum == 0.1
    assert not encoder.training
    # Then training mode and eval mode see the same statistics of this one batch, up to the variance's correction.
    evaluated = extract_features(encoder, clips)
    with torch.no_grad():
        trained = encoder.train()(clips.x).numpy()
    np.testing.assert_allclose(evaluated, trained, rtol=0.05, atol=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"run": "empty"}, "holds no encoders"),
        ({"encoders": ("lh", "xx")}, "encoders must be among hl, lh"),
        ({"split": "none"}, "no clips: the split is empty"),
        ({"frames": 20}, "frames must be 16, as for the encoders in .*run, or 0; got 20"),
        ({"features": "raw", "bodies": 2}, "bodies must be 1, as for the encoders"),
    ],
)
def test_probing_what_is_not_there_is_refused(run, options, message):
    (run / "empty").mkdir(exist_ok=True)
    if "run" in options:
        options = {"run": run / options["run"]}
    with pytest.raises(ValueError, match=message):
        probe(_config(run, **options))


def test_the_split_is_that_of_the_run_unless_the_store_is_another(run, tmp_path):
    result = probe(_config(run, split=None))
    assert result.record["data"]["split"] == result.record["config"]["split"] == "half"
    assert result.record["test_clips_seen"] == 0
    assert "warning" not in str(result)
    other = toy_store(tmp_path / "other.safetensors", 36, seed=1)
    with pytest.raises(ValueError, match="name one of the store's splits"):
        probe(_config(run, data=other, split=None))
    assert probe(_config(run, data=other)).record["test_clips_seen"] is None


def test_test_clips_that_pretraining_saw_are_counted(tmp_path):
    splits = {"half": half, "turned": lambda info: "test" if half(info) == "train" else "train"}
    store = toy_store(tmp_path / "toy.safetensors", 36, splits=splits)
    pretrain(tiny(tmp_path / "run", data=store, split="half", frames=16, encoders="hl", epochs=1))
    result = probe(_config(tmp_path, split="turned"))
    assert result.record["test_clips_seen"] == result.record["clips"]["test"] == 24
    assert "warning: the encoders were pretrained on 24 of the 24 test clips" in str(result)
    assert probe(_config(tmp_path, split="turned", features="raw")).record["test_clips_seen"] == 0


@pytest.mark.parametrize("prepared", [False, True])
def test_every_kind_of_features_is_probed_on_the_clips_of_the_encoders(tmp_path, prepared):
    recipe = Preprocessing(frames=12, rotate="none")
    store = toy_store(tmp_path / "toy.safetensors", 36, bodies=2, preprocessing=recipe if prepared else None)
    options = {} if prepared else {"frames": 12}
    pretrain(tiny(tmp_path / "run", data=store, split="half", bodies=1, encoders="hl", epochs=1, **options))
    records = {name: probe(_config(tmp_path, features=name)).record for name in ("encoder", "random", "raw")}
    assert records["raw"]["width"] == 3 * 12 * 9
    for record in records.values():
        assert record["preprocessing"] == records["encoder"]["preprocessing"]
        assert record["config"]["bodies"] == 1
        assert record["config"]["frames"] == 12
    assert records["raw"]["encoders"] == {}


def test_a_recipe_without_a_name_is_rebuilt_from_the_record(tmp_path):
    toy_store(tmp_path / "toy.safetensors", 36)
    clips = toy_clips(12)
    assert clips.preprocessing not in [Preprocessing.named(name) for name in Preprocessing.names()]
    pretrain(tiny(tmp_path / "run", encoders="hl", epochs=1), clips)
    assert probe(_config(tmp_path)).record["preprocessing"] == clips.preprocessing.to_dict()


def test_raw_coordinates_need_no_run(run, tmp_path):
    record = probe(_config(run, run=tmp_path, features="raw", frames=8)).record
    assert record["width"] == 3 * 8 * 9


def test_clips_of_fewer_bodies_are_refused(run, tmp_path):
    store = toy_store(tmp_path / "pairs.safetensors", 12, bodies=2)
    pretrain(tiny(tmp_path / "run", data=store, split="half", frames=16, encoders="hl", epochs=1))
    with pytest.raises(CheckpointError, match="was trained on 2 bodies a clip, these have 1"):
        probe(_config(run, run=tmp_path / "run"))


def test_clips_without_labels_cannot_be_probed(run, tmp_path):
    store = toy_store(tmp_path / "unlabelled.safetensors", 12, labels=False)
    with pytest.raises(ValueError, match="no labels"):
        probe(_config(run, data=store))


def test_clips_of_another_skeleton_are_refused(run, tmp_path):
    other = Skeleton(SKELETON.edges, SKELETON.joints, "other", (1,), SKELETON.shoulders, SKELETON.pairs)
    store = toy_store(tmp_path / "other.safetensors", 12, skeleton=other)
    with pytest.raises(CheckpointError, match="was trained on skeleton toy, the store has other"):
        probe(_config(run, data=store))


@pytest.mark.parametrize("part", ["lacks", "unknown", "shape"])
def test_a_checkpoint_of_another_network_loads_nothing(run, tmp_path, part):
    from asma_fast.training.checkpoint import load_checkpoint, restore

    path = run / "run" / "hl.safetensors"
    tensors, _ = load_checkpoint(path)
    encoder = build_encoder(tiny(tmp_path), SKELETON, 3, seed=9)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    names = sorted(name for name in tensors if name.startswith("model.encoder."))
    if part == "lacks":
        del tensors[names[-1]]
    elif part == "unknown":
        tensors["model.encoder.extra"] = torch.zeros(1)
    else:
        tensors[names[-1]] = torch.zeros(7, 7)
    with pytest.raises(CheckpointError, match="is of another network"):
        restore(path, encoder, tensors, "model.encoder.")
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name])


def test_batches_are_a_function_of_seed_and_epoch_and_ranks_share_them():
    batches = EpochBatches(50, 8, seed=3)
    first = list(batches)
    assert list(batches) == first
    assert len(first) == len(batches) == 6
    places = [place for batch in first for place in batch]
    assert len(set(places)) == 48
    batches.epoch = 1
    assert list(batches) != first
    ranks = [list(EpochBatches(50, 8, seed=3, rank=rank, world=2)) for rank in (0, 1)]
    for whole, one, other in zip(first, *ranks, strict=True):
        assert set(whole) == set(one) | set(other)
        assert not set(one) & set(other)
    with pytest.raises(ValueError, match="multiple of the 3 devices, got 8"):
        EpochBatches(50, 8, seed=3, world=3)
    with pytest.raises(ValueError, match="a step needs at least 2 clips, got 1"):
        EpochBatches(1, 8, seed=3)


def test_clips_cannot_be_told_apart_by_place_only():
    clips = toy_clips(6)
    assert clips.fingerprint == toy_clips(6).fingerprint
    assert clips.fingerprint != toy_clips(6, seed=1).fingerprint
    assert clips.fingerprint != renamed(clips, ids=clips.ids + 1).fingerprint


def test_more_coordinates_than_clips_change_only_the_time_of_a_logistic_probe():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(5)
    x, y = _blobs(60, 1.0)
    wide = np.concatenate([x, rng.normal(size=(60, 300)).astype(np.float32)], axis=1)
    test = np.concatenate([_blobs(90, 1.0, 1)[0], rng.normal(size=(90, 300)).astype(np.float32)], axis=1)
    result = probe_features(ProbeConfig(), (wide, y), (test, _blobs(90, 1.0, 1)[1]), CLASSES)
    mean, spread = wide.mean(0), wide.std(0)
    plain = LogisticRegression(C=result.chosen["C"], max_iter=5000, tol=1e-8).fit((wide - mean) / spread, y)
    wanted = plain.predict((test - mean) / spread)
    assert np.bincount(wanted, minlength=3).tolist() == result.confusion.sum(0).tolist()
