"""What the documentation shows runs: the examples of docstrings, and the README's whole programs."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import asma_fast

# The compiled module and __main__ modules hold no examples.
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(asma_fast.__path__, "asma_fast.")
    if not module.name.endswith(("__main__", "._native"))
)
README = Path(__file__).parents[1] / "README.md"
PROGRAMS = [block for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if "import" in block]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_public_ops_and_modules_have_examples() -> None:
    from asma_fast import nn, ops

    public = [getattr(ops, name) for name in ops.__all__ if name != "Impl"]
    public += [getattr(nn, name) for name in nn.__all__ if isinstance(getattr(nn, name), type)]
    assert [thing.__name__ for thing in public if ">>>" not in (thing.__doc__ or "")] == []


def test_programs_of_the_readme_run() -> None:
    assert len(PROGRAMS) >= 3
    names: dict[str, object] = {}
    for program in PROGRAMS:
        exec(compile(program, str(README), "exec"), names)
