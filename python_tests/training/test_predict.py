"""Predictions: those of the record, in words; without labels too, and of a raw file as of the store it is in."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_finetune import LIGHT
from toys import CLASSES, tiny, toy_store

from asma_fast.cli import main
from asma_fast.config import build
from asma_fast.data import PrepareConfig, prepare
from asma_fast.training import CheckpointError, FinetuneConfig, PredictConfig, finetune, predict, pretrain
from asma_fast.training.records import read_logits


def trained(folder, store, **options):
    """A checkpoint with a head."""
    given = {"data": store, "frames": 16, "encoders": "hl", "epochs": 1, "batch": 6}
    pretrain(tiny(folder / "run", **{**given, **options}))
    config = {
        **LIGHT,
        "epochs": 4,
        "batch": 6,
        "data": store,
        "run": folder / "run",
        "out": folder / "tuned",
        **options,
    }
    finetune(build(FinetuneConfig, ("light", config)))
    return folder / "tuned" / "hl.safetensors"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    trained(folder, toy_store(folder / "toy.safetensors", 36), split="half")
    return folder


def predicted(folder, **options):
    given = {"path": folder / "toy.safetensors", "checkpoint": folder / "tuned" / "hl.safetensors"}
    return predict(build(PredictConfig, ("given", given), ("test", options)))


def test_predictions_are_those_that_were_measured(run):
    found = predicted(run, part="test", top=2)
    logits, labels, ids = read_logits(run / "tuned" / "record-hl.json")
    assert np.array_equal(found.probabilities.argmax(1), logits.argmax(1))
    np.testing.assert_allclose(found.probabilities.sum(1), 1, rtol=1e-5)
    rows = list(found.rows())
    assert [row["name"] for row in rows] == [f"clip{place:03}" for place in ids]
    assert [row["class"] for row in rows] == [CLASSES[label] for label in labels]
    for row, values in zip(rows, found.probabilities, strict=True):
        told = [one["probability"] for one in row["predicted"]]
        assert len(told) == 2
        assert told == sorted(told, reverse=True)
        assert told[0] == pytest.approx(values.max(), abs=1e-6)
    assert str(found).count("\n") == len(rows) - 1


def test_lines_are_json_and_go_to_a_file(run, tmp_path, capsys):
    words = f"predict {run / 'toy.safetensors'} --checkpoint {run / 'tuned' / 'hl.safetensors'} --format json"
    assert main(words.split()) == 0
    shown = capsys.readouterr().out
    assert main([*words.split(), "--out", str(tmp_path / "lines.jsonl")]) == 0
    assert (tmp_path / "lines.jsonl").read_text() == shown
    lines = [json.loads(line) for line in shown.splitlines()]
    assert len(lines) == 36
    assert lines[0]["class"] == "left"


def test_no_labels_are_needed(run, tmp_path):
    store = toy_store(tmp_path / "bare.safetensors", 6, labels=False, splits={})
    found = predicted(run, path=store)
    assert found.truths == (None,) * 6
    assert len(found.names) == 6


def test_a_raw_file_is_named_as_in_its_store(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "raw").mkdir()
    for action in (1, 2):
        for view in (1, 2, 3):
            for take in range(3):
                name = f"a{action:02}_s{take + 1:02}_e00_v{view:02}"
                body = (
                    rng.normal(size=(20, 3))
                    + np.linspace(0, action, 20)[:, None, None]
                    + rng.normal(size=(20, 20, 3)) / 50
                )
                file = {"file_name": name, "label": action, "skeletons": body.tolist()}
                (tmp_path / "raw" / f"{name}.json").write_text(json.dumps(file))
    store = tmp_path / "ucla.safetensors"
    prepare(PrepareConfig("nw-ucla", out=store, source=tmp_path / "raw"))
    checkpoint = trained(tmp_path, store)
    whole = predict(PredictConfig(path=store, checkpoint=checkpoint))
    name = "a02_s03_e00_v03"
    one = predict(PredictConfig(path=tmp_path / "raw" / f"{name}.json", dataset="nw-ucla", checkpoint=checkpoint))
    assert one.names == (name,)
    np.testing.assert_allclose(one.probabilities[0], whole.probabilities[whole.names.index(name)], rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"checkpoint": ""}, ValueError, "name a network with a head by --checkpoint"),
        ({"checkpoint": "run/hl.safetensors"}, CheckpointError, "has no head to name classes"),
        ({"path": ""}, ValueError, "name a store, or a raw file and its --dataset"),
        ({"path": "nowhere.safetensors"}, ValueError, "no such store"),
        ({"top": 0}, ValueError, "top must be at least 1"),
        ({"part": "test", "split": "none"}, ValueError, "no clips"),
    ],
)
def test_what_cannot_be_predicted_is_said(run, options, error, message):
    options = {key: run / value if str(value).endswith("safetensors") else value for key, value in options.items()}
    with pytest.raises(error, match=message):
        predicted(run, **options)
