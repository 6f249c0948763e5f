"""int8 networks: the same bits as NumPy's integers on every instruction set, close to the float32 network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from edge.int8_reference import Reference
from edge.networks import SEVEN, clips, file_of, int8_file, logits_of, network
from ops.contract import instruction_set, instruction_sets, pairwise

from asma_fast import Skeleton
from asma_fast.data import Preprocessing
from asma_fast.edge import EdgeError, Session, export

KINDS = {
    "plain": {},
    "separable": {"separable": True, "taps": 3},
    "one-tap": {"taps": 1, "channels": (4, 4, 16), "strides": (1, 1, 3)},
    "wide": {"channels": (32, 64, 64, 96), "strides": (1, 1, 1, 2), "taps": 9},
    "separable-strided": {"separable": True, "taps": 9, "channels": (20, 20, 36), "strides": (2, 1, 2)},
    "uniform": {"partition": "uniform", "channels": (3,), "strides": (1,)},
    "distance": {"partition": "distance", "channels": (7, 130), "strides": (1, 2), "taps": 3},
}
CASES = pairwise(
    kind=tuple(KINDS), frames=(1, 2, 7, 33, 50), joints=(1, 5, 15, 17, 25), bodies=(1, 2, 3), mean=("mean", "present")
)


def path_of(joints: int) -> Skeleton:
    """Joints in a row, but for the first, that many of them are wired to."""
    edges = tuple((max(0, joint - 1 - joint % 3), joint) for joint in range(1, joints))
    return (
        SEVEN if joints == 7 else Skeleton(edges=edges, centre=(0,), name="path", joints=tuple(map(str, range(joints))))
    )


@torch.no_grad()
def settled(model, given):
    """The model with the statistics of these clips ``(N, M, T, V, C)``: its activations vary as a trained one's do."""
    for module in model.modules():
        if hasattr(module, "running_var"):
            module.momentum = 1.0
    model.train()(torch.from_numpy(given).permute(0, 4, 2, 3, 1))
    return model.eval()


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_every_instruction_set_says_the_same_bits(case, tmp_path):
    skeleton = path_of(case["joints"])
    some = clips(3, 2, 20, len(skeleton), seed=1)
    model = settled(network(skeleton, **KINDS[case["kind"]], bodies=case["mean"]), some)
    path = int8_file(tmp_path, model, some)
    given = clips(3, case["bodies"], case["frames"], len(skeleton)) * np.float32([1, 3, 0.2])  # some codes saturate
    given[1, 0] = 0
    given[2] *= 100
    wanted = Reference(path).logits(given)
    for isa in instruction_sets(int8=True):
        with instruction_set(isa):
            for threads in (1, 2):
                session = Session(path, max_clips=3, max_bodies=case["bodies"], threads=threads, max_frames=50)
                np.testing.assert_array_equal(session.run(given, preprocessed=True), wanted, err_msg=isa)


@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_close_to_the_network(kind, tmp_path):
    given = clips(32, 2, 20)
    given[:, :, :, :, 0] += np.linspace(-2, 2, 32, dtype=np.float32)[:, None, None, None]  # so that clips differ
    model = settled(network(**KINDS[kind]), given)
    exact = logits_of(model, given, torch.float64)
    result = Session(int8_file(tmp_path, model, given), max_clips=32).run(given, preprocessed=True)
    spread = np.square(exact - exact.mean(axis=0)).mean()
    assert np.square(result - exact).mean() < 0.02 * spread, np.square(result - exact).mean() / spread


def test_numbers_beyond_all_range_say_the_same_bits(tmp_path):
    given = clips(3, 2, 9)
    path = int8_file(tmp_path, network(), given)
    with np.errstate(over="ignore"):
        given *= np.float32([1e30, 3e37, 3e38])[:, None, None, None, None]  # sums of these are infinite, or no number
    given = np.clip(given, -3.4e38, 3.4e38).astype(np.float32)
    found = []
    for isa in instruction_sets(int8=True):
        with instruction_set(isa):
            found.append(Session(path, max_clips=3).run(given, preprocessed=True))
    assert np.isfinite(found[0]).all()
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_batches_and_calls_before_change_no_bit(tmp_path):
    path = int8_file(tmp_path, network(), clips(4, 2, 50))
    given = clips(5, 2, 50)
    given[3, 1] = 0
    alone = Session(path)
    wanted = np.concatenate([alone.run(clip[None], preprocessed=True) for clip in given])
    session = Session(path, threads=5, max_clips=5)
    session.run(clips(2, 1, 7, seed=1), preprocessed=True)
    for _ in range(2):
        np.testing.assert_array_equal(session.run(given, preprocessed=True), wanted)


