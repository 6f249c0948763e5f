"""Alignment: frozen encoders stay as they are, the rest learns to tell classes apart, and any two can be joined.

Budget of two processes against one, encoders frozen, float32 on toys: losses within 1e-5 of their size, weights after
the last step within 1e-4 of the largest of their tensor, logits of test clips within 1e-4 of the largest. The logits of
the joints' weights begin at 0 and end in a softmax: within 1e-4 outright. Frozen encoders keep every bit.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_finetune import LIGHT
from test_processes import finish, start_all
from toys import SKELETON, tiny, toy_clips, toy_store

from asma_fast import Skeleton
from asma_fast.config import build
from asma_fast.nn import AlignedEncoders, Classifier
from asma_fast.training import AlignConfig, CheckpointError, FinetuneConfig, align, finetune, pretrain
from asma_fast.training.align import OverTokens, ReadClips, read
from asma_fast.training.checkpoint import load_checkpoint
from asma_fast.training.finetune import prepared
from asma_fast.training.loop import read_losses
from asma_fast.training.models import load_encoder, load_model
from asma_fast.training.records import read_logits, read_record
from asma_fast.training.supervised import predict_logits

SMALL = {"width": 8, "heads": 2, "lr": 1e-2, "batch": 12, "epochs": 6, "accelerator": "cpu", "progress": False}
MODES = ("weighted", "attention", "first-to-second", "second-to-first", "concat", "mean")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A store, a short run of both encoders on it, and one more of another seed and width."""
    folder = tmp_path_factory.mktemp("align")
    store = toy_store(folder / "toy.safetensors", 54)
    shared = {"data": store, "split": "half", "frames": 16, "epochs": 2}
    pretrain(tiny(folder / "run", **shared))
    pretrain(tiny(folder / "other", **shared, encoders="hl", seed=1, channels="4,4,12"))
    return folder


def config_of(folder: Path, out: Path, **options: object) -> AlignConfig:
    given = {**SMALL, "data": folder / "toy.safetensors", "run": folder / "run", "out": out}
    return build(AlignConfig, ("small", given), ("test", options))


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """Both encoders of the run, aligned at one go."""
    return align(config_of(run, tmp_path_factory.mktemp("whole")))


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path)[0]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("augment", ["none", "train"])
def test_frozen_encoders_keep_every_bit(run, tmp_path, augment):
    result = align(config_of(run, tmp_path, augment=augment, epochs=2))
    encoder = load_model(result.checkpoints["aligned"])[0].encoder
    for name, part in (("hl", encoder.first), ("lh", encoder.second)):
        assert same(load_encoder(run / "run" / f"{name}.safetensors")[0].state_dict(), part.state_dict())


def test_the_alignment_is_in_training_while_frozen_encoders_read_each_clip_once(whole):
    alignment = load_model(whole.checkpoints["aligned"])[0].encoder.alignment
    assert int(alignment.standardise.num_batches_tracked) == whole.records["aligned"]["budget"]["steps"]


def test_trainable_encoders_move(run, tmp_path):
    result = align(config_of(run, tmp_path, freeze="none", epochs=1, lr=1e-3, weight_decay=0.0))
    encoder = load_model(result.checkpoints["aligned"])[0].encoder
    for name, part in (("hl", encoder.first), ("lh", encoder.second)):
        assert not same(load_encoder(run / "run" / f"{name}.safetensors")[0].state_dict(), part.state_dict())
    assert result.records["aligned"]["protocol"] == "align, weighted, encoders trained"


@pytest.mark.parametrize("options", [{"freeze": "none"}, {"optimiser": "adam"}])
def test_a_penalty_for_frozen_encoders_is_not_taken_elsewhere(options):
    with pytest.raises(ValueError, match="weight_decay 1 is for a module over frozen encoders by adamw"):
        AlignConfig(**options)
    assert AlignConfig(**options, weight_decay=1e-4).weight_decay == 1e-4


