"""ThreadSanitizer over the CUDA kernels on the emulated device: it sees a race, and sees none in the kernels."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_kernels.conftest import SOURCE, build
from programs import program_environment

FOUND = 66  # exit status of a program in which a race was found


def _compiler() -> str:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not here")
    return compiler


@pytest.mark.parametrize("races", [False, True])
def test_a_race_is_seen_where_there_is_one(races: bool, tmp_path: Path) -> None:
    program, race, told = tmp_path / "race", tmp_path / "race.o", ["-DRACE"] if races else []
    plain = [_compiler(), "-std=c++20", "-g", "-O1", "-I", SOURCE / "csrc"]
    for command in (
        [*plain, "-DASMA_TSAN", "-c", SOURCE / "csrc/cuda/emulation/emulation.cpp", "-o", tmp_path / "emulation.o"],
        [*plain, "-fsanitize=thread", *told, "-xc++", "-c", Path(__file__).with_name("race.cu"), "-o", race],
        [_compiler(), "-fsanitize=thread", race, tmp_path / "emulation.o", "-o", program],
    ):
        subprocess.run([str(word) for word in command], check=True, capture_output=True)
    environment = {**os.environ, "TSAN_OPTIONS": f"exitcode={FOUND}"}
    done = subprocess.run([str(program)], env=environment, capture_output=True, text=True, check=False)
    if races:
        assert done.returncode == FOUND
        assert "data race" in done.stderr
        assert re.search(r"race\.cu:(11|15)\b", done.stderr), done.stderr  # the write and the read
    else:
        assert done.returncode == 0, done.stderr


PROGRAM = """
import sys
import torch
from asma_fast.ops import _op
from cuda_kernels import conftest, test_emulated
from cuda_kernels import test_emulated_convolutions as convolutions
module = conftest.load(sys.argv[1])
_op.native = lambda: module
for seed in range(2):
    module.reseed(seed)
    test_emulated.test_degrees(module)
    sizes = {"N": 2, "C": 3, "T": 7, "V": 17, "M": 2}
    for kind in test_emulated.KINDS:
        test_emulated.test_motion_has_the_bits_of_every_implementation(module, sizes, kind)
        test_emulated.test_views_and_their_gradients(module, sizes, kind, torch.float32)
    test_emulated.test_joints_are_those_of_the_cpu(module, 33)
    test_emulated.test_frames_are_those_of_the_cpu(module, 50, True)
    convolutions.test_no_part_and_no_channel(module)
for kind in ("float32", "tf32"):  # halves go the way of TF32
    _op.allows_tf32 = lambda: kind == "tf32"
    for sizes in convolutions.RACED_GRAPHS:
        convolutions.test_graph_convolutions(module, sizes, kind)
    for sizes in convolutions.RACED_TEMPORAL:
        convolutions.test_temporal_convolutions(module, sizes, kind)
print("done")
"""


def test_no_kernel_races(tmp_path: Path) -> None:
    path = build(tmp_path / "build", "-DASMA_SANITIZE_THREADS=ON")
    runtime = subprocess.run([_compiler(), "-print-file-name=libtsan.so"], check=True, capture_output=True, text=True)
    environment = program_environment(
        LD_PRELOAD=runtime.stdout.strip(), TSAN_OPTIONS=f"exitcode={FOUND}", OMP_NUM_THREADS="1"
    )
    environment["PYTHONPATH"] = os.pathsep.join([environment["PYTHONPATH"], str(SOURCE / "python_tests")])
    command = [sys.executable, "-c", PROGRAM, str(path)]  # in another folder: the checkout's package would come first
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    assert done.stdout.strip() == "done"
