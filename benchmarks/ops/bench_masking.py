"""Both masked streams of a batch: motion scores, sampling of joints and frames, gathering; one set of each for each
clip.

The eager rival ranks by argsort, samples by torch's generator and gathers by expanded indices. The limit copies as
many bytes as must be read and written: the clip once for the scores and once for each stream's part, and the streams.
"""

import pytest
import torch
from race import limit, ours, rival
from rivals import (
    DROPPED_FRAMES,
    DROPPED_JOINTS,
    EAGER,
    FRAMES,
    JOINTS,
    OURS,
    SKELETON,
    channels_last_clips,
    kept_frames,
    random_clips,
    take_frames,
)
from targets import MASKING

from asma_fast import View
from asma_fast.ops import frame_motion, gather_view, sample_frames, sample_joints

COPY = "copy of as many bytes"
KEPT_FRAMES, KEPT_JOINTS = FRAMES - 2 * DROPPED_FRAMES, JOINTS - DROPPED_JOINTS


def eager(x, weights):
    temporal = take_frames(x, kept_frames(x, DROPPED_FRAMES, DROPPED_FRAMES, low=True))
    n, c, t, v, m = x.shape
    stay = torch.ones(n, v, dtype=torch.bool).scatter(1, torch.multinomial(weights.expand(n, v), DROPPED_JOINTS), False)
    joints = stay.nonzero()[:, 1].view(n, KEPT_JOINTS)
    return temporal, x.clone().gather(3, joints[:, None, None, :, None].expand(n, c, t, -1, m))


def fused(x, weights, seed, ids):
    scores = frame_motion(x, last="zero")
    frames = sample_frames(scores, DROPPED_FRAMES, remove="low", random_drop=DROPPED_FRAMES, seed=seed, ids=ids)
    joints = sample_joints(weights, DROPPED_JOINTS, seed=seed, ids=ids)
    return (gather_view(x, View(frames=frames)), gather_view(x, View(joints=joints))), frames, joints


def check(x, weights, seed, ids):
    """Both remove as many; ours keeps no frame of the slowest and gathers what it says it keeps."""
    (temporal, spatial), frames, joints = fused(x, weights, seed, ids)
    slowest = frame_motion(x, last="zero").double().argsort(dim=1)[:, : DROPPED_FRAMES // 2]
    for row in range(0, len(x), 17):
        assert not set(frames[row].tolist()) & set(slowest[row].tolist())
        assert torch.equal(temporal[row], x[row][:, frames[row].long()])
        assert torch.equal(spatial[row], x[row][:, :, joints[row].long()])
    for found, wanted in zip((temporal, spatial), eager(x, weights), strict=True):
        assert found.shape == wanted.shape


@pytest.mark.parametrize(
    ("count", "threads"),
    [(128, 2), pytest.param(128, 1, marks=pytest.mark.large), pytest.param(2048, 2, marks=pytest.mark.large)],
)
@pytest.mark.parametrize("name", [OURS, EAGER, COPY])
def test_masking(race, count, threads, name):
    floats = count * 3 * 2 * (FRAMES * JOINTS + 2 * KEPT_FRAMES * JOINTS + 2 * FRAMES * KEPT_JOINTS)

    def start():
        clips = random_clips(count)
        x = channels_last_clips(clips)
        weights = torch.as_tensor(SKELETON.degree, dtype=torch.float32)
        seed, ids = torch.tensor(1), torch.arange(count)
        check(x, weights, seed, ids)
        source, target = torch.randn(floats // 2), torch.zeros(floats // 2)
        return {
            OURS: ours(lambda: fused(x, weights, seed, ids)[0]),
            EAGER: rival(lambda: eager(clips, weights)),
            COPY: limit(lambda: target.copy_(source)),
        }

    group = MASKING.format(count).replace("2 threads", f"{threads} threads")
    race(name, group, start, threads=threads, amounts={"GB": 4e-9 * floats})
