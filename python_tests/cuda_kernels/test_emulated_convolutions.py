"""The CUDA kernels of convolutions, forward and backward, against the float64 reference on an emulated device.

Budget: what is multiplied, and the result, are rounded to the type of the products (half precision, TF32, float32), so
an error is at most a few roundings of it times the same sum of absolute values, which the reference gives of absolute
arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
import torch
from ops.contract import pairwise

from asma_fast.ops import _op as op_module

graph_conv, temporal_conv = (import_module(f"asma_fast.ops.{stem}") for stem in ("graph_conv", "temporal_conv"))

#: What is multiplied: arrays in float32 by multiply-adds or as TF32, arrays in half precision.
KINDS = ("float32", "tf32", "bfloat16", "float16")
ROUNDING = {"float32": 2.0**-24, "tf32": 2.0**-11, "bfloat16": 2.0**-8, "float16": 2.0**-11}
#: Of float32 the roundings of a sum count, elsewhere those of its terms and of the result.
ROUNDINGS = {"float32": 24.0, "tf32": 2.1, "bfloat16": 2.1, "float16": 2.1}

GRAPHS = pairwise(
    V=(1, 3, 17, 25, 33),
    T=(1, 2, 7, 30),
    C=(1, 2, 3, 16, 17, 64),
    O=(1, 3, 16, 33, 65),
    K=(1, 3, 5),
    bias=(False, True),
    affine=(False, True),
    rows=(False, True),
    pattern=(False, True),
    reading=("plain", "nodes", "view"),
)
#: Graphs whose entries, and then whose masks too, are too many to be kept; more joints than places of a tile.
WIDE = [
    {"V": 70, "T": 3, "C": 17, "O": 17, "K": 2, "bias": True, "affine": True, "rows": True, "pattern": True}
    | {"reading": "view"},
    {"V": 131, "T": 2, "C": 3, "O": 17, "K": 1, "bias": True, "affine": False, "rows": False, "pattern": False}
    | {"reading": "nodes"},
    {"V": 131, "T": 1, "C": 2, "O": 3, "K": 7, "bias": True, "affine": True, "rows": False, "pattern": True}
    | {"reading": "plain"},
]
TEMPORAL = pairwise(
    C=(1, 3, 16, 17, 64),
    O=(1, 3, 16, 33, 65),
    T=(1, 2, 7, 30),
    V=(1, 3, 17, 25, 150),
    k=(1, 2, 3, 9),
    stride=(1, 2, 3),
    dilation=(1, 2, 3),
    padding=(None, 0, (0, 5), (7, 1)),
)
GROUPED = pairwise(groups=(2, 3, 6), C=(6, 12, 48), O=(6, 18, 102), stride=(1, 2), dilation=(1, 2), k=(1, 3, 4))
#: So far apart that a tap at a time is laid out; a stride beyond all frames; no tap for some frames.
FAR = [
    {"C": 16, "O": 16, "T": 120, "V": 25, "k": 3, "dilation": 50, "padding": (50, 50)},
    {"C": 16, "O": 16, "T": 40, "V": 25, "k": 3, "stride": 7, "dilation": 5, "padding": (3, 0)},
    {"C": 8, "O": 8, "T": 5, "V": 3, "k": 1, "stride": 2**31 - 1, "padding": 0},
    {"C": 8, "O": 8, "T": 9, "V": 3, "k": 2, "stride": 4, "dilation": 4, "padding": (0, 0)},
]
#: Of each way through the kernels one, small: ThreadSanitizer is slow.
RACED_GRAPHS = [
    {"V": 17, "T": 9, "C": 17, "O": 20, "K": 2, "bias": True, "affine": True, "rows": True, "pattern": True}
    | {"reading": "view"},
    {"V": 70, "T": 2, "C": 3, "O": 3, "K": 2, "bias": True, "affine": True, "rows": False, "pattern": False}
    | {"reading": "plain"},
]
RACED_TEMPORAL = [
    {"C": 17, "O": 20, "T": 9, "V": 17, "k": 3, "stride": 2},
    {"C": 16, "O": 8, "T": 120, "V": 25, "k": 2, "dilation": 100},
    {"C": 4, "O": 4, "T": 5, "V": 3, "k": 3, "groups": 2},
]


@pytest.fixture(autouse=True)
def kind_of_products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "kind" in request.fixturenames:
        use = request.getfixturevalue("kind") == "tf32"
        monkeypatch.setattr(op_module, "allows_tf32", lambda: use)


def graph_case(shape: dict[str, Any], seed: int = 0) -> list[Any]:
    """The op's arguments in float64. A view masks a joint, reads a frame twice, flips nodes and turns coordinates."""
    random = torch.Generator().manual_seed(seed)
    v, t, c, o, k = (shape[axis] for axis in "VTCOK")
    clips, bodies, view = 2, 2, shape["reading"] == "view"

    def normal(*sizes: int) -> torch.Tensor:
        return torch.randn(*sizes, generator=random, dtype=torch.float64)

    pattern = torch.rand(k, v, v, generator=random) < min(1.0, 4 / v)
    adjacency = normal(*((clips * bodies,) if shape["rows"] else ()), k, v, v) * pattern
    x = normal(clips, c, t + 2, v, bodies) if view else normal(clips * bodies, c, t, v)
    nodes = torch.stack([torch.randperm(v, generator=random) for _ in range(clips)]).int()
    kept = max(1, v - 1) if view else v
    frames = torch.randint(0, t + 1, (clips, t), generator=random).int()
    joints = torch.stack([torch.randperm(v, generator=random)[:kept] for _ in range(clips)]).int()
    dims = min(c, 3)
    transform = torch.linalg.qr(normal(1, dims, dims))[0].float() if dims > 1 else None
    affine = (normal(v, c), normal(v, c)) if shape["affine"] else (None, None)
    maps = {
        "plain": [None] * 4,
        "nodes": [None, None, nodes, None],
        "view": [frames, joints, nodes[:, :kept], transform],
    }
    return [
        x,
        normal(k, o, c) / (k * c) ** 0.5,
        adjacency,
        normal(k, o) if shape["bias"] else None,
        *maps[shape["reading"]],
        *affine,
        pattern if shape["pattern"] else None,
    ]


