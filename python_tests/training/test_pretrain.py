"""Pretraining: continued runs are the same runs, nothing damaged is taken up, and PSTL is a matter of options."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from programs import start_verb
from toys import SKELETON, TINY, renamed, tiny, toy_clips, toy_store

from asma_fast import Skeleton
from asma_fast.config import build
from asma_fast.data import Preprocessing
from asma_fast.nn import barlow_twins_loss
from asma_fast.training import CheckpointError, TrainingError, pretrain
from asma_fast.training.checkpoint import load_checkpoint, save_checkpoint
from asma_fast.training.configs import PRETRAIN_PRESETS, PretrainConfig
from asma_fast.training.pretrain import ThreeStreams, learning_rate, read_losses

ROOT = Path(__file__).resolve().parents[2]


def _tensors(result):
    return {name: load_checkpoint(path)[0] for name, path in result.checkpoints.items()}


def _assert_same(one, other):
    assert one.keys() == other.keys()
    for encoder, tensors in one.items():
        assert tensors.keys() == other[encoder].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, other[encoder][name]), (encoder, name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Four epochs of both encoders at one go."""
    return pretrain(tiny(tmp_path_factory.mktemp("whole")), toy_clips())


@pytest.mark.parametrize("recompute", [False, True])
def test_two_and_two_epochs_are_four_bit_for_bit(tmp_path, whole, recompute):
    first = pretrain(tiny(tmp_path, stop_after=2, recompute=recompute), toy_clips())
    assert {load_checkpoint(path)[1]["epoch"] for path in first.checkpoints.values()} == {2}
    second = pretrain(tiny(tmp_path), toy_clips())
    _assert_same(_tensors(whole), _tensors(second))
    assert second.losses == whole.losses
    assert {len(losses) for losses in second.losses.values()} == {4}


def test_neither_loader_processes_nor_companions_change_a_run(tmp_path, whole):
    alone = pretrain(tiny(tmp_path, encoders="lh", workers=1, tensorboard=True), toy_clips())
    assert alone.losses["lh"] == whole.losses["lh"]
    _assert_same(_tensors(alone), {"lh": _tensors(whole)["lh"]})
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_finished_run_is_left_as_it_is(whole):
    before = {path: path.stat().st_mtime_ns for path in whole.checkpoints.values()}
    again = pretrain(whole.config, toy_clips())
    assert {path: path.stat().st_mtime_ns for path in again.checkpoints.values()} == before
    assert again.losses == whole.losses


def test_the_loss_falls_and_every_epoch_is_recorded(tmp_path):
    mild = {"crop": "none", "shear": 0.1, "rotation": "none", "flip": 0.0, "dropout": 0.0}
    result = pretrain(tiny(tmp_path, epochs=12, batch=24, lr=2e-2, **mild), toy_clips(72))
    entries = [json.loads(line) for line in result.metrics.read_text().splitlines()]
    assert [(e["encoder"], e["epoch"]) for e in entries] == [(n, e) for n in ("hl", "lh") for e in range(1, 13)]
    assert all(e["loss"] == pytest.approx(e["temporal"] + e["spatial"]) for e in entries)
    for losses in result.losses.values():
        assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:2])
    assert json.loads((tmp_path / "config.json").read_text())["epochs"] == 12


def test_seeds_and_encoders_matter(tmp_path, whole):
    other = pretrain(tiny(tmp_path, seed=1, encoders="hl"), toy_clips())
    assert other.losses["hl"] != whole.losses["hl"]
    assert whole.losses["hl"] != whole.losses["lh"]


