"""What each encoder's views lose: how many, which, and by whose say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import SKELETON, toy_clips

from asma_fast import Skeleton, View, ops
from asma_fast.training.augment import Augmentation
from asma_fast.training.configs import AugmentConfig, MaskConfig, masking_of
from asma_fast.training.masks import Masking

NTU = Skeleton.named("ntu-rgb+d")


def _clip(count=64, frames=50, skeleton=NTU):
    """Standing people; frames 20 to 29 move, and among the joints only number 7 and 11."""
    rng = np.random.default_rng(3)
    x = np.tile(rng.normal(size=(count, 3, 1, len(skeleton), 1)), (1, 1, frames, 1, 1)).astype(np.float32)
    for joint in (7, 11):
        x[:, :, 20:30, joint] += rng.normal(size=(count, 3, 10, 1)).astype(np.float32)
    return torch.from_numpy(x)


def _views(encoder, clip, config=None, view=None, seed=4, skeleton=NTU):
    masking = Masking.of(encoder, config or MaskConfig(), skeleton)
    ids = torch.arange(len(clip))
    view = view or View()
    return masking.spatial(clip, view, seed=seed, ids=ids), masking.temporal(clip, view, seed=seed, ids=ids)


@pytest.mark.parametrize("encoder", ["hl", "lh", "high-high", "random-random"])
def test_eight_of_25_joints_and_twenty_of_50_frames_go(encoder):
    spatial, temporal = _views(encoder, _clip())
    assert spatial.joints.shape == (64, 17)
    assert spatial.frames is None
    assert temporal.frames.shape == (64, 30)
    assert temporal.joints is None
    for kept in (spatial.joints, temporal.frames):
        assert (kept.diff(dim=1) > 0).all()  # distinct and in order


@pytest.mark.parametrize(
    ("name", "frames", "counts"), [("kinect-v1", 32, (6, (6, 6))), ("sbu", 64, (4, (12, 12))), ("coco", 7, (5, (1, 1)))]
)
def test_counts_follow_the_shares_for_any_skeleton_and_length(name, frames, counts):
    masking = Masking.of("hl", MaskConfig(), Skeleton.named(name))
    assert (masking.dropped_joints, masking.dropped_frames(frames)) == counts


def _drop_rate(encoder, config=None):
    spatial, _ = _views(encoder, torch.zeros(2000, 3, 2, 25, 1), config)
    return 1 - torch.bincount(spatial.joints.flatten().long(), minlength=25) / 2000


def test_high_loses_joints_of_high_degree_more_often_and_low_those_of_low():
    degree = torch.from_numpy(NTU.degree.astype(np.float32))
    high, low, even = _drop_rate("hl"), _drop_rate("lh"), _drop_rate("random-low")
    assert torch.corrcoef(torch.stack([high, degree]))[0, 1] > 0.9
    assert torch.corrcoef(torch.stack([low, degree]))[0, 1] < -0.9
    assert (even - 0.32).abs().max() < 0.06
    assert all(float(rate.sum()) == pytest.approx(8, abs=1e-3) for rate in (high, low, even))


def test_a_larger_exponent_tells_degrees_further_apart():
    top, leaves = int(NTU.degree.argmax()), np.flatnonzero(NTU.degree == 1)
    gentle, sharp = _drop_rate("hl"), _drop_rate("hl", MaskConfig(joint_exponent=4))
    assert sharp[top] > gentle[top] + 0.1
    assert sharp[leaves].mean() < gentle[leaves].mean() - 0.05


def test_by_motion_high_loses_the_joints_that_move_and_low_keeps_them():
    clip, config = _clip(), MaskConfig(joint_weight="motion", joint_exponent=2)
    for encoder, lost_share in (("high-low", 1.0), ("low-low", 0.0)):
        spatial, _ = _views(encoder, clip, config)
        moving = (spatial.joints == 7).any(1) & (spatial.joints == 11).any(1)
        gone = ~(spatial.joints == 7).any(1) & ~(spatial.joints == 11).any(1)
        assert float(gone.float().mean()) > 0.95 if lost_share else float(moving.float().mean()) > 0.95


def test_a_clip_at_rest_has_no_high_and_low_joints_but_loses_as_many():
    spatial, _ = _views("hl", torch.zeros(8, 3, 10, 25, 1), MaskConfig(joint_weight="motion"))
    assert spatial.joints.shape == (8, 17)


def test_high_loses_the_frames_that_move_and_low_keeps_them():
    clip = _clip()
    config = MaskConfig(mask_frames_random=0.0)
    # Motion of frames 19 to 29 is not zero; the ten largest go.
    _, fast = _views("high-high", clip, config)
    kept_moving = ((fast.frames >= 19) & (fast.frames <= 29)).sum(1)
    assert (kept_moving == 1).all()
    _, slow = _views("high-low", clip, config)
    assert (((slow.frames >= 19) & (slow.frames <= 29)).sum(1) == 11).all()


def test_pstl_dooms_or_saves_the_last_frame():
    rng = np.random.default_rng(0)
    clip = torch.from_numpy(rng.normal(size=(128, 3, 50, 25, 1)).astype(np.float32))
    config = MaskConfig(last="zero", mask_frames_random=0.0)
    _, fast = _views("high-high", clip, config)
    assert (fast.frames == 49).any(1).all()
    _, slow = _views("high-low", clip, config)
    assert not (slow.frames == 49).any()


def test_frames_are_ranked_by_the_augmented_view_or_by_the_clip():
    # Only x moves early, only y moves late; the view makes x small.
    clip = torch.zeros(1, 3, 20, 25, 1)
    clip[:, 0, :10] = torch.arange(10.0)[:, None, None] ** 2
    clip[:, 0, 10:] = clip[:, 0, 9:10]
    clip[:, 1, 10:] = (torch.arange(10.0) * 3)[:, None, None]
    view = View(transform=torch.diag(torch.tensor([0.01, 1.0, 1.0]))[None])
    config = {"mask_frames": 0.25, "mask_frames_random": 0.0}
    _, by_view = _views("high-high", clip, MaskConfig(**config), view)
    _, by_clip = _views("high-high", clip, MaskConfig(score_on="clip", **config), view)
    lost = [set(range(20)) - set(v.frames[0].tolist()) for v in (by_view, by_clip)]
    assert min(lost[0]) >= 9
    assert max(lost[1]) <= 9


def test_scores_of_the_clip_follow_a_crop():
    clip = _clip(4)
    frames = torch.arange(49, -1, -1, dtype=torch.int32).expand(4, 50)
    config = MaskConfig(score_on="clip", mask_frames_random=0.0)
    _, temporal = _views("high-high", clip, config, View(frames=frames))
    # The result names recorded frames, and those that move stand at 19 to 29 of the recording.
    assert (((temporal.frames >= 19) & (temporal.frames <= 29)).sum(1) == 1).all()


@pytest.mark.parametrize("encoder", ["none-high", "high-none", "none-none"])
def test_none_leaves_the_augmented_view_as_it_is(encoder):
    view = View(transform=torch.eye(3)[None])
    spatial, temporal = _views(encoder, _clip(4), None, view)
    joints, frames = masking_of(encoder)
    assert (spatial is view) == (joints == "none")
    assert (temporal is view) == (frames == "none")


def test_a_mask_after_an_augmentation_removes_positions_of_the_augmented_clip():
    clips = toy_clips(6)
    ids = clips.ids
    view = Augmentation(AugmentConfig(flip=1.0), SKELETON).view(16, seed=1, ids=ids)
    masking = Masking.of("lh", MaskConfig(), SKELETON)
    whole = ops.gather_view(clips.x, view)
    spatial = masking.spatial(clips.x, view, seed=2, ids=ids)
    kept = spatial.nodes.long()
    wanted = whole.gather(3, kept[:, None, None, :, None].expand(6, 3, 16, -1, 1))
    assert torch.equal(ops.gather_view(clips.x, spatial), wanted)
    assert not torch.equal(spatial.nodes, spatial.joints)


def test_masks_depend_on_the_clip_not_on_its_batch():
    clip, masking = _clip(8), Masking.of("hl", MaskConfig(), NTU)
    ids = torch.arange(8) + 100
    for mask in (masking.spatial, masking.temporal):
        whole = mask(clip, View(), seed=6, ids=ids)
        part = mask(clip[5:6], View(), seed=6, ids=ids[5:6])
        other = mask(clip, View(), seed=7, ids=ids)
        for a, b, c in zip(whole.arrays(), part.arrays(), other.arrays(), strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                assert torch.equal(a[5:6], b)
                assert not torch.equal(a, c)


@pytest.mark.parametrize("encoder", ["hl", "lh", "high-high", "random-low", "low-random", "none-high"])
@pytest.mark.parametrize("weight", ["degree", "motion"])
@pytest.mark.parametrize("score_on", ["view", "clip"])
def test_both_masks_at_once_are_the_two_alone(encoder, weight, score_on):
    clip = _clip(8)
    ids = torch.arange(8)
    view = Augmentation(AugmentConfig(flip=0.5), NTU).view(50, seed=1, ids=ids)
    masking = Masking.of(encoder, MaskConfig(joint_weight=weight, score_on=score_on), NTU)
    alone = [mask(clip, view, seed=6, ids=ids) for mask in (masking.spatial, masking.temporal)]
    for both, one in zip(masking.both(clip, view, seed=6, ids=ids), alone, strict=True):
        for a, b in zip(both.arrays(), one.arrays(), strict=True):
            assert (a is None and b is None) or torch.equal(a, b)
