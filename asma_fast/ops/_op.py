"""One op in one record: how its arguments are checked, its results allocated, and which implementation runs.

Every op has a canonical list of positional arguments (arrays, None and plain numbers): its torch schema, its check, its
allocator and its implementations all take exactly that list. ``native`` and ``numba`` implementations also get the
allocated outputs, and fill them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from asma_fast._array import (
    Array,
    aligned,
    dtype_name,
    empty,
    empty_channels_last,
    find_tensor_type,
    is_array,
    is_tensor,
    to_native,
    to_tensor,
)
from asma_fast._backends import (
    IMPLEMENTATIONS,
    allows_tf32,
    backends,
    cuda,
    cuda_problem,
    interpreting,
    native,
    triton_problem,
)
from asma_fast.ops._contract import HALVES, REALS, check_array

# Looked up once: torch.compile traces through the choice below.
_WHY_NOT: dict[str, str | None] = dict(backends())

try:
    import torch
    from torch.autograd import forward_ad
except ImportError:  # the ops serve NumPy arrays without it
    HAVE_TORCH = False
else:
    HAVE_TORCH = True
    find_tensor_type()  # before torch.compile traces through what asks for it
    if _WHY_NOT["cpu"] is None:
        native().adopt_thread_pool()

_CUDA_OPS: frozenset[str] = frozenset(dir(cuda())) if _WHY_NOT["cuda"] is None else frozenset()

# Registered ops by name: looking them up in torch.ops costs microseconds a call.
TORCH_OPS: dict[str, Any] = {}

# What impl="triton" runs in place of each op that has Triton kernels, where they can run.
TWINS: dict[str, Op] = {}
HAVE_TRITON = _WHY_NOT["triton"] is None
_TRITON_DEVICE = "cpu" if interpreting() else "cuda"

_NO_CUDA_KERNEL = "this release has no CUDA kernel of it"
#: Others take float32, float16 and bfloat16 there.
_ANY_DTYPE_ON_CUDA = frozenset(("sample_joints", "sample_frames"))

_NUMBERS = (int, float, bool)
_TENSORS: tuple[type, ...] = (torch.Tensor, torch.nn.Parameter) if HAVE_TORCH else ()


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
        Arguments (tensors) → the result, by torch, differentiable. It sees float32 where half precision came.
    autocast
        Under autocast half-precision inputs are cast to float32.
    triton
        It has Triton kernels: ``asma_fast.triton.<stem>.<name>``, ``(arguments…, outputs…)``, fills the outputs.
    keeps_dtype
        The reference's result (the first of several), computed in float32 or wider, is rounded to the first argument's
        dtype.
    """

    name: str
    stem: str
    schema: str
    check: Callable[..., None]
    allocate: Callable[..., Any]
    native: Callable[..., None] | None = None
    reference: Callable[..., Any] | None = None
    autocast: bool = False
    keeps_dtype: bool = False
    triton: bool = False

    @property
    def first(self) -> str:
        """The name of the first argument."""
        return self.schema.removeprefix("(Tensor ").partition(",")[0]

    def run_native(self, *args: Any) -> Any:
        """Check, allocate and fill by the kernel for the first argument's device; arrays of either kind."""
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

    def twin(self) -> Op:
        """The same contract, filled by Triton: an op of its own, so that autograd and torch.compile know which runs."""
        return replace(self, name=f"triton_{self.name}", native=partial(_fill_by_triton, self.stem, self.name))


def _fill_by_triton(stem: str, name: str, *args: Any) -> None:
    getattr(import_module(f"asma_fast.triton.{stem}"), name)(*args)


