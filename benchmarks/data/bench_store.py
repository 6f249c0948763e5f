"""The store at the size of NTU RGB+D 120, simulated: opening it, reading random clips, writing.

By default a few megabytes. ``ASMA_STORE_CLIPS=114000 pytest benchmarks/data/bench_store.py`` is the whole size:
114,000 clips, 8 million frames, 4.8 GB in pytest's temporary folder (``--basetemp`` names another), from the page
cache. The rivals are copies of the same bytes, unchecked: from one end of the mapped file to the other in pieces of a
clip's mean size, and clip by clip at random, which is what the memory allows. A clip's first read checks it: CRC-32
on top.
"""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from asma_fast import Skeleton
from asma_fast.data import Clip, Store, StoreWriter, split_by
from asma_fast.data.clip import ClipInfo
from asma_fast.data.store import METADATA_KEY, StoreRecord, checksum, fingerprint_of, name_tensors
from asma_fast.data.tensor_file import header

CLIPS = int(os.environ.get("ASMA_STORE_CLIPS", "1000"))
BODIES, JOINTS, CHANNELS = 2, 25, 3
FRAME = 4 * BODIES * JOINTS * CHANNELS
NTU = Skeleton.named("ntu-rgb+d")


def _infos(count):
    return [
        ClipInfo(f"S{i % 32:03}C{i % 3:03}P{i % 106:03}R{i:07}A{i % 120:03}", i % 120, i % 106, i % 3)
        for i in range(count)
    ]


def _note_rate(benchmark, size):
    if benchmark.stats is not None:  # None under --benchmark-disable
        benchmark.extra_info["GB/s"] = round(size / benchmark.stats.stats.min / 1e9, 3)


def _frames(rng, length):
    return rng.random((length, BODIES, JOINTS, CHANNELS), np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Written without StoreWriter, which is measured by itself below; twice as long in all would serve nobody."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("store") / "simulated.safetensors"
    infos, lengths = _infos(CLIPS), rng.integers(30, 111, CLIPS)
    pool = _frames(rng, 4096)
    begins = rng.integers(0, len(pool) - 110, CLIPS)
    pieces = [pool[begin : begin + length] for begin, length in zip(begins, lengths, strict=True)]
    tensors = {
        "offsets": np.cumsum([0, *lengths], dtype=np.int64),
        "checksums": np.array([checksum(piece) for piece in pieces], np.int64),
        "labels": np.array([info.label for info in infos], np.int64),
        "subjects": np.array([info.subject for info in infos], np.int64),
        "cameras": np.array([info.camera for info in infos], np.int64),
        "missing_joints": np.zeros(CLIPS, np.int64),
        "dropped_bodies": np.zeros(CLIPS, np.int64),
        "fps": np.full(CLIPS, 30.0),
        "image_sizes": np.zeros((CLIPS, 2), np.int64),
        **name_tensors([info.name for info in infos]),
        "splits": rng.integers(0, 2, (2, CLIPS), np.int8),
    }
    classes = tuple(f"action {label}" for label in range(120))
    record = StoreRecord("ntu", NTU, classes, ("xsub", "xset"), "file-order", "fill", True, None)
    shape = (int(lengths.sum()), BODIES, JOINTS, CHANNELS)
    described = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    described["frames"] = (np.dtype("<f4"), shape)
    described = dict(sorted(described.items(), key=lambda entry: -entry[1][0].itemsize))
    about = json.dumps({**record.to_json(), "fingerprint": fingerprint_of(record, tensors)})
    with path.open("wb", buffering=1 << 20) as file:
        file.write(header(described, {METADATA_KEY: about}))
        for name in described:
            if name != "frames":
                file.write(tensors[name].tobytes())
                continue
            for piece in pieces:
                file.write(piece.data)
    yield path
    path.unlink()


@pytest.mark.benchmark(group="store: open")
def test_open(benchmark, store):
    opened = benchmark(Store.open, store)
    assert len(opened) == CLIPS
    assert opened.names[-1] == _infos(CLIPS)[-1].name
    benchmark.extra_info["clips"] = CLIPS


def _in_order(opened, into):
    frames = opened._frames
    step = len(frames) // CLIPS
    for begin in range(0, len(frames), step):
        piece = frames[begin : begin + step]
        into[: len(piece)] = piece


def _clips(opened, into, order):
    for index in order:
        frames = opened[index].frames
        into[: frames.shape[1]] = frames.transpose(1, 0, 2, 3)


def _unchecked(opened, into, order):
    frames, offsets = opened._frames, opened._offsets
    for index in order:
        piece = frames[offsets[index] : offsets[index + 1]]
        into[: len(piece)] = piece


def _bare(opened, into, order):
    for index in order:
        frames = opened.frames(index)
        into[: len(frames)] = frames


@pytest.mark.parametrize(
    "who",
    ["copy in order", "copy at random", "random frames, first read", "random frames", "random clips"],
)
@pytest.mark.benchmark(group="store: every frame, from the page cache")
def test_random_clips(benchmark, store, who):
    opened = Store.open(store)
    order = np.random.default_rng(1).permutation(CLIPS).tolist()
    into = np.empty((256, BODIES, JOINTS, CHANNELS), np.float32)
    _clips(opened, into, order)
    np.testing.assert_array_equal(into[: opened.lengths[order[-1]]], opened.frames(order[-1]))
    if who == "random frames, first read":
        benchmark.pedantic(
            lambda fresh: _bare(fresh, into, order), setup=lambda: ((Store.open(store),), {}), rounds=3, iterations=1
        )
    else:
        reads = {
            "copy in order": lambda: _in_order(opened, into),
            "random clips": lambda: _clips(opened, into, order),
            "copy at random": lambda: _unchecked(opened, into, order),
            "random frames": lambda: _bare(opened, into, order),
        }
        benchmark.pedantic(reads[who], rounds=3, iterations=1, warmup_rounds=1)
    _note_rate(benchmark, opened._frames.nbytes)


@pytest.mark.benchmark(group="store: write a tenth")
def test_write(benchmark, tmp_path):
    count = max(CLIPS // 10, 1)
    rng = np.random.default_rng(2)
    clips = [
        Clip(_frames(rng, 40 + index % 60).transpose(1, 0, 2, 3), NTU.name, info.label, info.subject, info.camera)
        for index, info in enumerate(_infos(min(count, 200)))
    ]
    names = [info.name for info in _infos(count)]

    def write():
        path = tmp_path / "written.safetensors"
        with StoreWriter(path, dataset="ntu", skeleton=NTU, overwrite=True) as writer:
            for index, name in enumerate(names):
                clip = clips[index % len(clips)]
                writer.add(Clip(clip.frames, clip.skeleton, clip.label, clip.subject, clip.camera, name))
            return writer.finish(
                classes=[str(label) for label in range(120)], splits={"xsub": split_by("subject", {1})}
            )

    written = benchmark.pedantic(write, rounds=1, iterations=1)
    assert len(written) == count
    _note_rate(benchmark, written._frames.nbytes)
    benchmark.extra_info["clips"] = count
