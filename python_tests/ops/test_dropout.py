import numpy as np
import pytest
import torch
from contract import (
    assert_bitwise,
    assert_gradients_match,
    check_compiles,
    check_forked,
    check_forward_mode_refused,
    check_threads_bitwise,
    gradients,
    guarded_outputs,
    implementations,
    instruction_set,
    instruction_sets,
    native_array,
    opcheck,
    pairwise,
    unaligned,
    variants,
)

from asma_fast._backends import native
from asma_fast.ops import dropout
from asma_fast.philox import Purpose, philox

IMPLEMENTATIONS = implementations()


def _expected(x, p, seed, block, ids):
    """The rule of the docstring, element by element."""
    b, c, t, v = x.shape
    rows, q = b // len(ids), round(p * 65536)
    out = np.zeros_like(x)
    for row in range(b):
        n, m = divmod(row, rows)
        channel, frame, joint = np.indices((c, t, v))
        i = ((m * t + frame) * v + joint) * c + channel
        words = philox(seed, ids[n], i >> 3, Purpose.DROPOUT + block)
        word = np.take_along_axis(words, ((i >> 1) & 3)[..., None], axis=-1)[..., 0]
        bits = np.where(i & 1, word >> 16, word & 0xFFFF)
        out[row] = np.where(bits < q, 0, x[row] * x.dtype.type(65536 / (65536 - q)))
    return out


@pytest.mark.parametrize("isa", instruction_sets())
def test_every_size_on_every_instruction_set(isa):
    rng = np.random.default_rng(0)
    for shape in pairwise(N=(1, 3), M=(1, 2), C=(1, 3, 16, 65), T=(1, 2, 7, 50), V=(1, 3, 17, 25), p=(0.5, 0.1, 0.99)):
        n, m, c, t, v, p = (shape[name] for name in ("N", "M", "C", "T", "V", "p"))
        x = rng.standard_normal((n * m, c, t, v)).astype(np.float32)
        ids = rng.integers(-(2**63), 2**63 - 1, n)
        with instruction_set(isa), guarded_outputs():
            result = dropout(x, p, seed=-7, block=3, ids=ids, impl="cpu")
        assert_bitwise(result, _expected(x, p, -7, 3, ids), what=str(shape))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_layout_and_kind(impl, dtype):
    x = np.random.default_rng(1).standard_normal((4, 5, 6, 3)).astype(dtype)
    ids = np.array([5, 2**40])
    expected = _expected(x, 0.3, 2**50, 9, ids)
    for name, value in variants(x):
        result = dropout(value, 0.3, seed=2**50, block=9, ids=ids, impl=impl)
        assert isinstance(result, type(value)), name
        assert_bitwise(result, expected, what=name)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_no_probability_gives_the_values(impl):
    x = np.random.default_rng(2).standard_normal((2, 3, 4, 5)).astype(np.float32)
    result = dropout(x, 0, seed=1, impl=impl)
    assert_bitwise(result, x)
    assert not np.shares_memory(result, x)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_what_is_dropped_is_zero_even_of_a_nan(impl):
    x = np.full((2, 8, 5, 5), np.nan, np.float32)
    result = dropout(x, 0.5, seed=1, impl=impl)
    assert 0.3 < np.isnan(result).mean() < 0.7
    assert (result[~np.isnan(result)] == 0).all()


def test_a_mask_belongs_to_sample_seed_and_block():
    x = np.ones((6, 8, 5, 5), np.float32)
    ids = np.array([3, 8, 5])
    whole = dropout(x, 0.5, seed=1, block=2, ids=ids)
    for n in range(3):
        assert_bitwise(
            dropout(x[2 * n : 2 * n + 2], 0.5, seed=1, block=2, ids=ids[n : n + 1]), whole[2 * n : 2 * n + 2]
        )
    assert (whole[0] != whole[1]).any(), "two bodies of a sample have masks of their own"
    for other in ({"seed": 2}, {"block": 3}, {"ids": ids + 1}):
        assert (dropout(x, 0.5, **{"seed": 1, "block": 2, "ids": ids, **other}) != whole).mean() > 0.3
    assert_bitwise(dropout(x, 0.5, seed=1), dropout(x, 0.5, seed=1, ids=np.arange(6)))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_rate_and_the_mean_are_right(p):
    x = np.ones((64, 16, 20, 25), np.float32)
    result = dropout(x, p, seed=4)
    spread = np.sqrt(p * (1 - p) / x.size)
    assert abs((result == 0).mean() - p) < 5 * spread + 2.0**-16
    assert abs(result.mean() - 1) < 5 * spread / (1 - p) + 2.0**-15


def test_backward_applies_the_same_mask():
    x = np.random.default_rng(3).standard_normal((4, 5, 6, 3)).astype(np.float32)
    ids = torch.tensor([7, 1])
    tensors = {"x": torch.from_numpy(x)}
    results = {}
    for impl, dtype in (("cpu", torch.float32), ("reference", torch.float64), ("reference", torch.float32)):
        results[impl, dtype] = gradients(lambda x, i=impl: dropout(x, 0.5, seed=1, ids=ids, impl=i), tensors, dtype)
    assert_gradients_match(*results.values())
    kept = dropout(torch.from_numpy(x), 0.5, seed=1, ids=ids) != 0
    gradient = next(iter(results.values()))["x"]
    assert ((gradient != 0) == kept).all()
    leaf = torch.from_numpy(x).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: dropout(x, 0.5, seed=1, ids=ids, impl="cpu"), (leaf,))


