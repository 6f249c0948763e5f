"""The command: it starts with NumPy alone, explains itself, says what went wrong in one sentence, and does the job."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from programs import run_program

from asma_fast.cli import VERBS, main

ROOT = Path(__file__).resolve().parents[1]
BLOCKED = (
    "torch",
    "triton",
    "numba",
    "scipy",
    "sklearn",
    "safetensors",
    "matplotlib",
    "lightning_fabric",
    "jinja2",
    "tqdm",
)


def _without_extras(*words: object) -> subprocess.CompletedProcess[str]:
    return run_program("from asma_fast.cli import main\nsys.exit(main(sys.argv[1:]))", *words, without=BLOCKED)


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_needs_numpy_alone(verb):
    done = _without_extras(*filter(None, [verb, "--help"]))
    assert done.returncode == 0, done.stderr
    assert VERBS[verb].help.split(",")[0] in done.stdout if verb else all(name in done.stdout for name in VERBS)


def test_info_needs_numpy_alone_and_gives_reasons():
    done = _without_extras("info")
    assert done.returncode == 0, done.stderr
    for word in ("asma-fast", "python", "numpy", "torch", "threads", "impl=reference", "impl=cuda", "no: "):
        assert word in done.stdout


@pytest.mark.parametrize("verb", ["demo", "pretrain", "probe", "inspect x.safetensors --index=0"])
def test_a_verb_that_needs_more_names_the_extra(verb):
    done = _without_extras(*verb.split())
    assert done.returncode == 2
    assert "is not installed: pip install 'asma-fast[train]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_synthetic_clips_are_prepared_with_numpy_alone(tmp_path):
    done = _without_extras("prepare", "synthetic", "--clips-per-class=2", f"--out={tmp_path / 's.safetensors'}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "s.safetensors").exists()


def test_a_store_is_inspected_with_numpy_alone(tmp_path):
    store = str(tmp_path / "s.safetensors")
    assert main(["prepare", "synthetic", "--clips-per-class=4", "--subjects=4", f"--out={store}"]) == 0
    told = _without_extras("inspect", store)
    assert told.returncode == 0, told.stderr
    for word in ("synthetic", "wave left hand", "24 train, 24 test", "speed metres/s", "left elbow"):
        assert word in told.stdout
    checked = _without_extras("inspect", store, "--check")
    assert (checked.returncode, checked.stdout) == (0, "nothing looks wrong\n"), checked.stderr
    drawn = _without_extras("inspect", store, f"--out={tmp_path / 'sheet.png'}")
    assert drawn.returncode == 2
    assert "is not installed: pip install 'asma-fast[train]'" in drawn.stderr


def test_check_tells_what_looks_wrong_by_its_status(tmp_path, capsys):
    store = str(tmp_path / "s.safetensors")
    assert main(["prepare", "synthetic", "--clips-per-class=1", "--subjects=2", f"--out={store}"]) == 0
    capsys.readouterr()
    assert main(["inspect", store, "--check"]) == 1
    assert "split xsub has no" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["pretrain"], "no data: name a store with --data"),
        (["pretrain", "--epochs=x"], "epochs must be a whole number, got 'x'"),
        (["pretrain", "--config=nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["pretrain", "--encoders=hh"], "an encoder is hl, lh, or JOINTS-FRAMES"),
        (["probe", "--data=nowhere"], "nowhere: no such store"),
        (["inspect"], "name a store, or a raw file"),
        (["inspect", "nowhere"], "nowhere: no such store"),
        (["inspect", "nowhere", "--index=2", "--check"], "check is of a whole store"),
        (["prepare"], "must be given"),
        (["prepare", "xyz", "--out=x.safetensors"], "dataset must be one of"),
    ],
)
def test_an_error_is_one_sentence_and_status_two(words, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ASMA_DEBUG", raising=False)
    assert main(words) == 2
    shown = capsys.readouterr().err
    assert sentence in shown
    assert shown.startswith("asma-fast: ")
    assert shown.count("\n") == 1


@pytest.mark.parametrize("how", ["option", "variable"])
def test_debug_shows_where_an_error_came_from(how, monkeypatch):
    monkeypatch.setenv("ASMA_DEBUG", "1" if how == "variable" else "0")
    with pytest.raises(ValueError, match="no data"):
        main(["pretrain", "--debug"] if how == "option" else ["pretrain"])


@pytest.mark.parametrize("words", [[], ["fly"], ["pretrain", "--epoch=3"], ["pretrain", "--preset=none"]])
def test_what_the_command_does_not_know_is_refused(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert "usage: asma-fast" in capsys.readouterr().err


def test_files_that_cannot_be_read_are_listed_and_the_status_tells(tmp_path, capsys):
    good = {"file_name": "a01_s01_e00_v01", "label": 1, "skeletons": [[[0.1 * v, 0.2 * v, 3.0] for v in range(20)]] * 5}
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a01_s01_e00_v01.json").write_text(json.dumps(good))
    (tmp_path / "raw" / "a01_s02_e00_v01.json").write_text("{")
    status = main(["prepare", "nw-ucla", str(tmp_path / "raw"), f"--out={tmp_path / 'store.safetensors'}"])
    shown = capsys.readouterr().out
    assert status == 1
    assert "a01_s02_e00_v01.json" in shown
    assert "1 clips" in shown
    assert (tmp_path / "store.safetensors").exists()


def test_options_may_stand_between_positionals(tmp_path):
    (tmp_path / "raw").mkdir()
    words = ["prepare", "nw-ucla", "--out", str(tmp_path / "s.safetensors"), str(tmp_path / "raw"), "--debug"]
    with pytest.raises(ValueError, match=r"raw holds no file of nw-ucla"):
        main(words)


def test_the_main_job_prepare_pretrain_probe_inspect(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", "synthetic", "--clips-per-class=6", "--out=s.safetensors"]) == 0
    Path("run.yaml").write_text("channels: [4, 8]\nstrides: [2, 2]\nprojector: 16\nepochs: 2\nsteps: 0\nbatch: 16\n")
    words = "pretrain --preset small --config run.yaml --data s.safetensors --split xsub --no-progress --out run"
    assert main(words.split()) == 0
    assert main(["probe", "--data", "s.safetensors", "--split", "xsub", "--run", "run", "--out", "probe.json"]) == 0
    record = json.loads(Path("probe.json").read_text())
    assert 0 <= record["accuracy"] <= 1
    assert set(record["encoders"]) == {"hl", "lh"}
    assert main(["inspect", "s.safetensors", "--index", "3", "--out", "clip.png"]) == 0
    assert Path("clip.png").read_bytes().startswith(b"\x89PNG")
    assert (
        main(["inspect", "s.safetensors", "--index", "3", "--encoders", "hl,lh,high-high", "--out", "clip.html"]) == 0
    )
    page = Path("clip.html").read_text()
    assert "data:image/png;base64," in page
    assert "http" not in page.split("<body>")[1]
    assert main(["inspect", "s.safetensors", "--out", "sheet.png"]) == 0
    assert Path("sheet.png").read_bytes().startswith(b"\x89PNG")
    assert main(["inspect", "s.safetensors", "--out", "sheet.html"]) == 0
    assert "raise right hand" in Path("sheet.html").read_text()
    assert main(["inspect", "s.safetensors", "--index", "999"]) == 2
    assert "index must be below 72" in capsys.readouterr().err
