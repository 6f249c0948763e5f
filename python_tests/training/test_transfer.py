"""Transfer: the clips of another data set, and of another joint layout, reach the encoder as its own would."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_finetune import LIGHT
from toys import half, tiny, toy_store

from asma_fast import Skeleton
from asma_fast.config import build
from asma_fast.data import StoreWriter
from asma_fast.data.layout_maps import layout_map
from asma_fast.data.synthetic import Synthetic
from asma_fast.training import (
    AlignConfig,
    CheckpointError,
    FinetuneConfig,
    TransferConfig,
    align,
    finetune,
    pretrain,
    transfer,
)
from asma_fast.training.checkpoint import load_checkpoint
from asma_fast.training.finetune import prepared
from asma_fast.training.models import load_model
from asma_fast.training.records import read_logits, read_record

CLIPS = [replace(clip, label=clip.label % 3) for clip in map(Synthetic(clips_per_class=3).clip, range(36))]


def store_of(path: Path, layout: str, bodies: int = 2, classes: tuple[str, ...] = ("a", "b", "c")) -> Path:
    """Synthetic clips as a store of another layout."""
    own, target = Skeleton.named("ntu-rgb+d"), Skeleton.named(layout)
    turn = (lambda frames: frames) if own == target else layout_map(own, target)
    with StoreWriter(path, dataset=path.stem, skeleton=target) as writer:
        for place, clip in enumerate(CLIPS):
            frames = np.ascontiguousarray(turn(clip.frames)[:bodies])
            writer.add(replace(clip, frames=frames, skeleton=layout, subject=place // 3))
        writer.finish(classes=classes, splits={"half": half})
    return path


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> Path:
    """The same clips as NTU's 25 joints and as Kinect's 20, and encoders of the former: as they are, of 15 joints."""
    folder = tmp_path_factory.mktemp("transfer")
    ntu = store_of(folder / "ntu.safetensors", "ntu-rgb+d")
    store_of(folder / "kinect.safetensors", "kinect-v1")
    store_of(folder / "one.safetensors", "kinect-v1", bodies=1)
    short = {"data": ntu, "frames": 8, "epochs": 1, "encoders": "hl"}
    pretrain(tiny(folder / "run25", **short))
    pretrain(tiny(folder / "run15", **short, layout="common-15"))
    return folder


def config_of(folder: Path, out: Path, data: str, run: str, **options: object) -> TransferConfig:
    given = {**LIGHT, "epochs": 2, "data": folder / f"{data}.safetensors", "run": folder / run, "out": out}
    return build(TransferConfig, ("test", {**given, **options}))


def test_through_a_map_that_loses_nothing_it_is_fine_tuning_bit_for_bit(stores, tmp_path):
    # 25 joints to 15 at once, or by way of 20: the same clips.
    options = {key: value for key, value in LIGHT.items() if key != "epochs"}
    given = {**options, "epochs": 2, "data": stores / "ntu.safetensors", "run": stores / "run15", "out": tmp_path / "a"}
    tuned = finetune(build(FinetuneConfig, ("test", given)))
    moved = transfer(config_of(stores, tmp_path / "b", "kinect", "run15"))
    one, other = (load_checkpoint(result.checkpoints["hl"])[0] for result in (tuned, moved))
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert np.array_equal(*(read_logits(result.files["hl"])[0] for result in (tuned, moved)))


def test_its_record_names_both_sides(stores, tmp_path):
    result = transfer(config_of(stores, tmp_path, "one", "run25"))
    record = read_record(result.files["hl"])
    assert record == result.records["hl"]
    assert record["kind"] == record["protocol"] == "transfer"
    assert record["name"] == "transferred hl"
    here, there = record["pretrained_on"], record["transferred_to"]
    assert (here["data"], here["layout"], here["bodies"]) == (str(stores / "ntu.safetensors"), "ntu-rgb+d", 2)
    assert (there["dataset"], there["layout"], there["bodies"]) == ("one", "kinect-v1", 1)
    assert record["data"]["layout"] == "ntu-rgb+d"
    assert record["test_clips_seen"] is None  # of another store
    # The network is loaded again with what it was trained on: clips of the encoder's layout.
    model, told = load_model(result.checkpoints["hl"])
    assert told["skeleton"]["name"] == model.encoder.skeleton.name == "ntu-rgb+d"
    assert told["bodies"] == 1


def test_clips_of_fewer_joints_get_the_missing_ones_from_their_neighbours(stores):
    config = config_of(stores, stores, "kinect", "run25")
    mapped = prepared(config, foreign=True)[2].train
    names = list(mapped.skeleton.joints)
    assert mapped.skeleton == Skeleton.named("ntu-rgb+d")
    joint = {name: mapped.x[:, :, :, place] for place, name in enumerate(names)}
    torch.testing.assert_close(joint["left hand tip"], joint["left hand"])
    torch.testing.assert_close(joint["right thumb"], joint["right hand"])
    torch.testing.assert_close(joint["neck"], (joint["head"] + joint["spine shoulder"]) / 2, atol=1e-5, rtol=1e-4)


def test_few_labels_and_an_alignment_are_transferred_too(stores, tmp_path):
    pretrain(tiny(tmp_path / "lh", data=stores / "ntu.safetensors", frames=8, epochs=1, encoders="lh"))
    two = f"{stores / 'run25' / 'hl.safetensors'},{tmp_path / 'lh' / 'lh.safetensors'}"
    given = {"data": stores / "ntu.safetensors", "encoders": two, "out": tmp_path / "align", "width": 8, "epochs": 1}
    align(build(AlignConfig, ("test", {**given, "accelerator": "cpu", "progress": False, "batch": 12})))
    result = transfer(config_of(stores, tmp_path / "out", "kinect", str(tmp_path / "align"), shots="2", draws=2))
    record = result.records["aligned-2shot"]
    assert record["kind"] == "transfer"
    assert record["protocol"] == "transfer, 2 shots"
    assert record["name"] == "transferred aligned, 2 shots"
    assert record["clips"] == {"train": 6, "test": 12}
    assert len(record["draws"]) == 2
    assert record["transferred_to"]["layout"] == "kinect-v1"


def test_from_scratch_is_the_same_network_untrained(stores, tmp_path):
    result = transfer(config_of(stores, tmp_path, "kinect", "run25", epochs=1, **{"from": "scratch"}))
    assert result.records["scratch-hl"]["name"] == "from scratch hl"
    assert result.records["scratch-hl"]["kind"] == "transfer"


def test_where_no_map_leads_it_says_so_and_what_there_is(stores, tmp_path):
    store_of(tmp_path / "sbu.safetensors", "sbu")
    with pytest.raises(
        ValueError,
        match=r"no map leads from its layout sbu to ntu-rgb\+d, that of the encoders in .*run25; from sbu maps lead to "
        "common-15; encoders pretrained with --layout common-15 or sbu would do",
    ):
        transfer(config_of(stores, tmp_path / "out", str(tmp_path / "sbu"), "run25"))
    toy = toy_store(tmp_path / "toy.safetensors", 18, splits={"half": half})
    with pytest.raises(
        ValueError, match=r"no map leads from its layout toy to common-15, .*; from toy maps lead to none$"
    ):
        transfer(config_of(stores, tmp_path / "out", str(toy.with_suffix("")), "run15"))
    with pytest.raises(ValueError, match=r"layout must be common-15, as for the encoders in .*run15; got kinect-v1"):
        transfer(config_of(stores, tmp_path / "out", "kinect", "run15", layout="kinect-v1"))
    with pytest.raises(ValueError, match="bodies must be at most 1, got 2"):
        transfer(config_of(stores, tmp_path / "out", "one", "run15", bodies=2))
    # Fine-tuning keeps to the run's own clips.
    given = {**LIGHT, "data": stores / "kinect.safetensors", "run": stores / "run25", "out": tmp_path / "out"}
    with pytest.raises(CheckpointError, match="was trained on skeleton ntu-rgb"):
        finetune(build(FinetuneConfig, ("test", given)))
    assert not (tmp_path / "out").exists()