def call_native(name: str, *args: Any) -> None:
    """The function ``name`` of the compiled module for the first argument's device, arrays turned into the struct it
    reads."""
    ready = list(args)
    borrowed = []  # copies must outlive the call
    on_device = is_tensor(args[0]) and args[0].is_cuda
    module = cuda() if on_device else native()
    for position, arg in enumerate(args):
        kind = type(arg)
        if arg is not None and kind not in _NUMBERS and (kind in _TENSORS or is_array(arg)):
            array = aligned(arg)
            borrowed.append(array)
            ready[position] = to_native(array)
    function = getattr(module, name, None)
    if function is None:
        raise RuntimeError(f"asma_fast::{name} cannot run on {args[0].device}: {_NO_CUDA_KERNEL}")
    if not on_device:
        if hasattr(module, "products"):  # an emulated device
            ready += _product_arguments(module, name, ready, args[0], borrowed)
        function(*ready)
        return
    try:
        with torch.cuda.device(args[0].device):  # where a kernel starts is CUDA's current device
            function(*ready, *_product_arguments(module, name, ready, args[0], borrowed))
    except RuntimeError as error:
        shapes = ", ".join(f"{tuple(arg.shape)} {dtype_name(arg)}" for arg in args if is_array(arg))
        raise RuntimeError(f"{error}; of arrays {shapes}") from error


def _product_arguments(module: Any, name: str, ready: list[Any], x: Array, borrowed: list[Any]) -> list[Any]:
    """What the CUDA functions that make products take besides: whether TF32 may be used, and a workspace."""
    if name not in module.products:
        return []
    more: list[Any] = [allows_tf32() and _multiplies_tf32(x)]
    workspace = getattr(module, f"{name}_workspace", None)
    if workspace is not None:
        borrowed.append(empty((workspace(*ready),), x, "float32"))
        more.append(to_native(borrowed[-1]))
    return more


def _multiplies_tf32(x: Any) -> bool:
    """Whether the tensor's device has tensor cores for it; an emulated device, on the host, has."""
    return not (is_tensor(x) and x.is_cuda) or torch.cuda.get_device_capability(x.device)[0] >= 8


# ---- backward ops whose last argument is ``needs``: for each differentiable argument, whether its gradient is wanted


def check_needs(needs: Sequence[bool], arguments: Sequence[Any], places: Sequence[int]) -> None:
    """``needs`` has an entry for each of ``places`` in ``arguments``, and asks for no gradient of an absent one."""
    if len(needs) != len(places):
        raise ValueError(f"needs must have {len(places)} entries, got {len(needs)}")
    for place, needed in zip(places, needs, strict=True):
        if needed and arguments[place] is None:
            raise ValueError(f"needs asks for the gradient of argument {place}, which is None")


def allocate_grads(
    needs: Sequence[bool], arguments: Sequence[Any], places: Sequence[int], like: Array, maps: Sequence[int] = (0,)
) -> tuple[Array, ...]:
    """The gradients of the arguments at ``places``, channels last in memory at ``maps``; empty where not needed."""
    return tuple(
        empty((0,), like)
        if not needed
        else empty_channels_last(arguments[place].shape, like)
        if place in maps
        else empty(arguments[place].shape, like)
        for place, needed in zip(places, needs, strict=True)
    )


def wanted(needs: Sequence[bool], grads: Sequence[Array]) -> list[Array | None]:
    """The gradients, None where none is needed."""
    return [grad if needed else None for grad, needed in zip(grads, needs, strict=True)]


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
        return _automatic(op, x)
    if choice not in IMPLEMENTATIONS:
        raise ValueError(f"impl must be one of {', '.join(('auto', *IMPLEMENTATIONS))}; got {choice!r}")
    reason = _WHY_NOT[choice]
    if reason is not None:
        raise RuntimeError(f"{op}: impl={choice!r} cannot run: {reason}")
    if choice == "cuda":
        if not is_tensor(x) or not x.is_cuda:
            got = f"one on {x.device}" if is_tensor(x) else "a NumPy array"
            raise ValueError(f"{op}: impl='cuda' takes CUDA tensors, got {got}")
        if dtype_name(x) == "float64" and op not in _ANY_DTYPE_ON_CUDA:
            raise TypeError(f"{op}: impl='cuda' takes float32, float16 or bfloat16, got float64")
        if op not in _CUDA_OPS:
            raise RuntimeError(f"{op}: impl='cuda' cannot run: {_NO_CUDA_KERNEL}.")
        if not _cuda_built_for(x):
            raise RuntimeError(f"{op}: impl='cuda' cannot run: {cuda_problem(x.get_device())}")
    if choice == "triton":
        _check_triton(op, x)
    if choice in ("cpu", "numba"):
        if is_tensor(x) and x.device.type != "cpu":
            raise ValueError(f"{op}: impl={choice!r} takes CPU tensors, got one on {x.device}")
        if dtype_name(x) in HALVES:
            raise TypeError(f"{op}: impl={choice!r} takes float32 or float64, got {dtype_name(x)}")
    return choice


