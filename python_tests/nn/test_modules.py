"""GraphConv, TemporalConv and STGCNBlock: the ops with parameters, and what the parameters promise."""

from __future__ import annotations

import copy

import pytest
import torch
from ops.contract import implementations
from torch import nn

from asma_fast import Skeleton, View, ops
from asma_fast.nn import GraphConv, STGCNBlock, TemporalConv

SKELETON = Skeleton(edges=((0, 1), (1, 2), (1, 3), (3, 4)), centre=(1,), pairs=((2, 3),))
IMPLEMENTATIONS = implementations("reference", "cpu")


def maps(b: int = 4, c: int = 3, t: int = 9, v: int = 5) -> torch.Tensor:
    return torch.randn(b, c, t, v, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("partition", ["spatial", "distance", "uniform"])
def test_graph_conv_is_the_formula(partition: str, impl: str) -> None:
    layer = GraphConv(3, 6, SKELETON, partition=partition, impl=impl).double()
    with torch.no_grad():
        layer.edge_importance.uniform_(0.5, 1.5)
    x = maps().double()
    weighted = torch.from_numpy(SKELETON.adjacency(partition)).double() * layer.edge_importance
    product = torch.einsum("koc,bctv->bkotv", layer.weight, x) + layer.bias[None, :, :, None, None]
    torch.testing.assert_close(layer(x), torch.einsum("bkotv,kvw->botw", product, weighted))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_edges_that_the_skeleton_lacks_get_no_gradient(impl: str) -> None:
    layer = GraphConv(3, 6, SKELETON, impl=impl)
    layer(maps()).square().sum().backward()
    pattern = torch.from_numpy(SKELETON.pattern("spatial"))
    assert (layer.edge_importance.grad[~pattern] == 0).all()
    assert (layer.edge_importance.grad[pattern] != 0).all()


def test_a_state_dict_holds_parameters_only() -> None:
    assert list(GraphConv(3, 6, SKELETON).state_dict()) == ["weight", "bias", "edge_importance"]
    assert list(GraphConv(3, 6, SKELETON, bias=False).state_dict()) == ["weight", "edge_importance"]


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2}, {"taps": 4, "padding": (3, 0)}, {"taps": 3, "dilation": 2, "groups": 3, "bias": False}],
)
def test_temporal_conv_is_torchs_convolution(options: dict, impl: str) -> None:
    layer = TemporalConv(3, 6, **options, impl=impl).double()
    x = maps().double()
    reach = layer.dilation * (layer.taps - 1)
    left, right = layer.padding or (reach // 2, reach - reach // 2)
    wanted = nn.functional.conv2d(
        nn.functional.pad(x, (0, 0, left, right)),
        layer.weight[..., None],
        layer.bias,
        stride=(layer.stride, 1),
        dilation=(layer.dilation, 1),
        groups=layer.groups,
    )
    torch.testing.assert_close(layer(x), wanted)


def test_layers_start_as_torchs_convolutions_do() -> None:
    torch.manual_seed(0)
    for layer, inputs in ((GraphConv(48, 64, SKELETON), 48), (TemporalConv(48, 64, 9, groups=2), 24 * 9)):
        bound = inputs**-0.5
        for parameter in (layer.weight, layer.bias):
            assert parameter.abs().max() <= bound
            assert parameter.abs().max() > 0.95 * bound
            assert abs(parameter.std() - bound / 3**0.5) < 0.1 * bound
    assert (GraphConv(3, 4, SKELETON).edge_importance == 1).all()


@pytest.mark.parametrize("build", [lambda: TemporalConv(4, 6, groups=4), lambda: TemporalConv(4, 6, 0)])
def test_impossible_convolutions_are_refused(build) -> None:
    with pytest.raises(ValueError, match=r"groups must divide 4 and 6 channels, got 4|taps must be at least 1, got 0"):
        build()


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(("out", "stride", "kind"), [(3, 1, nn.Identity), (3, 2, nn.Sequential), (6, 1, nn.Sequential)])
def test_a_block_is_its_layers_in_order(out: int, stride: int, kind: type, impl: str) -> None:
    block = STGCNBlock(3, out, SKELETON, stride=stride, impl=impl).double()
    assert type(block.residual) is kind
    x = maps().double()
    y = block.norm2(block.temporal_conv(torch.relu(block.norm1(block.graph_conv(x)))))
    block.eval()
    block.train()
    torch.testing.assert_close(block(x), torch.relu(y + block.residual(x)))


def test_a_block_without_residual_reads_clips() -> None:
    block = STGCNBlock(3, 4, SKELETON, residual=False).eval()
    clip = maps()[..., None].expand(-1, -1, -1, -1, 2)
    view = View(joints=torch.tensor([[0, 1, 3]], dtype=torch.int32))
    read = ops.gather_view(clip, view, impl="reference").permute(0, 4, 1, 2, 3).reshape(8, 3, 9, 3)
    torch.testing.assert_close(block(clip, view=view), block(read, nodes=view.joints))
    with pytest.raises(ValueError, match=r"x must have shape \(B, C, T, V\) for a block with a residual"):
        STGCNBlock(3, 4, SKELETON)(clip)


def dropped(index: int, seed: int, ids: torch.Tensor | None = None, rows: int = 40) -> torch.Tensor:
    """Which elements block ``index`` drops, of a map on which nothing else is zero."""
    block = STGCNBlock(3, 3, SKELETON, dropout=0.75, index=index)
    block.norm1.eval()
    block.norm2.eval()
    with torch.no_grad():
        block.norm2.bias.fill_(50)
        block.norm2.weight.zero_()
        y = block(torch.zeros(rows, 3, 9, 5), seed=seed, ids=ids)
    assert set(y.unique().tolist()) == {0.0, 200.0}
    return y == 0


def test_dropout_drops_its_share_and_scales_the_rest() -> None:
    assert abs(dropped(1, seed=3).double().mean() - 0.75) < 0.02


def test_seeds_blocks_clips_and_bodies_drop_apart_and_ids_decide() -> None:
    mask = dropped(1, seed=3)
    assert torch.equal(mask, dropped(1, seed=3))
    assert not torch.equal(mask, dropped(1, seed=4))
    assert not torch.equal(mask, dropped(2, seed=3))
    assert len({row.numpy().tobytes() for row in mask}) == 40
    ids = torch.tensor([5, 2**33, 0, 7])
    bodies = dropped(1, seed=3, ids=ids, rows=8)
    order = torch.tensor([3, 1])
    rows = (2 * order[:, None] + torch.arange(2)).flatten()
    assert torch.equal(dropped(1, seed=3, ids=ids[order], rows=4), bodies[rows])


def test_dropout_stands_before_the_residual() -> None:
    block = STGCNBlock(3, 3, SKELETON, dropout=0.5)
    x = maps().abs() + 1
    with torch.no_grad():
        block.norm2.weight.zero_()
        torch.testing.assert_close(block(x, seed=3), x)


def test_dropout_needs_a_seed() -> None:
    with pytest.raises(ValueError, match="seed must be given in training mode with dropout"):
        STGCNBlock(3, 3, SKELETON, dropout=0.5)(maps())


def test_block_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\), got 1"):
        STGCNBlock(3, 3, SKELETON, dropout=1)
    with pytest.raises(ValueError, match="stride must be at least 1, got 0"):
        STGCNBlock(3, 3, SKELETON, stride=0)
    with pytest.raises(ValueError, match="partition must be one of"):
        GraphConv(3, 3, SKELETON, partition="radial")


