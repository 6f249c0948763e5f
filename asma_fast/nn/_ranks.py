"""Sums over the processes of a distributed run, with gradient."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class RankError(RuntimeError):
    """Another rank of a distributed run has ended, or did not answer within the process group's time-out.

    Examples
    --------
    >>> issubclass(RankError, RuntimeError)
    True
    """


class Ranks:
    """A process group that modules can carry: copies of a module share it.

    Parameters
    ----------
    group
        None: all processes, of the run that is set up when :meth:`size` is asked; also none may be.
    """

    def __init__(self, group: Any = None) -> None:
        self.group = group

    def size(self) -> int:
        """How many processes; 1 where no distributed run is set up."""
        if not (dist.is_available() and dist.is_initialized()):
            return 1
        return dist.get_world_size(self.group)

    def total(self, sums: Tensor, count: int) -> Tensor:
        """``(2, C)`` float64 of each rank → ``(2, C + 1)`` over all ranks, the last column their summed ``count``.

        The gradient is that of the sum of all ranks' losses: what DistributedDataParallel averages.
        """
        counts = sums.new_full((2, 1), count)
        total: Tensor = _SumOverRanks.apply(  # type: ignore[no-untyped-call]
            torch.cat([sums, counts], dim=1), self.group
        )
        return total

    def __deepcopy__(self, memo: dict[int, Any]) -> Ranks:
        return self

    def __reduce__(self) -> Any:
        if self.group is not None:
            raise TypeError("a module synchronised over a group of its own cannot be pickled: save its state_dict")
        return Ranks, ()


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return _all_reduced(x, group)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return _all_reduced(g, ctx.group), None


def _all_reduced(x: Tensor, group: Any) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    try:
        dist.all_reduce(total, group=group)
    except RuntimeError as error:
        raise RankError(
            f"rank {dist.get_rank()} of {dist.get_world_size()}: the batch-norm statistics could not be added up over "
            "all ranks, because another rank has ended or did not answer in time; its own message tells why "
            f"({str(error).strip().splitlines()[0]})"
        ) from error
    return total
