"""Who runs under ``impl="triton"``, who does not, and why."""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from programs import program_output
from torch._subclasses.fake_tensor import FakeTensorMode
from triton_kernels.device import interpreted_only, needs_triton

import asma_fast
from asma_fast import View, ops
from asma_fast.ops import _op as op_module
from asma_fast.ops._op import TWINS
from asma_fast.ops._torch import _OPS

X = torch.zeros(1, 3, 4, 5, 1)


@needs_triton
def test_each_op_with_triton_kernels_has_its_functions_and_its_gradient() -> None:
    named = {op.name: op for op in _OPS.values() if op.triton and op.name in TWINS}
    assert {"joint_degree", "frame_motion", "sample_joints", "gather_view", "gather_view_backward"} <= named.keys()
    for name, op in named.items():
        assert callable(getattr(import_module(f"asma_fast.triton.{op.stem}"), name))
        assert f"triton_{name}" in _OPS
        assert f"{name}_backward" not in _OPS or f"{name}_backward" in named
    examples = {path.stem.removeprefix("examples_") for path in Path(__file__).parent.glob("examples_*.py")}
    assert examples == {op.stem for op in named.values()}


@needs_triton
@interpreted_only
def test_the_kernels_that_ran_are_tritons() -> None:
    x = X.clone().requires_grad_()
    with torch.profiler.profile() as profile:
        ops.gather_view(x, View(), impl="triton").sum().backward()
        ops.gather_view(x, View())
    seen = {event.name for event in profile.events()}
    assert {"asma_fast::triton_gather_view", "asma_fast::triton_gather_view_backward", "asma_fast::gather_view"} <= seen


@needs_triton
@interpreted_only
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.frame_motion(X.numpy(), impl="triton"), ValueError, "takes CPU tensors .* got a NumPy array"),
        (lambda: ops.frame_motion(X.to("meta"), impl="triton"), ValueError, "takes CPU tensors .* got one on meta"),
        (lambda: ops.frame_motion(X.double(), impl="triton"), TypeError, "float32, float16 or bfloat16, got float64"),
        (lambda: ops.moments(X, impl="triton"), RuntimeError, "moments: .* this release has no Triton kernel of it"),
        (
            lambda: ops.gather_view(X, View(frames=torch.zeros(1, 2, dtype=torch.int32, device="meta")), impl="triton"),
            ValueError,
            "view.frames must be on the device of x, cpu, got meta",
        ),
        (lambda: ops.gather_view(X[0], View(), impl="triton"), ValueError, r"x must have shape \(N, C, T, V, M\)"),
        (lambda: ops.gather_view(X.int(), View(), impl="triton"), TypeError, "x must be float32 .*, got int32"),
        (lambda: ops.sample_joints(torch.ones(3), 4, seed=0, impl="triton"), ValueError, r"drop must be in \[0, 3\]"),
        (lambda: ops.joint_degree(torch.zeros(2, 2), 4, impl="triton"), TypeError, "edges must be int32 or int64"),
    ],
)
def test_bad_input_is_refused_before_any_launch(call, error, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = import_module("asma_fast.triton._launch")
    monkeypatch.setattr(launch, "start", lambda *_: pytest.fail("launched"))
    with pytest.raises(error, match=message):
        call()


@needs_triton
@interpreted_only
def test_a_launch_that_fails_says_what_was_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = import_module("asma_fast.triton._launch")

    def start(*_: object) -> None:
        raise OSError("out of luck")

    monkeypatch.setattr(launch, "start", start)
    wanted = (
        r"frames_kernel cannot run on cpu in a grid of \(1,\) with .*'PAIRS': 16.*: out of luck; given torch.float32"
    )
    with pytest.raises(RuntimeError, match=wanted + r" \(1, 3, 4, 5, 1\)"):
        ops.frame_motion(X, impl="triton")
    with pytest.raises(RuntimeError, match=r"\(2147483648,\) are more programs than a device starts at once"):
        launch.launch(launch.start, 2**31, X)


@needs_triton
def test_auto_takes_triton_on_a_device_where_cuda_has_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeTensorMode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of a CPU build asked about CUDA
        x = torch.empty(1, 3, 4, 5, 1, device="cuda")
    monkeypatch.setattr(op_module, "_TRITON_DEVICE", "cuda")
    monkeypatch.setattr(op_module, "triton_problem", lambda device: None)
    monkeypatch.setattr(op_module, "cuda_problem", lambda device: None)
    monkeypatch.setattr(op_module, "_CUDA_OPS", frozenset(["joint_motion"]))
    names = ("frame_motion", "joint_motion", "moments")
    assert [op_module.choose(name, "auto", x) for name in names] == ["triton", "cuda", "reference"]
    assert op_module.choose("joint_motion", "triton", x) == "triton"
    monkeypatch.setattr(op_module, "_WHY_NOT", {**op_module._WHY_NOT, "cuda": None})
    monkeypatch.setattr(op_module, "cuda_problem", lambda device: "they were built for others.")
    assert op_module.choose("joint_motion", "auto", x) == "triton"
    with pytest.raises(RuntimeError, match=r"joint_motion: impl='cuda' cannot run: they were built for others\."):
        op_module.choose("joint_motion", "cuda", x)
    assert op_module.choose("frame_motion", "auto", x.double()) == "reference"
    assert op_module.choose("sample_frames", "auto", x.double()) == "triton"
    monkeypatch.setattr(op_module, "triton_problem", lambda device: "it is old.")
    assert op_module.choose("frame_motion", "auto", x) == "reference"
    with pytest.raises(RuntimeError, match=r"frame_motion: impl='triton' cannot run: it is old\."):
        op_module.choose("frame_motion", "triton", x)
    with pytest.raises(ValueError, match="impl='triton' takes CUDA tensors, got one on cpu"):
        op_module.choose("frame_motion", "triton", X)


def test_capability_that_triton_does_not_compile_for(monkeypatch: pytest.MonkeyPatch) -> None:
    backends = import_module("asma_fast._backends")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5) if device else (9, 0))
    backends.triton_problem.cache_clear()
    try:
        assert backends.triton_problem(0) is None
        assert backends.triton_problem(1) == "triton needs compute capability 8.0, cuda:1 has 7.5."
    finally:
        backends.triton_problem.cache_clear()


