"""``export`` and ``classify``: from a trained checkpoint to the name of a raw recording's class."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from data.test_ntu import document
from edge.networks import network
from programs import program_output
from training.toys import TINY, toy_store

from asma_fast import Skeleton
from asma_fast.cli import main
from asma_fast.config import build
from asma_fast.data import Preprocessing, Store
from asma_fast.edge import Session, export
from asma_fast.edge.configs import ClassifyConfig
from asma_fast.edge.verbs import classify
from asma_fast.training import finetune, predict, pretrain
from asma_fast.training.checkpoint import load_checkpoint, save_checkpoint
from asma_fast.training.configs import PretrainConfig
from asma_fast.training.configs_measure import PredictConfig
from asma_fast.training.configs_supervised import FinetuneConfig


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Of one encoder, fine-tuned; its store beside it."""
    folder = tmp_path_factory.mktemp("verbs")
    shared = {"data": toy_store(folder / "toy.safetensors"), "split": "half", "accelerator": "cpu", "progress": False}
    run = {**TINY, **shared, "frames": 16, "encoders": ("hl",), "out": folder / "run", "epochs": 1}
    pretrain(build(PretrainConfig, ("test", run)))
    tuned = {**shared, "run": folder / "run", "out": folder / "tuned", "epochs": 2, "batch": 8, "lr": 1e-2}
    return finetune(build(FinetuneConfig, ("test", tuned))).checkpoints["hl"]


def test_export_keeps_preprocessing_bodies_and_names(checkpoint, tmp_path, capsys):
    path = tmp_path / "student.safetensors"
    assert main(["export", str(checkpoint), "--out", str(path)]) == 0
    assert capsys.readouterr().out == f"model file: {path}\n"
    store = Store.open(checkpoint.parents[1] / "toy.safetensors")
    onnx = path.with_suffix(".onnx")
    assert main(["export", str(checkpoint), "--out", str(onnx)]) == 0
    assert Session(onnx, runtime="onnxruntime").classes == tuple(store.classes)
    wanted = predict(build(PredictConfig, ("test", {"path": store.path, "checkpoint": checkpoint})))
    session = Session(path, max_frames=50)
    assert session.classes == tuple(store.classes)
    for place in range(len(store)):
        found = {one.name: one.probability for one in session.classify(store[place].frames)}
        assert [found[name] for name in store.classes] == pytest.approx(wanted.probabilities[place], abs=1e-5)


def test_export_calibrates_int8_on_a_store(checkpoint, tmp_path, capsys):
    path, store = tmp_path / "student.safetensors", checkpoint.parents[1] / "toy.safetensors"
    assert main(["export", str(checkpoint), "--out", str(path), "--precision=int8", f"--calibration={store}"]) == 0
    assert capsys.readouterr().out == f"model file: {path}\n"
    session, clips = Session(path, max_frames=50), Store.open(store)
    assert session.description["precision"] == "int8"
    wanted = predict(build(PredictConfig, ("test", {"path": store, "checkpoint": checkpoint})))
    for place in range(len(clips)):
        found = {one.name: one.probability for one in session.classify(clips[place].frames)}
        assert [found[name] for name in clips.classes] == pytest.approx(wanted.probabilities[place], abs=0.05)


def test_classify_names_a_raw_recording(tmp_path, capsys):
    recording, model = tmp_path / "S001C001P001R001A003.skeleton", tmp_path / "model.safetensors"
    recording.write_text(document([1, 2, 1, 1, 2, 1]))
    for layout, recipe, bodies in (("ntu-rgb+d", "aimclr", 2), ("common-15", "small", 1), ("ntu-rgb+d", "default", 0)):
        skeleton = Skeleton.named(layout)
        export(network(skeleton), model, preprocessing=Preprocessing.named(recipe), bodies=bodies, class_names="wxyz")
        found = classify(ClassifyConfig(recording, model=model, top=9))
        assert sorted(one.name for one in found.predictions) == list("wxyz")
        assert main(["classify", str(recording), "--model", str(model), "--top=2", "--format=json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["name"] == recording.stem
        assert [one["class"] for one in told["predicted"]] == [one.name for one in found.predictions[:2]]
    code = "from asma_fast.cli import main; main(['classify', sys.argv[1], '--model', sys.argv[2], '--top', '1'])"
    out = program_output(f"import sys\n{code}", recording, model, without=("torch", "safetensors", "scipy", "yaml"))
    assert out.startswith(f"{recording.stem}: {found.predictions[0].name} ")


def test_what_cannot_be_exported_or_classified_is_refused(checkpoint, tmp_path, capsys):
    def refused(*words: object) -> str:
        assert main(list(map(str, words))) == 2
        return capsys.readouterr().err

    assert "name a checkpoint" in refused("export")
    assert "name the raw file of a recording" in refused("classify")
    assert "precision int8 needs a store for calibration" in refused("export", checkpoint, "--precision=int8")
    assert "calibration is for precision int8, got fp32" in refused("export", checkpoint, "--calibration", "x")
    assert "cannot" in refused("export", checkpoint, "--precision=int8", "--calibration", tmp_path / "no.safetensors")
    assert "has no head to name classes" in refused("export", checkpoint.parents[1] / "run" / "hl.safetensors")
    tensors, record = load_checkpoint(checkpoint)
    save_checkpoint(tmp_path / "motion.safetensors", tensors, {**record, "stream": "motion"})
    assert "reads the stream 'motion'" in refused("export", tmp_path / "motion.safetensors")
    assert "rate is for streams" in refused("export", checkpoint, "--out", tmp_path / "model.onnx", "--rate", 30)
    store, onnx = checkpoint.parents[1] / "toy.safetensors", tmp_path / "model.onnx"
    assert "an ONNX file is fp32" in refused(
        "export", checkpoint, "--out", onnx, "--precision=int8", "--calibration", store
    )
    recording = tmp_path / "S001C001P001R001A003.skeleton"
    recording.write_text(document([1, 1]))
    assert "model.safetensors: cannot be opened" in refused(
        "classify", recording, "--model", tmp_path / "model.safetensors"
    )
    export(network(Skeleton.named("coco"), in_channels=2), tmp_path / "two.safetensors")
    assert "coco" in refused("classify", recording, "--model", tmp_path / "two.safetensors")
    assert "top must be at least 1" in refused("classify", recording, "--top", 0)
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        ClassifyConfig(threads=0)
