"""The passes of a training block, each against its reference, and batch-norm through their sums against torch's."""

from __future__ import annotations

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
    check_threads_bitwise,
    gradients,
    guarded_outputs,
    implementations,
    instruction_set,
    instruction_sets,
    native_array,
    opcheck,
    pairwise,
    to_numpy,
    variants,
)
from torch.nn import functional

from asma_fast import Skeleton, View
from asma_fast._backends import native
from asma_fast.ops import (
    block_graph_conv,
    block_inference,
    block_output,
    block_temporal_conv,
    dropout,
    graph_conv,
    temporal_conv,
)

IMPLEMENTATIONS = implementations()
GRAPHS = pairwise(B=(1, 3), C=(1, 3, 16, 17), C_out=(1, 5, 16, 33, 64), T=(1, 2, 7, 50), V=(1, 3, 17, 25))
CONVOLUTIONS = [
    *pairwise(
        B=(1, 3),
        C=(1, 3, 16, 17, 64),
        C_out=(1, 5, 16, 33, 64),
        T=(1, 2, 7, 50),
        V=(1, 3, 17, 25),
        k=(1, 4, 9),
        stride=(1, 2),
        affine=(True, False),
    ),
    {"C": 12, "C_out": 18, "groups": 3, "k": 3, "T": 11, "V": 5, "dilation": 2},
]
OUTPUTS = pairwise(
    N=(1, 3),
    M=(1, 2),
    C=(1, 2, 3, 7, 16, 17, 31, 48, 64, 256),
    T=(1, 2, 7, 50),
    V=(1, 3, 17, 25),
    p=(0.0, 0.5, 0.1),
    residual=("none", "plain", "affine"),
)


def _random(shape):
    return np.random.default_rng(sum(31**i * size for i, size in enumerate(shape.values()) if isinstance(size, int)))


def _graph_case(shape):
    shape = {"B": 2, "C": 3, "C_out": 4, "T": 5, "V": 6} | shape
    rng, v = _random(shape), shape["V"]
    adjacency = rng.standard_normal((2, v, v)) * (rng.random((2, v, v)) < 3 / v)
    arrays = {
        "x": rng.standard_normal((shape["B"], shape["C"], shape["T"], v)),
        "weight": rng.standard_normal((2, shape["C_out"], shape["C"])),
        "adjacency": adjacency,
        "bias": rng.standard_normal((2, shape["C_out"])),
        "scale": rng.standard_normal((v, shape["C"])),
        "shift": rng.standard_normal((v, shape["C"])),
    }
    return block_graph_conv, arrays, {}


