"""Presets of the published protocols: what they ask of a store, and a dry run of each on stores of the true names."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import tiny, toy_clips, toy_store

from asma_fast import Skeleton, cli
from asma_fast.config import build
from asma_fast.data import Clip, ClipInfo, Store, StoreWriter
from asma_fast.data.readers import reader
from asma_fast.data.readers.base import asked_splits
from asma_fast.training import PretrainConfig, ProbeConfig, TrainingError, dry_run, pretrain, probe
from asma_fast.training.configs import PRETRAIN_PRESETS, PROBE_PRESETS, DataConfig
from asma_fast.training.protocols import PROTOCOLS

NTU = [name for name in PROTOCOLS if name.startswith("ntu")]
PKU = [name for name in PROTOCOLS if name.startswith("pku")]


def named_store(path, dataset, infos, classes, splits):
    """Two or three frames a clip, of one of a hundred random people each."""
    rng, skeleton = np.random.default_rng(0), Skeleton.named("ntu-rgb+d")
    people = rng.normal(size=(100, 2, 3, 25, 3)).astype(np.float32)
    people[::2, 1] = 0
    with StoreWriter(path, dataset=dataset, skeleton=skeleton) as writer:
        for n, info in enumerate(infos):
            frames = people[n % 100, :, : 2 + n % 2]
            writer.add(Clip(frames, skeleton.name, info.label, info.subject, info.camera, info.name))
        writer.finish(classes=classes, splits=splits)
    return path


@pytest.fixture(scope="session")
def ntu_store(recordings, tmp_path_factory):
    """A store of all names of a release."""
    made: dict[str, Path] = {}

    def store(release):
        lists = recordings / "ntu-raw/statistics" / release / "skes_available_name.txt"
        if not lists.exists():
            pytest.skip(f"no name lists: {lists} does not exist")
        if release not in made:
            ntu, infos = reader("ntu"), []
            for name in lists.read_text().split():
                numbers = ntu.numbers(Path(name + ".skeleton"))
                infos.append(ClipInfo(name, numbers["action"] - 1, numbers["subject"], numbers["camera"]))
            classes, splits = ntu.protocol(infos)
            path = tmp_path_factory.mktemp("ntu") / f"{release}.safetensors"
            made[release] = named_store(path, "ntu", infos, classes, splits)
        return made[release]

    yield store
    for path in made.values():
        path.unlink()


@pytest.fixture(scope="module")
def pku_store(tmp_path_factory):
    """Stores of both parts, their splits by a made list of the sequences that train."""
    folder = tmp_path_factory.mktemp("pku")
    pku = reader("pku-mmd")
    made = {}
    for part, names in (
        ("pku1", [f"{number:04}" for number in range(2, 14)]),
        ("pku2", [f"A{action:02}N{number:02}" for action in range(1, 4) for number in range(1, 5)]),
    ):
        listed = folder / f"{part}-cross-subject.txt"
        listed.write_text(", ".join(f"{name}-{view}" for name in names[:8] for view in "LMR"))
        infos = [
            ClipInfo(f"{name}-{view}#{clip:03}", (place + clip) % 51, None, "LMR".index(view) + 1)
            for place, name in enumerate(names)
            for view in "LMR"
            for clip in range(4)
        ]
        splits = {**pku.splits, **asked_splits(f"xsub=list:{listed}")}
        made[part] = named_store(folder / f"{part}.safetensors", "pku-mmd", infos, pku.classes, splits)
    return made


def preset_config(name, out, **values):
    return build(PretrainConfig, ("preset", PRETRAIN_PRESETS[name]), ("test", {"out": out, **values}))


def check(result, counted):
    """What every dry run of the published recipe tells."""
    clips, steps = counted
    assert (len(result.clips), result.steps, result.epochs) == (clips, steps, 150)
    assert result.shape == (3, 50, 25, 2)
    for run in result.encoders.values():
        assert run.encoder_parameters == 821_380
        assert run.projector_parameters == 256 * 6144 + 2 * 6144**2 + 4 * 6144
        assert run.views == {"anchor": (50, 25), "spatial": (50, 17), "temporal": (30, 25)}
        assert np.isfinite(run.loss)
    shown = str(result)
    for told in (f"{clips} of split {result.config.split}", f"{steps} of", "821,380 parameters", "nothing was written"):
        assert told in shown


@pytest.mark.slow
@pytest.mark.parametrize("name", NTU)
def test_dry_run_on_all_of_ntu(ntu_store, tmp_path, name):
    data = ntu_store(name.partition("-")[0])
    result = dry_run(preset_config(name, tmp_path / "run", data=data, accelerator="cpu"))
    train = PROTOCOLS[name].sizes[0]
    check(result, (train, train // 128))
    assert list(result.encoders) == ["hl", "lh"]
    assert result.in_memory  # at most 1.9 GB
    assert result.memory > 4 * result.clips.x.numel()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", PKU)
def test_dry_run_on_lists_shaped_like_pku_mmd(pku_store, tmp_path, capsys, name):
    part, _, split = name.partition("-")
    train = {"xsub": 8 * 3 * 4, "xview": 12 * 2 * 4}[split]
    options = ["--preset", name, "--data", str(pku_store[part]), "--out", str(tmp_path / "run"), "--accelerator", "cpu"]
    assert cli.main(["pretrain", *options, "--dry-run", "--projector", "64", "--encoders", "hl"]) == 0
    printed = capsys.readouterr().out
    assert f"clips: {train} of split {split}" in printed
    assert f"steps: 1 of {train} clips an epoch, 150 epochs, 150 steps an encoder" in printed
    assert list(tmp_path.iterdir()) == []


def test_dry_run_of_pstl_under_a_protocol(pku_store, tmp_path):
    config = preset_config("pstl", tmp_path / "run", data=pku_store["pku1"], protocol="pku1-xview", accelerator="cpu")
    result = dry_run(config)
    assert list(result.encoders) == ["high-high"]
    check(result, (96, 1))


def test_a_protocol_is_asma_and_the_split():
    for name, protocol in PROTOCOLS.items():
        asma = build(PretrainConfig, ("preset", PRETRAIN_PRESETS["asma"]))
        assert build(PretrainConfig, ("preset", PRETRAIN_PRESETS[name])) == replace(
            asma, protocol=name, split=protocol.split
        )
        linear = build(ProbeConfig, ("preset", PROBE_PRESETS[name]))
        # The published linear evaluation.
        assert (linear.method, linear.epochs, linear.lr, linear.split) == ("linear", 150, 0.01, protocol.split)
    asma, pstl = (build(PretrainConfig, ("preset", PRETRAIN_PRESETS[name])) for name in ("asma", "pstl"))
    assert replace(asma, encoders=("high-high",), last="zero") == pstl


@pytest.mark.slow
@pytest.mark.parametrize("name", NTU)
def test_the_store_of_another_release_is_refused(ntu_store, name):
    own, other = ("ntu60", "ntu120") if name.startswith("ntu60") else ("ntu120", "ntu60")
    PROTOCOLS[name].check(name, Store.open(ntu_store(own)))
    with pytest.raises(ValueError, match=rf"protocol {name} needs \d+ classes, the store has \d+; `asma-fast"):
        PROTOCOLS[name].check(name, Store.open(ntu_store(other)))


def test_a_store_without_the_protocol_is_refused(pku_store, tmp_path, monkeypatch):
    def refused(name, data, message):
        config = preset_config(name, tmp_path / "run", data=data, accelerator="cpu")
        with pytest.raises(ValueError, match=message):
            dry_run(config)
        with pytest.raises(ValueError, match=message):
            pretrain(config)
        with pytest.raises(ValueError, match=message):
            probe(build(ProbeConfig, ("preset", PROBE_PRESETS[name]), ("test", {"data": data, "features": "raw"})))
        assert not (tmp_path / "run").exists()

    refused("pku2-xsub", pku_store["pku1"], r"protocol pku2-xsub needs clips named as .*, the store has 0002-L#000; ")
    refused("pku1-xsub", pku_store["pku2"], r"protocol pku1-xsub needs clips named as .*, the store has A01N01-L#000; ")
    toy = toy_store(tmp_path / "toy.safetensors", 6)
    refused("ntu60-xsub", toy, "protocol ntu60-xsub needs 60 classes, the store has 3; `asma-fast prepare ntu")
    few = replace(PROTOCOLS["pku1-xsub"], names=None, sizes=(95, 48))
    monkeypatch.setitem(PROTOCOLS, "pku1-xsub", few)
    refused("pku1-xsub", pku_store["pku1"], "needs 95 training and 48 test clips, the store has 96 and 48")
    monkeypatch.setitem(PROTOCOLS, "pku1-xsub", replace(few, split="xset"))
    refused("pku1-xsub", pku_store["pku1"], "needs a split xset, the store has xview, xsub")


def test_a_protocol_and_another_split_do_not_go_together(pku_store):
    with pytest.raises(ValueError, match="split must be xsub for protocol ntu60-xsub, got xview"):
        DataConfig(protocol="ntu60-xsub", split="xview")
    with pytest.raises(ValueError, match=r"protocol must be one of ntu60-xsub, .*; got 'ntu60'"):
        DataConfig(protocol="ntu60")
    assert DataConfig(protocol="ntu60-xsub", split="xsub") == DataConfig(protocol="ntu60-xsub")


def test_a_dry_run_writes_nothing_and_draws_nothing_from_torch(tmp_path):
    config = tiny(tmp_path / "run", batch=12)
    state = torch.random.get_rng_state()
    first, second = dry_run(config, toy_clips()), dry_run(config, toy_clips())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.encoders == second.encoders
    assert list(tmp_path.iterdir()) == []
    assert first.encoders["hl"].loss != first.encoders["lh"].loss
    assert first.encoders["hl"].views == {"anchor": (16, 9), "spatial": (16, 7), "temporal": (10, 9)}
    assert (first.steps, first.epochs) == (2, 4)
    with pytest.raises(ValueError, match="dry_run must be False to train"):
        pretrain(replace(config, dry_run=True), toy_clips())


def test_the_estimate_of_memory_grows_with_what_needs_it(tmp_path):
    def estimate(**values):
        return dry_run(tiny(tmp_path, encoders="hl", **values), toy_clips(64)).memory

    by_batch = [estimate(batch=batch) for batch in (16, 32, 64)]
    assert by_batch[2] - by_batch[1] == 2 * (by_batch[1] - by_batch[0]) > 0
    assert estimate(batch=64, recompute=True) < by_batch[2]
    by_width = [estimate(projector=width, batch=2) for width in (64, 128, 256)]
    assert all(before < after for before, after in pairwise(by_width))


@pytest.mark.parametrize("values", [{"lr": 0.1, "warmup": 5}, {"batch": 1_000, "devices": 40}])
def test_what_a_run_would_refuse_a_dry_run_refuses(tmp_path, values):
    config = tiny(tmp_path / "run", **values)
    with pytest.raises(ValueError, match=r"warmup|a step needs at least"):
        dry_run(config, toy_clips())


def test_a_step_that_is_not_finite_is_told(tmp_path):
    clips = toy_clips()
    broken = replace(clips, x=torch.full_like(clips.x, float("nan")))
    config = tiny(tmp_path / "run", encoders="random-random")
    with pytest.raises(TrainingError, match="random-random: the loss of a first step is nan"):
        dry_run(config, broken)


def test_the_split_that_a_protocol_names_is_recorded(pku_store, tmp_path):
    config = preset_config(
        "pku1-xsub", tmp_path, data=pku_store["pku1"], accelerator="cpu", progress=False, encoders="hl", projector=16,
        channels="4", strides="1", epochs=1, warmup=0, batch=96, frames=8,
    )  # fmt: skip
    pretrain(config)
    recorded = json.loads((tmp_path / "config.json").read_text())
    assert (recorded["split"], recorded["protocol"]) == ("xsub", "pku1-xsub")
