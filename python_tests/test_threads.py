"""Which threads the native code takes, and what it does where there are none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from programs import program_output

if sys.platform != "linux":
    pytest.skip("looks into Linux's loader and limits", allow_module_level=True)


def test_threads_that_cannot_be_started_are_done_without() -> None:
    code = """
import os, resource
import numpy as np
from asma_fast import View
from asma_fast._backends import native
from asma_fast.ops import gather_view
x = np.random.default_rng(0).random((64, 3, 64, 25, 1), np.float32)
native().set_num_threads(1)
expected = gather_view(x, View())
with open("/proc/self/statm") as sizes:
    used = int(sizes.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.RLIMIT_AS, (used + (24 << 20), resource.RLIM_INFINITY))  # room for a few stacks
native().set_num_threads(64)
result = gather_view(x, View())
assert len(os.listdir("/proc/self/task")) < 64, "the limit did not bind: nothing was tested"
print(native().thread_pool_name(), np.array_equal(result, expected))
"""
    assert program_output(code, without=("torch", "triton", "numba")) == "std::thread True"


def test_torchs_runtime_is_told_from_one_of_a_similar_path(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    package = Path(torch.__file__).parent
    runtimes = [*package.glob("lib/libgomp*"), *package.parent.glob("torch.libs/libgomp*")]
    if not runtimes:
        pytest.skip("this torch ships no libgomp")
    # A runtime with a name of its own, or the loader would give it to torch as well.
    decoy = tmp_path / "torchlike" / runtimes[0].name
    decoy.parent.mkdir()
    name = runtimes[0].name.encode()
    decoy.write_bytes(runtimes[0].read_bytes().replace(name, name.replace(b"gomp", b"gomq")))
    code = f"""
import ctypes
ctypes.CDLL({str(decoy)!r})
import asma_fast.ops
from asma_fast._backends import native
with open("/proc/self/maps") as maps:
    assert "torchlike/libgomp" in maps.read(), "nothing was tested"
print(native().thread_pool_name())
"""
    found = Path(program_output(code))
    assert found != decoy
    assert found.is_relative_to(package) or found.parent.name == "torch.libs"
