"""What a run stands on: processor, memory, versions; and the peak memory of a piece of work in a process of its own."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from asma_fast._backends import native


def machine_line() -> str:
    """One line that says where a timing comes from."""
    sets = ", ".join(native().available_instruction_sets())
    return (
        f"{_processor()}, {os.cpu_count()} cores, {_memory():.0f} GB, instruction sets {sets}, torch's threads "
        f"{torch.get_num_threads()}; Python {platform.python_version()}, torch {torch.__version__}, "
        f"NumPy {np.__version__}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def peak_memory(work: str, rival: str, *arguments: int) -> dict[str, float]:
    """``{"peak MB": …}`` that one of ``works.WORKS`` adds to a process of its own; empty where Linux does not tell."""
    if not Path("/proc/self/clear_refs").exists():
        return {}
    script = Path(__file__).with_name("peak_memory.py")
    done = subprocess.run(
        [sys.executable, str(script), work, rival, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{script.name} {work} {rival}: {done.stderr.strip()[-500:]}")
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def saved_for_backward(forward: Callable[[], object], *modules: nn.Module) -> float:
    """MB of distinct memory that a forward pass keeps for its backward pass, parameters and buffers left out."""
    known = {value.untyped_storage().data_ptr() for module in modules for value in module.state_dict().values()}
    kept: dict[int, int] = {}

    def pack(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        result = forward()  # kept alive, so that no address is used twice
    del result
    return sum(kept.values()) / 1e6
