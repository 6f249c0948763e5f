"""One process or many: Fabric by config or by torchrun's environment, and what happens when one of them ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asma_fast._files import locked
from asma_fast.nn import RankError, synchronise
from asma_fast.training.configs import RunConfig

# How long a process waits for the others, in seconds. NCCL's own first call may take longer than a dead process should
# hold up the rest, and torchrun ends the others there.
WAIT = {"gloo": 50, "nccl": 600}


class TrainingError(RuntimeError):
    """Training cannot go on; the newest checkpoint stays."""


@contextmanager
def launched(config: RunConfig) -> Iterator[Any]:
    """Fabric, launched: over the processes that torchrun started, else over ``config.nodes`` × ``config.devices``.

    Raises
    ------
    TrainingError
        Inside, in place of torch's own words, where another process has ended or does not answer: with what that one
        said last, where it could still say it.
    """
    fabric = _fabric(config)
    try:
        fabric.launch()
        yield fabric
    except Exception as error:
        if fabric.world_size == 1:
            raise
        if not _of_the_group(error):
            _leave_words(fabric.global_rank, f"{type(error).__name__}: {_first(error)}")
            raise
        words = _words_of_others(fabric.world_size)
        raise TrainingError(
            f"process {fabric.global_rank} of {fabric.world_size}: another process has ended or did not answer in "
            f"time; {words}; the same command goes on from the newest checkpoint ({_first(error)})"
        ) from error


def _fabric(config: RunConfig) -> Any:
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    options: dict[str, Any] = {}
    shape = config.devices, config.nodes
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:  # torchrun's, or set by hand in the same words
        world = int(os.environ["WORLD_SIZE"])
        local = int(os.environ.setdefault("LOCAL_WORLD_SIZE", str(world)))
        os.environ.setdefault("LOCAL_RANK", str(int(os.environ["RANK"]) % local))
        if config.devices * config.nodes not in (1, world):
            raise ValueError(
                f"devices and nodes must be left out under torchrun, which started {world} processes; "
                f"got {config.devices} and {config.nodes}"
            )
        shape = local, world // local
        options["plugins"] = TorchElasticEnvironment()
    if shape != (1, 1):
        cuda = config.accelerator != "cpu" and torch.cuda.is_available()
        backend = "nccl" if cuda else "gloo"
        options["strategy"] = DDPStrategy(process_group_backend=backend, timeout=timedelta(seconds=WAIT[backend]))
    return Fabric(
        accelerator=config.accelerator,
        devices=shape[0],
        num_nodes=shape[1],
        precision=config.precision,
        **options,
    )


# In the store through which the processes found each other: what each that failed said last.
_WORDS = "asma_fast/last-words/{}"


def _leave_words(rank: int, words: str) -> None:
    with suppress(Exception):  # where there is no store (any more), the others do without
        torch.distributed.distributed_c10d._get_default_store().set(_WORDS.format(rank), words)


def _words_of_others(world: int) -> str:
    told = []
    with suppress(Exception):
        store = torch.distributed.distributed_c10d._get_default_store()
        for rank in range(world):
            if store.check([_WORDS.format(rank)]):
                told.append(f"process {rank}: {store.get(_WORDS.format(rank)).decode()}")
    return "; ".join(told) or "it left no message here"


def _of_the_group(error: Exception) -> bool:
    """Whether an error is one of the communication between processes."""
    if isinstance(error, TrainingError) or not isinstance(error, RuntimeError):
        return False
    if isinstance(error, (RankError, torch.distributed.DistError)):
        return True
    return any(word in str(error).lower() for word in ("gloo", "nccl", "process group", "tcpstore"))


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextmanager
def sole(out: Path, fabric: Any) -> Iterator[None]:
    """Keeps other runs out of a folder."""
    if not fabric.is_global_zero:
        yield
        return

    def refusal(holder: str) -> TrainingError:
        return TrainingError(f"{out}: another process trains there ({holder}); wait for it, or choose another --out")

    with locked(out / "lock", refusal):
        for left in out.glob(".*.tmp"):  # by a process that died
            left.unlink()
        yield


def synchronised(model: nn.Module, fabric: Any) -> nn.Module:
    """The model, its batch-norms over the clips of all processes."""
    if fabric.world_size == 1:
        return model
    return synchronise(model)


def gathered(z: Tensor, fabric: Any) -> Tensor:
    """The rows of all processes in the order of the whole batch, with gradient.

    For losses that every process computes alike from all rows: then each row's gradient is already here.
    """
    if fabric.world_size == 1:
        return z
    rows: Tensor = _Gather.apply(z, fabric.global_rank, fabric.world_size)  # type: ignore[no-untyped-call]
    return rows


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, rank: int, world: int) -> Tensor:
        ctx.place = rank, world
        parts = [torch.empty_like(z, memory_format=torch.contiguous_format) for _ in range(world)]
        torch.distributed.all_gather(parts, z.contiguous())
        # Process r holds every world-th row of the batch, from r on.
        return torch.stack(parts, dim=1).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        rank, world = ctx.place
        # The mean over processes that DDP takes of the weights' gradients undoes the factor.
        return gradients[0][rank::world] * world, None, None


def mean_over_ranks(values: Tensor, fabric: Any) -> Tensor:
    """The mean over all processes; the values themselves where there is one."""
    if fabric.world_size == 1:
        return values
    mean: Tensor = fabric.all_reduce(values, reduce_op="mean")
    return mean
