"""ONNX files: standard operators, free sizes, and what torch's network says; by onnxruntime beside the engine."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from edge.networks import clips, file_of, logits_of, network
from torch import nn

from asma_fast.edge import EdgeError, Session, export_onnx
from asma_fast.nn import AlignedEncoders, Classifier, FeatureAlignment

KINDS = {
    "plain": {},
    "separable": {"separable": True, "taps": 3},
    "present": {"bodies": "present", "causal": True},
    "strided-first": {"strides": (2, 1, 2, 1)},
    "uniform": {"partition": "uniform", "channels": (3,), "strides": (1,)},
}
SIZES = ((2, 2, 12), (5, 1, 31), (1, 3, 1))  # clips, bodies, frames


def aligned(mode: str, tokens: str = "joint", **options) -> Classifier:
    """Two encoders of different widths, joined."""
    first, second = network(**options).encoder, network(channels=(4, 4, 6, 9)).encoder
    weighs = tokens == "joint" and mode not in ("concat", "mean")
    joint = FeatureAlignment((first.out_channels, 9), joints=7 if weighs else None, mode=mode, width=8, heads=2)
    for parameter in joint.parameters():
        nn.init.normal_(parameter)
    if joint.standardise is not None:
        joint.standardise.running_mean.normal_()
        joint.standardise.running_var.uniform_(0.5, 2)
    return Classifier(AlignedEncoders(first, second, joint, tokens=tokens), 4).eval()


MODELS = {
    **{name: lambda options=options: network(**options) for name, options in KINDS.items()},
    **{mode: lambda mode=mode: aligned(mode) for mode in ("weighted", "attention", "mean", "concat")},
    "frames": lambda: aligned("attention", "frame", bodies="present"),
}


NAMES = ["stand", "sit", "wave", "fall"]


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """Of ``network()``."""
    return export_onnx(network(), tmp_path_factory.mktemp("onnx") / "model.onnx", class_names=NAMES)


@pytest.mark.parametrize("name", MODELS)
def test_it_says_what_the_network_says_at_every_size(name, tmp_path):
    model = MODELS[name]()
    session = Session(export_onnx(model, tmp_path / "model.onnx"), runtime="onnxruntime")
    for count, bodies, frames in SIZES:
        given = clips(count, bodies, frames)
        given[0, 0] = 0
        wanted = logits_of(model, given, torch.float64)
        np.testing.assert_allclose(session.run(given, preprocessed=True), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["plain", "attention"])
def test_its_operators_are_standard_and_its_sizes_free(name, tmp_path):
    file = onnx.load(export_onnx(MODELS[name](), tmp_path / "model.onnx"))
    onnx.checker.check_model(file, full_check=True)
    assert [(one.domain, one.version) for one in file.opset_import] == [("", 18)]
    assert not file.functions
    assert "Einsum" not in {node.op_type for node in file.graph.node}
    (given,), (result,) = file.graph.input, file.graph.output
    assert (given.name, result.name) == ("clips", "logits")
    axes = [axis.dim_param or axis.dim_value for axis in given.type.tensor_type.shape.dim]
    assert axes == ["clips", 3, "frames", 7, "bodies"]


def test_it_agrees_with_the_engine_and_knows_names_and_skeleton(file, tmp_path):
    engine = Session(file_of(tmp_path, network(), class_names=NAMES))
    session = Session(file, runtime="onnxruntime", threads=2)
    assert (session.classes, session.skeleton, session.channels) == (engine.classes, engine.skeleton, engine.channels)
    (given,) = clips(1, 2, 20)
    given[0, 3, 2, 1] = np.nan
    ours, theirs = (one.classify(given, 4, preprocessed=True) for one in (engine, session))
    assert [one.name for one in ours] == [one.name for one in theirs]
    np.testing.assert_allclose([one.probability for one in ours], [one.probability for one in theirs], rtol=1e-4)
    assert session.missing == engine.missing == 1
    assert session.run(given[None][:0], preprocessed=True).shape == (0, 4)
    again = Session(session, runtime="onnxruntime")
    np.testing.assert_array_equal(
        again.run(given[None], preprocessed=True), session.run(given[None], preprocessed=True)
    )


def test_exporting_leaves_the_model_as_it_was(tmp_path):
    model = aligned("weighted").double().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export_onnx(model, tmp_path / "model.onnx")
    assert model.training
    assert model.encoder.alignment.training
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])


def test_what_it_cannot_do_is_told(file, tmp_path):
    engine = file_of(tmp_path, network())
    session, (given,) = Session(file, runtime="onnxruntime"), clips(1, 2, 20)
    with pytest.raises(EdgeError, match="takes preprocessed clips only: pass preprocessed=True"):
        session.run(given[None])
    with pytest.raises(EdgeError, match="onnxruntime has no streams"):
        session.stream()
    with pytest.raises(EdgeError, match=r"clips must have shape \(N, M, T, 7, 3\), got \(1, 2, 20, 6, 3\)"):
        session.run(given[None, ..., :6, :], preprocessed=True)
    with pytest.raises(EdgeError, match="is an ONNX file, which runtime='onnxruntime' runs"):
        Session(file)
    with pytest.raises(EdgeError, match="no weights for the engine"):
        Session(session)
    with pytest.raises(EdgeError, match="no ONNX file"):
        Session(Session(engine), runtime="onnxruntime")
    with pytest.raises(EdgeError, match="runtime must be 'native' or 'onnxruntime', got 'tvm'"):
        Session(file, runtime="tvm")
    with pytest.raises(EdgeError, match="threads must be at least 1, got 0"):
        Session(file, runtime="onnxruntime", threads=0)
    with pytest.raises(EdgeError, match="cannot be opened"):
        Session(tmp_path / "none.onnx", runtime="onnxruntime")


def test_a_file_that_is_none_of_ours_is_refused(file, tmp_path):
    whole, cut = file.read_bytes(), tmp_path / "cut.onnx"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EdgeError, match="onnxruntime cannot read it"):
        Session(cut, runtime="onnxruntime")
    foreign = onnx.load(file)
    del foreign.metadata_props[:]
    onnx.save(foreign, cut)
    with pytest.raises(EdgeError, match="does not tell what it is"):
        Session(cut, runtime="onnxruntime")


def test_without_onnxruntime_it_says_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EdgeError, match=r"pip install 'asma-fast\[edge\]'"):
        Session(tmp_path / "model.onnx", runtime="onnxruntime")


def test_what_cannot_be_exported_is_told(tmp_path):
    model = network()
    with pytest.raises(ValueError, match=r"path must end in .onnx, got model.safetensors"):
        export_onnx(model, tmp_path / "model.safetensors")
    with pytest.raises(TypeError, match="must be a Classifier over STGCN or AlignedEncoders, got STGCN"):
        export_onnx(model.encoder, tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="class_names must be as many as the classes, 4, got 1"):
        export_onnx(model, tmp_path / "model.onnx", class_names=["one"])
    broken = aligned("weighted")
    broken.encoder.second.blocks[1] = nn.Identity()
    with pytest.raises(ValueError, match=r"second.blocks.1 was replaced"):
        export_onnx(broken, tmp_path / "model.onnx")
    broken = aligned("weighted")
    broken.head.bias.data[0] = np.nan
    with pytest.raises(ValueError, match=r"the model must be finite; head.bias is not"):
        export_onnx(broken, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()