PROGRAM = """
import asma_fast
reason = asma_fast.backends()["triton"]
print(reason)
loaded = [name for name in ("torch", "triton") if name in sys.modules]
assert reason is None or not loaded, loaded
"""


@pytest.mark.parametrize(
    ("without", "said"),
    [
        (("triton",), "triton is not installed: pip install 'asma-fast[gpu]'."),
        (("torch", "triton"), "torch is not installed: pip install 'asma-fast[torch]'."),
        ((), "torch can use no CUDA device here; TRITON_INTERPRET=1 runs the kernels on the CPU, slowly, for tests."),
    ],
)
def test_why_triton_cannot_run(without: tuple[str, ...], said: str) -> None:
    if torch.cuda.is_available() and not without:
        pytest.skip("a CUDA device is here")
    assert program_output(PROGRAM, without=without) == said


def test_without_a_device_the_ops_run_and_triton_says_why() -> None:
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    code = """
import torch
from asma_fast import View, ops
x = torch.zeros(1, 3, 4, 5, 1, requires_grad=True)
ops.gather_view(x, View()).sum().backward()
assert "asma_fast.triton.gather_view" not in sys.modules and not hasattr(torch.ops.asma_fast, "triton_gather_view")
try:
    ops.gather_view(x, View(), impl="triton")
except RuntimeError as error:
    print(error)
"""
    assert program_output(code).startswith("gather_view: impl='triton' cannot run: torch can use no CUDA device here;")


def test_numpy_arrays_never_go_to_triton() -> None:
    assert isinstance(ops.frame_motion(np.zeros((1, 3, 4, 5, 1), np.float32)), np.ndarray)
    assert asma_fast.backends().keys() == {"reference", "numba", "cpu", "cuda", "triton"}