def _temporal_case(shape):
    shape = {"B": 2, "C": 3, "C_out": 4, "T": 7, "V": 3, "k": 3, "groups": 1, "affine": True} | shape
    rng = _random(shape)
    arrays = {
        "x": rng.standard_normal((shape["B"], shape["C"], shape["T"], shape["V"])),
        "weight": rng.standard_normal((shape["C_out"], shape["C"] // shape["groups"], shape["k"])),
        "bias": rng.standard_normal(shape["C_out"]),
    }
    if shape["affine"]:
        arrays |= {"scale": rng.standard_normal(shape["C"]), "shift": rng.standard_normal(shape["C"])}
    return block_temporal_conv, arrays, {name: shape.get(name, 1) for name in ("stride", "dilation", "groups")}


def _inference_case(shape):
    _, arrays, options = _temporal_case(shape | {"affine": True})
    rng = _random(shape)
    y = temporal_conv(arrays["x"], arrays["weight"], **options, impl="reference")
    return block_inference, arrays | {"residual": rng.standard_normal(y.shape)}, options


def _output_case(shape):
    shape = {"N": 2, "M": 1, "C": 3, "T": 5, "V": 3, "p": 0.5, "residual": "affine"} | shape
    rng, c = _random(shape), shape["C"]
    size = (shape["N"] * shape["M"], c, shape["T"], shape["V"])
    arrays = {
        "x": rng.standard_normal(size),
        "scale": rng.standard_normal(c) + 2,
        "shift": rng.standard_normal(c),
    }
    if shape["residual"] != "none":
        arrays["residual"] = rng.standard_normal(size)
    if shape["residual"] == "affine":
        arrays |= {"residual_scale": rng.standard_normal(c), "residual_shift": rng.standard_normal(c)}
    ids = torch.from_numpy(rng.integers(-(2**63), 2**63 - 1, shape["N"]))
    return block_output, arrays, {"p": shape["p"], "seed": 2**40 + 7, "block": 3, "ids": ids}


CASES = {"graph": _graph_case, "temporal": _temporal_case, "inference": _inference_case, "output": _output_case}
SHAPES = {"graph": GRAPHS, "temporal": CONVOLUTIONS, "inference": CONVOLUTIONS, "output": OUTPUTS}
TRAINED = ("graph", "temporal", "output")


def _tensors(arrays, dtype=torch.float32):
    return {name: torch.from_numpy(array).to(dtype) for name, array in arrays.items()}


def _joined(op, options, impl):
    """Everything the op gives in one float64 tensor, so that gradients arrive through all of it."""

    def fn(**tensors):
        result = op(**tensors, **options, impl=impl)
        return torch.cat([part.double().flatten() for part in (result if isinstance(result, tuple) else (result,))])

    return fn


def _unfused(case, options, impl):
    """The same by the plain ops and torch: what fusion may not be worse than."""

    def fn(x, weight=None, bias=None, scale=None, shift=None, residual=None, adjacency=None, **more):
        if case == "output":
            affine = {"scale": scale, "shift": shift, "residual": residual, **more}
            return block_output(x, **affine, **options, impl="reference").double().flatten()
        if case == "graph":
            y = graph_conv(x, weight, adjacency, bias, scale=scale, shift=shift, impl=impl)
        else:
            if scale is not None:
                x = functional.relu(x * scale[:, None, None] + shift[:, None, None])
            y = temporal_conv(x, weight, bias, **options, impl=impl)
        if case == "inference":
            return functional.relu(y + residual).double().flatten()
        wide = y.double()
        return torch.cat([wide.flatten(), wide.sum((0, 2, 3)), wide.square().sum((0, 2, 3))])

    return fn


def _parts(result):
    result = to_numpy(result)
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("isa", instruction_sets())
@pytest.mark.parametrize("case", CASES)
def test_every_size_on_every_instruction_set(isa, case):
    for shape in SHAPES[case]:
        op, arrays, options = CASES[case](shape)
        with instruction_set(isa), guarded_outputs():
            y, *sums = _parts(op(**_tensors(arrays), **options, impl="cpu"))
        with instruction_set(isa):
            plain = _unfused(case, options, "cpu")(**_tensors(arrays))
        exact = _unfused(case, options, "reference")(**_tensors(arrays, torch.float64))
        exact, plain = (to_numpy(values)[: y.size].reshape(y.shape) for values in (exact, plain))
        assert_within_budget(y, exact, plain.astype(np.float32), what=str(shape))
        for got in sums:
            wide = y.astype(np.float64)
            assert got.dtype == np.float64
            for total, power in zip(got, (wide, wide**2), strict=True):
                error = np.abs(total - power.sum((0, 2, 3)))
                assert (error <= 5e-6 * np.abs(power).sum((0, 2, 3))).all(), str(shape)


@pytest.mark.parametrize("isa", instruction_sets())
@pytest.mark.parametrize("case", TRAINED)
def test_gradients_on_every_instruction_set(isa, case):
    for shape in SHAPES[case][:: 2 if case != "output" else 1]:
        op, arrays, options = CASES[case](shape)
        with instruction_set(isa), guarded_outputs():
            result = gradients(_joined(op, options, "cpu"), _tensors(arrays))
        with instruction_set(isa):
            plain = gradients(_unfused(case, options, "cpu"), _tensors(arrays))
        exact = gradients(_unfused(case, options, "reference"), _tensors(arrays), torch.float64)
        assert_gradients_match(result, exact, plain)


@pytest.mark.parametrize("case", TRAINED)
@pytest.mark.parametrize("through", ["both", "y", "sums"])
def test_gradcheck(case, through):
    if case == "output" and through != "both":
        return
    op, arrays, options = CASES[case]({"T": 4, "stride": 2, "k": 3})
    leaves = {name: torch.from_numpy(array).requires_grad_() for name, array in arrays.items()}

    def fn(*values):
        result = op(**dict(zip(leaves, values, strict=True)), **options, impl="cpu")
        return result if through == "both" else result[("y", "sums").index(through)]

    assert torch.autograd.gradcheck(fn, tuple(leaves.values()))


@pytest.mark.parametrize("case", TRAINED)
def test_each_gradient_alone_is_the_gradient_among_all(case):
    op, arrays, options = CASES[case]({})
    every = gradients(_joined(op, options, "cpu"), _tensors(arrays))
    for name in arrays:
        leaf = {name: _tensors(arrays)[name]}
        rest = {other: value for other, value in _tensors(arrays).items() if other != name}
        alone = gradients(lambda rest=rest, **one: _joined(op, options, "cpu")(**one, **rest), leaf)
        assert_bitwise(alone[name], every[name], what=name)


def test_gradients_through_a_view_and_its_pattern():
    skeleton = Skeleton.named("sbu")
    pattern = torch.from_numpy(skeleton.pattern("spatial"))
    generator = torch.Generator().manual_seed(2)
    tensors = {
        "x": torch.randn(3, 3, 8, 15, 2, generator=generator),
        "weight": torch.randn(3, 6, 3, generator=generator),
        "adjacency": torch.from_numpy(skeleton.adjacency("spatial")),
        "scale": torch.randn(15, 3, generator=generator),
        "shift": torch.randn(15, 3, generator=generator),
    }
    joints = torch.tensor([[0, 1, 5, 9, 14], [3, 4, 6, 7, 8], [1, 2, 3, 11, 12]]).int()

    def fn(impl):
        def run(**tensors):
            turn = torch.eye(3, dtype=tensors["x"].dtype)[None] * 1.5
            view = View(torch.tensor([[0, 2, 2, 5, 7]]).int(), joints, None, turn)
            y, sums = block_graph_conv(**tensors, view=view, pattern=pattern, impl=impl)
            return torch.cat([y.double().flatten(), sums.flatten()])

        return run

    result = gradients(fn("cpu"), tensors)
    reference, exact = (gradients(fn("reference"), tensors, dtype) for dtype in (torch.float32, torch.float64))
    assert_gradients_match(result, exact, reference)
    assert not result["adjacency"][~pattern].any()


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_values_are_those_of_the_plain_ops(impl):
    op, arrays, _ = _graph_case({})
    assert_bitwise(op(**arrays, impl=impl)[0], graph_conv(**arrays, impl=impl))
    op, arrays, options = _temporal_case({"affine": False})
    assert_bitwise(op(**arrays, **options, impl=impl)[0], temporal_conv(**arrays, **options, impl=impl))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("p", [0.5, 0.1, 0.99])
def test_dropout_decides_as_the_op_does(impl, p):
    x = np.random.default_rng(0).random((6, 13, 7, 5)).astype(np.float32) + 1
    ids = np.array([2**40, 3, -5])
    one = np.ones(13, np.float32)
    result = block_output(x, one, 0 * one, p=p, seed=-9, block=7, ids=ids, impl=impl)
    np.testing.assert_allclose(result, dropout(x, p, seed=-9, block=7, ids=ids), rtol=1e-6)
    assert_bitwise(result == 0, dropout(x, p, seed=-9, block=7, ids=ids) == 0)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_a_nan_passes_the_relu_and_not_the_dropout(impl):
    x = np.full((2, 8, 5, 5), np.nan, np.float32)
    one = np.ones(8, np.float32)
    assert np.isnan(block_output(x, one, one, impl=impl)).all()
    result = block_output(x, one, one, p=0.5, seed=1, impl=impl)
    assert_bitwise(np.isnan(result), np.isnan(dropout(x, 0.5, seed=1)))
    assert (result[~np.isnan(result)] == 0).all()


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_layout_and_kind(impl, case, dtype):
    op, arrays, options = CASES[case]({"C": 6, "T": 7})
    ids = options.pop("ids", None)
    arrays = {name: array.astype(dtype) for name, array in arrays.items()}
    named = {} if ids is None else {"ids": ids.numpy()}
    expected = op(**arrays, **options, **named, impl="reference")
    layouts = {name: dict(variants(array)) for name, array in arrays.items()}
    for layout in layouts["x"]:
        inputs = {name: each.get(layout, each[f"{layout.split()[0]} contiguous"]) for name, each in layouts.items()}
        result = op(**inputs, **options, **named, impl=impl)
        for part, wanted in zip(_parts(result), _parts(expected), strict=True):
            np.testing.assert_allclose(part, wanted, rtol=1e-4, atol=1e-4, err_msg=layout)
        y = result[0] if isinstance(result, tuple) else result
        assert isinstance(y, type(inputs["x"])), layout
        assert np.asarray(y).transpose(0, 2, 3, 1).flags.c_contiguous, layout


@pytest.mark.parametrize("impl", ["cpu", "reference"])
@pytest.mark.parametrize("case", TRAINED)
@pytest.mark.parametrize("empty", ["B", "T", "V"])
def test_empty_maps(impl, case, empty):
    empty = "N" if (case, empty) == ("output", "B") else empty
    if (case, empty) == ("graph", "V"):
        return
    op, arrays, options = CASES[case]({empty: 0})
    leaves = {name: tensor.requires_grad_() for name, tensor in _tensors(arrays).items()}
    result = op(**leaves, **options, impl=impl)
    y, sums = result if isinstance(result, tuple) else (result, torch.zeros(()))
    assert y.numel() == 0 and not sums.any()  # noqa: PT018
    (y.sum() + sums.sum()).backward()
    for name, leaf in leaves.items():
        assert leaf.grad is not None, name
        assert leaf.grad.shape == leaf.shape
        assert not leaf.grad.any(), name


# ---- batch-norm through the sums ----


def _normalised(x, weight, bias, gamma, beta, impl):
    y, sums = block_temporal_conv(x, weight, bias, impl=impl)
    mean, square = sums / (y.numel() / y.shape[1])
    scale = gamma * torch.rsqrt(square - mean.square() + 1e-5)
    return block_output(y, scale.to(y.dtype), (beta - mean * scale).to(y.dtype), impl=impl)


def _torchs(x, weight, bias, gamma, beta):
    y = functional.conv2d(x, weight[..., None], bias)
    return functional.relu(functional.batch_norm(y, None, None, gamma, beta, training=True))


@pytest.mark.parametrize("isa", instruction_sets())
@pytest.mark.parametrize("shape", [(6, 16, 50, 25), (2, 17, 7, 3), (64, 3, 40, 25)])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_batch_norm_of_a_mean_far_above_the_spread_is_torchs(isa, shape, offset):
    generator = torch.Generator().manual_seed(3)
    channels = shape[1]
    tensors = {
        "x": torch.randn(shape, generator=generator),
        "weight": torch.randn(channels, channels, 1, generator=generator) / channels**0.5,
        "bias": torch.randn(channels, generator=generator) + offset,
        "gamma": torch.rand(channels, generator=generator) + 0.5,
        "beta": torch.randn(channels, generator=generator) + 12,  # away from the ReLU's kink
    }
    with instruction_set(isa):
        result = _normalised(**tensors, impl="cpu")
        grads = gradients(lambda **t: _normalised(**t, impl="cpu"), tensors)
    wide = _torchs(**{name: tensor.double() for name, tensor in tensors.items()})
    if offset == 0:
        assert_within_budget(result, wide, _torchs(**tensors))
    else:  # float32's rounding, magnified by the mean
        torch.testing.assert_close(result.double(), wide, rtol=0, atol=4 * np.finfo(np.float32).eps * offset)
    exact, reference = (gradients(_torchs, tensors, dtype) for dtype in (torch.float64, torch.float32))
    for some in (grads, exact, reference):
        some.pop("bias")  # exactly zero: the norm takes every bias away
    for name, gradient in grads.items():
        if offset == 0:
            assert_within_budget(gradient, exact[name], reference[name], what=name)
        else:
            magnified = 8 * np.finfo(np.float32).eps * offset * float(exact[name].abs().max())
            torch.testing.assert_close(gradient.double(), exact[name], rtol=0, atol=magnified, msg=name)
    native64 = gradients(lambda **t: _normalised(**t, impl="cpu"), tensors, torch.float64)
    for name, gradient in exact.items():
        torch.testing.assert_close(native64[name], gradient, rtol=1e-6, atol=1e-6, msg=name)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("case", ["graph", "temporal"])
def test_sums_keep_the_digits_of_a_small_variance(impl, case):
    op, arrays, options = CASES[case]({"B": 5, "T": 50, "V": 25, "C_out": 20})
    arrays["bias"] = arrays["bias"] + 1000
    if case == "graph":
        arrays["adjacency"] = np.stack([np.eye(25), 0 * np.eye(25)])
    y, sums = op(**{name: array.astype(np.float32) for name, array in arrays.items()}, **options, impl=impl)
    wide = y.astype(np.float64)
    mean, square = sums / (y.size / y.shape[1])
    np.testing.assert_allclose(mean, wide.mean((0, 2, 3)), rtol=1e-9)
    np.testing.assert_allclose(square - mean**2, wide.var((0, 2, 3)), rtol=1e-4)


# ---- what torch asks ----


@pytest.mark.parametrize("grad", [False, True])
def test_torch_contract(grad):
    def ready(*tensors):
        return [
            t.clone().requires_grad_(grad) if isinstance(t, torch.Tensor) and t.is_floating_point() else t
            for t in tensors
        ]

    _, arrays, _ = _graph_case({})
    x, weight, adjacency, bias, scale, shift = ready(*_tensors(arrays).values())
    opcheck("block_graph_conv", x, weight, adjacency, bias, None, None, None, None, scale, shift, None)
    _, arrays, _ = _temporal_case({})
    tensors = ready(*_tensors(arrays).values())
    opcheck("block_temporal_conv", *tensors, 2, 1, 1, 1, 1)
    opcheck("block_temporal_conv", *tensors[:3], None, None, 1, 0, 2, 1, 1)
    _, arrays, options = _output_case({})
    seed = torch.tensor(options["seed"])
    opcheck("block_output", *ready(*_tensors(arrays).values()), seed, options["ids"], 0.5, 3)
    opcheck("block_output", *ready(*_tensors(arrays).values())[:3], None, None, None, None, None, 0.0, 0)
    if not grad:
        _, arrays, _ = _inference_case({})
        x, weight, bias, scale, shift, residual = _tensors(arrays).values()
        opcheck("block_inference", x, scale, shift, weight, bias, residual, 1, 1, 1, 1, 1)


def test_torch_contract_of_the_backward_ops():
    _, arrays, _ = _graph_case({})
    x, weight, adjacency, bias, scale, shift = _tensors(arrays).values()
    rest = (x, weight, adjacency, bias, None, None, None, None, scale, shift, None)
    y, sums = torch.ops.asma_fast.block_graph_conv(*rest)
    opcheck("block_graph_conv_backward", y, sums, y, *rest, [True, False, True, True, True, True])
    _, arrays, _ = _temporal_case({})
    rest = (*_tensors(arrays).values(), 2, 1, 1, 1, 1)
    y, sums = torch.ops.asma_fast.block_temporal_conv(*rest)
    opcheck("block_temporal_conv_backward", y, sums, y, *rest, [True] * 5)
    opcheck("block_temporal_conv_backward", y, None, None, *rest, [False, True, True, False, False])
    _, arrays, options = _output_case({})
    x, scale, shift, residual, residual_scale, residual_shift = _tensors(arrays).values()
    last = (torch.tensor(1), options["ids"], 0.5, 3)
    out = torch.ops.asma_fast.block_output(x, scale, shift, residual, residual_scale, residual_shift, *last)
    opcheck("block_output_backward", out, out, x, scale, residual, residual_scale, *last, [True] * 6)


@pytest.mark.parametrize("impl", ["cpu", "reference"])
@pytest.mark.parametrize("case", CASES)
def test_compiles_once(impl, case):
    shapes = (
        {"B": 4, "C": 7, "T": 13, "V": 9, "C_out": 10, "k": 3, "N": 4},
        {"B": 5, "C": 5, "T": 15, "V": 11, "C_out": 8, "k": 3, "N": 5},
    )
    if (case, impl) == ("graph", "reference"):
        shapes[1]["V"] = 9  # it loops over joints
    batches = []
    for number, shape in enumerate(shapes):
        op, arrays, options = CASES[case](shape)
        random = (torch.tensor(number), options["ids"]) if case == "output" else ()
        batches.append((_tensors(arrays), *random))
    options = {name: value for name, value in options.items() if name not in ("seed", "ids")}

    def fn(tensors, seed=None, ids=None):
        return op(**tensors, **options, **({} if seed is None else {"seed": seed, "ids": ids}), impl=impl)

    check_compiles(fn, batches)


@pytest.mark.parametrize("case", TRAINED)
def test_compiled_gradients(case):
    op, arrays, options = CASES[case]({"C": 6, "T": 12, "V": 9})
    expected = gradients(_joined(op, options, "auto"), _tensors(arrays))
    compiled = torch.compile(_joined(op, options, "auto"), fullgraph=True, dynamic=True, backend="aot_eager")
    for name, gradient in gradients(compiled, _tensors(arrays)).items():
        assert_bitwise(gradient, expected[name], what=name)
    torch._dynamo.reset()


@pytest.mark.parametrize("case", CASES)
def test_threads_and_forks_do_not_matter(case):
    op, arrays, options = CASES[case]({"B": 6, "N": 6, "C": 32, "C_out": 32, "T": 50, "V": 25, "k": 9})
    tensors = _tensors(arrays)
    tensors = {
        name: tensor.to(memory_format=torch.channels_last) if name in ("x", "residual") else tensor
        for name, tensor in tensors.items()
    }
    check_threads_bitwise(lambda: op(**tensors, **options, impl="cpu"))
    if case in TRAINED:
        check_threads_bitwise(lambda: tuple(gradients(_joined(op, options, "cpu"), tensors).values()))
    check_forked(lambda: op(**tensors, **options, impl="cpu"))


def test_what_is_kept_for_the_backward_pass():
    kept: dict[int, int] = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    for case, maps in (("graph", "x y"), ("temporal", "x y"), ("output", "x residual y")):
        op, arrays, options = CASES[case]({"T": 64, "V": 25, "B": 8, "N": 8})
        leaves = {name: tensor.requires_grad_() for name, tensor in _tensors(arrays).items()}
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            result = op(**leaves, **options, impl="cpu")
        y = result[0] if isinstance(result, tuple) else result
        wanted = sum(value.nbytes for name, value in ({"y": y} | leaves).items() if name in maps.split())
        assert wanted <= sum(kept.values()) < wanted + 8192, case


@pytest.mark.parametrize("case", CASES)
def test_autocast_computes_in_float32(case):
    op, arrays, options = CASES[case]({})
    half = {name: tensor.bfloat16() for name, tensor in _tensors(arrays).items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = op(**half, **options, impl="cpu")
    expected = op(**{name: tensor.float() for name, tensor in half.items()}, **options, impl="cpu")
    assert_bitwise(result, expected)


@pytest.mark.parametrize("case", CASES)
def test_half_precision_by_the_reference(case):
    op, arrays, options = CASES[case]({})
    half = {name: tensor.bfloat16() for name, tensor in _tensors(arrays).items()}
    result = op(**half, **options)
    y, sums = result if isinstance(result, tuple) else (result, torch.zeros((), dtype=torch.float64))
    assert (y.dtype, sums.dtype) == (torch.bfloat16, torch.float64)


def test_forward_mode_is_an_error():
    for case in TRAINED:
        op, arrays, options = CASES[case]({})
        tensors = _tensors(arrays)
        x = tensors.pop("x")
        check_forward_mode_refused(lambda x: op(x, **tensors, **options, impl="cpu"), x)  # noqa: B023


# ---- bad input ----

X, S = np.zeros((4, 3, 5, 2), np.float32), np.zeros(3, np.float32)
W = np.zeros((6, 3, 3), np.float32)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((X[0], S, S), {}, ValueError, r"x must have shape \(B, C, T, V\), got \(3, 5, 2\)"),
        ((X.astype(int), S, S), {}, TypeError, "x must be float32 or .*, got int64"),
        ((X, S[:2], S), {}, ValueError, r"scale must have shape \(C=3,\), got \(2,\)"),
        ((X, S, None), {}, TypeError, "shift must be a NumPy array or a torch tensor, got NoneType"),
        ((X, S, S.astype(float)), {}, TypeError, "shift must have the dtype of x, float32, got float64"),
        ((X, S, torch.zeros(3)), {}, TypeError, "shift must be a NumPy array as x is, got a torch tensor"),
        ((X, S, S, X[:2]), {}, ValueError, r"residual must have shape \(B=4, C=3, T=5, V=2\), got \(2, 3, 5, 2\)"),
        ((X, S, S), {"residual_scale": S, "residual_shift": S}, ValueError, "go with a residual, got None"),
        ((X, S, S, X), {"residual_scale": S}, ValueError, "must be given together"),
        ((X, S, S), {"p": 0.5}, ValueError, r"seed must be given where p is not 0, got None with p=0.5"),
        ((X, S, S), {"p": 1.0, "seed": 1}, ValueError, r"p must be in \[0, 1 − 2⁻¹⁷\], got 1.0"),
        ((X, S, S), {"p": -0.5, "seed": 1}, ValueError, r"p must be in \[0, 1 − 2⁻¹⁷\], got -0.5"),
        ((X, S, S), {"p": float("nan"), "seed": 1}, ValueError, r"p must be in .*, got nan"),
        ((X, S, S), {"p": "0"}, TypeError, "p must be a float, got str"),
        ((X, S, S), {"block": -1}, ValueError, r"block must be in \[0, 16777215\], got -1"),
        ((X, S, S), {"p": 0.5, "seed": 1, "ids": np.arange(3)}, ValueError, "divides the 4 rows of x, got 3"),
    ],
)
def test_bad_input_of_output(impl, arguments, options, error, message):
    with pytest.raises(error, match=message):
        block_output(*arguments, **options, impl=impl)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"scale": S}, ValueError, "scale and shift must be given together"),
        ({"scale": S[:1], "shift": S}, ValueError, r"scale must have shape \(C_in=3,\), got \(1,\)"),
        ({"scale": S, "shift": S.astype(float)}, TypeError, "shift must have the dtype of x, float32, got float64"),
        ({"stride": 0}, ValueError, r"stride must be in \[1, 2147483647\], got 0"),
        ({"padding": 0, "dilation": 3}, ValueError, r"at least the 7 frames the kernel spans"),
        ({"weight": W[:, :2]}, ValueError, "with C_in=3 and groups=1 dividing both"),
    ],
)
def test_bad_input_of_the_convolution(impl, options, error, message):
    with pytest.raises(error, match=message):
        block_temporal_conv(**{"x": X, "weight": W} | options, impl=impl)


