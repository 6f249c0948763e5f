"""Preprocessing: what each step promises, and AimCLR's arrays on genuine files."""

from __future__ import annotations

from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
from numpy.typing import NDArray
from programs import program_output

from asma_fast import Skeleton
from asma_fast.data import Clip, Preprocessing, read_clip

NTU = Skeleton.named("ntu-rgb+d")
COCO = Skeleton.named("coco")
Frames = NDArray[np.float32]


def body_like(rng: np.random.Generator, frames: int, bodies: int = 1, skeleton: Skeleton = NTU) -> Frames:
    """Bodies of random shape that sway, turn and travel."""
    shape = rng.normal(size=(bodies, 1, len(skeleton), 3))
    sway = 0.1 * np.cumsum(rng.normal(size=(bodies, frames, len(skeleton), 3)), axis=1) / np.sqrt(frames)
    travel = np.cumsum(rng.normal(size=(bodies, frames, 1, 3)), axis=1) / np.sqrt(frames)
    return (shape + sway + travel + 3).astype(np.float32)


def only(**steps: object) -> Preprocessing:
    """A recipe of the named steps alone."""
    return Preprocessing(**{"frames": None, "centre": "none", "scale": "none", "rotate": "none", **steps})  # type: ignore[arg-type]


def channels_last(prepared: Frames) -> Frames:
    return prepared.transpose(3, 1, 2, 0)


def aimclr(frames: NDArray[np.float64], length: int = 50) -> NDArray[np.float64]:
    """AimCLR's recipe for a raw clip (M, T, V, 3), step by step in NumPy and torch → (M, length, V, 3)."""
    import torch
    import torch.nn.functional as F

    valid = int((np.abs(frames[0, :, 0]).sum(axis=-1) != 0).sum())
    relative = frames - frames[:, :, 20:21]
    out = []
    for body in relative[:, :valid]:
        image = torch.from_numpy(body.transpose(2, 0, 1))[None]
        resized = F.interpolate(image, size=(length, 25), mode="bilinear", align_corners=False)[0].numpy()
        vector = resized[:, :, 8] - resized[:, :, 4]
        vector[1] = 0
        cosine = vector[0] / (np.sqrt((vector**2).sum(axis=0)) + 1e-4)
        theta = np.arccos(cosine) * (-1 if vector[2].sum() >= 0 else 1)
        turns = np.zeros((length, 3, 3))
        turns[:, 0, 0] = turns[:, 2, 2] = np.cos(theta)
        turns[:, 1, 1] = 1
        turns[:, 0, 2], turns[:, 2, 0] = -np.sin(theta), np.sin(theta)
        out.append(np.einsum("tij,jtv->tvi", turns, resized))
    return np.stack(out)


def plain_ntu(path: Path) -> NDArray[np.float64]:
    """A raw NTU file by Python's own parsing → (2, T, 25, 3)."""
    lines = iter(path.read_text().splitlines())
    count = int(next(lines))
    frames = np.zeros((2, count, 25, 3))
    for t in range(count):
        for m in range(int(next(lines))):
            next(lines)
            for v in range(int(next(lines))):
                frames[m, t, v] = [float(word) for word in next(lines).split()[:3]]
    return frames


def test_aimclr_arrays_on_genuine_files(recordings: Path) -> None:
    files = sorted((recordings / "ntu-raw").glob("*.skeleton"))
    assert len(files) == 7
    for path in files:
        raw = plain_ntu(path)
        for clip in (raw.astype(np.float32), read_clip(path, "ntu", bodies="file-order")):
            prepared = Preprocessing.named("aimclr")(clip, NTU)
            assert prepared.shape == (3, 50, 25, 2)
            np.testing.assert_allclose(channels_last(prepared), aimclr(raw), atol=1e-5, rtol=0)


def test_aimclr_counts_frames_and_cuts_to_the_first_that_many() -> None:
    rng = np.random.default_rng(1)
    raw = body_like(rng, 40, bodies=2)
    raw[0, [0, 7, 8, 30]] = 0
    raw[1, 20:] = 0
    prepared = Preprocessing.named("aimclr")(raw, NTU)
    np.testing.assert_allclose(channels_last(prepared), aimclr(raw.astype(np.float64)), atol=1e-5, rtol=0)


