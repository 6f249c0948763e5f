"""Programs run in a fresh interpreter, on the same asma_fast as the tests themselves."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterable
from pathlib import Path

import asma_fast

PACKAGE_ROOT = Path(asma_fast.__file__).resolve().parents[1]


def run_program(code: str, *words: object, without: Iterable[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run code, warnings as errors, with words as its arguments and the packages ``without`` impossible to import."""
    with tempfile.TemporaryDirectory() as folder:  # a checkout as the working folder would hide the installed package
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", _blocked(tuple(without)) + textwrap.dedent(code), *map(str, words)],
            cwd=folder,
            env=program_environment(),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )


def start_verb(*words: str, module: tuple[str, ...] = (), **environment: str) -> subprocess.Popen[str]:
    """``asma-fast WORDS`` in a process of its own, run by ``module`` where one is named; paths must be absolute.

    With one thread, since torch's own reductions depend on their number.
    """
    return subprocess.Popen(
        [sys.executable, *module, "-m", "asma_fast.cli", *words],
        cwd=PACKAGE_ROOT,  # with -m the working folder comes first on the path
        env=program_environment(OMP_NUM_THREADS="1", **environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def program_output(code: str, *words: object, without: Iterable[str] = ()) -> str:
    """What the program printed; it must succeed."""
    done = run_program(code, *words, without=without)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def program_environment(**more: str) -> dict[str, str]:
    """This process's environment with the tested asma_fast first on the path; Triton kernels are not interpreted."""
    path = os.pathsep.join(filter(None, [str(PACKAGE_ROOT), os.environ.get("PYTHONPATH")]))
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return {**inherited, "PYTHONPATH": path, **more}


def _blocked(packages: tuple[str, ...]) -> str:
    return f"""\
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {packages!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {packages!r} else found(name, package)
"""
