"""Clips of stores: made in memory or batch by batch, of the same bits; streams, layouts, joined stores, batches."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from programs import program_output
from toys import SKELETON, tiny, toy_clips, toy_store

from asma_fast import Skeleton
from asma_fast.config import build
from asma_fast.data import Clip, Preprocessing, Store, StoreWriter, split_by
from asma_fast.data.layout_maps import layout_map
from asma_fast.training import CheckpointError, ProbeConfig, pretrain, probe
from asma_fast.training.batches import EpochBatches, loader
from asma_fast.training.checkpoint import load_checkpoint
from asma_fast.training.configs import DataConfig
from asma_fast.training.dataset import Batch, load_clips, splits_of, stores_of, training_clips
from asma_fast.training.models import check_fits

RECIPE = Preprocessing(frames=16, rotate="none")
STREAMS = ("joint", "motion", "bone")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store.open(toy_store(tmp_path_factory.mktemp("store") / "toy.safetensors", 30, bodies=2))


def layout_store(path, layout, count=12, *, seed=0, sided=False, classes=("a", "b"), bodies=1, preprocessing=None):
    """Clips of noise in one of the package's layouts, with the splits ``xsub`` and ``own``."""
    rng, skeleton = np.random.default_rng(seed), Skeleton.named(layout)
    with StoreWriter(path, dataset=layout, skeleton=skeleton, sided=sided, preprocessing=preprocessing) as writer:
        for n in range(count):
            frames = rng.normal(size=(bodies, 16 if preprocessing else 15 + n % 3, len(skeleton), 3))
            clip = Clip(frames.astype(np.float32), layout, n % 2, subject=n % 4, camera=n % 3, name=f"{path.stem}{n}")
            writer.add(replace(clip, preprocessing=preprocessing))
        own = path.stem
        splits = {"xsub": split_by("subject", {0, 1}), own: split_by("camera", {0})}
        writer.finish(classes=classes, splits=splits)
    return path