def test_result_is_channels_last_float32_with_bodies_kept() -> None:
    raw = body_like(np.random.default_rng(2), 30, bodies=3)
    prepared = Preprocessing()(raw, NTU)
    assert prepared.shape == (3, 50, 25, 3)
    assert prepared.dtype == np.float32
    assert channels_last(prepared).flags.c_contiguous


def test_any_memory_order_gives_the_same() -> None:
    raw = body_like(np.random.default_rng(3), 30, bodies=2)
    recipe = Preprocessing.named("small")
    expected = recipe(raw, NTU)
    stored = np.ascontiguousarray(raw.transpose(1, 0, 2, 3)).transpose(1, 0, 2, 3)
    reversed_view = np.ascontiguousarray(raw[:, ::-1, :, ::-1])[:, ::-1, :, ::-1]
    misaligned = np.frombuffer(b"\0" + raw.tobytes(), np.uint8)[1:].view(np.float32).reshape(raw.shape)
    for other in (stored, reversed_view, misaligned):
        np.testing.assert_array_equal(recipe(other, NTU), expected)


@pytest.mark.parametrize(("length", "frames"), [(1, 5), (2, 5), (7, 7), (40, 13), (13, 40), (3, 1)])
def test_resize_samples_at_half_pixel_centres(length: int, frames: int) -> None:
    raw = body_like(np.random.default_rng(4), length)
    at = np.clip((np.arange(frames) + 0.5) * length / frames - 0.5, 0, length - 1)
    expected = np.empty((1, frames, 25, 3))
    for joint in range(25):
        for channel in range(3):
            expected[0, :, joint, channel] = np.interp(at, np.arange(length), raw[0, :, joint, channel])
    np.testing.assert_allclose(channels_last(only(frames=frames)(raw, NTU)), expected, atol=1e-6)


def test_dropping_empty_frames_equals_never_having_had_them() -> None:
    raw = body_like(np.random.default_rng(5), 20, bodies=2)
    gaps = np.insert(raw, [0, 5, 5, 20], 0, axis=1)
    recipe = Preprocessing.named("small")
    np.testing.assert_array_equal(recipe(gaps, NTU), recipe(raw, NTU))


def test_a_missing_body_stays_zero() -> None:
    raw = body_like(np.random.default_rng(6), 20, bodies=2)
    raw[1] = 0
    for centre in ("per-body", "first", "none"):
        for rotate in ("frame", "clip", "aimclr", "none"):
            for scale in ("none", "torso"):
                prepared = Preprocessing(centre=centre, rotate=rotate, scale=scale)(raw, NTU)  # type: ignore[arg-type]
                assert not prepared[..., 1].any()
                assert prepared[..., 0].any()


def test_per_body_centre_puts_each_centre_at_the_origin() -> None:
    raw = body_like(np.random.default_rng(7), 20, bodies=2)
    virtual = Skeleton(edges=NTU.edges, joints=NTU.joints, centre=(12, 16), shoulders=NTU.shoulders)
    assert np.abs(only(centre="per-body")(raw, NTU)[:, :, 20]).max() < 1e-6
    middle = only(centre="per-body")(raw, virtual)[:, :, [12, 16]].mean(axis=2)
    assert np.abs(middle).max() < 1e-6


def test_first_centre_keeps_travel_and_distance() -> None:
    raw = body_like(np.random.default_rng(8), 20, bodies=2)
    raw[0, :3] = 0
    prepared = channels_last(only(centre="first")(raw, NTU))
    np.testing.assert_allclose(prepared[1], raw[1] - raw[0, 3, 20], atol=1e-5)
    np.testing.assert_allclose(prepared[0, 3:], raw[0, 3:] - raw[0, 3, 20], atol=1e-5)
    assert not prepared[0, :3].any()


