"""How the Triton kernels are started, and what they share that is no kernel of one op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import triton

from asma_fast._backends import interpreting

#: Whether kernels are interpreted, on CPU tensors.
INTERPRETING = interpreting()

# Assertions are compiled in: an index out of range stops the kernel before it reads. Integers may wrap (Philox does).
_OPTIONS = {"debug": True, "sanitize_overflow": False, "enable_fp_fusion": True}

if INTERPRETING:
    from triton.runtime import interpreter

    interpreter.interpreter_builder.options = interpreter.InterpreterOptions(debug=True, sanitize_overflow=False)


@dataclass(frozen=True)
class Tuned:
    """A kernel that picks one of a few configurations, by timing them, at the first launch of each new key."""

    plain: Any
    autotuner: Any
    configs: Sequence[Any]

    @property
    def __name__(self) -> str:
        return str(self.plain.__name__)


def tuned(configs: Sequence[Any], key: Sequence[str]) -> Callable[[Any], Tuned]:
    """Like ``triton.autotune``, over ``@triton.jit``; interpreted or compiled ahead of time it takes the first one.

    Timing synchronises: before a CUDA graph captures such a kernel it must have run once on arguments of the same key.
    """
    return lambda kernel: Tuned(kernel, triton.autotune(configs=list(configs), key=list(key))(kernel), configs)


def launch(kernel: Any, grid: Any, *args: Any, **options: Any) -> None:
    """Start a kernel on torch's current stream of the device of its first tensor; waits for nothing.

    Parameters
    ----------
    kernel
        A ``@triton.jit`` function, or one that is :func:`tuned`.
    grid
        Programs: a number, a tuple of at most three, or a function of the kernel's arguments that gives such a tuple.
        None are no error.
    *args
        What the kernel takes, in its order: tensors, numbers, None.
    **options
        Its constants by name, and triton's own options (``num_warps``, ``num_stages``, ``enable_fp_fusion``).

    Raises
    ------
    RuntimeError
        If the kernel cannot be compiled or started; interpreted, also if an assertion of it fails.
    """
    grid = (grid,) if isinstance(grid, int) else grid
    if isinstance(grid, tuple):
        if 0 in grid:
            return
        if max(grid) >= 2**31 or max(grid[1:], default=0) >= 2**16:
            raise RuntimeError(f"{kernel.__name__} cannot run: {grid} are more programs than a device starts at once")
    device = next(arg.device for arg in args if isinstance(arg, torch.Tensor))
    try:
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            start(kernel, grid, args, {**_OPTIONS, **options})
    except Exception as error:
        given = ", ".join(_described(arg) for arg in args)
        raise RuntimeError(
            f"{kernel.__name__} cannot run on {device} in a grid of {grid} with {options}: {error}; given {given}"
        ) from error


def start(kernel: Any, grid: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Start it here and now. The test that compiles ahead of time puts its own function in place of this one."""
    if not isinstance(kernel, Tuned):
        kernel[grid](*args, **options)
    elif INTERPRETING:
        kernel.plain[grid](*args, **kernel.configs[0].all_kwargs(), **options)
    else:
        kernel.autotuner[grid](*args, **options)


def _described(arg: Any) -> str:
    return f"{arg.dtype} {tuple(arg.shape)}" if isinstance(arg, torch.Tensor) else repr(arg)


def dot_precision() -> str:
    """``input_precision`` of a ``tl.dot`` of float32: torch's own switch, ``torch.set_float32_matmul_precision``."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def check_places(count: int, more: str) -> None:
    """Kernels count some things in 32 bits, for a division of 64 is slow; addresses have 64."""
    if count > 2**30:
        raise ValueError(f"{more} than {2**30}: {count}")


def blocks_of(count: int, block: int) -> int:
    """How many blocks of that size hold so many."""
    return -(-count // block)