def test_bad_input_of_the_rest():
    with pytest.raises(ValueError, match=r"residual must have shape \(B=4, C_out=6, T'=5, V=2\), got \(4, 3, 5, 2\)"):
        block_inference(X, S, S, W, residual=X)
    with pytest.raises(ValueError, match="x has 2 joints, the adjacency 3 nodes"):
        block_graph_conv(X, W, np.zeros((6, 3, 3), np.float32))
    with pytest.raises(ValueError, match="refuses inputs that require grad"):
        block_output(torch.zeros(1, 3, 2, 2, requires_grad=True), *torch.zeros(2, 3), impl="numba")
    x, scale, shift, weight = (torch.from_numpy(array) for array in (X, S, S, W))
    weight.requires_grad_()
    assert not block_inference(x, scale, shift, weight).requires_grad
    g, needs = torch.zeros(4, 6, 5, 2), [True] * 5
    backward = torch.ops.asma_fast.block_temporal_conv_backward
    rest = (x, weight.detach(), None, scale, shift, 1, 1, 1, 1, 1)
    for arguments, message in (
        ((g[:1], None, None, *rest, needs), r"g must have shape \(B=4, C_out=6, T'=5, V=2\), got \(1, 6, 5, 2\)"),
        ((g, torch.zeros(2, 6).double(), None, *rest, needs), "sums_grad and y must be given together"),
        ((g, torch.zeros(2, 5).double(), g, *rest, needs), r"sums_grad must have shape \(2, C_out=6\), got \(2, 5\)"),
        ((g, None, None, *rest, needs), "needs asks for the gradient of argument 2, which is None"),
        ((g, None, None, *rest, needs[:4]), "needs must have 5 entries, got 4"),
    ):
        with pytest.raises(ValueError, match=message):
            backward(*arguments)