@pytest.mark.slow
def test_kill_nine_then_resume_is_the_same_run(tmp_path):
    store, out = toy_store(tmp_path / "toy.safetensors"), tmp_path / "run"
    options = {**TINY, "epochs": 24, "encoders": "hl", "data": store, "split": "half", "frames": 16}
    words = [f"--{key.replace('_', '-')}={_text(value)}" for key, value in options.items() if key != "progress"]
    process = start_verb("pretrain", *words, "--no-progress", f"--out={out}")
    try:
        deadline = time.monotonic() + 90
        while len(read_losses(out / "metrics.jsonl").get("hl", [])) < 3:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    reached = load_checkpoint(out / "hl.safetensors")[1]["epoch"]
    assert 2 <= reached < 24
    with (out / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"encoder": "hl", "epo')  # a line cut short
    resumed = pretrain(tiny(out, **_only(options)))
    straight = pretrain(tiny(tmp_path / "straight", **_only(options)))
    _assert_same(_tensors(straight), _tensors(resumed))
    assert resumed.losses == straight.losses
    assert len(resumed.losses["hl"]) == 24


def _text(value):
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _only(options):
    return {key: options[key] for key in ("epochs", "encoders", "data", "split", "frames")}


def test_pstl_is_reached_by_options_alone(tmp_path):
    preset = build(PretrainConfig, ("pstl", PRETRAIN_PRESETS["pstl"]))
    by_hand = build(PretrainConfig, ("cli", {"encoders": "high-high", "last": "zero", "preprocessing": "aimclr"}))
    assert preset == by_hand
    # The published recipe.
    assert (preset.epochs, preset.batch, preset.lr, preset.weight_decay) == (150, 128, 5e-3, 1e-5)
    assert (preset.optimiser, preset.projector, preset.off_diagonal, preset.dropout) == ("adam", 6144, 2e-4, 0.5)
    result = pretrain(tiny(tmp_path, encoders="high-high", last="zero", epochs=2), toy_clips())
    assert list(result.checkpoints) == ["high-high"]


def test_the_three_streams_are_what_the_method_says(tmp_path):
    """One step by hand: three forward passes, the masks' sizes, and the sum of two losses."""
    seen = []
    original = ThreeStreams.forward

    def watch(self, clip, ids, seeds):
        hook = self.encoder.register_forward_pre_hook(lambda _, args: seen.append((args[1], self.training)))
        result = original(self, clip, ids, seeds)
        hook.remove()
        seen.append(result)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ThreeStreams, "forward", watch)
        result = pretrain(tiny(tmp_path, epochs=1, batch=24, encoders="hl"), toy_clips())
    (anchor, training), (spatial, _), (temporal, _), z = seen
    assert training
    assert [len(view.frames[0]) for view in (anchor, spatial, temporal)] == [16, 16, 10]
    assert anchor.joints.shape[1] == temporal.joints.shape[1] == 9
    assert spatial.joints.shape[1] == 7
    assert not torch.equal(anchor.transform, spatial.transform)
    assert not torch.equal(anchor.transform, temporal.transform)
    by_hand = (barlow_twins_loss(z[0], z[2], 0.01) + barlow_twins_loss(z[0], z[1], 0.01)).item()
    assert result.losses["hl"] == [pytest.approx(by_hand, rel=1e-5)]


@pytest.mark.parametrize("schedule", ["epoch", "step"])
def test_the_rate_warms_up_from_zero_and_falls_to_zero(schedule):
    config = build(PretrainConfig, ("test", {"schedule": schedule}))
    rates = [learning_rate(config, 150, epoch) for epoch in range(151)]
    assert rates[0] == 0
    assert rates[5] == pytest.approx(0.5 * config.lr)
    assert rates[10] == pytest.approx(config.lr)
    assert rates[80] == pytest.approx(0.5 * config.lr)
    assert rates[150] == pytest.approx(0)
    assert all(rates[epoch] >= rates[epoch + 1] for epoch in range(10, 150))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    pretrain(tiny(tmp_path, encoders="hl", stop_after=2), toy_clips())
    good = (tmp_path / "hl.safetensors").read_bytes()
    clips = toy_clips()
    with pytest.MonkeyPatch.context() as patch:
        nan = torch.tensor(float("nan"), requires_grad=True)
        patch.setattr(sys.modules[ThreeStreams.__module__], "barlow_twins_loss", lambda *_: nan)
        with pytest.raises(
            TrainingError,
            match=r"hl: the loss became nan at step 6 \(epoch 2\); the newest checkpoint is .*hl.safe",
        ):
            pretrain(tiny(tmp_path, encoders="hl"), clips)
    assert (tmp_path / "hl.safetensors").read_bytes() == good
    assert len(pretrain(tiny(tmp_path, encoders="hl"), clips).losses["hl"]) == 4


