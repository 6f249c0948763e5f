"""Tokens, the alignment of two encoders' tokens, and both as one encoder under a head."""

from __future__ import annotations

import copy

import pytest
import torch
from nn.test_stgcn import SKELETON, N, clips, encoder, some_view
from ops.contract import check_compiles
from torch import nn

from asma_fast import Skeleton, View
from asma_fast.compat import load_stgcn_state_dict
from asma_fast.nn import STGCN, AlignedEncoders, Classifier, FeatureAlignment
from asma_fast.nn.feature_alignment import MODES

D1, D2 = 10, 12


def tokens(seed: int = 1, width: int = D1, count: int = 5, n: int = N) -> torch.Tensor:
    return torch.randn(n, count, width, generator=torch.Generator().manual_seed(seed))


def alignment(mode: str = "attention", **options) -> FeatureAlignment:
    """Its weights as training may leave them: what begins at zero is not zero."""
    torch.manual_seed(4)
    module = FeatureAlignment((D1, D2), **{"width": 8, "heads": 2, "mode": mode, **options})
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return module


def aligned(mode: str = "attention", per: str = "joint", dropout: float = 0.0, **options) -> AlignedEncoders:
    first = encoder(dropout=dropout)
    second = encoder((4, D2), (1, 2), dropout=dropout)
    if per == "joint" and mode not in ("concat", "mean"):
        options = {"joints": 7, **options}
    return AlignedEncoders(first, second, alignment(mode, **options), tokens=per)


# ---- tokens ----


