"""Augmented views equal the chain that PSTL materialises: crop, shear, rotate, flip, array by array."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from toys import SKELETON, toy_clips

from asma_fast import Skeleton, ops
from asma_fast.philox import Purpose, uniform
from asma_fast.training.augment import Augmentation
from asma_fast.training.configs import AugmentConfig

SEED = 12345


def _draw(clip_id, draw):
    return float(uniform(SEED, clip_id, draw, Purpose.AUGMENTATION))


def _crop(x, padding, u):
    """Both ends mirrored by NumPy's own symmetric padding, then a window."""
    length = x.shape[1]
    pad = length // padding
    padded = np.pad(x, ((0, 0), (pad, pad), (0, 0), (0, 0)), mode="symmetric")
    start = math.floor(u * (2 * pad + 1))
    return padded[:, start : start + length]


def _shear(x, draws, size):
    s = [size * (2 * u - 1) for u in draws]
    matrix = np.array([[1, s[0], s[1]], [s[2], 1, s[3]], [s[4], s[5], 1]])
    return np.einsum("ij,jtvm->itvm", matrix, x)


def _rotate(x, axis, angle):
    c, s = math.cos(angle), math.sin(angle)
    matrix = {
        0: [[1, 0, 0], [0, c, s], [0, -s, c]],
        1: [[c, 0, -s], [0, 1, 0], [s, 0, c]],
        2: [[c, s, 0], [-s, c, 0], [0, 0, 1]],
    }[axis]
    return np.einsum("ij,jtvm->itvm", np.array(matrix), x)


def _pstl(x, clip_id, skeleton):
    """One clip ``(3, T, V, M)``, float64."""
    x = _crop(x, 6, _draw(clip_id, 0))
    x = _shear(x, [_draw(clip_id, 8 + i) for i in range(6)], 1.0)
    main = math.floor(3 * _draw(clip_id, 3))
    for axis in range(3):
        x = _rotate(x, axis, math.radians(30 if axis == main else 1) * _draw(clip_id, 4 + axis))
    if _draw(clip_id, 2) < 0.5:
        order = list(range(len(skeleton)))
        for left, right in skeleton.pairs:
            order[left], order[right] = right, left
        x = x[:, :, order]
    return x


@pytest.mark.parametrize("name", ["ntu-rgb+d", "kinect-v1", "sbu"])
@pytest.mark.parametrize("frames", [50, 7, 5])
def test_the_view_equals_the_materialised_chain(name, frames):
    skeleton = Skeleton.named(name)
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(16, 3, frames, len(skeleton), 2)).astype(np.float32))
    ids = torch.arange(16) * 7 + 1
    view = Augmentation(AugmentConfig(), skeleton).view(frames, seed=SEED, ids=ids)
    got = ops.gather_view(x, view).numpy()
    wanted = np.stack(
        [_pstl(clip.astype(np.float64), int(i), skeleton) for clip, i in zip(x.numpy(), ids, strict=True)]
    )
    np.testing.assert_allclose(got, wanted, atol=2e-5)
    assert len({tuple(row) for row in view.frames.tolist()}) > 1 or frames < 6
    assert {int((row != torch.arange(len(skeleton))).any()) for row in view.joints} == {0, 1}
    assert (view.nodes == torch.arange(len(skeleton))).all()


def test_a_clip_is_augmented_alike_in_any_batch_and_otherwise_under_another_seed():
    augmentation = Augmentation(AugmentConfig(), SKELETON)
    alone = augmentation.view(30, seed=1, ids=torch.tensor([9]))
    among = augmentation.view(30, seed=1, ids=torch.tensor([3, 9, 4]))
    other = augmentation.view(30, seed=2, ids=torch.tensor([9]))
    for a, b in zip(alone.arrays(), among.arrays(), strict=True):
        assert torch.equal(a[0], b[1])
        assert a.dtype == b.dtype
    assert not torch.equal(alone.transform, other.transform)


def test_crop_resize_reads_a_part_of_the_clip_forwards():
    config = AugmentConfig(crop="resize", crop_share=0.5)
    frames = Augmentation(config, SKELETON).view(32, seed=5, ids=torch.arange(200)).frames
    assert frames.min() >= 0
    assert frames.max() <= 31
    assert (frames.diff(dim=1) >= 0).all()
    spans = (frames[:, -1] - frames[:, 0]).tolist()
    # From half the clip to nearly all of it.
    assert min(spans) >= 14
    assert max(spans) >= 29
    assert min(spans) < 18
    assert frames[:, 0].max() > 8


def test_the_whole_clip_is_read_as_it_is_when_the_part_is_the_whole():
    config = AugmentConfig(crop="resize", crop_share=1.0)
    frames = Augmentation(config, SKELETON).view(32, seed=5, ids=torch.arange(4)).frames
    assert (frames == torch.arange(32)).all()


def test_vertical_rotation_turns_either_way_about_the_up_axis():
    config = AugmentConfig(rotation="vertical", rotation_main=45, rotation_other=0, shear=0)
    turn = Augmentation(config, SKELETON).view(16, seed=5, ids=torch.arange(300)).transform
    assert torch.allclose(turn @ turn.transpose(1, 2), torch.eye(3).expand(300, 3, 3), atol=1e-6)
    assert torch.allclose(turn[:, 1], torch.tensor([0.0, 1.0, 0.0]).expand(300, 3))
    angles = torch.rad2deg(torch.atan2(turn[:, 2, 0], turn[:, 0, 0]))
    assert -45 <= angles.min() < -40
    assert 40 < angles.max() <= 45


def test_in_the_plane_there_is_one_angle():
    skeleton = Skeleton.named("coco")
    config = AugmentConfig(shear=0, rotation_main=30)
    turn = Augmentation(config, skeleton).view(16, seed=5, ids=torch.arange(300)).transform
    assert turn.shape == (300, 2, 2)
    angles = torch.rad2deg(torch.atan2(turn[:, 0, 1], turn[:, 0, 0]))
    assert 0 <= angles.min() < 2
    assert 28 < angles.max() <= 30


@pytest.mark.parametrize(("flip", "sided", "share"), [(None, False, 0.5), (None, True, 0.0), (0.25, True, 0.25)])
def test_sided_classes_are_not_flipped_unless_told_so(flip, sided, share):
    view = Augmentation(AugmentConfig(flip=flip), SKELETON, sided).view(16, seed=5, ids=torch.arange(2000))
    if share == 0:
        assert view.joints is None
    else:
        flipped = (view.joints != view.nodes).any(1).float().mean()
        assert abs(float(flipped) - share) < 0.04


def test_nothing_is_drawn_for_what_is_switched_off():
    config = AugmentConfig(crop="none", shear=0, rotation="none", flip=0.0)
    view = Augmentation(config, SKELETON).view(16, seed=5, ids=torch.arange(2))
    assert view.arrays() == (None, None, None, None)
    x = toy_clips(2).x
    assert torch.equal(ops.gather_view(x, view), x)


def test_ids_of_another_kind_are_refused():
    with pytest.raises(ValueError, match=r"ids must be int64 of shape \(N,\), got torch.int32"):
        Augmentation(AugmentConfig(), SKELETON).view(16, seed=5, ids=torch.arange(2, dtype=torch.int32))
