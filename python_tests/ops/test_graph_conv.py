import itertools
from functools import lru_cache

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
    native_array,
    opcheck,
    pairwise,
    to_tensors,
    variants,
)

from asma_fast import Skeleton, View
from asma_fast._backends import native
from asma_fast.ops import gather_view, graph_conv

IMPLEMENTATIONS = implementations()
DIFFERENTIABLE = ("x", "weight", "adjacency", "bias", "scale", "shift")
OPTIONS = {
    "bias": (False, True),
    "affine": (False, True),
    "rows": (False, True),
    "pattern": (False, True),
    "reading": ("plain", "nodes", "view"),
}
SHAPES = pairwise(
    V=(1, 3, 17, 20, 25, 33), T=(1, 2, 7, 50), C=(1, 2, 3, 16, 17, 64), O=(1, 3, 16, 33), K=(1, 3), **OPTIONS
)
SMALL = {"V": 5, "T": 3, "C": 3, "O": 4, "K": 2}


def _near_one(rng, shape):
    """Of either sign; products of them have no outlier that alone decides the largest error."""
    return rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape)


def _case(shape, dtype=np.float32, clips=2, bodies=2, draw=0):
    """Arguments of graph_conv, NumPy. A view masks a joint, reads a frame twice, flips nodes and turns coordinates."""
    v, t, c, o, k = (shape[axis] for axis in "VTCOK")
    rng = np.random.default_rng([draw, *(shape[axis] for axis in "VTCOK")])
    rows = clips * bodies
    pattern = rng.random((k, v, v)) < 0.4
    adjacency = _near_one(rng, (*((rows,) if shape.get("rows") else ()), k, v, v)) * pattern
    case = {"weight": rng.standard_normal((k, o, c)) / np.sqrt(k * c), "adjacency": adjacency}
    if shape.get("bias"):
        case["bias"] = rng.standard_normal((k, o))
    if shape.get("affine"):
        case |= {"scale": _near_one(rng, (v, c)), "shift": rng.standard_normal((v, c))}
    reading = shape.get("reading", "plain")
    kept = max(1, v - 1)
    nodes = np.stack([rng.permutation(v) for _ in range(clips)]).astype(np.int32)
    if reading == "view":
        dims = min(c, 3)
        case["x"] = rng.standard_normal((clips, c, t + 2, v, bodies))
        case["view"] = View(
            frames=rng.integers(0, t + 1, (clips, t)).astype(np.int32),
            joints=np.stack([rng.permutation(v)[:kept] for _ in range(clips)]).astype(np.int32),
            nodes=nodes[:, :kept].copy(),
            transform=np.linalg.qr(rng.standard_normal((1, dims, dims)))[0].astype(dtype) if dims > 1 else None,
        )
    else:
        case["x"] = rng.standard_normal((rows, c, t, v))
        if reading == "nodes":
            case["nodes"] = nodes
    case = {name: value.astype(dtype) if name in DIFFERENTIABLE else value for name, value in case.items()}
    if shape.get("pattern"):
        case["pattern"] = pattern
    return case


