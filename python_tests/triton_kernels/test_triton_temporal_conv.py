"""The Triton kernels of temporal_conv against the float64 reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ops.contract import opcheck, pairwise
from triton_kernels.device import there
from triton_kernels.fills import assert_close, cast, filled, reference_gradients

from asma_fast.ops import temporal_conv
from asma_fast.ops.temporal_conv import BACKWARD, OP

SIZES = pairwise(
    B=(1, 3), C=(1, 3, 17, 32), C_out=(1, 16, 33), T=(1, 2, 7, 13), V=(1, 3, 25), k=(1, 2, 5),
    stride=(1, 2, 3), dilation=(1, 2), bias=(True, False),
)  # fmt: skip
GROUPED = pairwise(
    groups=(2, 3), C=(1, 2, 16), C_out=(1, 2, 20), T=(5, 8), V=(3,), k=(1, 3), stride=(1, 2), dilation=(1, 3)
)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def _case(shape: Any, dtype: torch.dtype = torch.float32) -> list[Any]:
    s = {"B": 2, "C": 5, "C_out": 4, "T": 7, "V": 3, "k": 3, "stride": 1, "dilation": 1, "groups": 1, "bias": True}
    s |= shape
    generator = torch.Generator().manual_seed(0)
    channels, out = (s["C"] * s["groups"], s["C_out"] * s["groups"])
    reach = s["dilation"] * (s["k"] - 1)
    left, right = s.get("padding", (reach // 2, reach - reach // 2))
    shapes = ((s["B"], channels, s["T"], s["V"]), (out, s["C"], s["k"]), (out,))
    x, weight, bias = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return [x, weight, bias if s["bias"] else None, s["stride"], left, right, s["dilation"], s["groups"]]


def _check(args: list[Any]) -> None:
    (result,) = filled(OP, *args)
    exact = OP.reference(*cast(args, torch.float64))
    assert_close(result, exact, OP.reference(*cast(args, torch.float32)))
    g = torch.randn(exact.shape, generator=torch.Generator().manual_seed(1)).to(result.dtype)
    needs = (True, True, args[2] is not None)
    grads = filled(BACKWARD, g, *args[:2], *args[3:], *needs)
    wanted, plain = (reference_gradients(OP, args, (0, 1, 2), (g,), dtype) for dtype in (torch.float64, torch.float32))
    for name, grad, right, other in zip(("x", "weight", "bias"), grads, wanted, plain, strict=True):
        if right is not None and other is not None:
            assert_close(grad, right, other, f"gradient of {name}")


@pytest.mark.parametrize("shape", SIZES + GROUPED, ids=str)
def test_every_size(shape: Any) -> None:
    _check(_case(shape))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape",
    [{"C": 20, "C_out": 24, "V": 9}, {"C": 1, "C_out": 1, "groups": 6, "k": 5}, {"stride": 2, "C": 16}],
    ids=str,
)
def test_every_dtype(dtype: torch.dtype, shape: Any) -> None:
    _check(_case(shape, dtype))


@pytest.mark.parametrize(
    "shape",
    [
        {"B": 0}, {"V": 0}, {"C_out": 0}, {"T": 0, "padding": (3, 2)}, {"stride": 9}, {"padding": (0, 4), "stride": 2},
        {"padding": (9, 0), "k": 2},
    ],
    ids=str,
)  # fmt: skip
def test_sizes_at_the_edge(shape: Any) -> None:
    args = _case(shape)
    (result,) = filled(OP, *args)
    if "C_out" not in shape:
        assert_close(result, OP.reference(*cast(args, torch.float64)), OP.reference(*args))
    grads = filled(BACKWARD, torch.ones_like(result), *args[:2], *args[3:], True, True, True)
    wanted = reference_gradients(OP, args, (0, 1, 2), (torch.ones_like(result),), torch.float64)
    for grad, right in zip(grads, wanted if "C_out" not in shape else [None] * 3, strict=True):
        if right is None:
            assert not grad.any()
        else:
            assert_close(grad, right, right)


@pytest.mark.parametrize(
    "shape",
    [{"stride": 2**31 - 1, "padding": (0, 2**31 - 1)}, {"dilation": 2**30, "k": 2, "padding": (2**30, 0)}],
    ids=str,
)
def test_distances_that_fill_31_bits(shape: Any) -> None:
    args = _case(shape)
    (result,) = filled(OP, *args)
    torch.testing.assert_close(result, OP.run_native(*args))
    arguments = (torch.ones_like(result), *args[:2], *args[3:], True, True, True)
    for grad, right in zip(filled(BACKWARD, *arguments), BACKWARD.run_native(*arguments), strict=True):
        torch.testing.assert_close(grad, right)


def test_no_channels_give_the_bias() -> None:
    args = _case({"C": 1})
    args[0], args[1] = args[0][:, :0], args[1][:, :0]
    (result,) = filled(OP, *args)
    assert torch.equal(result, args[2][:, None, None].expand_as(result))


def test_any_layout_of_map_and_cotangent() -> None:
    args = _case({"C": 20, "stride": 2})
    (wanted,) = filled(OP, *args)
    g = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1))
    grads = filled(BACKWARD, g, *args[:2], *args[3:], True, True, True)
    for layout in (torch.clone, lambda x: x.transpose(1, 3).contiguous().transpose(1, 3)):
        args[0], args[1] = layout(args[0]), args[1].transpose(0, 2).contiguous().transpose(0, 2)
        assert torch.equal(filled(OP, *args)[0], wanted)
        again = filled(BACKWARD, layout(g), *args[:2], *args[3:], True, True, True)
        assert all(torch.equal(a, b) for a, b in zip(again, grads, strict=True))


def test_only_what_is_needed_is_filled_and_always_with_the_same_bits() -> None:
    args = _case({"C": 20, "C_out": 18, "V": 25, "T": 24})
    g = torch.randn(filled(OP, *args)[0].shape, generator=torch.Generator().manual_seed(1))
    whole = filled(BACKWARD, g, *args[:2], *args[3:], True, True, True)
    for needs in ((True, False, False), (False, True, False), (False, False, True)):
        for grad, all_of_it, needed in zip(
            filled(BACKWARD, g, *args[:2], *args[3:], *needs), whole, needs, strict=True
        ):
            assert torch.equal(grad, all_of_it) if needed else grad.numel() == 0


def test_nan_reaches_its_own_joint_and_frames_alone() -> None:
    args = _case({"C": 16, "groups": 2, "T": 9, "V": 4})
    args[0][1, 0, 4, 2] = torch.nan
    poisoned = torch.zeros(2, 8, 9, 4, dtype=torch.bool)
    poisoned[1, :4, 3:6, 2] = True
    assert torch.equal(filled(OP, *args)[0].isnan(), poisoned)


def test_through_the_public_function() -> None:
    args = _case({"C": 17, "stride": 2})
    leaves = [there(tensor.clone()).requires_grad_() for tensor in args[:3]]
    result = temporal_conv(*leaves, stride=2, padding=(1, 1), impl="triton")
    assert torch.equal(result.cpu(), filled(OP, *args)[0])
    result.sum().backward()
    wanted = filled(BACKWARD, torch.ones_like(result), *args[:2], *args[3:], True, True, True)
    assert all(torch.equal(leaf.grad.cpu(), grad) for leaf, grad in zip(leaves, wanted, strict=True))
    x, weight = there(args[0]), there(args[1])
    with pytest.raises(TypeError, match="impl='triton' takes float32, float16 or bfloat16, got float64"):
        temporal_conv(x.double(), weight.double(), impl="triton")
    with pytest.raises(ValueError, match="groups=3 dividing both"):
        temporal_conv(x, weight, groups=3, impl="triton")


def test_torch_contract() -> None:
    args = _case({"C": 2, "C_out": 2, "T": 3, "V": 1})
    opcheck("triton_temporal_conv", *(there(tensor).requires_grad_() for tensor in args[:3]), *args[3:])