def same(a: Batch, b: Batch) -> None:
    for one, other in zip(a, b, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("bodies", [0, 1])
def test_clips_made_batch_by_batch_have_the_bits_of_those_in_memory(store, stream, bodies):
    rows = np.arange(29, 3, -1)
    held, made = (load_clips(store, rows, RECIPE, bodies, stream=stream, memory=memory) for memory in ("all", "none"))
    assert (held.in_memory, made.in_memory) == (True, False)
    assert made.x.shape == held.x.shape == (26, 3, 16, 9, bodies or 2)
    assert made.fingerprint == held.fingerprint
    for pick in ([3, 1, 25], slice(4, 20), torch.tensor([7, 7, 0]), torch.arange(26) % 2 == 0):
        same(made.batch(pick), held.batch(pick))
    same(made.take(torch.tensor([5, 2])).batch([1]), held.batch([2]))
    same(made.held().batch(slice(None)), Batch(held.x, held.labels, held.ids))
    assert made.batch([0]).x.permute(0, 4, 2, 3, 1).is_contiguous()


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("memory", ["all", "none"])
def test_the_loader_gives_the_batches_of_the_sampler(store, memory, workers):
    clips = load_clips(store, range(30), RECIPE, memory=memory)
    reference = load_clips(store, range(30), RECIPE)
    batches = EpochBatches(30, 8, seed=3)
    feed = loader(clips, batches, workers)
    for epoch in (0, 1):
        batches.epoch = epoch
        found = list(feed)
        assert len(found) == 3
        for batch, rows in zip(found, list(batches), strict=True):
            assert isinstance(batch, Batch)
            same(batch, reference.batch(rows))


def test_a_run_does_not_depend_on_where_clips_are_made(tmp_path):
    data = toy_store(tmp_path / "toy.safetensors", 24)
    options = {"data": data, "split": "half", "frames": 16, "encoders": "hl"}
    first = pretrain(tiny(tmp_path / "all", memory="all", **options))
    apart = pretrain(tiny(tmp_path / "none", memory="none", stop_after=2, **options))
    apart = pretrain(tiny(tmp_path / "none", memory="none", workers=2, **options))
    assert first.losses == apart.losses
    tensors = [load_checkpoint(result.checkpoints["hl"])[0] for result in (first, apart)]
    assert all(torch.equal(tensors[0][name], tensor) for name, tensor in tensors[1].items())
    # And the memory may change on the way.
    again = pretrain(tiny(tmp_path / "none", memory="all", **options))
    assert again.losses == first.losses


def test_auto_holds_what_is_small(store, monkeypatch):
    assert load_clips(store, range(30), RECIPE, memory="auto").in_memory
    bytes_of_all = 30 * 3 * 16 * 9 * 2 * 4
    monkeypatch.setattr("asma_fast.training.dataset.HELD_BYTES", bytes_of_all - 1)
    assert not load_clips(store, range(30), RECIPE, memory="auto").in_memory
    monkeypatch.setattr("asma_fast.training.dataset.HELD_BYTES", bytes_of_all)
    assert load_clips(store, range(30), RECIPE, memory="auto").in_memory


def test_a_clip_that_cannot_be_made_is_named(tmp_path):
    path = tmp_path / "bad.safetensors"
    with StoreWriter(path, dataset="toy", skeleton=SKELETON) as writer:
        for n in range(3):
            frames = np.zeros((1, 5, 9, 3), np.float32) if n == 2 else np.ones((1, 5, 9, 3), np.float32)
            writer.add(Clip(frames, "toy", label=0, name=f"clip{n}"))
        writer.finish(classes=("a",), splits={})
    store = Store.open(path)
    with pytest.raises(ValueError, match="clip clip2: "):
        load_clips(store, range(3), RECIPE)
    clips = load_clips(store, range(3), RECIPE, memory="none")
    with pytest.raises(ValueError, match="clip clip2: "):
        clips.batch([1, 2])
    with pytest.raises(ValueError, match=r"clip2: .*of one shape"):
        load_clips(Store.open(ragged(tmp_path / "ragged.safetensors")), range(3), replace(RECIPE, frames=None))
    with pytest.raises(ValueError, match="must hold numbers, or have a source"):
        replace(clips, source=None).batch([0])


def ragged(path):
    with StoreWriter(path, dataset="toy", skeleton=SKELETON) as writer:
        for n in range(3):
            writer.add(Clip(np.ones((1, 6 if n == 2 else 5, 9, 3), np.float32), "toy", label=0, name=f"clip{n}"))
        writer.finish(classes=("a",), splits={})
    return path


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_a_big_store_takes_no_memory_of_its_size(tmp_path):
    """Anonymous memory, which nothing can give back; pages of the mapped file are the cache's, freed as needed."""
    rng, path = np.random.default_rng(0), tmp_path / "big.safetensors"
    frames = rng.normal(size=(2, 300, 25, 3)).astype(np.float32)
    with StoreWriter(path, dataset="ntu", skeleton=Skeleton.named("ntu-rgb+d")) as writer:
        for n in range(1500):
            writer.add(Clip(frames, "ntu-rgb+d", label=n % 5, name=f"clip{n}"))
        writer.finish(classes=tuple("abcde"), splits={})
    program = """
        import torch
        from asma_fast.data import Preprocessing, Store
        from asma_fast.training.batches import EpochBatches, loader
        from asma_fast.training.dataset import load_clips

        def anonymous():
            lines = open("/proc/self/status").read().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

        torch.set_num_threads(1)
        store = Store.open(sys.argv[1])
        small = load_clips(store, range(8), Preprocessing(frames=64), memory="all")
        before = anonymous()
        clips = load_clips(store, range(len(store)), Preprocessing(frames=64), memory="none")
        most = 0.0
        for batch in loader(clips, EpochBatches(len(clips), 64, 0)):
            most = max(most, anonymous() - before)
        whole = load_clips(store, range(len(store)), Preprocessing(frames=64), memory="all")
        print(most, anonymous() - before)
    """
    streamed, held = map(float, program_output(program, path).split())
    assert path.stat().st_size > 260e6
    assert held > 50  # MB: what is measured is seen to be there
    assert streamed < 20
    path.unlink()


def test_motion_is_the_difference_to_the_next_frame(store):
    joint, motion = (load_clips(store, range(30), RECIPE, stream=stream).x for stream in ("joint", "motion"))
    assert torch.equal(motion[:, :, :-1], joint[:, :, 1:] - joint[:, :, :-1])
    assert (motion[:, :, -1] == 0).all()


def test_bones_lead_from_the_parent_and_add_up_to_the_joints(store):
    joint, bone = (load_clips(store, range(30), RECIPE, stream=stream).x for stream in ("joint", "bone"))
    root = SKELETON.centre[0]
    assert (bone[:, :, :, root] == 0).all()
    for v, parent in enumerate(SKELETON.bones.tolist()):
        if v != root:
            assert torch.equal(bone[:, :, :, v], joint[:, :, :, v] - joint[:, :, :, parent])
    total = bone[:, :, :, 4] + bone[:, :, :, SKELETON.bones[4]]
    torch.testing.assert_close(total, joint[:, :, :, 4] - joint[:, :, :, root])


@pytest.mark.parametrize("stream", STREAMS)
def test_absent_bodies_stay_absent_and_scores_stay_scores(tmp_path, stream):
    rng, coco = np.random.default_rng(0), Skeleton.named("coco")
    frames = rng.uniform(0.2, 1, size=(2, 20, 17, 3)).astype(np.float32)
    frames[1] = 0
    with StoreWriter(tmp_path / "coco.safetensors", dataset="coco", skeleton=coco) as writer:
        writer.add(Clip(frames, "coco", label=0, name="one"))
        writer.finish(classes=("a",), splits={})
    store = Store.open(tmp_path / "coco.safetensors")
    recipe = Preprocessing.named("pose")
    joint, other = (load_clips(store, [0], recipe, stream=kind).x for kind in ("joint", stream))
    assert (other[..., 1] == 0).all()
    assert torch.equal(other[:, 2], joint[:, 2])
    assert stream == "joint" or not torch.equal(other[:, :2], joint[:, :2])


@pytest.mark.parametrize("memory", ["all", "none"])
def test_a_layout_is_mapped_before_preprocessing(tmp_path, memory):
    store = Store.open(layout_store(tmp_path / "ntu.safetensors", "ntu-rgb+d"))
    clips = load_clips(store, range(12), Preprocessing.named("small"), layout="common-15", memory=memory)
    target = Skeleton.named("common-15")
    assert clips.skeleton == target
    mapped = layout_map(store.skeleton, target)
    by_hand = [Preprocessing.named("small")(mapped(clip.frames), target) for clip in store]
    np.testing.assert_array_equal(clips.batch(slice(None)).x.numpy(), np.stack(by_hand))
    own = load_clips(store, range(12), RECIPE, layout="ntu-rgb+d")
    assert own.skeleton == store.skeleton


def test_a_layout_that_cannot_be_had_is_refused(tmp_path):
    ntu = Store.open(layout_store(tmp_path / "ntu.safetensors", "ntu-rgb+d"))
    with pytest.raises(ValueError, match="no map leads from layout ntu-rgb\\+d to coco"):
        load_clips(ntu, range(12), RECIPE, layout="coco")
    with pytest.raises(ValueError, match="layout must be one of"):
        load_clips(ntu, range(12), RECIPE, layout="common-16")
    done = Store.open(layout_store(tmp_path / "done.safetensors", "ntu-rgb+d", preprocessing=RECIPE))
    with pytest.raises(ValueError, match=r"done\.safetensors: a layout is changed before preprocessing"):
        load_clips(done, range(12), RECIPE, layout="common-15")


def test_everything_that_decides_a_clip_is_in_the_fingerprint(tmp_path):
    store = Store.open(layout_store(tmp_path / "ntu.safetensors", "ntu-rgb+d", bodies=2))
    other = Store.open(layout_store(tmp_path / "other.safetensors", "ntu-rgb+d", bodies=2, seed=1))
    rows = list(range(12))
    small = Preprocessing.named("small")
    prints = [
        load_clips(store, rows, small).fingerprint,
        load_clips(store, rows[1:], small).fingerprint,
        load_clips(store, rows[::-1], small).fingerprint,
        load_clips(store, rows, small, 1).fingerprint,
        load_clips(store, rows, RECIPE).fingerprint,
        load_clips(store, rows, small, stream="bone").fingerprint,
        load_clips(store, rows, small, stream="motion").fingerprint,
        load_clips(store, rows, small, layout="common-15").fingerprint,
        load_clips(other, rows, small).fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    assert load_clips(store, rows, small, memory="none").fingerprint == prints[0]
    assert load_clips(store, rows, small).take(torch.arange(1, 12)).fingerprint == prints[1]
    loose = toy_clips()
    assert loose.fingerprint == toy_clips().fingerprint != toy_clips(seed=1).fingerprint


@pytest.fixture
def two(tmp_path):
    """A store of each of two layouts with a map to the 15 joints; the second tells left from right."""
    layout_store(tmp_path / "ntu.safetensors", "ntu-rgb+d", 12)
    layout_store(tmp_path / "utd.safetensors", "utd-mhad", 9, seed=1, sided=True, classes=("b", "c"))
    return f"{tmp_path / 'ntu.safetensors'},{tmp_path / 'utd.safetensors'}"


def data_config(**values):
    return build(DataConfig, ("test", {"preprocessing": "small", **values}))


@pytest.mark.parametrize("memory", ["all", "none"])
def test_joined_stores_are_the_clips_of_each_under_ids_of_their_own(two, memory):
    split, joined = training_clips(data_config(data=two, layout="common-15", split="xsub", memory=memory))
    assert split == "xsub"
    stores = stores_of(data_config(data=two).data)
    small = Preprocessing.named("small")
    parts = [load_clips(store, store.split("xsub")[0], small, layout="common-15") for store in stores]
    wanted = torch.cat([part.x for part in parts])
    everything = joined.batch(slice(None))
    assert torch.equal(everything.x, wanted)
    assert torch.equal(everything.ids, torch.cat([parts[0].ids, parts[1].ids + 2**32]))
    assert len(set(everything.ids.tolist())) == len(joined)
    mixed = torch.tensor([9, 0, 8, 3, 10])
    assert torch.equal(joined.batch(mixed).x, wanted[mixed])
    assert (joined.labels == -1).all()  # what one store calls 0, the other does not
    assert joined.classes == ()
    assert joined.sided


def test_joined_stores_of_the_same_classes_keep_their_labels(tmp_path):
    for name, seed in (("one", 0), ("two", 1)):
        layout_store(tmp_path / f"{name}.safetensors", "sbu", 6, seed=seed)
    data = ",".join(str(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    split, clips = training_clips(data_config(data=data, split="one,two"))
    assert split == "one,two"
    assert clips.classes == ("a", "b")
    assert clips.labels.tolist() == [0, 1, 0, 1]


def test_splits_of_several_stores(two):
    stores = stores_of(data_config(data=two).data)
    assert splits_of(stores, "xsub") == ("xsub", "xsub")
    assert splits_of(stores, "ntu,utd") == ("ntu", "utd")
    assert splits_of(stores, "xsub,utd") == ("xsub", "utd")
    for name, message in (
        ("ntu", "one that all 2 stores have, or one each with commas between; got 'ntu'"),
        ("utd,ntu", "split must be one of xsub, ntu; got 'utd'"),
        (None, "name one of the store's splits with --split: xsub, ntu"),
    ):
        with pytest.raises(ValueError, match=message):
            splits_of(stores, name)


def test_stores_that_do_not_go_together_are_refused(two, tmp_path):
    first = two.split(",")[0]
    layout_store(tmp_path / "pair.safetensors", "ntu-rgb+d", bodies=2)
    layout_store(tmp_path / "done.safetensors", "ntu-rgb+d", preprocessing=RECIPE)
    for data, message in (
        (two, "has layout utd-mhad, .*ntu.safetensors has ntu-rgb\\+d; --layout maps both to one"),
        (f"{first},{first}", "stores must be different ones"),
        (f"{first},nowhere", "nowhere: no such store"),
        (
            f"{first},{tmp_path / 'pair.safetensors'}",
            r"have shape \(M, T, V, C\) .*--bodies and --frames make them one",
        ),
        (f"{first},{tmp_path / 'done.safetensors'}", "were prepared in different ways"),
    ):
        with pytest.raises(ValueError, match=message):
            training_clips(data_config(data=data, split="xsub"))
    config = data_config(data=f"{first},{tmp_path / 'pair.safetensors'}", split="xsub", bodies=1)
    assert len(training_clips(config)[1]) == 12


def test_an_encoder_of_joined_stores_is_probed_on_one_of_them(two, tmp_path):
    out = tmp_path / "run"
    options = {"data": two, "preprocessing": "small", "layout": "common-15", "stream": "bone", "encoders": "hl"}
    result = pretrain(tiny(out, split="xsub", epochs=1, **options))
    _, record = load_checkpoint(result.checkpoints["hl"])
    assert (record["stream"], record["config"]["layout"], record["skeleton"]["name"]) == (
        "bone",
        "common-15",
        "common-15",
    )
    assert pretrain(tiny(out, split="xsub", epochs=1, **options)).losses == result.losses  # found again as it was
    with pytest.raises(CheckpointError, match="was trained with stream=bone, this run has stream=joint"):
        pretrain(tiny(out, split="xsub", epochs=1, **{**options, "stream": "joint"}))
    given = {"data": two.split(",")[1], "run": out, "method": "knn", "neighbours": 1, "out": tmp_path / "probe.json"}
    same_split = probe(build(ProbeConfig, ("test", {**given, "split": "xsub"})))
    assert same_split.record["test_clips_seen"] == 0
    assert same_split.record["config"]["stream"] == "bone"
    assert same_split.record["config"]["layout"] == "common-15"
    other = probe(build(ProbeConfig, ("test", {**given, "split": "utd"})))
    assert 0 < other.record["test_clips_seen"] < other.record["clips"]["test"]
    with pytest.raises(ValueError, match=r"stream must be bone, as for the encoders in .*; got motion"):
        probe(build(ProbeConfig, ("test", {**given, "split": "xsub", "stream": "motion"})))


def test_an_encoder_of_another_stream_or_layout_is_refused(tmp_path):
    data = toy_store(tmp_path / "toy.safetensors", 12)
    result = pretrain(
        tiny(tmp_path / "run", data=data, split="half", frames=16, encoders="hl", epochs=1, stream="bone")
    )
    path = result.checkpoints["hl"]
    _, record = load_checkpoint(path)
    store = Store.open(data)
    recipe = Preprocessing.from_dict(record["preprocessing"])
    check_fits(path, record, load_clips(store, range(12), recipe, stream="bone"))
    with pytest.raises(CheckpointError, match="was trained on the bone stream, these clips are of the joint one"):
        check_fits(path, record, load_clips(store, range(12), recipe))
    old = copy.deepcopy(record)
    del old["stream"]  # written before there were streams
    check_fits(path, old, load_clips(store, range(12), recipe))
