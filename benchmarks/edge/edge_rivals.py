"""What the edge engine is timed against: one network, with the same weights, by every runtime that is installed.

Each gets :mod:`asma_fast.edge.plain_network`, in which joints are gathered before the 1×1 convolution and batch-norms
are folded: half of the work of PSTL's order. Of ``PUBLISHED`` each gets the code that PSTL published instead, and folds
what it folds: what a user has who exports that.
All compute in float32, also where the processor has bfloat16 units that a runtime takes unasked; or, asked for int8, by
each one's own static quantisation, calibrated on the same clips.
"""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from published_networks import PublishedNetwork, published_adjacency, randomised
from rivals import SKELETON, random_clips
from torch import Tensor, nn

from asma_fast.compat import load_stgcn_state_dict
from asma_fast.edge import Session, export, export_onnx
from asma_fast.edge.plain_network import PlainClassifier
from asma_fast.nn import STGCN, AlignedEncoders, Classifier, FeatureAlignment
from asma_fast.nn.stgcn import CHANNELS, STRIDES

CLASSES = 60
#: The student is the accuracy study's.
NETWORKS = {
    "PSTL's encoder": {"channels": CHANNELS, "strides": STRIDES, "taps": 9},
    "student": {"channels": (16, 16, 32, 48), "strides": (2, 1, 2, 1), "taps": 5},
}
#: Both encoders of the default size under their alignment.
TEACHER = "teacher"
#: PSTL's encoder, as its authors wrote it.
PUBLISHED = "PSTL's encoder as published"
OURS = "asma_fast"
EAGER, COMPILED, ONNXRUNTIME = "eager", "torch.compile", "ONNX Runtime"
OPENVINO, EXECUTORCH, NCNN = "OpenVINO", "ExecuTorch (XNNPACK)", "ncnn"
NEEDS = {
    EAGER: "torch",
    COMPILED: "torch",
    ONNXRUNTIME: "onnxruntime",
    OPENVINO: "openvino",
    EXECUTORCH: "executorch",
    NCNN: "pnnx",
}
RIVALS = tuple(name for name, package in NEEDS.items() if find_spec(package))
#: ncnn has no products of arrays of five axes.
PUBLISHED_RIVALS = tuple(name for name in RIVALS if name != NCNN)

Call = Callable[[], NDArray[np.float32]]


@dataclass
class Network:
    """One network, and the folder for its files.

    Parameters
    ----------
    name
        Of ``NETWORKS``, ``TEACHER`` or ``PUBLISHED``.
    """

    name: str
    folder: Path

    @cached_property
    def model(self) -> Classifier:
        """In eval mode; no statistic is what it is before training."""
        if self.name == PUBLISHED:
            model = Classifier(STGCN(SKELETON), CLASSES)
            load_stgcn_state_dict(model, self.plain.state_dict())
            return model.eval()
        torch.manual_seed(0)
        if self.name == TEACHER:
            pair = (STGCN(SKELETON), STGCN(SKELETON))
            widths = (pair[0].out_channels, pair[1].out_channels)
            encoder: STGCN | AlignedEncoders = AlignedEncoders(*pair, FeatureAlignment(widths, joints=len(SKELETON)))
        else:
            encoder = STGCN(SKELETON, **NETWORKS[self.name])
        model = Classifier(encoder, CLASSES)
        for module in model.modules():
            if hasattr(module, "running_var"):
                module.running_var.uniform_(0.5, 2)
                module.running_mean.normal_(std=0.1)
        return model.eval()

    @cached_property
    def plain(self) -> nn.Module:
        """For rivals."""
        if self.name == PUBLISHED:
            adjacency = published_adjacency(len(SKELETON), SKELETON.edges, SKELETON.centre[0])
            network = PublishedNetwork(adjacency, CHANNELS, STRIDES, head="fc", classes=CLASSES)
            return randomised(network).eval().requires_grad_(False)
        return PlainClassifier(self.model)

    @cached_property
    def file(self) -> Path:
        """Of the engine."""
        return export(self.model, self.folder / "model.safetensors")

    @cached_property
    def onnx(self) -> Path:
        """For ONNX Runtime and OpenVINO."""
        path = self.folder / "model.onnx"
        if self.name != PUBLISHED:
            return export_onnx(self.model, path)
        with contextlib.redirect_stdout(io.StringIO()):
            torch.onnx.export(
                self.plain, (random_clips(1),), path, dynamo=True, input_names=["clips"], opset_version=18
            )
        return path

    @cached_property
    def calibration(self) -> list[Tensor]:
        """Clips whose activations int8 is scaled by, one at a time."""
        return list(random_clips(16, seed=1).split(1))

    @cached_property
    def int8_file(self) -> Path:
        """Of the engine."""
        clips = torch.cat(self.calibration)
        return export(self.model, self.folder / "int8.safetensors", precision="int8", calibration=clips)


