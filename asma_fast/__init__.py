"""ASMa: asymmetric spatio-temporal masking for skeleton action representation learning.

Importing this package imports nothing else: no NumPy, torch, numba or triton until a name is used.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as typing's, which costs half of what importing this package may
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "Skeleton": "asma_fast.skeleton",
    "View": "asma_fast.view",
    "backends": "asma_fast._backends",
}
_SUBMODULES = ("compat", "data", "nn", "ops", "training")

__all__ = ["Skeleton", "View", "__version__", "backends", *_SUBMODULES]

if TYPE_CHECKING:
    from asma_fast import compat as compat
    from asma_fast import data as data
    from asma_fast import nn as nn
    from asma_fast import ops as ops
    from asma_fast import training as training
    from asma_fast._backends import backends
    from asma_fast.skeleton import Skeleton
    from asma_fast.view import View


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(import_module(_LAZY[name]), name)
    elif name in _SUBMODULES:
        return import_module(f"asma_fast.{name}")
    else:
        raise AttributeError(f"module 'asma_fast' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
