"""GraphConv, TemporalConv and STGCNBlock: the ops with parameters, and what the parameters promise."""

from __future__ import annotations

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