def test_torch_contract():
    x, seed, ids = torch.randn(4, 5, 6, 3), torch.tensor(1), torch.arange(2)
    for grad in (False, True):
        opcheck("dropout", x.clone().requires_grad_(grad), seed, ids, 0.5, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_bitwise(dropout(x.bfloat16(), 0.5, seed=1, impl="cpu"), dropout(x.bfloat16().float(), 0.5, seed=1))


@pytest.mark.parametrize("impl", ["cpu", "reference"])
def test_a_tensor_seed_does_not_recompile(impl):
    batches = []
    for n, c, t, v in ((4, 6, 7, 9), (6, 5, 11, 13)):
        batches.append((torch.randn(n * 2, c, t, v), torch.tensor(n), torch.arange(n)))
    check_compiles(lambda x, seed, ids: dropout(x, 0.5, seed=seed, ids=ids, impl=impl), batches)


def test_threads_and_forks_do_not_matter():
    x = torch.randn(6, 16, 50, 25).to(memory_format=torch.channels_last)
    check_threads_bitwise(lambda: dropout(x, 0.5, seed=1, ids=torch.arange(3)))
    check_forked(lambda: dropout(x, 0.5, seed=1))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_empty_maps(impl):
    assert dropout(np.zeros((0, 3, 4, 5), np.float32), 0.5, seed=1, impl=impl).shape == (0, 3, 4, 5)
    assert dropout(np.zeros((2, 3, 0, 5), np.float32), 0.5, seed=1, impl=impl).shape == (2, 3, 0, 5)


X = np.zeros((4, 3, 2, 5), np.float32)


@pytest.mark.parametrize(
    ("x", "p", "options", "error", "message"),
    [
        (X[0], 0.5, {}, ValueError, r"x must have shape \(B, C, T, V\), got \(3, 2, 5\)"),
        (X.astype(np.int32), 0.5, {}, TypeError, "x must be float32 or .*, got int32"),
        (X, 1.0, {}, ValueError, r"p must be in \[0, 1 − 2⁻¹⁷\], got 1.0"),
        (X, -0.1, {}, ValueError, r"p must be in \[0, 1 − 2⁻¹⁷\], got -0.1"),
        (X, float("nan"), {}, ValueError, r"p must be in \[0, 1 − 2⁻¹⁷\], got nan"),
        (X, "0.5", {}, TypeError, "p must be a float, got str"),
        (X, True, {}, TypeError, "p must be a float, got bool"),
        (torch.from_numpy(X), True, {}, TypeError, "p must be a float, got bool"),
        (torch.from_numpy(X), "0.5", {}, TypeError, "p must be a float, got str"),
        (torch.from_numpy(X), 0.5, {"block": 1.5}, TypeError, "block must be an int, got float"),
        (X, 0.5, {"block": -1}, ValueError, r"block must be in \[0, 16777215\], got -1"),
        (X, 0.5, {"ids": np.arange(3)}, ValueError, "ids must have a size that divides the 4 rows of x, got 3"),
        (X, 0.5, {"ids": np.arange(0)}, ValueError, "ids must have a size that divides the 4 rows of x, got 0"),
        (X, 0.5, {"ids": np.zeros(4)}, TypeError, "ids must be int64, got float64"),
        (X, 0.5, {"seed": "a"}, TypeError, "seed must be an int or an int64 array"),
    ],
)
def test_bad_input(x, p, options, error, message):
    with pytest.raises(error, match=message):
        dropout(x, p, **{"seed": 1, **options})


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_memory_aligned_to_a_byte_gives_the_same_values(impl):
    x = np.arange(150, dtype=np.float32).reshape(1, 3, 2, 25)
    assert_bitwise(dropout(unaligned(x), 0.0, seed=0, impl=impl), x)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_numpys_scalars_are_numbers(kind):
    x = kind(np.ones((2, 3, 4, 5), np.float32))
    expected = dropout(x, 0.25, seed=1, block=2)
    assert_bitwise(dropout(x, np.float32(0.25), seed=1, block=np.int64(2)), expected)


def test_forward_mode_is_an_error():
    check_forward_mode_refused(lambda x: dropout(x, 0.5, seed=1, impl="cpu"), torch.ones(2, 3, 4, 5))


@pytest.mark.parametrize("wrong", ["x", "out", "out size", "ids"])
def test_the_native_entry_refuses_what_it_would_misread(wrong):
    x = np.zeros((4, 6, 5, 3), np.float32)
    dense, seed = native_array(x.transpose(0, 3, 1, 2)), np.array(1)
    arguments = {"x": dense, "out": dense, "ids": native_array(np.arange(2))}
    arguments[wrong.split()[0]] = {
        "x": native_array(x),
        "out": native_array(x.reshape(4, 3, 6, 5)),
        "out size": native_array(x[:, :5].transpose(0, 3, 1, 2)),
        "ids": native_array(np.arange(3)),
    }[wrong]
    with pytest.raises(ValueError, match=wrong.split()[0]):
        native().dropout(arguments["x"], native_array(seed), arguments["ids"], 0, 0, arguments["out"])
