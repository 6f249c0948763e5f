"""Published checkpoints: loaded whole they give the original network's outputs and gradients, else nothing changes."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from ops.contract import assert_within_budget, implementations
from published_networks import PublishedNetwork, in_channels_last, published_adjacency, randomised

from asma_fast import Skeleton, View
from asma_fast.compat import load_stgcn_state_dict
from asma_fast.nn import STGCN, Classifier

SKELETON = Skeleton.named("ntu-rgb+d")
CHANNELS, STRIDES = (4, 4, 8, 8, 12), (1, 1, 2, 1, 2)
FRAMES, JOINTS = (0, 2, 3, 4, 7, 8, 9, 11), (0, 2, 3, 5, 6, 7, 9, 10, 12, 13, 15, 16, 20, 21, 24)
IMPLEMENTATIONS = implementations("reference", "cpu")


def published(**options: object) -> PublishedNetwork:
    torch.manual_seed(5)
    adjacency = published_adjacency(len(SKELETON), SKELETON.edges, SKELETON.centre[0])
    return randomised(PublishedNetwork(adjacency, CHANNELS, STRIDES, **options))


def encoder(**options: object) -> STGCN:
    return STGCN(SKELETON, CHANNELS, strides=STRIDES, dropout=0.0, **options)


def clips(n: int = 3, frames: int = 12) -> torch.Tensor:
    clip = torch.randn(n, 3, frames, 25, 2, generator=torch.Generator().manual_seed(2))
    clip[0, ..., 1] = 0  # a body is missing
    return clip


def rows(*indices: int) -> torch.Tensor:
    return torch.tensor([indices], dtype=torch.int32)


def materialised(clip: torch.Tensor, view: View | None) -> torch.Tensor:
    """The view's frames, flip and transform by plain indexing, joints not removed."""
    if view is None:
        return clip
    if view.frames is not None:
        clip = clip[:, :, view.frames[0].long()]
    if view.transform is not None:
        clip = torch.einsum("nec,nctvm->netvm", view.transform.to(clip.dtype), clip)
    if view.nodes is not None:
        flip = torch.from_numpy(SKELETON.flip).long()
        turned = (view.joints != view.nodes).any(dim=1)[:, None, None, None, None]
        clip = torch.where(turned, clip[:, :, :, flip], clip)
    return clip


def augmented() -> View:
    flip = torch.from_numpy(SKELETON.flip)
    joints = torch.stack([torch.arange(25), flip, flip]).int()
    transform = torch.eye(3) + 0.4 * torch.randn(3, 3, 3, generator=torch.Generator().manual_seed(4))
    crop = View(frames=rows(2, 1, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8), joints=joints, nodes=rows(*range(25)).expand(3, -1))
    return crop.then(View(frames=rows(*FRAMES), joints=rows(*JOINTS), transform=transform))


VIEWS = {
    "whole": None,
    "frames": View(frames=rows(*FRAMES)),
    "joints": View(joints=rows(*JOINTS)),
    "both": View(frames=rows(*FRAMES), joints=rows(*JOINTS)),
    "augmented": augmented(),
}


def removed_joints(view: View | None) -> list[int]:
    nodes = None if view is None else view.graph_nodes
    return [] if nodes is None else sorted(set(range(25)) - set(nodes[0].tolist()))


