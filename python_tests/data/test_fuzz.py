"""The C++ text readers under ten thousand mutations each, with the compiler's sanitizers watching."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ("-std=c++20", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
SOURCES = (Path(__file__).with_name("fuzz_text_readers.cpp"), ROOT / "csrc/core/ntu_skeleton.cpp")


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A C++ compiler that has the sanitizers."""
    found = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "c++", "g++", "clang++"))), None)
    if found is None:
        pytest.skip("no C++ compiler")
    source = tmp_path_factory.mktemp("probe") / "empty.cpp"
    source.write_text("int main() {}\n")
    probe = subprocess.run([found, *FLAGS, source, "-o", source.with_suffix("")], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"{found} cannot build with the sanitizers: {probe.stderr[-200:]}")
    return found


def fuzz(compiler: str, program: Path, target: str, *flags: str) -> tuple[int, int]:
    """Builds the driver and runs it; how many mutations were read and refused."""
    command = [compiler, *FLAGS, "-Wall", "-Wextra", "-Werror", *flags, "-I", ROOT / "csrc", *SOURCES, "-o", program]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    run = subprocess.run([program, target, "10000"], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-4000:]
    read, refused = map(int, run.stdout.split())
    return read, refused


@pytest.mark.slow
@pytest.mark.parametrize("target", ["ntu"])
def test_mutations_are_read_or_refused(compiler: str, tmp_path: Path, target: str) -> None:
    """And the same ones with and without the instruction set's own way of checking unused columns."""
    read, refused = fuzz(compiler, tmp_path / "fuzz", target)
    assert read + refused == 10_000
    assert read > 500
    assert refused > 500
    assert fuzz(compiler, tmp_path / "portable", target, "-U__SSE2__") == (read, refused)
