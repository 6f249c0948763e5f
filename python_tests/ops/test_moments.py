import numpy as np
import pytest
import torch
from contract import (
    ODD_SIZES,
    assert_bitwise,
    check_compiles,
    check_forked,
    check_threads_bitwise,
    guarded_outputs,
    implementations,
    instruction_set,
    instruction_sets,
    native_array,
    opcheck,
    pairwise,
    variants,
)

from asma_fast import View
from asma_fast._backends import native
from asma_fast.ops import gather_view, moments

IMPLEMENTATIONS = implementations()
SHAPES = pairwise(C=(1, 2, 3, 4, 7), T=ODD_SIZES["T"], V=ODD_SIZES["V"], M=(1, 2), frames=("all", "each", "one row"))


def _case(shape, dtype=np.float32, clips=3):
    """A clip, and frames of which some are repeated and some left out."""
    rng = np.random.default_rng([shape[axis] for axis in "CTVM"])
    x = rng.standard_normal((clips, shape["C"], shape["T"], shape["V"], shape["M"])) + 2
    rows = {"all": 0, "each": clips, "one row": 1}[shape.get("frames", "each")]
    frames = rng.integers(0, shape["T"], (rows, shape["T"] + 2)).astype(np.int32) if rows else None
    return x.astype(dtype), frames


def _expected(x, frames):
    """The definition, of the materialised view."""
    wide = x.astype(np.float64)
    if frames is not None:
        wide = gather_view(wide, View(frames=frames), impl="reference")
    return np.einsum("nctvm->nvc", wide), np.einsum("nctvm,ndtvm->nvcd", wide, wide)


def _assert_close(result, expected, what=""):
    for got, wanted in zip(result, expected, strict=True):
        got = np.asarray(got)
        assert got.dtype == np.float64, what
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12 * max(1, np.abs(wanted).max()), err_msg=what)


SMALL = {"C": 3, "T": 7, "V": 5, "M": 2}


@pytest.mark.parametrize("isa", instruction_sets())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_size_on_every_instruction_set(isa, dtype):
    for shape in SHAPES:
        x, frames = _case(shape, dtype)
        with instruction_set(isa), guarded_outputs():
            result = moments(x, frames, impl="cpu")
        _assert_close(result, _expected(x, frames), str(shape))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("frames", ["all", "each", "one row"])
def test_every_layout_and_kind(impl, frames):
    x, frames = _case({**SMALL, "frames": frames})
    expected = _expected(x, frames)
    for name, value in variants(x):
        index = torch.from_numpy(frames) if torch.is_tensor(value) and frames is not None else frames
        result = moments(value, index, impl=impl)
        assert all(isinstance(part, type(value)) for part in result), name
        _assert_close(result, expected, name)
    if frames is not None:
        for name, index in variants(frames):
            if isinstance(index, np.ndarray):
                assert_bitwise(moments(x, index, impl=impl), moments(x, frames, impl=impl), what=name)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_frames_that_are_not_kept_play_no_part(impl):
    x, _ = _case(SMALL)
    frames = np.array([[5, 1, 1, 2]], np.int32)
    clean = moments(x, frames, impl=impl)
    x[:, :, [0, 3, 4, 6]] = np.nan
    assert_bitwise(moments(x, frames, impl=impl), clean)
    x[1, 0, 5, 2, 1] = np.nan
    first, second = moments(x, frames, impl=impl)
    assert np.argwhere(np.isnan(first)).tolist() == [[1, 2, 0]]
    assert np.isnan(second[1, 2, 0]).all()
    assert np.isnan(second).sum() == 2 * SMALL["C"] - 1


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_no_frames_no_bodies_no_clips(impl):
    x, _ = _case(SMALL)
    for empty, frames in (
        (x[:, :, :0], None),
        (x[..., :0], None),
        (x, np.zeros((1, 0), np.int32)),
    ):
        first, second = moments(empty, frames, impl=impl)
        assert_bitwise(first, np.zeros((3, 5, 3)))
        assert_bitwise(second, np.zeros((3, 5, 3, 3)))
    assert moments(x[:0], impl=impl)[1].shape == (0, 5, 3, 3)
    assert moments(x[:, :0], impl=impl)[0].shape == (3, 5, 0)
    assert moments(x[:, :, :, :0], impl=impl)[0].shape == (3, 0, 3)