@pytest.mark.parametrize("wrong", ["x", "out", "scale", "residual", "ids", "cut"])
def test_the_native_entry_refuses_what_it_would_misread(wrong):
    x = np.zeros((4, 6, 5, 3), np.float32)
    dense, vector = native_array(x.transpose(0, 3, 1, 2)), native_array(np.zeros(3, np.float32))
    arguments = {
        "x": dense,
        "scale": vector,
        "residual": dense,
        "seed": native_array(np.array(1)),
        "ids": native_array(np.arange(2)),
        "cut": 5,
        "out": dense,
    }
    arguments[wrong] = {
        "x": native_array(x),
        "out": native_array(x[:, :5].transpose(0, 3, 1, 2)),
        "scale": native_array(np.zeros(4, np.float32)),
        "residual": native_array(x[:3].transpose(0, 3, 1, 2)),
        "ids": native_array(np.arange(3)),
        "cut": 65536,
    }[wrong]
    x, scale, residual, seed, ids, cut, out = arguments.values()
    with pytest.raises(ValueError, match=wrong):
        native().block_output(x, scale, vector, residual, None, None, seed, ids, cut, 0, out)


def test_the_native_gradient_refuses_what_it_would_misread():
    x = np.zeros((4, 6, 5, 3), np.float32)
    dense, vector = native_array(x.transpose(0, 3, 1, 2)), native_array(np.zeros(3, np.float32))
    small = native_array(x[:2].transpose(0, 3, 1, 2))
    good = [dense, dense, dense, vector, dense, vector, None, None, 0, 0, dense, vector, vector, dense, vector, vector]
    native().block_output_backward(*good)
    for place in (0, 1, 2, 4, 10, 13):
        with pytest.raises(ValueError, match="sizes"):
            native().block_output_backward(*good[:place], small, *good[place + 1 :])
    for place in itertools.chain((3, 5), (11, 12, 14, 15)):
        with pytest.raises(ValueError, match="sizes"):
            native().block_output_backward(*good[:place], native_array(np.zeros(2, np.float32)), *good[place + 1 :])
    for place in (2, 4):
        with pytest.raises(ValueError, match="needs the map"):
            native().block_output_backward(*good[:place], None, *good[place + 1 :])
