"""One clip, or sixteen, of two bodies, 50 frames and 25 joints through a network on a CPU: the engine and its rivals.

Before timing, all logits are held against the eager network's.
"""

import time

import numpy as np
import pytest
import torch
from edge_rivals import COMPILED, EAGER, OURS, PUBLISHED, PUBLISHED_RIVALS, RIVALS, TEACHER, Network, call_of
from race import ours, rival
from rivals import encoder_gflop, random_clips

large = pytest.mark.large
FIELDS = [
    ("student", 1, 1),
    ("PSTL's encoder", 1, 1),
    (PUBLISHED, 1, 1),
    ("student", 1, 2),
    ("PSTL's encoder", 1, 2),
    ("student", 16, 1),
]
QUICK = FIELDS[0]
TABLE = [
    pytest.param(
        field,
        name,
        id=f"{name}-{field[0]}-{field[1]} clips-{field[2]} threads",
        marks=[pytest.mark.compiles] if field == QUICK and name == COMPILED else [large] if field != QUICK else [],
    )
    for field in FIELDS
    for name in (OURS, *(PUBLISHED_RIVALS if field[0] == PUBLISHED else RIVALS))
]


def _tails(calls, rounds=200):
    """The 99th percentile of single calls by their median: of all in turn, so that what disturbs one disturbs all."""
    times = {name: np.empty(rounds) for name in calls}
    for turn in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name][turn] = time.perf_counter() - began
    return {name: round(float(np.quantile(of, 0.99) / np.median(of)), 2) for name, of in times.items()}


@pytest.mark.parametrize(("field", "name"), TABLE)
def test_clip(race, field, name, tmp_path):
    of, count, threads = field

    def start():
        network, clips = Network(of, tmp_path), random_clips(count)
        with torch.inference_mode():
            wanted = network.model(clips)
        rivals = PUBLISHED_RIVALS if of == PUBLISHED else RIVALS
        names = [OURS, *(name for name in rivals if name != COMPILED or race.benchmark.enabled)]
        calls = {name: call_of(name, network, clips, threads) for name in names}
        for name, call in calls.items():
            torch.testing.assert_close(torch.from_numpy(call()), wanted, rtol=1e-3, atol=1e-3, msg=name)
        tails = _tails(calls) if race.full and count == 1 else {}
        return {
            name: (ours if name == OURS else rival)(call, note={"p99 / p50": tails[name]} if tails else {})
            for name, call in calls.items()
        }

    race(
        name,
        f"edge: {of}, clips: {count}, threads: {threads}",
        start,
        threads=threads,
        seconds=6.0,
        amounts={"clips": float(count)} | ({"GFLOP": encoder_gflop(count)} if of != "student" else {}),
    )


EAGER_TEACHER = "teacher, eager"


@pytest.mark.parametrize("name", [OURS, EAGER_TEACHER])
def test_student_against_its_teacher(race, name, tmp_path):
    def start():
        student, teacher, clips = Network("student", tmp_path), Network(TEACHER, tmp_path), random_clips(1)
        call = call_of(EAGER, teacher, clips, 1)
        with torch.inference_mode():
            torch.testing.assert_close(torch.from_numpy(call()), teacher.model(clips), rtol=1e-3, atol=1e-3)
        return {OURS: ours(call_of(OURS, student, clips, 1)), EAGER_TEACHER: rival(call)}

    race(name, "edge: student against its teacher, clips: 1, threads: 1", start, threads=1, seconds=3.0)