def test_torso_scale_makes_clips_of_every_size_alike() -> None:
    raw = body_like(np.random.default_rng(9), 21, bodies=2)
    recipe = only(scale="torso", centre="first")
    prepared = channels_last(recipe(raw, NTU)).astype(np.float64)
    torso = prepared[0, :, [4, 8]].mean(axis=0) - prepared[0, :, [12, 16]].mean(axis=0)
    assert np.median(np.linalg.norm(torso, axis=-1)) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(channels_last(recipe(raw * np.float32(1.7), NTU)), prepared, atol=1e-4)


@pytest.mark.parametrize("name", Skeleton.names())
def test_every_layout_has_a_torso(name: str) -> None:
    skeleton = Skeleton.named(name)
    raw = body_like(np.random.default_rng(10), 12, skeleton=skeleton)[..., : skeleton.dimensions].copy()
    assert np.isfinite(only(scale="torso", centre="per-body", frames=8)(raw, skeleton)).all()


def shoulders(prepared: Frames) -> Frames:
    """Right − left shoulder, (C, T, M)."""
    return prepared[:, :, 8] - prepared[:, :, 4]


@pytest.mark.parametrize("centre", ["per-body", "none"])
def test_frame_rotation_points_the_shoulders_to_x(centre: str) -> None:
    raw = body_like(np.random.default_rng(11), 40, bodies=2)
    across = shoulders(Preprocessing(centre=centre, rotate="frame")(raw, NTU))  # type: ignore[arg-type]
    bodies = slice(None) if centre == "per-body" else slice(0, 1)
    assert (across[0, :, bodies] > 0).all()
    assert np.abs(across[2, :, bodies]).max() < 1e-5


def test_frame_rotation_is_causal_and_holds_through_a_gap() -> None:
    raw = body_like(np.random.default_rng(12), 12, bodies=2)
    raw[0, 6:] = 0
    recipe = only(rotate="frame")
    whole, beginning = recipe(raw, NTU), recipe(raw[:, :8], NTU)
    np.testing.assert_array_equal(whole[:, :8], beginning)
    angle = np.arctan2(*shoulders(only()(raw, NTU))[[2, 0], 5, 0])
    turned = raw[1, 9] @ np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
    np.testing.assert_allclose(channels_last(whole)[1, 9], turned, atol=1e-4)


def test_clip_rotation_undoes_any_viewpoint() -> None:
    raw = body_like(np.random.default_rng(13), 30, bodies=2)
    angle = 1.1
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    seen = (raw @ turn).astype(np.float32)
    for centre in ("per-body", "first"):
        recipe = Preprocessing(centre=centre, rotate="clip")  # type: ignore[arg-type]
        np.testing.assert_allclose(recipe(seen, NTU), recipe(raw, NTU), atol=2e-5)


def test_rotation_with_a_common_origin_keeps_distances_between_bodies() -> None:
    raw = body_like(np.random.default_rng(14), 30, bodies=2)
    still = channels_last(only(centre="first")(raw, NTU))
    for rotate in ("frame", "clip"):
        turned = channels_last(only(centre="first", rotate=rotate)(raw, NTU))
        np.testing.assert_allclose(
            np.linalg.norm(turned[0] - turned[1], axis=-1), np.linalg.norm(still[0] - still[1], axis=-1), atol=1e-5
        )


@pytest.mark.parametrize(("up", "kept", "across"), [("+z", 2, (0, 1)), ("-y", 1, (0, 2)), ("+x", 0, (1, 2))])
def test_rotation_is_about_the_up_axis(up: str, kept: int, across: tuple[int, int]) -> None:
    skeleton = Skeleton(edges=NTU.edges, joints=NTU.joints, shoulders=NTU.shoulders, up=up)
    raw = body_like(np.random.default_rng(15), 20)
    turned = only(rotate="frame")(raw, skeleton)
    np.testing.assert_array_equal(turned[kept], only()(raw, skeleton)[kept])
    assert (shoulders(turned)[across[0]] > 0).all()
    assert np.abs(shoulders(turned)[across[1]]).max() < 1e-5