def _cuda_built_for(x: Any) -> bool:
    # As below: a call of a kernel that is not there says so itself where torch.compile traces this.
    return torch.compiler.is_compiling() or cuda_problem(x.get_device()) is None


def _check_triton(op: str, x: Array) -> None:
    if not is_tensor(x) or x.device.type != _TRITON_DEVICE:
        got = f"one on {x.device}" if is_tensor(x) else "a NumPy array"
        wanted = "CUDA tensors" if _TRITON_DEVICE == "cuda" else "CPU tensors under TRITON_INTERPRET=1"
        raise ValueError(f"{op}: impl='triton' takes {wanted}, got {got}")
    if dtype_name(x) == "float64" and op not in _ANY_DTYPE_ON_CUDA:
        raise TypeError(f"{op}: impl='triton' takes float32, float16 or bfloat16, got float64")
    if op not in TWINS:
        raise RuntimeError(f"{op}: impl='triton' cannot run: this release has no Triton kernel of it.")
    if not _triton_compiles_for(x):
        raise RuntimeError(f"{op}: impl='triton' cannot run: {triton_problem(x.get_device())}")


def _triton_compiles_for(x: Any) -> bool:
    # torch.compile, which traces this, would not see through the question; triton says so itself then.
    return not x.is_cuda or torch.compiler.is_compiling() or triton_problem(x.get_device()) is None


def _automatic(op: str, x: Array) -> str:
    half = dtype_name(x) in HALVES
    if is_tensor(x):
        if x.is_cuda and (dtype_name(x) != "float64" or op in _ANY_DTYPE_ON_CUDA):
            if op in _CUDA_OPS and _cuda_built_for(x):
                return "cuda"
            if op in TWINS and _TRITON_DEVICE == "cuda" and _triton_compiles_for(x):
                return "triton"
        served = x.is_cpu and not half
        return "cpu" if served and _WHY_NOT["cpu"] is None else "reference"
    for choice in ("reference",) if half else ("cpu", "numba", "reference"):
        if _WHY_NOT[choice] is None:
            return choice
    if half:
        raise TypeError(f"without torch, arrays must be {' or '.join(REALS)}, got {dtype_name(x)}")
    raise RuntimeError("no implementation can run: neither the compiled module, nor numba, nor torch is here")


def run(op: Op, impl: str | Impl, *args: Any) -> Any:
    """Run ``op`` on its canonical arguments, the first of which is an array and decides kind and device.

    Under autocast floating inputs are cast to float32 first, whatever computes: the ops accumulate in it anyway.
    """
    x = args[0]
    check_array(op.first, x)
    if op.autocast and is_tensor(x) and _autocasts(x):
        args = tuple(a.float() if is_tensor(a) and dtype_name(a) in HALVES else a for a in args)
        with torch.autocast(x.device.type, enabled=False):
            return _run(op, impl, args)
    return _run(op, impl, args)


def _autocasts(x: Any) -> bool:
    """Whether autocast is on where the tensor is."""
    device = "cpu" if x.is_cpu else x.device.type
    return device in ("cpu", "cuda") and torch.is_autocast_enabled(device)


def _run(op: Op, impl: str | Impl, args: tuple[Any, ...]) -> Any:
    x = args[0]
    choice = choose(op.name, impl, x)
    if choice in ("cpu", "cuda"):
        if not is_tensor(x):
            return op.run_native(*args)
        return _dispatch(op, args)
    if choice == "triton":
        return _dispatch(TWINS[op.name], args)
    op.check(*args)
    if choice == "numba":
        return _run_numba(op, args)
    return _run_reference(op, args)


