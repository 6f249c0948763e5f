import itertools

import numpy as np
import pytest
import torch
from contract import (
    assert_bitwise,
    assert_gradients_match,
    assert_within_budget,
    check_compiles,
    check_forked,
    check_forward_mode_refused,
    check_map_layouts,
    check_threads_bitwise,
    gradients,
    guarded_outputs,
    implementations,
    instruction_set,
    instruction_sets,
    opcheck,
    pairwise,
    variants,
)

from asma_fast import View
from asma_fast.ops import gather_view

IMPLEMENTATIONS = implementations()
SHAPES = pairwise(N=(1, 3), C=(1, 2, 3, 4, 17), T=(1, 2, 7, 50), V=(1, 3, 17, 25, 33), M=(1, 2), rows=(1, None))


def _case(shape, dtype=np.float32):
    """A clip and a view of it that reads some frames twice and others never, and turns the first coordinates."""
    n, c, t, v, m = (shape[axis] for axis in "NCTVM")
    rng = np.random.default_rng(sum(shape[axis] * 31**i for i, axis in enumerate("NCTVM")))
    rows, dims = shape.get("rows") or n, min(c, 3)
    view = View(
        frames=rng.integers(0, t, (rows, t + 2)).astype(np.int32),
        joints=rng.integers(0, v, (rows, max(1, v - 1))).astype(np.int32),
        transform=rng.standard_normal((rows, dims, dims)).astype(dtype) if dims > 1 else None,
    )
    return rng.standard_normal((n, c, t, v, m)).astype(dtype), view


def _expected(x, view):
    """The definition, index by index, in float64."""
    x = x.astype(np.float64)
    n, c, t, v, _ = x.shape
    rows = lambda array, i: array[0 if len(array) == 1 else i]  # noqa: E731
    out = []
    for i in range(n):
        frames = range(t) if view.frames is None else rows(view.frames, i)
        joints = range(v) if view.joints is None else rows(view.joints, i)
        matrix = np.eye(c)
        if view.transform is not None:
            turned = rows(view.transform, i)
            matrix[: len(turned), : len(turned)] = turned
        picked = x[i][:, list(frames)][:, :, list(joints)]
        out.append(np.einsum("ec,ctvm->etvm", matrix, picked))
    return np.stack(out)


def _tensors(view):
    return View(*(None if a is None else torch.from_numpy(a) for a in view.arrays()))


@pytest.mark.parametrize("isa", instruction_sets())
def test_every_size_on_every_instruction_set(isa):
    for shape in SHAPES:
        x, view = _case(shape)
        with instruction_set(isa), guarded_outputs():
            result = gather_view(x, view, impl="cpu")
        assert_within_budget(result, _expected(x, view), gather_view(x, view, impl="reference"), what=str(shape))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_layout_and_kind(impl, dtype):
    x, view = _case({"N": 2, "C": 4, "T": 5, "V": 3, "M": 2}, dtype)
    expected = _expected(x, view)
    for name, value in variants(x):
        result = gather_view(value, view, impl=impl)
        assert isinstance(result, type(value)), name
        np.testing.assert_allclose(np.asarray(result), expected, rtol=1e-5, atol=1e-5, err_msg=name)
        assert (
            result.transpose(0, 4, 2, 3, 1).flags.c_contiguous
            if isinstance(result, np.ndarray)
            else (result.permute(0, 4, 2, 3, 1).is_contiguous())
        )


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_a_view_of_indices_alone_copies_bits(impl):
    x, full = _case({"N": 2, "C": 3, "T": 6, "V": 5, "M": 2})
    x[0, :, 2] = np.nan
    for frames, joints in itertools.product((None, full.frames), (None, full.joints)):
        view = View(frames=frames, joints=joints)
        expected = _expected(x, view).astype(np.float32)
        np.testing.assert_array_equal(gather_view(x, view, impl=impl), expected)


def test_views_compose_as_their_gathers_do():
    x, first = _case({"N": 3, "C": 3, "T": 8, "V": 7, "M": 1}, np.float64)
    _, second = _case({"N": 3, "C": 3, "T": 10, "V": 6, "M": 1}, np.float64)
    twice = gather_view(gather_view(x, first), second)
    np.testing.assert_allclose(gather_view(x, first.then(second)), twice, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_empty_clips(impl):
    nothing = np.zeros((0, 3, 4, 5, 2), np.float32)
    assert gather_view(nothing, View(frames=np.zeros((1, 2), np.int32)), impl=impl).shape == (0, 3, 2, 5, 2)
    x = np.ones((2, 3, 4, 5, 1), np.float32)
    assert gather_view(x, View(joints=np.zeros((2, 0), np.int32)), impl=impl).shape == (2, 3, 4, 0, 1)


def test_gradients_are_those_of_the_definition():
    x, view = _case({"N": 2, "C": 4, "T": 6, "V": 5, "M": 2})
    tensors, view = {"x": torch.from_numpy(x)}, _tensors(view)
    for isa in instruction_sets():
        with instruction_set(isa), guarded_outputs():
            result = gradients(lambda x: gather_view(x, view, impl="cpu"), tensors)
        reference, exact = (
            gradients(lambda x: gather_view(x, view, impl="reference"), tensors, dtype)
            for dtype in (torch.float32, torch.float64)
        )
        assert_gradients_match(result, exact, reference)
    unread = sorted(set(range(6)) - set(view.frames[0].tolist()))
    assert unread
    assert (result["x"][0, :, unread] == 0).all()


def test_gradcheck_through_our_kernels():
    x, view = _case({"N": 2, "C": 4, "T": 3, "V": 3, "M": 2}, np.float64)
    view = _tensors(view)
    leaf = torch.from_numpy(x).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: gather_view(x, view, impl="cpu"), (leaf,))


