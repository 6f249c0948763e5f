import itertools

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
    check_forward_mode_refused,
    check_threads_bitwise,
    gradients,
    guarded_outputs,
    implementations,
    instruction_set,
    instruction_sets,
    opcheck,
    pairwise,
    to_tensors,
    variants,
)

from asma_fast.ops import temporal_conv

IMPLEMENTATIONS = implementations()
SHAPES = pairwise(
    **ODD_SIZES,
    C_out=(1, 3, 16, 17, 31, 33, 65),
    k=(1, 2, 3, 9),
    stride=(1, 2, 3),
    dilation=(1, 2, 3),
    padding=(None, 0, (0, 5), (7, 1)),
)
GROUPED = pairwise(
    groups=(2, 3, 6), C=(6, 12, 48), C_out=(6, 18, 102), stride=(1, 2), dilation=(1, 2), k=(1, 3, 4), T=(9, 30)
)
# By Winograd, and from 64 channels and 7 taps on by two of them, one inside the other. Their rounding is on the whole a
# plain sum's; a budget of the largest error of some hundred values needs room for chance.
WINOGRAD_BUDGET = 2.5
WINOGRAD = pairwise(
    C=(32, 48, 64, 129),
    C_out=(32, 65, 96),
    k=(3, 5, 7, 8, 9, 12),
    T=(1, 5, 6, 7, 8, 9, 10, 11, 12, 13, 29, 64),
    V=(1, 3, 25),
    padding=(None, 0, (0, 5), (7, 1)),
)
WINOGRAD += pairwise(groups=(2, 3), C=(192, 384), C_out=(192, 198), k=(3, 9), T=(8, 13), V=(3,))
# Batches whose rows share a reading of the weights: by two, and by eight; the last of fewer.
WINOGRAD += [
    {"B": batch, "C": 64, "C_out": columns, "k": 9, "T": 13, "V": 3} for batch, columns in ((35, 64), (150, 65)) * 2
]


NESTED = {"B": 33, "C": 64, "T": 13, "V": 3, "k": 9}


def _padding(shape):
    """The case's padding, or enough of it for the kernel to fit."""
    padding, reach = shape.get("padding"), shape.get("dilation", 1) * (shape.get("k", 3) - 1)
    left, right = (padding, padding) if isinstance(padding, int) else (padding or (0, 0))
    return padding if padding is None or shape["T"] + left + right > reach else (left, right + reach)


