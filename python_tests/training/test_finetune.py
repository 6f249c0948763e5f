"""Fine-tuning: it learns what separates, goes on as if not stopped, and compares with the same network untrained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import CLASSES, SKELETON, half, renamed, tiny, toy_clips, toy_store

from asma_fast import Skeleton
from asma_fast.config import build
from asma_fast.nn import STGCN, Classifier
from asma_fast.training import CheckpointError, FinetuneConfig, TrainingError, finetune, pretrain
from asma_fast.training.checkpoint import load_checkpoint
from asma_fast.training.dataset import open_data
from asma_fast.training.models import load_encoder, load_model
from asma_fast.training.parts import labelled_parts
from asma_fast.training.records import check_labels, read_logits, read_record
from asma_fast.training.supervised import predict_logits

LIGHT = {
    "epochs": 12,
    "batch": 12,
    "lr": 1e-2,
    "dropout": 0.0,
    "accelerator": "cpu",
    "progress": False,
    "shear": 0.1,
    "rotation": "none",
    "flip": 0.0,
    "crop": "none",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A store and a short run of both encoders on it."""
    folder = tmp_path_factory.mktemp("finetune")
    store = toy_store(folder / "toy.safetensors", 54)
    pretrain(tiny(folder / "run", data=store, split="half", frames=16, epochs=2))
    return folder


def config_of(folder: Path, out: Path, **options: object) -> FinetuneConfig:
    given = {**LIGHT, "data": folder / "toy.safetensors", "split": "half", "run": folder / "run", "out": out}
    return build(FinetuneConfig, ("light", given), ("test", options))


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path)[0]


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """One encoder, fine-tuned at one go."""
    return finetune(config_of(run, tmp_path_factory.mktemp("whole"), encoders="hl"))


def test_it_learns_and_its_record_holds_what_it_measured(run, whole):
    record = read_record(whole.files["hl"])
    assert record == whole.records["hl"]
    assert record["kind"] == "finetune"
    assert record["protocol"] == "fine-tune"
    assert record["data"]["dataset"] == "toy"
    assert record["data"]["split"] == record["config"]["split"] == "half"
    assert record["clips"] == {"train": 36, "test": 18}
    assert record["budget"] == {"epochs": 12, "steps": 36, "batch": 12}
    assert record["encoders"]["hl"]["epoch"] == 2
    assert record["test_clips_seen"] == 0
    assert record["untrained_classes"] == []
    assert record["seconds"] > 0
    assert np.sum(record["confusion"]) == 18
    assert f"{100 * record['accuracy']:.2f} % of 18 test clips" in str(whole)


def test_the_logits_beside_a_record_are_those_of_the_checkpoint(whole, run):
    logits, labels, ids = read_logits(whole.files["hl"])
    assert logits.shape == (18, 3)
    assert logits.dtype == np.float32
    assert (logits.argmax(1) == labels).mean() == whole.scores["hl"].accuracy
    model, record = load_model(whole.checkpoints["hl"])
    assert isinstance(model, Classifier)
    assert record["classes"] == list(CLASSES)
    config = config_of(run, run)
    test = labelled_parts(config, open_data(config), [record]).test
    assert test.ids.tolist() == ids.tolist()
    np.testing.assert_allclose(predict_logits(model, test, 7), logits, rtol=1e-4, atol=1e-5)


def test_a_part_and_the_rest_are_the_whole_bit_for_bit(run, whole, tmp_path):
    stopped = finetune(config_of(run, tmp_path, encoders="hl", stop_after=5))
    assert stopped.stopped == {"hl": 5}
    assert not stopped.files
    assert "stopped after 5 epochs" in str(stopped)
    finetune(config_of(run, tmp_path, encoders="hl", workers=1))
    one, other = weights(whole.checkpoints["hl"]), weights(tmp_path / "hl.safetensors")
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    logits = [read_logits(folder / "record-hl.json")[0] for folder in (tmp_path, whole.files["hl"].parent)]
    assert np.array_equal(*logits)


def test_it_learns(run, tmp_path):
    result = finetune(config_of(run, tmp_path, encoders="hl", epochs=30, lr=3e-2))
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert np.mean(losses[-3:]) < 0.7 * losses[0]
    assert result.scores["hl"].accuracy > 0.5  # chance is a third


