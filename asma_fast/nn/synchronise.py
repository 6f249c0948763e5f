"""Batch-norm over all processes of a distributed run."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from asma_fast.nn._batch_norm import SynchronisedBatchNorm1d, SynchronisedBatchNorm2d
from asma_fast.nn._ranks import Ranks
from asma_fast.nn.input_norm import InputNorm

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Module = TypeVar("Module", bound=nn.Module)

_SYNCHRONISED: dict[type[nn.Module], type[SynchronisedBatchNorm1d] | type[SynchronisedBatchNorm2d]] = {
    nn.BatchNorm1d: SynchronisedBatchNorm1d,
    nn.BatchNorm2d: SynchronisedBatchNorm2d,
    SynchronisedBatchNorm1d: SynchronisedBatchNorm1d,
    SynchronisedBatchNorm2d: SynchronisedBatchNorm2d,
}


def synchronise(module: Module, group: ProcessGroup | None = None) -> Module:
    """Let every batch-norm of a module take its statistics over all ranks in training mode.

    Features, gradients and running statistics are then those of one process with the whole batch, whatever the ranks'
    shares of it: clips, frames and joints may be as many on each rank as they like. Each norm adds up its sums and
    their count over the ranks, in float64 and with gradient (one ``all_reduce`` forward, one backward); the fused
    passes stay. For all ranks' losses L_r the gradient is that of Σ_r L_r, as of torch's SyncBatchNorm: averaged by
    DistributedDataParallel it is that of their mean, or of the global loss where every rank computes that one.

    Torch's own SyncBatchNorm refuses tensors of the CPU; one in the module stays what it is.

    Parameters
    ----------
    module
        An encoder, a projector, a classifier, or whatever holds some. Changed in place: its ``BatchNorm1d`` and
        ``BatchNorm2d`` are replaced by subclasses with the same parameters, buffers, hooks and names in ``state_dict``;
        an optimiser made before serves on. Call it before DistributedDataParallel wraps the module.
    group
        None: all processes. Asked when the norms run: where there is one process only, or none was set up, nothing is
        communicated and nothing changes by one bit. Where ``recompute`` is on, sums are added up again in backward.

    Returns
    -------
    module
        The one given; where that is itself a batch-norm, its replacement.

    Raises
    ------
    TypeError
        If the module has a batch-norm of another kind, which would go on by its own rank's statistics.

    Notes
    -----
    A rank that ends makes the ``all_reduce`` of the others raise ``asma_fast.nn.RankError``, with gloo at once. One
    that stands still is noticed by the time-out of the process group only: torch's default is half an hour, or ten
    minutes with NCCL, so give ``init_process_group`` one that suits.

    Examples
    --------
    >>> from asma_fast import Skeleton
    >>> from asma_fast.nn import STGCN
    >>> encoder = synchronise(STGCN(Skeleton.named("ntu-rgb+d")))
    >>> type(encoder.blocks[0].norm1).__name__
    'SynchronisedBatchNorm2d'
    """
    ranks = Ranks(group)
    for name, child in module.named_modules():
        if isinstance(child, _BatchNorm) and type(child) not in (*_SYNCHRONISED, nn.SyncBatchNorm):
            raise TypeError(
                f"batch-norms must be BatchNorm1d or BatchNorm2d to be synchronised, got {type(child).__name__} "
                f"at {name!r}"
            )
    return _synchronised(module, ranks)  # type: ignore[return-value]


def _synchronised(module: nn.Module, ranks: Ranks) -> nn.Module:
    for name, child in module.named_children():
        replacement = _synchronised(child, ranks)
        if replacement is not child:
            setattr(module, name, replacement)
    if isinstance(module, InputNorm):
        module.ranks = ranks
    kind = _SYNCHRONISED.get(type(module))
    if kind is None:
        return module
    assert isinstance(module, _BatchNorm)
    norm = kind(module.num_features, device="meta")
    norm.__dict__.update(module.__dict__)  # parameters, buffers, hooks, mode: all of it
    norm.ranks = ranks
    return norm
