"""How kernels are started."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from triton_kernels.device import DEVICE, needs_triton

pytestmark = needs_triton
triton = pytest.importorskip("triton")
tl = triton.language

from asma_fast.triton._launch import blocks_of, check_places, dot_precision, launch, tuned  # noqa: E402

CONFIGS = [triton.Config({"SIZE": 8}, num_warps=1), triton.Config({"SIZE": 16}, num_warps=1)]


@tuned(CONFIGS, key=["count"])
@triton.jit
def doubled(x, out, count, SIZE: tl.constexpr):
    i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(out + i, 2 * tl.load(x + i, mask=i < count), mask=i < count)


def test_a_tuned_kernel_runs_with_a_grid_of_its_configuration() -> None:
    x = torch.arange(37.0, device=DEVICE)
    out = torch.empty_like(x)
    launch(doubled, lambda given: (triton.cdiv(37, given["SIZE"]),), x, out, 37)
    assert torch.equal(out, 2 * x)


def test_no_programs_are_no_launch() -> None:
    x = torch.ones(3, device=DEVICE)
    launch(doubled, 0, x, x, 3)
    launch(doubled, (2, 0), x, x, 3)
    assert x.tolist() == [1, 1, 1]
    with pytest.raises(RuntimeError, match=r"doubled cannot run: \(1, 65536\) are more programs than a device starts"):
        launch(doubled, (1, 65536), x, x, 3)


@pytest.fixture
def precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def test_tf32_is_torchs_own_switch(precision: None) -> None:
    for name, wanted in (("highest", "ieee"), ("high", "tf32"), ("highest", "ieee")):
        torch.set_float32_matmul_precision(name)
        assert dot_precision() == wanted
    torch.backends.cuda.matmul.allow_tf32 = True
    assert dot_precision() == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = False
    assert dot_precision() == "ieee"


def test_counts() -> None:
    assert [blocks_of(count, 8) for count in (0, 1, 8, 9)] == [0, 1, 1, 2]
    check_places(2**30, "x has more frames")
    with pytest.raises(ValueError, match="x has more frames than 1073741824: 1073741825"):
        check_places(2**30 + 1, "x has more frames")
