"""Which bodies become the clip's: each rule beside a plain retelling of it, and what the rules promise."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asma_fast.data import FormatError
from asma_fast.data.bodies import BODY_RULES, RecordedBodies, choose_bodies
from asma_fast.data.readers import reader

Pose = np.ndarray  # (25, 3)
Scene = list[list[tuple[int, Pose, np.ndarray]]]  # id, pose and tracking states of each body, frame by frame
Pair = tuple["tuple[Pose, np.ndarray] | None", "tuple[Pose, np.ndarray] | None"]

UPRIGHT = np.random.default_rng(0).uniform((-0.25, -0.9, 2.9), (0.25, 0.9, 3.1), (25, 3))
LYING = UPRIGHT[:, [1, 0, 2]]
TRACKED = np.full(25, 2)


def recorded(scene: Scene) -> RecordedBodies:
    bodies = [body for frame in scene for body in frame]
    return RecordedBodies(
        "made.skeleton",
        np.array([len(frame) for frame in scene], np.int32),
        np.array([number for number, _, _ in bodies], np.uint64),
        np.array([pose for _, pose, _ in bodies], np.float32).reshape(-1, 25, 3),
        np.array([states for _, _, states in bodies], np.uint8).reshape(-1, 25),
    )


def played(pairs: Iterable[Pair]) -> tuple[np.ndarray, np.ndarray]:
    """The clip's frames and missing joints of the bodies in each frame's two parts."""
    pairs = list(pairs)
    frames, missing = np.zeros((2, len(pairs), 25, 3), np.float32), np.zeros((2, len(pairs), 25), bool)
    for t, pair in enumerate(pairs):
        for m, body in enumerate(pair):
            if body is not None:
                frames[m, t], missing[m, t] = body[0], body[1] == 0
    return frames, missing


def check(scene: Scene, rule: str, pairs: Iterable[Pair]) -> None:
    frames, missing = choose_bodies(recorded(scene), rule)
    expected_frames, expected_missing = played(pairs)
    np.testing.assert_array_equal(frames, expected_frames)
    np.testing.assert_array_equal(missing, expected_missing)


# ---- the rules retold ----


def plain_file_order(scene: Scene) -> list[Pair]:
    return [tuple([*((pose, states) for _, pose, states in frame), None, None][:2]) for frame in scene]  # type: ignore[misc]


def plain_energy(scene: Scene) -> list[Pair]:
    energies = []
    for place in range(4):
        shown = [frame[place][1] for frame in scene if len(frame) > place and frame[place][1].any()]
        points = np.array(shown, np.float32).astype(np.float64).reshape(-1, 3)
        energies.append(sum(points[:, c].std() for c in range(3)) if shown else 0.0)
    best = sorted(range(4), key=lambda place: (energies[place], place), reverse=True)[:2]
    return [tuple(frame[p][1:] if p < len(frame) else None for p in best) for frame in scene]  # type: ignore[misc]


def plain_motion(poses: list[Pose]) -> float:
    points = np.concatenate([pose.astype(np.float32) for pose in poses]).astype(np.float64)
    return float(((points - points.mean(axis=0)) ** 2).mean(axis=0).sum())


def too_wide(pose: Pose) -> bool:
    x, y = pose.astype(np.float32)[:, 0], pose.astype(np.float32)[:, 1]
    return bool(float(x.max() - x.min()) > 0.8 * float(y.max() - y.min()))


def plain_denoised(scene: Scene) -> list[Pair]:
    starts: dict[int, int] = {}
    shown: dict[int, list[tuple[Pose, np.ndarray]]] = {}
    scene = [frame for frame in scene if frame]
    for t, frame in enumerate(scene):
        for number, pose, states in frame:
            starts.setdefault(number, t)
            shown.setdefault(number, []).append((pose, states))
    if len(shown) == 1:
        return [((pose, states), None) for ((_, pose, states),) in scene]

    left = [number for number in shown if len(shown[number]) >= 12]
    motion = {number: plain_motion([pose for pose, _ in shown[number]]) for number in left}
    for number in list(left):
        poses = [pose for pose, _ in shown[number]]
        wide = sum(map(too_wide, poses))
        if len(left) > 1 and wide / len(poses) >= 0.69754:
            left.remove(number)
        elif len(left) > 1 and wide:
            motion[number] = min(motion[number], plain_motion([pose for pose in poses if not too_wide(pose)]))
    left.sort(key=motion.__getitem__, reverse=True)

    parts: list[list[tuple[Pose, np.ndarray] | None]] = [[None] * len(scene), [None] * len(scene)]
    spans = [None, (0, 0)]
    for number in left:
        start, end = starts[number], starts[number] + len(shown[number]) - 1
        for part in (0, 1):
            span = spans[part]
            if span is None or min(span[1], end) <= max(span[0], start):
                parts[part][start : end + 1] = shown[number]
                spans[part] = (start, end) if span is None else (min(span[0], start), max(span[1], end))
                break
    return [pair for pair in zip(*parts, strict=True) if any(body is not None and body[0].any() for body in pair)]


PLAIN = {"file-order": plain_file_order, "denoised": plain_denoised, "energy": plain_energy}


# ---- made scenes ----


def body(
    rng: np.random.Generator, frames: int, *, sway: float = 0.1, wide: float = 0.0
) -> list[tuple[Pose, np.ndarray]]:
    """A body's frames, of which about the given share is too wide."""
    at = rng.normal(size=3)
    return [
        (
            (LYING if rng.random() < wide else UPRIGHT) * rng.uniform(0.9, 1.1) + at + sway * rng.normal(size=3),
            rng.choice(3, 25, p=(0.1, 0.2, 0.7)),
        )
        for _ in range(frames)
    ]


