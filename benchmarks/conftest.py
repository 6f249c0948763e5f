"""What every benchmark shares: ``--quick``, the fixture ``race``, and the table of targets at the end.

pytest puts this folder on the path, so that a benchmark can import the modules beside this file.
"""

from __future__ import annotations

import re
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "python_tests"))  # published_networks

from machine import machine_line
from race import CLOCK, Effort, LastGroup, Race
from targets import headline_rows, headline_text

_ABSOLUTE = re.compile(r"(^|=)(/|\w:)")
_RUN = pytest.StashKey[LastGroup]()
_BEGAN = pytest.StashKey[float]()


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="fewer shapes and rounds, every group still with its rivals")


def pytest_configure(config):
    config.addinivalue_line("markers", "large: left out by --quick and by --benchmark-disable")
    for kind in ("DeprecationWarning", "FutureWarning", "UserWarning"):  # of torch.compile and what it imports
        config.addinivalue_line("filterwarnings", rf"ignore::{kind}:torch\..*")
    config.addinivalue_line("markers", "compiles: waits for a compiler, so left out by --benchmark-disable")
    config.stash[_RUN] = LastGroup(tell=lambda line: _tell(config, line))
    config.stash[_BEGAN] = time.perf_counter()
    if config.getoption("quick"):
        config.option.benchmark_max_time, config.option.benchmark_min_rounds = "0.1", 3
    elif not any(str(argument).startswith("--benchmark-max-time") for argument in config.invocation_params.args):
        config.option.benchmark_max_time = "0.5"


def _tell(config, line):
    """On the terminal at once, past pytest's capture."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    with config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        reporter.ensure_newline()
        reporter.write_line(line)
        reporter.flush()


def pytest_collection_modifyitems(config, items):
    for item in items:
        if "race" in item.fixturenames:
            item.add_marker(pytest.mark.benchmark(timer=CLOCK))
    first: dict[object, int] = {}
    # The rows of a group follow each other: it is raced by the first and forgotten with the next group.
    items.sort(key=lambda item: first.setdefault(_group(item), len(first)))
    once = config.getoption("benchmark_disable")
    left_out = {"large": once or config.getoption("quick"), "compiles": once}
    gone = [item for item in items if any(left_out.get(mark.name) for mark in item.iter_markers())]
    if gone:
        config.hook.pytest_deselected(items=gone)
        items[:] = [item for item in items if item not in gone]


def _group(item):
    if "race" not in item.fixturenames or not hasattr(item, "callspec"):
        return item.nodeid
    rest = {key: value for key, value in item.callspec.params.items() if key != "name"}
    return item.path, item.originalname, repr(rest)


@pytest.fixture
def race(request, benchmark):
    """A row of a group whose entries are timed in turn; see :class:`race.Race`."""
    quick = request.config.getoption("quick")
    effort = Effort(share=0.2, rounds=(3, 7), smallest=0.002) if quick else Effort()
    return Race(benchmark, effort, request.config.stash[_RUN])


def pytest_benchmark_update_json(config, benchmarks, output_json):
    output_json["machine"] = machine_line()
    output_json["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    output_json["seconds"] = time.perf_counter() - config.stash[_BEGAN]
    output_json["seconds of groups"] = config.stash[_RUN].spent
    # Without folders of this machine, such as that of the JSON file.
    arguments = [argument for argument in map(str, config.invocation_params.args) if not _ABSOLUTE.search(argument)]
    output_json["command"] = " ".join(["pytest", *arguments])


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish():
    with warnings.catch_warnings():
        # Where all rows need a GPU that is not here.
        warnings.filterwarnings("ignore", "Not saving anything, no benchmarks have been run")
        return (yield)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter, config):
    session = config._benchmarksession
    rows = [{"group": bench.group, "extra_info": bench.extra_info} for bench in session.benchmarks if bench]
    found = headline_rows(rows)
    if found:
        terminalreporter.section("targets, by medians of ratios in this run")
        for line in headline_text(found):
            terminalreporter.write_line(line)
