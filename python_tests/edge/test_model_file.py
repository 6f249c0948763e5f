"""Model files: what export writes and refuses, and files that are damaged or lie."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from edge.networks import SEVEN, clips, file_of, int8_file, network
from mutations import damaged
from torch import nn

from asma_fast import Skeleton
from asma_fast.data import Preprocessing
from asma_fast.edge import EdgeError, Session, export
from asma_fast.nn import STGCN, AlignedEncoders, Classifier, FeatureAlignment, inference_parameters

KEY = "asma_fast.edge"


def parts(content: bytes) -> tuple[dict, dict, bytes]:
    """Header, description and data of a model file."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return header, json.loads(header["__metadata__"][KEY]), content[8 + length :]


def packed(header: dict, description: dict | str, data: bytes) -> bytes:
    told = description if isinstance(description, str) else json.dumps(description)
    text = json.dumps({**header, "__metadata__": {KEY: told}}).encode()
    return len(text).to_bytes(8, "little") + text + data


def refusal(path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(EdgeError) as caught:
        Session(path, max_frames=8)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


def test_a_file_holds_the_parameters_that_inference_needs(tmp_path):
    model = network()
    header, description, data = parts(file_of(tmp_path, model).read_bytes())
    assert sum(4 * np.prod(told["shape"]) for name, told in header.items() if name != "__metadata__") == len(data)
    assert description["skeleton"]["name"] == "seven"
    assert description["classes"] == ["0", "1", "2", "3"]
    # Beside them the zeros of the adjacency, and each joint's own bias in place of one for all.
    zeros = sum(
        block.graph_conv.adjacency.numel() - int(block.graph_conv.pattern.sum()) for block in model.encoder.blocks
    )
    joints, kinds = 7, 3
    biases = sum((joints - kinds - 1) * block.graph_conv.out_channels for block in model.encoder.blocks)
    assert len(data) == 4 * (inference_parameters(model) + zeros + biases)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_damaged_files_are_refused_or_run(precision, tmp_path):
    model = network(channels=(2, 3), strides=(1, 2), taps=3)
    path = file_of(tmp_path, model) if precision == "fp32" else int8_file(tmp_path, model, clips(1, 1, 4))
    content = path.read_bytes()
    path, given, refused = tmp_path / "damaged.safetensors", clips(1, 1, 4), 0
    for changed in damaged(content, count=10_000):
        path.write_bytes(changed)
        try:
            session = Session(path, max_frames=4)
            assert session.run(given, preprocessed=True).shape == (1, len(session.classes))
        except EdgeError:
            refused += 1
    assert 5_000 < refused < 10_000


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_cut_is_refused(precision, tmp_path):
    model = network(channels=(2,), strides=(1,), taps=3)
    path = file_of(tmp_path, model) if precision == "fp32" else int8_file(tmp_path, model, clips(1, 1, 4))
    content = path.read_bytes()
    path = tmp_path / "cut.safetensors"
    for length in range(0, len(content), 7):
        refusal(path, content[:length])


LIES = [
    (("skeleton", "joints"), [], "its skeleton is none: it must name the network's 7 joints"),
    (("skeleton", "joints"), 7, "its skeleton is none: it must name the network's 7 joints"),
    (("skeleton", "edges"), [[0, 10**12]], "its skeleton is none"),
    (("skeleton", "name"), ["seven"], "its skeleton is none: its name must be a string"),
    (("skeleton",), {"edges": [[0, 10**12]]}, "its skeleton is none"),
    (("skeleton",), [], "its skeleton is none"),
    (("network", "joints"), 8, r"tensor 'input.scale' must have shape \(8, 3\), got \(7, 3\)"),
    (("network", "joints"), -1, "network.joints must be a whole number from 1 to 1024, got -1"),
    (("network", "joints"), 2**63, "network.joints must be a whole number from 1 to 1024, got 9223372036854775808"),
    (("network", "joints"), 7.0, "network.joints must be a whole number"),
    (("network", "joints"), "7", "network.joints must be a whole number"),
    (("network", "bodies"), "sum", "network.bodies must be mean or present"),
    (("network", "blocks"), [], "network.blocks must be a list of 1 to 256"),
    (("network", "blocks", 1, "channels"), 6, r"tensor 'blocks.1.graph.weight' must have shape \(3, 6, 5\)"),
    (("network", "blocks", 1, "conv", "taps"), 4, "blocks.1.conv must have taps - 1 frames of padding"),
    (("network", "blocks", 1, "conv", "stride"), 0, "blocks.1.conv.stride must be a whole number from 1"),
    (("network", "blocks", 1, "conv", "stride"), 2, "blocks.1: convolution and residual must give as many frames"),
    (("network", "blocks", 0, "conv", "left"), 1, "blocks.0.conv must have taps - 1 frames of padding"),
    (("network", "blocks", 0, "conv", "right"), 4, "blocks.0.conv must have taps - 1 frames of padding"),
    (("network", "blocks", 0, "conv", "right"), 5, "blocks.0.conv.right must be a whole number from 0 to 4"),
    (("network", "blocks", 0, "conv", "groups"), 2, "blocks.0.conv.groups must divide its channels"),
    (("network", "blocks", 0, "residual"), "identity", "blocks.0.residual cannot be the identity"),
    (("network", "blocks", 0, "residual"), "half", "blocks.0.residual must be none, identity or convolution"),
    (("network", "blocks", 2, "residual"), "none", "tensor 'blocks.2.residual.bias' belongs to no layer"),
    (("format",), 2, "model.format must be 1: a newer release wrote this file"),
    (("precision",), "int4", "model.precision must be fp32 or int8"),
    (("precision",), "int8", "tensor 'blocks.0.gather.zero' is missing"),
    (("rate",), "30", "model.rate must be a number of frames a second from 0.01 to 1000000"),
    (("rate",), 0, "model.rate must be a number of frames a second from 0.01 to 1000000, got 0"),
    (("classes",), ["a"], "tensor 'head.weight' must have shape"),
    (("classes",), [1, 2, 3, 4], "model.classes must be a list of names"),
    (("preprocessing", "rotate"), "twice", "preprocessing.rotate is unknown: 'twice'"),
    (("preprocessing", "centre_joints"), [7], r"preprocessing.centre_joints must name joints in \[0, 7\)"),
    (("preprocessing", "centre_joints"), [], "preprocessing.centre_joints must be a list of joints"),
    (("preprocessing", "dims"), 4, "preprocessing.dims must be a whole number from 2 to 3, got 4"),
    (("preprocessing", "frames"), 2**17, "preprocessing.frames must be a whole number from 0 to 65536"),
    (("preprocessing", "bodies"), 65, "preprocessing.bodies must be a whole number from 0 to 64"),
    (("preprocessing", "centre"), "image", "preprocessing by the image's size is not served"),
]


@pytest.mark.parametrize(("place", "value", "message"), LIES, ids=[f"{'.'.join(map(str, lie[0]))}" for lie in LIES])
def test_a_description_that_lies_is_refused(place, value, message, tmp_path):
    path = file_of(tmp_path, network(), preprocessing=Preprocessing(8, rotate="none"))
    header, description, data = parts(path.read_bytes())
    inner = description
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    found = refusal(path, packed(header, description, data))
    assert pytest.raises(AssertionError, match=message).matches(AssertionError(found)), found


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data_offsets", [0, 2**40], "does not lie in the file as its shape and offsets say"),
        ("data_offsets", [8, 4], "does not lie in the file as its shape and offsets say"),
        ("data_offsets", [-4, 80], "must have two offsets"),
        ("shape", [2**32, 2**32], "has an impossible shape"),
        ("shape", [7, 2], "does not lie in the file"),
        ("dtype", "F16", "must be float32"),
    ],
)
def test_a_tensor_that_lies_is_refused(key, value, message, tmp_path):
    path = file_of(tmp_path, network())
    header, description, data = parts(path.read_bytes())
    header["input.scale"][key] = value
    assert message in refusal(path, packed(header, description, data))