@pytest.mark.parametrize(
    ("options", "clips", "message"),
    [
        ({"lr": 0.5}, {}, "was trained with lr=0.01, this run has lr=0.5"),
        ({"projector": 32}, {}, "was trained with projector=16"),
        ({"channels": "4,4,16"}, {}, r"was trained with channels=\[4, 4, 8\]"),
        ({"seed": 3}, {}, "was trained with seed=0"),
        ({"precision": "bf16-mixed"}, {}, "was trained with precision=32-true"),
        ({}, {"seed": 5}, "was trained on other clips"),
        ({}, {"skeleton": "kinect"}, "was trained on skeleton toy, got kinect"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, whole, options, clips, message):
    given = toy_clips(seed=clips.get("seed", 0))
    if "skeleton" in clips:
        given = renamed(given, skeleton=Skeleton(SKELETON.edges, SKELETON.joints, clips["skeleton"]))
    for path in whole.checkpoints.values():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(CheckpointError, match=message):
        pretrain(tiny(tmp_path, **options), given)


def test_weights_that_are_not_finite_are_not_saved(tmp_path, whole):
    path = tmp_path / "hl.safetensors"
    path.write_bytes(whole.checkpoints["hl"].read_bytes())
    tensors, record = load_checkpoint(path)
    name = next(name for name in tensors if name.endswith("weight"))
    with pytest.raises(CheckpointError, match=f"not written, for {name} is not finite"):
        save_checkpoint(path, {**tensors, name: tensors[name] * float("inf")}, record)
    assert path.read_bytes() == whole.checkpoints["hl"].read_bytes()


def test_a_folder_in_which_another_process_trains_is_refused(tmp_path):
    with (tmp_path / "lock").open("w") as held:
        held.write("pid 1234")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TrainingError, match=r"another process trains there \(pid 1234\)") as refused:
            pretrain(tiny(tmp_path, encoders="hl"), toy_clips())
        assert str(tmp_path) in str(refused.value)
    (tmp_path / ".hl.safetensors.99.tmp").touch()  # of a process that died
    pretrain(tiny(tmp_path, encoders="hl", stop_after=1), toy_clips())
    assert {entry.name for entry in tmp_path.iterdir()} == {"config.json", "metrics.jsonl", "hl.safetensors"}


@pytest.mark.parametrize(("warmup", "epochs"), [(10, 1), (4, 4)])
def test_a_warmup_as_long_as_the_run_is_refused(tmp_path, warmup, epochs):
    message = rf"warmup \({warmup} epochs\) must be shorter than the run \({epochs} epochs?\)"
    with pytest.raises(ValueError, match=message):
        pretrain(tiny(tmp_path / "run", warmup=warmup, epochs=epochs), toy_clips())
    assert not (tmp_path / "run").exists()


def test_a_finished_run_without_metrics_still_tells_its_epochs(tmp_path):
    config = tiny(tmp_path, encoders="hl", epochs=2)
    pretrain(config, toy_clips()).metrics.unlink()
    again = pretrain(config, toy_clips())
    assert again.losses == {}
    assert again.epochs == {"hl": 2}


def test_a_store_without_splits_trains_on_all_clips(tmp_path):
    store = toy_store(tmp_path / "toy.safetensors", 12, splits={})
    result = pretrain(tiny(tmp_path / "run", data=store, frames=16, encoders="hl", epochs=1, batch=12))
    _, record = load_checkpoint(result.checkpoints["hl"])
    assert record["step"] == 1  # of all twelve
    assert record["config"]["split"] is None
    with pytest.raises(ValueError, match="the store has no splits"):
        pretrain(tiny(tmp_path / "run", data=store, frames=16, split="half"))


@pytest.mark.parametrize("preset", ["small", "demo"])
def test_presets_train_on_clips_prepared_with_another_length(tmp_path, preset):
    store = toy_store(tmp_path / "toy.safetensors", 12, preprocessing=Preprocessing(frames=20, rotate="none"))
    small = {**TINY, "data": store, "split": "half", "out": tmp_path / "run", "encoders": "hl", "steps": 1}
    config = build(PretrainConfig, ("preset", PRETRAIN_PRESETS[preset]), ("test", small))
    _, record = load_checkpoint(pretrain(config).checkpoints["hl"])
    assert record["preprocessing"]["frames"] == 20


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, whole, monkeypatch):
    path = tmp_path / "hl.safetensors"
    path.write_bytes(whole.checkpoints["hl"].read_bytes())
    tensors, record = load_checkpoint(path)
    good = path.read_bytes()

    def no_space(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, tensors, {**record, "epoch": 9})
    assert path.read_bytes() == good
    assert [entry.name for entry in tmp_path.iterdir()] == ["hl.safetensors"]


