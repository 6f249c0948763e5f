"""Runs the function that fills an op's outputs by Triton, and judges what it gives against the float64 reference."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import torch
from triton_kernels.device import there

pytest.importorskip("triton")

#: The most that one rounding to the dtype changes a number, of its size.
ROUNDING = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-9, torch.float16: 2.0**-12}


def filled(op: Any, *args: Any) -> tuple[torch.Tensor, ...]:
    """What the op's Triton function gives, on the CPU: outputs poisoned before, so that what it forgets is NaN."""
    args = tuple(there(arg) for arg in args)
    op.check(*args)
    result = op.allocate(*args)
    outputs = result if isinstance(result, tuple) else (result,)
    for output in outputs:
        output.fill_(torch.nan)
    getattr(import_module(f"asma_fast.triton.{op.stem}"), op.name)(*args, *outputs)
    return tuple(output.cpu() for output in outputs)


def cast(args: Any, dtype: torch.dtype) -> list[Any]:
    """The floating tensors among the arguments in another dtype, detached."""
    return [a.detach().to(dtype) if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args]


def assert_close(
    result: torch.Tensor,
    exact: torch.Tensor,
    plain: torch.Tensor,
    what: str = "result",
    roundings: int = 8,
    slack: float = 0.0,
) -> None:
    """At most twice as far from ``exact`` (float64) as ``plain``, torch's result in float32, and so many roundings to
    the dtype of ``result``; sums that may cancel get ``slack``. NaNs stand in the same places.
    """
    assert result.shape == exact.shape, what
    if not result.numel():
        return
    finite = exact.isfinite()
    assert torch.equal(result.double().isfinite(), finite), f"{what}: not finite elsewhere"
    if not finite.any():
        return
    error = (result.double() - exact)[finite].abs().max().item()
    allowed = 2 * (plain.double() - exact)[finite].abs().max().item()
    largest = exact[finite].abs().max().item()
    rounding = ROUNDING.get(result.dtype, 2.0**-24)
    allowed = max(allowed, 8 * 2.0**-23 * largest) + (roundings * rounding * largest if rounding > 2.0**-24 else 0)
    assert error <= allowed + slack, f"{what}: off by {error:.3g}, allowed {allowed:.3g}"


def reference_gradients(
    op: Any, args: Any, places: Any, cotangents: Any, dtype: torch.dtype
) -> Iterator[torch.Tensor | None]:
    """By torch in ``dtype``: of the arguments at ``places``, for the cotangents of the op's results."""
    args = cast(args, dtype)
    leaves = {place: args[place].requires_grad_() for place in places if args[place] is not None}
    results = op.reference(*args)
    results = results if isinstance(results, tuple) else (results,)
    total = sum((r * g.to(r.dtype)).sum() for r, g in zip(results, cotangents, strict=True) if g is not None)
    grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    found = dict(zip(leaves, grads, strict=True))
    for place in places:
        grad = found.get(place)
        yield torch.zeros_like(args[place]) if grad is None and place in leaves else grad