@pytest.mark.parametrize("rotate", ["frame", "clip"])
@pytest.mark.parametrize("centre", ["per-body", "first", "none"])
def test_a_negative_up_axis_gives_the_same_body_seen_the_other_way_up(centre: str, rotate: str) -> None:
    raw = body_like(np.random.default_rng(19), 20, bodies=2)
    half_turn_about_x = np.array([1, -1, -1], np.float32)
    down = Skeleton(edges=NTU.edges, joints=NTU.joints, centre=NTU.centre, shoulders=NTU.shoulders, up="-y")
    recipe = only(centre=centre, rotate=rotate, frames=30)
    upright = channels_last(recipe(raw, NTU))
    np.testing.assert_array_equal(channels_last(recipe(raw * half_turn_about_x, down)), upright * half_turn_about_x)


@pytest.mark.parametrize(("up", "facing"), [("+y", -1), ("-y", 1)])
def test_a_turned_body_is_no_mirror_image_and_faces_where_the_docstring_says(up: str, facing: int) -> None:
    skeleton = Skeleton.named("mediapipe")
    skeleton = Skeleton(edges=skeleton.edges, joints=skeleton.joints, shoulders=skeleton.shoulders, up=up)
    nose, (left,), (right,) = skeleton.joints.index("nose"), *skeleton.shoulders  # type: ignore[misc]
    rng = np.random.default_rng(20)
    for angle in rng.uniform(0, 2 * np.pi, size=12):
        person = rng.normal(scale=0.02, size=(1, 9, 33, 3))
        person[..., left, 0] -= 0.2
        person[..., right, 0] += 0.2
        person[..., nose, :] += 0, 0.3 if up == "+y" else -0.3, 0.2 * facing
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        turned = channels_last(only(rotate="clip")((person @ turn).astype(np.float32), skeleton)).mean(axis=(0, 1))
        assert np.sign(turned[nose, 2]) == facing
        assert turned[right, 0] - turned[left, 0] > 0.3
        recorded = person.mean(axis=(0, 1))
        sense = [np.linalg.det(np.stack([p[right] - p[left], p[nose], p[32] + p[31]])) for p in (recorded, turned)]
        assert sense[1] == pytest.approx(sense[0], abs=1e-5)


def people_in_an_image(rng: np.random.Generator, frames: int, bodies: int = 1, scored: bool = True) -> Frames:
    """Bodies of the coco layout, in pixels, with scores from ½ to 1."""
    places = 40 * body_like(rng, frames, bodies, COCO)[..., :2] + np.array([300, 200], np.float32)
    scores = rng.uniform(0.5, 1, size=(*places.shape[:3], int(scored)))
    return np.concatenate([places, scores.astype(np.float32)], axis=-1)


def test_image_rules_keep_the_middle_of_the_image_and_proportions() -> None:
    raw = people_in_an_image(np.random.default_rng(21), 12, bodies=2)
    raw[1, 5:] = 0
    clip = Clip(raw, "coco", image_size=(640, 480))
    prepared = channels_last(only(centre="image", scale="image")(clip, COCO))
    expected = raw.astype(np.float64)
    expected[..., :2] = (expected[..., :2] - (320, 240)) / 320
    expected[1, 5:] = 0
    np.testing.assert_array_equal(prepared, expected.astype(np.float32))
    upright = Clip(raw, "coco", image_size=(480, 640))
    corner = channels_last(only(centre="none", scale="image")(upright, COCO))
    np.testing.assert_array_equal(corner[..., :2], (raw[..., :2].astype(np.float64) / 320).astype(np.float32))


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("scored", [False, True])
def test_box_rules_fit_the_clip_into_the_unit_box(dimensions: int, scored: bool) -> None:
    rng = np.random.default_rng(22)
    skeleton = COCO if dimensions == 2 else NTU
    raw = people_in_an_image(rng, 12, 2, scored) if dimensions == 2 else body_like(rng, 12, 2)
    raw[1, 4:] = 0
    raw[:, 7] = 0
    prepared = channels_last(only(centre="box", scale="box")(raw, skeleton))[..., :dimensions]
    there = (raw != 0).any(axis=(2, 3))
    places = raw[there][..., :dimensions].astype(np.float64)
    low, high = places.min(axis=(0, 1)), places.max(axis=(0, 1))
    expected = (places - (low + high) / 2) / ((high - low).max() / 2)
    np.testing.assert_allclose(prepared[there[:, there.any(axis=0)]], expected, atol=1e-6)
    assert np.abs(prepared).max() == 1
    assert not prepared[1, 4:].any()
    np.testing.assert_allclose(prepared.max(axis=(0, 1, 2)), -prepared.min(axis=(0, 1, 2)), atol=1e-6)