@pytest.mark.parametrize("bodies", ["mean", "present"])
@pytest.mark.parametrize("view", [None, some_view()], ids=["whole", "view"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_features_are_the_mean_of_the_tokens(bodies: str, view: View | None, training: bool) -> None:
    model = encoder(bodies=bodies, dropout=0.3).train(training)
    clip = clips()
    clip[1, ..., 1] = 0
    clip[2] = 0
    wanted = model(clip, view, seed=5)
    joints, frames = (7, 13) if view is None else (5, 9)
    for per, count in (("joint", joints), ("frame", (frames + 1) // 2)):
        found = model.tokens(clip, view, per=per, seed=5)
        assert found.shape == (N, count, 10)
        torch.testing.assert_close(found.mean(1), wanted, rtol=1e-5, atol=1e-6)


def test_a_token_belongs_to_the_joint_at_its_place_in_the_view() -> None:
    model = encoder().eval()
    order = torch.tensor([[3, 0, 6, 1, 2, 5, 4]])
    torch.testing.assert_close(model.tokens(clips(), View(joints=order.int())), model.tokens(clips())[:, order[0]])


def test_tokens_of_no_clips_are_none_and_an_unknown_kind_is_refused() -> None:
    assert encoder().eval().tokens(clips()[:0]).shape == (0, 7, 10)
    with pytest.raises(ValueError, match="per must be 'joint' or 'frame', got 'body'"):
        encoder().tokens(clips(), per="body")
    with pytest.raises(ValueError, match=r"clip must have shape \(N, C=3, T, V=7, M\)"):
        encoder().tokens(clips()[:, :2])


# ---- alignment ----


def test_attention_is_the_formula() -> None:
    module = alignment().double().eval()
    first, second = tokens(1, D1).double(), tokens(2, D2, count=6).double()

    def way(layer, asking, asked):
        heads = []
        for head in range(2):
            rows = slice(4 * head, 4 * head + 4)
            query = asking @ layer.query.weight[rows].T + layer.query.bias[rows]
            key = asked @ layer.key.weight[rows].T
            value = asked @ layer.value.weight[rows].T + layer.value.bias[rows]
            share = torch.softmax(query @ key.transpose(1, 2) / 4**0.5, dim=-1)
            gate = torch.sigmoid(asking @ layer.gate.weight[head] + layer.gate.bias[head])
            heads.append(gate[..., None] * (share @ value))
        return layer.out(torch.cat(heads, -1))

    one, other = module.norms[0](first), module.norms[1](second)
    heard = first + way(module.first_reads, one, other), second + way(module.second_reads, other, one)
    wanted = torch.cat([part.mean(1) for part in heard], 1) / (1 + module.standardise.eps) ** 0.5
    torch.testing.assert_close(module(first, second), wanted, rtol=1e-10, atol=1e-12)


def test_weights_of_joints_are_the_formula() -> None:
    module = alignment("weighted", joints=5, pools=3).double()
    first, second = tokens(1, D1).double(), tokens(2, D2).double()
    wanted = [first.mean(1), second.mean(1)]
    for logits, part in zip(module.joint_logits, (first, second), strict=True):
        weights = torch.exp(10 * logits) / torch.exp(10 * logits).sum(1, keepdim=True)
        wanted += [sum(weight[v] * part[:, v] for v in range(5)) for weight in weights]
    joined = torch.cat(wanted, 1)
    assert joined.shape == (N, module.out_channels) == (N, 4 * (D1 + D2))
    spread = (joined.var(0, correction=0) + module.standardise.eps).sqrt()
    torch.testing.assert_close(module(first, second), (joined - joined.mean(0)) / spread, rtol=1e-10, atol=1e-10)


def test_a_weight_follows_its_joint() -> None:
    module = alignment("weighted", joints=5).eval()
    first, second = tokens(1, D1), tokens(2, D2)
    order = torch.tensor([[3, 1, 0, 2, 4]])
    moved = module(first[:, order[0]], second[:, order[0]], nodes=order)
    torch.testing.assert_close(moved, module(first, second))
    assert not torch.allclose(module(first[:, order[0]], second[:, order[0]]), moved)
    each = torch.cat([order, torch.arange(5)[None]]).int()
    two = [torch.stack([part[0, order[0]], part[1]]) for part in (first, second)]
    torch.testing.assert_close(module(*two, nodes=each), module(first[:2], second[:2]))
    kept = order[:, :3]
    without = alignment("weighted", joints=5).eval()
    for logits in without.joint_logits:
        logits.data[:, [2, 4]] = -torch.inf
    some = module(first[:, kept[0]], second[:, kept[0]], nodes=kept)
    torch.testing.assert_close(some[:, D1 + D2 :], without(first, second)[:, D1 + D2 :])


@pytest.mark.parametrize("mode", ["weighted", "attention", "first-to-second", "second-to-first"])
def test_an_untrained_alignment_is_the_standardised_concatenation(mode: str) -> None:
    module = FeatureAlignment((D1, D2), joints=5, pools=2, width=8, heads=2, mode=mode)
    first, second = tokens(1, D1), tokens(2, D2)
    averages = [first.mean(1), second.mean(1)]
    joined = torch.cat([*averages, averages[0].repeat(1, 2), averages[1].repeat(1, 2)], 1)
    wanted = nn.functional.batch_norm(joined, None, None, training=True)
    torch.testing.assert_close(module(first, second), wanted, rtol=1e-4, atol=1e-5)


def test_information_flows_as_the_mode_says() -> None:
    reads = {"attention": (True, True), "first-to-second": (False, True), "second-to-first": (True, False)}
    for mode in MODES:
        module = alignment(mode).eval()
        first, second = tokens(1, D1), tokens(2, D2)
        before = module(first, second)
        assert before.shape == (N, module.out_channels)
        if mode == "mean":
            continue
        changed = (module(first, second.flip(0))[:, :D1], module(first.flip(0), second)[:, D1:])
        expected = zip(changed, before.split([D1, D2], 1), reads.get(mode, (False, False)), strict=True)
        for after, wanted, depends in expected:
            assert torch.allclose(after, wanted) is not depends, mode


def test_concatenation_has_no_parameter_and_is_both_encoders_features() -> None:
    module = alignment("concat")
    assert list(module.parameters()) == []
    first, second = tokens(1, D1), tokens(2, D2, count=3)
    torch.testing.assert_close(module(first, second), torch.cat([first.mean(1), second.mean(1)], 1))


def test_the_mean_has_the_width_asked_for() -> None:
    module = alignment("mean")
    first, second = tokens(1, D1), tokens(2, D2)
    wanted = (module.project[0](first).mean(1) + module.project[1](second).mean(1)) / 2
    torch.testing.assert_close(module(first, second), wanted)
    assert wanted.shape == (N, 8)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "concat"])
def test_every_parameter_of_the_alignment_learns(mode: str) -> None:
    module = alignment(mode, joints=None if mode == "mean" else 5)
    first, second = tokens(1, D1).requires_grad_(), tokens(2, D2).requires_grad_()
    (module(first, second) * torch.randn(module.out_channels)).sum().backward()
    for name, parameter in module.named_parameters():
        assert (parameter.grad != 0).any(), name
    assert (first.grad != 0).any()
    assert (second.grad != 0).any()


def test_the_order_of_tokens_does_not_matter() -> None:
    module = alignment().eval()
    first, second = tokens(1, D1), tokens(2, D2)
    torch.testing.assert_close(module(first[:, [3, 1, 0, 2, 4]], second[:, [4, 0, 1, 2, 3]]), module(first, second))


def test_dropout_of_the_alignment_follows_seed_and_id() -> None:
    module = alignment(dropout=0.5)
    module.standardise.eval()
    first, second, ids = tokens(1, D1), tokens(2, D2), torch.tensor([4, 9, 1, 2**40])
    wanted = module(first, second, seed=3, ids=ids)
    order = torch.tensor([2, 0])
    torch.testing.assert_close(module(first[order], second[order], seed=3, ids=ids[order]), wanted[order])
    assert not torch.allclose(module(first, second, seed=4, ids=ids), wanted)
    assert not torch.allclose(module(first, second), module(first, second))
    state = torch.get_rng_state()
    module.eval()(first, second)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "sum"}, "mode must be one of 'weighted', .*, got 'sum'"),
        ({"heads": 3}, "heads must divide the width 8, got 3"),
        ({"heads": 0}, "heads must be at least 1, got 0"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"joints": 0}, "joints must be at least 1, got 0"),
        ({"pools": 0}, "pools must be at least 1, got 0"),
        ({"mode": "concat", "joints": 5}, "joints must be None with mode 'concat', which weighs none, got 5"),
    ],
)
def test_impossible_alignments_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        alignment(**options)


