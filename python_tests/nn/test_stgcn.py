"""The encoder and the classifier as modules of torch, and what they promise of views, bodies and seeds."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from ops.contract import assert_within_budget, check_compiles, implementations, variants
from published_networks import PublishedNetwork
from torch import nn

from asma_fast import Skeleton, View, ops
from asma_fast.nn import STGCN, Classifier
from asma_fast.nn.stgcn import CHANNELS, STRIDES

SKELETON = Skeleton(
    edges=((0, 1), (1, 2), (1, 3), (2, 4), (3, 5), (0, 6)), centre=(1,), pairs=((2, 3), (4, 5)), name="seven"
)
N, C, T, V, M = 4, 3, 13, 7, 2
IMPLEMENTATIONS = implementations("reference", "cpu")


def clips(n: int = N, frames: int = T, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, C, frames, V, M, generator=torch.Generator().manual_seed(seed))


def encoder(channels: tuple[int, ...] = (6, 6, 8, 10), strides: tuple[int, ...] = (1, 1, 2, 1), **options) -> STGCN:
    """A small one in which every parameter is away from its starting value and every running statistic calibrated."""
    torch.manual_seed(3)
    calibrated = STGCN(SKELETON, channels, strides=strides, dropout=0.0, impl="reference")
    with torch.no_grad():
        for module in calibrated.modules():
            if hasattr(module, "running_var"):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(0.0, 0.5)
                module.momentum = 1.0
            if hasattr(module, "edge_importance"):
                module.edge_importance.uniform_(0.5, 1.5)
        calibrated(clips(8, seed=9))
    model = STGCN(SKELETON, channels, strides=strides, **options)
    model.load_state_dict(calibrated.state_dict())
    return model


def some_view(n: int = N, joints: int = 5, frames: int = 9, seed: int = 7, of_frames: int = T) -> View:
    """Flip, shear, removed joints and frames, another for each clip."""
    generator = torch.Generator().manual_seed(seed)
    kept = torch.stack([torch.randperm(V, generator=generator)[:joints].sort().values for _ in range(n)])
    times = torch.stack([torch.randperm(of_frames, generator=generator)[:frames].sort().values for _ in range(n)])
    flip = torch.from_numpy(SKELETON.flip).long()
    turned = torch.rand(n, 1, generator=generator) < 0.5
    transform = torch.eye(3) + 0.3 * torch.randn(n, 3, 3, generator=generator)
    return View(times.int(), torch.where(turned, flip[kept], kept).int(), kept.int(), transform)


def frozen_norms(model: nn.Module) -> nn.Module:
    """Training mode (dropout), normalised by the running statistics, so that clips do not see each other."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) or type(module).__name__ == "InputNorm":
            module.eval()
    return model


# ---- size ----


def test_the_default_encoder_has_821380_parameters_at_25_joints() -> None:
    model = STGCN(Skeleton.named("ntu-rgb+d"))
    assert sum(p.numel() for p in model.parameters()) == 821_380
    assert model.out_channels == 256
    assert [name for name, _ in model.named_parameters() if "edge_importance" in name] == [
        f"blocks.{block}.graph_conv.edge_importance" for block in range(10)
    ]
    assert model.blocks[0].residual is None
    assert [block.dropout for block in model.blocks] == [0.0] + [0.5] * 9
    assert [block.temporal_conv.stride for block in model.blocks] == [1, 1, 1, 1, 2, 1, 1, 2, 1, 1]


def test_the_networks_of_these_tests_are_alive() -> None:
    for training in (False, True):
        features = encoder(dropout=0.0).train(training)(clips(), some_view())
        assert ((features > 0.01).sum(dim=0) > 0).all()
        assert (features.std(dim=0) > 0.001).all()


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("frames", [1, 2, 7, 30])
def test_any_length_gives_features(frames: int, impl: str) -> None:
    features = encoder(impl=impl)(clips(frames=frames), seed=1)
    assert features.shape == (N, 10)
    assert torch.isfinite(features).all()


