"""Where a GPU group is built, and how its rows come to be: each called once and checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from rivals import COMPILED, EAGER
from torch import Tensor

Call = Callable[[], object]
#: Of an error's norm by the result's, by precision; products of half the digits.
ALLOWED = {"float32": 1e-4, "TF32": 5e-3, "bfloat16": 3e-2}


@dataclass(frozen=True)
class Site:
    """Where a group is built.

    Parameters
    ----------
    device
        Of the tensors.
    ours
        Row → implementation of our ops.
    clips
        Of a batch.
    precision
        ``"float32"``, ``"TF32"`` (float32, where the device is told so) or ``"bfloat16"``, of maps and products.
    compiles
        Whether torch.compile races.
    """

    device: str
    ours: Mapping[str, str]
    clips: int = 128
    precision: str = "float32"
    compiles: bool = False

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32

    def random(self, *shape: int, seed: int = 0) -> Tensor:
        made = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        return made.to(self.device, self.dtype)


@dataclass
class Group:
    """A group's calls.

    Attributes
    ----------
    calls : dict of str to callable
        By row; each checked.
    amounts : dict of str to float
        What a call does: ``"GB"`` at least moved, ``"GFLOP"`` of products without padding.
    refused : dict of str to str
        Rows that cannot run here, and why.
    """

    calls: dict[str, Call] = field(default_factory=dict)
    amounts: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def race(
        self,
        site: Site,
        eager: Call,
        ours: Callable[[str], Call],
        check: Callable[[object], None],
        compiled: Callable[[], Call] | None = None,
    ) -> Group:
        """Adds the rows, each called once and checked; one of ours that cannot run is refused.

        ``compiled`` makes torch.compile's row; None: of the eager call as a whole.
        """
        self.add(EAGER, eager, check)
        if site.compiles:
            self.add(COMPILED, compiled() if compiled else torch.compile(lambda: eager(), dynamic=False), check)
        for row, impl in site.ours.items():
            try:
                self.add(row, ours(impl), check)
            except RuntimeError as error:
                if "cannot run" not in str(error):
                    raise
                self.refused[row] = str(error)
        return self

    def add(self, row: str, call: Call, check: Callable[[object], None]) -> None:
        """A row, once its result is right."""
        check(call())
        self.calls[row] = call


@contextmanager
def products(precision: str) -> Iterator[None]:
    """torch's own switches for products of float32 on a GPU."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = precision == "TF32"
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def near(wanted: object, precision: str) -> Callable[[object], None]:
    """A check of tensors, or sequences of them, by the norm of the error."""

    def check(found: object) -> None:
        pairs = zip(*(one if isinstance(one, (tuple, list)) else (one,) for one in (found, wanted)), strict=True)
        for place, (own, right) in enumerate(pairs):
            own, right = own.detach().double(), right.detach().double()
            error = float((own - right).norm() / right.norm().clamp_min(1e-30))
            assert error <= ALLOWED[precision], (place, error)

    return check


def both_ways(call: Callable[..., Tensor], leaves: list[Tensor], cotangent: Tensor) -> tuple[Tensor, ...]:
    """Gradients of all leaves."""
    return torch.autograd.grad(call(*leaves), leaves, cotangent)


def leaves_of(*values: Tensor) -> list[Tensor]:
    """Each with its layout, wanting a gradient."""
    return [value.detach().clone().requires_grad_() for value in values]