def test_the_pose_recipe_forgets_where_and_how_large_people_were_filmed() -> None:
    raw = people_in_an_image(np.random.default_rng(23), 31, bodies=2)
    recipe = Preprocessing.named("pose")
    prepared = recipe(raw, COCO)
    assert prepared.shape == (3, 50, 17, 2)
    assert np.abs(prepared[:2]).max() <= 1
    moved = raw.copy()
    moved[..., :2] = 0.37 * raw[..., :2] + np.array([500, -20], np.float32)
    np.testing.assert_allclose(recipe(moved, COCO), prepared, atol=1e-5)
    padded = np.insert(raw, [0, 9, 31], 0, axis=1)
    np.testing.assert_array_equal(recipe(padded, COCO), prepared)
    np.testing.assert_array_equal(prepared[2], only(frames=50)(raw, COCO)[2])


def test_joints_without_a_score_are_no_part_of_the_box() -> None:
    raw = people_in_an_image(np.random.default_rng(24), 10)
    raw[..., 3, :] = -5000, 9000, 0
    recipe = only(centre="box", scale="box")
    prepared = recipe(raw, COCO)
    others = [v for v in range(17) if v != 3]
    assert np.abs(prepared[:2, :, others]).max() == 1
    assert np.abs(prepared[:2, :, 3]).min() > 1
    unscored = raw.copy()
    unscored[..., 2] = 0
    np.testing.assert_array_equal(recipe(unscored, COCO)[:2], recipe(raw[..., :2].copy(), COCO))


def test_torso_scale_in_two_dimensions() -> None:
    raw = people_in_an_image(np.random.default_rng(25), 11)
    middle = [raw[0, :, pair, :2].astype(np.float64).mean(axis=0) for pair in ([5, 6], [11, 12])]
    torso = np.median(np.linalg.norm(middle[0] - middle[1], axis=-1))
    assert [COCO.joints[v] for v in (5, 6, 11, 12)] == ["left shoulder", "right shoulder", "left hip", "right hip"]
    np.testing.assert_allclose(channels_last(only(scale="torso")(raw, COCO))[..., :2], raw[..., :2] / torso, rtol=1e-6)


def test_what_the_image_and_the_box_need_is_said() -> None:
    raw = people_in_an_image(np.random.default_rng(26), 5)
    for field in ("centre", "scale"):
        with pytest.raises(ValueError, match=f"{field}='image' needs the image's size"):
            only(**{field: "image"})(raw, COCO)
        with pytest.raises(ValueError, match=f"{field}='image' needs the image's size"):
            only(**{field: "image"})(Clip(raw, "coco"), COCO)
        with pytest.raises(ValueError, match=f"{field}='image' needs two dimensions; ntu-rgb\\+d has 3"):
            only(**{field: "image"})(Clip(body_like(np.random.default_rng(27), 5), NTU.name, image_size=(9, 9)), NTU)
        with pytest.raises(ValueError, match=r"positive width and height, got \(0, 480\)"):
            only(**{field: "image"})(Clip(raw, "coco", image_size=(0, 480)), COCO)
    still = np.full((1, 5, 17, 2), 7, np.float32)
    assert not only(centre="box")(still, COCO).any()
    with pytest.raises(ValueError, match="box must have an extent"):
        only(scale="box")(still, COCO)
    still[0, 2, 3, 1] = np.nan
    with pytest.raises(ValueError, match="box must be finite"):
        only(centre="box")(still, COCO)
    with pytest.raises(ValueError, match="'pose' does not rotate"):
        Preprocessing()(raw, COCO)


