"""The same work on a GPU: PSTL-style eager PyTorch, torch.compile, our CUDA kernels and our Triton kernels.

Time is the device's, by its events; GB/s and FLOP/s stand beside the device's own copy and matrix product of the same
run. Results are checked before timing (``gpu_groups.py``). What cannot run says so; ``benchmarks/GPU_MODEL.md``
predicts the figures.
"""

from functools import lru_cache, partial

import pytest
import torch
from events import seconds_by_events
from gpu_groups import (
    barlow_twins,
    block,
    first_layer,
    gathering,
    graph_layer,
    masking,
    motion,
    step,
    temporal_layer,
)
from gpu_site import Group, Site, products
from race import limit, ours, rival
from rivals import COMPILED, EAGER

from asma_fast import backends

CUDA, TRITON = "asma_fast, cuda", "asma_fast, triton"
ROWS = {EAGER: None, COMPILED: None, CUDA: "cuda", TRITON: "triton"}
NO_GPU = "not run: no GPU"
EACH, ALONE = ("float32", "TF32", "bfloat16"), ("float32",)
COPIED, SIDE = 256 * 2**20, 4096

#: Group → (how it is built, precisions, whether --quick has it).
GROUPS = {
    **{
        f"view + first graph_conv, {stream} stream": (partial(first_layer, stream), ALONE, stream == "spatial")
        for stream in ("anchor", "spatial", "temporal")
    },
    **{
        f"graph_conv {'forward + backward' if back else 'forward'} {wide}→{out}, T={frames}": (
            partial(graph_layer, wide, out, frames, back),
            EACH,
            out == 256,
        )
        for wide, out, frames in ((16, 16, 50), (32, 64, 25), (64, 256, 13))
        for back in (False, True)
    },
    **{
        f"temporal_conv {'forward + backward' if back else 'forward'} C={wide}, T={frames}, stride {stride}": (
            partial(temporal_layer, wide, frames, stride, back),
            EACH,
            wide == 256,
        )
        for wide, frames, stride in ((16, 50, 1), (64, 25, 2), (256, 13, 1))
        for back in (False, True)
    },
    "frame_motion": (motion, ALONE, True),
    "masking: motion + sampling + gather": (masking, ALONE, True),
    "gather_view: frames, joints, transform": (gathering, ALONE, True),
    "Barlow Twins, D=6144, forward + backward": (barlow_twins, ("float32", "TF32"), False),
    **{
        f"block forward + backward {wide}→{out}, T={frames}, stride {stride}": (
            partial(block, wide, out, frames, stride),
            ("float32", "TF32"),
            False,
        )
        for wide, out, frames, stride in ((16, 16, 50, 1), (32, 64, 25, 2), (64, 256, 13, 1))
    },
    "pretraining step, projector 6144": (step, ("float32", "TF32"), False),
}


def missing(name):
    """Why a row cannot run anywhere here; None where it can."""
    if not torch.cuda.is_available():
        return NO_GPU
    reason = backends()[ROWS[name]] if ROWS.get(name) else None
    return None if reason is None else f"not run: {reason}"


def marks(name, quick=True):
    reason = missing(name)
    found = [pytest.mark.compiles] if name == COMPILED and reason is None else []
    return found + [pytest.mark.skip(reason)] * (reason is not None) + [pytest.mark.large] * (not quick)


TABLE = [
    pytest.param(group, precision, name, id=f"{group}-{precision}-{name}", marks=marks(name, quick))
    for group, (_, precisions, quick) in GROUPS.items()
    for precision in precisions
    for name in ROWS
]
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:Benchmark fixture was not used")]


@lru_cache(maxsize=1)
def built(group, precision, compiles) -> Group:
    """The group built last: rows of a group follow each other."""
    own = {name: impl for name, impl in ROWS.items() if impl is not None and missing(name) is None}
    build, _, _ = GROUPS[group]
    return build(Site("cuda", own, precision=precision, compiles=compiles))


def note(precision):
    return {"device": torch.cuda.get_device_name(), "dtype": precision, "instruction set": ""}


@pytest.mark.parametrize(("group", "precision", "name"), TABLE)
def test_gpu(race, group, precision, name):
    with products(precision):
        made = built(group, precision, race.full)
        if name in made.refused:
            pytest.skip(f"not run: {made.refused[name]}")

        def start():
            kinds = {row: (rival if ROWS[row] is None else ours) for row in made.calls}
            options = {"note": note(precision), "timer": seconds_by_events}
            return {row: kinds[row](call, **options) for row, call in made.calls.items()}

        race(name, f"GPU: {group}, 128 clips, {precision}", start, amounts=made.amounts)


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        pytest.param(name, precision, marks=marks(EAGER), id=f"{name}-{precision}")
        for name, precision in (("copy", ""), *(("matrix product", precision) for precision in EACH))
    ],
)
def test_limits(race, name, precision):
    """What the device gives, to hold every other row against."""

    def start():
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        if name == "copy":
            source, target = torch.ones(2, COPIED // 4, device="cuda")
            call = partial(target.copy_, source)
        else:
            a, b, out = (torch.ones(SIDE, SIDE, device="cuda", dtype=dtype) for _ in range(3))
            call = partial(torch.mm, a, b, out=out)
        return {name: limit(call, note=note(precision), timer=seconds_by_events)}

    what = f"copy {COPIED >> 20} MB" if name == "copy" else f"matrix product {SIDE}³, {precision}"
    amounts = {"GB": 2e-9 * COPIED} if name == "copy" else {"GFLOP": 2e-9 * SIDE**3}
    with products(precision):
        race(name, f"machine: GPU, {what}", start, amounts=amounts)
