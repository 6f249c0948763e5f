"""prepare on JSON files, whose reading is Python's: one worker, and one for each CPU.

``ASMA_PREPARE_FILES=2000 pytest benchmarks/data/bench_prepare.py`` for another number of files.
"""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from asma_fast.data import PrepareConfig, prepare

FILES = int(os.environ.get("ASMA_PREPARE_FILES", "200"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rng, source = np.random.default_rng(0), tmp_path_factory.mktemp("raw")
    for index in range(FILES):
        frames = rng.normal(size=(40, 20, 3)).round(6).tolist()
        name = f"a{1 + index % 6:02}_s{1 + index // 100:02}_e{index % 100:02}_v01.json"
        (source / name).write_text(json.dumps({"label": 1 + index % 10, "skeletons": frames}))
    return source


@pytest.mark.parametrize("workers", [1, os.cpu_count() or 1])
@pytest.mark.benchmark(group="prepare: JSON files of 40 frames")
def test_prepare(benchmark, folder, tmp_path, workers):
    config = PrepareConfig("nw-ucla", tmp_path / "out", folder, workers=workers, overwrite=True)
    report = benchmark.pedantic(lambda: prepare(config), rounds=3, iterations=1)
    assert (report.ok, report.clips) == (True, FILES)
    if benchmark.stats is not None:  # None under --benchmark-disable
        benchmark.extra_info["files a second"] = round(FILES / benchmark.stats.stats.min)
