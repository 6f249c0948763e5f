"""What can run here, and why the rest cannot."""

from __future__ import annotations

import importlib
import importlib.util
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
        try:
            return cuda().why_not() or None
        except RuntimeError as error:
            return f"{error}."
    if impl == "triton":
        return "this release has no Triton kernels."
    raise ValueError(f"impl must be one of {', '.join(('auto', *IMPLEMENTATIONS))}; got {impl!r}")


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