def scene_of(frames: int, *parts: tuple[int, Iterable[int], list[tuple[Pose, np.ndarray]]]) -> Scene:
    """Bodies that are seen in the named frames."""
    scene: Scene = [[] for _ in range(frames)]
    for number, seen, shown in parts:
        for t, (pose, states) in zip(seen, shown, strict=True):
            scene[t].append((number, pose, states))
    return scene


def random_scene(rng: np.random.Generator) -> Scene:
    """One to six bodies that come, go and come back; some of them ghosts; frames without anybody."""
    frames = int(rng.integers(1, 60))
    parts = []
    for number in rng.choice(2**60, rng.integers(1, 7), replace=False):
        first, last = sorted(rng.integers(0, frames + 1, 2))
        seen = [t for t in range(first, last + 1) if t < frames and rng.random() < rng.choice([0.6, 1.0])]
        wide = rng.choice([0.0, 0.3, 0.7, 1.0])
        parts.append((int(number), seen, body(rng, len(seen), sway=rng.choice([0.01, 0.1, 1.0]), wide=wide)))
    scene = scene_of(frames, *parts)
    for frame in scene:
        order = rng.permutation(len(frame)) if rng.random() < 0.3 else range(len(frame))
        frame[:] = [frame[i] for i in order]
    return scene


@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(BODY_RULES)))
@settings(deadline=None, max_examples=300)
def test_rules_as_retold(seed: int, rule: str) -> None:
    scene = random_scene(np.random.default_rng(seed))
    seen: dict[int, int] = {}
    for frame in scene:
        for number, _, _ in frame:
            seen[number] = seen.get(number, 0) + 1
    if rule == "denoised" and (not seen or (len(seen) > 1 and max(seen.values()) < 12)):
        with pytest.raises(FormatError, match="a body"):
            choose_bodies(recorded(scene), rule)
    else:
        check(scene, rule, PLAIN[rule](scene))