def test_the_instruction_set_of_loading_stays(tmp_path):
    path, given = int8_file(tmp_path, network(), clips(4, 2, 50)), clips(1, 2, 50)
    for isa in instruction_sets(int8=True):
        with instruction_set(isa):
            session = Session(path)
        np.testing.assert_array_equal(session.run(given, preprocessed=True), Reference(path).logits(given))


def test_recordings_and_streams_run_as_in_float32(tmp_path):
    skeleton = Skeleton.named("ntu-rgb+d")
    rules = Preprocessing.named("small")
    model, recording = network(skeleton, taps=3), clips(1, 2, 71, 25)[0]
    prepared = np.ascontiguousarray(rules(recording, skeleton).transpose(3, 1, 2, 0)[None])
    path = int8_file(tmp_path, model, prepared, preprocessing=rules, bodies=2)
    session = Session(path, max_frames=80)
    np.testing.assert_array_equal(session.run(recording[None]), Reference(path).logits(prepared))
    with session.stream(seconds=0.5, hop=5) as stream:
        answers = [stream.push(frame, t / 30) for t, frame in enumerate(recording.swapaxes(0, 1))]
    assert sum(answer is not None for answer in answers) > 5


def test_a_file_is_smaller(tmp_path):
    model = network(Skeleton.named("ntu-rgb+d"), channels=(16, 64, 256), strides=(1, 2, 2), taps=9)
    plain = file_of(tmp_path, model).stat().st_size
    assert int8_file(tmp_path, model, clips(2, 1, 20, 25)).stat().st_size < 0.3 * plain


def test_dead_channels_and_still_clips_are_exported(tmp_path):
    model = network()
    with torch.no_grad():
        model.encoder.blocks[1].norm1.weight[:] = 0
        model.encoder.blocks[1].norm1.bias[:] = -1  # all of the hidden map is zero
        model.encoder.blocks[2].temporal_conv.weight[2] = 0
    path = int8_file(tmp_path, model, np.ones((1, 1, 5, 7, 3), np.float32))
    given = clips(2, 2, 9)
    np.testing.assert_array_equal(
        Session(path, max_clips=2).run(given, preprocessed=True), Reference(path).logits(given)
    )


def test_what_cannot_be_quantised_is_refused(tmp_path):
    model, path = network(), tmp_path / "model.safetensors"
    good = torch.from_numpy(clips(2, 1, 9)).permute(0, 4, 2, 3, 1)
    for options, message in (
        ({"precision": "int4"}, "precision must be 'fp32' or 'int8', got 'int4'"),
        ({"precision": "int8"}, "precision 'int8' needs calibration clips"),
        ({"calibration": good}, "precision 'fp32' takes no calibration clips"),
        (
            {"precision": "int8", "calibration": good[:, :2]},
            r"calibration must have shape \(N, 3, T, 7, M\) and a clip, got \(2, 2, 9, 7, 1\)",
        ),
        ({"precision": "int8", "calibration": good[:0]}, r"and a clip, got \(0, 3, 9, 7, 1\)"),
        ({"precision": "int8", "calibration": good[0]}, r"got \(3, 9, 7, 1\)"),
        ({"precision": "int8", "calibration": good * torch.inf}, "calibration must be finite"),
        ({"precision": "int8", "calibration": good * 0}, "calibration must have a clip with a body in it"),
    ):
        with pytest.raises(ValueError, match=message):
            export(model, path, **options)
    with pytest.raises(TypeError, match="calibration must be an array or a tensor, got list"):
        export(model, path, precision="int8", calibration=[good])
    assert list(tmp_path.iterdir()) == []


def test_a_session_refuses_as_in_float32(tmp_path):
    session = Session(int8_file(tmp_path, network(), clips(1, 1, 9)), max_frames=30)
    with pytest.raises(EdgeError, match="from 1 to 30 frames, as the session was made for, got 31"):
        session.run(clips(1, 1, 31), preprocessed=True)
    with pytest.raises(EdgeError, match="MiB of working memory"):
        Session(int8_file(tmp_path, network(), clips(1, 1, 9)), max_clips=400_000)
