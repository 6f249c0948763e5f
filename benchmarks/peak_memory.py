"""``python peak_memory.py WORK RIVAL [NUMBER …]``: peak memory that a work adds to a fresh process, as JSON, in MB.

Run by :func:`machine.peak_memory`; Linux only.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "python_tests"), str(Path(__file__).resolve().parents[1])]

import torch  # noqa: E402
import works  # noqa: E402


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {name}")


def added(work: Callable[[], object]) -> float:
    """MB that ``work`` adds at its peak to what the process held before."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts from here
    held = _status("VmRSS")
    work()
    return (_status("VmHWM") - held) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", choices=sorted(works.WORKS))
    parser.add_argument("rival")
    parser.add_argument("numbers", type=int, nargs="*")
    options = parser.parse_args()
    torch.set_num_threads(2)
    small, whole = works.WORKS[options.work](options.rival, *options.numbers)
    small()  # libraries, pools, what is set up once
    print(json.dumps({"peak MB": round(added(whole), 1)}))


if __name__ == "__main__":
    main()