def test_each_encoder_is_fine_tuned_alone(run, whole, tmp_path):
    both = finetune(config_of(run, tmp_path))
    assert list(both.scores) == ["hl", "lh"]
    alone = weights(whole.checkpoints["hl"])
    assert all(torch.equal(tensor, alone[name]) for name, tensor in weights(both.checkpoints["hl"]).items())


def test_from_scratch_the_same_network_starts_untrained_and_sees_the_same_batches(run, tmp_path):
    frozen = {"epochs": 1, "lr": 0.0, "encoders": "hl"}
    scratch = finetune(config_of(run, tmp_path / "a", **frozen, **{"from": "scratch"}))
    tuned = finetune(config_of(run, tmp_path / "b", **frozen))
    first, second = weights(scratch.checkpoints["scratch-hl"]), weights(tuned.checkpoints["hl"])
    assert first.keys() == second.keys()
    pretrained = load_encoder(run / "run" / "hl.safetensors")[0].state_dict()
    for name, tensor in second.items():
        if name.startswith("model.encoder.") and "running" not in name and "tracked" not in name:
            assert torch.equal(tensor, pretrained[name.removeprefix("model.encoder.")]), name
    assert torch.equal(first["model.head.weight"], second["model.head.weight"])
    # The untrained encoder is that from which pretraining started, for the same seed.
    assert not torch.equal(
        first["model.encoder.blocks.0.temporal_conv.weight"], second["model.encoder.blocks.0.temporal_conv.weight"]
    )
    assert scratch.records["scratch-hl"]["encoders"] == {}
    assert scratch.records["scratch-hl"]["name"] == "from scratch hl"


def test_a_frozen_encoder_keeps_weights_and_statistics(run, tmp_path):
    result = finetune(config_of(run, tmp_path, encoders="hl", freeze="encoder", epochs=2))
    before = load_encoder(run / "run" / "hl.safetensors")[0].state_dict()
    after = load_model(result.checkpoints["hl"])[0].state_dict()
    assert all(torch.equal(tensor, after[f"encoder.{name}"]) for name, tensor in before.items())
    assert result.records["hl"]["protocol"] == "head alone"
    again = finetune(config_of(run, tmp_path, encoders="hl", freeze="encoder", epochs=2))
    assert again.scores["hl"].accuracy == result.scores["hl"].accuracy


def test_dropout_is_that_of_pretraining_unless_named(run, tmp_path):
    kept = finetune(config_of(run, tmp_path / "a", encoders="hl", epochs=1, dropout=""))
    named = finetune(config_of(run, tmp_path / "b", encoders="hl", epochs=1, dropout=0.25))
    found = [load_model(result.checkpoints["hl"])[0].encoder.dropout for result in (kept, named)]
    assert found == [0.3, 0.25]


def test_coordinates_that_are_not_finite_stop_it_and_are_named(run, tmp_path, monkeypatch):
    finetune(config_of(run, tmp_path, encoders="hl", stop_after=2))
    good = (tmp_path / "hl.safetensors").read_bytes()
    import asma_fast.training.loop as loop

    original = loop.loader

    def spoilt(clips, batches, workers):
        x = clips.x.clone()
        x[7] = float("nan")
        return original(renamed(clips, x=x), batches, workers)

    monkeypatch.setattr(loop, "loader", spoilt)
    with pytest.raises(TrainingError, match=r"hl: the loss became nan at step \d+ \(epoch 2\)") as stopped:
        finetune(config_of(run, tmp_path, encoders="hl"))
    message = str(stopped.value)
    assert f"the newest checkpoint is {tmp_path / 'hl.safetensors'}" in message
    batch = message.split("the batch was of clips ")[1].split(", of which the coordinates of ")
    # Row 7 of the training part: subjects 2, 5, ... test, three clips a subject.
    assert batch[1] == "10 are not finite"
    assert len(batch[0].split(", ")) == 12
    assert "10" in batch[0].split(", ")
    assert (tmp_path / "hl.safetensors").read_bytes() == good


