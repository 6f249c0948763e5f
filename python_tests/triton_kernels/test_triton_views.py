"""Views by Triton, and their gradients."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from ops.contract import (
    assert_bitwise,
    check_compiles,
    check_forward_mode_refused,
    guarded_outputs,
    opcheck,
    pairwise,
    variants,
)
from triton_kernels.device import DEVICE, interpreted_only, needs_triton, there
from triton_kernels.test_triton_masks import KINDS, OUTSIDE, case_of

from asma_fast import View
from asma_fast.ops import gather_view

pytestmark = needs_triton
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CASES = pairwise(kind=KINDS, dtype=DTYPES, N=(1, 3), C=(1, 2, 3, 5), T=(1, 2, 7), V=(1, 3, 17, 33), M=(1, 2))


@pytest.mark.parametrize("sizes", CASES, ids=str)
def test_views_and_their_gradients(sizes: dict) -> None:
    dtype = sizes["dtype"]
    x, view = case_of(sizes, dtype)
    exact = x.double().requires_grad_()
    wanted = gather_view(exact, view, impl="reference")
    given = there(x).requires_grad_()
    guarded = DEVICE == "cpu" and dtype != torch.bfloat16  # which NumPy has not, by which outputs are poisoned
    with guarded_outputs() if guarded else nullcontext():
        found = gather_view(given, there(view), impl="triton")
    # As many roundings of the result's type as a sum of three products in float32 may add to its one.
    budget = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 8 * torch.finfo(torch.float32).eps}
    torch.testing.assert_close(found.detach().cpu().double(), wanted.detach(), **budget)
    assert found.stride() == gather_view(x, view, impl="reference").stride()
    g = torch.from_numpy(np.random.default_rng(2).normal(size=wanted.shape)).to(dtype)
    wanted.backward(g.double())
    found.backward(there(g))
    budget["atol"] = 64 * torch.finfo(torch.float32).eps
    assert given.grad is not None
    torch.testing.assert_close(given.grad.cpu().double(), exact.grad, **budget)


@interpreted_only
def test_clips_and_gradients_of_any_strides() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 6, 2)).astype(np.float32)
    view = View(frames=np.array([[3, 0]], np.int32), joints=np.array([[1, 5], [2, 2]], np.int32))
    maps = torch.from_numpy(view.frames), torch.from_numpy(view.joints), None
    wanted = gather_view(x, view)
    wanted_grad = torch.ops.asma_fast.gather_view_backward(torch.from_numpy(x[:, :, :2, :2]), *maps, 4, 6)
    for name, layout in variants(x):
        if isinstance(layout, torch.Tensor):
            assert_bitwise(gather_view(layout, view, impl="triton"), wanted, what=name)
            part = layout[:, :, :2, :2]
            found = torch.ops.asma_fast.triton_gather_view_backward(part, *maps, 4, 6)
            assert_bitwise(found, wanted_grad, what=f"gradient {name}")
    strided = torch.zeros(2, 4, dtype=torch.int32)[:, ::2].copy_(maps[1])
    found = gather_view(torch.from_numpy(x), View(joints=strided), impl="triton")
    assert_bitwise(found, gather_view(x, View(joints=view.joints)))


@interpreted_only
def test_clips_beyond_32_bits() -> None:
    far = 2**31 + 7
    for strides in ((far, 1, 15, 3, 60), (60, 1, 15, 3, far), (1, far // 2, 10, 2, 40)):
        x = torch.empty(far + 240).as_strided((2, 3, 4, 5, 2) if strides[0] < far else (2, 3, 4, 5, 1), strides)
        x.copy_(torch.arange(float(x.numel())).reshape(x.shape))
        assert torch.equal(gather_view(x, View(), impl="triton"), x)
        found = torch.ops.asma_fast.triton_gather_view_backward(x, None, None, None, 4, 5)
        assert torch.equal(found, x)


@pytest.mark.parametrize("shape", [(0, 3, 5, 4, 2), (2, 0, 5, 4, 2), (2, 3, 0, 4, 2), (2, 3, 5, 0, 2), (2, 3, 5, 4, 0)])
def test_nothing_is_read(shape: tuple[int, ...]) -> None:
    x = torch.ones(shape, device=DEVICE, requires_grad=True)
    out = gather_view(x, View(), impl="triton")
    out.sum().backward()
    assert out.shape == x.grad.shape == shape


def test_a_view_of_nothing_has_a_gradient_of_zeros() -> None:
    x = torch.ones(2, 3, 5, 4, 2, device=DEVICE, requires_grad=True)
    gather_view(x, there(View(frames=torch.zeros(2, 0, dtype=torch.int32))), impl="triton").sum().backward()
    assert_bitwise(x.grad, torch.zeros(2, 3, 5, 4, 2))


@interpreted_only
def test_what_only_the_device_sees_is_checked_there() -> None:
    x = torch.zeros(1, 3, 4, 5, 1)
    with pytest.raises(RuntimeError, match=r"gather_kernel cannot run .*view\.frames must lie within the frames of x"):
        gather_view(x, OUTSIDE, impl="triton")
    with pytest.raises(RuntimeError, match=r"view\.joints must lie within the joints of x"):
        gather_view(x, View(joints=OUTSIDE.joints), impl="triton")
    backward = torch.ops.asma_fast.triton_gather_view_backward
    with pytest.raises(RuntimeError, match=r"view\.frames must lie"):
        backward(x[:, :, :2], OUTSIDE.frames, None, None, 4, 5)
    with pytest.raises(RuntimeError, match=r"view\.joints must lie"):
        backward(x[:, :, :, :2], None, OUTSIDE.joints, None, 4, 5)


def test_torch_contract() -> None:
    x, view = case_of({"kind": "all", "N": 2, "C": 3, "T": 3, "V": 4, "M": 1})
    maps = tuple(map(there, (view.frames, view.joints, view.transform)))
    opcheck("triton_gather_view", there(x).clone().requires_grad_(), *maps)
    opcheck("triton_gather_view_backward", gather_view(there(x), there(view), impl="triton"), *maps, 3, 4)
    check_forward_mode_refused(lambda x: gather_view(x, there(view), impl="triton"), there(x))
    with pytest.raises(RuntimeError, match="asma_fast::triton_gather_view has no gradient for its argument 3"):
        torch.ops.asma_fast.triton_gather_view(there(x), *maps[:2], maps[2].requires_grad_())
    with torch.autocast(DEVICE, torch.bfloat16):
        assert gather_view(there(x).bfloat16(), there(view), impl="triton").dtype == torch.float32


def test_views_compile_once_for_all_sizes() -> None:
    def read(x, frames, transform):
        return gather_view(x, View(frames=frames, transform=transform), impl="triton")

    batches = [
        tuple(map(there, (torch.rand(n, 3, t, v, 2), torch.zeros(n, 4, dtype=torch.int32), torch.rand(n, 3, 3))))
        for n, t, v in ((6, 9, 5), (3, 7, 8))
    ]
    check_compiles(read, batches)
    x, *maps = batches[1]
    gradients = []
    for fn in (torch.compile(read, fullgraph=True, backend="aot_eager"), read):
        leaf = x.clone().requires_grad_()
        fn(leaf, *maps).square().sum().backward()
        gradients.append(leaf.grad)
    assert_bitwise(*gradients)
    torch._dynamo.reset()