def test_tokens_that_do_not_fit_are_refused() -> None:
    module = alignment()
    with pytest.raises(ValueError, match=r"first must have shape \(N, P1, D1=10\), got \(4, 5, 12\)"):
        module(tokens(1, D2), tokens(2, D2))
    with pytest.raises(ValueError, match=r"second must have shape \(N=4, P2, D2=12\), got \(3, 5, 12\)"):
        module(tokens(1, D1), tokens(2, D2, n=3))
    with pytest.raises(TypeError, match="second must have the dtype of first, float32, got float64"):
        module(tokens(1, D1), tokens(2, D2).double())
    with pytest.raises(ValueError, match="at least one token, got 5 and 0"):
        module(tokens(1, D1), tokens(2, D2, count=0))
    module = alignment(joints=6)
    with pytest.raises(ValueError, match="must give a token for each of 6 joints, got 5 and 6"):
        module(tokens(1, D1), tokens(2, D2, count=6))
    with pytest.raises(ValueError, match="must give a token for each of 4 joints, got 5 and 5"):
        module(tokens(1, D1), tokens(2, D2), nodes=torch.zeros(1, 4, dtype=torch.int32))
    with pytest.raises(ValueError, match=r"nodes must have shape \(4 or 1, 5\), got \(3, 5\)"):
        module(tokens(1, D1), tokens(2, D2), nodes=torch.zeros(3, 5, dtype=torch.int32))


# ---- two encoders as one ----


@pytest.mark.parametrize("per", ["joint", "frame"])
@pytest.mark.parametrize("mode", MODES)
def test_two_encoders_serve_as_one_under_a_head(mode: str, per: str) -> None:
    model = Classifier(aligned(mode, per), 5)
    logits = model(clips(), some_view(), seed=1)
    assert logits.shape == (N, 5)
    logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_concatenated_encoders_give_what_each_gives() -> None:
    model = aligned("concat").eval()
    wanted = torch.cat([model.first(clips(), some_view()), model.second(clips(), some_view())], 1)
    torch.testing.assert_close(model(clips(), some_view()), wanted, rtol=1e-5, atol=1e-6)