def test_empty_batches_give_no_features() -> None:
    assert encoder().eval()(clips()[:0]).shape == (0, 10)


@pytest.mark.skipif("cpu" not in IMPLEMENTATIONS, reason="no compiled module")
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_native_kernels_and_reference_agree(training: bool) -> None:
    native, reference = (encoder(impl=impl, dropout=0.3).train(training) for impl in ("cpu", "reference"))
    exact = copy.deepcopy(reference).double()
    view = some_view()
    results = [model(clips().to(next(model.parameters()).dtype), view, seed=5) for model in (native, exact, reference)]
    assert_within_budget(*results)
    for result in results:
        result.square().sum().backward()
    for (name, ours), wanted in zip(native.named_parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(ours.grad.double(), wanted.grad, rtol=2e-3, atol=2e-4, msg=name)


# ---- separable temporal convolutions ----


def separable(impl: str = "auto", **options) -> STGCN:
    """Every running statistic calibrated, every norm away from its start."""
    torch.manual_seed(3)
    model = STGCN(SKELETON, (6, 6, 8), strides=(1, 2, 1), separable=True, dropout=0.0, impl="reference")
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "running_var"):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(0.0, 0.5)
                module.momentum = 1.0
        model(clips(8, seed=9))
    copied = STGCN(SKELETON, (6, 6, 8), strides=(1, 2, 1), separable=True, impl=impl, **{"dropout": 0.3, **options})
    copied.load_state_dict(model.state_dict())
    return copied


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_separable_blocks_are_their_layers_one_by_one(training: bool, impl: str) -> None:
    fused = separable(impl=impl).double().train(training)
    layers = copy.deepcopy(fused)
    for block in layers.blocks:
        block.norm1.register_forward_hook(lambda *_: None)  # a hook: the layers are called
        assert block.temporal_conv.weight.shape[1] == 1
    with torch.set_grad_enabled(training):
        features = [model(clips().double(), some_view(), seed=5) for model in (fused, layers)]
    torch.testing.assert_close(*features, rtol=1e-9, atol=1e-11)
    if training:
        for result in features:
            result.square().sum().backward()
        for (name, ours), theirs in zip(fused.named_parameters(), layers.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-9, msg=name)
    for (name, ours), theirs in zip(fused.state_dict().items(), layers.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11, msg=name)


def test_a_separable_encoder_recomputes_and_has_the_same_names_elsewhere() -> None:
    plain, again = separable(), separable(recompute=True)
    assert torch.equal(plain(clips(), seed=5), again(clips(), seed=5))
    extra = set(plain.state_dict()) - set(encoder((6, 6, 8), (1, 2, 1)).state_dict())
    assert {name.split(".")[2] for name in extra} == {"between", "pointwise"}


# ---- causal temporal convolutions ----


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("taps", [1, 3, 4])
def test_a_causal_encoder_reads_no_later_frame(taps: int, separable: bool, impl: str) -> None:
    torch.manual_seed(3)
    options = {"strides": (1, 2, 1, 2), "taps": taps, "separable": separable, "impl": impl}
    model = STGCN(SKELETON, (6, 6, 8, 8), causal=True, **options).double().eval()
    given = clips().double()
    whole = model.tokens(given, per="frame")
    for known in (1, 5, 6, 9):
        part = model.tokens(given[:, :, :known].contiguous(), per="frame")
        assert part.shape[1] == (known - 1) // 4 + 1
        torch.testing.assert_close(part, whole[:, : part.shape[1]], rtol=1e-12, atol=1e-12)
        spoilt = given.clone()
        spoilt[:, :, known:] = torch.nan
        assert torch.isfinite(model.tokens(spoilt, per="frame")[:, : part.shape[1]]).all()