def test_the_transform_has_no_gradient():
    x, view = _case({"N": 2, "C": 3, "T": 3, "V": 3, "M": 1})
    matrix = torch.from_numpy(view.transform).requires_grad_()
    assert not gather_view(torch.from_numpy(x), View(transform=matrix)).requires_grad


def test_threads_and_forks_do_not_matter():
    x, view = _case({"N": 7, "C": 3, "T": 50, "V": 25, "M": 2})
    x, view = torch.from_numpy(x), _tensors(view)

    def both():
        return gather_view(x, view), gradients(lambda x: gather_view(x, view), {"x": x})["x"]

    check_threads_bitwise(both)
    check_forked(lambda: gather_view(x, view))


def test_torch_contract():
    x, view = _case({"N": 2, "C": 4, "T": 6, "V": 5, "M": 2})
    arguments = (view.frames, view.joints, view.transform)
    frames, joints, transform = (torch.from_numpy(a) for a in arguments)
    for grad in (False, True):
        leaf = torch.from_numpy(x).requires_grad_(grad)
        opcheck("gather_view", leaf, frames, joints, transform)
        opcheck("gather_view", leaf, None, None, None)
    g = gather_view(torch.from_numpy(x), _tensors(view))
    opcheck("gather_view_backward", g, frames, joints, transform, 6, 5)


def test_compiles_once_for_all_shapes():
    batches = []
    for n, t, v in ((4, 5, 9), (6, 10, 13)):
        x, view = _case({"N": n, "C": 3, "T": t, "V": v, "M": 2})
        batches.append(
            (torch.from_numpy(x), *(torch.from_numpy(a) for a in (view.frames, view.joints, view.transform)))
        )
    for impl in ("cpu", "auto", "reference"):
        check_compiles(
            lambda x, frames, joints, transform, impl=impl: gather_view(
                x, View(frames=frames, joints=joints, transform=transform), impl=impl
            ),
            batches,
        )


def test_autocast_computes_in_float32():
    x, view = _case({"N": 2, "C": 3, "T": 5, "V": 4, "M": 1})
    half = torch.from_numpy(x).bfloat16()
    assert gather_view(half, View(frames=view.frames)).dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = gather_view(half, View(frames=view.frames), impl="cpu")
    assert result.dtype == torch.float32
    assert_bitwise(result, gather_view(half.float(), View(frames=view.frames)))


def _int(rows, columns, value=0):
    return np.full((rows, columns), value, np.int32)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("value", [-1, 4, 2**31 - 1])
@pytest.mark.parametrize("field", ["frames", "joints"])
def test_an_index_outside_the_clip_is_an_error(impl, kind, value, field):
    x = np.zeros((2, 3, 4, 4, 1), np.float32)
    index = _int(2, 3)
    index[1, 2] = value
    view = View(**{field: index})
    with pytest.raises(ValueError, match=rf"view\.{field} must lie in \[0, "):
        gather_view(x if kind == "numpy" else torch.from_numpy(x), view, impl=impl)


X = np.zeros((2, 3, 4, 5, 1), np.float32)


@pytest.mark.parametrize(
    ("x", "view", "error", "message"),
    [
        (X[0], View(), ValueError, r"x must have shape \(N, C, T, V, M\), got \(3, 4, 5, 1\)"),
        (X.astype(np.int32), View(), TypeError, "x must be float32 or float64 or float16 or bfloat16, got int32"),
        (X.tolist(), View(), TypeError, "x must be a NumPy array or a torch tensor, got list"),
        (X, None, TypeError, "view must be a View, got NoneType"),
        (X, View(frames=_int(3, 2)), ValueError, r"view.frames must have shape \(N=2, positions\) or"),
        (X, View(joints=_int(3, 2)), ValueError, r"view.joints must have shape \(N=2, positions\) or"),
        (X, View(transform=np.zeros((3, 3, 3))), ValueError, "view.transform must have shape"),
        (X[:, :2], View(transform=np.zeros((1, 3, 3))), ValueError, "acts on 3 channels, but x has 2"),
        (X, View(frames=torch.zeros(1, 2, dtype=torch.int32)), TypeError, "view.frames must be a NumPy array as x is"),
    ],
)
def test_bad_input(x, view, error, message):
    with pytest.raises(error, match=message):
        gather_view(x, view)


def test_choices_that_cannot_run_say_why():
    x = torch.zeros(1, 3, 4, 5, 1)
    with pytest.raises(RuntimeError, match="impl='cuda' cannot run: "):
        gather_view(x, View(), impl="cuda")
    with pytest.raises(ValueError, match="impl must be one of auto, reference, numba, cpu, cuda, triton; got 'gpu'"):
        gather_view(x, View(), impl="gpu")
    with pytest.raises(ValueError, match="takes CPU tensors, got one on meta"):
        gather_view(x.to("meta"), View(), impl="cpu")
    with pytest.raises(TypeError, match="impl='cpu' takes float32 or float64, got float16"):
        gather_view(x.numpy().astype(np.float16), View(), impl="cpu")
    with pytest.raises(ValueError, match="refuses inputs that require grad"):
        gather_view(x.requires_grad_(), View(), impl="numba")


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_maps_of_every_layout_give_the_same_bits(impl):
    x, view = _case({"N": 3, "C": 3, "T": 7, "V": 5, "M": 2})
    check_map_layouts(lambda x, view: gather_view(x, view, impl=impl), x, view)


def test_forward_mode_is_an_error():
    check_forward_mode_refused(lambda x: gather_view(x, View(), impl="cpu"), torch.ones(1, 3, 4, 5, 1))
