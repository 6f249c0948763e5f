"""Each assertion of the harness can fail: what it is there to catch is planted here."""

import itertools
import os
import time

import numpy as np
import pytest
import torch
from contract import (
    ODD_SIZES,
    assert_bitwise,
    assert_gradients_match,
    assert_within_budget,
    check_compiles,
    check_forked,
    check_threads_bitwise,
    gradients,
    guarded_outputs,
    instruction_set,
    instruction_sets,
    misaligned,
    pairwise,
    variants,
)

from asma_fast import _array
from asma_fast._backends import native


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def test_instruction_set_is_forced_and_restored():
    before = native().instruction_set()
    for name in instruction_sets():
        with instruction_set(name):
            assert native().instruction_set() == name
        assert native().instruction_set() == before
        with pytest.raises(KeyError), instruction_set(name):
            raise KeyError
        assert native().instruction_set() == before


def test_pairwise_covers_every_pair_in_fewer_rows_than_the_product():
    cover = pairwise(**ODD_SIZES, flag=(True, False))
    for a, b in itertools.combinations((*ODD_SIZES, "flag"), 2):
        sizes = {**ODD_SIZES, "flag": (True, False)}
        assert {(row[a], row[b]) for row in cover} == set(itertools.product(sizes[a], sizes[b]))
    assert len(cover) < 7 * 6 * 6
    assert cover == pairwise(**ODD_SIZES, flag=(True, False))
    assert pairwise(V=(1, 2)) == [{"V": 1}, {"V": 2}]


def test_variants_hold_the_same_values_in_different_layouts(rng):
    x = rng.standard_normal((2, 3, 4, 5, 2)).astype(np.float32)
    found = dict(variants(x))
    for value in found.values():
        np.testing.assert_array_equal(np.asarray(value), x)
    strides = {
        found[f"torch {name}"].stride() for name in ("contiguous", "reversed axes", "channels last", "every second")
    }
    assert len(strides) == 4
    assert found["torch misaligned"].data_ptr() % 64 == 4
    assert min(found["numpy negative strides"].strides) < 0
    assert misaligned(x.astype(np.float64)).ctypes.data % 64 == 8


def test_budget_notices_one_wrong_value(rng):
    exact = rng.standard_normal((7, 33))
    reference = exact.astype(np.float32)
    result = reference.copy()
    assert_within_budget(result, exact, reference)
    result[4, 20] += 1e-5
    with pytest.raises(AssertionError, match=r"at \(4, 20\)"):
        assert_within_budget(result, exact, reference)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_budget_notices_a_nan(rng, wrong):
    exact = rng.standard_normal((3, 3))
    result = exact.astype(np.float32)
    result[1, 1] = wrong
    with pytest.raises(AssertionError):
        assert_within_budget(result, exact, exact.astype(np.float32))


def test_budget_notices_a_swallowed_nan(rng):
    exact = rng.standard_normal((3, 3))
    exact[0, 0] = np.nan
    reference = exact.astype(np.float32)
    assert_within_budget(reference, exact, reference)
    with pytest.raises(AssertionError):
        assert_within_budget(np.nan_to_num(reference), exact, reference)


def test_budget_refuses_another_dtype_or_shape(rng):
    exact = rng.standard_normal((3, 3))
    with pytest.raises(AssertionError, match="float64"):
        assert_within_budget(exact, exact, exact.astype(np.float32))
    with pytest.raises(AssertionError):
        assert_within_budget(exact.astype(np.float32)[:2], exact, exact.astype(np.float32))


def _product(a, b):
    return (a[:, None] * b).sum(-1)


def test_gradients_notice_none_a_zeroed_row_and_a_leak():
    tensors = {"a": torch.linspace(1, 2, 4), "b": torch.linspace(-1, 1, 12).reshape(4, 3)}
    exact, reference = (gradients(_product, tensors, dtype) for dtype in (torch.float64, torch.float32))
    assert_gradients_match(reference, exact, reference)
    with pytest.raises(AssertionError, match="gradient of a is None"):
        assert_gradients_match({**reference, "a": None}, exact, reference)

    # A row a million times smaller than the rest: below the budget, and yet lost.
    small = torch.tensor([1.0, 1.0, 1e-9])
    exact_small = {"x": small.double()}
    zeroed = {"x": torch.tensor([1.0, 1.0, 0.0])}
    assert_within_budget(zeroed["x"], exact_small["x"], small)
    with pytest.raises(AssertionError, match="slice 2 of axis 0"):
        assert_gradients_match(zeroed, exact_small, {"x": small})

    masked = {"x": torch.tensor([1.0, 0.0])}
    with pytest.raises(AssertionError, match="slice 1"):
        assert_gradients_match({"x": torch.tensor([1.0, 1e-12])}, {"x": masked["x"].double()}, masked)