def test_the_adjacency_is_the_published_one() -> None:
    for name in ("ntu-rgb+d", "openpose"):
        skeleton = Skeleton.named(name)
        wanted = published_adjacency(len(skeleton), skeleton.edges, skeleton.centre[0])
        torch.testing.assert_close(torch.from_numpy(skeleton.adjacency("spatial")), wanted, rtol=0, atol=1e-8)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
    ("case", "impl"), [(case, "auto") for case in VIEWS] + [("whole", "reference"), ("augmented", "reference")]
)
def test_outputs_gradients_and_statistics_equal_the_original_networks(case: str, training: bool, impl: str) -> None:
    theirs = published().double().train(training)
    ours = encoder(impl=impl)
    assert load_stgcn_state_dict(ours, theirs.state_dict()) == ()
    ours = ours.double().train(training)
    view = VIEWS[case]
    clip = clips().double().requires_grad_()
    twin = clip.detach().clone().requires_grad_()
    wanted = theirs(materialised(twin, view), removed_joints(view))
    got = ours(clip, view)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)

    cotangent = torch.randn(got.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    wanted.backward(cotangent)
    got.backward(cotangent)
    torch.testing.assert_close(clip.grad, twin.grad, rtol=1e-8, atol=1e-10)
    gradients = theirs.state_dict() | {name: p.grad for name, p in theirs.named_parameters()}
    expected = encoder().double()
    load_stgcn_state_dict(expected, gradients)
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, expected.get_parameter(name), rtol=1e-8, atol=1e-10, msg=name)
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, expected.get_buffer(name), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_float32_errors_stay_within_twice_the_originals(training: bool, impl: str) -> None:
    theirs = published().train(training)
    ours = encoder(impl=impl)
    load_stgcn_state_dict(ours, theirs.state_dict())
    view = VIEWS["both"]
    exact = copy.deepcopy(theirs).double()(materialised(clips().double(), view), removed_joints(view))
    # torch's batch-norm sums less exactly over channels-last maps: compare runs of one memory layout.
    reference = in_channels_last(theirs)(materialised(clips(), view), removed_joints(view))
    assert_within_budget(ours.train(training)(clips(), view), exact, reference)


def test_masks_that_differ_from_clip_to_clip_equal_the_original_run_clip_by_clip() -> None:
    theirs = published().double().eval()
    ours = encoder()
    load_stgcn_state_dict(ours, theirs.state_dict())
    generator = torch.Generator().manual_seed(6)
    kept = torch.stack([torch.randperm(25, generator=generator)[:17].sort().values for _ in range(3)]).int()
    frames = torch.stack([torch.randperm(12, generator=generator)[:7].sort().values for _ in range(3)]).int()
    clip = clips().double()
    got = ours.double().eval()(clip, View(frames=frames, joints=kept))
    for n in range(3):
        removed = sorted(set(range(25)) - set(kept[n].tolist()))
        wanted = theirs(clip[n : n + 1, :, frames[n].long()], removed)
        torch.testing.assert_close(got[n : n + 1], wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("head", ["fc", "fcn"])
def test_a_classifier_takes_the_head(head: str) -> None:
    theirs = published(head=head, classes=7).double().eval()
    ours = Classifier(encoder(), 7)
    assert load_stgcn_state_dict(ours, theirs.state_dict()) == ()
    clip = clips().double()
    torch.testing.assert_close(ours.double().eval()(clip), theirs(clip), rtol=1e-10, atol=1e-12)


def test_an_encoder_leaves_the_head_and_says_so() -> None:
    ignored = load_stgcn_state_dict(encoder(), published(head="fcn", classes=7).state_dict())
    assert ignored == ("fcn.weight", "fcn.bias")


def test_of_a_momentum_pair_the_query_encoder_is_taken() -> None:
    query, key = published().state_dict(), randomised(published(), seed=9).state_dict()
    saved = {f"module.encoder_q.{name}": value for name, value in query.items()}
    saved |= {f"module.encoder_k.{name}": value for name, value in key.items()}
    saved |= {"module.queue": torch.zeros(8, 16), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    ours, wanted, of_key = encoder(), encoder(), encoder()
    ignored = load_stgcn_state_dict(ours, saved)
    load_stgcn_state_dict(wanted, query)
    assert_same_state(ours, wanted)
    assert set(ignored) == {name for name in saved if "encoder_q" not in name}
    load_stgcn_state_dict(of_key, saved | {}, prefix="module.encoder_k.")
    torch.testing.assert_close(of_key.blocks[0].norm1.weight, key["st_gcn_networks.0.tcn.0.weight"])


def test_several_streams_ask_for_a_choice() -> None:
    one = published().state_dict()
    saved = {f"encoder_q{stream}.{name}": value for stream in ("_motion", "_bone") for name, value in one.items()}
    with pytest.raises(ValueError, match=r"several encoders; choose one by prefix: 'encoder_q_bone\.', 'encoder_q_mo"):
        load_stgcn_state_dict(encoder(), saved)
    assert load_stgcn_state_dict(encoder(), saved, prefix="encoder_q_bone.")


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "model.encoder."])
def test_prefixes_are_found(prefix: str) -> None:
    saved = {prefix + name: value for name, value in published().state_dict().items()}
    ours, wanted = encoder(), encoder()
    assert load_stgcn_state_dict(ours, saved) == ()
    load_stgcn_state_dict(wanted, published().state_dict())
    assert_same_state(ours, wanted)


