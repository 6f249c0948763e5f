"""The accuracy study on synthetic clips: every column gives records, and the page tells of all of them."""

from __future__ import annotations

import importlib
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asma_fast.data import PrepareConfig, Store, prepare
from asma_fast.training.checkpoint import load_checkpoint
from asma_fast.training.records import read_arrays

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "accuracy"


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The study's modules at a size for tests, and a study of two small sets whose stores are there."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import design
    import measures
    import results
    import study

    monkeypatch.setattr(design, "CHANNELS", (4,) * 10)
    for module in (design, study):
        monkeypatch.setattr(module, "SEEDS", (0, 1))
    for budget in (design.ALIGN, design.FINETUNE, design.FINETUNE_SHOTS, design.DISTILL):
        monkeypatch.setitem(budget, "steps", 2)
        monkeypatch.setitem(budget, "batch", 8)
    monkeypatch.setitem(design.DISTILL, "channels", (2, 2, 2, 2))
    monkeypatch.setattr(measures, "SHOTS", 2)
    for number, name in enumerate(design.SETS):
        one = replace(design.SETS[name], splits=("xsub",), bodies=1, inner=design._each_held_out("xsub", "subjects"))
        monkeypatch.setitem(design.SETS, name, one)
        one.file(tmp_path).parent.mkdir(exist_ok=True)
        prepare(PrepareConfig("synthetic", one.file(tmp_path), clips_per_class=8, subjects=4, seed=number, workers=1))
    monkeypatch.setattr(measures, "CONDITIONS", ("jitter-1", "yaw-30"))
    distill = importlib.import_module("asma_fast.training.distill")
    monkeypatch.setattr(distill, "latencies", lambda calls: dict.fromkeys(calls, 1.0))
    settings = design.Settings(steps=2, batch=8, projector=16)
    return design, measures, results, study, measures.Study(tmp_path, settings)


def test_every_column_is_measured_and_told(parts):
    design, measures, results, program, study = parts
    for sets, encoder, seed in program.pretrainings():
        if encoder in ("pstl", "hl", "lh", "untrained", "hl-motion", "lh-motion") and sets != ("nw-ucla",):
            program.pretrain_one(replace(study, sets=sets), encoder, seed)
    for column in design.COLUMNS:
        for row in (row for row in column.rows if row in (design.RAW, design.UNTRAINED2, *design.LABELLED)):
            for seed in (0, 1):
                # Of the cheap columns every set.
                for dataset in column.sets if column.name in ("linear", "rbf") else column.sets[:1]:
                    own = study.transferred_to(dataset) if column.name == "transfer" else study
                    measures.measure(own, column.name, row, seed, dataset)
    (ablated,) = [row for row in design.ABLATED if row.key == "asma-motion"]
    for column, seed, dataset in itertools.product(("linear", "aligned"), ablated.seeds, design.LARGE):
        for row in (ablated, design.ASMA):
            measures.measure(study, column, row, seed, dataset)
    text = results.page(study)
    (claim,) = [line for line in text.splitlines() if line.startswith("| linear against raw coordinates with RBF")]
    rows = (("linear", design.ASMA), ("rbf", design.RAW))
    sets = [[results.hits_of(study, *row, name) for row in rows] for name in design.LARGE]
    assert f"| {100 * sum(ours.mean() - theirs.mean() for ours, theirs in sets) / 2:+.1f} (" in claim
    assert "not measured" not in claim
    assert "| under noise against PSTL ×2 | 2 | +0 | +3 | not measured |" in text
    (told,) = [line for line in text.splitlines() if line.startswith(f"| {ablated.name} | {ablated.count} |")]
    rows = (ablated, replace(design.ASMA, count=ablated.count))
    pairs = [[results.hits_of(study, "linear", row, name) for row in rows] for name in design.LARGE]
    assert f"| {100 * sum(ours.mean() - theirs.mean() for ours, theirs in pairs) / 2:+.1f} (" in told
    assert f"| ASMa, half the share masked | {ablated.count} | – |" in text
    # What is told is what the records hold, and rows without records say so.
    hits = results.hits_of(study, "linear", design.ASMA, "nw-ucla")
    assert f"| {design.ASMA.name} | {100 * hits.mean():.1f} ± " in text
    assert "| hl ×2 | – |" in text
    record = study.folder("robust", "nw-ucla", "xsub") / "asma-seed0.json"
    assert read_arrays(record)["logits"].shape[0] == 2
    # Few labels are few, for the alignment too; a second time nothing is done again, with other settings all of it.
    train = study.clips("nw-ucla", study.store("nw-ucla").split("xsub")[0])
    labelled = train.take(torch.from_numpy(measures.draw(train, lambda count: 2, 0, 0)))
    assert len(labelled) == 2 * len(train.classes)
    for name in ("aligned", "finetuned"):
        checkpoint = study.work / "trained" / "shots" / "nw-ucla-xsub" / "asma-seed0" / f"{name}.safetensors"
        assert load_checkpoint(checkpoint)[1]["fingerprint"] == labelled.fingerprint
    written = record.stat().st_mtime_ns
    measures.measure(study, "robust", design.ASMA, 0, "nw-ucla")
    assert record.stat().st_mtime_ns == written
    aligned = ("aligned", design.ASMA, 0, "nw-ucla")
    measures.measure(replace(study, settings=replace(study.settings, finetune_lr=0.1)), *aligned)
    with pytest.raises(ValueError, match="was measured with other settings"):
        measures.measure(replace(study, settings=replace(study.settings, align_lr=0.1)), *aligned)