# ---- views ----


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_removed_joints_and_frames_cannot_matter(impl: str) -> None:
    model = encoder(impl=impl).eval()
    view = View(frames=torch.tensor([[0, 3, 4, 5, 9]], dtype=torch.int32), joints=torch.tensor([[0, 1, 2, 4]]).int())
    spoilt = clips()
    spoilt[:, :, [1, 2, 6, 7, 8, 10, 11, 12]] = torch.nan
    spoilt[:, :, :, [3, 5, 6]] = torch.nan
    assert torch.equal(model(spoilt, view), model(clips(), view))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_view_equals_its_materialisation(training: bool, impl: str) -> None:
    model = encoder(impl=impl, dropout=0.0).double().train(training)
    view = some_view()
    everywhere = torch.stack(
        [
            torch.from_numpy(SKELETON.flip) if (j != n).any() else torch.arange(V)
            for j, n in zip(view.joints, view.nodes, strict=True)
        ]
    )
    turned = ops.gather_view(clips().double(), View(view.frames, everywhere.int(), None, view.transform.double()))
    wanted = copy.deepcopy(model)(turned, View(joints=view.nodes))
    torch.testing.assert_close(model(clips().double(), view), wanted, rtol=1e-10, atol=1e-12)


def test_one_view_serves_every_clip_and_numpy_views_serve() -> None:
    model = encoder().eval()
    one = View(torch.tensor([[1, 5, 6]]).int(), torch.tensor([[0, 1, 6]]).int(), None, torch.eye(3)[None] * 2)
    each = View(*(None if a is None else a.expand(N, *a.shape[1:]).contiguous() for a in one.arrays()))
    arrays = View(*(None if a is None else a.numpy() for a in one.arrays()))
    assert torch.equal(model(clips(), one), model(clips(), each))
    assert torch.equal(model(clips(), one), model(clips(), arrays))


def test_a_clip_alone_equals_the_clip_in_its_batch() -> None:
    model = encoder().eval()
    view = some_view()
    together = model(clips(), view)
    for n in range(N):
        alone = model(clips()[n : n + 1], View(*(a[n : n + 1] for a in view.arrays())))
        torch.testing.assert_close(alone, together[n : n + 1])


def test_memory_layouts_do_not_matter() -> None:
    model = encoder().eval()
    wanted = model(clips())
    for name, layout in variants(clips().numpy()):
        if isinstance(layout, torch.Tensor) and "negative" not in name:
            torch.testing.assert_close(model(layout), wanted, msg=name)


# ---- bodies ----


def test_an_empty_body_weighs_in_the_mean_and_not_among_the_present() -> None:
    alone = clips()[..., :1]
    joined = torch.cat([alone, torch.zeros_like(alone)], dim=-1)
    for bodies, same in (("mean", False), ("present", True)):
        model = encoder(bodies=bodies).eval()
        assert torch.allclose(model(alone), model(joined), atol=1e-6) is same


def test_a_body_counts_as_present_only_where_the_view_reads_it() -> None:
    model = encoder(bodies="present").eval()
    clip = clips()
    clip[:, :, :, :, 1] = 0
    clip[:, 1, 6, 5, 1] = 1.0
    alone = clip[..., :1]
    without_frame = View(frames=torch.tensor([[0, 1, 2, 3, 4, 5, 7, 8]]).int())
    without_joint = View(joints=torch.tensor([[0, 1, 2, 3, 4, 6]]).int())
    for view in (without_frame, without_joint):
        torch.testing.assert_close(model(clip, view), model(alone, view))
    assert not torch.allclose(model(clip), model(alone), atol=1e-4)


def test_a_clip_in_which_no_body_is_present_is_averaged_over_all() -> None:
    nobody = torch.zeros(2, C, T, V, M)
    nobody[1, 0, 0, 0, 0] = 1
    features = encoder(bodies="present").eval()(nobody)
    torch.testing.assert_close(features[:1], encoder(bodies="mean").eval()(nobody[:1]))


# ---- the last frames alone ----