def test_networks_without_edge_importance_get_ones() -> None:
    theirs = published(edge_importance=False).double().eval()
    ours = encoder()
    with torch.no_grad():
        for block in ours.blocks:
            block.graph_conv.edge_importance.fill_(3)
    load_stgcn_state_dict(ours, theirs.state_dict())
    clip = clips().double()
    torch.testing.assert_close(ours.double().eval()(clip), theirs(clip), rtol=1e-10, atol=1e-12)


def test_checkpoints_without_batch_counters_load() -> None:
    saved = {name: v for name, v in published().state_dict().items() if not name.endswith("num_batches_tracked")}
    ours = encoder()
    load_stgcn_state_dict(ours, saved)
    assert int(ours.blocks[1].norm1.num_batches_tracked) == 0


def assert_same_state(a: torch.nn.Module, b: torch.nn.Module) -> None:
    for (name, first), second in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(first, second), name


def without(name: str):
    return lambda saved: saved.pop(name)


FAULTS = {
    "missing": (without("st_gcn_networks.3.tcn.2.weight"), "missing name st_gcn_networks.3.tcn.2.weight"),
    "missing importance": (without("edge_importance.4"), "missing name edge_importance.4"),
    "missing A": (without("A"), "missing buffer A"),
    "unknown": (
        lambda s: s.update({"st_gcn_networks.0.se.weight": s["A"]}),
        "unknown name st_gcn_networks.0.se.weight",
    ),
    "unknown beside": (lambda s: s.update({"decoder.weight": s["A"]}), "unknown name decoder.weight"),
    "a block more": (
        lambda s: s.update({n.replace("works.4", "works.5"): v for n, v in s.items() if "works.4" in n}),
        "unknown name st_gcn_networks.5.gcn.conv.weight",
    ),
    "shape": (
        lambda s: s.update({"st_gcn_networks.1.gcn.conv.weight": torch.zeros(12, 5, 1, 1)}),
        "st_gcn_networks.1.gcn.conv.weight must have shape (12, 4, 1, 1), got (12, 5, 1, 1)",
    ),
    "transposed": (
        lambda s: s.update({"st_gcn_networks.1.tcn.2.weight": torch.zeros(4, 4, 1, 9)}),
        "st_gcn_networks.1.tcn.2.weight must have shape (4, 4, 9, 1), got (4, 4, 1, 9)",
    ),
    "joints": (lambda s: s.update({"A": torch.zeros(3, 20, 20)}), "A must have shape (3, 25, 25), got (3, 20, 20)"),
    "graph": (lambda s: s.update({"A": s["A"].transpose(1, 2)}), "A must be the spatial adjacency"),
    "nan graph": (lambda s: s.update({"A": torch.full_like(s["A"], torch.nan)}), "A must be the spatial adjacency"),
    "no network": (lambda s: [s.pop(n) for n in list(s) if "gcn" in n], "state_dict must hold an ST-GCN"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_checkpoint_that_does_not_fit_changes_nothing(fault: str) -> None:
    damage, message = FAULTS[fault]
    saved = dict(published().state_dict())
    damage(saved)
    ours = encoder()
    before = copy.deepcopy(ours)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_stgcn_state_dict(ours, saved)
    assert_same_state(ours, before)


def test_a_classifier_refuses_a_checkpoint_without_head() -> None:
    ours = Classifier(encoder(), 7)
    before = copy.deepcopy(ours)
    with pytest.raises(ValueError, match=r"missing name fc\.weight"):
        load_stgcn_state_dict(ours, published().state_dict())
    assert_same_state(ours, before)


def test_wrong_kinds_are_refused() -> None:
    with pytest.raises(TypeError, match="map names to tensors, got OrderedDict at 'state_dict'"):
        load_stgcn_state_dict(encoder(), {"state_dict": published().state_dict()})
    with pytest.raises(TypeError, match="model must be an STGCN or a Classifier, got Linear"):
        load_stgcn_state_dict(torch.nn.Linear(2, 2), published().state_dict())
