"""What each process of the tests of ``nn.synchronise`` runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from asma_fast import Skeleton, View
from asma_fast.nn import STGCN, Projector, RankError, barlow_twins_loss, synchronise

SKELETON = Skeleton(
    edges=((0, 1), (1, 2), (1, 3), (2, 4), (3, 5), (0, 6)), centre=(1,), pairs=((2, 3), (4, 5)), name="seven"
)
FRAMES, CLIPS = 9, 12
#: Ranks → clips of each, as many everywhere and not.
EVEN = {1: (12,), 2: (6, 6), 4: (3, 3, 3, 3)}
UNEVEN = {1: (12,), 2: (7, 5), 4: (5, 1, 4, 2)}
#: Kept frames and joints of the clips 0–6 and of the rest, in the runs of two ranks whose views differ in size.
PARTS = ((7, 5), (5, 6))


class Projected(nn.Module):
    """Encoder and projector."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.encoder = STGCN(SKELETON, (6, 6, 8), strides=(1, 2, 1), **options)
        self.projector = Projector(8, 16)

    def forward(self, clip: torch.Tensor, view: View | None, ids: torch.Tensor) -> torch.Tensor:
        return self.projector(self.encoder(clip, view, seed=5, ids=ids))


def network(dtype: torch.dtype = torch.float32, **options: Any) -> Projected:
    torch.manual_seed(3)
    model = Projected(**{"dropout": 0.2, **options})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return model.to(dtype)


def clips(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (1 + torch.randn(CLIPS, 3, FRAMES, 7, 2, generator=torch.Generator().manual_seed(1))).to(dtype)


def masked(frames: int, joints: int, seed: int, n: int = CLIPS) -> View:
    """Other frames and joints kept of each clip."""
    generator = torch.Generator().manual_seed(seed)
    times = torch.stack([torch.randperm(FRAMES, generator=generator)[:frames].sort().values for _ in range(n)])
    kept = torch.stack([torch.randperm(7, generator=generator)[:joints].sort().values for _ in range(n)])
    return View(times.int(), kept.int())


def part(view: View, rows: slice) -> View:
    return View(*(None if array is None else array[rows] for array in view.arrays()))


def train(
    model: nn.Module, dtype: torch.dtype, shares: tuple[int, ...], rank: int, loss: str
) -> dict[str, torch.Tensor]:
    """One backward pass of a rank's share of the clips: features, loss, gradients, running statistics."""
    rows = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
    ids = torch.arange(CLIPS)[rows]
    features = [model(clips(dtype)[rows], part(masked(7, 5, seed), rows), ids) for seed in (1, 2)]
    if loss == "barlow":  # each rank computes the global loss
        value = barlow_twins_loss(*(gathered(z) if len(shares) > 1 else z for z in features), 0.01)
    else:  # each rank computes its clips' share of the global loss, times the ranks, since averages are taken
        value = len(shares) * sum((z.square() * torch.linspace(-1, 1, 16, dtype=dtype)).sum() for z in features)
    value.backward()
    return {"features": torch.cat(features, 1).detach(), "loss": value.detach(), **state(model)}


def gathered(z: torch.Tensor) -> torch.Tensor:
    return torch.cat(torch.distributed.nn.functional.all_gather(z))


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    model = getattr(model, "module", model)
    grads = {f"gradient of {name}": parameter.grad for name, parameter in model.named_parameters()}
    return grads | {name: value for name, value in model.state_dict().items() if "running" in name or "num" in name}


#: name → dtype, shares of the ranks, loss, options of the encoder.
CASES = {
    "float32": (torch.float32, EVEN, "barlow", {}),
    "float64": (torch.float64, EVEN, "barlow", {}),
    "uneven": (torch.float64, UNEVEN, "sum", {}),
    "recompute": (torch.float64, UNEVEN, "sum", {"recompute": True}),
    "layer by layer": (torch.float64, UNEVEN, "sum", {"impl": "reference"}),
}


def case(name: str, rank: int, world: int) -> dict[str, torch.Tensor]:
    dtype, shares, loss, options = CASES[name]
    model = network(dtype, **options)
    if name == "layer by layer":  # a hook, so that blocks call their layers one by one
        for block in model.encoder.blocks:
            block.norm1.register_forward_hook(lambda *_: None)
    if world > 1:
        model = nn.parallel.DistributedDataParallel(synchronise(model))
    return train(model, dtype, shares[world], rank, loss)


def cases(rank: int, world: int, folder: str) -> None:
    torch.save({name: case(name, rank, world) for name in CASES}, Path(folder, f"{rank}.pt"))


def different_views(rank: int, world: int, folder: str) -> None:
    """Ranks that keep different numbers of frames and joints."""
    rows = slice(0, 7) if rank == 0 else slice(7, CLIPS)
    clip = clips(torch.float64)[rows].requires_grad_()
    model = nn.parallel.DistributedDataParallel(synchronise(network(torch.float64, dropout=0.0)))
    z = model(clip, masked(*PARTS[rank], seed=1, n=clip.shape[0]), torch.arange(clip.shape[0]))
    (world * (z.square() * torch.linspace(-1, 1, 16, dtype=z.dtype)).sum()).backward()
    # A rank's own input has the gradient of the sum over ranks, which is world times the global loss.
    result = {"features": z.detach(), "gradient of clip": clip.grad / world, **state(model)}
    torch.save(result, Path(folder, f"{rank}.pt"))


def dies(rank: int, world: int, folder: str) -> None:
    """The last rank ends without a word after the first step; the others say what they saw."""
    _lose(rank, world, folder, lambda: os._exit(3))


def stands_still(rank: int, world: int, folder: str) -> None:
    _lose(rank, world, folder, lambda: time.sleep(40))


def _lose(rank: int, world: int, folder: str, end: Callable[[], None]) -> None:
    model = synchronise(network())
    case_rows = torch.arange(2)
    model(clips()[:2], None, case_rows)
    if rank == world - 1:
        end()
        return
    try:
        model(clips()[:2], None, case_rows)
        message = "nothing"
    except RankError as error:
        message = str(error)
    Path(folder, f"{rank}.txt").write_text(message)


def start(program: Callable[[int, int, str], None], world: int, folder: Path, *, timeout: float = 60) -> Any:
    """Processes that run ``program(rank, world, folder)`` with a process group of gloo."""
    arguments = (program, world, str(folder), timeout)
    return mp.start_processes(_enter, args=arguments, nprocs=world, join=False, start_method="spawn")


def _enter(rank: int, program: Callable[[int, int, str], None], world: int, folder: str, timeout: float) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group(
        "gloo", init_method=rendezvous, rank=rank, world_size=world, timeout=timedelta(seconds=timeout)
    )
    program(rank, world, folder)
    dist.destroy_process_group()