@pytest.mark.parametrize("causal", [False, True])
def test_features_of_the_last_frames_are_the_mean_of_their_tokens(causal: bool) -> None:
    model = encoder(bodies="mean", causal=causal).eval()
    tokens = model.tokens(clips(), per="frame")
    for last in range(1, tokens.shape[1] + 2):
        torch.testing.assert_close(model(clips(), last=last), tokens[:, -last:].mean(1))
    view = View(frames=torch.arange(2, 11)[None].int())
    torch.testing.assert_close(model(clips(), view, last=2), model.tokens(clips(), view, per="frame")[:, -2:].mean(1))


def test_a_body_is_present_in_the_frames_of_the_last_alone() -> None:
    model = encoder(bodies="present").eval()
    assert model.period == 2
    clip, frames = clips()[:, :, :11].clone(), torch.arange(11)[None].int()
    clip[..., 1] = 0
    # Of two outputs, for frames 8 and 10, presence is that of frames 7 to 10.
    clip[:, 1, 6, 3, 1] = 1
    for view in (None, View(frames=frames)):
        torch.testing.assert_close(model(clip, view, last=2), model(clip[..., :1], view, last=2))
    clip[:, 1, 7, 3, 1] = 1
    assert not torch.allclose(model(clip, last=2), model(clip[..., :1], last=2), atol=1e-4)
    with pytest.raises(ValueError, match="last must be at least 1, got 0"):
        model(clip, last=0)


# ---- dropout ----


