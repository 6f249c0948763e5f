"""Many processes equal one with the same global batch; one process is what it was; a lost rank is an error."""

from __future__ import annotations

import copy
import pickle
import time
from pathlib import Path

import pytest
import torch
from nn import rank_programs as ranks
from ops.contract import check_compiles
from torch import nn

from asma_fast import ops
from asma_fast.nn import InputNorm, Projector, synchronise

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed")


def run(program, world: int, folder: Path) -> list[dict]:
    context = ranks.start(program, world, folder)
    deadline = time.monotonic() + 200
    while not context.join(timeout=5):
        assert time.monotonic() < deadline, "ranks hang"
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


def gap(found: torch.Tensor, wanted: torch.Tensor, scale: torch.Tensor | None = None) -> float:
    """Relative to the largest entry, or to ``scale``: a bias before a batch-norm has a gradient of zero."""
    scale = wanted.double().abs().max() if scale is None else scale
    return float((found.double() - wanted.double()).abs().max() / scale)


def largest(results: dict[str, torch.Tensor], key: str) -> torch.Tensor:
    """Of what ``key`` stands for; of all parameters' gradients together."""
    names = [name for name in results if name.startswith("gradient of ")] if key.startswith("gradient of ") else [key]
    return torch.stack([results[name].double().abs().max() for name in names]).max()


# ---- many processes ----


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_equal_one_process_with_the_same_global_batch(world: int, tmp_path: Path) -> None:
    found = run(ranks.cases, world, tmp_path)
    for name, (_, shares, loss, _) in ranks.CASES.items():
        wanted = ranks.case(name, 0, 1)
        exact = ranks.case("float64", 0, 1)
        starts = [sum(shares[world][:rank]) for rank in range(world)]
        total = torch.stack([result[name]["loss"] for result in found])
        losses = total if loss == "barlow" else total.mean(0, keepdim=True)
        for rank, result in enumerate(found):
            for key, value in wanted.items():
                got, true = result[name][key], exact[key]
                scale = largest(wanted, key)
                if key == "loss":
                    got = losses[min(rank, len(losses) - 1)]
                if key == "features":
                    rows = slice(starts[rank], starts[rank] + shares[world][rank])
                    value, true = value[rows], true[rows]
                if name == "float32":
                    # Ranks and one process round the same float32 sums, cut and ordered otherwise: ranks may be twice
                    # as far from float64, and, as that can be by luck near zero, a few roundings.
                    budget = 2 * gap(value, true, scale) + 8 * torch.finfo(torch.float32).eps
                    assert gap(got, true, scale) <= budget, (rank, key)
                else:
                    assert gap(got, value, scale) <= 1e-10, (name, rank, key)


@pytest.mark.slow
def test_ranks_may_keep_different_numbers_of_frames_and_joints(tmp_path: Path) -> None:
    wanted = in_lockstep()
    wanted_tensors = {key: value for key, value in wanted.items() if isinstance(value, torch.Tensor)}
    found = run(ranks.different_views, 2, tmp_path)
    for rank, result in enumerate(found):
        for key, value in wanted.items():
            own = value[rank] if isinstance(value, list) else value
            scale = own.abs().max() if isinstance(value, list) else largest(wanted_tensors, key)
            assert gap(result[key], own, scale) <= 1e-10, (rank, key)