def test_genuine_files_by_every_rule(recordings: Path) -> None:
    ntu = reader("ntu")
    for path in sorted((recordings / "ntu-raw").glob("*.skeleton")):
        lines = iter(path.read_text().splitlines())
        scene: Scene = []
        for _ in range(int(next(lines))):
            scene.append([])
            for _ in range(int(next(lines))):
                number = int(next(lines).split()[0])
                table = np.array([next(lines).split() for _ in range(int(next(lines)))], np.float64)
                scene[-1].append((number, table[:, :3], table[:, 11].astype(int)))
        for rule in BODY_RULES:
            clip = ntu.read(path, rule)
            frames, missing = played(PLAIN[rule](scene))
            np.testing.assert_array_equal(clip.frames, frames)
            np.testing.assert_array_equal(np.zeros_like(missing) if clip.missing is None else clip.missing, missing)


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=100)
def test_every_body_of_the_clip_is_one_that_was_recorded(seed: int) -> None:
    scene = random_scene(np.random.default_rng(seed))
    known = [{pose.astype(np.float32).tobytes() for _, pose, _ in frame} for frame in scene]
    anywhere = set().union(*known)
    for rule in BODY_RULES:
        try:
            frames, missing = choose_bodies(recorded(scene), rule)
        except FormatError:
            continue
        assert frames.dtype == np.float32
        assert frames.shape == (2, frames.shape[1], 25, 3)
        assert missing.shape == frames.shape[:3]
        assert not missing[~frames.any(axis=(2, 3))].any()
        if rule != "denoised":
            assert frames.shape[1] == len(scene)
        shown = [pose.tobytes() for pose in frames.reshape(-1, 25, 3) if pose.any()]
        assert len(shown) == len(set(shown))
        for t in range(frames.shape[1]):
            for pose in frames[:, t]:
                assert not pose.any() or pose.tobytes() in (anywhere if rule == "denoised" else known[t])


# ---- denoised ----


def test_a_body_seen_in_at_most_eleven_frames_goes() -> None:
    rng = np.random.default_rng(1)
    for seen, kept in ((11, False), (12, True)):
        main, brief = body(rng, 40, sway=1), body(rng, seen)
        scene = scene_of(40, (5, range(40), main), (7, range(3, 3 + seen), brief))
        frames, _ = choose_bodies(recorded(scene), "denoised")
        assert frames[1].any() == kept
        check(scene, "denoised", plain_denoised(scene))


def test_a_body_alone_stays_however_brief_or_wide() -> None:
    shown = body(np.random.default_rng(2), 5, wide=1)
    check(scene_of(9, (5, [0, 2, 3, 7, 8], shown)), "denoised", [(pose, None) for pose in shown])


def test_a_body_too_often_wide_goes() -> None:
    rng = np.random.default_rng(3)
    for wide_frames, kept in ((69, True), (70, False)):
        shape = [(LYING if t < wide_frames else UPRIGHT) + 0.01 * rng.normal(size=3) for t in range(100)]
        scene = scene_of(100, (5, range(100), body(rng, 100, sway=1)), (7, range(100), [(p, TRACKED) for p in shape]))
        frames, _ = choose_bodies(recorded(scene), "denoised")
        assert frames[1].any() == kept


@pytest.mark.parametrize(("width", "kept"), [(0.79, True), (0.81, False)])
def test_too_wide_is_wider_than_eight_tenths_of_the_height(width: float, kept: bool) -> None:
    rng = np.random.default_rng(16)
    box = UPRIGHT * (width * np.ptp(UPRIGHT[:, 1]) / np.ptp(UPRIGHT[:, 0]), 1, 1)
    scene = scene_of(20, (5, range(20), body(rng, 20, sway=1)), (7, range(20), [(box, TRACKED)] * 20))
    frames, _ = choose_bodies(recorded(scene), "denoised")
    assert frames[1].any() == kept


def test_of_two_wide_bodies_the_later_stays() -> None:
    rng = np.random.default_rng(4)
    first, second = body(rng, 20, wide=1), body(rng, 20, wide=1)
    scene = scene_of(20, (9, range(20), first), (2, range(20), second))
    check(scene, "denoised", [(pose, None) for pose in second])


def test_the_livelier_body_comes_first_and_the_still_one_stays() -> None:
    rng = np.random.default_rng(5)
    still, lively = [(UPRIGHT, TRACKED)] * 30, body(rng, 30, sway=1)
    scene = scene_of(30, (1, range(30), still), (2, range(30), lively))
    check(scene, "denoised", zip(lively, still, strict=True))


