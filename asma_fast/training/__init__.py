"""Pretraining, probing and what belongs to them: one file a verb, each a plain function over a typed config.

Importing this package needs the standard library only; its functions need ``pip install 'asma-fast[train]'``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "CheckpointError": "checkpoint",
    "DemoConfig": "configs",
    "DemoResult": "demo",
    "PretrainConfig": "configs",
    "PretrainResult": "pretrain",
    "ProbeConfig": "configs",
    "ProbeResult": "probe",
    "TrainingError": "pretrain",
    "demo": "demo",
    "pretrain": "pretrain",
    "probe": "probe",
}

__all__ = [
    "CheckpointError",
    "DemoConfig",
    "DemoResult",
    "PretrainConfig",
    "PretrainResult",
    "ProbeConfig",
    "ProbeResult",
    "TrainingError",
    "demo",
    "pretrain",
    "probe",
]

if TYPE_CHECKING:
    from asma_fast.training.checkpoint import CheckpointError
    from asma_fast.training.configs import DemoConfig, PretrainConfig, ProbeConfig
    from asma_fast.training.demo import DemoResult, demo
    from asma_fast.training.pretrain import PretrainResult, TrainingError, pretrain
    from asma_fast.training.probe import ProbeResult, probe


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'asma_fast.training' has no attribute {name!r}")
    return getattr(import_module(f"asma_fast.training.{_HOMES[name]}"), name)