def in_lockstep() -> dict:
    """Both parts of the batch through the layers in one process, torch's batch-norm over both at each."""
    model = ranks.network(torch.float64, dropout=0.0)
    whole = ranks.clips(torch.float64)
    parts = [part.clone().requires_grad_() for part in (whole[:7], whole[7:])]
    views = [ranks.masked(*sizes, seed=1, n=len(part)) for sizes, part in zip(ranks.PARTS, parts, strict=True)]

    def normalised(norm, maps):
        """torch's norm of all values of both maps, channels first."""
        flat = norm(torch.cat([x.transpose(0, 1).flatten(1) for x in maps], 1)[None, ..., None])[0, ..., 0]
        pieces = flat.split([x.numel() // x.shape[1] for x in maps], 1)
        return [p.view(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1) for p, x in zip(pieces, maps, strict=True)]

    norm = model.encoder.input_norm
    kept = [ops.gather_view(x, type(view)(view.frames)) for x, view in zip(parts, views, strict=True)]
    values = torch.cat([x.permute(3, 1, 0, 2, 4).flatten(2) for x in kept], 2)  # joint, coordinate, the rest
    variance, mean = torch.var_mean(values, 2, correction=0)
    with torch.no_grad():
        norm.running_mean.lerp_(mean, 0.1)
        norm.running_var.lerp_(values.var(2), 0.1)
        norm.num_batches_tracked.add_(1)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    affine = {"scale": scale, "shift": norm.bias - mean * scale}
    maps = parts
    for index, block in enumerate(model.encoder.blocks):
        options = [{"view": view, **affine} if index == 0 else {"nodes": view.joints} for view in views]
        y = [block.graph_conv(x, **more) for x, more in zip(maps, options, strict=True)]
        y = [block.temporal_conv(x.relu()) for x in normalised(block.norm1, y)]
        y = normalised(block.norm2, y)
        if isinstance(block.residual, nn.Sequential):
            rest = normalised(block.residual[1], [block.residual[0](x) for x in maps])
        else:
            rest = maps if block.residual is not None else [torch.zeros(()), torch.zeros(())]
        maps = [(x + r).relu() for x, r in zip(y, rest, strict=True)]
    z = [x.mean((2, 3)).unflatten(0, (-1, 2)).mean(1) for x in maps]
    z = model.projector(torch.cat(z)).split([7, 5])
    sum((part.square() * torch.linspace(-1, 1, 16, dtype=part.dtype)).sum() for part in z).backward()
    return {
        "features": [part.detach() for part in z],
        "gradient of clip": [part.grad for part in parts],
        **ranks.state(model),
    }


@pytest.mark.slow
@pytest.mark.parametrize("program", [ranks.dies, ranks.stands_still], ids=["dies", "stands still"])
def test_a_lost_rank_is_an_error_of_the_others(program, tmp_path: Path) -> None:
    context = ranks.start(program, 3, tmp_path, timeout=12)
    try:
        for rank in range(2):
            context.processes[rank].join(timeout=60)
            assert context.processes[rank].exitcode is not None, "the others hang"
            message = (tmp_path / f"{rank}.txt").read_text()
            assert message.startswith(f"rank {rank} of 3: the batch-norm statistics could not be added up"), message
    finally:
        for process in context.processes:
            process.kill()


# ---- one process ----


@pytest.mark.parametrize("group", [False, True], ids=["none set up", "one rank"])
def test_one_process_is_bit_for_bit_what_it_was(group: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ranks.case("float32", 0, 1)
    model = synchronise(ranks.network())
    if group:
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        monkeypatch.setattr(torch.distributed, "all_reduce", None)
        found = ranks.train(model, torch.float32, (12,), 0, "barlow")
    finally:
        if group:
            torch.distributed.destroy_process_group()
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name
    assert torch.equal(model.eval()(ranks.clips(), None, None), synchronise(model)(ranks.clips(), None, None))


def test_a_synchronised_module_is_a_module_like_any_other() -> None:
    plain = ranks.network()
    model = synchronise(copy.deepcopy(plain))
    assert list(model.state_dict()) == list(plain.state_dict())
    model.load_state_dict(plain.state_dict())
    arguments = ranks.clips(), ranks.masked(7, 5, 1), torch.arange(12)
    wanted = copy.deepcopy(plain)(*arguments)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), synchronise(copy.deepcopy(model))):
        assert torch.equal(twin(*arguments), wanted)
    assert all(block._fuses() for block in model.encoder.blocks)


def test_synchronising_keeps_parameters_hooks_and_mode() -> None:
    plain = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, eps=1e-3, momentum=None, affine=False)).eval()
    seen = []
    plain[1].register_forward_hook(lambda *_: seen.append(1))
    before = list(plain.parameters())
    model = synchronise(plain)
    assert model is plain
    assert [a is b for a, b in zip(before, model.parameters(), strict=True)] == [True, True]
    assert (model[1].eps, model[1].momentum, model[1].affine, model[1].training) == (1e-3, None, False, False)
    model(torch.zeros(2, 3))
    assert seen == [1]


def test_a_norm_alone_is_replaced_and_the_input_norm_stays_itself() -> None:
    assert type(synchronise(nn.BatchNorm2d(3))).__name__ == "SynchronisedBatchNorm2d"
    assert isinstance(synchronise(InputNorm(ranks.SKELETON)), InputNorm)


@pytest.mark.parametrize("kind", [nn.BatchNorm3d, nn.LazyBatchNorm1d])
def test_norms_of_other_kinds_are_refused(kind: type) -> None:
    with pytest.raises(TypeError, match=f"got {kind.__name__} at '1'"):
        synchronise(nn.Sequential(nn.Identity(), kind(3) if kind is nn.BatchNorm3d else kind()))


def test_torchs_own_synchronised_norm_stays() -> None:
    norm = nn.SyncBatchNorm(3)
    assert synchronise(nn.Sequential(norm))[0] is norm


def test_a_synchronised_encoder_compiles() -> None:
    model = synchronise(ranks.network())
    batches = [
        (ranks.clips(), ranks.masked(8, 5, 1), torch.arange(12)),
        (ranks.clips()[:8], ranks.masked(6, 4, 1, n=8), torch.arange(8)),
    ]
    check_compiles(model, batches)
    assert isinstance(synchronise(Projector(4, 8)), Projector)
