"""The same on a real device, where there is one; and what an interpreter cannot show."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from programs import run_program
from triton_kernels.device import DEVICE

from asma_fast import ops

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="not run: torch can use no CUDA device here"),
]


@pytest.mark.skipif(DEVICE == "cuda", reason="is being run")
def test_all_that_runs_in_the_interpreter_runs_on_the_device() -> None:
    command = [sys.executable, "-m", "pytest", "-q", str(Path(__file__).parent)]
    done = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "0"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.skipif(DEVICE == "cpu", reason="interpreted")
def test_a_graph_captures_them() -> None:
    x = torch.randn(4, 3, 50, 25, 2, device=DEVICE)
    graph = torch.cuda.CUDAGraph()
    ops.frame_motion(x, impl="triton")
    with torch.cuda.graph(graph):
        scores = ops.frame_motion(x, impl="triton")
    x.normal_()
    graph.replay()
    assert torch.equal(scores, ops.frame_motion(x, impl="triton"))


def test_an_index_out_of_range_stops_the_device() -> None:
    done = run_program("""
        import torch
        from asma_fast import View, ops
        x = torch.zeros(1, 3, 4, 5, 1, device="cuda")
        ops.gather_view(x, View(frames=torch.tensor([[0, 4]], dtype=torch.int32, device="cuda")), impl="triton")
        torch.cuda.synchronize()
    """)
    assert done.returncode != 0
    assert "view.frames must lie within the frames of x" in done.stdout + done.stderr
