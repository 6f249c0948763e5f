"""The CUDA kernels by nvcc: what a device would be given. Needs no device."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2]
KERNELS = sorted(path.stem for path in (SOURCE / "csrc/cuda").glob("*.cu"))
#: Two of those that -DASMA_CUDA=ON compiles for; ASMA_CUDA_TARGETS="75 80 86 89 90 100 120" asks for all.
TARGETS = tuple(os.environ.get("ASMA_CUDA_TARGETS", "80 90").split())


@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_is_spilled(kernel: str, tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not here; CUDA's toolkit has it")
    targets = [word for one in TARGETS for word in ("-gencode", f"arch=compute_{one},code=sm_{one}")]
    command = [nvcc, "-std=c++20", "-O3", *targets, "-Xptxas", "-v", "-I", "csrc"]
    done = subprocess.run(
        [*command, "-c", f"csrc/cuda/{kernel}.cu", "-o", str(tmp_path / "kernel.o")],
        cwd=SOURCE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = done.stdout + done.stderr
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", told)
    functions = re.findall(r"Compiling entry function '(\w+)' for 'sm_(\d+)'", told)
    assert len(frames) >= len(functions)
    assert {target for _, target in functions} == (set(TARGETS) if functions else set())
    assert all(frame == ("0", "0", "0") for frame in frames), told
    assert functions or kernel == "availability"
