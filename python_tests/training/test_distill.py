"""Distillation: what the teacher is asked, what the student learns from it, and what is measured of both."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from programs import start_verb
from test_finetune import LIGHT
from test_processes import finish, start_all
from toys import CLASSES, SKELETON, half, tiny, toy_store

import asma_fast.training.teachers as teachers_module
from asma_fast import Skeleton
from asma_fast.config import build
from asma_fast.data import Store, StoreWriter
from asma_fast.nn import STGCN, AlignedEncoders, Classifier, FeatureAlignment, distillation_loss, inference_parameters
from asma_fast.philox import derive_seed
from asma_fast.training import CheckpointError, DistillConfig, FinetuneConfig, distill, finetune, pretrain
from asma_fast.training.augment import Augmentation
from asma_fast.training.checkpoint import load_checkpoint
from asma_fast.training.cost import latencies, multiply_adds
from asma_fast.training.lesson import lesson_of
from asma_fast.training.loop import VIEWS
from asma_fast.training.models import build_network, load_model
from asma_fast.training.records import read_logits, read_record
from asma_fast.training.teachers import Answers, Teacher, Teachers, Word, clips_by_stream, view_sets

STUDENT = {"channels": (4, 4), "strides": (2, 1), "views": 2, "epochs": 4, "crop": "pad", "flip": 0.5, "shear": 0.1}
# Streams are of the same clips: what a stream's teacher reads, a joint one could.
STREAMS = ("joint", "motion", "bone")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A store, a short run on it, and a teacher fine-tuned from that."""
    folder = tmp_path_factory.mktemp("distill")
    store = toy_store(folder / "toy.safetensors", 54)
    pretrain(tiny(folder / "run", data=store, split="half", frames=16, epochs=1, encoders="hl"))
    tuned = {"data": store, "run": folder / "run", "out": folder / "tuned", "epochs": 30, "lr": 3e-2}
    finetune(build(FinetuneConfig, ("light", LIGHT), ("test", tuned)))
    return folder


def config_of(home: Path, out: Path, **options: object) -> DistillConfig:
    given = {key: value for key, value in LIGHT.items() if key != "dropout"}
    named = {"data": home / "toy.safetensors", "teacher": str(home / "tuned" / "hl.safetensors"), "out": out}
    return build(DistillConfig, ("light", {**given, **STUDENT, **named}), ("test", options))


def teacher_of(home: Path, stream: str = "joint", model: Classifier | None = None, seed: int = 3) -> Teacher:
    """The fine-tuned teacher, or another network in its place, that is said to read a stream."""
    loaded = Teacher.load(home / "tuned" / "hl.safetensors")
    record = {**loaded.record, "stream": stream, "config": {**loaded.record["config"], "stream": stream}}
    if model is None:
        model = loaded.model
        if stream != "joint":
            model = build_network(loaded.record["network"], seed).eval()
    return Teacher(Path(f"{stream}.safetensors"), model, record)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path)[0]


