"""The Triton kernels of graph_conv against the float64 reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ops.contract import opcheck, pairwise
from triton_kernels.device import interpreted_only, there
from triton_kernels.fills import assert_close, cast, filled, reference_gradients

from asma_fast import View
from asma_fast.ops import graph_conv
from asma_fast.ops.graph_conv import BACKWARD, DIFFERENTIABLE, OP

SHAPES = pairwise(
    C=(1, 2, 3, 17), C_out=(1, 16, 33), T=(1, 4), V=(1, 3, 9), K=(1, 3), M=(1, 2), reading=("plain", "nodes", "view"),
    rows=(False, True), bias=(True, False), affine=(True, False), pattern=(True, False),
)  # fmt: skip
FULL = {"C": 3, "C_out": 5, "T": 3, "V": 3, "K": 2, "M": 2, "reading": "view", "rows": True, "pattern": True}
NAMES = ("x", "weight", "adjacency", "bias", "scale", "shift")


def _nodes(clips: int, graph: int, joints: int, generator: torch.Generator) -> torch.Tensor:
    drawn = [torch.randperm(graph, generator=generator)[:joints] for _ in range(clips)]
    return torch.stack(drawn).to(torch.int32)


def _case(shape: Any, dtype: torch.dtype = torch.float32, clips: int = 2) -> list[Any]:
    """The canonical arguments; the graph has two nodes more than the reading where that names nodes."""
    defaults = {"C": 3, "C_out": 4, "T": 4, "V": 4, "K": 2, "M": 1, "reading": "plain", "rows": False}
    s = defaults | {"bias": True, "affine": True, "pattern": False, "density": 0.4} | shape
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator).to(dtype)

    graph = s["V"] + (0 if s["reading"] == "plain" else 2)
    view = s["reading"] == "view"
    sizes = (s["C"], s["T"], s["V"])
    x = normal(clips, *sizes, s["M"]) if view else normal(clips * s["M"], *sizes)
    frames = joints = nodes = transform = None
    if view:
        frames = torch.randint(s["T"], (clips, s["T"] + 1), generator=generator, dtype=torch.int32)
        joints = torch.randint(s["V"], (clips, s["V"] + 1), generator=generator, dtype=torch.int32)
        nodes = _nodes(clips, graph, s["V"] + 1, generator)
        if s["C"] > 1:
            transform = torch.randn(clips, min(s["C"], 3), min(s["C"], 3), generator=generator)
    elif s["reading"] == "nodes":
        nodes = _nodes(clips, graph, s["V"], generator)
    pattern = torch.rand(s["K"], graph, graph, generator=generator) < s["density"]
    rows = (clips * s["M"],) if s["rows"] else ()
    adjacency = torch.where(pattern, normal(*rows, s["K"], graph, graph), 0).to(dtype)
    weight, bias = normal(s["K"], s["C_out"], s["C"]), normal(s["K"], s["C_out"])
    affine = (normal(graph, s["C"]), normal(graph, s["C"])) if s["affine"] else (None, None)
    maps = (frames, joints, nodes, transform, *affine)
    return [x, weight, adjacency, bias if s["bias"] else None, *maps, pattern if s["pattern"] else None]


def _backward(args: list[Any], g: torch.Tensor, needs: list[bool] | None = None) -> tuple[torch.Tensor, ...]:
    everything = [args[place] is not None for place in DIFFERENTIABLE]
    return filled(BACKWARD, g, *args, everything if needs is None else needs)


def _cotangent(result: torch.Tensor) -> torch.Tensor:
    return torch.randn(result.shape, generator=torch.Generator().manual_seed(1)).to(result.dtype)


def _check(args: list[Any]) -> None:
    (result,) = filled(OP, *args)
    assert_close(result, OP.reference(*cast(args, torch.float64)), OP.reference(*cast(args, torch.float32)))
    g = _cotangent(result)
    grads = _backward(args, g)
    wanted, plain = (
        reference_gradients(OP, args, DIFFERENTIABLE, (g,), dtype) for dtype in (torch.float64, torch.float32)
    )
    for name, grad, right, other in zip(NAMES, grads, wanted, plain, strict=True):
        if right is not None and other is not None:
            assert_close(grad, right, other, f"gradient of {name}")
    if args[10] is not None:
        assert not grads[2][..., ~args[10]].any()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_size(shape: Any) -> None:
    _check(_case(shape))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [FULL, {"C": 18, "C_out": 17, "V": 9}], ids=["view", "wide"])
def test_halves(dtype: torch.dtype, shape: Any) -> None:
    _check(_case(shape, dtype))


@pytest.mark.parametrize("density", [0.0, 1.1])
def test_from_no_entry_to_all(density: float) -> None:
    _check(_case({"density": density, "C": 16, "V": 5}))


def test_many_joints_and_parts() -> None:
    _check(_case({"V": 33, "K": 2, "C": 2, "C_out": 3, "T": 1, "density": 0.1, "reading": "nodes"}))


def test_a_node_played_by_several_joints() -> None:
    args = _case({"reading": "nodes"})
    args[6] = torch.tensor([[1, 1, 3, 0], [2, 5, 2, 2]], dtype=torch.int32)
    _check(args)


@pytest.mark.parametrize("reading", ["nodes", "view"])
def test_one_row_of_maps_serves_all(reading: str) -> None:
    args = _case({"reading": reading, "M": 2})
    for place in (4, 5, 6, 7):
        args[place] = None if args[place] is None else args[place][:1]
    _check(args)


@pytest.mark.parametrize("given", [(), (4,), (5, 6), (7,)], ids=["nothing", "frames", "joints", "transform"])
def test_a_clip_through_part_of_a_view(given: tuple[int, ...]) -> None:
    args = _case({"reading": "view", "M": 2, "V": 4})
    if 5 not in given:
        args[2], args[8], args[9] = args[2][..., :4, :4], args[8][:4], args[9][:4]
    for place in (4, 5, 6, 7):
        args[place] = args[place] if place in given else None
    _check(args)


def test_any_layout() -> None:
    args = _case({**FULL, "rows": False})
    (wanted,) = filled(OP, *args)
    grads = _backward(args, _cotangent(wanted))
    x = args[0].permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0)
    other = [x, *(a.mT.contiguous().mT for a in args[1:3]), *args[3:10], args[10].mT.contiguous().mT]
    assert torch.equal(filled(OP, *other)[0], wanted)
    g = _cotangent(wanted).transpose(1, 3).contiguous().transpose(1, 3)
    assert all(torch.equal(a, b) for a, b in zip(_backward(other, g), grads, strict=True))


@pytest.mark.parametrize("empty", ["B", "T", "C_out", "C", "K", "V"])
def test_empty_maps(empty: str) -> None:
    args = _case({empty: 0} if empty != "B" else {})
    if empty == "B":
        args[0] = args[0][:0]
    (result,) = filled(OP, *args)
    if empty in ("C", "K"):
        assert_close(result, OP.reference(*cast(args, torch.float64)), OP.reference(*args))
    grads = _backward(args, torch.ones_like(result))
    if empty != "C":
        assert not any(grad.any() for grad in grads)


def test_only_what_is_needed_is_filled_and_always_with_the_same_bits() -> None:
    args = _case({**FULL, "T": 5})
    g = _cotangent(filled(OP, *args)[0])
    everything = _backward(args, g)
    for place in range(6):
        needs = [other == place for other in range(6)]
        for grad, whole, needed in zip(_backward(args, g, needs), everything, needs, strict=True):
            assert torch.equal(grad, whole) if needed else grad.numel() == 0


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # numpy's, of the interpreter
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
@pytest.mark.parametrize("channels", [3, 17])
def test_an_entry_of_zero_carries_nothing_not_even_a_nan(poison: float, channels: int) -> None:
    args = _case({"C": channels, "V": 5, "K": 3, "density": 1.1})
    args[2][:, 2, :] = 0
    args[2][:, 2, 4] = 0.5
    args[2][1, :, 0] = 0
    (clean,) = filled(OP, *args)
    for place, index in ((0, (..., 2)), (8, 2), (9, (2, 0))):
        poisoned = [a.clone() if isinstance(a, torch.Tensor) else a for a in args]
        poisoned[place][index] = poison
        (result,) = filled(OP, *poisoned)
        assert not result[..., 4].isfinite().any()
        assert torch.equal(result[..., :4], clean[..., :4])
    args[3][1] = poison
    (result,) = filled(OP, *args)
    assert torch.equal(result[..., 0], clean[..., 0])
    assert not result[..., 1:].isfinite().any()


def test_an_entry_of_zero_carries_no_nan_back() -> None:
    args = _case({})
    args[2][:, :, 3] = 0
    g = torch.ones_like(filled(OP, *args)[0])
    g[..., 3] = torch.nan
    grads = _backward(args, g, [True, False, False, True, False, False])
    assert grads[0].isfinite().all()
    assert grads[3].isfinite().all()


@interpreted_only
@pytest.mark.parametrize("place", [4, 5, 6], ids=["frames", "joints", "nodes"])
def test_an_index_out_of_range_stops_the_kernel(place: int) -> None:
    for index in (-1, 99):
        args = _case({**FULL, "density": 1.1})
        args[place][1, 2] = index
        with pytest.raises(RuntimeError, match="must lie within"):
            filled(OP, *args)


@interpreted_only
def test_an_entry_outside_the_pattern_stops_the_kernel() -> None:
    args = _case(FULL)
    args[2][1, 0][~args[10][0]] = torch.nan
    with pytest.raises(RuntimeError, match="adjacency must be zero outside pattern"):
        filled(OP, *args)


def test_through_the_public_function() -> None:
    args = _case({**FULL, "rows": False})
    view = there(View(args[4], args[5], args[6], args[7]))
    leaves = [there(args[place].clone()).requires_grad_() for place in DIFFERENTIABLE]
    options = {"view": view, "scale": leaves[4], "shift": leaves[5], "pattern": there(args[10])}
    result = graph_conv(*leaves[:4], **options, impl="triton")
    assert torch.equal(result.cpu(), filled(OP, *args)[0])
    result.sum().backward()
    for leaf, grad in zip(leaves, _backward(args, torch.ones_like(result)), strict=True):
        assert torch.equal(leaf.grad.cpu(), grad)


@interpreted_only
def test_clips_beyond_32_bits() -> None:
    far = 2**31 + 7
    args = _case({"reading": "view", "T": 4, "V": 5, "C_out": 1, "K": 1, "density": 0.2})
    for strides in ((far, 1, 15, 3, 60), (1, far // 2, 10, 2, 40)):
        x = torch.empty(far + 240).as_strided(args[0].shape, strides)
        x.copy_(args[0])
        assert torch.equal(filled(OP, x, *args[1:])[0], filled(OP, *args)[0])


def test_torch_contract() -> None:
    args = _case({"C": 2, "C_out": 2, "T": 2, "V": 2, "K": 1})
    for place in DIFFERENTIABLE:
        args[place] = there(args[place]).requires_grad_()
    opcheck("triton_graph_conv", *(there(arg) for arg in args))
