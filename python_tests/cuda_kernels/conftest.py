"""The CUDA kernels on an emulated device: built by the host's compiler, called in place of the CPU's."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from asma_fast.ops import _op as op_module

SOURCE = Path(__file__).resolve().parents[2]
NAME = "_cuda_emulated"


def build(folder: Path, *options: str) -> Path:
    """The emulated module."""
    python = (f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={_pybind11()}")
    commands = [
        ["cmake", "-S", SOURCE, "-B", folder, f"-DASMA_CUDA_EMULATION={NAME}", "-DASMA_PYTHON=OFF", *python, *options],
        ["cmake", "--build", folder, "-j", "2", "--target", NAME],
    ]
    for command in commands:
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return next(folder.glob(f"{NAME}*.so"))


def _pybind11() -> str:
    import pybind11

    return str(pybind11.get_cmake_dir())


def load(path: Path) -> ModuleType:
    """The module of that file."""
    spec = importlib.util.spec_from_file_location(NAME, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def emulated_module(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    return load(build(tmp_path_factory.mktemp("cuda_emulated")))


@pytest.fixture(params=[0, 1])
def emulated(
    emulated_module: ModuleType, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> ModuleType:
    """``OP.run_native`` runs on the emulated device, whose threads take turns as one of two seeds says."""
    emulated_module.reseed(request.param)
    emulated_module.take_traffic()
    monkeypatch.setattr(op_module, "native", lambda: emulated_module)
    return emulated_module
