"""The C++ text readers under ten thousand mutations each, with the compiler's sanitizers watching."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ["-std=c++20", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
SOURCES = ["csrc/core/ntu_skeleton.cpp"]


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled driver."""
    compiler = next(filter(None, map(shutil.which, [os.environ.get("CXX", ""), "c++", "g++", "clang++"])), None)
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("fuzz")
    empty = folder / "empty.cpp"
    empty.write_text("int main() {}\n")
    probe = subprocess.run([compiler, *FLAGS, empty, "-o", folder / "empty"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"{compiler} cannot build with the sanitizers: {probe.stderr[-200:]}")
    program = folder / "fuzz_text_readers"
    sources = [Path(__file__).with_name("fuzz_text_readers.cpp"), *(ROOT / source for source in SOURCES)]
    built = subprocess.run(
        [compiler, *FLAGS, "-Wall", "-Wextra", "-Werror", "-I", ROOT / "csrc", *sources, "-o", program],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    return program


@pytest.mark.slow
@pytest.mark.parametrize("target", ["ntu"])
def test_mutations_are_read_or_refused(fuzzer: Path, target: str) -> None:
    run = subprocess.run([fuzzer, target, "10000"], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-4000:]
    read, refused = map(int, run.stdout.split())
    assert read + refused == 10_000
    assert read > 500
    assert refused > 500
