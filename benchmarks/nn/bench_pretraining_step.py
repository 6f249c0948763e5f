"""The whole pretraining step: encoders hl and lh, three streams each, projector, losses, backward, Adam.

Ours is what ``asma-fast pretrain`` runs a step: views and masks of every clip its own, nothing materialised. The
rivals run PSTL's recipe (``benchmarks/rivals.py``) with the loss as a D×D matrix. Both remove 8 of 25 joints and 20
of 50 frames, both drop out half. Before timing, the loss on one set of draws is held against the rivals', dropout
off.
"""

import pytest
from race import ours, rival
from rivals import CHANNELS_LAST, EAGER, OURS, channels_last_clips, pretraining_step, random_clips
from steps import check_loss, our_step

large = pytest.mark.large
#: Clips and width of the projector; the first is for a quick look.
SIZES = [(8, 512), (32, 2048), (32, 6144), (128, 2048), (128, 6144)]
RIVALS = (OURS, EAGER, CHANNELS_LAST)


def racing(size):
    """All at the largest size, of half a minute a step; ``bench_pretraining_step_compiled.py`` has the others."""
    return RIVALS if size == SIZES[-1] else RIVALS[:2]


ROWS = [
    pytest.param(size, name, id=f"{name}-{size[0]}-{size[1]}", marks=[] if size == SIZES[0] else [large])
    for size in SIZES
    for name in racing(size)
]


@pytest.mark.parametrize(("size", "name"), ROWS)
def test_step(race, size, name):
    batch, width = size

    def start():
        check_loss()
        clips = random_clips(batch)
        entries = {OURS: ours(our_step(width, channels_last_clips(clips)))}
        for kind in racing(size)[1:]:
            entries[kind] = rival(pretraining_step(kind, width, clips))
        return entries

    group = f"pretraining step, {batch} clips, projector {width}, 2 threads"
    race(
        name,
        group,
        start,
        seconds=6.0,
        fewest=3 if size in (SIZES[0], SIZES[-1]) else 2,
        amounts={"clips": float(batch)},
    )
