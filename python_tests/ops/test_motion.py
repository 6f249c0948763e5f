import numpy as np
import pytest
import torch
from contract import (
    assert_bitwise,
    assert_within_budget,
    check_compiles,
    check_forked,
    check_map_layouts,
    check_threads_bitwise,
    guarded_outputs,
    implementations,
    instruction_set,
    instruction_sets,
    native_array,
    opcheck,
    pairwise,
    to_tensors,
    variants,
)

from asma_fast import View
from asma_fast._backends import native
from asma_fast.ops import frame_and_joint_motion, frame_motion, gather_view, joint_motion

IMPLEMENTATIONS = implementations()
OPS = [frame_motion, joint_motion]
SHAPES = pairwise(
    N=(1, 3), C=(1, 2, 3, 4, 5), T=(1, 2, 7, 50), V=(1, 3, 17, 25), M=(1, 2), dims=(0, 2, 3), maps=(True, False)
)


def _case(shape, dtype=np.float32):
    n, c, t, v, m = (shape[axis] for axis in "NCTVM")
    rng = np.random.default_rng(sum(shape[axis] * 31**i for i, axis in enumerate("NCTVM")))
    dims = shape.get("dims", 3)
    fits = dims and dims <= c
    maps = shape.get("maps", True)
    view = View(
        frames=rng.integers(0, t, (n, t + 1)).astype(np.int32) if maps else None,
        joints=rng.integers(0, v, (1, v)).astype(np.int32) if maps else None,
        transform=rng.standard_normal((n, dims, dims)).astype(dtype) if fits else None,
    )
    return rng.standard_normal((n, c, t, v, m)).astype(dtype), view


def _expected(op, x, view, last="replicate"):
    """The definition: materialise the view, in the dtype of ``view``'s promotion, and average."""
    y = np.asarray(gather_view(x, view, impl="reference"))
    squares = np.diff(y, axis=2) ** 2
    if op is joint_motion:
        return squares.mean(axis=(1, 2, 4)) if y.shape[2] > 1 else np.zeros((len(y), y.shape[3]), y.dtype)
    scores = squares.mean(axis=(1, 3, 4))
    if y.shape[2] == 1:
        return np.zeros((len(y), 1), y.dtype)
    return np.concatenate([scores, scores[:, -1:] if last == "replicate" else 0 * scores[:, -1:]], axis=1)


def _double(view):
    return View(*(None if a is None else a.astype(np.float64) if a.dtype.kind == "f" else a for a in view.arrays()))


@pytest.mark.parametrize("op", OPS)
def test_bits_do_not_depend_on_implementation_or_instruction_set(op):
    for shape in SHAPES:
        x, view = _case(shape)
        expected = op(x, view=view, impl="reference")
        assert expected.dtype == np.float32
        budget = _expected(op, x, view), _expected(op, x.astype(np.float64), _double(view))
        assert_within_budget(expected, budget[1], budget[0], what=str(shape))
        assert_bitwise(op(x, view=view, impl="numba"), expected, what=f"numba {shape}")
        for isa in instruction_sets():
            with instruction_set(isa), guarded_outputs():
                result = op(x, view=view, impl="cpu")
            assert_bitwise(result, expected, what=f"{isa} {shape}")


def test_one_pass_gives_the_bits_of_the_two_ops():
    for shape in SHAPES:
        x, view = _case(shape)
        for last in ("replicate", "zero"):
            expected = frame_motion(x, view=view, last=last), joint_motion(x, view=view)
            for impl in ("reference", "numba"):
                result = frame_and_joint_motion(x, view=view, last=last, impl=impl)
                assert_bitwise(result, expected, what=f"{impl} {shape}")
            for isa in instruction_sets():
                with instruction_set(isa), guarded_outputs():
                    result = frame_and_joint_motion(x, view=view, last=last, impl="cpu")
                assert_bitwise(result, expected, what=f"{isa} {shape}")
    tensors = frame_and_joint_motion(torch.from_numpy(x))
    assert all(isinstance(scores, torch.Tensor) for scores in tensors)
    assert_bitwise(tensors, frame_and_joint_motion(x))


@pytest.mark.parametrize("isa", instruction_sets())
@pytest.mark.parametrize("last", ["replicate", "zero"])
@pytest.mark.parametrize(("frames", "joints"), [(64, 64), (65, 65), (129, 130), (3, 133)])
def test_clips_longer_than_a_piece_of_work_give_the_same_bits(isa, last, frames, joints):
    x, _ = _case({"N": 2, "C": 3, "T": frames, "V": joints, "M": 1})
    expected = frame_and_joint_motion(x, last=last, impl="reference")
    with instruction_set(isa), guarded_outputs():
        assert_bitwise((frame_motion(x, last=last), joint_motion(x)), expected)
        assert_bitwise(frame_and_joint_motion(x, last=last), expected)