def test_scores_behind_the_coordinates_are_resized_only() -> None:
    raw = body_like(np.random.default_rng(16), 20)
    scored = np.concatenate([raw, np.full((1, 20, 25, 1), 0.5, np.float32)], axis=-1)
    for recipe in (Preprocessing.named("small"), Preprocessing.named("aimclr")):
        prepared = recipe(scored, NTU)
        np.testing.assert_array_equal(prepared[3], np.full_like(prepared[3], 0.5))
        np.testing.assert_array_equal(prepared[:3], recipe(raw, NTU))


def test_nothing_is_done_twice() -> None:
    recipe = Preprocessing.named("small")
    raw = Clip(body_like(np.random.default_rng(17), 20), "ntu-rgb+d")
    once = Clip(np.ascontiguousarray(channels_last(recipe(raw, NTU))), "ntu-rgb+d", preprocessing=recipe)
    np.testing.assert_array_equal(recipe(once, NTU), recipe(raw, NTU))
    with pytest.raises(ValueError, match="preprocessed already"):
        Preprocessing.named("aimclr")(once, NTU)


def test_record_round_trip() -> None:
    for name in Preprocessing.names():
        recipe = Preprocessing.named(name)
        assert Preprocessing.from_dict(recipe.to_dict()) == recipe
    with pytest.raises(ValueError, match="fields"):
        Preprocessing.from_dict({"frames": 3})


def test_training_configs_offer_every_recipe() -> None:
    from asma_fast.training.configs import DataConfig, InspectConfig

    for config in (DataConfig, InspectConfig):
        assert sorted(get_args(get_type_hints(config)["preprocessing"])) == list(Preprocessing.names())


def test_bad_input_is_refused_in_a_sentence() -> None:
    raw = body_like(np.random.default_rng(18), 10)
    recipe = Preprocessing()
    with pytest.raises(ValueError, match=r"25 joints of ntu-rgb\+d, got 24"):
        recipe(raw[:, :, :24], NTU)
    with pytest.raises(ValueError, match=r"shape \(M, T, V, C\)"):
        recipe(raw[0], NTU)
    with pytest.raises(TypeError, match="float32, got float64"):
        recipe(raw.astype(np.float64), NTU)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="3 coordinates or more, got 2"):
        recipe(raw[..., :2], NTU)
    with pytest.raises(ValueError, match="must have a valid frame"):
        recipe(np.zeros_like(raw), NTU)
    with pytest.raises(ValueError, match="torso length must be positive"):
        only(scale="torso")(np.ones_like(raw), NTU)
    with pytest.raises(ValueError, match="torso length must be finite"):
        only(scale="torso")(np.full_like(raw, np.nan), NTU)
    with pytest.raises(ValueError, match="needs three dimensions"):
        recipe(raw[:, :, :17, :2].copy(), Skeleton.named("coco"))
    with pytest.raises(ValueError, match="needs shoulders"):
        recipe(raw, Skeleton(edges=NTU.edges))
    with pytest.raises(ValueError, match="'left hip'"):
        only(scale="torso")(raw, Skeleton(edges=NTU.edges))
    with pytest.raises(ValueError, match="is of skeleton 'sbu'"):
        recipe(Clip(raw, "sbu"), NTU)
    with pytest.raises(ValueError, match="rotate must be one of"):
        Preprocessing(rotate="sideways")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="frames must be from 1"):
        Preprocessing(frames=0)
    with pytest.raises(ValueError, match="preprocessing must be one of"):
        Preprocessing.named("unheard-of")


def test_numpy_alone_is_enough() -> None:
    program = (
        "import numpy as np, asma_fast.data as data\n"
        "from asma_fast import Skeleton\n"
        "frames = np.random.default_rng(0).normal(size=(1, 9, 25, 3)).astype(np.float32)\n"
        "print(data.Preprocessing.named('small')(frames, Skeleton.named('ntu-rgb+d')).shape)\n"
    )
    assert program_output(program, without=("torch", "scipy", "safetensors", "numba", "sklearn")) == "(3, 32, 25, 1)"
