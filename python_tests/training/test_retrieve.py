"""Retrieval and extraction: what lies nearest is found, scores are the field's, and features leave with their facts."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from test_finetune import LIGHT
from torchmetrics.functional.retrieval import retrieval_average_precision
from toys import CLASSES, SKELETON, tiny, toy_store

from asma_fast.config import build
from asma_fast.data import Store
from asma_fast.nn import STGCN, AlignedEncoders, FeatureAlignment
from asma_fast.training import (
    CheckpointError,
    ExtractConfig,
    FinetuneConfig,
    ProbeConfig,
    RetrieveConfig,
    extract,
    finetune,
    pretrain,
    probe,
    retrieve,
)
from asma_fast.training.extract import encoders_of
from asma_fast.training.frozen import Frozen
from asma_fast.training.models import load_encoder
from asma_fast.training.records import read_record
from asma_fast.training.retrieve import nearest


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("retrieve")
    store = toy_store(folder / "toy.safetensors", 54)
    pretrain(tiny(folder / "run", data=store, split="half", frames=16, epochs=2))
    return folder


def given(kind, folder, **options):
    data = {"data": folder / "toy.safetensors", "split": "half", "run": folder / "run"}
    return build(kind, ("given", data), ("test", options))


def blobs(count, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    return (rng.normal(size=(count, 8)) + 1.2 * np.eye(8)[labels]).astype(np.float32), labels


def test_average_precision_and_ranks_are_those_of_a_search_by_hand():
    (queries, wanted), (gallery, labels) = blobs(40, 0), blobs(70, 1)
    found = nearest((queries, wanted), (gallery, labels), 3)
    for row in range(40):
        cosines = gallery @ queries[row] / np.linalg.norm(gallery, axis=1) / np.linalg.norm(queries[row])
        relevant = labels == wanted[row]
        # torchmetrics takes what scores 0 or less for irrelevant.
        precision = retrieval_average_precision(torch.from_numpy(cosines + 2), torch.from_numpy(relevant))
        assert found.precisions[row] == pytest.approx(float(precision), abs=1e-5)
        assert found.ranks[row] == 1 + np.flatnonzero(relevant[np.argsort(-cosines)])[0]
        best = [cosines[labels == label].max() for label in range(3)]
        np.testing.assert_allclose(found.similarities[row], best, atol=1e-5)


def test_a_class_that_is_not_there_is_never_found():
    gallery = (np.eye(3, dtype=np.float32), np.array([0, 0, 2]))
    found = nearest((np.eye(3, dtype=np.float32)[:2], np.array([1, 0])), gallery, 3)
    assert found.ranks.tolist() == [0, 1]
    assert found.precisions[0] == 0
    assert found.similarities[:, 1].tolist() == [-2, -2]


def test_length_does_not_matter_and_order_decides_between_equals():
    gallery = (np.array([[5, 0], [0.1, 0], [0, 1]], np.float32), np.array([0, 1, 1]))
    found = nearest((np.array([[9, 0]], np.float32), np.array([1])), gallery, 2)
    assert found.ranks.tolist() == [2]


def test_the_nearest_clip_is_that_of_a_probe_with_one_neighbour(run, tmp_path):
    result = retrieve(given(RetrieveConfig, run, out=tmp_path / "retrieve.json", ranks="1,5,36"))
    one = probe(given(ProbeConfig, run, method="knn", neighbours=1, out=tmp_path / "probe.json"))
    assert result.accuracy == result.recall[1] == one.accuracy
    assert result.recall[1] <= result.recall[5] <= result.recall[36] == 1
    record = read_record(tmp_path / "retrieve.json")
    assert record == result.record
    assert record["mean_average_precision"] == pytest.approx(np.mean(list(record["average_precision"].values())))
    assert set(record["average_precision"]) == set(CLASSES)
    assert record["width"] == 16
    assert "recall@5" in str(result)


def test_features_leave_with_all_that_is_known_of_their_clips(run, tmp_path):
    result = extract(given(ExtractConfig, run, out=tmp_path / "features.npz", tokens="joint"))
    store = Store.open(run / "toy.safetensors")
    with np.load(tmp_path / "features.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    assert arrays.keys() == result.arrays.keys()
    assert arrays["features"].shape == (54, 16)
    assert np.array_equal(arrays["features"], np.concatenate([arrays["features_hl"], arrays["features_lh"]], axis=1))
    assert arrays["tokens_hl"].shape == (54, 9, 8)
    np.testing.assert_allclose(arrays["tokens_hl"].mean(1), arrays["features_hl"], atol=1e-5)
    assert arrays["labels"].tolist() == store.labels.tolist()
    assert arrays["names"].tolist() == list(store.names)
    assert arrays["classes"].tolist() == list(CLASSES)
    assert str(arrays["fingerprint"]) == store.fingerprint
    train, test = store.split("half")
    assert np.flatnonzero(arrays["part"] == "train").tolist() == train.tolist()
    part = extract(given(ExtractConfig, run, out=tmp_path / "part.npz", part="test", encoders="lh")).arrays
    assert part["ids"].tolist() == test.tolist()
    np.testing.assert_allclose(part["features"], arrays["features_lh"][test], atol=1e-5)
    assert "tokens_lh" not in part


def test_features_need_no_labels_and_no_split(run, tmp_path):
    store = toy_store(tmp_path / "bare.safetensors", 9, labels=False, splits={})
    arrays = extract(given(ExtractConfig, run, data=store, split="", out=tmp_path / "bare.npz", tokens="frame")).arrays
    assert arrays["labels"].tolist() == [-1] * 9
    assert arrays["part"].tolist() == [""] * 9
    np.testing.assert_allclose(arrays["tokens_lh"].mean(1), arrays["features_lh"], atol=1e-5)
    with pytest.raises(ValueError, match="name one of the store's splits with --split: it has none"):
        extract(given(ExtractConfig, run, data=store, split="", part="train", out=tmp_path / "bare.npz"))


def test_any_checkpoint_gives_the_features_below_its_head(run, tmp_path):
    config = {**LIGHT, "epochs": 1, "data": run / "toy.safetensors", "run": run / "run", "out": tmp_path / "tuned"}
    finetune(build(FinetuneConfig, ("light", config), ("test", {"freeze": "encoder", "encoders": "hl"})))
    path = tmp_path / "tuned" / "hl.safetensors"
    tuned = extract(given(ExtractConfig, run, checkpoint=path, out=tmp_path / "tuned.npz")).arrays
    plain = extract(given(ExtractConfig, run, encoders="hl", out=tmp_path / "plain.npz")).arrays
    np.testing.assert_allclose(tuned["features"], plain["features"], atol=1e-6)
    record = probe(given(ProbeConfig, run, checkpoint=path, out=tmp_path / "probe.json")).record
    assert record["test_clips_seen"] == 0
    assert record["encoders"]["hl"]["epoch"] == 1


def test_two_aligned_encoders_are_told_apart(run):
    first, second = (STGCN(SKELETON, (4, 8), strides=(1, 2)) for _ in range(2))
    aligned = AlignedEncoders(first, second, FeatureAlignment((8, 8), width=8))
    _, record = load_encoder(run / "run" / "hl.safetensors")
    frozen = Frozen((run / "x.safetensors",), (aligned,), (record,), None, run)
    assert encoders_of(frozen) == {"first": first, "second": second}


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (RetrieveConfig, {"ranks": "0"}, "ranks must be at least 1, got 0"),
        (ExtractConfig, {"out": "x.csv"}, "out must end in .npz, got x.csv"),
        (ExtractConfig, {"features": "raw", "tokens": "joint"}, "raw coordinates have none"),
        (ExtractConfig, {"checkpoint": "x.safetensors", "encoders": "hl"}, "a checkpoint is one network"),
    ],
)
def test_options_that_mean_nothing_are_refused(run, kind, options, message):
    with pytest.raises(ValueError, match=message):
        given(kind, run, **options)


def test_a_checkpoint_that_is_none_is_refused(run, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_text(json.dumps({}))
    with pytest.raises(CheckpointError, match="truncated, or not a safetensors file"):
        retrieve(given(RetrieveConfig, run, checkpoint=path))
