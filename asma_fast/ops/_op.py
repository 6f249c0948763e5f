"""One op in one record: how its arguments are checked, its results allocated, and which implementation runs.

Every op has a canonical list of positional arguments (arrays, None and plain numbers): its torch schema, its check, its
allocator and its implementations all take exactly that list. ``native`` and ``numba`` implementations also get the
allocated outputs, and fill them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from typing import Any

import numpy as np

from asma_fast._backends import IMPLEMENTATIONS, backends, native
from asma_fast.ops._array import Array, dtype_name, is_array, is_tensor, to_native
from asma_fast.ops._contract import REALS

# Looked up once: torch.compile traces through the choice below.
_WHY_NOT: dict[str, str | None] = dict(backends())

# Registered ops by name: looking them up in torch.ops costs microseconds a call.
TORCH_OPS: dict[str, Any] = {}


class Impl(str, Enum):
    """Who computes an op. ``AUTO`` picks by device and dtype; an explicit choice never falls back."""

    AUTO = "auto"
    REFERENCE = "reference"
    NUMBA = "numba"
    CPU = "cpu"
    CUDA = "cuda"
    TRITON = "triton"


@dataclass(frozen=True)
class Op:
    """The record of one op; see the module's text.

    Parameters
    ----------
    name
        As in ``torch.ops.asma_fast`` and ``asma_fast._native``.
    stem
        The file it lives in, in every layer.
    schema
        torch's, without the name: ``"(Tensor x, int k) -> Tensor"``.
    check
        Raises the contract's errors.
    allocate
        Arguments → an uninitialised output, or a tuple of them; for real and fake kernels alike.
    native
        ``(arguments…, outputs…)``: fills the outputs. None: the function ``name`` of the compiled module, with every
        array as native code reads it.
    reference
        Arguments (tensors) → the result, by torch, differentiable.
    """

    name: str
    stem: str
    schema: str
    check: Callable[..., None]
    allocate: Callable[..., Any]
    native: Callable[..., None] | None = None
    reference: Callable[..., Any] | None = None

    def run_cpu(self, *args: Any) -> Any:
        """Check, allocate and fill by the native kernel; arrays of either kind."""
        self.check(*args)
        result = self.allocate(*args)
        outputs = result if isinstance(result, tuple) else (result,)
        if self.native is not None:
            self.native(*args, *outputs)
        else:
            call_native(self.name, *args, *outputs)
        return result

    def run_fake(self, *args: Any) -> Any:
        """Check and allocate only."""
        self.check(*args)
        return self.allocate(*args)


def call_native(name: str, *args: Any) -> None:
    """The function ``name`` of the compiled module, arrays turned into the struct it reads."""
    getattr(native(), name)(*(to_native(arg) if is_array(arg) else arg for arg in args))


def choose(op: str, impl: str | Impl, x: Array) -> str:
    """The implementation that will run: resolves ``auto``, refuses what cannot run here.

    Raises
    ------
    ValueError
        If there is no such implementation, or it cannot serve ``x``.
    RuntimeError
        If it is not available here.
    """
    choice = impl.value if isinstance(impl, Impl) else impl
    if choice == "auto":
        return _automatic(x)
    if choice not in IMPLEMENTATIONS:
        raise ValueError(f"impl must be one of {', '.join(('auto', *IMPLEMENTATIONS))}; got {choice!r}")
    reason = _WHY_NOT[choice]
    if reason is not None:
        raise RuntimeError(f"{op}: impl={choice!r} cannot run: {reason}")
    if choice in ("cpu", "numba") and is_tensor(x) and x.device.type != "cpu":
        raise ValueError(f"{op}: impl={choice!r} takes CPU tensors, got one on {x.device}")
    return choice


def _automatic(x: Array) -> str:
    if is_tensor(x):
        served = x.device.type == "cpu" and (not x.is_floating_point() or dtype_name(x) in REALS)
        return "cpu" if served and _WHY_NOT["cpu"] is None else "reference"
    for choice in ("cpu", "numba", "reference"):
        if _WHY_NOT[choice] is None:
            return choice
    raise RuntimeError("no implementation can run: neither the compiled module, nor numba, nor torch is here")


def run(op: Op, impl: str | Impl, *args: Any) -> Any:
    """Run ``op`` on its canonical arguments, the first of which is an array and decides kind and device."""
    choice = choose(op.name, impl, args[0])
    if choice == "cpu":
        if is_tensor(args[0]):
            return TORCH_OPS[op.name](*args)
        return op.run_cpu(*args)
    op.check(*args)
    if choice == "numba":
        return _run_numba(op, args)
    return _run_reference(op, args)


def _run_reference(op: Op, args: tuple[Any, ...]) -> Any:
    import torch

    if op.reference is None:
        raise RuntimeError(f"{op.name}: has no reference implementation")
    if is_tensor(args[0]):
        if torch.compiler.is_compiling():
            return op.reference(*args)
        with torch.profiler.record_function(f"asma_fast::{op.name} reference"):
            return op.reference(*args)
    with torch.no_grad():
        result = op.reference(*(_readable(a) if isinstance(a, np.ndarray) else a for a in args))
    return tuple(r.numpy() for r in result) if isinstance(result, tuple) else result.numpy()


def _readable(array: np.ndarray[Any, Any]) -> Any:
    """A tensor of the same values: torch takes neither negative strides nor read-only memory."""
    if any(stride < 0 for stride in array.strides) or not array.flags.writeable:
        array = array.copy()
    return sys.modules["torch"].from_numpy(array)


def _run_numba(op: Op, args: tuple[Any, ...]) -> Any:
    for arg in args:
        if is_tensor(arg) and arg.requires_grad:
            raise ValueError(f"{op.name}: impl='numba' is forward only and refuses inputs that require grad")
    fill = getattr(import_module(f"asma_fast.numba.{op.stem}"), op.name)
    result = op.allocate(*args)
    outputs = result if isinstance(result, tuple) else (result,)
    fill(*(arg.numpy() if is_tensor(arg) else arg for arg in (*args, *outputs)))
    return result
