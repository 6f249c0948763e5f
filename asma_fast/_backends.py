"""What can run here, and why the rest cannot."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import sys
from functools import lru_cache
from types import ModuleType
from typing import cast

IMPLEMENTATIONS = ("reference", "numba", "cpu", "cuda", "triton")


@lru_cache(maxsize=1)
def native() -> ModuleType:
    """The compiled module ``asma_fast._native``.

    Raises
    ------
    RuntimeError
        If this installation has none (``ASMA_NO_NATIVE=1``) or it does not load here.
    """
    try:
        return importlib.import_module("asma_fast._native")
    except ImportError as error:
        raise RuntimeError(f"the compiled module asma_fast._native is not available: {error}") from error


@lru_cache(maxsize=1)
def cuda() -> ModuleType:
    """The compiled module ``asma_fast._cuda``.

    Raises
    ------
    RuntimeError
        If this installation has none, or it does not load here.
    """
    if importlib.util.find_spec("asma_fast._cuda") is None:
        raise RuntimeError("this installation has no CUDA kernels: -Ccmake.define.ASMA_CUDA=ON builds them with nvcc")
    try:
        return importlib.import_module("asma_fast._cuda")
    except ImportError as error:
        raise RuntimeError(f"the compiled module asma_fast._cuda does not load: {error}") from error


@lru_cache(maxsize=len(IMPLEMENTATIONS))
def why_not(impl: str) -> str | None:
    """None where the implementation can run, else the reason, one sentence."""
    if impl == "reference":
        return None if _installed("torch") else "torch is not installed: pip install 'asma-fast[torch]'."
    if impl == "numba":
        return None if _installed("numba") else "numba is not installed: pip install 'asma-fast[numba]'."
    if impl == "cpu":
        try:
            native()
        except RuntimeError as error:
            return f"{error}."
        return None
    if impl == "cuda":
        return _why_not_cuda()
    if impl == "triton":
        return _why_not_triton()
    raise ValueError(f"impl must be one of {', '.join(('auto', *IMPLEMENTATIONS))}; got {impl!r}")


def _why_not_cuda() -> str | None:
    try:
        module = cuda()
    except RuntimeError as error:
        return f"{error}."
    if not _installed("torch"):
        return "torch is not installed, whose CUDA tensors the kernels take: pip install 'asma-fast[torch]'."
    if _torch_has_device():
        return None
    return cast(str, module.driver_why_not()) or "torch can use no CUDA device here."


@lru_cache(maxsize=64)
def cuda_problem(device: int) -> str | None:
    """None where the compiled CUDA kernels can run on the device of that index, else the reason."""
    with importlib.import_module("torch").cuda.device(device):
        return cuda().device_why_not() or None


def _why_not_triton() -> str | None:
    for package, extra in (("torch", "torch"), ("triton", "gpu")):
        if not _installed(package):
            return f"{package} is not installed: pip install 'asma-fast[{extra}]'."
    if interpreting() or _torch_has_device():
        return None
    return "torch can use no CUDA device here; TRITON_INTERPRET=1 runs the kernels on the CPU, slowly, for tests."


def interpreting() -> bool:
    """Whether Triton kernels are interpreted, on CPU tensors: as triton reads ``TRITON_INTERPRET``."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


def _torch_has_device() -> bool:
    """Whether torch can use a CUDA device. Imports torch only where there is a driver to ask about."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return cast(bool, importlib.import_module("torch").cuda.device_count() > 0)  # asks without starting CUDA


@lru_cache(maxsize=64)
def triton_problem(device: int) -> str | None:
    """None where Triton compiles for the CUDA device of that index, else the reason."""
    major, minor = importlib.import_module("torch").cuda.get_device_capability(device)
    return None if major >= 8 else f"triton needs compute capability 8.0, cuda:{device} has {major}.{minor}."


def allows_tf32() -> bool:
    """Whether a GPU may make products of float32 from 10 bits of mantissa: torch's own switch for matrix products."""
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):  # since torch 2.9; the older switch may not be asked once this one is set
        return cast(bool, matmul.fp32_precision == "tf32")
    return cast(bool, matmul.allow_tf32)


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


class Backends(dict[str, str | None]):
    """Implementation → None where it can run, else the reason. Prints as a table."""

    def __str__(self) -> str:
        lines = [f"{impl:<10} {'yes' if reason is None else 'no: ' + reason}" for impl, reason in self.items()]
        return "\n".join(lines)

    __repr__ = __str__


def backends() -> Backends:
    """Which implementations of the ops can run here, with the reason for each "no".

    Examples
    --------
    >>> import asma_fast
    >>> print(asma_fast.backends())  # doctest: +SKIP
    reference  yes
    numba      no: numba is not installed: pip install 'asma-fast[numba]'.
    """
    return Backends({impl: why_not(impl) for impl in IMPLEMENTATIONS})


def describe_native() -> dict[str, str | int]:
    """Instruction set, thread pool and threads of the compiled module."""
    module = native()
    return {
        "instruction set": cast(str, module.instruction_set()),
        "instruction sets here": ", ".join(module.available_instruction_sets()),
        "thread pool": cast(str, module.thread_pool_name()),
        "threads": cast(int, module.num_threads()),
    }