INT8_LIES = [
    ("blocks.1.conv.weight", (2, 1, 3), -128, "tensor 'blocks.1.conv.weight' must be from -127 to 127"),
    ("blocks.2.graph.weight", (1, 2, 3), -128, "tensor 'blocks.2.graph.weight' must be from -127 to 127"),
    ("blocks.1.conv.scale", 2, 0, "tensor 'blocks.1.conv.scale' must be positive"),
    ("blocks.1.conv.scale", 2, -1, "tensor 'blocks.1.conv.scale' must be positive"),
    ("blocks.1.conv.scale", 2, np.nan, "tensor 'blocks.1.conv.scale' must be finite"),
    ("blocks.1.conv.scale", 2, 1e9, "blocks.1.conv has scales that take its sums beyond 2^30"),
    ("blocks.1.conv.bias", 4, 2**31 - 1, "blocks.1.conv has sums beyond 32 bits"),
    ("blocks.1.conv.bias", 4, -(2**31), "blocks.1.conv has sums beyond 32 bits"),
    ("blocks.1.graph.bias", (6, 4), -(2**31), "blocks.1.graph has sums beyond 32 bits"),
    ("blocks.1.residual.step", 0, 0, "tensor 'blocks.1.residual.step' must be positive"),
    ("blocks.1.residual.step", 0, 1e10, "blocks.1.conv has scales that take its sums beyond 2^30"),
    ("blocks.2.residual.scale", 0, np.inf, "tensor 'blocks.2.residual.scale' must be finite"),
    ("blocks.0.adjacency", (0, 1, 2), np.nan, "tensor 'blocks.0.adjacency' must be finite"),
    ("blocks.0.gather.zero", 1, 2**14, "tensor 'blocks.0.gather.zero' must be from 0 to 16383"),
    ("blocks.0.graph.bias", (6, 4), 2**24, "blocks.0.graph has sums beyond 32 bits"),
    ("blocks.1.adjacency", (0, 1, 2), 2**15 - 1, "blocks.1.gather has sums beyond 16 bits"),
    ("blocks.1.adjacency", (0, 1, 2), -(2**15), "blocks.1.gather has sums beyond 16 bits"),
    ("blocks.1.gather.scale", (0, 1), 0, "tensor 'blocks.1.gather.scale' must be positive"),
    ("blocks.1.gather.zero", 1, -1, "tensor 'blocks.1.gather.zero' must be from 0 to 127"),
    ("blocks.1.gather.zero", 1, 128, "tensor 'blocks.1.gather.zero' must be from 0 to 127"),
    ("features.scale", 0, 0, "tensor 'features.scale' must be positive"),
]


