"""The GPU groups of the benchmarks, built and called on a CPU, the reference in place of the kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
OURS = "asma_fast, reference"
pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:torch\..*", r"ignore::UserWarning:torch\..*")
ON_CPU = ("cpu", {OURS: "reference"}, 3)

BUILDERS: dict[str, Callable[[Any], Callable[[Any], Any]]] = {
    "anchor": lambda it: partial(it.first_layer, "anchor"),
    "spatial": lambda it: partial(it.first_layer, "spatial"),
    "temporal": lambda it: partial(it.first_layer, "temporal"),
    "graph_conv": lambda it: partial(it.graph_layer, 4, 6, 5, False),
    "graph_conv and gradients": lambda it: partial(it.graph_layer, 4, 6, 5, True),
    "temporal_conv": lambda it: partial(it.temporal_layer, 4, 11, 2, False),
    "temporal_conv and gradients": lambda it: partial(it.temporal_layer, 4, 11, 1, True),
    "motion": lambda it: it.motion,
    "masking": lambda it: it.masking,
    "gather_view": lambda it: it.gathering,
    "Barlow Twins": lambda it: partial(it.barlow_twins, width=12),
    "block": lambda it: partial(it.block, 4, 8, 10, 2),
    "step": lambda it: partial(it.step, width=16),
}  # fmt: skip


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> Any:
    for folder in ("gpu", "."):
        monkeypatch.syspath_prepend(str(FOLDER / folder))
    import gpu_groups

    return gpu_groups


@pytest.mark.parametrize("name", BUILDERS)
def test_a_group_is_built_and_its_results_agree(groups: Any, name: str) -> None:
    # A step by the reference would take its time.
    site = groups.Site("cpu", {OURS: "auto"}, 3) if name == "step" else groups.Site(*ON_CPU)
    group = BUILDERS[name](groups)(site)
    assert list(group.calls) == ["eager", OURS]
    assert not group.refused
    for call in group.calls.values():
        call()
    assert all(value > 0 for value in group.amounts.values())


@pytest.mark.parametrize("name", ["graph_conv", "temporal_conv and gradients"])
def test_half_precision(groups: Any, name: str) -> None:
    group = BUILDERS[name](groups)(groups.Site(*ON_CPU, precision="bfloat16"))
    assert list(group.calls) == ["eager", OURS]


def test_what_cannot_run_is_refused_with_its_reason(groups: Any) -> None:
    group = BUILDERS["graph_conv"](groups)(groups.Site("cpu", {"asma_fast, cuda": "cuda"}, 2))
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert list(group.calls) == ["eager"]
    assert "impl='cuda' cannot run" in group.refused["asma_fast, cuda"]


def test_a_wrong_result_is_no_row(groups: Any) -> None:
    site = groups.Site("cpu", {OURS: "reference"}, 2)
    right, wrong = torch.ones(5), torch.ones(5) + 1e-3
    with pytest.raises(AssertionError):
        groups.Group().race(site, lambda: right, lambda impl: lambda: wrong, groups.near(right, "float32"))


class Event:
    """A device's event in place of torch's: time stands still but for calls, of a millisecond each."""

    now = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = Event.now

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, other: Event) -> float:
        return other.at - self.at


def test_time_by_events(groups: Any) -> None:
    from events import seconds_by_events

    def call() -> None:
        Event.now += 1.0

    assert seconds_by_events(call, 4, Event) == pytest.approx(1e-3)


def test_a_race_takes_an_entrys_own_timer(groups: Any) -> None:
    from race import Effort, rival, run_race

    times = run_race({"a": rival(int, timer=lambda call, repeats: 0.5)}, Effort(rounds=(2, 2)), 1.0)
    assert times == {"a": [0.5, 0.5]}