def test_gradients_name_a_tensor_that_got_none():
    found = gradients(lambda a, b: a * 2 + b.detach(), {"a": torch.ones(2), "b": torch.ones(2)})
    assert found["b"] is None
    assert found["a"] is not None


def test_bitwise_notices_a_bit_and_a_zero_sign():
    one = np.ones(3, np.float32)
    assert_bitwise((one, torch.ones(2)), (one.copy(), torch.ones(2)))
    with pytest.raises(AssertionError, match=r"1 places, first \(2,\)"):
        assert_bitwise(np.nextafter(one, [1, 1, 2], dtype=np.float32), one)
    with pytest.raises(AssertionError, match="sign of a zero"):
        assert_bitwise(-np.zeros(1), np.zeros(1))
    with pytest.raises(AssertionError):
        assert_bitwise(one.astype(np.float64), one)


@pytest.mark.parametrize("like", [np.zeros(1, np.float32), torch.zeros(1), np.zeros(1, np.int32)])
@pytest.mark.parametrize("place", [-1, 6])
def test_guards_notice_a_write_outside(like, place):
    def write():
        with guarded_outputs() as outputs:
            out = _array.empty((2, 3), like)
            view = np.asarray(out)
            beside = np.lib.stride_tricks.as_strided(view[0, :1], (1,), view.strides[1:])
            address = beside.__array_interface__["data"][0] + place * view.itemsize
            np.ctypeslib.as_array((np.ctypeslib.as_ctypes_type(view.dtype) * 1).from_address(address))[0] = 5
            assert len(outputs) == 1

    with pytest.raises(AssertionError, match="before its start" if place < 0 else "past its end"):
        write()


def test_guards_poison_outputs_and_give_allocation_back():
    original = _array.empty
    with guarded_outputs():
        assert np.isnan(_array.empty((2, 2), np.zeros(1, np.float32))).all()
        assert (_array.empty((2,), np.zeros(1, np.int32)) == np.iinfo(np.int32).min).all()
        assert torch.isnan(_array.empty_channels_last((1, 2, 3, 4), torch.zeros(1))).all()
    assert _array.empty is original
    with pytest.raises(AssertionError, match="nothing was tested"), guarded_outputs():
        pass


def test_threads_notice_a_result_that_depends_on_them():
    check_threads_bitwise(lambda: torch.arange(4))
    before = torch.get_num_threads()
    with pytest.raises(AssertionError, match="threads against 1"):
        check_threads_bitwise(lambda: torch.tensor(torch.get_num_threads()))
    assert torch.get_num_threads() == before


def test_forked_notices_another_result_a_failure_and_a_hang():
    parent = os.getpid()
    check_forked(lambda: np.arange(5))
    with pytest.raises(AssertionError, match="bits differ"):
        check_forked(lambda: np.array([os.getpid()]))
    with pytest.raises(AssertionError, match="failed with status"):
        check_forked(lambda: np.ones(1) if os.getpid() == parent else os._exit(3))
    with pytest.raises(AssertionError, match="no answer"):
        check_forked(lambda: np.ones(1) if os.getpid() == parent else time.sleep(60), seconds=0.5)


def test_compiles_notices_a_recompilation_and_a_break():
    check_compiles(lambda x: x * 2, [(torch.ones(3),), (torch.ones(5),)])
    with pytest.raises(torch._dynamo.exc.RecompileError):
        check_compiles(lambda x, double: x * 2 if double else x, [(torch.ones(3), True), (torch.ones(3), False)])
    with pytest.raises(torch._dynamo.exc.Unsupported):
        check_compiles(_broken, [(torch.ones(3),), (torch.ones(5),)])


def test_compiles_notices_another_result():
    def differs(x):
        return x + 1 if torch.compiler.is_compiling() else x

    with pytest.raises(AssertionError, match="compiled"):
        check_compiles(differs, [(torch.ones(3),), (torch.ones(5),)])


def _broken(x):
    torch._dynamo.graph_break()
    return x