@pytest.mark.parametrize("damage", ["truncated", "flipped bit", "text", "other tensors", "altered record", "missing"])
def test_a_damaged_checkpoint_is_refused(tmp_path, whole, damage):
    path = tmp_path / "hl.safetensors"
    data = bytearray(whole.checkpoints["hl"].read_bytes())
    if damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flipped bit":
        data[-5] ^= 1
        path.write_bytes(data)
    elif damage == "text":
        path.write_text("no tensors here")
    elif damage == "other tensors":
        from safetensors.torch import save_file

        save_file({"x": torch.zeros(3)}, path)
    elif damage == "altered record":
        assert data.count(b'\\"epoch\\": 4') == 1
        path.write_bytes(data.replace(b'\\"epoch\\": 4', b'\\"epoch\\": 3'))
    message = {
        "truncated": "truncated, or not a safetensors file",
        "flipped bit": "altered since it was written",
        "text": "truncated, or not a safetensors file",
        "other tensors": "is no checkpoint of asma_fast",
        "altered record": "altered since it was written",
        "missing": "no such checkpoint",
    }[damage]
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)
    if damage != "missing":
        with pytest.raises(CheckpointError, match=message):
            pretrain(tiny(tmp_path), toy_clips())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no data: name a store"),
        ({"data": "nowhere.safetensors"}, "nowhere.safetensors: no such store"),
        ({"data": "toy.safetensors"}, "name one of the store's splits with --split: half, none"),
        ({"data": "toy.safetensors", "split": "xsub"}, "split must be one of half, none; got 'xsub'"),
        ({"data": "toy.safetensors", "split": "half", "bodies": 2, "frames": 16}, "bodies must be at most 1, got 2"),
    ],
)
def test_data_that_is_not_there_is_told_apart(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    toy_store(tmp_path / "toy.safetensors", 6)
    with pytest.raises(ValueError, match=message):
        pretrain(tiny(tmp_path / "out", **options))
    assert not (tmp_path / "out" / "hl.safetensors").exists()


def test_what_a_spatial_view_lost_gets_no_gradient(tmp_path):
    """The masks reach the first graph convolution: a joint no spatial view keeps leaves its edges' importance alone."""
    clips = toy_clips(8)
    config = tiny(tmp_path)
    from asma_fast.training.models import build_encoder
    from asma_fast.view import View

    encoder = build_encoder(config, SKELETON, 3, seed=0).eval()
    kept = torch.tensor([[0, 1, 2, 3, 5, 6, 7, 8]], dtype=torch.int32)
    encoder(clips.x, View(joints=kept)).square().sum().backward()
    importance = [p.grad for name, p in encoder.named_parameters() if name.endswith("edge_importance")]
    for gradient in importance:
        assert (gradient[:, 4] == 0).all()
        assert (gradient[:, :, 4] == 0).all()
        assert gradient.abs().sum() > 0
