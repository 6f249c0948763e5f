"""The page of predictions: what it counts, and that it is what its program writes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:torch\..*", r"ignore::UserWarning:torch\..*")


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_model

    return gpu_model


def kernels(model: Any, call: Any) -> dict[str, tuple[float, float]]:
    """Name → bytes read and written."""
    return {one.name: (one.read, one.written) for one in model.count(call)}


def test_an_op_reads_its_tensors_and_writes_its_result(model: Any) -> None:
    x, y, place = torch.zeros(6, 4), torch.zeros(4), torch.tensor([5, 0])
    assert kernels(model, lambda: x + y) == {"add": (96 + 16, 96)}
    assert kernels(model, lambda: x.mul_(2)) == {"mul_": (96, 96)}
    assert kernels(model, lambda: x.copy_(y)) == {"copy_": (16, 96)}
    assert kernels(model, lambda: x[place]) == {"index": (32 + 16, 32)}
    assert kernels(model, lambda: x.view(3, 8).transpose(0, 1)[2:]) == {}
    assert kernels(model, lambda: x * y.expand(6, 4)) == {"mul": (96 + 16, 96)}
    assert kernels(model, lambda: torch.empty(7)) == {}
    x[:, ::2] = 0  # by a view


def test_products_have_flops_and_a_narrowest_side(model: Any) -> None:
    (product,) = model.count(lambda: torch.zeros(5, 7) @ torch.zeros(7, 3))[-1:]
    assert (product.flop, product.width) == (2 * 5 * 7 * 3, 3)
    x, weight = torch.zeros(2, 4, 10, 3), torch.zeros(8, 4, 9, 1)
    convolution = model.count(lambda: torch.conv2d(x, weight, padding=(4, 0)))[-1]
    assert (convolution.flop, convolution.width) == (2 * 2 * 10 * 3 * 9 * 4 * 8, 8)


def test_a_time_is_the_longest_of_launch_bytes_and_product(model: Any) -> None:
    device, kernel = model.H100, model.Kernel
    assert device.seconds([kernel("small", 8, 8)] * 3, "TF32") == pytest.approx(3 * model.LAUNCH)
    assert device.seconds([kernel("copy", 1e9, 1e9)], "TF32") == pytest.approx(2e9 / (model.MEMORY * 3.35e12))
    wide = kernel("product", 1e3, 1e3, 1e12, 64)
    assert device.seconds([wide], "TF32") == pytest.approx(1e12 / (model.TENSOR_CORES * 495e12))
    assert device.seconds([wide], "float32") == pytest.approx(1e12 / (model.CORES * 67e12))
    assert device.ceiling([wide, kernel("copy", 1e9, 1e9)], "TF32") == pytest.approx(1e12 / 495e12)


def test_parts_of_the_parent_are_its_whole(model: Any) -> None:
    parent = model.gpu_parent
    for stream in parent.STREAMS:
        parts = parent.encoder_parts(stream, clips=4)
        # What is left: two gradients meet at the input of each block with a residual, one changes its layout.
        left = Counter(one.name for one in parts[parent.REST])
        assert left.pop("add") == 9
        assert left.pop("clone", 0) <= 1
        assert not left


def test_ours_moves_no_less_than_the_least(model: Any) -> None:
    ours = model.gpu_ours
    for made in (ours.step, ours.improved):
        for row, least in ours.least().items():
            for amount in ("moved", "flop"):
                own = sum(getattr(one, amount) for one in made()[row])
                assert sum(getattr(one, amount) for one in least) <= own * (1 + 1e-9), row


def test_fused_traffic_is_the_goal_and_the_moments_stand_apart(model: Any) -> None:
    for stream in model.STREAMS:
        floor, own, moments, theirs = model.eval_traffic(stream)
        assert floor < own <= 1.15 * floor
        assert 0.1 * floor < moments < 0.25 * floor
        assert sum(one.moved for one in theirs) > 10 * floor


@pytest.mark.slow
def test_the_page_is_what_the_program_writes(model: Any) -> None:
    text = model.PAGE.read_text(encoding="utf-8")
    counted = text.partition("Counted on torch ")[2].partition(" ")[0]
    here = torch.__version__.partition("+")[0]
    if counted != here:
        pytest.skip(f"the page was counted on torch {counted}, here is {here}")
    assert model.page(text) == text
    assert "nothing here was measured on a GPU" in text


def test_a_page_without_its_places_is_refused(model: Any) -> None:
    with pytest.raises(ValueError, match="no place for summary"):
        model.page("# A page\n")
