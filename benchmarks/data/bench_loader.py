"""The loader beside the training step that it feeds: clips in memory, and made from the memory-mapped store.

Each row of ours is a pass over as many clips as the steps of its group take, and its ratio to the training step says
how many times what the step consumes it gives; the step is one encoder's, on all threads, and has no loader beside it.
The store lies in the page cache. Before timing, each batch made from the store is held against the one in memory, bit
for bit. ``study`` is the network of ``benchmarks/accuracy`` on 15 joints.
"""

import pytest
import torch
from race import limit, ours

from asma_fast import Skeleton
from asma_fast.config import build
from asma_fast.data import Clip, Store, StoreWriter
from asma_fast.nn import Projector, barlow_twins_loss
from asma_fast.philox import derive_seed
from asma_fast.training.augment import Augmentation
from asma_fast.training.batches import EpochBatches, loader
from asma_fast.training.configs import PRETRAIN_PRESETS, PretrainConfig
from asma_fast.training.dataset import load_clips
from asma_fast.training.making import ClipMaker
from asma_fast.training.masks import Masking
from asma_fast.training.models import build_encoder
from asma_fast.training.pretrain import ThreeStreams

NTU = Skeleton.named("ntu-rgb+d")
STEP = "training step"
LOADERS = {
    "in memory": ("all", 0),
    "store": ("none", 0),
    "store, 1 worker": ("none", 1),
    "store, 2 workers": ("none", 2),
}
#: Preset, what differs from it, and steps.
SIZES = {
    "study": (
        "small",
        {"channels": (8, 8, 8, 8, 16, 16, 16, 32, 32, 128), "layout": "common-15", "bodies": 1},
        16,
    ),
    "small": ("small", {"bodies": 1}, 8),
    "asma": ("asma", {}, 2),
}
ROWS = [
    pytest.param(size, name, id=f"{name}-{size}", marks=[pytest.mark.large] if size == "asma" else [])
    for size in SIZES
    for name in (*LOADERS, STEP)
]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """1,024 clips of 30 to 110 frames, as NTU's are."""
    path = tmp_path_factory.mktemp("store") / "simulated.safetensors"
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(30, 111, (1024,), generator=generator).tolist()
    with StoreWriter(path, dataset="ntu", skeleton=NTU) as writer:
        for index, length in enumerate(lengths):
            frames = torch.rand((2, length, len(NTU), 3), generator=generator).numpy()
            writer.add(Clip(frames, NTU.name, index % 60, name=f"clip{index}"))
        writer.finish(classes=[str(label) for label in range(60)], splits={})
    yield Store.open(path)
    path.unlink()


def training_step(config, clips):
    """As ``asma_fast.training.pretrain`` steps one encoder, on batches that are there."""
    encoder = build_encoder(config, clips.skeleton, clips.x.shape[1], 0)
    streams = ThreeStreams(
        encoder,
        Projector(encoder.out_channels, config.projector),
        Augmentation(config, clips.skeleton),
        Masking.of("hl", config, clips.skeleton),
    ).train()
    optimiser = torch.optim.Adam(streams.parameters(), lr=config.lr)

    def step(place, batch):
        seeds = tuple(derive_seed(0, place, stream) for stream in range(3))
        anchor, spatial, temporal = streams(batch.x, batch.ids, seeds)
        loss = sum(barlow_twins_loss(anchor, other, config.off_diagonal) for other in (temporal, spatial))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return loss.item()

    return step


def entries(size, store):
    preset, values, steps = SIZES[size]
    config = build(PretrainConfig, ("preset", PRETRAIN_PRESETS[preset]), ("benchmark", values))
    maker = ClipMaker.of(config, store)
    rows = range(steps * config.batch)
    made = {
        memory: load_clips(store, rows, maker.preprocessing, maker.bodies, layout=maker.layout, memory=memory)
        for memory in ("all", "none")
    }
    batches = EpochBatches(len(rows), config.batch, 0)
    assert len(batches) == steps
    wanted = [made["all"].batch(rows) for rows in batches]

    def feed(memory, workers):
        given = loader(made[memory], batches, workers)
        for batch, reference in zip(given, wanted, strict=True):
            assert all(torch.equal(one, other) for one, other in zip(batch, reference, strict=True))
        return lambda: sum(len(batch.ids) for batch in given)

    step = training_step(config, made["all"])
    field = {name: ours(feed(*how)) for name, how in LOADERS.items()}
    return field | {STEP: limit(lambda: [step(place, batch) for place, batch in enumerate(wanted)])}


@pytest.mark.parametrize(("size", "name"), ROWS)
def test_loader(race, store, size, name):
    _, _, steps = SIZES[size]
    batch = build(PretrainConfig, ("preset", PRETRAIN_PRESETS[SIZES[size][0]])).batch
    group = f"loader, {size}, {steps} batches of {batch} clips"
    race(name, group, lambda: entries(size, store), seconds=20.0, fewest=3, amounts={"clips": float(steps * batch)})