@pytest.mark.parametrize(("name", "place", "value", "message"), INT8_LIES)
def test_int8_numbers_that_lie_are_refused(name, place, value, message, tmp_path):
    path = int8_file(tmp_path, network(), clips(2, 1, 9))
    header, description, data = parts(path.read_bytes())
    begin, end = header[name]["data_offsets"]
    dtype = {"F32": np.float32, "I32": np.int32, "I16": np.int16, "I8": np.int8}[header[name]["dtype"]]
    numbers = np.frombuffer(data[begin:end], dtype).reshape(header[name]["shape"]).copy()
    numbers[place] = value
    changed = data[:begin] + numbers.tobytes() + data[end:]
    assert message in refusal(path, packed(header, description, changed))


def test_what_int8_does_not_serve_is_refused(tmp_path):
    path = int8_file(tmp_path, network(separable=True, channels=(4, 4), strides=(1, 2)), clips(2, 1, 9))
    header, description, data = parts(path.read_bytes())

    def refused(change: Callable[[dict, list[dict]], None]) -> str:
        changed, told = copy.deepcopy(header), copy.deepcopy(description)
        change(changed, told["network"]["blocks"])
        return refusal(path, packed(changed, told, data))

    def two_groups(header: dict, blocks: list[dict]) -> None:
        blocks[0]["pointwise"]["groups"] = 2
        header["blocks.0.pointwise.weight"]["shape"] = [8, 2, 1]

    assert "blocks.0.pointwise.groups of int8 must be 1 or as many as its channels" in refused(two_groups)

    def by_channel(header: dict, blocks: list[dict]) -> None:
        blocks[0]["pointwise"] = {**blocks[0]["conv"], "taps": 4, "left": 2, "right": 1}
        header["blocks.0.pointwise.weight"]["shape"] = [4, 1, 4]

    assert "blocks.0: pointwise and shortcut of int8 must have one tap and one group" in refused(by_channel)

    def adds(header: dict, blocks: list[dict]) -> None:
        blocks[0]["residual"] = "convolution"

    assert "blocks.0: the first block of int8 must have no residual" in refused(adds)


