"""The demo, with a budget of seconds: every stage of the pipeline, on generated clips or on a store."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from toys import toy_store

from asma_fast.cli import main
from asma_fast.data import Preprocessing
from asma_fast.training import DemoConfig, PipelineConfig, demo
from asma_fast.training.configs_run import RECIPES
from asma_fast.training.planning import planned, recipe_of
from asma_fast.training.records import read_record


@pytest.fixture(autouse=True)
def short(monkeypatch, tmp_path):
    """The same recipe with a few steps of everything."""
    text = re.sub(r"steps: \d+", "steps: 2", RECIPES["demo"].read_text(encoding="utf-8"))
    (tmp_path / "demo.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setitem(RECIPES, "demo", tmp_path / "demo.yaml")


def test_goes_through_the_whole_method_and_tells_of_it(tmp_path):
    config = DemoConfig(out=tmp_path / "demo", steps=2, clips_per_class=10, progress=False)
    result = demo(config)
    assert {line.outcome for line in result.stages.values()} == {"done"}
    assert {"prepare", "pretrain", "baseline", "probe", "align", "finetune", "distill", "robust"} <= set(result.stages)
    names = [read_record(path)["name"] for path in result.records]
    assert {"coordinates logistic", "untrained logistic", "PSTL masking logistic", "hl+lh logistic"} <= set(names)
    page = result.report.read_text(encoding="utf-8")
    assert len(re.findall(r'<img [^>]*src="data:image/png;base64,', page)) == len(re.findall("<img ", page)) >= 9
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "no claim about the method" in page
    assert "How often each joint is lost" in page
    # The same again changes nothing; another seed does.
    assert {line.outcome for line in demo(config).stages.values()} == {"kept"}
    assert demo(replace(config, seed=1)).stages["pretrain"].outcome == "done"


def test_prepared_data_serve_as_well(tmp_path):
    store = toy_store(tmp_path / "toy.safetensors", 36, preprocessing=Preprocessing(frames=20, rotate="none"))
    with pytest.raises(ValueError, match="no such store"):
        demo(DemoConfig(data=tmp_path / "none.safetensors", out=tmp_path / "out", steps=1, progress=False))
    with pytest.raises(ValueError, match="name one of the store's splits"):
        demo(DemoConfig(data=store, out=tmp_path / "out", steps=1, progress=False))
    assert not (tmp_path / "out").exists()
    words = [f"--data={store}", "--split=half", f"--out={tmp_path / 'out'}", "--steps=1", "--no-progress"]
    assert main(["demo", *words]) == 0
    assert read_record(tmp_path / "out" / "probe" / "hl.json")["data"]["dataset"] == "toy"


def test_data_without_labels_are_refused_before_training(tmp_path):
    store = toy_store(tmp_path / "toy.safetensors", 12, labels=False)
    with pytest.raises(ValueError, match="the store has no labels"):
        demo(DemoConfig(data=store, split="half", out=tmp_path / "out", progress=False))
    assert not (tmp_path / "out").exists()


def test_the_recipe_is_one_of_those_that_come_along():
    config = PipelineConfig(recipe=RECIPES["demo"].with_name("demo.yaml"))
    plan, report = planned(recipe_of(config), config)
    assert plan.configs["prepare"].dataset == "synthetic"
    assert report.note