def test_wide_frames_do_not_count_as_motion() -> None:
    rng = np.random.default_rng(6)
    jumps = [(LYING + (4 if t < 10 else 0) if t < 10 else UPRIGHT, TRACKED) for t in range(30)]
    lively = body(rng, 30, sway=0.3)
    assert plain_motion([pose for pose, _ in jumps]) > plain_motion([pose for pose, _ in lively])
    scene = scene_of(30, (1, range(30), jumps), (2, range(30), lively))
    check(scene, "denoised", zip(lively, jumps, strict=True))


def test_a_person_who_changes_id_stays_the_same_body() -> None:
    rng = np.random.default_rng(7)
    before, after, other = body(rng, 20, sway=2), body(rng, 15, sway=0.2), body(rng, 30, sway=1)
    scene = scene_of(40, (1, range(20), before), (2, range(5, 35), other), (3, range(20, 35), after))
    frames, _ = choose_bodies(recorded(scene), "denoised")
    assert frames.shape[1] == 35
    np.testing.assert_array_equal(frames[0], np.array([pose for pose, _ in before + after], np.float32))
    np.testing.assert_array_equal(frames[1, 5:], np.array([pose for pose, _ in other], np.float32))


def test_a_third_body_at_the_same_time_goes() -> None:
    rng = np.random.default_rng(8)
    bodies = [body(rng, 20, sway=sway) for sway in (0.5, 2, 1)]
    scene = scene_of(20, *((i, range(20), shown) for i, shown in enumerate(bodies)))
    check(scene, "denoised", zip(bodies[1], bodies[2], strict=True))


def test_nobody_takes_the_second_part_before_its_first_body() -> None:
    rng = np.random.default_rng(17)
    whole, late, early = (body(rng, frames, sway=sway) for frames, sway in ((60, 3), (30, 1), (25, 0.1)))
    scene = scene_of(60, (1, range(60), whole), (2, range(30, 60), late), (3, range(25), early))
    check(scene, "denoised", zip(whole, [None] * 30 + late, strict=True))
    earlier = scene_of(60, (1, range(60), whole), (2, range(25), body(rng, 25, sway=1)), (3, range(30, 60), late))
    frames, _ = choose_bodies(recorded(earlier), "denoised")
    np.testing.assert_array_equal(frames[1, 30:], np.array([pose for pose, _ in late], np.float32))


def test_frames_that_a_body_was_away_are_closed_up() -> None:
    rng = np.random.default_rng(9)
    away, whole = body(rng, 20, sway=0.2), body(rng, 30, sway=2)
    scene = scene_of(30, (1, [*range(10), *range(20, 30)], away), (2, range(30), whole))
    frames, _ = choose_bodies(recorded(scene), "denoised")
    np.testing.assert_array_equal(frames[1, :20], np.array([pose for pose, _ in away], np.float32))
    assert not frames[1, 20:].any()