def _case(shape, dtype=np.float32):
    """Arrays and options of a convolution; sizes not given are small."""
    shape = {"B": 2, "C": 3, "T": 7, "V": 3, "C_out": 4, "k": 3, "groups": 1} | shape
    rng = np.random.default_rng(sum(shape[axis] * 31**i for i, axis in enumerate(("B", "C", "T", "V", "C_out", "k"))))
    arrays = {
        "x": rng.standard_normal((shape["B"], shape["C"], shape["T"], shape["V"])),
        "weight": rng.standard_normal((shape["C_out"], shape["C"] // shape["groups"], shape["k"])),
        "bias": rng.standard_normal(shape["C_out"]),
    }
    options = {name: shape.get(name, 1) for name in ("stride", "dilation", "groups")} | {"padding": _padding(shape)}
    return {name: array.astype(dtype) for name, array in arrays.items()}, options


def _expected(arrays, options):
    """The definition in float64: one product for each tap and output frame."""
    x, weight, bias = (
        None if a is None else a.astype(np.float64) for a in (arrays[n] for n in ("x", "weight", "bias"))
    )
    stride, dilation, groups, padding = (options[name] for name in ("stride", "dilation", "groups", "padding"))
    taps, per_group = weight.shape[2], weight.shape[1]
    reach = dilation * (taps - 1)
    if padding is None:
        padding = (reach // 2, reach - reach // 2)
    left, right = (padding, padding) if isinstance(padding, int) else padding
    frames = (x.shape[2] + left + right - reach - 1) // stride + 1
    out = np.zeros((x.shape[0], weight.shape[0], frames, x.shape[3])) + (0 if bias is None else bias[:, None, None])
    each = weight.shape[0] // groups
    for group, t, tap in itertools.product(range(groups), range(frames), range(taps)):
        source = t * stride + tap * dilation - left
        if 0 <= source < x.shape[2]:
            inputs = x[:, group * per_group : (group + 1) * per_group, source]
            out[:, group * each : (group + 1) * each, t] += np.einsum(
                "oc,bcv->bov", weight[group * each : (group + 1) * each, :, tap], inputs
            )
    return out


def _tensors(arrays):
    return dict(zip(arrays, to_tensors(*arrays.values()), strict=True))


def _run(options, impl="cpu"):
    return lambda **tensors: temporal_conv(**tensors, **options, impl=impl)


@pytest.mark.parametrize("isa", instruction_sets())
@pytest.mark.parametrize("shapes", [SHAPES, GROUPED, WINOGRAD], ids=["sizes", "groups", "winograd"])
def test_every_size_on_every_instruction_set(isa, shapes):
    for shape in shapes:
        arrays, options = _case(shape)
        with instruction_set(isa), guarded_outputs():
            result = temporal_conv(**arrays, **options, impl="cpu")
        reference = temporal_conv(**arrays, **options, impl="reference")
        times = WINOGRAD_BUDGET if shapes is WINOGRAD else 2.0
        assert_within_budget(result, _expected(arrays, options), reference, what=str(shape), times=times)


@pytest.mark.parametrize("isa", instruction_sets())
@pytest.mark.parametrize("shapes", [SHAPES[::3], GROUPED[::2], WINOGRAD[::2]], ids=["sizes", "groups", "winograd"])
def test_gradients_on_every_instruction_set(isa, shapes):
    for shape in shapes:
        arrays, options = _case(shape)
        tensors = _tensors(arrays)
        with instruction_set(isa), guarded_outputs():
            result = gradients(_run(options), tensors)
        reference, exact = (
            gradients(_run(options, "reference"), tensors, dtype) for dtype in (torch.float32, torch.float64)
        )
        assert_gradients_match(result, exact, reference, WINOGRAD_BUDGET if shapes == WINOGRAD[::2] else 2.0)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_layout_and_kind(impl, dtype):
    arrays, options = _case({"C": 6, "C_out": 4, "groups": 2, "stride": 2, "padding": (2, 1)}, dtype)
    expected = _expected(arrays, options)
    layouts = [dict(variants(arrays[name])) for name in arrays]
    for name in layouts[0]:
        x, weight, bias = (
            layout.get(name, layout[f"{name.split()[0]} contiguous"]) if "channels last" in name else layout[name]
            for layout in layouts
        )
        result = temporal_conv(x, weight, bias, **options, impl=impl)
        assert isinstance(result, type(x)), name
        np.testing.assert_allclose(np.asarray(result), expected, rtol=1e-5, atol=1e-5, err_msg=name)
        dense = np.asarray(result).transpose(0, 2, 3, 1)
        assert dense.flags.c_contiguous, name


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("options", [{"groups": 6}, {"groups": 6, "stride": 2}, {"groups": 3, "dilation": 2}])
def test_depthwise_and_grouped(impl, options):
    for each_out in (1, 3):
        arrays, options = _case({"C": 6, "C_out": 6 * each_out, "T": 11, "V": 5, "k": 5} | options)
        result = temporal_conv(**arrays, **options, impl=impl)
        np.testing.assert_allclose(result, _expected(arrays, options), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_without_bias_and_with_padding_written_three_ways(impl):
    arrays, options = _case({"k": 5})
    arrays["bias"] = None
    same = [temporal_conv(**arrays, **options | {"padding": padding}, impl=impl) for padding in (None, 2, (2, 2))]
    np.testing.assert_allclose(same[0], _expected(arrays, options), rtol=1e-5, atol=1e-5)
    assert_bitwise(same[1], same[0])
    assert_bitwise(same[2], same[0])


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("empty", ["B", "V", "T", "C_out"])
def test_empty_maps(impl, empty):
    arrays, options = _case({empty: 0, "k": 3})
    result = temporal_conv(**arrays, **options, impl=impl)
    sizes = {"B": 2, "C_out": 4, "T": 7, "V": 3} | {empty: 0}
    assert result.shape == tuple(sizes.values())
    leaves = {name: torch.from_numpy(array).requires_grad_() for name, array in arrays.items()}
    if impl == "cpu":
        temporal_conv(**leaves, **options, impl=impl).sum().backward()
        for name, leaf in leaves.items():
            assert leaf.grad is not None, name
            assert leaf.grad.shape == leaf.shape
            assert not leaf.grad.any()


def test_no_frames_but_padding_gives_the_bias():
    arrays, options = _case({"T": 0, "padding": (3, 2)})
    result = temporal_conv(**arrays, **options)
    assert result.shape == (2, 4, 3, 3)
    assert_bitwise(result, np.broadcast_to(arrays["bias"][:, None, None], result.shape).copy())


def test_padded_frames_are_skipped_not_multiplied():
    arrays, options = _case({"T": 5, "k": 3})
    arrays["weight"][:, :, 0] = np.inf  # the first tap meets the padding at frame 0 only
    result = temporal_conv(**arrays, **options, impl="cpu")
    assert np.isfinite(result[:, :, 0]).all()
    assert not np.isfinite(result[:, :, 1:]).any()


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_nan_reaches_its_own_joint_and_frames_alone(impl):
    arrays, options = _case({"C": 6, "C_out": 6, "groups": 2, "T": 9, "V": 4, "k": 3})
    arrays["x"][1, 0, 4, 2] = np.nan
    result = temporal_conv(**arrays, **options, impl=impl)
    poisoned = np.zeros(result.shape, bool)
    poisoned[1, :3, 3:6, 2] = True
    np.testing.assert_array_equal(np.isnan(result), poisoned)


@pytest.mark.parametrize(
    "shape",
    [
        {"stride": 1, "padding": None},
        {"stride": 2, "padding": (1, 0)},
        {"stride": 3, "dilation": 2, "padding": (0, 4)},
        {"stride": 2, "dilation": 2, "C": 4, "groups": 2},
        {"C": 4, "C_out": 4, "groups": 4, "k": 2},
    ],
    ids=str,
)
def test_gradcheck_through_our_kernels(shape):
    arrays, options = _case(shape, np.float64)
    leaves = tuple(tensor.requires_grad_() for tensor in to_tensors(*arrays.values()))
    assert torch.autograd.gradcheck(
        lambda x, weight, bias: temporal_conv(x, weight, bias, **options, impl="cpu"), leaves
    )


def test_only_the_gradients_asked_for_are_computed():
    arrays, options = _case({})
    wanted = gradients(_run(options), _tensors(arrays))
    for needed in itertools.product((False, True), repeat=3):
        leaves = {
            name: tensor.requires_grad_(need)
            for (name, tensor), need in zip(_tensors(arrays).items(), needed, strict=True)
        }
        result = temporal_conv(**leaves, **options, impl="cpu")
        assert result.requires_grad == any(needed)
        if not any(needed):
            continue
        cotangent = torch.randn(result.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        result.backward(cotangent.float())
        for (name, leaf), need in zip(leaves.items(), needed, strict=True):
            if need:
                assert_bitwise(leaf.grad, wanted[name], what=name)
            else:
                assert leaf.grad is None


def test_no_second_derivative():
    arrays, options = _case({})
    leaves = {name: tensor.requires_grad_() for name, tensor in _tensors(arrays).items()}
    (grad,) = torch.autograd.grad(temporal_conv(**leaves, **options).square().sum(), leaves["x"], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"groups": 8, "dilation": 2}, NESTED])
def test_threads_and_forks_do_not_matter(options):
    arrays, options = _case({"B": 5, "C": 40, "C_out": 72, "T": 33, "V": 25, "k": 5} | options)
    tensors = _tensors(arrays)
    # So that the child copies nothing: torch's own copy is parallel, and its pool does not survive a fork.
    tensors["x"] = tensors["x"].contiguous(memory_format=torch.channels_last)

    def forward():
        return temporal_conv(**tensors, **options, impl="cpu")

    check_threads_bitwise(lambda: (forward(), *gradients(_run(options), tensors).values()))
    check_forked(forward)


def test_rows_do_not_depend_on_their_neighbours():
    arrays, options = _case({"B": 4, "C": 16, "C_out": 33, "T": 50, "V": 25, "k": 9})
    whole = temporal_conv(**arrays, **options, impl="cpu")
    for row in range(4):
        alone = temporal_conv(**arrays | {"x": arrays["x"][row : row + 1]}, **options, impl="cpu")
        assert_bitwise(alone, whole[row : row + 1])


def test_torch_contract():
    for shape in ({}, {"stride": 2, "dilation": 2, "padding": (1, 3), "C": 4, "groups": 2}):
        arrays, options = _case(shape)
        x, weight, bias = to_tensors(*arrays.values())
        left, right = options["padding"] or (1, 1)
        sizes = (options["stride"], left, right, options["dilation"], options["groups"])
        for grad in (False, True):
            leaves = [tensor.detach().requires_grad_(grad) for tensor in (x, weight, bias)]
            opcheck("temporal_conv", *leaves, *sizes)
            opcheck("temporal_conv", leaves[0], leaves[1], None, *sizes)
        g = torch.ops.asma_fast.temporal_conv(x, weight, bias, *sizes)
        for needed in ((True, True, True), (False, True, False), (True, False, True)):
            opcheck("temporal_conv_backward", g, x, weight, *sizes, *needed)


def test_compiles_once_for_all_shapes():
    shapes = (
        {"B": 4, "C": 6, "T": 12, "V": 9, "C_out": 8, "k": 5},
        {"B": 7, "C": 10, "T": 20, "V": 13, "C_out": 14, "k": 3},
    )
    batches = [to_tensors(*_case(shape)[0].values()) for shape in shapes]
    for impl in ("cpu", "auto", "reference"):
        for stride in (1, 2):
            check_compiles(lambda *a, impl=impl, stride=stride: temporal_conv(*a, stride=stride, impl=impl), batches)


def test_compiled_gradients():
    arrays, options = _case({"C": 6, "C_out": 5, "T": 12, "V": 9})
    compiled = torch.compile(_run(options, "auto"), fullgraph=True, dynamic=True, backend="aot_eager")
    expected = gradients(_run(options), _tensors(arrays))
    for name, gradient in gradients(compiled, _tensors(arrays)).items():
        assert_bitwise(gradient, expected[name], what=name)


def test_autocast_computes_in_float32():
    arrays, options = _case({})
    half = {name: tensor.bfloat16() for name, tensor in _tensors(arrays).items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = temporal_conv(**half, **options, impl="cpu")
    assert result.dtype == torch.float32
    assert_bitwise(result, temporal_conv(**{name: tensor.float() for name, tensor in half.items()}, **options))


X, W = np.zeros((2, 4, 5, 3), np.float32), np.zeros((6, 4, 3), np.float32)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((X[0], W), {}, ValueError, r"x must have shape \(B, C_in, T, V\), got \(4, 5, 3\)"),
        ((X.astype(np.int32), W), {}, TypeError, "x must be float32 or float64 or float16 or bfloat16, got int32"),
        ((X.tolist(), W), {}, TypeError, "x must be a NumPy array or a torch tensor, got list"),
        ((X, W.tolist()), {}, TypeError, "weight must be a NumPy array or a torch tensor, got list"),
        ((X, W[0]), {}, ValueError, r"weight must have shape \(C_out, C_in/groups, k\), got \(4, 3\)"),
        ((X, W[:, :3]), {}, ValueError, r"with C_in=4 and groups=1 dividing both, got \(6, 3, 3\)"),
        ((X, W[:, :2]), {"groups": 4}, ValueError, r"with C_in=4 and groups=4 dividing both, got \(6, 2, 3\)"),
        ((X, W[..., :0]), {}, ValueError, "weight must have at least one tap, got k=0"),
        ((X, W.astype(np.float64)), {}, TypeError, "weight must have the dtype of x, float32, got float64"),
        ((X, torch.from_numpy(W)), {}, TypeError, "weight must be a NumPy array as x is, got a torch tensor"),
        ((X, W, np.zeros(5, np.float32)), {}, ValueError, r"bias must have shape \(C_out=6,\), got \(5,\)"),
        ((X, W, np.zeros(6)), {}, TypeError, "bias must have the dtype of x, float32, got float64"),
        ((X, W), {"stride": 0}, ValueError, r"stride must be in \[1, 2147483647\], got 0"),
        ((X, W), {"stride": 1.0}, TypeError, "stride must be an int, got float"),
        ((X, W), {"dilation": 0}, ValueError, r"dilation must be in \[1, 2147483647\], got 0"),
        ((X, W), {"dilation": "1"}, TypeError, "dilation must be an int, got str"),
        ((X, W), {"groups": 0}, ValueError, "groups must be at least 1, got 0"),
        ((X, W), {"padding": -1}, ValueError, r"padding must be in \[0, 2147483647\], got -1"),
        (
            (X, W),
            {"padding": (1, 2, 3)},
            ValueError,
            r"padding must be None, an int or \(left, right\), got \(1, 2, 3\)",
        ),
        ((X, W), {"stride": 2**31}, ValueError, "stride must be in .*, got 2147483648"),
        ((X, W), {"padding": 2**31}, ValueError, "padding must be in .*, got 2147483648"),
        ((X, W), {"dilation": 2**31}, ValueError, "dilation must be in .*, got 2147483648"),
        ((X, W), {"dilation": 2**30}, ValueError, r"dilation·\(k−1\) must be in .*, got 2147483648"),
        ((X, W), {"padding": "same"}, TypeError, "padding must be an int, got str"),
        ((X, W), {"padding": 0, "dilation": 3}, ValueError, r"at least the 7 frames the kernel spans, got 5 \+ 0 \+ 0"),
    ],
)
def test_bad_input(impl, arguments, options, error, message):
    with pytest.raises(error, match=message):
        temporal_conv(*arguments, **options, impl=impl)


def test_dtypes_and_choices_that_cannot_run_say_why():
    with pytest.raises(TypeError, match="impl='cpu' takes float32 or float64, got float16"):
        temporal_conv(X.astype(np.float16), W.astype(np.float16), impl="cpu")
    x, weight = to_tensors(X, W)
    with pytest.raises(ValueError, match="takes CPU tensors, got one on meta"):
        temporal_conv(x.to("meta"), weight.to("meta"), impl="cpu")
    with pytest.raises(ValueError, match="refuses inputs that require grad"):
        temporal_conv(x, weight.clone().requires_grad_(), impl="numba")


def test_the_backward_op_checks_its_gradient():
    x, weight = to_tensors(X, W)
    with pytest.raises(ValueError, match=r"g must have shape \(B=2, C_out=6, T'=5, V=3\), got \(2, 6, 4, 3\)"):
        torch.ops.asma_fast.temporal_conv_backward(torch.zeros(2, 6, 4, 3), x, weight, 1, 1, 1, 1, 1, True, True, True)


def test_working_memory_beyond_the_address_space_is_an_error():
    weight = torch.zeros(1).expand(1, 2**58, 1)
    with pytest.raises(ValueError, match="the working memory of a call must have a size that fits"):
        temporal_conv(torch.empty(1, 2**58, 0, 1), weight, padding=1)


def test_forward_mode_is_an_error():
    x, weight = to_tensors(X, W)
    check_forward_mode_refused(lambda x: temporal_conv(x, weight, impl="cpu"), x)
    check_forward_mode_refused(lambda weight: temporal_conv(x, weight, impl="cpu"), weight)


@pytest.mark.parametrize("what", ["weight", "bias"])
def test_a_wrong_kind_beside_a_tensor_says_what_was_wanted(what):
    x, weight = to_tensors(X, W)
    arguments = {"weight": weight, "bias": torch.zeros(6)} | {what: [1.0]}
    with pytest.raises(TypeError, match=f"{what} must be a NumPy array or a torch tensor, got list"):
        temporal_conv(x, **arguments, impl="cpu")