# ---- the fused passes of a block against its layers called one by one ----


def one_by_one(block: STGCNBlock) -> STGCNBlock:
    """The same block, its layers called as modules: a hook on one of them must be called."""
    twin = copy.deepcopy(block)
    twin.norm1.register_forward_hook(lambda *_: None)
    return twin


def calibrated(**options) -> STGCNBlock:
    torch.manual_seed(2)
    block = STGCNBlock(3, options.pop("out", 3), SKELETON, **options).double()
    with torch.no_grad():
        for name, value in block.state_dict().items():
            if name.endswith("running_var") or "norm" in name or name.startswith("residual.1"):
                value.copy_(torch.rand(value.shape) + 0.5)
    return block


def assert_same_pass(ours: STGCNBlock, theirs: STGCNBlock, **options) -> None:
    """Results, gradients and running statistics."""
    inputs = [maps().double().requires_grad_() for _ in range(2)]
    results = [block(x, **options) for block, x in zip((ours, theirs), inputs, strict=True)]
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)
    if results[0].requires_grad:
        for result in results:
            (result * torch.linspace(-1, 2, result.numel()).view(result.shape)).sum().backward()
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-8, atol=1e-8)
        for (name, parameter), twin in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(parameter.grad, twin.grad, rtol=1e-8, atol=1e-8, msg=name)
    for (name, value), twin in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(value, twin, rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("mode", ["train", "eval", "frozen norms", "no gradients"])
@pytest.mark.parametrize(
    "options", [{}, {"stride": 2}, {"out": 6, "dropout": 0.4}, {"residual": False, "out": 5}, {"recompute": True}]
)
def test_a_fused_block_does_what_its_layers_do(options: dict, mode: str, impl: str) -> None:
    block = calibrated(**options, impl=impl)
    block.train(mode in ("train", "frozen norms"))
    if mode == "frozen norms":
        for module in block.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    with torch.set_grad_enabled(mode != "no gradients"):
        for _ in range(2):
            assert_same_pass(block, one_by_one(block), seed=5)
            block.zero_grad()


@pytest.mark.parametrize("momentum", [0.3, None])
def test_running_statistics_move_as_torchs_do(momentum: float | None) -> None:
    block = calibrated(out=6, stride=2)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum
            module.reset_running_stats()
    twin = one_by_one(block)
    for scale in (1.0, 3.0, 0.2):
        x = maps().double() * scale
        block(x)
        twin(x)
    for (name, value), other in zip(block.state_dict().items(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-12, atol=1e-12, msg=name)
    assert block.norm1.num_batches_tracked == 3


def test_hooks_and_replaced_layers_are_called() -> None:
    block = STGCNBlock(3, 6, SKELETON)
    seen = []
    block.residual[0].register_forward_hook(lambda *_: seen.append("hook"))
    block(maps())
    assert seen == ["hook"]

    class Doubled(nn.BatchNorm2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    replaced = (
        ("norm2", nn.Identity()),
        ("norm1", nn.Identity()),
        ("norm1", Doubled(6)),
        ("residual", TemporalConv(3, 6, 1)),
    )
    for place, layer in replaced:
        block = STGCNBlock(3, 6, SKELETON)
        setattr(block, place, layer)
        x = maps()
        y = block.norm2(block.temporal_conv(torch.relu(block.norm1(block.graph_conv(x)))))
        torch.testing.assert_close(block(x), torch.relu(y + block.residual(x)), msg=place)
    for module in (block.norm1, block.norm2):
        module.track_running_stats, module.running_mean, module.running_var = False, None, None
    block.eval()
    y = block.norm2(block.temporal_conv(torch.relu(block.norm1(block.graph_conv(x)))))
    torch.testing.assert_close(block(x), torch.relu(y + block.residual(x)))


def test_one_value_a_channel_cannot_be_normalised() -> None:
    view = View(joints=torch.tensor([[1]], dtype=torch.int32))
    for block in (STGCNBlock(3, 3, SKELETON, residual=False), STGCNBlock(3, 3, SKELETON, stride=2)):
        x = maps(1, 3, 1)[..., :1]
        with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
            block(x, nodes=view.joints)
        assert block.eval()(x, nodes=view.joints).shape == (1, 3, 1, 1)


@pytest.mark.parametrize("training", [False, True])
def test_an_empty_batch_gives_an_empty_map_and_moves_nothing(training: bool) -> None:
    block = STGCNBlock(3, 6, SKELETON).train(training)
    result = block(maps()[:0])
    result.sum().backward()
    assert result.shape == (0, 6, 9, 5)
    assert (block.norm2.running_mean == 0).all()


def test_gradcheck_of_a_block() -> None:
    block = calibrated(out=4, stride=2, dropout=0.4)
    x = maps(2, 3, 5).double().requires_grad_()
    parameters = dict(block.named_parameters())
    leaves = [parameters[name] for name in ("temporal_conv.weight", "norm1.weight", "residual.1.bias")]
    leaves.append(block.graph_conv.weight)
    assert torch.autograd.gradcheck(lambda x, *_: block(x, seed=3), (x, *leaves))