def test_ids_beyond_the_precision_of_a_float_are_told_apart() -> None:
    rng = np.random.default_rng(10)
    one, other = 72057594037931101, 72057594037931102
    assert float(one) == float(other)
    first, second = body(rng, 20, sway=2), body(rng, 20, sway=0.1)
    check(
        scene_of(20, (one, range(20), first), (other, range(20), second)), "denoised", zip(first, second, strict=True)
    )
    check(scene_of(20, (2**64 - 1, range(20), first)), "denoised", [(pose, None) for pose in first])


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=50)
def test_order_in_the_file_and_the_ids_themselves_do_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [(number, range(12 + number, 40), body(rng, 28 - number)) for number in range(5)]
    scene = scene_of(40, *parts)
    expected = choose_bodies(recorded(scene), "denoised")
    names = rng.permutation(5)
    shuffled = [
        [(int(names[number]), pose, states) for number, pose, states in (frame[i] for i in rng.permutation(len(frame)))]
        for frame in scene
    ]
    for got, wanted in zip(choose_bodies(recorded(shuffled), "denoised"), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_what_the_rule_cannot_follow_is_refused() -> None:
    rng = np.random.default_rng(11)
    twice = scene_of(20, (1, range(20), body(rng, 20)), (2, range(20), body(rng, 20)))
    twice[4][1] = (1, *twice[4][1][1:])
    nothing = [(np.zeros((25, 3)), TRACKED)] * 15
    for scene, message in (
        ([[], [], []], "a body in some frame, found none in 3 frames"),
        (scene_of(20, (1, range(11), body(rng, 11)), (2, range(3), body(rng, 3))), "found none in more than 11"),
        (twice, "found 1 again in frame 4"),
        (scene_of(15, (1, range(15), nothing), (2, range(15), nothing)), "found zeros alone in 15 frames"),
    ):
        with pytest.raises(FormatError, match=message):
            choose_bodies(recorded(scene), "denoised")


# ---- energy ----


def test_energy_never_sees_a_fifth_body_and_orders_the_rest() -> None:
    rng = np.random.default_rng(12)
    bodies = [body(rng, 20, sway=sway) for sway in (0.1, 3, 0.5, 2, 50, 90)]
    scene = scene_of(20, *((i, range(20), shown) for i, shown in enumerate(bodies)))
    check(scene, "energy", zip(bodies[1], bodies[3], strict=True))
    places = [3, 1, 0, 2]
    moved = [[frame[i] for i in places] for frame in scene]
    check(moved, "energy", zip(bodies[1], bodies[3], strict=True))


def test_energy_counts_frames_with_a_body_only() -> None:
    rng = np.random.default_rng(13)
    steady, sometimes = body(rng, 20, sway=0.5), body(rng, 3, sway=0.01)
    distant = [(pose + 50, states) for pose, states in sometimes]
    scene = scene_of(20, (1, range(20), steady), (2, range(3), distant))
    frames, _ = choose_bodies(recorded(scene), "energy")
    np.testing.assert_array_equal(frames[0], np.array([pose for pose, _ in steady], np.float32))


def test_energy_passes_over_bodies_of_zeros() -> None:
    rng = np.random.default_rng(18)
    steady = body(rng, 20, sway=0.5)
    hidden = [
        (pose + 20 if t == 4 else np.zeros((25, 3)), TRACKED) for t, (pose, _) in enumerate(body(rng, 20, sway=0))
    ]
    scene = scene_of(20, (1, range(20), hidden), (2, range(20), steady))
    check(scene, "energy", zip(steady, hidden, strict=True))


@pytest.mark.parametrize("rule", sorted(BODY_RULES))
def test_coordinates_that_are_not_finite_are_kept_and_decide_nothing(rule: str) -> None:
    rng = np.random.default_rng(14)
    lively, calm = body(rng, 30, sway=2), body(rng, 30, sway=0.1)
    scene = scene_of(30, (1, range(30), lively), (2, range(30), calm))
    expected, _ = choose_bodies(recorded(scene), rule)
    broken = [[(number, pose.copy(), states) for number, pose, states in frame] for frame in scene]
    broken[3][1][1][7] = np.nan, np.inf, -np.inf
    broken[9][0][1][:] = np.nan
    frames, _ = choose_bodies(recorded(broken), rule)
    finite = np.isfinite(frames)
    assert (~finite).sum() == 3 + 75
    np.testing.assert_array_equal(frames[finite], expected[finite])


def test_frames_that_are_not_finite_count_as_too_wide() -> None:
    rng = np.random.default_rng(19)
    main, broken = body(rng, 20, sway=1), body(rng, 20)
    for pose, _ in broken[:14]:
        pose[3, 2] = np.nan
    check(scene_of(20, (1, range(20), main), (2, range(20), broken)), "denoised", [(pose, None) for pose in main])


@pytest.mark.parametrize("rule", sorted(BODY_RULES))
def test_coordinates_as_large_as_float32_allows(rule: str) -> None:
    largest = np.finfo(np.float32).max
    huge = [(np.where(t % 2 < UPRIGHT, largest, -largest), TRACKED) for t in range(20)]
    scene = scene_of(20, (1, range(20), huge), (2, range(20), body(np.random.default_rng(15), 20)))
    frames, _ = choose_bodies(recorded(scene), rule)
    assert np.isfinite(frames).all()