def test_a_long_clip_of_few_joints_sums_in_the_stated_order():
    """The rule in Python's own floats, for numbers whose sum depends on the order."""
    rng = np.random.default_rng(5)
    x = (rng.standard_normal((1, 1, 3, 21, 2)) * 10.0 ** rng.integers(-9, 9, (1, 1, 3, 21, 2))).astype(np.float32)
    d = np.diff(x, axis=2).astype(np.float64)[0, 0]
    frames = []
    for step in range(2):
        s = [0.0] * 8
        for m in range(2):
            for v in range(21):
                s[v % 8] += float(d[step, v, m]) ** 2
        total = ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))
        frames.append(np.float32(total / 42))
    joints = []
    for v in range(21):
        total = 0.0
        for m in range(2):
            for step in range(2):
                total += float(d[step, v, m]) ** 2
        joints.append(np.float32(total / 4))
    for impl in IMPLEMENTATIONS:
        by_frame, by_joint = frame_and_joint_motion(x, last="zero", impl=impl)
        assert by_frame[0].tolist() == [*frames, 0.0]
        assert by_joint[0].tolist() == joints


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_layout_and_kind_gives_the_same_bits(op, dtype):
    for channels in (2, 3, 4):
        x, view = _case({"N": 2, "C": channels, "T": 6, "V": 5, "M": 2, "dims": min(channels, 3)}, dtype)
        expected = op(x, view=view, impl="reference")
        for name, value in variants(x):
            for impl in IMPLEMENTATIONS:
                result = op(value, view=view, impl=impl)
                assert isinstance(result, type(value)), name
                assert_bitwise(result, expected, what=f"{impl} {name}")


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_a_single_body_may_lack_its_axis(op, impl):
    x, _ = _case({"N": 2, "C": 3, "T": 6, "V": 5, "M": 1})
    assert_bitwise(op(x[..., 0], impl=impl), op(x, impl=impl))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_the_last_frame_repeats_or_is_zero(impl):
    x, view = _case({"N": 2, "C": 3, "T": 6, "V": 5, "M": 2})
    replicate, zero = (frame_motion(x, view=view, last=last, impl=impl) for last in ("replicate", "zero"))
    assert_bitwise(replicate[:, :-1], zero[:, :-1])
    assert (replicate[:, -1] == replicate[:, -2]).all()
    assert (zero[:, -1] == 0).all()
    still = frame_motion(x[:, :, :1], last="replicate", impl=impl)
    assert_bitwise(still, np.zeros((2, 1), np.float32))
    assert_bitwise(joint_motion(x[:, :, :1], impl=impl), np.zeros((2, 5), np.float32))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_a_rotation_leaves_motion_and_a_flip_permutes_it(impl):
    x, _ = _case({"N": 2, "C": 3, "T": 9, "V": 7, "M": 2}, np.float64)
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((2, 3, 3)))[0]
    np.testing.assert_allclose(
        frame_motion(x, view=View(transform=turn), impl=impl), frame_motion(x, impl=impl), rtol=1e-6
    )
    order = np.array([[6, 5, 4, 3, 2, 1, 0]], np.int32)
    assert_bitwise(joint_motion(x, view=View(joints=order), impl=impl), joint_motion(x, impl=impl)[:, ::-1].copy())
    assert_bitwise(frame_motion(x, view=View(transform=np.eye(3)[None]), impl=impl), frame_motion(x, impl=impl))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_known_values(impl):
    x = np.array([[0, 5], [1, 5], [3, 5]], np.float32).reshape(1, 1, 3, 2)
    assert frame_motion(x, impl=impl).tolist() == [[0.5, 2.0, 2.0]]
    assert joint_motion(x, impl=impl).tolist() == [[2.5, 0.0]]


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_nan_stays_where_it_is(impl):
    x, _ = _case({"N": 2, "C": 3, "T": 6, "V": 5, "M": 2})
    x[0, 1, 2, 3, 1] = np.nan
    np.testing.assert_array_equal(np.argwhere(np.isnan(frame_motion(x, impl=impl))), [[0, 1], [0, 2]])
    np.testing.assert_array_equal(np.argwhere(np.isnan(joint_motion(x, impl=impl))), [[0, 3]])


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_empty_clips(impl):
    assert frame_motion(np.zeros((0, 3, 4, 5, 2), np.float32), impl=impl).shape == (0, 4)
    assert joint_motion(np.zeros((0, 3, 4, 5, 2), np.float32), impl=impl).shape == (0, 5)
    assert frame_motion(np.zeros((2, 3, 0, 5, 1), np.float32), impl=impl).shape == (2, 0)
    nothing = View(joints=np.zeros((1, 0), np.int32))
    assert frame_motion(np.ones((2, 3, 4, 5, 1), np.float32), view=nothing, impl=impl).tolist() == [[0.0] * 4] * 2


