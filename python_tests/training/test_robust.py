"""Robustness: noise is what it says, the same for every network and batch, and what it costs is measured and told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_finetune import LIGHT
from toys import SKELETON, frames_of, tiny, toy_clips, toy_store

from asma_fast import Skeleton
from asma_fast.config import build
from asma_fast.data import Clip, Preprocessing, Store
from asma_fast.training import (
    CheckpointError,
    FinetuneConfig,
    ProbeConfig,
    RobustConfig,
    finetune,
    pretrain,
    probe,
    robust,
)
from asma_fast.training.configs_measure import CONDITIONS, noise_of
from asma_fast.training.dataset import load_clips
from asma_fast.training.noise import Noise, noisy
from asma_fast.training.records import read_logits, read_record


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A store, a short run on it, and a network with a head."""
    folder = tmp_path_factory.mktemp("robust")
    store = toy_store(folder / "toy.safetensors", 54)
    pretrain(tiny(folder / "run", data=store, split="half", frames=16, epochs=1, encoders="hl"))
    given = {**LIGHT, "data": store, "split": "half", "run": folder / "run", "out": folder / "tuned"}
    finetune(build(FinetuneConfig, ("light", given)))
    return folder


def config_of(folder, out, **options):
    given = {"data": folder / "toy.safetensors", "split": "half", "run": folder / "run", "out": out / "robust.json"}
    return build(RobustConfig, ("given", given), ("test", options))


def clip_of(number=0, bodies=1):
    frames = np.concatenate([frames_of(0, np.random.default_rng(number), 40)] * bodies)
    return Clip(frames, SKELETON.name, name=f"clip{number}")


def noisy_frames(condition, clip, sample=5, seed=0, skeleton=SKELETON):
    return Noise(condition, seed)(clip, skeleton, sample).frames


@pytest.mark.parametrize("condition", CONDITIONS)
def test_noise_is_a_function_of_seed_and_clip(condition):
    clip = clip_of()
    before = clip.frames.copy()
    first = noisy_frames(condition, clip)
    assert np.array_equal(noisy_frames(condition, clip), first)
    assert np.array_equal(clip.frames, before)
    assert first.dtype == np.float32
    others = [noisy_frames(condition, clip, sample=sample, seed=seed) for sample in range(9) for seed in range(3)]
    assert not all(np.array_equal(other, first) for other in others)


def test_jitter_is_as_wide_as_told_in_the_units_of_the_layout_and_spares_absent_bodies():
    clip = clip_of(bodies=2)
    clip.frames[1] = 0
    clip.frames[0, 7] = 0
    moved = noisy_frames("jitter-3", clip) - clip.frames
    assert not moved[1].any()
    assert not moved[0, 7].any()
    present = np.delete(moved[0], 7, axis=0)
    assert present.std() == pytest.approx(0.03, rel=0.1)
    assert abs(present.mean()) < 0.003
    np.testing.assert_allclose(moved, 3 * (noisy_frames("jitter-1", clip) - clip.frames), atol=1e-6)
    millimetres = replace(SKELETON, units="millimetres")
    large = replace(clip, frames=clip.frames * 1000)
    scaled = noisy_frames("jitter-3", large, skeleton=millimetres) - large.frames
    np.testing.assert_allclose(scaled / 1000, moved, atol=1e-5)


def test_missing_joints_stand_where_their_parents_do_and_more_noise_loses_more():
    lost = {}
    for sample in range(20):
        clip = clip_of(sample)
        for condition, count in (("missing-10", 1), ("missing-30", 3)):
            frames = noisy_frames(condition, clip, sample)
            changed = (frames != clip.frames).any(axis=(0, 1, 3))
            lost[condition] = set(np.flatnonzero(changed))
            assert len(lost[condition]) == count
            for joint in lost[condition] - {1}:
                parent = SKELETON.bones[joint]
                np.testing.assert_array_equal(frames[:, :, joint], frames[:, :, parent])
        assert lost["missing-10"] <= lost["missing-30"]


def test_a_torso_stays_measurable_whatever_is_missing():
    skeleton = Skeleton.named("sbu")
    recipe = Preprocessing.named("small")
    rng = np.random.default_rng(0)
    clip = Clip(rng.normal(size=(1, 4, 15, 3)).astype(np.float32), "sbu")
    pairs = [[skeleton.joints.index(f"{side} {part}") for side in ("left", "right")] for part in ("shoulder", "hip")]
    for sample in range(400):
        worse = Noise("missing-45")(clip, skeleton, sample)
        changed = (worse.frames != clip.frames).any(axis=(0, 1, 3))
        assert changed.sum() == 7
        assert not any(changed[pair].all() for pair in pairs)
        assert np.isfinite(recipe(worse, skeleton)).all()


def test_dropped_frames_are_gone_and_the_rest_keeps_its_order():
    clip = clip_of()
    clip.frames[0, :, 0, 0] = np.arange(40)
    kept = noisy_frames("dropped-20", clip)[0, :, 0, 0]
    assert len(kept) == 32
    assert (np.diff(kept) > 0).all()
    single = replace(clip, frames=clip.frames[:, :1])
    assert noisy_frames("dropped-99", single).shape == single.frames.shape