def call_of(rival: str, network: Network, clips: Tensor, threads: int, *, int8: bool = False) -> Call:
    """What runs ``(N, C, T, V, M)`` once, from NumPy or torch memory of its own to logits."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of what the runtimes import
        return (_INT8 if int8 else _FLOAT)[rival](network, clips, threads)


def _ours(network: Network, clips: Tensor, threads: int, *, int8: bool = False) -> Call:
    given = clips.permute(0, 4, 2, 3, 1).contiguous().numpy()
    count, bodies, frames = given.shape[:3]
    file = network.int8_file if int8 else network.file
    session = Session(file, threads=threads, max_clips=count, max_bodies=bodies, max_frames=frames)
    return lambda: session.run(given, preprocessed=True)


def _torch(module: nn.Module, clips: Tensor) -> Call:
    @torch.inference_mode()
    def call() -> NDArray[np.float32]:
        return module(clips).numpy()

    return call


def _eager(network: Network, clips: Tensor, threads: int) -> Call:
    return _torch(network.plain, clips)


def _compiled(network: Network, clips: Tensor, threads: int) -> Call:
    return _torch(torch.compile(copy.deepcopy(network.plain), dynamic=False), clips)


def _onnxruntime(network: Network, clips: Tensor, threads: int, *, int8: bool = False) -> Call:
    import onnxruntime

    file = network.onnx
    if int8:
        from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(CalibrationDataReader):
            def __init__(self) -> None:
                self.clips = iter(network.calibration)

            def get_next(self) -> dict[str, NDArray[np.float32]] | None:
                clip = next(self.clips, None)
                return None if clip is None else {"clips": clip.numpy()}

        ready, file = network.folder / "ready.onnx", network.folder / "int8.onnx"
        quant_pre_process(str(network.onnx), str(ready), skip_symbolic_shape=True)
        quantize_static(str(ready), str(file), Reader(), per_channel=True, activation_type=QuantType.QUInt8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    given = {"clips": clips.numpy()}
    return lambda: session.run(None, given)[0]


def _openvino(network: Network, clips: Tensor, threads: int, *, int8: bool = False) -> Call:
    import openvino

    core = openvino.Core()
    model = core.read_model(network.onnx)
    model.reshape(list(clips.shape))
    if int8:
        import nncf

        # Its correction of biases fails on the graph convolutions', which are by channel and joint.
        advanced = nncf.AdvancedQuantizationParameters(disable_bias_correction=True)
        calibration = nncf.Dataset([clip.numpy() for clip in network.calibration])
        model = nncf.quantize(model, calibration, advanced_parameters=advanced)
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", options).create_infer_request()
    given = {0: clips.numpy()}

    def call() -> NDArray[np.float32]:
        return next(iter(request.infer(given).values()))

    return call


def _executorch(network: Network, clips: Tensor, threads: int, *, int8: bool = False) -> Call:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    portable_lib._unsafe_reset_threadpool(threads)
    with contextlib.redirect_stderr(io.StringIO()):
        exported = torch.export.export(network.plain, (clips,))
        if int8:
            from executorch.backends.xnnpack.quantizer import xnnpack_quantizer
            from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

            rules = xnnpack_quantizer.get_symmetric_quantization_config(is_per_channel=True)
            prepared = prepare_pt2e(exported.module(), xnnpack_quantizer.XNNPACKQuantizer().set_global(rules))
            for clip in network.calibration:
                prepared(clip)
            exported = torch.export.export(convert_pt2e(prepared), (clips,))
        lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    program = Runtime.get().load_program(lowered.buffer)
    method = program.load_method("forward")

    def call() -> NDArray[np.float32]:
        assert program  # whose memory the method reads
        return method.execute([clips])[0].numpy()

    return call


class _OneBody(nn.Module):
    """Clips of one body, since ncnn's arrays have no batch: logits of bodies average to those of the clip."""

    def __init__(self, plain: PlainClassifier) -> None:
        super().__init__()
        self.plain = copy.deepcopy(plain)
        for block in self.plain.first.blocks:
            # From one array: a matrix by itself becomes a linear layer, at which ncnn is many times slower.
            stacked = torch.stack([block.get_buffer(f"part{k}") for k in range(block.parts)])
            block.gathered = lambda x, parts=stacked: torch.cat([x @ part for part in parts], dim=1)

    def forward(self, body: Tensor) -> Tensor:
        return self.plain.head(self.plain.first.rows(body).mean(dim=(2, 3)))


def _ncnn(network: Network, clips: Tensor, threads: int) -> Call:
    import ncnn
    import pnnx

    bodies = clips.permute(0, 4, 1, 2, 3).flatten(0, 1).contiguous()
    path = network.folder / f"ncnn{clips.shape[2]}.pt"
    pnnx.export(_OneBody(network.plain).eval(), str(path), bodies[:1])
    net = ncnn.Net()
    net.opt.num_threads, net.opt.use_bf16_storage = threads, False
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.load_param(str(path.with_suffix(".ncnn.param")))
    net.load_model(str(path.with_suffix(".ncnn.bin")))
    given = [ncnn.Mat(body).clone() for body in bodies.numpy()]

    def call() -> NDArray[np.float32]:
        found = []
        for body in given:
            extractor = net.create_extractor()
            extractor.input("in0", body)
            found.append(np.array(extractor.extract("out0")[1]))
        return np.reshape(found, (clips.shape[0], clips.shape[4], -1)).mean(1)

    return call


_FLOAT: dict[str, Callable[[Network, Tensor, int], Call]] = {
    OURS: _ours,
    EAGER: _eager,
    COMPILED: _compiled,
    ONNXRUNTIME: _onnxruntime,
    OPENVINO: _openvino,
    EXECUTORCH: _executorch,
    NCNN: _ncnn,
}
_INT8 = {
    name: partial(maker, int8=True)
    for name, maker in {OURS: _ours, ONNXRUNTIME: _onnxruntime, OPENVINO: _openvino, EXECUTORCH: _executorch}.items()
}
INT8_RIVALS = tuple(name for name in _INT8 if name in RIVALS and (name != OPENVINO or find_spec("nncf")))
