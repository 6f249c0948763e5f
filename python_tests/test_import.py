"""Importing stays cheap and free of what is not needed."""

from __future__ import annotations

from programs import program_output

HEAVY = ("numpy", "torch", "numba", "triton", "scipy", "sklearn", "safetensors", "lightning_fabric")


def test_package_import_loads_nothing_heavy() -> None:
    loaded = program_output(f"import sys, asma_fast; print([m for m in {HEAVY!r} if m in sys.modules])")
    assert loaded == "[]"


def test_command_line_starts_without_heavy_packages() -> None:
    code = f"import sys, asma_fast.cli; print([m for m in {HEAVY[1:]!r} if m in sys.modules])"
    assert program_output(code) == "[]"


def test_ops_work_without_torch() -> None:
    code = """
import numpy as np
from asma_fast import Skeleton, View, ops
assert ops.joint_degree(np.asarray(Skeleton.named('sbu').edges), 15).sum() == 28
x = np.ones((1, 3, 4, 15, 1), np.float32)
assert ops.gather_view(x, View(frames=np.array([[1]], np.int32))).shape == (1, 3, 1, 15, 1)
assert ops.graph_conv(x, np.ones((3, 2, 3), np.float32), Skeleton.named('sbu').adjacency()).shape == (1, 2, 4, 15)
assert 'torch' not in sys.modules
try:
    ops.joint_degree(np.zeros((0, 2), np.int64), 3, impl='reference')
except RuntimeError as error:
    print(error)
"""
    assert "torch is not installed" in program_output(code, without=("torch", "triton"))


def test_data_and_info_need_numpy_only() -> None:
    packages = ("torch", "triton", "safetensors", "scipy", "sklearn", "matplotlib", "yaml", "tqdm", "jinja2")
    code = """
import asma_fast.data
from asma_fast.cli import main
try:
    main(['info'])
except SystemExit as stop:
    assert not stop.code, stop.code
print(asma_fast.data.Preprocessing.named('aimclr').rotate)
"""
    assert program_output(code, without=packages).endswith("aimclr")