def test_settings_are_chosen_without_test_clips(parts, monkeypatch):
    design, measures, _, program, study = parts
    grid = (
        ("linear", ({"lr": 1e-3}, {"lr": 2e-3})),
        ("aligned", ({"align_lr": 1e-3}, {"align_lr": 2e-3})),
        ("scratch", ({},)),
    )
    monkeypatch.setattr(program, "GRID", grid)
    monkeypatch.setattr(program, "Settings", lambda: study.settings)
    monkeypatch.setattr(program, "in_turn", lambda work, jobs: [function(*given) for function, given in work])
    asked = []
    scores_of = measures.scores_of

    def noted(logits: Any, labels: Any, classes: Any) -> Any:
        asked.append(len(labels))
        return scores_of(logits, labels, classes)

    monkeypatch.setattr(measures, "scores_of", noted)
    chosen = program.select(study.work, 1)
    assert chosen.lr in (1e-3, 2e-3)
    train = {len(study.store(name).split("xsub")[0]) for name in ("nw-ucla", "utd-mhad")}
    assert max(asked) < min(train)
    for name in ("nw-ucla", "utd-mhad"):
        store = study.store(name)
        train, test = store.split("xsub")
        for fit, held in design.SETS[name].inner(store).values():
            assert not np.isin(np.concatenate([fit, held]), test).any()
            assert sorted(np.concatenate([fit, held])) == sorted(train)


def test_a_missing_store_is_told(parts, tmp_path, capsys):
    assert parts[3].main(["report", f"--work={tmp_path / 'other'}"]) == 1
    assert "no such store; name the folder of the raw recordings with --data" in capsys.readouterr().err


def test_verdicts_follow_the_protocol(parts):
    claim = parts[2].CLAIMS[0]
    assert claim.verdict(0.03, (0.01, 0.05)) == "**aim reached**"
    assert claim.verdict(0.01, (0.001, 0.05)) == "**floor met**"
    assert claim.verdict(0.03, (-0.01, 0.05)) == "not shown"
    (student,) = [one for one in parts[2].CLAIMS if one.text == "student against its teacher"]
    assert student.verdict(-0.006, (-0.019, 0.01)) == "**floor met**"
    assert student.verdict(-0.006, (-0.021, 0.01)) == "not shown"
    assert student.verdict(-0.007, (-0.01, 0.01)) == "not shown"
    assert student.verdict(0.001, (-0.01, 0.01)) == "**floor met**"
    assert student.verdict(0.02, (0.001, 0.03)) == "**aim reached**"
    (few,) = [one for one in parts[2].CLAIMS if one.text.startswith("5 shots")]
    assert few.verdict(0.07, (0.01, 0.1)) == "not shown"


def test_students_are_chosen_without_test_clips(parts, monkeypatch):
    design, _, _, program, study = parts
    import student_search
    import students

    monkeypatch.setattr(student_search, "CALLS", 3)
    monkeypatch.setattr(students, "EPOCHS", {"nw-ucla": 1, "utd-mhad": 1})
    losses = (replace(students.DEFAULT, shape="2x2-4"), replace(students.ALONE, shape="2x2-4"))
    for name, one in zip(("DEFAULT", "ALONE"), losses, strict=True):
        monkeypatch.setattr(students, name, one)
    monkeypatch.setattr(students, "LOSSES", (*losses, replace(losses[0], temperature=1.0, alpha=0.5)))
    monkeypatch.setattr(students, "SHAPES", tuple(student_search.Candidate(shape, 3) for shape in ("2x2-4", "2x4-2")))
    for encoder, more in design.ASMA.encoders:
        for seed in range(students.FOLDS):
            program.pretrain_one(study, encoder, seed + more)
    text = students.choose(study)
    folds = students.inners(study)
    assert [(inner.number, inner.dataset) for inner in folds] == list(itertools.product((0, 1), students.EPOCHS))
    for inner in folds:
        store = study.store(inner.dataset)
        own = Store.open(inner.store)
        train, asked = inner.fold[1]
        assert set(own.names) == {store.names[row] for row in store.split("xsub")[0]}
        assert [own.names[row] for row in own.split("inner")[1]] == [store.names[row] for row in asked]
        assert inner.teacher.record["fingerprint"] == study.clips(inner.dataset, train).fingerprint
    first, best = folds[:2], students.best_loss(folds[:2])
    means = [students.accuracy(first, one) for one in students.LOSSES]
    assert best in (students.LOSSES[0], students.LOSSES[2])
    assert students.accuracy(first, best) == max(means[0], means[2])
    lines = [line.replace("*", "") for line in text.splitlines()]
    for one, mean in zip(students.LOSSES, means, strict=True):
        head = f"| {one.temperature:g} | {one.alpha:g} |" if one.alpha else "| – | 0 |"
        line, *confirmed = [line for line in lines if line.startswith(head)]
        assert len(confirmed) == (one in students.confirmed(best))
        assert f" {100 * mean:.1f} |" in line
    assert len([line for line in lines if line.startswith(("| 2x2, 4 | 3 | full |", "| 2x4, 2 | 3 | full |"))]) == 2
    written = {path: path.stat().st_mtime_ns for path in (study.work / "students").rglob("record-student.json")}
    assert len(written) == 2 * (3 + 2 + len(students.confirmed(best)))
    assert students.choose(study).split("| blocks |")[0] == text.split("| blocks |")[0]
    assert all(path.stat().st_mtime_ns == then for path, then in written.items())
