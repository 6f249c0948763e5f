"""The generated data set: plausible people, reproducible clips, and no free lunch for a linear classifier."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from asma_fast import Skeleton
from asma_fast.data import Preprocessing, Synthetic

NTU = Skeleton.named("ntu-rgb+d")


@pytest.fixture(scope="module")
def data_set() -> Synthetic:
    return Synthetic(clips_per_class=20, subjects=10, seed=1)


def test_a_clip_depends_on_arguments_and_index_alone(data_set: Synthetic) -> None:
    np.random.seed(0)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    clips = list(Synthetic(clips_per_class=20, subjects=10, seed=1))
    for index in (200, 3, 77):
        np.testing.assert_array_equal(data_set.clip(index).frames, clips[index].frames)
    assert not np.array_equal(Synthetic(clips_per_class=20, seed=2).clip(3).frames[:, :9], clips[3].frames[:, :9])
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_classes_subjects_and_cameras_are_crossed(data_set: Synthetic) -> None:
    clips = list(data_set)
    assert len(data_set.classes) == 12
    assert Counter(clip.label for clip in clips) == dict.fromkeys(range(12), 20)
    assert len({(clip.label, clip.subject) for clip in clips}) == 120
    assert len({(clip.subject, clip.camera) for clip in clips}) >= 20
    assert tuple(clip.name for clip in clips) == data_set.names
    assert len(set(data_set.names)) == 240


def test_frames_are_finite_and_bodies_absent_where_they_should_be(data_set: Synthetic) -> None:
    losses = 0
    for clip in data_set:
        assert clip.frames.shape[0::2] == (2, 25)
        assert np.isfinite(clip.frames).all()
        present = clip.frames.any(axis=(2, 3))
        assert present[0].mean() > 0.8
        assert present[1].any() == (data_set.classes[clip.label or 0] == "shake hands")
        losses += not present[0].all()
    assert losses > 10


def test_people_have_the_bones_of_people(data_set: Synthetic) -> None:
    """Bones keep their length up to noise, left equals right, heads are above feet, and subjects differ."""
    heights = {}
    for index in range(36):
        clip = data_set.clip(index)
        frames = clip.frames[0, clip.frames[0].any(axis=(1, 2))].astype(np.float64)
        lengths = np.median([np.linalg.norm(frames[:, a] - frames[:, b], axis=-1) for a, b in NTU.edges], axis=1)
        assert ((lengths > 0.02) & (lengths < 0.6)).all()
        by_edge = dict(zip(((min(edge), max(edge)) for edge in NTU.edges), lengths, strict=True))
        for left, right in (((4, 5), (8, 9)), ((5, 6), (9, 10)), ((12, 13), (16, 17)), ((13, 14), (17, 18))):
            assert by_edge[left] == pytest.approx(by_edge[right], rel=0.1)
        assert np.median(frames[:, 3, 1] - frames[:, [15, 19], 1].mean(axis=1)) > 0.8
        heights[clip.subject] = by_edge[13, 14]
    assert max(heights.values()) > 1.08 * min(heights.values())


def test_shoulders_face_every_way(data_set: Synthetic) -> None:
    """Cameras see people from sides 45 degrees and more apart."""
    yaw = []
    for index in range(120):
        shoulders = data_set.clip(index).frames[0, 0, 8] - data_set.clip(index).frames[0, 0, 4]
        yaw.append(np.degrees(np.arctan2(shoulders[2], shoulders[0])))
    assert np.percentile(yaw, 90) - np.percentile(yaw, 10) > 90


def test_a_linear_classifier_on_coordinates_learns_but_falls_short() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    clips = list(Synthetic())
    recipe = Preprocessing(frames=16, centre="none", rotate="none")
    features = np.stack([recipe(clip, NTU)[..., 0].ravel() for clip in clips])
    labels = np.array([clip.label for clip in clips])
    train = np.array([(clip.subject or 0) % 2 == 1 for clip in clips])
    features = (features - features[train].mean(axis=0)) / features[train].std(axis=0)
    model = linear_model.RidgeClassifier(alpha=100.0).fit(features[train], labels[train])
    accuracy = model.score(features[~train], labels[~train])
    assert 0.35 < accuracy < 0.9


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="clips_per_class must be at least 1, got 0"):
        Synthetic(clips_per_class=0)
    with pytest.raises(ValueError, match="seed must be at least 0"):
        Synthetic(seed=-1)
    with pytest.raises(IndexError):
        Synthetic(clips_per_class=1).clip(12)
