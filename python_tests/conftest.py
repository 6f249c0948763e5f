"""What every test shares."""

from __future__ import annotations

import os

os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports triton; 0 runs its kernels on a CUDA device

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder of genuine recordings that ``ASMA_DATA`` names; tests that use it skip where it is absent."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("ASMA_DATA") or root / "../shared/data").resolve()
    if not folder.is_dir():
        pytest.skip(f"no recordings: ASMA_DATA names {folder}, which does not exist")
    return folder
