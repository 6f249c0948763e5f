"""Poses of one layout as those of another: what is where, in which units and axes; what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from edge.networks import clips, file_of, network

from asma_fast import Skeleton
from asma_fast.data import Preprocessing, read_clip
from asma_fast.edge import Session, adapt

THREE_D = ("ntu-rgb+d", "kinect-v1", "utd-mhad", "common-15", "sbu")


def test_a_real_person_who_faces_the_sensor_has_the_right_shoulder_at_positive_x(recordings):
    """What MediaPipe's adapted landmarks must agree with."""
    names = Skeleton.named("ntu-rgb+d").joints
    found = []
    for path in sorted((recordings / "ntu-raw").rglob("*.skeleton")):
        frames = read_clip(path, "ntu").frames
        seen = frames[0][frames[0].any(axis=(1, 2))]
        found.append(np.median(seen[:, names.index("right shoulder"), 0] - seen[:, names.index("left shoulder"), 0]))
    assert len(found) >= 5
    assert min(found) > 0
    assert adapt(standing(), source="mediapipe", target="ntu-rgb+d")[0, names.index("right shoulder"), 0] > 0


def standing() -> np.ndarray:
    """MediaPipe's world landmarks ``(1, 33, 4)`` of somebody who stands upright: metres, y down, the hips at zero."""
    names = Skeleton.named("mediapipe").joints
    heights = {"shoulder": 0.5, "elbow": 0.25, "wrist": 0.0, "hip": 0.0, "knee": -0.4, "ankle": -0.8, "heel": -0.85}
    person = np.zeros((1, len(names), 4), np.float32)
    for index, name in enumerate(names):
        side = {"left": 0.2, "right": -0.2}.get(name.split()[0], 0.0)
        height = next((value for part, value in heights.items() if part in name), None)
        if height is None:
            height = -0.85 if "foot" in name else -0.1 if name.split()[-1] in ("pinky", "index", "thumb") else 0.7
        person[0, index] = side, -height, 0.05 * index, 0.5 + index / 100
    return person


@pytest.mark.parametrize("target", THREE_D)
def test_a_person_of_mediapipe_stands_upright_in_every_layout(target):
    skeleton = Skeleton.named(target)
    person = adapt(standing(), source="mediapipe", target=skeleton)[0]
    assert person.shape == (len(skeleton), 3)
    where = dict(zip(skeleton.joints, person / (1000 if skeleton.units == "millimetres" else 1), strict=True))
    up = "xyz".index(skeleton.up[1])
    assert skeleton.up == f"+{'xyz'[up]}"
    assert where["head"][up] > where["left shoulder"][up] > where["left hip"][up] > where["left foot"][up]
    for name, place in where.items():
        if name.startswith(("left", "right")):
            assert (place[0] > 0) == name.startswith("right")  # a sensor's x leads to the right hand of who faces it
        else:
            assert place[0] == pytest.approx(0, abs=1e-6)
    trunk = [name for name in ("spine base", "spine mid", "spine shoulder", "neck", "head") if name in where]
    heights = [float(where[name][up]) for name in trunk]
    assert heights == sorted(heights)
    np.testing.assert_allclose(np.abs(where["left knee"]), [0.2, 0.4, 0.05 * 25], rtol=1e-5)
    assert where["left knee"][2] > 0  # what is away from the camera stays away


def test_scores_are_the_least_of_those_that_are_averaged():
    person = standing()
    adapted = adapt(person, source="mediapipe", target=Skeleton.named("ntu-rgb+d"), scores=True)
    names = Skeleton.named("mediapipe").joints
    hips = [person[0, names.index(name), 3] for name in ("left hip", "right hip")]
    assert adapted.shape == (1, 25, 4)
    assert adapted[0, 0, 3] == min(hips)


@pytest.mark.parametrize("source", Skeleton.names())
def test_the_layout_of_the_network_itself_changes_no_bit(source):
    skeleton = Skeleton.named(source)
    given = clips(1, 2, 6, len(skeleton))[0][..., : skeleton.dimensions]
    np.testing.assert_array_equal(adapt(given, source=source, target=skeleton), given)
    np.testing.assert_array_equal(adapt(given[:, 0], source=source, target=skeleton), given[:, 0])


def test_a_stream_takes_adapted_frames(tmp_path):
    target = Skeleton.named("ntu-rgb+d")
    session = Session(file_of(tmp_path, network(target), preprocessing=Preprocessing.named("small"), bodies=2))
    assert session.skeleton == target
    recorded = np.stack([standing()[0] + 0.01 * t for t in range(40)])[:, None]
    stream = session.stream(seconds=1, hop=40, least_seconds=0)
    for frame in recorded:
        result = stream.push(adapt(frame.astype(np.float32), source="mediapipe", target=session.skeleton))
    window = adapt(recorded[10:, 0][None].astype(np.float32), source="mediapipe", target=target)
    two = np.concatenate([window, np.zeros_like(window)])
    np.testing.assert_array_equal(result.logits, session.run(two[None])[0])


def test_an_absent_body_stays_absent():
    given = np.zeros((2, 33, 3), np.float32)
    given[0] = standing()[0, :, :3]
    assert not adapt(given, source="mediapipe", target=Skeleton.named("sbu"))[1].any()


@pytest.mark.parametrize(
    ("shape", "source", "options", "message"),
    [
        ((1, 17, 3), "coco", {}, r"no map leads from layout coco to ntu-rgb\+d \(2-D joints do not become 3-D ones\)"),
        ((1, 18, 3), "openpose", {}, "2-D joints do not become 3-D ones"),
        ((1, 15, 3), "common-15", {}, r"no map leads from layout common-15 to ntu-rgb\+d"),
        ((1, 32, 3), "mediapipe", {}, r"must have shape \(M, 33, 3 or 4\) or \(M, T, 33, 3 or 4\), got \(1, 32, 3\)"),
        ((33, 3), "mediapipe", {}, r"got \(33, 3\)"),
        ((1, 33, 3), "mediapipe", {"scores": True}, r"must have shape \(M, 33, 4\)"),
        ((1, 33, 2), "mediapipe", {}, r"got \(1, 33, 2\)"),
        ((1, 33, 3), "kinect-v3", {}, "kinect-v3"),
    ],
)
def test_what_does_not_fit_is_refused(shape, source, options, message):
    with pytest.raises(ValueError, match=message):
        adapt(np.ones(shape, np.float32), source=source, target=Skeleton.named("ntu-rgb+d"), **options)


def test_other_numbers_are_refused():
    with pytest.raises(TypeError, match="frame must be a float32 array, got float64"):
        adapt(np.ones((1, 33, 3)), source="mediapipe", target=Skeleton.named("ntu-rgb+d"))
