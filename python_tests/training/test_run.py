"""The pipeline: each stage once, again where it must be, from where it was interrupted; and the page about it all."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from toys import CLASSES, toy_store

from asma_fast.cli import main
from asma_fast.config import as_json
from asma_fast.edge import Session
from asma_fast.training import PipelineConfig, TrainingError, run
from asma_fast.training.configs_run import RECIPES
from asma_fast.training.loop import TrainingRun
from asma_fast.training.planning import plan_of
from asma_fast.training.records import read_record
from asma_fast.training.run_report import in_a_plane

RECIPE = {
    "split": "half",
    "accelerator": "cpu",
    "frames": 16,
    "batch": 8,
    "lr": 0.01,
    "crop": "none",
    "rotation": "none",
    "shear": 0.1,
    "flip": 0.0,
    "warmup": 0.25,
    "precision": "32-true",  # of training
    "pretrain": {
        "channels": [4, 4, 8],
        "strides": [1, 2, 1],
        "dropout": 0.0,
        "projector": 16,
        "off-diagonal": 0.01,
        "epochs": 2,
    },
    "baseline": True,
    "probe": {"method": "knn", "neighbours": 3},
    "align": {"width": 8, "heads": 2, "epochs": 2},
    "finetune": {"epochs": 3},
    "distill": {"channels": "4,4", "strides": "1,2", "views": 1, "epochs": 2},
    "export": {"precision": "int8"},
    "robust": {"conditions": ["jitter-3"], "method": "knn", "neighbours": 3},
}
ROBUST = {"robust", "robust-baseline", "robust-align", "robust-finetune", "robust-distill"}
ALL = {"pretrain", "baseline", "probe", "probe-baseline", "align", "finetune", "distill", "export", *ROBUST}


def recipe(folder: Path, **changes: object) -> Path:
    """A recipe in ``folder``: the toy's, sections changed where they are mappings, else replaced."""
    told: dict[str, object] = {**RECIPE, "data": str(folder / "toy.safetensors")}
    for name, change in changes.items():
        own = told.get(name)
        if isinstance(change, dict) and isinstance(own, (dict, bool)):
            told[name] = {**(own if isinstance(own, dict) else {}), **change}
        else:
            told[name] = change
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(told), encoding="utf-8")
    return path


def go(path: Path, out: Path, **options: object):
    return run(PipelineConfig(recipe=path, out=out, progress=False, **options))


def outcomes(result) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, line in result.stages.items():
        found.setdefault(line.outcome, set()).add(name)
    return found


