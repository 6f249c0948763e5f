"""Pretraining, probing and what belongs to them: one file a verb, each a plain function over a typed config.

Importing this package needs the standard library only; its functions need ``pip install 'asma-fast[train]'``.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

_HOMES = {
    "AlignConfig": "configs_supervised",
    "CheckpointError": "checkpoint",
    "DemoConfig": "configs",
    "DistillConfig": "configs_distill",
    "DistillResult": "distill",
    "FinetuneConfig": "configs_supervised",
    "FinetuneResult": "finetune",
    "InspectConfig": "configs",
    "OnlineConfig": "configs_online",
    "OnlineResult": "online",
    "PretrainConfig": "configs",
    "PretrainResult": "pretrain",
    "ProbeConfig": "configs",
    "ProbeResult": "probe",
    "SemiConfig": "configs_supervised",
    "SemiResult": "semi",
    "TrainingError": "launch",
    "TransferConfig": "configs_supervised",
    "DryRun": "dry_run",
    "align": "align",
    "demo": "demo",
    "distill": "distill",
    "dry_run": "dry_run",
    "finetune": "finetune",
    "inspect": "inspect",
    "online": "online",
    "pretrain": "pretrain",
    "probe": "probe",
    "semi": "semi",
    "PipelineConfig": "configs_run",
    "RunResult": "run",
    "run": "run",
    "transfer": "transfer",
    "RobustConfig": "configs_measure",
    "RetrieveConfig": "configs_measure",
    "ExtractConfig": "configs_measure",
    "PredictConfig": "configs_measure",
    "FuseConfig": "configs_measure",
    "TableConfig": "configs_measure",
    "RobustResult": "robust",
    "RetrieveResult": "retrieve",
    "ExtractResult": "extract",
    "Predictions": "predict",
    "FuseResult": "fuse",
    "Table": "table",
    "robust": "robust",
    "retrieve": "retrieve",
    "extract": "extract",
    "predict": "predict",
    "fuse": "fuse",
    "table": "table",
}

__all__ = [
    "AlignConfig",
    "CheckpointError",
    "DemoConfig",
    "DistillConfig",
    "DistillResult",
    "DryRun",
    "ExtractConfig",
    "ExtractResult",
    "FinetuneConfig",
    "FinetuneResult",
    "FuseConfig",
    "FuseResult",
    "InspectConfig",
    "OnlineConfig",
    "OnlineResult",
    "PipelineConfig",
    "PredictConfig",
    "Predictions",
    "PretrainConfig",
    "PretrainResult",
    "ProbeConfig",
    "ProbeResult",
    "RetrieveConfig",
    "RetrieveResult",
    "RobustConfig",
    "RobustResult",
    "RunResult",
    "SemiConfig",
    "SemiResult",
    "Table",
    "TableConfig",
    "TrainingError",
    "TransferConfig",
    "align",
    "demo",
    "distill",
    "dry_run",
    "extract",
    "finetune",
    "fuse",
    "inspect",
    "online",
    "predict",
    "pretrain",
    "probe",
    "retrieve",
    "robust",
    "run",
    "semi",
    "table",
    "transfer",
]

if TYPE_CHECKING:
    from asma_fast.training.align import align
    from asma_fast.training.checkpoint import CheckpointError
    from asma_fast.training.configs import DemoConfig, InspectConfig, PretrainConfig, ProbeConfig
    from asma_fast.training.configs_distill import DistillConfig
    from asma_fast.training.configs_measure import (
        ExtractConfig,
        FuseConfig,
        PredictConfig,
        RetrieveConfig,
        RobustConfig,
        TableConfig,
    )
    from asma_fast.training.configs_online import OnlineConfig
    from asma_fast.training.configs_run import PipelineConfig
    from asma_fast.training.configs_supervised import AlignConfig, FinetuneConfig, SemiConfig, TransferConfig
    from asma_fast.training.demo import demo
    from asma_fast.training.distill import DistillResult, distill
    from asma_fast.training.dry_run import DryRun, dry_run
    from asma_fast.training.extract import ExtractResult, extract
    from asma_fast.training.finetune import FinetuneResult, finetune
    from asma_fast.training.fuse import FuseResult, fuse
    from asma_fast.training.inspect import inspect
    from asma_fast.training.launch import TrainingError
    from asma_fast.training.online import OnlineResult, online
    from asma_fast.training.predict import Predictions, predict
    from asma_fast.training.pretrain import PretrainResult, pretrain
    from asma_fast.training.probe import ProbeResult, probe
    from asma_fast.training.retrieve import RetrieveResult, retrieve
    from asma_fast.training.robust import RobustResult, robust
    from asma_fast.training.run import RunResult, run
    from asma_fast.training.semi import SemiResult, semi
    from asma_fast.training.table import Table, table
    from asma_fast.training.transfer import transfer


class _Training(ModuleType):
    """The package: a verb's name is its function, also once the file of that name has been imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _HOMES.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Training


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'asma_fast.training' has no attribute {name!r}")
    return getattr(import_module(f"asma_fast.training.{_HOMES[name]}"), name)