def temporal_case(shape: dict[str, Any]) -> list[Any]:
    shape = {"T": 9, "V": 5, "stride": 1, "dilation": 1, "groups": 1, "padding": None} | shape
    random = torch.Generator().manual_seed(1)
    weight = torch.randn(shape["O"], shape["C"] // shape["groups"], shape["k"], generator=random, dtype=torch.float64)
    padding, reach = shape["padding"], shape["dilation"] * (shape["k"] - 1)
    if isinstance(padding, tuple):
        padding = (padding[0], padding[1] + max(0, reach + 1 - shape["T"] - sum(padding)))
    elif padding is not None:
        padding = (padding, padding + max(0, reach + 1 - shape["T"] - 2 * padding))
    sizes = temporal_conv.sizes_of(weight, shape["stride"], padding, shape["dilation"], shape["groups"])
    x = torch.randn(2, shape["C"], shape["T"], shape["V"], generator=random, dtype=torch.float64)
    return [x, weight, torch.randn(shape["O"], generator=random, dtype=torch.float64), *sizes]


def convert(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The change of a floating tensor; others, and a transform, which is float32 always, as they are."""
    return change(value) if isinstance(value, torch.Tensor) and value.dtype == torch.float64 else value


def channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def exact(op: Any, args: Sequence[Any], places: Sequence[int], g: torch.Tensor | None = None) -> list[torch.Tensor]:
    """The result, and the gradients of the arguments at ``places``, in float64."""
    leaves = [convert(arg, lambda a: a.detach().clone()) for arg in args]
    for place in places:
        leaves[place].requires_grad_()
    wide = [arg.double() if isinstance(arg, torch.Tensor) and arg.is_floating_point() else arg for arg in leaves]
    y = op.reference(*wide)
    y.backward(torch.ones_like(y) if g is None else g)
    return [y.detach(), *(leaves[place].grad for place in places)]


def absolute(value: Any) -> Any:
    return value.abs() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def assert_close(found: torch.Tensor, wanted: torch.Tensor, bound: torch.Tensor, kind: str, what: str) -> None:
    assert found.shape == wanted.shape, what
    room = ROUNDINGS[kind] * ROUNDING[kind] * bound + 1e-6
    worst = ((found.double() - wanted).abs() / room).max().item() if found.numel() else 0.0
    assert worst <= 1, f"{what}: {worst} times the budget"


def check(
    op: Any, backward: Callable[..., Any], args: list[Any], places: Sequence[int], kind: str, device: str = "cpu"
) -> None:
    """Forward and backward by the kernels for the device, of arguments that the type of ``kind`` holds exactly."""
    dtype = torch.float32 if kind in ("float32", "tf32") else getattr(torch, kind)
    args = [convert(arg, lambda a: a.to(dtype).double()) for arg in args]
    given = [convert(arg, lambda a: channels_last(a.to(dtype))) for arg in args]
    given = [arg.to(device) if isinstance(arg, torch.Tensor) else arg for arg in given]
    places = [place for place in places if args[place] is not None]
    y = op.run_native(*given)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(dtype).double()
    wanted = exact(op, args, places, g)
    bounds = exact(op, [absolute(arg) for arg in args], places, g.abs())
    assert y.is_contiguous(memory_format=torch.channels_last) or min(y.shape) <= 1
    assert_close(y.cpu(), wanted[0], bounds[0], kind, "y")
    found = backward(channels_last(g.to(dtype)).to(device), given, places)
    for place, gradient, exact_one, bound in zip(places, found, wanted[1:], bounds[1:], strict=True):
        assert_close(gradient.cpu(), exact_one, bound, kind, f"gradient of argument {place}")


def graph_backward(g: torch.Tensor, args: Sequence[Any], places: Sequence[int]) -> list[torch.Tensor]:
    needs = [place in places for place in graph_conv.DIFFERENTIABLE]
    found = graph_conv.BACKWARD.run_native(g, *args, needs)
    return [gradient for gradient, needed in zip(found, needs, strict=True) if needed]


def temporal_backward(g: torch.Tensor, args: Sequence[Any], places: Sequence[int]) -> list[torch.Tensor]:
    needs = [place in places for place in (0, 1, 2)]
    found = temporal_conv.BACKWARD.run_native(g, *args[:2], *args[3:], *needs)
    return [gradient for gradient, needed in zip(found, needs, strict=True) if needed]


def in_turn(shapes: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], str]]:
    """Each shape with a kind of products."""
    return [(shape, KINDS[i % 4]) for i, shape in enumerate(shapes)]


# That the order of threads does not show another test sees: here one order is enough.
@pytest.mark.parametrize("emulated", [2], indirect=True, ids=[""])
@pytest.mark.parametrize(("shape", "kind"), in_turn(GRAPHS + WIDE), ids=str)
def test_graph_convolutions(emulated: ModuleType, shape: dict[str, Any], kind: str) -> None:
    check(graph_conv.OP, graph_backward, graph_case(shape), graph_conv.DIFFERENTIABLE, kind)


@pytest.mark.parametrize("emulated", [2], indirect=True, ids=[""])
@pytest.mark.parametrize(
    ("shape", "kind"), in_turn(TEMPORAL + GROUPED) + [(far, kind) for far in FAR for kind in KINDS], ids=str
)
def test_temporal_convolutions(emulated: ModuleType, shape: dict[str, Any], kind: str) -> None:
    check(temporal_conv.OP, temporal_backward, temporal_case(shape), (0, 1, 2), kind)


def small_graph(**changes: Any) -> list[Any]:
    shape = {"V": 5, "T": 3, "C": 3, "O": 4, "K": 2, "bias": True, "affine": True, "rows": False, "pattern": False}
    return graph_case(shape | {"reading": "view"} | changes)


def narrow(args: Sequence[Any]) -> list[Any]:
    return [convert(arg, lambda a: a.float()) for arg in args]


def all_results(args: list[Any]) -> list[torch.Tensor]:
    """y and every gradient of a graph convolution in float32."""
    y = graph_conv.OP.run_native(*args)
    places = [place for place in graph_conv.DIFFERENTIABLE if args[place] is not None]
    return [y, *graph_backward(torch.ones_like(y), args, places)]


def test_the_order_of_threads_and_blocks_does_not_show(emulated_module: ModuleType, monkeypatch: Any) -> None:
    monkeypatch.setattr(op_module, "native", lambda: emulated_module)
    args = narrow(small_graph(T=30, O=33, C=17))
    temporal = narrow(temporal_case({"C": 17, "O": 33, "k": 3, "stride": 2}))
    found = []
    for seed in range(3):
        emulated_module.reseed(seed)
        y = temporal_conv.OP.run_native(*temporal)
        found.append([*all_results(args), y, *temporal_backward(torch.ones_like(y), temporal, (0, 1, 2))])
    for other in found[1:]:
        assert all(torch.equal(one, same) for one, same in zip(found[0], other, strict=True))


@pytest.mark.parametrize("axis", ["clips", "frames", "joints", "bodies"])
def test_no_clip_frame_joint_or_body(emulated: ModuleType, axis: str) -> None:
    sizes = {"clips": 2, "frames": 4, "joints": 5, "bodies": 2} | {axis: 0}
    x = torch.ones(sizes["clips"], 3, sizes["frames"], sizes["joints"], sizes["bodies"])
    v = sizes["joints"]
    args = [x, torch.ones(2, 4, 3), torch.ones(2, v, v), torch.ones(2, 4), None, None, None, None, None, None, None]
    y, *gradients = all_results(args)
    assert y.shape == (sizes["clips"] * sizes["bodies"], 4, sizes["frames"], v)
    assert all(not gradient.any() for gradient in gradients)
    given = [torch.ones(sizes["clips"], 3, sizes["frames"], v), torch.ones(8, 3, 1), torch.ones(8), 1, 0, 0, 1, 1]
    y = temporal_conv.OP.run_native(*given)
    if axis != "bodies":
        assert y.numel() == 0
        gradients = temporal_backward(y, given, (0, 1, 2))
        assert all(not gradient.any() for gradient in gradients)


def test_no_part_and_no_channel(emulated: ModuleType) -> None:
    x, adjacency = torch.ones(2, 3, 4, 5), torch.ones(0, 5, 5)
    rest = [None] * 7
    y, *gradients = all_results([x, torch.ones(0, 4, 3), adjacency, torch.ones(0, 4), *rest])
    assert y.shape == (2, 4, 4, 5)
    assert not y.any()
    assert not gradients[0].any()
    y, *_ = all_results([x[:, :0], torch.ones(2, 4, 0), torch.ones(2, 5, 5), torch.ones(2, 4), *rest])
    assert (y == 10).all()  # the bias of each of five sources, of two parts
    y = temporal_conv.OP.run_native(x[:, :0], torch.ones(8, 0, 3), torch.ones(8), 1, 1, 1, 1, 1)
    assert (y == 1).all()
    found = temporal_backward(y, [x[:, :0], torch.ones(8, 0, 3), torch.ones(8), 1, 1, 1, 1, 1], (0, 1, 2))
    assert (found[2] == 40).all()


@pytest.mark.parametrize("kind", ["float32", "tf32", "bfloat16"])
def test_an_entry_of_zero_carries_nothing_not_even_a_nan(emulated: ModuleType, kind: str) -> None:
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    adjacency = torch.zeros(2, 5, 5, dtype=dtype)
    adjacency[:, 0, 1] = adjacency[:, 2, 3] = 1
    x = torch.ones(1, 17, 3, 5, dtype=dtype)
    x[:, :, :, 2] = torch.nan
    weight = torch.ones(2, 20, 17, dtype=dtype)
    args = [x, weight, adjacency, torch.ones(2, 20, dtype=dtype), *[None] * 7]
    y = graph_conv.OP.run_native(*args)
    assert y[..., 3].isnan().all()
    assert (y[..., 1] == 36).all()
    assert not y[..., [0, 2, 4]].any()
    g = torch.ones_like(y)
    g[:, :, :, 3] = torch.nan
    args[0] = torch.ones_like(x)
    (gradient,) = graph_backward(channels_last(g), args, [0])
    assert gradient[..., 2].isnan().all()
    assert (gradient[..., 0] == 40).all()
    assert not gradient[..., [1, 3, 4]].any()
    g[:, :, :, 3] = 1
    g[:, :, :, [0, 2, 4]] = torch.nan  # of targets without entries
    (of_bias,) = graph_backward(channels_last(g), args, [3])
    assert (of_bias == 6).all()


def test_two_joints_may_play_one_node(emulated: ModuleType) -> None:
    shape = {"V": 4, "T": 3, "C": 3, "O": 4, "K": 2, "bias": True, "affine": True, "rows": False, "pattern": False}
    args = graph_case(shape | {"reading": "nodes"})
    args[6] = torch.tensor([[0, 1, 1, 0], [2, 2, 2, 3]], dtype=torch.int32)
    check(graph_conv.OP, graph_backward, args, graph_conv.DIFFERENTIABLE, "float32")


def test_a_gradient_does_not_depend_on_which_others_are_wanted(emulated: ModuleType) -> None:
    args = narrow(small_graph())
    g = channels_last(torch.randn(graph_conv.OP.run_native(*args).shape))
    everything = graph_backward(g, args, graph_conv.DIFFERENTIABLE)
    for place, wanted in zip(graph_conv.DIFFERENTIABLE, everything, strict=True):
        (found,) = graph_backward(g, args, [place])
        assert torch.equal(found, wanted)


def test_a_pattern_bars_gradients_and_entries_outside_it(emulated: ModuleType) -> None:
    args = narrow(small_graph(pattern=True, reading="plain"))
    _, *gradients = all_results(args)
    pattern = args[10]
    assert not gradients[2][~pattern].any()
    assert gradients[2][pattern].all()
    args[2] = torch.ones_like(args[2])
    with pytest.raises(ValueError, match="adjacency must be zero outside pattern"):
        graph_conv.OP.run_native(*args)


def test_strides_of_every_kind(emulated: ModuleType) -> None:
    args = narrow(small_graph())
    wanted = all_results(args)
    far = 2**31 + 7  # numbers between two clips; memory that nobody touches costs nothing
    n, c, t, v, m = args[0].shape
    each = c * t * v * m
    x = torch.empty(far + each).as_strided(args[0].shape, (far, 1, v * c, c, t * v * c))
    x.copy_(args[0])
    others = [args[0].contiguous(), x, args[0].flip(3).flip(3)]
    adjacency = args[2].transpose(1, 2).contiguous().transpose(1, 2)
    rows = args[2].expand(n * m, *args[2].shape)
    for given in others:
        found = all_results([given, args[1], adjacency, *args[3:]])
        assert all(torch.equal(one, same) for one, same in zip(found, wanted, strict=True))
    found = all_results([args[0], args[1], rows, *args[3:]])
    assert torch.equal(found[0], wanted[0])
    torch.testing.assert_close(found[3].sum(0), wanted[3])
    weight = torch.randn(8, 3, 3).transpose(1, 2)
    x = torch.randn(2, 3, 5, 4)
    sizes = (1, 1, 1, 1, 1)
    assert torch.equal(
        temporal_conv.OP.run_native(x, weight, None, *sizes),
        temporal_conv.OP.run_native(channels_last(x), weight.contiguous(), None, *sizes),
    )


def test_what_only_the_device_sees_is_checked_there(emulated: ModuleType) -> None:
    args = narrow(small_graph())
    for place, name, limit in ((4, "view.frames", 5), (5, "view.joints", 5), (6, "nodes", 5)):
        wrong = list(args)
        wrong[place] = args[place].clone()
        wrong[place][-1, -1] = limit
        with pytest.raises(ValueError, match=rf"{name} must lie in \[0, {limit}\), got {limit}"):
            graph_conv.OP.run_native(*wrong)
        with pytest.raises(ValueError, match=rf"{name} must lie in \[0, {limit}\), got {limit}"):
            all_results(wrong)


def test_more_joints_than_a_block_can_hold_are_an_error(emulated: ModuleType) -> None:
    x, weight = torch.ones(1, 1, 1, 257), torch.ones(1, 1, 1)
    with pytest.raises(ValueError, match="at most 256 joints"):
        graph_conv.OP.run_native(x, weight, torch.eye(257)[None], *[None] * 8)
