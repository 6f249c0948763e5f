"""Sessions: what torch's network says, on every instruction set; empty bodies, recordings, input that is refused."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from edge.networks import SEVEN, clips, file_of, logits_of, network
from ops.contract import assert_within_budget, instruction_set, instruction_sets, pairwise
from programs import program_output

from asma_fast import Skeleton
from asma_fast.data import Preprocessing
from asma_fast.edge import EdgeError, Session

KINDS = {
    "plain": {},
    "separable": {"separable": True, "taps": 3},
    "present": {"bodies": "present"},
    "strided-first": {"strides": (2, 1, 2, 1)},
    "wide": {"channels": (32, 64, 64, 96), "strides": (1, 1, 1, 2), "taps": 9},  # both kinds of Winograd
    "causal": {"causal": True, "strides": (2, 1, 2, 1)},
    "causal-wide": {"causal": True, "channels": (64, 64, 64), "strides": (1, 1, 2), "taps": 9, "separable": False},
    "uniform": {"partition": "uniform", "channels": (3,), "strides": (1,)},
}
CASES = pairwise(kind=tuple(KINDS), frames=(1, 2, 7, 50, 61), bodies=(1, 2, 3))


@pytest.mark.parametrize("isa", instruction_sets())
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['kind']}-{case['frames']}-{case['bodies']}")
def test_every_size_says_what_the_network_says(isa, case, tmp_path):
    model = network(**KINDS[case["kind"]])
    given = clips(3, case["bodies"], case["frames"])
    given[1, 0] = 0
    with instruction_set(isa):
        session = Session(file_of(tmp_path, model), max_clips=3, max_bodies=case["bodies"], max_frames=61)
        result = session.run(given, preprocessed=True)
    exact, reference = (logits_of(model, given, dtype) for dtype in (torch.float64, torch.float32))
    assert_within_budget(result, exact, reference, what="logits", times=4)


@pytest.mark.parametrize("name", Skeleton.names())
def test_every_layout(name, tmp_path):
    skeleton = Skeleton.named(name)
    model = network(skeleton, in_channels=skeleton.dimensions)
    given = clips(1, 2, 9, len(skeleton))[..., : skeleton.dimensions]
    result = Session(file_of(tmp_path, model)).run(np.ascontiguousarray(given), preprocessed=True)
    np.testing.assert_allclose(result, logits_of(model, given, torch.float64), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["plain", "wide"])
def test_threads_batches_and_calls_before_change_no_bit(kind, tmp_path):
    path = file_of(tmp_path, network(**KINDS[kind]))
    given = clips(5, 2, 50)
    given[3, 1] = 0
    alone = Session(path)
    wanted = np.concatenate([alone.run(clip[None], preprocessed=True) for clip in given])
    for threads in (1, 2, 5):
        session = Session(path, threads=threads, max_clips=5)
        session.run(clips(2, 1, 7, seed=1), preprocessed=True)
        for _ in range(2):
            np.testing.assert_array_equal(session.run(given, preprocessed=True), wanted)


@pytest.mark.parametrize("bodies", ["mean", "present"])
def test_an_empty_body_is_what_the_network_says_of_zeros(bodies, tmp_path):
    model = network(bodies=bodies)
    session = Session(file_of(tmp_path, model), max_clips=2, max_bodies=3)
    given = clips(2, 3, 12)
    given[0, 1:] = 0
    given[1] = 0
    result = session.run(given, preprocessed=True)
    np.testing.assert_allclose(result, logits_of(model, given, torch.float64), rtol=1e-5, atol=1e-6)
    if bodies == "present":
        np.testing.assert_array_equal(result[:1], session.run(given[:1, :1].copy(), preprocessed=True))


def test_a_frame_that_is_not_finite_is_a_missing_body_and_counted(tmp_path):
    session = Session(file_of(tmp_path, network()), max_clips=2)
    given, wanted = clips(1, 2, 9), clips(1, 2, 9)
    given[0, 0, 3, 2, 1] = np.nan
    given[0, 1, 5, 6, 0] = -np.inf
    wanted[0, 0, 3] = wanted[0, 1, 5] = 0
    np.testing.assert_array_equal(session.run(given, preprocessed=True), session.run(wanted, preprocessed=True))
    assert session.missing == 2
    given[:, 1] = np.nan
    wanted[:, 1] = 0
    np.testing.assert_array_equal(session.run(given, preprocessed=True), session.run(wanted, preprocessed=True))


@pytest.mark.parametrize("recipe", [name for name in Preprocessing.names() if name != "pose"])
def test_recordings_are_prepared_as_for_training(recipe, tmp_path):
    skeleton, rules = Skeleton.named("ntu-rgb+d"), Preprocessing.named(recipe)
    model = network(skeleton)
    session = Session(file_of(tmp_path, model, preprocessing=rules, bodies=2), max_bodies=3)
    recording = clips(1, 3, 71, 25)[0]
    wanted = np.ascontiguousarray(rules(recording, skeleton).transpose(3, 1, 2, 0)[None, :2])
    np.testing.assert_array_equal(session.run(recording[None]), session.run(wanted, preprocessed=True))
    # Of fewer bodies than in training the others are empty; a frame with a number that is not finite lacks its body.
    alone = np.concatenate([recording[:1], np.zeros_like(recording[:1])])
    np.testing.assert_array_equal(session.run(recording[None, :1]), session.run(alone[None]))
    damaged, missing = recording[:2].copy(), recording[:2].copy()
    damaged[1, 9, 3] = np.nan
    missing[1, 9] = 0
    np.testing.assert_array_equal(session.run(damaged[None]), session.run(missing[None]))
    assert session.missing == 1
    # In any memory order, aligned or not; two of them as each alone.
    turned = np.asfortranarray(recording)
    np.testing.assert_array_equal(session.run(turned[None]), session.run(recording[None]))
    shifted = np.frombuffer(b"." + recording.tobytes(), np.uint8)[1:].view(np.float32).reshape(recording.shape)
    np.testing.assert_array_equal(session.run(shifted[None]), session.run(recording[None]))
    both = session.run(np.stack([recording[:2], missing]))
    np.testing.assert_array_equal(both, np.concatenate([session.run(recording[None, :2]), session.run(missing[None])]))


def test_recordings_of_any_length_are_read_whole_where_the_recipe_says_so(tmp_path):
    skeleton, rules = Skeleton.named("ntu-rgb+d"), Preprocessing(None)
    session = Session(file_of(tmp_path, network(skeleton), preprocessing=rules), max_frames=40)
    given = clips(2, 2, 40, 25)
    given[1, :, 30:] = 0
    wanted = [rules(recording, skeleton).transpose(3, 1, 2, 0)[None] for recording in given]
    assert [clip.shape[2] for clip in wanted] == [40, 30]
    single = [session.run(np.ascontiguousarray(clip), preprocessed=True) for clip in wanted]
    np.testing.assert_array_equal(session.run(given), np.concatenate(single))
    with pytest.raises(EdgeError, match="clips of 40 frames and 2 bodies, got a recording that comes to 41 frames"):
        session.run(clips(1, 1, 41, 25))


@pytest.mark.parametrize("isa", instruction_sets())
def test_the_instruction_set_of_loading_stays(isa, tmp_path):
    given = clips(1, 2, 50)
    with instruction_set(isa):
        session = Session(file_of(tmp_path, network(**KINDS["wide"])))
        wanted = session.run(given, preprocessed=True)
    for other in instruction_sets():
        with instruction_set(other):
            np.testing.assert_array_equal(session.run(given, preprocessed=True), wanted)


def test_a_session_shares_anothers_weights_and_works_in_a_forked_child(tmp_path):
    first = Session(file_of(tmp_path, network()), max_frames=20)
    second = Session(first, threads=2, max_clips=3)
    given = clips(3, 2, 20)
    wanted = second.run(given, preprocessed=True)
    np.testing.assert_array_equal(wanted[:1], first.run(given[:1], preprocessed=True))
    code = """
        import os, sys
        import numpy as np
        from asma_fast.edge import Session
        session = Session(sys.argv[1], threads=2)
        given = np.ones((1, 2, 20, 7, 3), np.float32)
        wanted = session.run(given, preprocessed=True)
        if (child := os.fork()) == 0:
            os._exit(0 if np.array_equal(session.run(given, preprocessed=True), wanted) else 1)
        print(os.waitpid(child, 0)[1])
    """
    assert program_output(code, tmp_path / "model.safetensors", without=("torch",)) == "0"


def test_classify_tells_the_likeliest_classes(tmp_path):
    model = network()
    session = Session(file_of(tmp_path, model, class_names=["sit", "wave", "throw", "ünicode"]))
    clip = clips(1, 1, 20)
    chances = torch.softmax(torch.from_numpy(logits_of(model, clip, torch.float64)[0]), 0)
    order = chances.argsort(descending=True)
    found = session.classify(clip[0], top=3, preprocessed=True)
    assert [one.name for one in found] == [session.classes[k] for k in order[:3]]
    assert [one.probability for one in found] == pytest.approx([float(chances[k]) for k in order[:3]], rel=1e-4)
    assert sum(one.probability for one in session.classify(clip[0], top=9, preprocessed=True)) == pytest.approx(1)


def test_a_session_needs_no_torch(tmp_path):
    path = file_of(tmp_path, network(Skeleton.named("ntu-rgb+d")), preprocessing=Preprocessing.named("small"))
    code = """
        import sys
        import numpy as np
        from asma_fast.edge import Session
        session = Session(sys.argv[1])
        recording = np.random.default_rng(0).normal(size=(2, 40, 25, 3)).astype(np.float32)
        print(session.classify(recording, top=1)[0].name in session.classes, "torch" in sys.modules)
    """
    packages = ("torch", "triton", "safetensors", "scipy", "sklearn", "numba", "yaml")
    assert program_output(code, path, without=packages) == "True False"


def test_a_session_belongs_to_one_call_at_a_time(tmp_path):
    path = file_of(tmp_path, network(channels=(64, 64), strides=(1, 1), taps=9))
    session, given = Session(path, max_frames=300), clips(1, 2, 300)
    wanted, refused = session.run(given, preprocessed=True), []

    def calls() -> None:
        for _ in range(20):
            try:
                np.testing.assert_array_equal(session.run(given, preprocessed=True), wanted)
            except EdgeError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=calls) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(refused) == {"a session runs one call at a time: give each thread its own; sessions share their weights"}
    np.testing.assert_array_equal(session.run(given, preprocessed=True), wanted)


def test_no_clips_give_no_logits(tmp_path):
    session = Session(file_of(tmp_path, network()))
    assert session.run(clips(0, 1, 5), preprocessed=True).shape == (0, 4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (clips(1, 1, 5, 6), r"clips must have shape \(N, M, T, 7, 3\)"),
        (clips(1, 1, 5)[0], r"clips must have shape \(N, M, T, V, C\), got \(1, 5, 7, 3\)"),
        (clips(1, 1, 31), "from 1 to 30 frames, as the session was made for, got 31"),
        (clips(1, 1, 0), "from 1 to 30 frames, as the session was made for, got 0"),
        (clips(1, 0, 5), "clips must have at least one body"),
        (clips(3, 1, 5), "made for 2 bodies at once, got 3 clips of 1"),
        (clips(1, 3, 5), "made for 2 bodies at once, got 1 clips of 3"),
    ],
)
def test_clips_that_do_not_fit_are_refused(given, message, tmp_path):
    session = Session(file_of(tmp_path, network()), max_frames=30)
    with pytest.raises(EdgeError, match=message):
        session.run(given, preprocessed=True)


def test_other_input_is_refused(tmp_path):
    path = file_of(tmp_path, network())
    session = Session(path)
    with pytest.raises(TypeError, match="clips must be a float32 array, got float64"):
        session.run(clips(1, 1, 5).astype(np.float64), preprocessed=True)
    with pytest.raises(EdgeError, match="tells of no preprocessing: it reads clips that are preprocessed already"):
        session.run(clips(1, 1, 5))
    with pytest.raises(EdgeError, match="top must be at least 1, got 0"):
        session.classify(clips(1, 1, 5)[0], top=0, preprocessed=True)
    for options, message in (
        ({"max_clips": 0}, "max_clips must be at least 1, got 0"),
        ({"max_bodies": 0}, "max_bodies must be at least 1, got 0"),
        ({"max_frames": 0}, "max_frames must be from 1 to 1000000, got 0"),
        ({"threads": 0}, "threads must be from 1 to 256, got 0"),
        ({"max_clips": 900_000}, "at most 1000000 bodies at once, got 900000 clips of 2"),
        ({"max_clips": 90_000}, "MiB of working memory; ask for fewer or shorter clips"),
    ):
        with pytest.raises(EdgeError, match=message):
            Session(path, **options)
    with pytest.raises(EdgeError, match=r"other.safetensors: cannot be opened"):
        Session(Path(tmp_path, "other.safetensors"))
    raw = Session(file_of(tmp_path, network(SEVEN), preprocessing=Preprocessing(8, rotate="none")))
    with pytest.raises(EdgeError, match="must have a frame with a body in it"):
        raw.run(np.zeros((1, 1, 5, 7, 3), np.float32))
    for given in (clips(1, 1, 5, 6), clips(1, 1, 0), clips(1, 0, 5)):
        with pytest.raises(EdgeError, match=r"a recording must have shape \(M, T, 7, 3\)"):
            raw.run(given)
    torso = Session(file_of(tmp_path, network(Skeleton.named("common-15")), preprocessing=Preprocessing.named("small")))
    with pytest.raises(EdgeError, match="torso"):
        torso.run(np.ones((1, 1, 5, 15, 3), np.float32))