def assert_same(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.fixture(scope="module")
def whole(home, tmp_path_factory):
    """A student, taught at one go, dropout and feature matching included."""
    return distill(config_of(home, tmp_path_factory.mktemp("whole"), beta=0.1, dropout=0.2, epochs=5))


def test_the_record_holds_what_was_measured(home, whole):
    record = read_record(whole.files["student"])
    assert record == whole.record
    assert (record["kind"], record["protocol"], record["stream"]) == ("distill", "distill", "joint")
    assert record["clips"] == {"train": 36, "test": 18}
    assert record["held_out"]
    assert record["test_clips_seen"] == 0
    model, kept = load_model(whole.checkpoint)
    assert isinstance(model, Classifier)
    assert kept["classes"] == list(CLASSES)
    teacher = load_model(home / "tuned" / "hl.safetensors")[0]
    assert record["student"]["parameters"] == inference_parameters(model)
    assert record["teacher"]["parameters"] == inference_parameters(teacher)
    assert record["student"]["share"] == inference_parameters(model) / inference_parameters(teacher)
    assert record["student"]["latency_ms"] > 0
    assert record["teacher"]["latency_ms"] > 0
    assert record["student"]["multiply_adds"] < record["teacher"]["multiply_adds"]
    # The teacher's accuracy is that of its own record, on the same clips.
    measured = read_record(home / "tuned" / "record-hl.json")
    assert record["teacher"]["accuracy"] == measured["accuracy"]
    logits, labels, ids = read_logits(whole.files["student"])
    theirs, _, same = read_logits(home / "tuned" / "record-hl.json")
    assert ids.tolist() == same.tolist()
    assert record["accuracy"] == (logits.argmax(1) == labels).mean()
    assert record["agreement"] == pytest.approx((logits.argmax(1) == theirs.argmax(1)).mean())
    table = str(whole)
    assert f"{100 * record['student']['share']:.1f} % of the teacher's {inference_parameters(teacher):,}" in table
    assert f"agrees with its teacher on {100 * record['agreement']:.2f} % of 18 test clips" in table


def test_the_student_learns_what_the_teacher_says(home, tmp_path):
    result = distill(config_of(home, tmp_path, epochs=40, lr=2e-2, alpha=1, temperature=4, views=0))
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.3 * losses[0]
    assert result.record["agreement"] > 0.5  # chance is a third
    assert result.record["protocol"] == "distill, label-free"


def test_a_part_and_the_rest_are_the_whole_bit_for_bit(home, whole, tmp_path):
    options = {"beta": 0.1, "dropout": 0.2, "epochs": 5}
    stopped = distill(config_of(home, tmp_path, **options, stop_after=2))
    assert (stopped.epochs, stopped.record, stopped.files) == (2, {}, {})
    assert "stopped after 2 epochs" in str(stopped)
    result = distill(config_of(home, tmp_path, **options, workers=1))
    assert_same(whole.checkpoint, result.checkpoint)
    assert np.array_equal(read_logits(whole.files["student"])[0], read_logits(result.files["student"])[0])
    # The map of features is kept for that, and is no part of the student.
    assert "model.match.weight" in weights(result.checkpoint)
    assert not any("match" in name for name in load_model(result.checkpoint)[0].state_dict())


def seen_by(home: Path, out: Path, teachers: Teachers, **options: object):
    config = config_of(home, out, **options)
    parts = lesson_of(config, teachers).parts
    return parts, clips_by_stream(teachers, parts, parts.train)


def test_cached_logits_are_what_the_teacher_says_of_what_the_student_sees(home, tmp_path):
    teachers = Teachers.of([teacher_of(home)])
    parts, seen = seen_by(home, tmp_path, teachers, views=3)
    clips, config = parts.train, parts.config
    word = Word(Answers(teachers, batch=7, features=True), seen, clips)
    sets = view_sets(config, clips)
    assert len(sets) == 3
    for number, views in enumerate(sets):
        word.ask(number, views, "cpu")
    augmentation = Augmentation(config, SKELETON)
    rows = torch.tensor([20, 3, 35, 3])
    batch = clips.batch(rows)
    model = teachers.members[0].model
    said = []
    for number in range(3):
        view = augmentation.view(16, seed=derive_seed(config.seed, VIEWS, number), ids=batch.ids)
        with torch.no_grad():
            features = model.encoder(batch.x, view)
        logits, found = word(number, batch.ids)
        torch.testing.assert_close(logits, model.head(features), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found, features, rtol=1e-4, atol=1e-5)
        said.append(logits)
    assert not torch.equal(said[0], said[1])
    plain = Answers(teachers)(seen)
    with torch.no_grad():
        np.testing.assert_allclose(plain, model(clips.x).numpy(), rtol=1e-4, atol=1e-5)


def test_the_loss_of_a_step_is_of_what_the_teacher_says_of_these_clips(home, tmp_path):
    """One epoch of one batch at rate 0: its loss by hand."""
    config = config_of(home, tmp_path, epochs=1, lr=0.0, batch=36, views=1, alpha=0.4, temperature=2)
    distill(config)
    (entry,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    teachers = Teachers.of([teacher_of(home)])
    parts, _ = seen_by(home, tmp_path, teachers, views=1)
    clips = parts.train
    view = Augmentation(config, SKELETON).view(16, seed=derive_seed(0, VIEWS, 0), ids=clips.ids)
    student = load_model(tmp_path / "student.safetensors")[0].train()
    with torch.no_grad():
        said = teachers.members[0].model(clips.x, view)
        loss = distillation_loss(student(clips.x, view), said, clips.labels, temperature=2, alpha=0.4)
    assert entry["loss"] == pytest.approx(float(loss), rel=1e-4)


def test_a_teacher_is_asked_once_for_each_view_set(home, tmp_path, monkeypatch):
    asked = []
    original = teachers_module.predict_logits

    def counting(model, clips, *rest, view=None):
        asked.append((len(clips), view is not None))
        return original(model, clips, *rest, view=view)

    monkeypatch.setattr(teachers_module, "predict_logits", counting)
    cache: dict[str, np.ndarray] = {}
    distill(config_of(home, tmp_path / "a", views=2), cache=cache)
    assert asked == [(36, True), (36, True), (18, False)]
    # Another student of the same, with the same views: nothing is asked again.
    distill(config_of(home, tmp_path / "b", views=2, channels=(5,), strides=(2,), lr=1e-3), cache=cache)
    assert len(asked) == 3
    # Other views are.
    distill(config_of(home, tmp_path / "c", views=2, shear=0.3, epochs=1), cache=cache)
    distill(config_of(home, tmp_path / "d", views=0, epochs=1), cache=cache)
    assert asked[3:] == [(36, True), (36, False)]
    # What is done is not asked for again.
    asked.clear()
    distill(config_of(home, tmp_path / "d", views=0, epochs=1))
    assert asked == [(18, False)]


def test_three_streams_are_added_up_by_the_published_weights(home, tmp_path):
    members = [teacher_of(home, stream) for stream in STREAMS]
    teachers = Teachers.of(members)
    assert teachers.weights == (0.6, 0.4, 0.6)
    _, seen = seen_by(home, tmp_path, teachers)
    assert set(seen) == set(STREAMS)
    x = seen["joint"].x
    torch.testing.assert_close(seen["motion"].x[:, :, :-1], x[:, :, 1:] - x[:, :, :-1])
    torch.testing.assert_close(seen["bone"].x, x - x[:, :, :, SKELETON.bones])
    with torch.no_grad():
        said = [member.model(seen[member.stream].x).numpy() for member in members]
    wanted = 0.6 * said[0] + 0.4 * said[1] + 0.6 * said[2]
    np.testing.assert_allclose(Answers(teachers)(seen), wanted, rtol=1e-4, atol=1e-5)
    other = Teachers.of(members, (1.0, 0.0, 2.0))
    np.testing.assert_allclose(Answers(other)(seen), said[0] + 2 * said[2], rtol=1e-4, atol=1e-5)
    assert Teachers.of(members[1:2]).weights == (1.0,)
    result = distill(config_of(home, tmp_path, epochs=1, beta=0.5), teachers=members)
    assert result.record["teacher"]["streams"] == list(STREAMS)
    # The share is of one stream's teacher, time and work of all.
    parameters = inference_parameters(members[0].model)
    assert result.record["teacher"]["parameters"] == parameters
    assert result.record["teacher"]["multiply_adds"] == 3 * multiply_adds(members[0].model, x[:1])


def test_the_student_reads_its_own_stream(home, tmp_path):
    result = distill(config_of(home, tmp_path, stream="motion", epochs=1))
    assert result.record["stream"] == "motion"
    assert result.record["name"] == "student (motion) of hl (joint)"
    assert load_model(result.checkpoint)[1]["stream"] == "motion"


def test_two_aligned_encoders_teach(home, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        encoders = [STGCN(SKELETON, (4, 6), strides=(1, 2)) for _ in range(2)]
        model = Classifier(AlignedEncoders(*encoders, FeatureAlignment((6, 6), width=8, heads=2)), 3).eval()
    member = teacher_of(home, model=model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = distill(config_of(home, tmp_path, epochs=2, beta=1.0), teachers=[member])
    assert result.record["teacher"]["parameters"] == inference_parameters(model)
    assert weights(result.checkpoint)["model.match.weight"].shape == (12, 4)
    # Only the student learns.
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def relabelled(path: Path, source: Path) -> Path:
    """The store with every label one further."""
    clips = [replace(clip, label=(clip.label + 1) % 3) for clip in Store.open(source)]
    with StoreWriter(path, dataset="toy", skeleton=SKELETON) as writer:
        for clip in clips:
            writer.add(clip)
        writer.finish(classes=CLASSES, splits={"half": half})
    return path


def test_label_free_the_labels_do_not_matter(home, tmp_path):
    store = relabelled(tmp_path / "other.safetensors", home / "toy.safetensors")
    one = distill(config_of(home, tmp_path / "a", alpha=1))
    other = distill(config_of(home, tmp_path / "b", alpha=1, data=store))
    first, second = weights(one.checkpoint), weights(other.checkpoint)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    told = distill(config_of(home, tmp_path / "c", alpha=0.5, data=store))
    assert not torch.equal(first["model.network.head.weight"], weights(told.checkpoint)["model.network.head.weight"])


def test_a_store_without_labels_teaches_label_free_only(home, tmp_path):
    store = toy_store(tmp_path / "unlabelled.safetensors", 36, labels=False)
    result = distill(config_of(home, tmp_path / "a", alpha=1, data=store, split="half"))
    record = read_record(result.files["student"])
    assert result.scores is None
    assert record["accuracy"] is None
    assert record["teacher"]["accuracy"] is None
    assert record["clips"] == {"train": 24, "test": 12}
    assert 0 <= record["agreement"] <= 1
    assert "accuracy" not in str(result)
    labels = read_logits(result.files["student"])[1]
    assert (labels == -1).all()
    with pytest.raises(ValueError, match=r"has no labels, and alpha=0\.5 asks for them; --alpha 1 distils without"):
        distill(config_of(home, tmp_path / "b", data=store))
    assert not (tmp_path / "b").exists()


def test_without_a_test_part_agreement_is_of_the_training_clips(home, tmp_path):
    bare = toy_store(tmp_path / "bare.safetensors", 24, labels=False, splits={})
    for store, split in ((bare, None), (home / "toy.safetensors", "none")):
        options = {} if split is None else {"split": split}
        result = distill(config_of(home, tmp_path / str(split), alpha=1, data=store, epochs=1, **options))
        assert not result.record["held_out"]
        assert result.record["accuracy"] is None
        assert f"{result.record['clips']['train']} training clips" in str(result)


def test_label_free_on_clips_of_other_classes_measures_agreement_alone(home, tmp_path):
    member = teacher_of(home)
    member = replace(member, record={**member.record, "classes": ["a", "b", "c"]})
    result = distill(config_of(home, tmp_path / "a", alpha=1, epochs=1), teachers=[member])
    assert result.scores is None
    assert load_model(result.checkpoint)[1]["classes"] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="its classes are not the teacher's"):
        distill(config_of(home, tmp_path / "b"), teachers=[member])


def test_a_larger_student_is_warned_of(home, tmp_path):
    with pytest.warns(UserWarning, match=r"the student has [\d,]+ parameters, more than its teacher's [\d,]+"):
        result = distill(config_of(home, tmp_path, channels=(16, 16), epochs=1))
    assert result.record["student"]["share"] > 1


def test_a_student_of_another_teacher_is_not_continued(home, whole, tmp_path):
    moved = tmp_path / "elsewhere.safetensors"
    moved.write_bytes((home / "tuned" / "hl.safetensors").read_bytes())
    options = {"beta": 0.1, "dropout": 0.2, "epochs": 5}
    out = whole.checkpoint.parent
    assert distill(config_of(home, out, **options, teacher=str(moved))).epochs == 5
    with pytest.raises(CheckpointError, match="is the student of another teacher"):
        distill(config_of(home, out, **options), teachers=[teacher_of(home, "motion")])
    with pytest.raises(CheckpointError, match=r"was trained with temperature=1\.0, this run has temperature=2\.0"):
        distill(config_of(home, out, **options, temperature=2))


def test_what_does_not_fit_is_refused(home, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="name a teacher's checkpoint with --teacher"):
        distill(config_of(home, out, teacher=""))
    with pytest.raises(CheckpointError, match=r"this checkpoint of `asma-fast pretrain` gives no logits"):
        distill(config_of(home, out, teacher=str(home / "run" / "hl.safetensors")))
    with pytest.raises(ValueError, match="weights must be as many as the teachers, got 2 for 1"):
        config_of(home, out, weights="1,2")
    with pytest.raises(ValueError, match="each teacher must be named once"):
        config_of(home, out, teacher="a,a")
    with pytest.raises(ValueError, match=r"alpha must be from 0 to 1, got 1\.5"):
        config_of(home, out, alpha=1.5)
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        config_of(home, out, temperature=0)
    one, other = teacher_of(home), teacher_of(home, "motion")
    for classes, told in ((["left"], "has 1"), (["left", "right", "none"], "calls class 2 'none', not 'both'")):
        wrong = replace(other, record={**other.record, "classes": classes})
        with pytest.raises(ValueError, match=f"teachers must name the same classes: .* {told}"):
            Teachers.of([one, wrong])
    longer = replace(one, record={**one.record, "bodies": 2})
    with pytest.raises(CheckpointError, match="was trained on 2 bodies a clip"):
        distill(config_of(home, out), teachers=[teacher_of(home, "motion"), longer])
    assert not out.exists()


def test_taps_separable_and_causal_convolutions_are_told_and_loaded(home, tmp_path):
    result = distill(config_of(home, tmp_path, taps=3, separable=True, causal=True, epochs=1))
    model, record = load_model(result.checkpoint)
    assert [block.temporal_conv.weight.shape[1:] for block in model.encoder.blocks] == [(1, 3)] * 2
    assert model.encoder.causal
    # A record of a release that did not tell them.
    network = record["network"]["encoder"]
    old = {name: value for name, value in network.items() if name not in ("taps", "separable", "causal")}
    old_one = build_network(old, 0)
    assert old_one.blocks[0].temporal_conv.weight.shape == (4, 4, 9)
    assert not old_one.causal


def test_the_default_student_is_within_the_papers_share():
    skeleton = Skeleton.named("ntu-rgb+d")
    encoders = [STGCN(skeleton) for _ in range(2)]
    teacher = Classifier(AlignedEncoders(*encoders, FeatureAlignment((256, 256))), 60)
    default = DistillConfig()
    student = Classifier(STGCN(skeleton, default.channels, strides=default.strides), 60)
    assert inference_parameters(student) <= 0.086 * inference_parameters(teacher)


def test_multiply_adds_are_counted_layer_by_layer():
    clips = torch.randn(2, 3, 16, 9, 1)
    edges = int(SKELETON.pattern("spatial").sum())
    partitions = len(SKELETON.adjacency("spatial"))
    model = Classifier(STGCN(SKELETON, (4, 8), strides=(1, 2), taps=5), 3).eval()
    first = 16 * 9 * 3 * 4 * partitions + 16 * edges * 3 + 16 * 9 * 4 * 4 * 5
    second = 16 * 9 * 4 * 8 * partitions + 16 * edges * 4 + 8 * 9 * 8 * 8 * 5 + 8 * 9 * 4 * 8
    assert multiply_adds(model, clips) == first + second + 8 * 3
    # Twice the bodies: twice the encoder's.
    assert multiply_adds(model, clips.repeat(1, 1, 1, 1, 2)) == 2 * (first + second) + 8 * 3
    separable = STGCN(SKELETON, (4,), strides=(1,), taps=5, separable=True).eval()
    graph = 16 * 9 * 3 * 4 * partitions + 16 * edges * 3
    assert multiply_adds(separable, clips) == graph + 16 * 9 * 4 * 5 + 16 * 9 * 4 * 4
    assert not any(module._forward_hooks for module in model.modules())


def test_latencies_are_of_one_thread_and_leave_threads_as_they_were():
    found = []
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        taken = latencies({"a": lambda: found.append(torch.get_num_threads()), "b": lambda: None}, rounds=5)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert set(found) == {1}
    assert len(found) == 6
    assert all(value >= 0 for value in taken.values())


def test_processes_teach_what_one_process_teaches(home, tmp_path):
    """Budget as in test_processes."""
    printed = {}
    for count in (1, 2):
        given = {
            **{key: value for key, value in LIGHT.items() if key not in ("dropout", "progress")},
            **{**STUDENT, "channels": "4,4", "strides": "2,1", "lr": 1e-3, "epochs": 3, "beta": 0.1},
            "data": home / "toy.safetensors",
            "teacher": home / "tuned" / "hl.safetensors",
            "out": tmp_path / str(count),
        }
        words = ["distill", "--no-progress", *(f"--{key.replace('_', '-')}={value}" for key, value in given.items())]
        printed[count] = [
            finish(process) for process in ([start_verb(*words)] if count == 1 else start_all(count, words))
        ]
    assert [bool(out) for out in printed[2]] == [True, False]
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / str(count) / "metrics.jsonl").read_text().splitlines()]
        for count in (1, 2)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    first, second = (weights(tmp_path / str(count) / "student.safetensors") for count in (1, 2))
    for name, tensor in first.items():
        # Biases that a batch-norm takes out again move by rounding, and the running means follow them.
        if name.startswith("model.") and not name.endswith(("conv.bias", "residual.0.bias", "running_mean")):
            scale = tensor.abs().max().clamp_min(1e-6).item()
            assert (tensor.double() - second[name].double()).abs().max().item() <= 1e-4 * scale, name
