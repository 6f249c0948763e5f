"""Registers ops with torch: schema, CPU kernel, fake kernel, autograd and autocast rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree

from asma_fast.ops._op import HAVE_TRITON, TORCH_OPS, TWINS, Op, undispatched
from asma_fast.view import View

_library = torch.library.Library("asma_fast", "FRAGMENT")
_OPS: dict[str, Op] = {}

#: From the name that an op is registered under to its autograd function.
Autograd = Callable[[str], type[torch.autograd.Function]]


def register(op: Op, autograd: Autograd | None = None) -> None:
    """Define ``torch.ops.asma_fast.<name>``, and ``triton_<name>`` where Triton kernels of it can run.

    Without ``autograd`` the results are not differentiable, and say so (``requires_grad`` is False). The function's
    ``forward`` must call the op of the name it was made for through :func:`below_autograd`, its ``backward`` that of
    ``<name>_backward``, and its ``differentiable`` names the positions of the arguments that have a gradient: any other
    that requires one is an error, not a gradient silently lost.
    """
    _register(op, autograd)
    if op.triton and HAVE_TRITON:
        TWINS[op.name] = op.twin()
        _register(TWINS[op.name], autograd)


def _register(op: Op, autograd: Autograd | None) -> None:
    _library.define(op.name + op.schema, tags=(torch.Tag.pt2_compliant_tag,))
    for device in ("CPU", "CUDA"):
        _library.impl(op.name, op.run_native, device)
    torch.library.register_fake(f"asma_fast::{op.name}", op.run_fake, lib=_library)
    _OPS[op.name] = op
    TORCH_OPS[op.name] = getattr(torch.ops.asma_fast, op.name).default
    if autograd is None:
        _library.impl(op.name, torch.library.fallthrough_kernel, "Autograd")
    else:
        _library.impl(op.name, _autograd_kernel(op.name, autograd(op.name)), "Autograd")
    if op.autocast:
        torch.library.register_autocast(f"asma_fast::{op.name}", "cpu", torch.float32, lib=_library)


def _autograd_kernel(name: str, autograd: type[torch.autograd.Function]) -> Any:
    differentiable = autograd.differentiable  # type: ignore[attr-defined]

    def kernel(*args: Any) -> Any:
        _refuse_forward_mode(name, args)
        if torch.is_grad_enabled():
            wanted = [i for i, arg in enumerate(args) if isinstance(arg, torch.Tensor) and arg.requires_grad]
            for position in wanted:
                if position not in differentiable:
                    raise RuntimeError(f"asma_fast::{name} has no gradient for its argument {position}; detach it")
            if wanted:
                return autograd.apply(*args)
        return below_autograd(name, *args)

    return kernel


def _refuse_forward_mode(name: str, args: tuple[Any, ...]) -> None:
    """The kernels have no forward-mode rule, and without one torch would take a tangent for zero."""
    if forward_ad._current_level < 0:
        return
    for arg in args:
        if isinstance(arg, torch.Tensor) and forward_ad.unpack_dual(arg).tangent is not None:
            raise NotImplementedError(
                f"asma_fast::{name} has no forward-mode derivative (torch.func.jvp, forward_ad); impl='reference' has"
            )


def below_autograd(name: str, *args: Any) -> Any:
    """The op itself, past its autograd rule."""
    with torch._C._AutoDispatchBelowAutograd():
        return _OPS[name].run_native(*args) if undispatched(args) else TORCH_OPS[name](*args)


_FIELDS = ("frames", "joints", "nodes", "transform")

pytree.register_pytree_node(
    View,
    lambda view: (list(view.arrays()), None),
    lambda arrays, _: View.unchecked(*arrays),
    serialized_type_name="asma_fast.View",
    flatten_with_keys_fn=lambda view: (
        [(pytree.GetAttrKey(name), value) for name, value in zip(_FIELDS, view.arrays(), strict=True)],
        None,
    ),
)
torch.serialization.add_safe_globals([View])  # exported programs carry their example inputs
