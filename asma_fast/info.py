"""What is installed and what can run here: the text for a bug report.

Imports none of what it reports on, but torch where there is a CUDA driver, to ask what it can use.
"""

from __future__ import annotations

import os
import platform
from importlib import metadata

from asma_fast import __version__
from asma_fast._backends import backends, describe_native

_PACKAGES = ("numpy", "torch", "lightning-fabric", "safetensors", "scikit-learn", "numba", "triton")


def info() -> str:
    """Versions, machine, compiled module and backends, with the reason for each "no", a line each.

    Examples
    --------
    >>> print(info())  # doctest: +SKIP
    asma-fast        0.1.0
    python           3.11.7
    ...
    """
    rows = {"asma-fast": __version__, "python": platform.python_version()}
    rows |= {package: _version(package) for package in _PACKAGES}
    rows["system"] = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    try:
        rows |= {key: str(value) for key, value in describe_native().items()}
    except RuntimeError as error:
        rows["compiled module"] = f"no: {error}"
    lines = [f"{key:<22} {value}" for key, value in rows.items()]
    lines.append("")
    lines += [f"impl={impl:<17} {reason or 'yes'}" for impl, reason in _reasons().items()]
    return "\n".join(lines)


def _reasons() -> dict[str, str | None]:
    return {impl: None if reason is None else f"no: {reason}" for impl, reason in backends().items()}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
