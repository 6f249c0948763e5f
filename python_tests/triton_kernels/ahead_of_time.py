"""Compiles the Triton kernels for devices that are not here, and tells what a device would be given.

Each stem has its calls in ``examples_<stem>.py`` beside this file: a function ``examples()`` that yields
:class:`Example`. A call runs the op's own check, allocation and launch on tensors without memory (:func:`meta`), so
that every kernel it launches is compiled with the constants, the options and the specialisation of a real launch, and
with the first configuration where it is tuned. ``test_triton_compiled.py`` runs this in a process of its own, where
kernels are not interpreted, and judges what comes back.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from asma_fast.ops._op import Op
from asma_fast.triton import _launch


@dataclass(frozen=True)
class Example:
    """A call to compile.

    Parameters
    ----------
    op
        The op's record, the one that ``impl="cpu"`` runs.
    args
        Its canonical arguments, tensors by :func:`meta`.
    dots
        How many of the kernels it launches must use tensor cores.
    tf32
        Under torch's switch for TF32.
    """

    op: Op
    args: tuple[Any, ...]
    dots: int = 0
    tf32: bool = False


@dataclass
class Compiled:
    """A kernel as compiled: bytes of stack and of shared memory; whether it fuses a product and a sum, asserts what it
    reads, and multiplies matrices, and by tensor cores."""

    kernel: str
    example: str
    registers: int
    stack: int
    shared: int
    fused: bool
    asserts: bool
    dot: bool
    tensor_cores: bool


def meta(*shape: int, dtype: torch.dtype = torch.float32, order: tuple[int, ...] | None = None) -> torch.Tensor:
    """A tensor without memory, its axes laid out in ``order``, slowest first; a rank of 4 or 5 channels last."""
    order = order or {4: (0, 2, 3, 1), 5: (0, 4, 2, 3, 1)}.get(len(shape), tuple(range(len(shape))))
    physical = torch.empty([shape[axis] for axis in order], dtype=dtype, device="meta")
    return physical.permute([order.index(axis) for axis in range(len(shape))])


class _Absent:
    """A driver of one device that is not here."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)


def compile_examples(examples: list[Example], capability: int) -> list[Compiled]:
    """What the examples launch, compiled for ``sm_<capability>``, each kernel once for all that it is equal for."""
    triton.runtime.driver.set_active(_Absent(capability))
    found: dict[int, Compiled] = {}
    for example in examples:
        launched: list[Any] = []
        with _recorded(launched), _tf32(example.tf32):
            example.op.twin().run_native(*example.args)
        for made in launched:
            if id(made) not in found:
                found[id(made)] = _read(made, example.op.name)
        fast = sum(found[id(made)].tensor_cores for made in launched)
        assert fast >= example.dots, f"{example.op.name}: {fast} kernels use tensor cores, not {example.dots}"
    return list(found.values())


@contextmanager
def _recorded(launched: list[Any]) -> Iterator[None]:
    """Kernels are compiled in place of being started, and gathered."""

    def start(kernel: Any, grid: Any, args: Any, options: Any) -> None:
        if isinstance(kernel, _launch.Tuned):
            kernel, options = kernel.plain, {**kernel.configs[0].all_kwargs(), **options}
        launched.append(kernel.warmup(*args, grid=grid, **options))

    before, _launch.start = _launch.start, start
    try:
        yield
    finally:
        _launch.start = before


@contextmanager
def _tf32(on: bool) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if on else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _read(made: Any, example: str) -> Compiled:
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        command = [str(tools / "cuobjdump"), "-res-usage", file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", told)
    assert usage is not None, told
    registers, stack, local = map(int, usage.groups())
    return Compiled(
        kernel=made.name,
        example=example,
        registers=registers,
        stack=stack + local,
        shared=made.metadata.shared,
        fused=made.metadata.enable_fp_fusion or "fma.rn" in made.asm["ptx"],
        asserts="__assertfail" in made.asm["ptx"],
        dot="tt.dot" in made.asm["ttir"],
        tensor_cores=any(word in made.asm["ptx"] for word in ("mma.sync", "wgmma.mma", "tcgen05.mma")),
    )


def main() -> None:
    """``STEM CAPABILITY…``: a JSON list of what each target would be given, by target."""
    assert not _launch.INTERPRETING
    stem, *capabilities = sys.argv[1:]
    examples = list(importlib.import_module(f"triton_kernels.examples_{stem}").examples())
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRITON_CACHE_DIR"] = folder
        found = {target: [asdict(one) for one in compile_examples(examples, int(target))] for target in capabilities}
    print(json.dumps(found))