def test_other_files_are_refused(tmp_path):
    path = file_of(tmp_path, network())
    header, description, data = parts(path.read_bytes())
    assert "from 8 bytes to 1 GiB, got 0 bytes" in refusal(path, b"")
    assert "the file ends before" in refusal(path, (2**63).to_bytes(8, "little") + b"{}")
    assert "description is not valid" in refusal(path, packed(header, "{", data))
    assert "description is not valid" in refusal(path, packed(header, "[" * 100_000, data))
    deep = json.dumps({**description, "format": 0}).replace('"format": 0', '"format": ' + "[" * 300_000 + "]" * 300_000)
    assert "model.format must be a whole number" in refusal(path, packed(header, deep, data))
    unread = json.dumps(description)[:-1] + ', "more": ' + "[" * 100_000 + "]" * 100_000 + "}"
    path.write_bytes(packed(header, unread, data))
    with pytest.raises(EdgeError, match="recursion"):
        Session(path)
    assert len(refusal(path, packed(header, '{"' + "x" * 3_000_000, data))) < 1000
    assert "the file must end with its last tensor" in refusal(path, packed(header, description, data + bytes(4)))
    twice = {**header, "head.bias": {**header["head.bias"], "data_offsets": header["input.scale"]["data_offsets"]}}
    twice["head.bias"]["shape"] = header["input.scale"]["shape"]
    assert "the tensors must lie one after the other" in refusal(path, packed(twice, description, data))
    renamed = {name.replace("head.bias", "head.biases"): told for name, told in header.items()}
    assert "tensor 'head.bias' is missing" in refusal(path, packed(renamed, description, data))
    whole = np.frombuffer(data, np.float32).copy()
    whole[3] = np.nan
    assert "must be finite" in refusal(path, packed(header, description, whole.tobytes()))
    del header["__metadata__"]
    text = json.dumps(header).encode()
    assert "the header must have '__metadata__'" in refusal(path, len(text).to_bytes(8, "little") + text + data)


def test_models_that_cannot_be_exported_are_refused(tmp_path):
    path, model = tmp_path / "model.safetensors", network()
    encoders = [STGCN(SEVEN, (4,), strides=(1,)) for _ in range(2)]
    two = Classifier(AlignedEncoders(*encoders, FeatureAlignment((4, 4))), 3)
    with pytest.raises(TypeError, match="over one STGCN, got Classifier over AlignedEncoders; distil a teacher"):
        export(two, path)
    with pytest.raises(TypeError, match="must be a Classifier over one STGCN, got STGCN"):
        export(model.encoder, path)
    with pytest.raises(ValueError, match=r"path must end in .safetensors, got model.onnx"):
        export(model, path.with_suffix(".onnx"))
    with pytest.raises(ValueError, match="class_names must be as many as the classes, 4, got 2"):
        export(model, path, class_names=["a", "b"])
    with pytest.raises(ValueError, match=r"bodies must be in \[0, 64\], got -1"):
        export(model, path, bodies=-1)
    with pytest.raises(ValueError, match="needs shoulders"):
        export(model, path, preprocessing=Preprocessing.named("default"))
    with pytest.raises(ValueError, match="by the image's size cannot be exported"):
        export(
            network(Skeleton.named("coco"), in_channels=2),
            path,
            preprocessing=Preprocessing(8, centre="image", rotate="none"),
        )
    with pytest.raises(TypeError, match="class_names must be strings, got int"):
        export(model, path, class_names=[1, 2, 3, 4])

    class Twice(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    def refused(name: str, change: Callable[[Classifier], object]) -> None:
        changed = copy.deepcopy(model)
        change(changed)
        with pytest.raises(ValueError, match=f"{name} was replaced, or carries a hook"):
            export(changed, path)

    def hook(*_: object) -> None: ...

    refused("blocks.1", lambda changed: setattr(changed.encoder.blocks[1], "norm1", nn.Identity()))
    refused("blocks.0", lambda changed: changed.encoder.blocks[0].register_forward_hook(hook))
    refused("the encoder", lambda changed: changed.encoder.register_forward_hook(hook))
    refused("the model", lambda changed: changed.register_forward_pre_hook(hook))
    refused("input_norm", lambda changed: setattr(changed.encoder, "input_norm", nn.Identity()))
    refused("head", lambda changed: setattr(changed, "head", Twice(17, 4)))
    bare = copy.deepcopy(model)
    bare.head = nn.Linear(17, 4, bias=False)
    with pytest.raises(ValueError, match="head must have a bias"):
        export(bare, path)
    broken = copy.deepcopy(model)
    broken.head.bias.data[2] = torch.inf
    with pytest.raises(ValueError, match=r"the model must be finite; head.bias is not"):
        export(broken, path)
    assert list(tmp_path.iterdir()) == []