def _expected(case):
    """The definition in float64, one row after the other."""
    wide = {name: value.astype(np.float64) for name, value in case.items() if name in DIFFERENTIABLE}
    x, nodes, view = wide["x"], case.get("nodes"), case.get("view")
    if x.ndim == 5:
        view = view or View()
        if view.transform is not None:
            view = View(view.frames, view.joints, view.nodes, view.transform.astype(np.float64))
        nodes = view.graph_nodes
        clip = gather_view(x, view, impl="reference")
        x = clip.transpose(0, 4, 1, 2, 3).reshape(-1, clip.shape[1], *clip.shape[2:4])
    out = []
    for b, row in enumerate(x):
        node = np.arange(row.shape[2]) if nodes is None else nodes[b // (len(x) // len(nodes))]
        if "scale" in wide:
            row = row * wide["scale"][node].T[:, None] + wide["shift"][node].T[:, None]
        adjacency = wide["adjacency"][b] if wide["adjacency"].ndim == 4 else wide["adjacency"]
        product = np.einsum("koc,ctv->kotv", wide["weight"], row)
        if "bias" in wide:
            product += wide["bias"][:, :, None, None]
        out.append(np.einsum("kotv,kvw->otw", product, adjacency[:, node][:, :, node]))
    return np.stack(out)


def _torch(case):
    """The case as tensors, its view too: what differentiates, and what does not."""
    tensors = {name: torch.from_numpy(case[name]) for name in DIFFERENTIABLE if name in case}
    rest = {name: torch.from_numpy(case[name]) for name in ("nodes", "pattern") if name in case}
    if "view" in case:
        rest["view"] = View(*(None if a is None else torch.from_numpy(a) for a in case["view"].arrays()))
    return tensors, rest


def _gradients(case, impl, dtype=torch.float32):
    tensors, rest = _torch(case)
    return gradients(lambda **leaves: graph_conv(**leaves, **rest, impl=impl), tensors, dtype)


def _draws(count):
    """How many draws to pool: in a handful of numbers a float32 reference is right, or wrong, by luck."""
    return max(1, 48 // count)


def _pooled_gradients(shape, impl, dtype=torch.float32):
    v, c, o, k = (shape[axis] for axis in "VCOK")
    draws = _draws(min(k * o * c, k * v * v, k * o if shape["bias"] else k * o * c, v * c))
    each = [_gradients(_case(shape, draw=draw), impl, dtype) for draw in range(draws)]
    return {name: torch.stack([gradient[name] for gradient in each]) for name in each[0]}


@lru_cache
def _references(shape):
    """Exact and float32 gradients, which no instruction set changes."""
    shape = dict(shape)
    return _pooled_gradients(shape, "reference", torch.float64), _pooled_gradients(shape, "reference")


def _canonical(case):
    """The arguments of the registered op."""
    tensors, rest = _torch(case)
    view = rest.get("view", View())
    nodes = rest.get("nodes", view.graph_nodes)
    first = [tensors.get(name) for name in ("x", "weight", "adjacency", "bias")]
    maps = [view.frames, view.joints, nodes, view.transform]
    return [*first, *maps, tensors.get("scale"), tensors.get("shift"), rest.get("pattern")]


FULL = {**SMALL, "bias": True, "affine": True, "reading": "view"}


# ---- forward ----


@pytest.mark.parametrize("isa", instruction_sets())
def test_every_size_on_every_instruction_set(isa):
    for shape in SHAPES:
        cases = [_case(shape, draw=draw) for draw in range(_draws(4 * shape["O"] * shape["T"] * shape["V"]))]
        with instruction_set(isa), guarded_outputs():
            result = np.stack([graph_conv(**case, impl="cpu") for case in cases])
        exact = np.stack([_expected(case) for case in cases])
        reference = np.stack([graph_conv(**case, impl="reference") for case in cases])
        assert_within_budget(result, exact, reference, what=str(shape))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_implementation_is_the_definition(impl, dtype):
    tolerance = 1e-4 if dtype == np.float32 else 1e-12
    for options in pairwise(**OPTIONS):
        case = _case({**SMALL, **options}, dtype)
        np.testing.assert_allclose(
            graph_conv(**case, impl=impl), _expected(case), rtol=tolerance, atol=tolerance, err_msg=str(options)
        )


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("reading", ["plain", "view"])
def test_every_layout_and_kind(impl, reading):
    case = _case({**FULL, "C": 4, "reading": reading})
    expected = _expected(case)
    for name, x in variants(case["x"]):
        others = case if isinstance(x, np.ndarray) else {k: v for part in _torch(case) for k, v in part.items()}
        result = graph_conv(**{**others, "x": x}, impl=impl)
        assert isinstance(result, type(x)), name
        np.testing.assert_allclose(np.asarray(result), expected, rtol=1e-4, atol=1e-4, err_msg=name)
        memory = np.asarray(result).transpose(0, 2, 3, 1)
        assert memory.flags.c_contiguous, name


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("argument", ["weight", "adjacency", "bias", "scale", "shift", "pattern", "nodes"])
def test_every_layout_of_every_other_argument(impl, argument):
    case = _case({**SMALL, "bias": True, "affine": True, "pattern": True, "rows": True, "reading": "nodes"})
    expected = graph_conv(**case, impl=impl)
    for name, value in variants(case[argument]):
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(graph_conv(**{**case, argument: value}, impl=impl), expected, err_msg=name)


def test_a_broadcast_adjacency_is_read_through_its_zero_stride():
    case = _case({**SMALL, "bias": True})
    rows = np.broadcast_to(case["adjacency"], (len(case["x"]), *case["adjacency"].shape))
    assert_bitwise(graph_conv(**{**case, "adjacency": rows}), graph_conv(**case))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_reading_through_a_view_is_gathering_first(impl):
    case = _case({**SMALL, "bias": True, "affine": True, "reading": "view"}, np.float64)
    view = case.pop("view")
    clip = gather_view(case["x"], view, impl="reference")
    rows = clip.transpose(0, 4, 1, 2, 3).reshape(-1, clip.shape[1], *clip.shape[2:4])
    fused = graph_conv(**case, view=view, impl=impl)
    apart = graph_conv(**{**case, "x": rows}, nodes=view.nodes, impl=impl)
    np.testing.assert_allclose(fused, apart, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_masked_joints_carry_nothing_and_the_rest_is_not_renormalised(impl):
    skeleton = Skeleton.named("ntu-rgb+d")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 3, 2, 25, 1))
    weight, adjacency = rng.standard_normal((3, 4, 3)), skeleton.adjacency("spatial").astype(np.float64)
    kept = np.array([[j for j in range(25) if j not in (3, 20)]], np.int32)
    zeroed = x.copy()
    zeroed[:, :, :, [3, 20]] = 0
    whole = graph_conv(zeroed, weight, adjacency, impl="reference")
    masked = graph_conv(x, weight, adjacency, view=View(joints=kept), impl=impl)
    np.testing.assert_allclose(masked, whole[..., kept[0]], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_a_view_of_nodes_alone_relabels_the_joints(impl):
    case = _case({**SMALL, "bias": True}, np.float64)
    order = np.array([[4, 2, 0, 1, 3]], np.int32)
    back = np.argsort(order[0])
    relabelled = graph_conv(**{**case, "x": case["x"][..., back]}, impl="reference")
    np.testing.assert_allclose(graph_conv(**case, nodes=order, impl=impl), relabelled[..., order[0]], rtol=1e-12)
    clip = case["x"][..., None]
    np.testing.assert_allclose(
        graph_conv(**{**case, "x": clip}, view=View(nodes=order), impl=impl), relabelled[..., order[0]], rtol=1e-12
    )


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_two_joints_may_play_one_node(impl):
    case = _case({**SMALL, "bias": True, "affine": True}, np.float64)
    case["nodes"] = np.array([[1, 1, 0, 4, 1]], np.int32)
    np.testing.assert_allclose(graph_conv(**case, impl=impl), _expected(case), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_an_entry_of_zero_carries_nothing_not_even_a_nan(impl):
    case = _case({**SMALL, "K": 3, "bias": True, "affine": True}, np.float64)
    case["adjacency"][:, 2, :] = 0
    case["adjacency"][:, 2, 4] = 0.5
    case["adjacency"][1, :, 0] = 0
    clean = graph_conv(**case, impl=impl)
    for poison in (np.nan, np.inf):
        for name, index in (("x", (..., 2)), ("scale", 2), ("shift", (2, 0))):
            poisoned = {**case, name: case[name].copy()}
            poisoned[name][index] = poison
            result = graph_conv(**poisoned, impl=impl)
            assert not np.isfinite(result[..., 4]).any(), (name, poison)
            np.testing.assert_array_equal(result[..., :4], clean[..., :4], err_msg=f"{name} {poison}")
        poisoned = {**case, "bias": case["bias"].copy()}
        poisoned["bias"][1] = poison
        result = graph_conv(**poisoned, impl=impl)
        np.testing.assert_array_equal(result[..., 0], clean[..., 0])
        reached = (case["adjacency"][1] != 0).any(axis=0)
        assert not np.isfinite(result[..., reached]).any()


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("reading", ["plain", "nodes", "view"])
def test_empty_maps(impl, reading):
    case = _case({**FULL, "reading": reading})
    nothing = {**case, "x": case["x"][:0]}
    if "nodes" in nothing:
        nothing["nodes"] = nothing["nodes"][:1]
    if "view" in nothing:
        nothing["view"] = View(*(None if a is None else a[:1] for a in nothing["view"].arrays()))
    expected = _expected(case)
    assert graph_conv(**nothing, impl=impl).shape == (0, *expected.shape[1:])
    if reading == "view":
        view = View(np.zeros((1, 0), np.int32), np.zeros((1, 2), np.int32))
        assert graph_conv(**{**case, "view": view}, impl=impl).shape == (4, 4, 0, 2)
        view = View(joints=np.zeros((1, 0), np.int32))
        assert graph_conv(**{**case, "view": view}, impl=impl).shape == (4, 4, 5, 0)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_no_part_and_no_channel_give_zero(impl):
    x, adjacency = np.ones((2, 3, 4, 5), np.float32), np.ones((2, 5, 5), np.float32)
    weight = np.ones((2, 4, 3), np.float32)
    with guarded_outputs():
        result = graph_conv(x, weight[:0], adjacency[:0], impl=impl)
    np.testing.assert_array_equal(result, np.zeros((2, 4, 4, 5), np.float32))
    with guarded_outputs():
        result = graph_conv(x[:, :0], weight[..., :0], adjacency, np.ones((2, 4), np.float32), impl=impl)
    np.testing.assert_array_equal(result, np.full((2, 4, 4, 5), 10, np.float32))


# ---- gradients ----


@pytest.mark.parametrize("isa", instruction_sets())
def test_gradients_are_those_of_the_definition(isa):
    shapes = pairwise(V=(1, 3, 17, 25), T=(1, 7, 50), C=(1, 3, 16, 17, 64), O=(3, 16, 33), K=(1, 3), **OPTIONS)
    for shape in shapes:
        exact, reference = _references(tuple(shape.items()))
        with instruction_set(isa), guarded_outputs():
            result = _pooled_gradients(shape, "cpu")
        try:
            assert_gradients_match(result, exact, reference)
        except AssertionError as error:
            raise AssertionError(f"{shape}: {error}") from error


@pytest.mark.parametrize("options", pairwise(**OPTIONS), ids=str)
def test_gradcheck_of_our_kernels_in_float64(options):
    tensors, rest = _torch(_case({"V": 3, "T": 2, "C": 2, "O": 3, "K": 2, **options}, np.float64))
    leaves = {name: value.clone().requires_grad_() for name, value in tensors.items()}
    pattern = rest.get("pattern")
    if pattern is None:
        names = list(leaves)

        def convolve(*values):
            return graph_conv(**dict(zip(names, values, strict=True)), **rest, impl="cpu")

        assert torch.autograd.gradcheck(convolve, tuple(leaves.values()))
        return
    # A difference quotient must stay inside the pattern: entries as a vector.
    inside = pattern.expand(tensors["adjacency"].shape)
    leaves["adjacency"] = tensors["adjacency"][inside].clone().requires_grad_()
    names = list(leaves)

    def convolve_entries(*values):
        arguments = dict(zip(names, values, strict=True))
        entries = torch.zeros(inside.shape, dtype=torch.float64).masked_scatter(inside, arguments.pop("adjacency"))
        return graph_conv(**arguments, adjacency=entries, **rest, impl="cpu")

    assert torch.autograd.gradcheck(convolve_entries, tuple(leaves.values()))


@pytest.mark.parametrize("impl", implementations("reference", "cpu"))
@pytest.mark.parametrize("rows", [False, True])
def test_the_dense_gradient_reaches_entries_of_zero_and_a_pattern_bars_them(impl, rows):
    case = _case({**FULL, "rows": rows, "pattern": True, "reading": "plain"}, np.float64)
    pattern = np.broadcast_to(case["pattern"], case["adjacency"].shape)
    inside = _gradients(case, impl, torch.float64)["adjacency"].numpy()
    del case["pattern"]
    dense = _gradients(case, impl, torch.float64)["adjacency"].numpy()
    assert (dense[~pattern] != 0).all()
    assert (inside[~pattern] == 0).all()
    np.testing.assert_allclose(inside[pattern], dense[pattern], rtol=1e-12)


def test_what_a_view_does_not_read_has_a_gradient_of_exactly_zero():
    case = _case(FULL)
    view = View(frames=np.array([[0, 2, 2]], np.int32), joints=np.array([[3, 0, 1]], np.int32))
    gradient = _gradients({**case, "view": view}, "cpu")
    x = gradient["x"].numpy()
    assert (x[:, :, [1, 3, 4]] == 0).all()
    assert (x[:, :, :, [2, 4]] == 0).all()
    assert (x[:, :, [0, 2]][:, :, :, [0, 1, 3]] != 0).all()
    for name in ("scale", "shift"):
        assert (gradient[name].numpy()[[2, 4]] == 0).all()
        assert (gradient[name].numpy()[[0, 1, 3]] != 0).any(axis=1).all()
    assert (gradient["adjacency"].numpy()[:, [2, 4]] == 0).all()
    assert (gradient["adjacency"].numpy()[:, :, [2, 4]] == 0).all()


def test_an_entry_of_zero_carries_no_nan_back():
    case = _case({**SMALL, "bias": True}, np.float64)
    case["adjacency"][:, :, 3] = 0
    tensors, _ = _torch(case)
    for impl in implementations("reference", "cpu"):
        x, bias = (tensors[name].clone().requires_grad_() for name in ("x", "bias"))
        y = graph_conv(x, tensors["weight"], tensors["adjacency"], bias, impl=impl)
        cotangent = torch.ones_like(y)
        cotangent[..., 3] = torch.nan
        y.backward(cotangent)
        assert x.grad.isfinite().all(), impl
        assert bias.grad.isfinite().all() or impl == "reference"


@pytest.mark.parametrize("wanted", DIFFERENTIABLE)
def test_a_gradient_does_not_depend_on_which_others_are_wanted(wanted):
    tensors, rest = _torch(_case({**FULL, "V": 17, "T": 9, "C": 17}))
    everything = _gradients(_case({**FULL, "V": 17, "T": 9, "C": 17}), "cpu")
    alone = {name: value.clone().requires_grad_(name == wanted) for name, value in tensors.items()}
    y = graph_conv(**alone, **rest)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y.backward(cotangent.to(y.dtype))
    assert_bitwise(alone[wanted].grad, everything[wanted])
    assert all(leaf.grad is None for name, leaf in alone.items() if name != wanted)


@pytest.mark.parametrize("layout", ["contiguous", "channels last", "expanded", "every second"])
def test_every_layout_of_the_cotangent(layout):
    tensors, _ = _torch(_case({**SMALL, "V": 6}))
    leaves = {name: value.clone().requires_grad_() for name, value in tensors.items()}
    y = graph_conv(**leaves)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    if layout == "channels last":
        cotangent = cotangent.contiguous(memory_format=torch.channels_last)
    elif layout == "expanded":
        cotangent = cotangent[:1, :, :1].expand(y.shape)
    elif layout == "every second":
        cotangent = cotangent.repeat_interleave(2, dim=3)[..., ::2]
    exact = torch.autograd.grad(graph_conv(**leaves, impl="reference"), list(leaves.values()), cotangent)
    for result, wanted in zip(torch.autograd.grad(y, list(leaves.values()), cotangent), exact, strict=True):
        torch.testing.assert_close(result, wanted, rtol=1e-4, atol=1e-4)


def test_gradients_of_empty_batches_are_zero():
    case = _case(SMALL)
    tensors, _ = _torch({**case, "x": case["x"][:0]})
    leaves = {name: value.clone().requires_grad_() for name, value in tensors.items()}
    with guarded_outputs():
        graph_conv(**leaves).sum().backward()
    assert leaves["x"].grad.shape == leaves["x"].shape
    assert (leaves["weight"].grad == 0).all()
    assert (leaves["adjacency"].grad == 0).all()


def test_a_transform_has_no_gradient_and_there_is_no_second_derivative():
    tensors, rest = _torch(_case(FULL, np.float64))
    rest["view"].transform.requires_grad_()
    leaf = tensors["x"].clone().requires_grad_()
    y = graph_conv(**{**tensors, "x": leaf}, **rest, impl="cpu")
    (gradient,) = torch.autograd.grad(y.square().sum(), leaf, create_graph=True)
    assert rest["view"].transform.grad is None
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


# ---- torch ----


@pytest.mark.parametrize("options", pairwise(**OPTIONS), ids=str)
def test_opcheck(options):
    arguments = _canonical(_case({**SMALL, **options}))
    for place in (0, 1, 2, 3, 8, 9):
        if arguments[place] is not None:
            arguments[place].requires_grad_()
    opcheck("graph_conv", *arguments)
    arguments = [a.detach() if isinstance(a, torch.Tensor) else a for a in arguments]
    g = torch.ops.asma_fast.graph_conv(*arguments)
    present = [arguments[place] is not None for place in (0, 1, 2, 3, 8, 9)]
    opcheck("graph_conv_backward", g, *arguments, present)
    assert all(
        gradient.numel() == 0 for gradient in torch.ops.asma_fast.graph_conv_backward(g, *arguments, [False] * 6)
    )


def test_compiles_once_for_every_size():
    def fused(x, weight, adjacency, bias, frames, joints, scale, shift):
        view = View(frames=frames, joints=joints)
        return graph_conv(x, weight, adjacency, bias, view=view, scale=scale, shift=shift).relu()

    def inner(x, weight, adjacency, nodes, pattern):
        return graph_conv(x, weight, adjacency, nodes=nodes, pattern=pattern).relu()

    fused_batches, inner_batches = [], []
    sizes = {"C": 4, "O": 8, "K": 5}  # all different: sizes that agree by chance are taken for one
    for clips, t, v in ((6, 7, 13), (9, 17, 3), (3, 2, 23)):
        tensors, rest = _torch(_case({**FULL, **sizes, "V": v, "T": t}, clips=clips))
        view = rest["view"]
        fused_batches.append([*(tensors[n] for n in ("x", "weight", "adjacency", "bias")), view.frames, view.joints])
        fused_batches[-1] += [tensors["scale"], tensors["shift"]]
        tensors, rest = _torch(_case({**sizes, "V": v, "T": t, "pattern": True, "reading": "nodes"}, clips=clips))
        inner_batches.append([*(tensors[n] for n in ("x", "weight", "adjacency")), rest["nodes"], rest["pattern"]])
    check_compiles(fused, fused_batches)
    check_compiles(inner, inner_batches)


def test_compiled_gradients_are_the_eager_ones():
    tensors, rest = _torch(_case(FULL))

    def loss(tensors):
        return graph_conv(**tensors, **rest).square().sum()

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    results = []
    for fn in (loss, compiled):
        leaves = {name: value.clone().requires_grad_() for name, value in tensors.items()}
        fn(leaves).backward()
        results.append(tuple(leaf.grad for leaf in leaves.values()))
    torch._dynamo.reset()
    assert_bitwise(results[1], results[0])


def test_autocast_computes_in_float32():
    tensors, rest = _torch(_case({**FULL, "reading": "plain"}))
    expected = graph_conv(**tensors, **rest)
    leaves = {name: value.clone().requires_grad_() for name, value in tensors.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = graph_conv(**leaves, **rest)
        halved = graph_conv(**{name: value.bfloat16() for name, value in tensors.items()}, **rest, impl="cpu")
    assert_bitwise(result, expected)
    assert halved.dtype == torch.float32
    result.sum().backward()
    assert all(leaf.grad.dtype == torch.float32 for leaf in leaves.values())


def test_the_reference_accumulates_half_precision_in_float32():
    tensors, rest = _torch(_case({**FULL, "reading": "plain", "V": 25, "C": 64}))
    halved = {name: value.bfloat16() for name, value in tensors.items()}
    result = graph_conv(**halved, **rest)
    wide = graph_conv(**{name: value.float() for name, value in halved.items()}, **rest, impl="reference")
    assert_bitwise(result.float(), wide.bfloat16().float())


# ---- threads ----


@pytest.mark.parametrize("shape", [{**FULL, "V": 25, "T": 50, "C": 16, "O": 17}, {**SMALL, "rows": True, "bias": True}])
def test_the_number_of_threads_does_not_show(shape):
    case = _case(shape, clips=20)
    check_threads_bitwise(lambda: graph_conv(**case, impl="cpu"))
    check_threads_bitwise(lambda: tuple(_gradients(case, "cpu").values()))


def test_in_a_forked_worker():
    case = _case({**FULL, "V": 25, "T": 30}, clips=8)
    arguments = _canonical(case)
    check_forked(lambda: graph_conv(**case, impl="cpu"))
    g = torch.ones_like(torch.ops.asma_fast.graph_conv(*arguments))
    check_forked(lambda: torch.ops.asma_fast.graph_conv_backward(g, *arguments, [True] * 6))


# ---- errors ----

INT = np.array([[0, 1, 2, 3, 4]], np.int32)
BAD = [
    ({"x": np.ones((3, 3, 5), np.float32)}, ValueError, "x must have shape .* got"),
    ({"x": [[1.0]]}, TypeError, "x must be a NumPy array or a torch tensor, got list"),
    ({"x": np.ones((4, 3, 3, 5), np.int64)}, TypeError, "x must be .*float32.* got int64"),
    ({"x": np.ones((4, 2, 3, 5), np.float32)}, ValueError, "weight must have shape .*C=2.* got"),
    ({"x": np.ones((4, 3, 3, 6), np.float32)}, ValueError, "x has 6 joints, the adjacency 5 nodes"),
    ({"weight": np.ones((2, 4, 3))}, TypeError, "weight must have the dtype of x, float32, got float64"),
    ({"weight": np.ones((3, 4, 3), np.float32)}, ValueError, "adjacency must have shape .*K=3.* got"),
    ({"weight": torch.ones(2, 4, 3)}, TypeError, "weight must be a NumPy array as x is"),
    ({"adjacency": np.ones((2, 5, 4), np.float32)}, ValueError, "adjacency must have shape .* got"),
    ({"adjacency": np.ones((3, 2, 5, 5), np.float32)}, ValueError, "adjacency must have shape .*B=4.* got"),
    ({"adjacency": None}, TypeError, "adjacency must be a NumPy array or a torch tensor"),
    ({"bias": np.ones((2, 5), np.float32)}, ValueError, "bias must have shape .*C_out=4.* got"),
    ({"scale": np.ones((5, 3), np.float32)}, ValueError, "scale and shift must be given together"),
    (
        {"scale": np.ones((4, 3), np.float32), "shift": np.ones((5, 3), np.float32)},
        ValueError,
        "scale must have shape .*V=5.* got",
    ),
    ({"pattern": np.ones((2, 5, 5), np.uint8)}, TypeError, "pattern must be bool, got uint8"),
    ({"pattern": np.ones((1, 5, 5), bool)}, ValueError, "pattern must have shape .*K=2.* got"),
    ({"pattern": np.zeros((2, 5, 5), bool)}, ValueError, "adjacency must be zero outside pattern, got .* at "),
    ({"nodes": INT[:, :4]}, ValueError, "nodes must have shape .*joints=5.* got"),
    ({"nodes": INT.astype(np.int64)}, TypeError, "nodes must be int32, got int64"),
    ({"nodes": INT.repeat(3, 0)}, ValueError, "nodes must have a number of rows that divides the 4 rows"),
    ({"nodes": INT + 1}, ValueError, r"nodes must lie in \[0, 5\), got"),
    ({"nodes": INT - 1}, ValueError, r"nodes must lie in \[0, 5\), got"),
    ({"nodes": INT, "view": View()}, ValueError, "view and nodes exclude each other"),
    ({"view": "mirror"}, TypeError, "view must be a View, got str"),
    ({"view": View(frames=INT)}, ValueError, "view reads a clip"),
    ({"impl": "fast"}, ValueError, "impl must be one of"),
]
BAD_VIEWS = [
    (View(frames=INT), r"view.frames must lie in \[0, T?3?\)"),
    (View(frames=INT - 1), r"view.frames must lie in \[0, T?3?\)"),
    (View(joints=INT + 1, nodes=INT), r"view.joints must lie in \[0, V?5?\)"),
    (View(joints=INT, nodes=INT + 1), r"view.nodes must lie in \[0, 5\), got"),
    (View(nodes=INT - 1), r"view.nodes must lie in \[0, 5\), got"),
    (View(joints=INT.repeat(3, 0)), "view.joints must have shape .* got"),
    (View(nodes=INT[:, :4]), "view.nodes must have shape .*joints=5.* got"),
]


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(("change", "error", "message"), BAD, ids=[b[2] for b in BAD])
def test_bad_input_is_told_what_was_wanted(impl, change, error, message):
    arguments = {**_case(SMALL), "impl": impl, **change}
    with pytest.raises(error, match=message):
        graph_conv(**arguments)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(("view", "message"), BAD_VIEWS, ids=[b[1] + str(i) for i, b in enumerate(BAD_VIEWS)])
def test_a_view_that_does_not_fit_is_an_error(impl, view, message):
    case = _case(SMALL)
    with pytest.raises(ValueError, match=message):
        graph_conv(**{**case, "x": np.ones((2, 3, 3, 5, 2), np.float32)}, view=view, impl=impl)


def test_a_nan_outside_the_pattern_is_not_zero():
    case = _case({**SMALL, "rows": True, "pattern": True})
    outside = np.argwhere(~case["pattern"])[0]
    case["adjacency"][(1, *outside)] = np.nan
    for impl in IMPLEMENTATIONS:
        with pytest.raises(ValueError, match=r"adjacency must be zero outside pattern, got .*nan at "):
            graph_conv(**case, impl=impl)


def test_backward_checks_its_arguments():
    arguments = _canonical(_case(SMALL))
    g = torch.ops.asma_fast.graph_conv(*arguments)
    needs = [True, True, True, False, False, False]
    backward = torch.ops.asma_fast.graph_conv_backward
    with pytest.raises(ValueError, match=r"g must have shape .* got"):
        backward(g[..., :1], *arguments, needs)
    with pytest.raises(TypeError, match="g must have the dtype of x"):
        backward(g.double(), *arguments, needs)
    with pytest.raises(ValueError, match="needs asks for the gradient of argument 3, which is None"):
        backward(g, *arguments, [True] * 6)
    with pytest.raises(ValueError, match="needs must have 6 entries, got 2"):
        backward(g, *arguments, [True] * 2)


def test_numba_refuses_what_it_cannot_differentiate():
    tensors, _ = _torch(_case(SMALL))
    if "numba" not in IMPLEMENTATIONS:
        pytest.skip("numba is not installed")
    assert graph_conv(**tensors, impl="numba").shape == graph_conv(**tensors).shape
    for name in tensors:
        with pytest.raises(ValueError, match=r"numba.* forward only"):
            graph_conv(**{**tensors, name: tensors[name].clone().requires_grad_()}, impl="numba")


def test_the_cpu_kernels_name_the_dtypes_they_have():
    tensors, _ = _torch(_case(SMALL))
    halved = {name: value.half() for name, value in tensors.items()}
    with pytest.raises(TypeError, match="impl='cpu' takes float32 or float64, got float16"):
        graph_conv(**halved, impl="cpu")


def test_sizes_cover_every_option():
    for (a, values), (b, others) in itertools.combinations(OPTIONS.items(), 2):
        assert {(s[a], s[b]) for s in SHAPES} == set(itertools.product(values, others))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_maps_of_every_layout_give_the_same_bits(impl):
    case = _case({**SMALL, "reading": "view"})
    x, view, weight, adjacency = (case[name] for name in ("x", "view", "weight", "adjacency"))

    def convolve(x, view):
        return graph_conv(
            x, *(to_tensors(weight, adjacency) if torch.is_tensor(x) else (weight, adjacency)), view=view, impl=impl
        )

    check_map_layouts(convolve, x, view)


def test_forward_mode_is_an_error():
    tensors, _ = _torch(_case(SMALL))
    for name in ("x", "weight", "adjacency"):
        check_forward_mode_refused(
            lambda leaf, name=name: graph_conv(**{**tensors, name: leaf}, impl="cpu"), tensors[name]
        )


def test_entries_that_32_bits_cannot_count_are_an_error():
    one = np.ones((1, 1, 1), np.float32)
    joints = 46341
    with pytest.raises(ValueError, match=r"K · V'² must be below 2\^31, got K=1 and V'=46341"):
        graph_conv(np.ones((1, 1, 1, joints), np.float32), one, one, nodes=np.zeros((1, joints), np.int32), impl="cpu")


def test_working_memory_beyond_the_address_space_is_an_error():
    number = np.zeros(1, np.float32)
    out = native_array(number, (1, 1, 1, 1), (1, 1, 1, 1))
    x, weight = native_array(number, (1, 2**60, 1, 1), (0, 0, 0, 0)), native_array(number, (1, 1, 2**60), (0, 2**60, 1))
    adjacency = native_array(number, (1, 1, 1), (1, 1, 1))
    with pytest.raises(ValueError, match="the working memory of a call must have a size that fits"):
        native().graph_conv(x, weight, adjacency, *[None] * 8, out)


@pytest.mark.parametrize("wrong", ["weight", "adjacency", "bias", "scale", "shift", "pattern", "nodes", "out"])
def test_the_native_entry_refuses_what_it_would_misread(wrong):
    case = _case({**SMALL, "bias": True, "affine": True, "pattern": True, "reading": "nodes"})
    x = np.ascontiguousarray(case["x"].transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    names = ("weight", "adjacency", "bias", "frames", "joints", "nodes", "transform", "scale", "shift", "pattern")
    arrays = {name: case.get(name) for name in names}
    out = np.zeros((*x.shape[:1], *x.shape[2:], arrays["weight"].shape[1]), np.float32).transpose(0, 3, 1, 2)
    arrays["out"] = out
    arrays[wrong] = np.ascontiguousarray(arrays[wrong])[..., :-1].copy()
    with pytest.raises(ValueError, match=wrong):
        native().graph_conv(native_array(x), *(None if a is None else native_array(a) for a in arrays.values()))


@pytest.mark.parametrize("wrong", ["x_grad", "weight_grad", "adjacency_grad", "bias_grad", "scale_grad", "shift_grad"])
def test_the_native_entry_refuses_gradients_of_other_sizes(wrong):
    case = _case({**SMALL, "bias": True, "affine": True})
    x = case["x"]
    names = ("x", "weight", "adjacency", "bias", "frames", "joints", "nodes", "transform", "scale", "shift", "pattern")
    g = np.zeros((*x.shape[:1], *x.shape[2:], case["weight"].shape[1]), np.float32).transpose(0, 3, 1, 2)
    arguments = [None if case.get(name) is None else native_array(case[name]) for name in names]
    grads = {f"{name}_grad": None for name in DIFFERENTIABLE}
    grads[wrong] = native_array(np.zeros((*case[wrong.removesuffix("_grad")].shape[:-1], 1), np.float32))
    with pytest.raises(ValueError, match=wrong):
        native().graph_conv_backward(native_array(g), *arguments, *grads.values())


# ---- the native entry's channel sums, and their gradient ----


def _native_forward(case, mean=0.0):
    """``(out, sums)`` of the native entry, every argument as it reads them."""
    arguments = [None if a is None else a.numpy() for a in _canonical(case)]
    if mean:
        arguments[3] = arguments[3] + np.asarray(mean, arguments[3].dtype)
    shape = graph_conv(**case, impl="cpu").shape
    out = np.full((shape[0], *shape[2:], shape[1]), np.nan, case["x"].dtype).transpose(0, 3, 1, 2)
    sums = np.full((2, shape[1]), np.nan)
    native().graph_conv(*(None if a is None else native_array(a) for a in (*arguments, out, sums)))
    return out, sums


def _native_backward(case, g, y=None, sums_grad=None):
    """The gradients of all that is there."""
    arguments = [None if a is None else a.numpy() for a in _canonical(case)]
    grads = [
        None if arguments[place] is None else np.full(arguments[place].shape, np.nan, g.dtype)
        for place in (0, 1, 2, 3, 8, 9)
    ]
    order = (0, 4, 2, 3, 1) if grads[0].ndim == 5 else (0, 2, 3, 1)
    grads[0] = np.ascontiguousarray(grads[0].transpose(order)).transpose(np.argsort(order))
    rest = (g, *arguments, *grads, y, sums_grad)
    native().graph_conv_backward(*(None if a is None else native_array(a) for a in rest))
    return [grad for grad in grads if grad is not None]


@pytest.mark.parametrize("isa", instruction_sets())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_channel_sums_of_every_size(isa, dtype):
    for shape in SHAPES:
        case = _case(shape, dtype)
        with instruction_set(isa):
            out, sums = _native_forward(case)
            assert_bitwise(out, graph_conv(**case, impl="cpu"))
        wide = out.astype(np.float64)
        scale = np.abs(wide).sum(axis=(0, 2, 3)), (wide * wide).sum(axis=(0, 2, 3))
        for got, exact, size in zip(sums, (wide.sum(axis=(0, 2, 3)), scale[1]), scale, strict=True):
            np.testing.assert_allclose(
                got, exact, atol=16 * np.finfo(dtype).eps * size.max(), rtol=0, err_msg=str(shape)
            )


@pytest.mark.parametrize("isa", instruction_sets())
def test_channel_sums_keep_a_variance_far_below_the_mean(isa):
    case = _case({**SMALL, "V": 25, "T": 50, "O": 17, "K": 1, "C": 16, "bias": True}, clips=8)
    case["adjacency"] = np.eye(25, dtype=np.float32)[None]
    with instruction_set(isa):
        out, sums = _native_forward(case, mean=1000.0)
    wide = out.astype(np.float64)
    count = wide.size // wide.shape[1]
    mean = sums[0] / count
    np.testing.assert_allclose(mean, wide.mean(axis=(0, 2, 3)), rtol=1e-9)
    np.testing.assert_allclose(sums[1] / count - mean**2, wide.var(axis=(0, 2, 3)), rtol=1e-4)


def test_channel_sums_of_nothing_are_zero():
    case = _case(SMALL)
    out, sums = _native_forward({**case, "x": case["x"][:0]})
    assert out.size == 0
    assert_bitwise(sums, np.zeros((2, 4)))


@pytest.mark.parametrize("isa", instruction_sets())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_gradient_of_channel_sums_joins_that_of_the_result(isa, dtype):
    for shape in pairwise(V=(1, 17, 25), T=(1, 7), C=(3, 16), O=(1, 3, 16, 33), K=(1, 3), **OPTIONS):
        case = _case(shape, dtype)
        rng = np.random.default_rng(0)
        with instruction_set(isa):
            y, _ = _native_forward(case)
            g = rng.standard_normal(y.transpose(0, 2, 3, 1).shape).astype(dtype).transpose(0, 3, 1, 2)
            sums_grad = rng.standard_normal((2, y.shape[1]))
            joined = g + sums_grad[0][:, None, None] + 2 * y.astype(np.float64) * sums_grad[1][:, None, None]
            joined = np.ascontiguousarray(joined.astype(dtype).transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
            result, expected = _native_backward(case, g, y, sums_grad), _native_backward(case, joined)
        for got, wanted in zip(result, expected, strict=True):
            tolerance = 64 * np.finfo(dtype).eps * np.abs(wanted).max()
            np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance, err_msg=str(shape))


def test_the_gradient_of_channel_sums_keeps_its_digits_where_the_mean_is_large():
    """Batch-norm's gradient is orthogonal to 1 and to y: the sums' parts cancel most of each other."""
    case = _case({**SMALL, "V": 25, "T": 50, "O": 16, "K": 1, "C": 16, "bias": True}, clips=8)
    case["adjacency"] = np.eye(25, dtype=np.float32)[None]
    y, sums = _native_forward(case, mean=1000.0)
    mean = sums[0] / (y.size // 16)
    sums_grad = np.stack([-2 * mean, np.ones(16)])
    *_, bias_grad = _native_backward(case, np.zeros_like(y), y, sums_grad)
    centred = 2 * (y.astype(np.float64) - mean[:, None, None])
    assert np.abs(bias_grad - centred.sum(axis=(0, 2, 3))).max() < 1e-6 * np.abs(centred).sum(axis=(0, 2, 3)).min()


def test_channel_sums_do_not_depend_on_the_number_of_threads():
    case = _case({**FULL, "V": 25, "T": 50, "C": 16, "O": 17}, clips=20)
    y, _ = _native_forward(case)
    check_threads_bitwise(lambda: _native_forward(case)[1])
    check_threads_bitwise(lambda: tuple(_native_backward(case, y, y, np.ones((2, 17)))))


def test_the_native_entry_refuses_sums_that_do_not_fit():
    case = _case(SMALL)
    out, sums = _native_forward(case)
    arguments = [None if a is None else native_array(a.numpy()) for a in _canonical(case)]
    for bad, error in ((sums[:, :3].copy(), ValueError), (sums.T.copy().T, ValueError)):
        with pytest.raises(error, match="sums"):
            native().graph_conv(*arguments, native_array(out), native_array(bad))
    with pytest.raises((TypeError, ValueError), match="sums must be float64"):
        native().graph_conv(*arguments, native_array(out), native_array(sums.astype(np.float32)))
    nothing = [None] * 6
    y, good = native_array(out), native_array(sums)
    with pytest.raises(ValueError, match="y and sums_grad must be given together"):
        native().graph_conv_backward(y, *arguments, *nothing, y)
    with pytest.raises(ValueError, match="sums_grad"):
        native().graph_conv_backward(y, *arguments, *nothing, y, native_array(sums[:, :3].copy()))
    with pytest.raises(ValueError, match="y must have the shape of g"):
        native().graph_conv_backward(y, *arguments, *nothing, native_array(out[:, :, :1].copy()), good)