def test_a_class_without_training_clips_is_named(run, tmp_path):
    def uneven(info):
        return "test" if half(info) == "test" or info.label == 2 else "train"

    store = toy_store(tmp_path / "toy.safetensors", 36, splits={"half": uneven})
    result = finetune(config_of(run, tmp_path / "out", data=store, encoders="hl", epochs=1))
    assert result.records["hl"]["untrained_classes"] == ["both"]
    assert "warning: no training clips of both" in str(result)
    one = toy_store(tmp_path / "one.safetensors", 36, splits={"half": lambda i: "test" if i.label else "train"})
    with pytest.raises(ValueError, match="two classes or more to tell apart, got only 'left'"):
        finetune(config_of(run, tmp_path / "none", data=one, encoders="hl"))


def test_labels_outside_the_classes_are_refused():
    good = np.array([0, 1, 2])
    with pytest.raises(ValueError, match="the training part of the split has a clip of class 3, but there are only 3"):
        check_labels(np.array([0, 3]), good, CLASSES)
    with pytest.raises(ValueError, match="the test part of the split has a clip of class 4"):
        check_labels(good, np.array([4]), CLASSES)


def test_what_does_not_fit_is_refused(run, tmp_path):
    unlabelled = toy_store(tmp_path / "unlabelled.safetensors", 12, labels=False)
    with pytest.raises(ValueError, match="the store has no labels; pretraining works without them"):
        finetune(config_of(run, tmp_path / "out", data=unlabelled))
    turned = Skeleton(SKELETON.edges, SKELETON.joints, "other", (1,), SKELETON.shoulders, SKELETON.pairs)
    other = toy_store(tmp_path / "other.safetensors", 18, skeleton=turned)
    with pytest.raises(CheckpointError, match="was trained on skeleton toy, the store has other"):
        finetune(config_of(run, tmp_path / "out", data=other))
    with pytest.raises(CheckpointError, match="holds no encoders"):
        finetune(config_of(run, tmp_path / "out", run=tmp_path / "out"))
    with pytest.raises(ValueError, match="encoders must be among hl, lh"):
        finetune(config_of(run, tmp_path / "out", encoders="xx"))
    with pytest.raises(CheckpointError, match="is no checkpoint of `asma-fast align`"):
        finetune(config_of(run, tmp_path / "out", align=run / "run" / "hl.safetensors"))
    with pytest.raises(ValueError, match="leave out --encoders, or --align"):
        config_of(run, tmp_path / "out", align="x.safetensors", encoders="hl")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_verb_or_other_options_is_refused(run, whole):
    out = whole.checkpoints["hl"].parent
    with pytest.raises(CheckpointError, match=r"was trained with lr=0\.01, this run has lr=0\.5"):
        finetune(config_of(run, out, encoders="hl", lr=0.5))
    with pytest.raises(CheckpointError, match="is no checkpoint of finetune hl"):
        finetune(config_of(run, run / "run", encoders="hl"))


def test_every_kind_of_checkpoint_loads_by_its_record(run, whole, tmp_path):
    assert isinstance(load_model(run / "run" / "hl.safetensors")[0], STGCN)
    with pytest.raises(CheckpointError, match="is no pretraining checkpoint"):
        load_encoder(whole.checkpoints["hl"])


def test_a_record_of_something_else_is_refused(whole, tmp_path):
    path = tmp_path / "record.json"
    with pytest.raises(ValueError, match="no such record"):
        read_record(path)
    record = json.loads(whole.files["hl"].read_text())
    for content, message in (
        ("{", "is no record"),
        ("[1]", "is no record of asma_fast"),
        ("{}", "is no record of asma_fast"),
        (json.dumps({**record, "version": 9}), "record of version 9, this release reads 1"),
        (json.dumps({key: value for key, value in record.items() if key != "accuracy"}), "without accuracy"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            read_record(path)
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"record-hl.npz: the logits of .*record.json cannot be read"):
        read_logits(path)
    path.write_text(json.dumps({key: value for key, value in record.items() if key != "logits"}))
    with pytest.raises(ValueError, match="this record has no logits"):
        read_logits(path)


def test_logits_do_not_depend_on_the_batch(whole):
    model = load_model(whole.checkpoints["hl"])[0]
    clips = toy_clips(13)
    np.testing.assert_allclose(predict_logits(model, clips, 13), predict_logits(model, clips, 4), rtol=1e-4, atol=1e-5)