@pytest.mark.parametrize("up", ["+y", "-y", "+z", "+x"])
def test_yaw_turns_about_the_vertical_by_the_angle_either_way(up):
    skeleton, axis = replace(SKELETON, up=up), "xyz".index(up[1])
    flat = [one for one in range(3) if one != axis]
    angles = set()
    for sample in range(12):
        clip = clip_of(sample)
        turned = noisy_frames("yaw-60", clip, sample, skeleton=skeleton)
        np.testing.assert_array_equal(turned[..., axis], clip.frames[..., axis])
        before, after = (frames[..., flat[0]] + 1j * frames[..., flat[1]] for frames in (clip.frames, turned))
        angle = np.angle((after * before.conj()).sum())
        np.testing.assert_allclose(after, before * np.exp(1j * angle), atol=1e-5)
        angles.add(round(float(np.rad2deg(angle))))
    assert angles == {-60, 60}


def test_clips_with_noise_do_not_depend_on_the_batch_and_are_other_clips(run):
    store = Store.open(run / "toy.safetensors")
    clips = load_clips(store, store.split("half")[1], Preprocessing(frames=16))
    worse = noisy(clips, Noise("jitter-3", 1))
    whole = worse.batch(slice(None)).x
    assert np.array_equal(worse.batch([4, 2]).x, whole[[4, 2]])
    assert not np.array_equal(whole, clips.x)
    assert len({clips.fingerprint, worse.fingerprint, noisy(clips, Noise("jitter-3", 2)).fingerprint}) == 3
    with pytest.raises(ValueError, match="noise needs clips of one store"):
        noisy(toy_clips(3), Noise("jitter-1"))


@pytest.mark.parametrize("condition", ["jitter", "jitter-0", "missing-60", "yaw-x", "fog-3", "dropped-100"])
def test_a_condition_that_is_none_is_refused(condition):
    with pytest.raises(ValueError, match="a condition is one of jitter-X"):
        noise_of(condition)


def test_what_a_layout_does_not_know_is_said():
    flat = Skeleton.named("coco")
    clip = Clip(np.ones((1, 4, 17, 3), np.float32), "coco")
    with pytest.raises(ValueError, match="jitter is in centimetres, and layout coco is in pixels"):
        Noise("jitter-1")(clip, flat, 0)
    with pytest.raises(ValueError, match="yaw turns in three dimensions, and layout coco has two"):
        Noise("yaw-30")(clip, flat, 0)


def test_a_probe_is_measured_clean_and_under_each_condition(run, tmp_path):
    result = robust(config_of(run, tmp_path, features="raw", conditions="jitter-1,jitter-300,dropped-20,yaw-60"))
    record = read_record(tmp_path / "robust.json")
    assert record == result.record
    clean = probe(
        ProbeConfig(
            data=run / "toy.safetensors", split="half", run=run / "run", features="raw", out=tmp_path / "probe.json"
        )
    )
    assert result.clean == record["clean"] == clean.accuracy > 0.8
    assert list(record["conditions"]) == ["jitter-1", "jitter-300", "dropped-20", "yaw-60"]
    assert result.accuracy == pytest.approx(np.mean(list(record["conditions"].values())))
    assert record["conditions"]["jitter-300"] < result.clean - 0.2
    # The recipe turns every clip to its shoulders.
    assert record["conditions"]["yaw-60"] == result.clean
    logits, labels, _ = read_logits(tmp_path / "robust.json")
    assert logits.shape == (4, 18, 3)
    accuracies = (logits.argmax(-1) == labels).mean(1)
    np.testing.assert_allclose(accuracies, list(record["conditions"].values()))
    assert (tmp_path / "robust.png").read_bytes().startswith(b"\x89PNG")
    assert "mean under noise" in str(result)


def test_a_network_with_a_head_is_measured_by_it(run, tmp_path):
    tuned = read_record(run / "tuned" / "record-hl.json")
    options = {"checkpoint": run / "tuned" / "hl.safetensors", "conditions": "missing-30"}
    result = robust(config_of(run, tmp_path, **options))
    assert result.clean == tuned["accuracy"]
    assert result.record["protocol"] == "under noise, own head"
    # And the features below it by a probe.
    probed = robust(config_of(run, tmp_path, features="random", **options))
    assert probed.record["protocol"] == "under noise, probe, logistic"


def test_classes_of_another_store_are_refused(run, tmp_path):
    from asma_fast.training.frozen import load_frozen

    frozen = load_frozen(config_of(run, tmp_path, checkpoint=run / "tuned" / "hl.safetensors"))
    with pytest.raises(CheckpointError, match=r"hl.safetensors: names 3 classes \(left, right, both, …\), the store"):
        frozen.classifier_of(("up", "down"))


def test_noise_is_not_put_on_preprocessed_clips(tmp_path):
    toy_store(tmp_path / "toy.safetensors", preprocessing=Preprocessing(frames=12, rotate="none"))
    with pytest.raises(ValueError, match="noise acts on recorded frames, and these clips were preprocessed already"):
        robust(config_of(tmp_path, tmp_path, features="raw"))