def test_threads_and_forks_do_not_matter():
    x, view = _case({"N": 9, "C": 3, "T": 50, "V": 25, "M": 2})

    def both():
        return frame_motion(x, view=view), joint_motion(x, view=view)

    check_threads_bitwise(both)
    check_forked(both)


def test_torch_contract():
    x, view = _case({"N": 2, "C": 4, "T": 6, "V": 5, "M": 2})
    frames, joints, transform = (torch.from_numpy(a) for a in (view.frames, view.joints, view.transform))
    x = torch.from_numpy(x)
    for replicate in (False, True):
        opcheck("frame_motion", x, frames, joints, transform, replicate)
    opcheck("joint_motion", x, frames, joints, transform)
    opcheck("joint_motion", x, None, None, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_bitwise(frame_motion(x.bfloat16(), impl="cpu"), frame_motion(x.bfloat16().float()))
    assert_bitwise(frame_motion(x.bfloat16()), frame_motion(x.bfloat16().float()))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("impl", ["cpu", "reference"])
def test_scores_are_not_differentiable(op, impl):
    x, view = _case({"N": 2, "C": 3, "T": 6, "V": 5, "M": 2})
    view = View(transform=torch.from_numpy(view.transform).requires_grad_())
    assert not op(torch.from_numpy(x).requires_grad_(), view=view, impl=impl).requires_grad


@pytest.mark.parametrize("op", OPS)
def test_compiles_once_for_all_shapes(op):
    batches = []
    for n, t, v in ((4, 6, 9), (5, 11, 13)):
        x, view = _case({"N": n, "C": 3, "T": t, "V": v, "M": 2})
        batches.append([torch.from_numpy(a) for a in (x, view.frames, view.joints, view.transform)])
    check_compiles(lambda x, f, j, s: op(x, view=View(frames=f, joints=j, transform=s)), batches)


X = np.zeros((2, 3, 4, 5, 1), np.float32)


@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        (X[0, 0], {}, ValueError, r"x must have shape \(N, C, T, V, M\) or \(N, C, T, V\), got \(4, 5, 1\)"),
        (X.astype(np.int32), {}, TypeError, "x must be float32 or float64 or .*, got int32"),
        (X.tolist(), {}, TypeError, "x must be a NumPy array or a torch tensor, got list"),
        (X, {"last": "mean"}, ValueError, "last must be 'replicate' or 'zero', got 'mean'"),
        (X, {"view": 3}, TypeError, "view must be a View, got int"),
        (X, {"view": View(frames=np.full((2, 2), 4, np.int32))}, ValueError, r"view.frames must lie in \[0, 4\)"),
        (X, {"view": View(joints=np.full((2, 2), -1, np.int32))}, ValueError, r"view.joints must lie in \[0, 5\)"),
        (X, {"view": View(frames=np.zeros((3, 2), np.int32))}, ValueError, "view.frames must have shape"),
    ],
)
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_bad_input(x, options, error, message, impl):
    with pytest.raises(error, match=message):
        frame_motion(x, **options, impl=impl)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_maps_of_every_layout_give_the_same_bits(op, impl):
    x, view = _case({"N": 3, "C": 3, "T": 6, "V": 5, "M": 2})
    check_map_layouts(lambda x, view: op(x, view=view, impl=impl), x, view)


def test_the_registered_ops_take_clips_with_bodies_only():
    with pytest.raises(ValueError, match=r"x must have shape \(N, C, T, V, M\), got \(2, 3, 4, 5\)"):
        torch.ops.asma_fast.joint_motion(torch.zeros(2, 3, 4, 5), None, None, None)


def test_the_op_of_both_scores_is_checked_as_the_others_are():
    x, view = _case({"N": 2, "C": 3, "T": 6, "V": 5, "M": 2})
    opcheck("frame_and_joint_motion", *to_tensors(x, view.frames, view.joints, view.transform), True)
    x = torch.from_numpy(x).repeat(40, 1, 1, 1, 1)
    check_threads_bitwise(lambda: frame_and_joint_motion(x))
    with pytest.raises(ValueError, match="last must be 'replicate' or 'zero', got 'mean'"):
        frame_and_joint_motion(x, last="mean")
    with pytest.raises(ValueError, match=r"x must have shape \(N, C, T, V, M\) or"):
        frame_and_joint_motion(x[0, 0])


@pytest.mark.parametrize("name", ["frame_motion", "joint_motion"])
def test_the_native_entries_refuse_outputs_of_other_sizes(name):
    x, out = native_array(X), native_array(np.zeros((2, 7), np.float32))
    with pytest.raises(ValueError, match="out does not have the sizes"):
        getattr(native(), name)(x, None, None, None, *([True] if name == "frame_motion" else []), out)