def _dispatch(op: Op, args: tuple[Any, ...]) -> Any:
    if not torch.compiler.is_compiling() and undispatched(args):
        return op.run_native(*args)
    for arg in args:
        if isinstance(arg, np.ndarray):
            op.check(*args)  # says which; the dispatcher would not
    if torch.compiler.is_compiling():
        return TORCH_OPS[op.name](*args)
    try:
        return TORCH_OPS[op.name](*args)
    except RuntimeError:
        op.check(*args)  # the dispatcher refuses a wrong type before the op can say what was wanted
        raise


def _plain_keys() -> tuple[frozenset[int], frozenset[int]]:
    """Dispatch keys of a plain CPU tensor, and those a thread adds to every call: outside inference mode and in it."""
    try:
        # All that undispatched() asks for: internals, which another release of torch may not have.
        _ = torch.autograd._profiler_enabled, torch._C._len_torch_function_stack, torch._C._dispatch_keys  # type: ignore[attr-defined]
        _ = torch._C._dispatch_tls_local_include_set, forward_ad._current_level
        key, keys = torch._C.DispatchKey, torch._C.DispatchKeySet
        tensor = keys(key.CPU).add(key.AutocastCPU)
        thread = keys(key.BackendSelect)
        tracked = tensor.add(key.AutogradCPU).add(key.ADInplaceOrView)
        return (
            frozenset((tensor.raw_repr(), tracked.raw_repr())),
            frozenset((thread.raw_repr(), thread.add(key.ADInplaceOrView).raw_repr())),
        )
    except AttributeError:  # another torch: every call is dispatched
        return frozenset(), frozenset()


if HAVE_TORCH:
    _PLAIN_TENSOR, _PLAIN_THREAD = _plain_keys()


def undispatched(args: tuple[Any, ...]) -> bool:
    """Whether the dispatcher would add nothing to a call of the CPU kernel, nor anyone see it.

    No gradient is wanted, every tensor is a strided one of the CPU that no transform, mode or lazy bit has marked (each
    is a dispatch key), none is active in this thread, and no profiler runs. Not to be asked while compiling.
    """
    if (
        not _PLAIN_TENSOR
        or torch.autograd._profiler_enabled()  # type: ignore[attr-defined]
        or forward_ad._current_level >= 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._dispatch_tls_local_include_set().raw_repr() not in _PLAIN_THREAD
    ):
        return False
    with_grad = torch.is_grad_enabled()
    for arg in args:
        kind = type(arg)
        if kind in _TENSORS:
            if (with_grad and arg.requires_grad) or torch._C._dispatch_keys(arg).raw_repr() not in _PLAIN_TENSOR:
                return False
        elif arg is not None and kind not in _NUMBERS:
            return False
    return True


def _run_reference(op: Op, args: tuple[Any, ...]) -> Any:
    assert op.reference is not None
    if is_tensor(args[0]):
        dtype = args[0].dtype
        if dtype_name(args[0]) in HALVES:  # accumulate in float32, round once
            args = tuple(a.float() if is_tensor(a) and dtype_name(a) in HALVES else a for a in args)
        if torch.compiler.is_compiling():
            result = op.reference(*args)
        else:
            with torch.profiler.record_function(f"asma_fast::{op.name} reference"):
                result = op.reference(*args)
        if op.keeps_dtype and isinstance(result, tuple):
            return (result[0].to(dtype), *result[1:])
        return result.to(dtype) if op.keeps_dtype else result
    with torch.no_grad():
        result = op.reference(*(to_tensor(a) if isinstance(a, np.ndarray) else a for a in args))
    return tuple(r.numpy() for r in result) if isinstance(result, tuple) else result.numpy()


def _run_numba(op: Op, args: tuple[Any, ...]) -> Any:
    for arg in args:
        if is_tensor(arg) and arg.requires_grad:
            raise ValueError(f"{op.name}: impl='numba' is forward only and refuses inputs that require grad")
    fill = getattr(import_module(f"asma_fast.numba.{op.stem}"), op.name)
    result = op.allocate(*args)
    outputs = result if isinstance(result, tuple) else (result,)
    fill(*(arg.numpy() if is_tensor(arg) else arg for arg in (*args, *outputs)))
    return result