def records(out: Path) -> dict[str, object]:
    """What was measured, without what differs from run to run: times and places."""
    found = {}
    for path in sorted(out.glob("*/*.json")):
        if path.parent.name in ("stages", "replaced") or path.name == "config.json":
            continue
        record = read_record(path)
        kept = {name: record[name] for name in ("name", "kind", "accuracy", "per_class", "confusion", "clips", "seed")}
        with np.load(path.with_suffix(".npz")) as arrays:
            found[f"{path.parent.name}/{path.name}"] = {**kept, "logits": arrays["logits"].tolist()}
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A store, and the whole pipeline on it: folder and result."""
    folder = tmp_path_factory.mktemp("run")
    toy_store(folder / "toy.safetensors", 54)
    return folder, go(recipe(folder), folder / "out")


@pytest.fixture
def copied(whole, tmp_path):
    """A copy of it, to be changed."""
    shutil.copytree(whole[0], tmp_path / "copy")
    return tmp_path / "copy"


def test_every_stage_leaves_its_records_and_options(whole):
    folder, result = whole
    assert outcomes(result) == {"done": ALL}
    names = [path.relative_to(folder / "out").as_posix() for path in result.records]
    assert names[:6] == [
        "probe/raw.json", "probe/random.json", "probe/hl.json", "probe/lh.json", "probe/hl+lh.json",
        "probe-baseline/probe.json",
    ]  # fmt: skip
    assert {read_record(path)["kind"] for path in result.records} == {
        "probe", "align", "finetune", "distill", "robust"
    }  # fmt: skip
    assert (
        len(result.table.rows)
        == len(result.records)
        == len({row["row"] + row["protocol"] for row in result.table.rows})
    )
    plan, _ = plan_of(PipelineConfig(recipe=folder / "recipe.yaml", out=folder / "out"))
    for stage in ALL:
        told = yaml.safe_load((folder / "out" / "stages" / f"{stage}.yaml").read_text())
        assert {**told, "progress": True} == {**json.loads(json.dumps(as_json(plan.configs[stage]))), "progress": True}
    told = read_record(folder / "out" / "probe-baseline" / "probe.json")
    assert told["encoders"].keys() == {"high-high"}
    assert told["name"] == "PSTL masking knn"
    assert plan.configs["baseline"].last == "zero"
    session = Session(folder / "out" / "export" / "model.safetensors")
    assert session.classes == tuple(read_record(folder / "out" / "distill" / "record-student.json")["per_class"])
    assert session.description["precision"] == "int8"
    assert plan.configs["baseline"].channels == plan.configs["pretrain"].channels == (4, 4, 8)


def test_nothing_is_done_twice(whole):
    folder, first = whole
    page = (folder / "out" / "report.html").stat().st_mtime_ns
    again = go(folder / "recipe.yaml", folder / "out")
    assert outcomes(again) == {"kept": ALL}
    assert again.records == first.records
    assert str(again.table) == str(first.table)
    assert (folder / "out" / "report.html").stat().st_mtime_ns == page
    assert not (folder / "out" / "replaced").exists()
    assert not (folder / "out" / "lock").exists()


def test_the_options_that_were_written_are_the_same_recipe(whole):
    folder, _ = whole
    assert outcomes(run(PipelineConfig(recipe=folder / "out" / "config.yaml", progress=False))) == {"kept": ALL}


@pytest.mark.parametrize(
    ("change", "redone"),
    [
        ({"probe": {"neighbours": 1}}, {"probe", "probe-baseline"}),
        ({"baseline": {"mask-joints": 0.2}}, {"baseline", "probe-baseline", "robust-baseline"}),
        ({"finetune": {"epochs": 1}}, {"finetune", "robust-finetune"}),
        ({"distill": {"temperature": 2}}, {"distill", "export", "robust-distill"}),
        (
            {"align": {"heads": 1}},
            ALL - {"pretrain", "baseline", "probe", "probe-baseline", "robust", "robust-baseline"},
        ),
        ({"robust": {"conditions": "jitter-1"}}, ROBUST),
        ({"pretrain": {"save-every": 2, "workers": 0}, "memory": "all"}, set()),
        ({"report": {"projection": "none"}}, set()),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_changed_option_redoes_what_depends_on_it_and_nothing_else(copied, change, redone):
    before = records(copied / "out")
    result = go(recipe(copied, **change), copied / "out")
    assert outcomes(result).get("done", set()) == redone
    assert outcomes(result)["kept"] == ALL - redone
    after = records(copied / "out")
    assert after.keys() == before.keys()
    for name in after:
        assert name.partition("/")[0] in redone or after[name] == before[name]
    page = (copied / "out" / "report.html").read_text(encoding="utf-8")
    assert ("Features</h2>" in page) == ("report" not in change)
    aside = {path.name.rpartition("-")[0] for path in (copied / "out" / "replaced").glob("*")}
    assert aside == redone


def test_another_seed_is_another_run(copied):
    result = go(
        recipe(copied, align=False, finetune=False, distill=False, export=False, robust=False), copied / "out", seed=1
    )
    assert outcomes(result) == {"done": {"pretrain", "baseline", "probe", "probe-baseline"}}
    assert all(read_record(path)["seed"] == 1 for path in result.records)


def test_what_is_gone_or_altered_is_made_again(tmp_path):
    toy_store(tmp_path / "toy.safetensors", 54)
    told, out = recipe(tmp_path, baseline=False, distill=False, export=False, robust=False), tmp_path / "out"
    go(told, out)
    before = records(out)
    (out / "probe" / "hl.json").unlink()
    altered = out / "align" / "record-aligned.json"
    altered.write_text(altered.read_text().replace('"accuracy"', '"accuracies"', 1))
    # The alignment comes out the same, so that what reads it stays.
    assert outcomes(go(told, out)) == {"done": {"probe", "align"}, "kept": {"pretrain", "finetune"}}
    assert records(out) == before
    assert {path.name.rpartition("-")[0] for path in (out / "replaced").iterdir()} == {"probe", "align"}


def test_one_encoder_without_alignment_and_the_stages_that_are_left(tmp_path):
    toy_store(tmp_path / "toy.safetensors", 54)
    options = {"pretrain": {"encoders": "hl"}, "baseline": False, "align": False, "scratch": True}
    options["semi"] = {"shots": [1], "fractions": [], "draws": 2, "epochs": 1}
    options["distill"] = {"teacher": "scratch"}
    result = go(recipe(tmp_path, **options), tmp_path / "out")
    assert outcomes(result) == {
        "done": {"pretrain", "probe", "finetune", "scratch", "semi", "distill", "export", "robust", "robust-distill"}
    }
    told = {path.parent.name: read_record(path) for path in result.records}
    assert [path.name for path in result.records if path.parent.name == "probe"] == [
        "raw.json",
        "random.json",
        "hl.json",
    ]
    assert told["scratch"]["config"]["from_"] == "scratch"
    assert told["scratch"]["budget"] == told["finetune"]["budget"]
    assert len(told["semi"]["draws"]) == 2
    assert told["distill"]["config"]["teacher"] == [str(tmp_path / "out" / "scratch" / "scratch-hl.safetensors")]


@pytest.mark.parametrize("kind", ["pretrain", "align", "finetune", "distill"])
def test_an_interrupted_run_goes_on_to_the_same_records(whole, tmp_path, monkeypatch, kind):
    folder, _ = whole
    save = TrainingRun._save

    def interrupted(self):
        save(self)
        if self.kind == kind and self.epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(TrainingRun, "_save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            go(folder / "recipe.yaml", tmp_path / "out")
    trained = []
    monkeypatch.setattr(TrainingRun, "_save", lambda self: (trained.append((self.kind, self.epoch)), save(self)))
    result = go(folder / "recipe.yaml", tmp_path / "out")
    assert "failed" not in outcomes(result)
    assert (kind, 2) in trained
    assert trained.count((kind, 1)) == (2 if kind == "pretrain" else 0)  # of the encoders that came after
    assert records(tmp_path / "out") == records(folder / "out")
    assert not (tmp_path / "out" / "replaced").exists()


def test_a_stage_that_fails_is_named_and_the_rest_is_kept(whole, tmp_path):
    shutil.copy(whole[0] / "toy.safetensors", tmp_path)
    broken = recipe(tmp_path, align={"heads": 3})
    with pytest.raises(TrainingError, match=r"stage align failed: .*heads") as told:
        go(broken, tmp_path / "out")
    assert "not done for want of it: finetune, distill" in str(told.value)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<td>align</td><td>failed</td>" in page
    assert "PSTL masking knn" in page
    result = go(recipe(tmp_path), tmp_path / "out")
    assert outcomes(result)["kept"] == {"pretrain", "baseline", "probe", "probe-baseline", "robust", "robust-baseline"}
    assert records(tmp_path / "out") == records(whole[0] / "out")


def test_the_report_stands_alone_and_shows_every_part(whole):
    folder, result = whole
    page = result.report.read_text(encoding="utf-8")
    for part in (
        "Results",
        "Stages",
        "Clips and their masked views",
        "How often each joint is lost",
        "Training",
        "Classes",
        "Confusion",
        "Features",
        "Noise",
        "The student",
        "Options",
    ):
        assert f"<h2>{part}</h2>" in page
    pictures = re.findall(r'<img [^>]*src="data:image/png;base64,', page)
    # Three clips and the drop rates, four curves, classes, five confusion matrices, features, noise.
    assert len(pictures) == len(re.findall("<img ", page)) == 4 + 4 + 1 + 5 + 1 + 1
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert not re.search(r"https?:|//[a-z]", re.sub(r"base64,[^\"]*", "", page))
    assert "<script" not in page
    for row in result.table.rows:
        assert f"<td>{row['95 % interval']}</td>" in page
        assert f"<td>{row['accuracy, %']}</td>" in page
    student = read_record(folder / "out" / "distill" / "record-student.json")["student"]
    assert f"<td>{student['parameters']:,}</td><td>{100 * student['share']:.1f}</td>" in page
    assert "neighbours: 3" in page
    assert all(name in page for name in ALL)


def test_features_in_a_plane_tell_groups_apart():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.eye(3) * 20, 10, axis=0)
    features = np.hstack([groups, np.ones((30, 1))]) + np.hstack([rng.normal(size=(30, 3)), np.zeros((30, 1))])
    for method in ("pca", "tsne"):
        points = in_a_plane(features.astype(np.float32), method)
        assert points.shape == (30, 2)
        distances = np.linalg.norm(points[:, None] - points[None], axis=2) + np.diag(np.full(30, np.inf))
        assert (distances.argmin(1) // 10 == np.arange(30) // 10).all()


def test_a_store_is_prepared_first_and_what_follows_hangs_on_what_is_in_it(tmp_path):
    prepare = {"dataset": "synthetic", "clips-per-class": 2, "subjects": 4}
    told = {
        **{name: RECIPE[name] for name in ("accelerator", "frames", "batch", "lr", "warmup", "pretrain", "probe")},
        "split": "xsub",
        "prepare": prepare,
    }

    def done(**changes):
        (tmp_path / "r.yaml").write_text(yaml.safe_dump({**told, "prepare": {**prepare, **changes}}))
        return outcomes(go(tmp_path / "r.yaml", tmp_path / "out"))

    assert done() == {"done": {"prepare", "pretrain", "probe"}}
    assert done(workers=1) == {"kept": {"prepare", "pretrain", "probe"}}
    # Not used by what is generated: another option, the same store.
    assert done(**{"min-score": 0.6}) == {"done": {"prepare"}, "kept": {"pretrain", "probe"}}
    assert done(**{"clips-per-class": 3}) == {"done": {"prepare", "pretrain", "probe"}}


def test_without_labels_pretraining_is_kept(tmp_path):
    toy_store(tmp_path / "toy.safetensors", 54, labels=False)
    told = recipe(tmp_path, baseline=False, align=False, finetune=False, distill=False, export=False, robust=False)
    with pytest.raises(TrainingError, match=r"stage probe failed: .*has no labels"):
        go(told, tmp_path / "out")
    assert (tmp_path / "out" / "pretrain" / "lh.safetensors").exists()
    assert "No stage has measured anything yet" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pretrian": {}}, r"there is no section 'pretrian'; the nearest is 'pretrain'"),
        ({"acelerator": "cpu"}, r"there is no section or option 'acelerator'; the nearest is 'accelerator'"),
        ({"align": {"head": 2}}, r"section align: there is no option 'head'; the nearest is 'heads'"),
        ({"pretrain": {"preset": "smal"}}, r"section pretrain: there is no preset 'smal'; the nearest is 'small'"),
        ({"align": {"preset": "small"}}, r"section align: there are no presets for it, got 'small'"),
        ({"probe": {"run": "x"}}, r"section probe: option run is set by the pipeline; leave it out"),
        ({"stop-after": 3}, r"option stop-after is set by the pipeline; leave it out"),
        ({"probe": {"method": "svm"}}, r"section probe: method must be one of logistic, linear, knn; got 'svm'"),
        ({"pretrain": {"epochs": 0}}, r"section pretrain: epochs must be at least 1, got 0"),
        ({"report": {"projektion": "pca"}}, r"section report: there is no option 'projektion'; the nearest is 'proj"),
        ({"probe": 3}, r"section probe must hold a mapping of options, or true or false; got 3"),
        ({"pretrain": False}, r"section (baseline|probe): .* needs the stage pretrain: add a section pretrain"),
        ({"align": False}, r"section distill: distill trains 2 networks|section distill: finetune trains 2 networks"),
        ({"pretrain": {"encoders": "hl"}}, r"section align: encoders must be two to be aligned, got hl"),
        ({"prepare": {"dataset": "sbu"}}, r"data must be left out where prepare makes the store"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_bad_recipe_is_told_before_anything_runs(tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        go(recipe(tmp_path, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_tells_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("ASMA_DEBUG", raising=False)
    for words, sentence in (
        (["run"], "name a recipe"),
        (["run", "utd"], "utd: no such recipe; the nearest that comes along is 'utd-mhad'"),
        (["run", str(tmp_path / "none.yaml")], "cannot be read"),
        (["run", str(recipe(tmp_path, data="nowhere")), f"--out={tmp_path / 'out'}"], "nowhere: no such store"),
    ):
        assert main(words) == 2
        assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_that_come_along_make_a_plan(name, tmp_path):
    plan, _ = plan_of(PipelineConfig(recipe=Path(name), source=tmp_path, out=tmp_path / "out"))
    assert list(plan.configs)[:3] == ["prepare", "pretrain", "baseline"]
    assert {"probe", "align", "finetune", "distill", "robust"} <= plan.configs.keys()
    assert plan.configs["prepare"].source == tmp_path
    assert plan.configs["distill"].teacher == (tmp_path / "out" / "align" / "aligned.safetensors",)
    assert plan.configs["baseline"].steps == plan.configs["pretrain"].steps


def test_many_processes_are_sent_to_the_verbs(whole, tmp_path):
    shutil.copy(whole[0] / "toy.safetensors", tmp_path)
    with pytest.raises(ValueError, match=r"the pipeline is one process, got 2; .*stages/pretrain.yaml"):
        go(recipe(tmp_path, devices=2), tmp_path / "out")


def test_a_stage_trained_by_its_verb_is_taken_over(whole, tmp_path):
    shutil.copy(whole[0] / "toy.safetensors", tmp_path)
    told = recipe(
        tmp_path, baseline=False, align=False, finetune=False, distill=False, export=False, robust=False, devices=2
    )
    with pytest.raises(ValueError, match="one process"):
        go(told, tmp_path / "out")
    options = yaml.safe_load((tmp_path / "out" / "stages" / "pretrain.yaml").read_text())
    (tmp_path / "pretrain.yaml").write_text(yaml.safe_dump({**options, "devices": 1}))
    assert main(["pretrain", f"--config={tmp_path / 'pretrain.yaml'}"]) == 0
    written = (tmp_path / "out" / "pretrain" / "hl.safetensors").stat().st_mtime_ns
    told = recipe(tmp_path, baseline=False, align=False, finetune=False, distill=False, export=False, robust=False)
    result = go(told, tmp_path / "out")
    assert outcomes(result) == {"done": {"pretrain", "probe"}}
    assert (tmp_path / "out" / "pretrain" / "hl.safetensors").stat().st_mtime_ns == written
    assert read_record(result.records[0])["per_class"].keys() == set(CLASSES)