def test_weights_follow_the_joints_of_a_view() -> None:
    model = aligned("weighted").eval()
    # Flipped and masked: position p reads one joint and plays another.
    view = View(joints=torch.tensor([[2, 0, 5, 1]]).int(), nodes=torch.tensor([[3, 0, 6, 1]]).int())
    clip = clips()
    parts = [part.tokens(clip, view) for part in (model.first, model.second)]
    averages = [part.mean(1) for part in parts]
    for logits, part in zip(model.alignment.joint_logits, parts, strict=True):
        weights = torch.softmax(10 * logits[:, view.nodes[0].long()], 1)
        averages += [(weight[:, None] * part).sum(1) for weight in weights]
    wanted = torch.cat(averages, 1) / (1 + model.alignment.standardise.eps) ** 0.5
    torch.testing.assert_close(model(clip, view), wanted, rtol=1e-5, atol=1e-6)


def test_dropout_follows_the_seed_and_differs_between_the_encoders() -> None:
    twin = encoder(dropout=0.5)
    model = AlignedEncoders(twin, copy.deepcopy(twin), FeatureAlignment((10, 10), mode="concat"))
    for seed in (7, torch.tensor(7)):
        first, second = model(clips(), seed=seed).split(10, dim=1)
        assert not torch.allclose(first, second)
        torch.testing.assert_close(model(clips(), seed=7), torch.cat([first, second], 1))


def test_an_aligned_classifier_is_a_module_like_any_other() -> None:
    model = Classifier(aligned(), 5).eval()
    wanted = model(clips(), some_view())
    assert torch.equal(copy.deepcopy(model)(clips(), some_view()), wanted)
    other = Classifier(aligned(), 5).eval()
    nn.init.zeros_(other.head.weight)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(clips(), some_view()), wanted)


@pytest.mark.parametrize(("mode", "training"), [("weighted", False), ("attention", True)])
def test_an_aligned_classifier_compiles(mode: str, training: bool) -> None:
    small = [encoder((4, width), (1, 2), dropout=0.3) for width in (D1, D2)]
    module = alignment(mode, dropout=0.3, joints=7)
    model = Classifier(AlignedEncoders(*small, module), 5).train(training)
    batches = [
        (clips(6, 14), some_view(6, 4, 9, of_frames=14), torch.tensor(3), torch.arange(6)),
        (clips(4, 17), some_view(4, 5, 11, of_frames=17), torch.tensor(9), torch.arange(4) + 7),
    ]
    check_compiles(lambda clip, view, seed, ids: model(clip, view, seed=seed, ids=ids), batches)


def test_encoders_that_do_not_fit_are_refused() -> None:
    first, module = encoder(), FeatureAlignment((10, 10), mode="concat")
    other = STGCN(Skeleton.named("sbu"), (10,), strides=(1,))
    with pytest.raises(ValueError, match=r"same skeleton, got seven \(7 joints\) and sbu \(15 joints\)"):
        AlignedEncoders(first, other, module)
    rewired = Skeleton(edges=((0, 1), (1, 2), (1, 3), (2, 4), (3, 5), (1, 6)), centre=(1,), name="seven")
    with pytest.raises(ValueError, match="joints or edges differ"):
        AlignedEncoders(first, STGCN(rewired, (10,), strides=(1,)), module)
    with pytest.raises(ValueError, match="as many coordinates, got 3 and 2"):
        AlignedEncoders(first, STGCN(SKELETON, (10,), strides=(1,), in_channels=2), module)
    with pytest.raises(ValueError, match=r"alignment.widths must be the encoders', \(10, 10\), got \(10, 12\)"):
        AlignedEncoders(first, encoder(), alignment())
    with pytest.raises(ValueError, match="tokens must be 'joint' or 'frame', got 'body'"):
        AlignedEncoders(first, encoder(), module, tokens="body")
    weighted = FeatureAlignment((10, 10), joints=6)
    with pytest.raises(ValueError, match="joints must be None or 7 for tokens by joint, got 6"):
        AlignedEncoders(first, encoder(), weighted)
    with pytest.raises(ValueError, match="joints must be None for tokens by frame, got 7"):
        AlignedEncoders(first, encoder(), FeatureAlignment((10, 10), joints=7), tokens="frame")
    with pytest.raises(TypeError, match="second must be an STGCN, got Linear"):
        AlignedEncoders(first, nn.Linear(3, 3), module)
    with pytest.raises(TypeError, match="model must have one STGCN as its encoder, got AlignedEncoders"):
        load_stgcn_state_dict(Classifier(aligned(), 3), {})
