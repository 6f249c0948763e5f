"""The Triton kernels compiled ahead of time for devices that are not here: what a device would be given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from programs import program_environment

HERE = Path(__file__).parent
STEMS = sorted(path.stem.removeprefix("examples_") for path in HERE.glob("examples_*.py"))
#: Compute capability → bytes of shared memory that a block may have.
TARGETS = {"80": 163 * 1024, "90": 227 * 1024, "100": 227 * 1024}
#: Kernels of these read what only the device can check.
CHECKED = ("joint_degree", "motion", "sampling", "gather_view")
#: What these compute decides masks.
UNFUSED = ("motion", "sampling")
PROGRAM = "from triton_kernels.ahead_of_time import main; main()"


@pytest.mark.parametrize("stem", STEMS)
def test_nothing_is_spilled_and_what_multiplies_uses_tensor_cores(stem: str, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    environment = program_environment()
    environment["PYTHONPATH"] = os.pathsep.join([environment["PYTHONPATH"], str(HERE.parent)])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, stem, *TARGETS],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    assert found.keys() == TARGETS.keys()
    for target, kernels in found.items():
        assert kernels
        if stem in CHECKED:
            asserting = {kernel["kernel"] for kernel in kernels if kernel["asserts"]}
            assert asserting == {kernel["kernel"] for kernel in kernels}
        for kernel in kernels:
            assert kernel["stack"] == 0, f"sm_{target}: a spill or local memory: {kernel}"
            assert kernel["shared"] <= TARGETS[target], f"sm_{target}: too much shared memory: {kernel}"
            assert not (stem in UNFUSED and kernel["fused"]), f"sm_{target}: it must round at each step: {kernel}"