def test_it_tells_classes_apart_and_its_record_holds_what_it_measured(run, whole, tmp_path):
    result = align(config_of(run, tmp_path, epochs=60, lr=3e-2))
    assert result.scores["aligned"].accuracy > 0.55  # chance is a third
    record = read_record(whole.files["aligned"])
    assert record == whole.records["aligned"]
    assert record["kind"] == "align"
    assert record["name"] == "aligned hl+lh"
    assert record["protocol"] == "align, weighted"
    assert record["budget"] == {"epochs": 6, "steps": 18, "batch": 12}
    assert record["clips"] == {"train": 36, "test": 18}
    assert [entry["epoch"] for entry in record["encoders"].values()] == [2, 2]
    assert record["test_clips_seen"] == 0
    assert "18 test clips" in str(whole)


def test_the_checkpoint_gives_the_recorded_logits(run, whole):
    logits, labels, ids = read_logits(whole.files["aligned"])
    model, record = load_model(whole.checkpoints["aligned"])
    assert isinstance(model, Classifier)
    assert isinstance(model.encoder, AlignedEncoders)
    assert record["kind"] == "align"
    given = {"data": run / "toy.safetensors", "run": whole.checkpoints["aligned"].parent}
    test = prepared(build(FinetuneConfig, ("test", given)))[2].test
    assert test.ids.tolist() == ids.tolist()
    assert (logits.argmax(1) == labels).mean() == whole.scores["aligned"].accuracy
    np.testing.assert_allclose(predict_logits(model, test, 7), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("augment", ["none", "train"])
def test_a_part_and_the_rest_are_the_whole_bit_for_bit(run, whole, tmp_path, augment):
    options = {"augment": augment, "attention_dropout": 0.1}
    at_once = align(config_of(run, tmp_path / "a", **options))
    stopped = align(config_of(run, tmp_path / "b", **options, stop_after=2))
    assert stopped.stopped == {"aligned": 2}
    assert not stopped.files
    # Whether tokens are held or lie in a file changes nothing.
    align(config_of(run, tmp_path / "b", **options, memory="none"))
    paths = at_once.checkpoints["aligned"], tmp_path / "b" / "aligned.safetensors"
    assert same(*map(weights, paths))
    assert np.array_equal(*(read_logits(path.with_name("record-aligned.json"))[0] for path in paths))
    assert not list((tmp_path / "b").glob(".*"))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tokens", ["joint", "frame"])
def test_what_is_read_once_gives_the_logits_of_the_clips(run, tmp_path, mode, tokens):
    result = align(config_of(run, tmp_path, mode=mode, tokens=tokens, epochs=1, encoders=_two(run)))
    model = load_model(result.checkpoints["aligned"])[0]
    clips = toy_clips(7)
    parts = read(model.encoder, clips.x)
    rows = torch.cat([part.flatten(1) for part in parts], 1)
    over = OverTokens(model, [tuple(part.shape[1:]) for part in parts])
    with torch.no_grad():
        torch.testing.assert_close(over(rows), model(clips.x), rtol=1e-4, atol=1e-5)


def _two(run: Path) -> str:
    """Encoders of two runs, of two widths."""
    return f"{run / 'run' / 'hl.safetensors'},{run / 'other' / 'hl.safetensors'}"


def test_concatenation_is_the_pooled_features_of_both_under_a_linear_head(run, tmp_path):
    result = align(config_of(run, tmp_path, mode="concat", epochs=1))
    model = load_model(result.checkpoints["aligned"])[0]
    clips = toy_clips(5)
    encoders = [load_encoder(run / "run" / f"{name}.safetensors")[0] for name in ("hl", "lh")]
    with torch.no_grad():
        joined = torch.cat([encoder(clips.x) for encoder in encoders], 1)
        torch.testing.assert_close(model(clips.x), model.head(joined), rtol=1e-4, atol=1e-5)
    trained = [name for name in weights(result.checkpoints["aligned"]) if ".alignment." in name]
    assert not trained


def test_encoders_of_one_masking_from_two_runs_are_joined_alike(run, whole, tmp_path):
    result = align(config_of(run, tmp_path, encoders=_two(run)))
    record = result.records["aligned"]
    assert list(record["encoders"]) == [str(run / "run" / "hl"), str(run / "other" / "hl")]
    assert [entry["config"]["seed"] for entry in record["encoders"].values()] == [0, 1]
    assert record["budget"] == whole.records["aligned"]["budget"]
    assert load_model(result.checkpoints["aligned"])[0].encoder.out_channels == 5 * (8 + 12)


@pytest.mark.parametrize("option", ["run", "align"])
def test_both_encoders_are_fine_tuned_under_their_alignment(run, whole, tmp_path, option):
    checkpoint = whole.checkpoints["aligned"]
    source = {option: checkpoint.parent if option == "run" else checkpoint}
    given = {**LIGHT, "data": run / "toy.safetensors", "split": "half", "out": tmp_path, "epochs": 1, "lr": 0.0}
    result = finetune(build(FinetuneConfig, ("test", {**given, **source})))
    before, after = weights(checkpoint), weights(tmp_path / "aligned.safetensors")
    moving = [name for name in before if "running" not in name and "tracked" not in name and ".head." not in name]
    moving = [name for name in moving if name.startswith("model.")]
    assert all(torch.equal(before[name], after[name]) for name in moving)
    assert len({name.split(".")[2] for name in moving}) == 3  # first, second, alignment
    assert result.records["aligned"]["name"] == "fine-tuned aligned"
    assert result.records["aligned"]["test_clips_seen"] == 0


def test_a_fine_tuned_alignment_moves_all_of_its_parts(run, whole, tmp_path):
    given = {**LIGHT, "data": run / "toy.safetensors", "split": "half", "out": tmp_path, "epochs": 1}
    given |= {"run": whole.checkpoints["aligned"].parent, "dropout": 0.1}
    model = load_model(finetune(build(FinetuneConfig, ("test", given))).checkpoints["aligned"])[0]
    before = load_model(whole.checkpoints["aligned"])[0]
    assert model.encoder.first.dropout == model.encoder.second.dropout == 0.1
    for part in ("first", "second", "alignment"):
        assert not same(*(getattr(one.encoder, part).state_dict() for one in (before, model)))


def test_untrained_the_two_encoders_differ(run, whole, tmp_path):
    given = {**LIGHT, "data": run / "toy.safetensors", "split": "half", "out": tmp_path, "epochs": 1, "from": "scratch"}
    given |= {"run": whole.checkpoints["aligned"].parent}
    encoder = load_model(finetune(build(FinetuneConfig, ("test", given))).checkpoints["scratch-aligned"])[0].encoder
    one, other = (part.blocks[0].temporal_conv.weight for part in (encoder.first, encoder.second))
    assert not torch.equal(one, other)


def test_a_finished_alignment_reads_no_clip_again(run, whole, monkeypatch):
    before = whole.checkpoints["aligned"].read_bytes()
    monkeypatch.setattr(ReadClips, "batch", None)
    again = align(config_of(run, whole.checkpoints["aligned"].parent))
    assert again.scores["aligned"].accuracy == whole.scores["aligned"].accuracy
    assert whole.checkpoints["aligned"].read_bytes() == before


def test_encoders_that_cannot_read_the_same_clips_are_refused(run, tmp_path):
    short = {"data": run / "toy.safetensors", "split": "half", "epochs": 1, "encoders": "hl"}
    turned = Skeleton(SKELETON.edges, SKELETON.joints, "other", (1,), SKELETON.shoulders, SKELETON.pairs)
    store = toy_store(tmp_path / "other.safetensors", 18, skeleton=turned)
    two = toy_store(tmp_path / "two.safetensors", 18, bodies=2)
    for name, options in (
        ("layout", {"frames": 16, "data": store}),
        ("frames", {"frames": 12}),
        ("bodies", {"frames": 16, "data": two}),
        ("stream", {"frames": 16, "stream": "bone"}),
    ):
        pretrain(tiny(tmp_path / name, **{**short, **options}))
    for name, message in (
        ("layout", r"differ in joint layout, toy \(9 joints\) and other \(9 joints\)"),
        ("frames", r"differ in preprocessing, .*'frames': 16.* and .*'frames': 12"),
        ("bodies", "differ in number of bodies, 1 and 2"),
        ("stream", "differ in stream, joint and bone"),
    ):
        with pytest.raises(CheckpointError, match=message):
            align(config_of(run, tmp_path / "out", encoders=f"hl,{tmp_path / name / 'hl.safetensors'}"))
    assert not (tmp_path / "out").exists()


def test_what_is_no_pair_of_encoders_is_refused(run, whole, tmp_path):
    with pytest.raises(ValueError, match="encoders must be two to be aligned, got hl; one alone is fine-tuned"):
        config_of(run, tmp_path, encoders="hl")
    with pytest.raises(ValueError, match=r"encoders must be two different checkpoints, got .*hl.safetensors twice"):
        align(config_of(run, tmp_path, encoders=f"hl,{run / 'run' / 'hl.safetensors'}"))
    with pytest.raises(CheckpointError, match="is no pretraining checkpoint"):
        align(config_of(run, tmp_path, encoders=f"hl,{whole.checkpoints['aligned']}"))
    with pytest.raises(ValueError, match="encoders must be among hl, lh"):
        align(config_of(run, tmp_path, encoders="hl,xx"))
    with pytest.raises(ValueError, match="heads must divide the width 8, got 3"):
        align(config_of(run, tmp_path / "out", heads=3))
    unlabelled = toy_store(tmp_path / "unlabelled.safetensors", 12, labels=False)
    with pytest.raises(ValueError, match="the store has no labels"):
        align(config_of(run, tmp_path / "out", data=unlabelled))
    assert not (tmp_path / "out" / "aligned.safetensors").exists()


@pytest.mark.parametrize("options", [{}, {"augment": "train"}], ids=["read once", "augmented"])
def test_two_processes_align_what_one_process_aligns(run, tmp_path, options):
    # 36 and 18 clips, 12 a batch: each process reads every second one.
    given = {**SMALL, "lr": 1e-3, **options, "data": run / "toy.safetensors", "run": run / "run"}
    words = ["align", "--no-progress"]
    words += [f"--{key.replace('_', '-')}={value}" for key, value in given.items() if key != "progress"]
    printed = [finish(process) for process in start_all(2, [*words, f"--out={tmp_path / 'two'}"])]
    assert [bool(out) for out in printed] == [True, False]
    align(config_of(run, tmp_path / "one", **{"lr": 1e-3, **options}))
    losses = [read_losses(tmp_path / folder / "metrics.jsonl")["aligned"] for folder in ("one", "two")]
    assert len(losses[0]) == 6
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    first, second = (weights(tmp_path / folder / "aligned.safetensors") for folder in ("one", "two"))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        if not name.startswith("model."):
            continue
        scale = 1.0 if ".joint_logits." in name else tensor.abs().max().clamp_min(1e-6).item()
        assert (tensor.double() - second[name].double()).abs().max().item() <= 1e-4 * scale, name
    one, two = (read_logits(tmp_path / folder / "record-aligned.json")[0] for folder in ("one", "two"))
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-4 * np.abs(one).max())
    encoder = load_model(tmp_path / "two" / "aligned.safetensors")[0].encoder
    for name, part in (("hl", encoder.first), ("lh", encoder.second)):
        assert same(load_encoder(run / "run" / f"{name}.safetensors")[0].state_dict(), part.state_dict())
