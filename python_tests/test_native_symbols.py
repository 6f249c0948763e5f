"""One instruction set's copy of a function must never serve another.

The kernel sources are compiled once per instruction set, and linked into one module. A weak symbol outside the
instruction set's own namespace (an inline function, a template of the standard library) would be defined by several of
these objects; the linker keeps one, perhaps one that this CPU cannot run.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED_BINDINGS = "WVu"  # weak function, weak object, unique global: what several objects may define


def _build() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Sources and flags of each set of kernels, as CMakeLists.txt has them; int8 kernels as ``int8:ISA``."""
    lists = ROOT / "CMakeLists.txt"
    if not lists.is_file():
        return {}, {}
    text = lists.read_text()
    sources = []
    for kind in ("KERNEL", "INT8"):
        match = re.search(rf"set\(ASMA_{kind}_SOURCES\s+([^)]*)\)", text)
        assert match, f"CMakeLists.txt has no list ASMA_{kind}_SOURCES"
        sources.append(match[1].split())
    flags = {
        isa: [
            f"-DASMA_ISA={isa}",
            f"-DASMA_REAL={real}",
            f"-DASMA_VECTOR_BYTES={size}",
            f"-DASMA_VECTOR_COUNT={count}",
            *extra.split(),
        ]
        for isa, real, size, count, extra in re.findall(
            r"^\s*asma_kernels\((\w+) (\w+) (\d+) (\d+)([^)]*)\)", text, re.M
        )
    }
    int8 = {
        f"int8:{isa}": [f"-DASMA_ISA={isa}", *extra.split()]
        for isa, extra in re.findall(r"^\s*asma_int8_kernels\((\w+)([^)]*)\)", text, re.M)
    }
    return {**dict.fromkeys(flags, sources[0]), **dict.fromkeys(int8, sources[1])}, {**flags, **int8}


SOURCES, FLAGS = _build()


def _compiler(isa: str) -> str:
    if not SOURCES:
        pytest.skip("the sources are not here: an installed package has none")
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    machine = subprocess.run(["uname", "-m"], capture_output=True, text=True, check=True).stdout.strip()
    arm, x86 = machine in ("aarch64", "arm64"), machine in ("x86_64", "AMD64")
    if isa.startswith("generic") or (arm if isa.startswith("neon") else x86):
        names = ["c++", "g++", "clang++"]
    else:
        names = ["aarch64-linux-gnu-g++"] if isa.startswith("neon") else ["x86_64-linux-gnu-g++"]
    for name in names:
        if shutil.which(name):
            return name
    pytest.skip(f"none of {', '.join(names)} is installed")


def _shared_symbols(compiler: str, source: Path, flags: list[str], isa: str, folder: Path) -> list[str]:
    """Defined symbols of the object that another object may replace."""
    target = folder / f"{source.stem}.o"
    # Without optimisation nothing is inlined away: also what the optimiser happens to hide today shows.
    command = [compiler, "-std=c++20", "-O0", "-fPIC", "-w", f"-I{ROOT / 'csrc'}", *flags, "-c", source, "-o", target]
    subprocess.run(command, check=True)
    listing = subprocess.run(["nm", "--defined-only", target], capture_output=True, text=True, check=True).stdout
    own = f"4asma3cpu{len(isa)}{isa}"  # the namespace, mangled
    symbols = (line.split()[-2:] for line in listing.splitlines())
    return [name for binding, name in symbols if binding in SHARED_BINDINGS and own not in name]


@pytest.mark.parametrize("isa", sorted(FLAGS) or ["generic"])
def test_kernels_share_no_code_between_instruction_sets(isa, tmp_path):
    name = isa.removeprefix("int8:")
    compiler = _compiler(name)
    assert {"generic", "generic_f64", "int8:generic", "int8:avxvnni", "int8:neon_dotprod"} <= FLAGS.keys()
    for source in SOURCES[isa]:
        shared = _shared_symbols(compiler, ROOT / source, FLAGS[isa], name, tmp_path)
        assert not shared, f"{source} defines, for {isa}, what another instruction set may replace: {shared}"


def test_a_shared_inline_function_is_found(tmp_path):
    compiler = _compiler("generic")
    source = tmp_path / "offender.cpp"
    source.write_text(
        "inline int shared(int x) { return x; }\n"
        "namespace asma::cpu::ASMA_ISA {\n"
        "inline int own(int x) { return x; }\n"
        "int use(int x) { return own(shared(x)); }\n"
        "}\n"
    )
    assert _shared_symbols(compiler, source, FLAGS["generic"], "generic", tmp_path) == ["_Z6sharedi"]