def test_a_small_variance_on_a_large_mean_keeps_its_digits():
    x, _ = _case({**SMALL, "T": 300})
    x = x + np.float32(1000)
    first, second = moments(x, impl="cpu")
    count = x.shape[2] * x.shape[4]
    variance = second.diagonal(axis1=2, axis2=3) / count - (first / count) ** 2
    np.testing.assert_allclose(variance, x.astype(np.float64).var(axis=(2, 4)).transpose(0, 2, 1), rtol=1e-7)


def test_the_reference_is_differentiable_and_the_kernel_says_that_it_is_not():
    x, frames = _case(SMALL, np.float64)
    leaf, index = torch.from_numpy(x).requires_grad_(), torch.from_numpy(frames)
    assert torch.autograd.gradcheck(lambda x: moments(x, index, impl="reference"), (leaf,))
    assert not any(part.requires_grad for part in moments(leaf, index, impl="cpu"))


def test_torch_contract():
    batches = []
    for clips, shape in ((4, {"C": 3, "T": 9, "V": 5, "M": 2}), (6, {"C": 3, "T": 7, "V": 8, "M": 2})):
        x, frames = _case(shape, clips=clips)
        batches.append((torch.from_numpy(x), torch.from_numpy(frames)))
    opcheck("moments", *batches[0])
    opcheck("moments", batches[0][0], None)
    check_compiles(moments, batches)
    check_threads_bitwise(lambda: moments(*batches[1]))
    check_forked(lambda: moments(*batches[0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float64(dtype):
    x, frames = _case(SMALL)
    halved = torch.from_numpy(x).to(dtype)
    result = moments(halved, torch.from_numpy(frames))
    _assert_close(result, _expected(halved.float().numpy(), frames))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("x", "frames", "error", "message"),
    [
        (np.zeros((2, 3, 4, 5), np.float32), None, ValueError, r"x must have shape \(N, C, T, V, M\).* got"),
        (np.zeros((2, 3, 4, 5, 1), np.int32), None, TypeError, "x must be .*float32.* got int32"),
        ([1.0], None, TypeError, "x must be a NumPy array or a torch tensor, got list"),
        (np.zeros((2, 3, 4, 5, 1)), np.zeros((3, 2), np.int32), ValueError, "view.frames must have shape .* got"),
        (np.zeros((2, 3, 4, 5, 1)), np.zeros((2, 2), np.int64), TypeError, "view.frames must be int32, got int64"),
        (np.zeros((2, 3, 4, 5, 1)), np.full((2, 2), 4, np.int32), ValueError, r"view.frames must lie in \[0, 4\)"),
        (np.zeros((2, 3, 4, 5, 1)), np.full((1, 2), -1, np.int32), ValueError, r"view.frames must lie in \[0, 4\)"),
    ],
)
def test_bad_input(impl, x, frames, error, message):
    with pytest.raises(error, match=message):
        moments(x, frames, impl=impl)


def test_the_native_entry_refuses_what_it_would_misread():
    x, frames = _case(SMALL)
    first, second = moments(x, frames)
    for change, message in (
        ({"x": x[0]}, "rank 5"),
        ({"frames": frames[:2].copy()}, "view.frames"),
        ({"frames": frames + 7}, r"view.frames must lie in \[0, 7\)"),
        ({"first": first[:, :4].copy()}, "first"),
        ({"first": first.transpose(0, 2, 1).copy().transpose(0, 2, 1)}, "first must be dense"),
        ({"second": second[..., :2].copy()}, "second"),
        ({"second": second[..., ::-1]}, "second must be dense"),
    ):
        arguments = {"x": x, "frames": frames, "first": first, "second": second} | change
        with pytest.raises(ValueError, match=message):
            native().moments(*(native_array(a) for a in arguments.values()))
