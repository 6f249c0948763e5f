"""The demo, with a budget of seconds: every row of the table, and a page that needs no other file."""

from __future__ import annotations

import json
import re

import pytest
from toys import toy_store

from asma_fast.data import Preprocessing
from asma_fast.training import DemoConfig, demo

ROWS = ["raw coordinates", "random encoder", "PSTL masking", "hl", "lh", "hl + lh"]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return demo(DemoConfig(out=tmp_path_factory.mktemp("demo"), steps=2, clips_per_class=10, progress=False))


def test_the_table_compares_all_that_is_promised(result):
    assert list(result.probes) == ROWS
    lines = str(result).splitlines()
    assert [line[:18].strip() for line in lines[1:7]] == ROWS
    assert all(line.count("%") == 2 for line in lines[1:7])
    assert result.probes["hl + lh"]["logistic"].record["width"] == 2 * result.probes["hl"]["logistic"].record["width"]


def test_the_report_stands_alone_and_shows_the_figures_of_the_records(result):
    page = result.report.read_text(encoding="utf-8")
    assert len(re.findall(r'<img [^>]*src="data:image/png;base64,', page)) == len(re.findall("<img ", page)) >= 9
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "<script" not in page
    records = json.loads((result.report.parent / "probes.json").read_text())
    for name in ROWS:
        for method in ("logistic", "knn"):
            assert records[name][method]["accuracy"] == result.probes[name][method].accuracy
            assert f"<td>{100 * records[name][method]['accuracy']:.1f}</td>" in page
    assert "One seed" in str(result)
    assert "one seed" in page


def test_prepared_data_serve_as_well(tmp_path):
    recipe = Preprocessing(frames=20, rotate="none")
    store = toy_store(tmp_path / "toy.safetensors", 36, preprocessing=recipe)
    with pytest.raises(ValueError, match="name one of the store's splits"):
        demo(DemoConfig(data=store, out=tmp_path / "out", steps=1, progress=False))
    done = demo(DemoConfig(data=store, split="half", out=tmp_path / "out", steps=1, progress=False))
    assert done.probes["hl"]["logistic"].record["data"]["dataset"] == "toy"


def test_data_without_labels_are_refused_before_training(tmp_path):
    store = toy_store(tmp_path / "toy.safetensors", 12, labels=False)
    with pytest.raises(ValueError, match="the training part of the split has no labelled clips"):
        demo(DemoConfig(data=store, split="half", out=tmp_path / "out", progress=False))
    assert not (tmp_path / "out").exists()