def test_the_seed_decides() -> None:
    model = encoder()
    first, again, other = (model(clips(), seed=seed) for seed in (7, torch.tensor(7), 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_without_a_seed_torchs_generator_decides() -> None:
    model = encoder()
    torch.manual_seed(11)
    first, second = model(clips()), model(clips())
    torch.manual_seed(11)
    assert torch.equal(model(clips()), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("model", [encoder().eval(), encoder(dropout=0.0), None], ids=["eval", "no dropout", "seed"])
def test_where_nothing_is_drawn_the_generator_stands_still(model: STGCN | None) -> None:
    state = torch.get_rng_state()
    encoder_state = model or encoder()
    torch.set_rng_state(state)
    encoder_state(clips(), seed=None if model else 3)
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_depends_on_the_id_and_not_on_the_place_in_the_batch() -> None:
    model = frozen_norms(encoder())
    ids = torch.tensor([40, 3, 2**40, 11])
    together = model(clips(), seed=5, ids=ids)
    order = torch.tensor([2, 0, 3])
    torch.testing.assert_close(model(clips()[order], seed=5, ids=ids[order]), together[order])
    assert not torch.allclose(model(clips(), seed=5), together)
    torch.testing.assert_close(model(clips(), seed=5), model(clips(), seed=5, ids=torch.arange(N)))


# ---- a module like any other ----


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_every_parameter_gets_a_gradient(impl: str) -> None:
    model = Classifier(encoder(impl=impl), 5)
    clip = clips().requires_grad_()
    model(clip, some_view(), seed=1).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert (parameter.grad != 0).any(), name
    assert (clip.grad != 0).any()


def test_copies_pickles_and_state_dicts_carry_the_whole_model() -> None:
    model = Classifier(encoder(), 5).eval()
    wanted = model(clips(), some_view())
    saved = io.BytesIO()
    torch.save(model.state_dict(), saved)
    saved.seek(0)
    loaded = Classifier(STGCN(SKELETON, (6, 6, 8, 10), strides=(1, 1, 2, 1)), 5).eval()
    loaded.load_state_dict(torch.load(saved, weights_only=True))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded):
        assert torch.equal(twin(clips(), some_view()), wanted)


def test_training_moves_all_running_statistics_once() -> None:
    model = encoder()
    before = copy.deepcopy(model.state_dict())
    model(clips(), some_view(), seed=1)
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert value == before[name] + 1
        elif name.endswith(("running_mean", "running_var")):
            assert not torch.equal(value, before[name]), name
        else:
            assert torch.equal(value, before[name]), name


def test_data_parallel_wraps_it() -> None:
    plain = encoder()
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(copy.deepcopy(plain))
        for _ in range(2):
            wanted, got = plain(clips(), some_view(), seed=1), wrapped(clips(), some_view(), seed=1)
            assert torch.equal(got, wanted)
            for features in (wanted, got):
                features.square().sum().backward()
        for ours, theirs in zip(wrapped.parameters(), plain.parameters(), strict=True):
            assert torch.equal(ours.grad, theirs.grad)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_autocast_runs_near_float32(training: bool, impl: str) -> None:
    model = Classifier(encoder(impl=impl), 5).train(training)
    wanted = copy.deepcopy(model)(clips(), some_view(), seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        got = model(clips(), some_view(), seed=1)
        loss = got.float().square().sum()
    loss.backward()
    torch.testing.assert_close(got.float(), wanted, rtol=0.1, atol=0.1)
    assert all(p.grad.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.skipif("cpu" not in IMPLEMENTATIONS, reason="no compiled module")
@pytest.mark.parametrize(("training", "bodies"), [(False, "present"), (True, "mean")], ids=["eval", "train"])
def test_the_whole_forward_compiles_once(training: bool, bodies: str) -> None:
    model = Classifier(encoder((4, 6), (1, 2), bodies=bodies), 5).train(training)
    batches = [
        (clips(6, 14), some_view(6, 4, 9, of_frames=14), torch.tensor(3), torch.arange(6)),
        (clips(4, 17), some_view(4, 5, 11, of_frames=17), torch.tensor(9), torch.arange(4) + 7),
    ]
    check_compiles(lambda clip, view, seed, ids: model(clip, view, seed=seed, ids=ids), batches)


@pytest.mark.skipif("cpu" not in IMPLEMENTATIONS, reason="no compiled module")
def test_a_compiled_model_draws_its_own_seed() -> None:
    torch._dynamo.reset()
    model = encoder((4, 6), (1, 2))
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.manual_seed(1)
    first, second = compiled(clips(), some_view()), compiled(clips(), some_view())
    assert not torch.equal(first, second)
    torch._dynamo.reset()


# ---- bad input ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strides": (1, 1)}, "strides must name one stride a block, got 2 strides for 4 channels"),
        ({"strides": (1, 1, 0, 1)}, "stride must be at least 1, got 0"),
        ({"bodies": "max"}, "bodies must be 'mean' or 'present', got 'max'"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1"),
        ({"taps": 0}, "taps must be at least 1, got 0"),
        ({"in_channels": 0}, "channels must be at least 1"),
        ({"partition": "radial"}, "partition must be one of"),
    ],
)
def test_impossible_encoders_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        STGCN(SKELETON, (4, 4, 8, 8), **{"strides": (1, 1, 2, 1), **options})


def test_strides_are_never_inferred() -> None:
    with pytest.raises(ValueError, match="got 10 strides for 4 channels"):
        STGCN(SKELETON, (4, 4, 8, 8))


@pytest.mark.parametrize(
    ("clip", "view", "error", "message"),
    [
        (clips()[:, :, :, :6], None, ValueError, r"clip must have shape \(N, C=3, T, V=7, M\), got \(4, 3, 13, 6, 2\)"),
        (clips()[:, :2], None, ValueError, r"clip must have shape \(N, C=3"),
        (clips()[..., 0], None, ValueError, r"clip must have shape \(N, C=3"),
        (clips().numpy(), None, TypeError, "clip must be a torch tensor, got ndarray"),
        (clips().double(), None, TypeError, "weight must have the dtype of x, float64, got float32"),
        (clips(), object(), TypeError, "view must be a View, got object"),
        (
            clips(),
            View(frames=torch.zeros(4, 0).int()),
            ValueError,
            "one frame and one joint must be kept, got 0 and 7",
        ),
        (
            clips(),
            View(joints=torch.zeros(1, 0).int()),
            ValueError,
            "one frame and one joint must be kept, got 13 and 0",
        ),
        (clips(), View(frames=torch.tensor([[13]]).int()), ValueError, r"view.frames must lie in \[0, 13\)"),
        (clips(), View(joints=torch.tensor([[7]]).int()), ValueError, r"must lie in \[0, 7\)"),
        (clips(), View(frames=torch.zeros(3, 2).int()), ValueError, "view.frames must have shape"),
        (clips()[:3], View(joints=torch.zeros(4, 2).int()), ValueError, r"view.(joints|nodes) must have shape"),
    ],
)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_what_does_not_fit_is_refused(clip, view, error: type, message: str, training: bool) -> None:
    with pytest.raises(error, match=message):
        encoder(dropout=0.0).train(training)(clip, view)


def test_ids_are_one_a_clip() -> None:
    for model in (encoder(), encoder().eval()):
        with pytest.raises(ValueError, match=r"ids must have shape \(N=4,\), got \(8,\)"):
            model(clips(), seed=1, ids=torch.arange(8))


def test_a_classifier_needs_a_class() -> None:
    assert Classifier(encoder(), 3).eval()(clips()).shape == (N, 3)
    with pytest.raises(ValueError, match="classes must be at least 1, got 0"):
        Classifier(encoder(), 0)
    assert np.prod(Classifier(encoder(), 3).head.weight.shape) == 30


# ---- memory ----


def kept_bytes(step) -> int:
    """Of what one forward pass keeps for the backward pass, parameters and what ``step`` was given left out."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = step()
    assert result.requires_grad
    return sum(kept.values())


def test_activations_take_no_more_memory_than_eagers_and_recomputed_ones_half() -> None:
    skeleton = Skeleton.named("ntu-rgb+d")
    clip = torch.randn(4, 3, 50, 25, 2)
    eager = PublishedNetwork(torch.from_numpy(skeleton.adjacency("spatial")), CHANNELS, STRIDES, dropout=0.5)
    theirs = kept_bytes(lambda: eager(clip))
    ours = kept_bytes(lambda: STGCN(skeleton)(clip))
    assert ours <= theirs
    model = STGCN(skeleton, recompute=True)
    inputs: list[torch.Tensor] = []

    def hold(_, arguments, result) -> None:
        inputs.extend((arguments[0], result))

    # checkpoint keeps a block's input in a closure, which the hooks above do not see: what blocks pass on is counted.
    for block in model.blocks:
        block.register_forward_hook(hold)
    seen = kept_bytes(lambda: model(clip))
    held = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in inputs}
    recomputed = seen + sum(held.values())
    assert recomputed <= theirs / 2, (recomputed / theirs, ours / theirs)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("view", [None, some_view()], ids=["whole", "view"])
def test_recomputing_changes_no_bit(impl: str, view: View | None) -> None:
    plain, again = (encoder(impl=impl, dropout=0.3, recompute=recompute) for recompute in (False, True))
    features = [model(clips(), view, seed=5) for model in (plain, again)]
    assert torch.equal(*features)
    for result in features:
        result.square().sum().backward()
    for (name, ours), theirs in zip(again.named_parameters(), plain.named_parameters(), strict=True):
        assert torch.equal(ours.grad, theirs[1].grad), name
    for (name, ours), theirs in zip(again.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.skipif("cpu" not in IMPLEMENTATIONS, reason="no compiled module")
def test_a_recomputing_encoder_compiles() -> None:
    torch._dynamo.reset()
    models = [encoder((4, 6), (1, 2), recompute=True) for _ in range(2)]
    compiled = torch.compile(models[0], dynamic=True, backend="aot_eager")
    for run in (compiled, models[1]):
        run(clips(), some_view(), seed=torch.tensor(3)).square().sum().backward()
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    torch._dynamo.reset()
