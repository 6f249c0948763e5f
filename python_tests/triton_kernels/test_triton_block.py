"""The Triton kernels of the block's passes against the float64 reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ops.contract import opcheck, pairwise
from triton_kernels.device import there
from triton_kernels.fills import assert_close, cast, filled, reference_gradients
from triton_kernels.test_triton_graph_conv import FULL
from triton_kernels.test_triton_graph_conv import _case as graph_case
from triton_kernels.test_triton_temporal_conv import _case as temporal_case

from asma_fast.ops import block_output, block_temporal_conv, dropout
from asma_fast.ops._block_output import BACKWARD as OUTPUT_BACKWARD
from asma_fast.ops._block_output import OP as OUTPUT
from asma_fast.ops.block import GRAPH, GRAPH_BACKWARD, INFERENCE, TEMPORAL, TEMPORAL_BACKWARD
from asma_fast.ops.graph_conv import DIFFERENTIABLE

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
MAPS = pairwise(
    C=(1, 5, 16), C_out=(1, 17), T=(1, 8), V=(1, 9), k=(1, 3), stride=(1, 2), groups=(1, 2), affine=(True, False),
    bias=(True, False),
)  # fmt: skip
OUTPUTS = pairwise(C=(1, 3, 16, 130), T=(1, 7), V=(1, 5), p=(0.0, 0.4), residual=(0, 1, 2), M=(1, 2))


def _normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 5) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _temporal(shape: Any, dtype: torch.dtype = torch.float32) -> list[Any]:
    x, weight, bias, *sizes = temporal_case(shape, dtype)
    affine = (
        [_normal(x.shape[1], dtype=dtype, seed=seed) for seed in (2, 3)] if shape.get("affine", True) else [None] * 2
    )
    return [x, weight, bias, *affine, *sizes]


def _check(op: Any, backward: Any, args: list[Any], places: tuple[int, ...]) -> None:
    """Results and all gradients, for cotangents of the map and of its sums."""
    results = filled(op, *args)
    exact, plain = (op.reference(*cast(args, dtype)) for dtype in (torch.float64, torch.float32))
    assert_close(results[0], exact[0], plain[0])
    wide = results[0].double()
    sums = torch.stack([wide.sum((0, 2, 3)), wide.square().sum((0, 2, 3))])
    magnitude = torch.stack([wide.abs().sum((0, 2, 3)), sums[1]])
    assert ((results[1] - sums).abs() <= 2.0**-20 * magnitude).all()
    g, sums_grad = _normal(*wide.shape, dtype=results[0].dtype), 0.1 * _normal(*sums.shape, dtype=torch.float64)
    needs = [args[place] is not None for place in places]
    for of_sums in (sums_grad, None):
        grads = filled(backward, g, of_sums, None if of_sums is None else results[0], *args, needs)
        wanted, other = (
            reference_gradients(op, args, places, (g, of_sums), dtype) for dtype in (torch.float64, torch.float32)
        )
        for place, grad, right, near in zip(places, grads, wanted, other, strict=True):
            if right is not None and near is not None:
                assert_close(grad, right, near, f"gradient of argument {place}", roundings=16)


@pytest.mark.parametrize("shape", MAPS, ids=str)
def test_temporal_of_every_size(shape: Any) -> None:
    _check(TEMPORAL, TEMPORAL_BACKWARD, _temporal(shape), (0, 1, 2, 3, 4))


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_temporal_in_halves(dtype: torch.dtype) -> None:
    _check(TEMPORAL, TEMPORAL_BACKWARD, _temporal({"C": 18, "C_out": 17}, dtype), (0, 1, 2, 3, 4))


@pytest.mark.parametrize(
    ("shape", "dtype"), [(FULL, DTYPES[0]), ({"C": 17, "affine": False}, DTYPES[1]), ({}, DTYPES[2])], ids=str
)
def test_graph(dtype: torch.dtype, shape: Any) -> None:
    _check(GRAPH, GRAPH_BACKWARD, graph_case(shape, dtype), DIFFERENTIABLE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [{}, {"C": 17, "stride": 2}, {"C": 1, "groups": 4}], ids=str)
@pytest.mark.parametrize("residual", [True, False])
def test_inference(dtype: torch.dtype, shape: Any, residual: bool) -> None:
    x, weight, bias, scale, shift, *sizes = _temporal(shape, dtype)
    added = _normal(*TEMPORAL.allocate(x, weight, bias, None, None, *sizes)[0].shape, dtype=dtype) if residual else None
    args = [x, scale, shift, weight, bias, added, *sizes]
    (result,) = filled(INFERENCE, *args)
    exact, plain = (INFERENCE.reference(*cast(args, kind)) for kind in (torch.float64, torch.float32))
    assert_close(result, exact, plain)


def test_sums_keep_the_digits_of_a_small_variance() -> None:
    args = _temporal({"T": 20, "V": 25})
    args[1] *= 1e-3
    args[2] += 1000
    result, sums = filled(TEMPORAL, *args)
    count = result[:, 0].numel()
    mean = sums[0] / count
    variance = sums[1] / count - mean.square()
    torch.testing.assert_close(variance, result.double().var((0, 2, 3), correction=0), rtol=1e-5, atol=1e-9)


def test_padding_is_zero_after_the_normalisation_and_nan_stays() -> None:
    args = _temporal({"C": 1, "C_out": 1, "T": 5, "V": 2, "bias": False})
    args[3][:], args[4][:], args[1][:] = 0, 7, 1
    (result, _) = filled(TEMPORAL, *args)
    assert result[0, 0, :, 0].tolist() == [14, 21, 21, 21, 14]
    args[3][:], args[0][0, 0, 0, 0] = 1, torch.nan
    assert filled(TEMPORAL, *args)[0][0, 0, :, 0].isnan().tolist() == [True, True, False, False, False]


def _output(shape: Any, dtype: torch.dtype = torch.float32) -> list[Any]:
    s = {"C": 4, "T": 3, "V": 5, "p": 0.4, "residual": 2, "M": 2} | shape
    size = (2 * s["M"], s["C"], s["T"], s["V"])
    channel = [_normal(s["C"], dtype=dtype, seed=seed) for seed in range(4)]
    residual = _normal(*size, dtype=dtype, seed=7) if s["residual"] else None
    affine = channel[2:] if s["residual"] == 2 else [None, None]
    random = [torch.tensor(-3), torch.tensor([7, -(2**40) - 3])] if s["p"] else [None, None]
    return [_normal(*size, dtype=dtype), *channel[:2], residual, *affine, *random, s["p"], 3]


def _output_backward(args: list[Any], out: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, ...]:
    x, scale, _, residual, residual_scale, _, seed, ids, p, block = args
    needs = [True, True, True, residual is not None, residual_scale is not None, residual_scale is not None]
    return filled(OUTPUT_BACKWARD, g, out, x, scale, residual, residual_scale, seed, ids, p, block, needs)


def _check_output(args: list[Any]) -> None:
    (out,) = filled(OUTPUT, *args)
    exact, plain = (OUTPUT.reference(*cast(args, dtype)) for dtype in (torch.float64, torch.float32))
    assert_close(out, exact, plain)
    g = _normal(*out.shape, dtype=out.dtype, seed=9)
    wanted, other = (
        reference_gradients(OUTPUT, args, range(6), (g,), dtype) for dtype in (torch.float64, torch.float32)
    )
    for place, (grad, right, near) in enumerate(zip(_output_backward(args, out, g), wanted, other, strict=True)):
        if right is not None and near is not None:
            slack = 2.0**-22 * g.abs().sum().item() if right.ndim == 1 else 0.0
            assert_close(grad, right, near, f"gradient of argument {place}", slack=slack)


@pytest.mark.parametrize("shape", OUTPUTS, ids=str)
def test_output_of_every_size(shape: Any) -> None:
    _check_output(_output(shape))


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_output_in_halves(dtype: torch.dtype) -> None:
    _check_output(_output({"C": 16}, dtype))


def test_what_is_dropped_is_that_of_dropout() -> None:
    for channels in (3, 8):
        x, ids = there(torch.ones(4, channels, 3, 5)), there(torch.tensor([1, 2]))
        one = there(torch.ones(channels))
        ours = block_output(x, one, 0 * one, p=0.3, seed=4, block=2, ids=ids, impl="triton")
        assert torch.equal(ours, dropout(x, 0.3, seed=4, block=2, ids=ids, impl="reference"))


def test_what_is_dropped_is_zero_though_not_finite() -> None:
    args = _output({"residual": 0, "p": 0.5})
    (clean,) = filled(OUTPUT, *args)
    args[0] = torch.full_like(args[0], torch.inf)
    args[1], args[2] = torch.ones_like(args[1]), torch.zeros_like(args[2])
    (result,) = filled(OUTPUT, *args)
    assert result.isinf().any()
    assert ((result == 0) | result.isinf()).all()
    assert not clean[result == 0].any()


def test_empty_maps() -> None:
    for place, index in (("B", 0), ("T", 2)):
        args = _output({"p": 0.0})
        for position in (0, 3):
            args[position] = args[position].narrow(index, 0, 0)
        (out,) = filled(OUTPUT, *args)
        assert out.numel() == 0, place
        assert not any(grad.any() for grad in _output_backward(args, out, torch.ones_like(out)))
    result, sums = filled(TEMPORAL, *_temporal({"B": 0}))
    assert result.numel() == 0
    assert not sums.any()


def test_always_the_same_bits() -> None:
    args = _temporal({"C": 17, "V": 25, "T": 12})
    y, sums = filled(TEMPORAL, *args)
    g, rest = _normal(*y.shape), (*args, [True] * 5)
    first = filled(TEMPORAL_BACKWARD, g, 0.1 * sums, y, *rest)
    again = filled(TEMPORAL_BACKWARD, g.contiguous(memory_format=torch.channels_last), 0.1 * sums, y, *rest)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(filled(TEMPORAL, *args), (y, sums), strict=True))


def test_through_the_public_function() -> None:
    args = _temporal({"C": 5})
    leaves = [there(tensor.clone()).requires_grad_() for tensor in args[:5]]
    y, sums = block_temporal_conv(*leaves[:3], scale=leaves[3], shift=leaves[4], impl="triton")
    (y.sum() + sums.sum()).backward()
    ones = torch.ones_like(sums)
    wanted = filled(TEMPORAL_BACKWARD, torch.ones_like(y), ones, y.detach(), *args, [True] * 5)
    assert all(torch.equal(leaf.grad.cpu(), grad) for leaf, grad in zip(leaves, wanted, strict=True))


def test_torch_contract() -> None:
    args = _temporal({"C": 1, "C_out": 1, "T": 2, "V": 1})
    opcheck("triton_block_temporal_conv", *(there(tensor).requires_grad_() for tensor in args[:5]), *args[5:])
    args = _output({"C": 2, "T": 1, "V": 1, "M": 1})
    opcheck(
        "triton_block_output", *(there(tensor).requires_grad_() for tensor in args[:6]), *(there(a) for a in args[6:])
    )
