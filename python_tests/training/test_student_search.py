"""The search of students: its table says what was measured, and which of them nothing beats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_finetune import LIGHT
from toys import tiny, toy_store

from asma_fast.config import build
from asma_fast.training import FinetuneConfig, finetune, pretrain
from asma_fast.training.records import read_record

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "accuracy"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    import student_search

    monkeypatch.setattr(student_search, "CALLS", 3)
    return student_search


def row(program: Any, accuracy: float, latency: float) -> Any:
    candidate = program.Candidate("8-8", 9, False)
    return program.Row(candidate, (accuracy,), (accuracy,), 100, 0.05, 1000, latency)


def test_nothing_beats_a_pareto_point(program):
    rows = [row(program, *point) for point in ((0.9, 3.0), (0.8, 2.0), (0.7, 2.5), (0.5, 1.0), (0.8, 2.1), (0.9, 3.5))]
    assert [(one.accuracy, one.latency_ms) for one in program.pareto(rows)] == [(0.5, 1.0), (0.8, 2.0), (0.9, 3.0)]


def test_a_tiny_grid_becomes_a_table(program, tmp_path, capsys):
    store = toy_store(tmp_path / "toy.safetensors", 36)
    pretrain(tiny(tmp_path / "run", data=store, split="half", frames=16, epochs=1, encoders="hl"))
    options = {"data": store, "run": tmp_path / "run", "out": tmp_path / "tuned", "epochs": 2}
    finetune(build(FinetuneConfig, ("light", LIGHT), ("test", options)))
    words = [f"data={store}", f"teacher={tmp_path / 'tuned' / 'hl.safetensors'}", f"out={tmp_path / 'search'}"]
    words += ["epochs=1", "views=1", "batch=12", "accelerator=cpu", "--shapes", "4x2", "4-4x2", "--taps", "5"]
    words += ["--seeds", "0", "1", "--temperatures", "2"]
    assert program.main(words) == 0
    text = (tmp_path / "search" / "STUDENTS.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 4
    record = read_record(tmp_path / "search" / "4-4x2-t5-separable-temperature=2-seed1" / "record-student.json")
    found = json.loads((tmp_path / "search" / "STUDENTS.json").read_text())
    (one,) = [entry for entry in found["rows"] if entry["candidate"] == "4-4x2-t5-separable-temperature=2"]
    assert one["accuracies"][1] == record["accuracy"]
    assert one["parameters"] == record["student"]["parameters"]
    assert f"{one['parameters']:,}" in text
    assert (record["config"]["channels"], record["config"]["strides"]) == ([4, 4], [1, 2])
    assert (record["config"]["temperature"], record["config"]["alpha"]) == (2, 0.5)
    assert all(line.split(" | ")[3:5] == ["2", "0.5"] for line in (text.replace("*", "") for text in lines[2:]))
    # Once more: everything is there already.
    capsys.readouterr()
    assert program.main(words) == 0
    assert f"{100 * record['accuracy']:.2f} %" in capsys.readouterr().out


def test_what_is_wrong_is_said(program, capsys):
    assert program.main(["data=x", "--shapes", "8-a"]) == 1
    assert "a shape is written as 8-16x2-32, got '8-a'" in capsys.readouterr().err
    assert program.main(["data=x", "seed=3"]) == 1
    assert "seed is the grid's" in capsys.readouterr().err
    assert program.main(["data=x", "epoch=3"]) == 1
    assert "there is no option 'epoch'; the nearest is 'epochs'" in capsys.readouterr().err
