"""``classify --follow``: lines of frames in, lines of answers out, and what is refused."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from edge.networks import clips, file_of, network

from asma_fast import Skeleton
from asma_fast.cli import main
from asma_fast.data import Preprocessing
from asma_fast.edge import Session, adapt

NTU = Skeleton.named("ntu-rgb+d")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rules = Preprocessing.named("small")
    return file_of(
        tmp_path_factory.mktemp("follow"), network(NTU), preprocessing=rules, bodies=2, class_names=list("äbcd")
    )


def follow(lines: list[str], model: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))
    return main(["classify", "--follow", "--model", str(model), "--seconds", "1", "--hop", "10", *words])


def test_each_line_is_a_frame_and_answers_are_the_streams(model, monkeypatch, capsys):
    recorded = clips(1, 2, 60, 25)[0].swapaxes(0, 1)
    lines = [json.dumps({"joints": one.tolist(), "time": t / 30, "ids": [3, 5]}) for t, one in enumerate(recorded)]
    lines.insert(7, "")
    assert follow(lines, model, monkeypatch) == 0
    told, said = capsys.readouterr()
    stream = Session(model).stream(seconds=1, hop=10)
    wanted = [stream.push(np.ascontiguousarray(one), t / 30, [3, 5]) for t, one in enumerate(recorded)]
    answers = [json.loads(line) for line in told.splitlines()]
    assert len(answers) == 3
    for answer, result in zip(answers, (one for one in wanted if one is not None), strict=True):
        assert answer["class"] == result.name
        assert answer["probability"] == pytest.approx(result.probability, abs=1e-6)
        assert answer["time"] == pytest.approx(result.time)
        assert answer["ms"] > 0
    assert said.startswith("60 frames, p50 ")
    assert "began anew" not in said
    assert "3 of them with an answer" in said


def test_another_layout_is_adapted_and_missing_bodies_are_told(model, monkeypatch, capsys):
    seen = clips(1, 1, 40, 33)[0].swapaxes(0, 1)
    lines = [json.dumps({"joints": one.tolist()}) for one in seen]
    lines[4] = json.dumps({"joints": []})
    lines[9] = lines[9].replace(str(float(seen[9, 0, 11, 0])), "1e99", 1)
    assert follow(lines, model, monkeypatch, "--source", "mediapipe") == 0
    told, said = capsys.readouterr()
    stream = Session(model).stream(seconds=1, hop=10)
    wanted = []
    for t, one in enumerate(seen):
        frame = adapt(np.ascontiguousarray(one), source="mediapipe", target=NTU)
        wanted.append(stream.push(np.zeros_like(frame) if t in (4, 9) else frame))
    assert [json.loads(line)["class"] for line in told.splitlines()] == [one.name for one in wanted if one is not None]
    assert "1 bodies were not finite and taken for missing" in said


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: skipped: must be a JSON object"),
        ("[1]", 'must be a JSON object with "joints", and "time" and "ids" if there are'),
        ('{"joint": []}', 'must be a JSON object with "joints"'),
        ('{"joints": [[1, 2], [3]]}', '"joints" must be numbers of shape (M, V, C)'),
        ('{"joints": "many"}', '"joints" must be numbers of shape (M, V, C)'),
        ('{"joints": [[1, 2]]}', '"joints" must be numbers of shape (M, V, C), got (1, 2)'),
        ('{"joints": [[[1, 2, 3]]]}', "a frame must have shape (M, 25, 3)"),
        ('{"joints": 0}', '"joints" must be numbers of shape (M, V, C)'),
        ('{"joints": [], "time": 1' + 400 * "0" + "}", "time a number of seconds"),
        ('{"joints": [], "time": "now"}', "\"time\" must be a number of seconds, got 'now'"),
        ('{"joints": [], "ids": [1.5]}', '"ids" must be whole numbers, got [1.5]'),
        ('{"joints": [], "ids": [1]}', "a frame must have an id for each of its 0 bodies, got 1"),
        ("[" * 100_000, "line 2: skipped: must be a JSON object"),
    ],
)
def test_a_line_that_is_no_frame_is_named_counted_and_skipped(line, message, model, monkeypatch, capsys):
    good = '{"joints": []}'
    assert follow([good, line, good], model, monkeypatch) == 1
    said = capsys.readouterr().err
    assert "line 2: skipped: " in said
    assert message in said
    assert "2 frames, p50" in said
    assert "1 lines were skipped" in said


def test_what_is_skipped_changes_no_answer(model, monkeypatch, capsys):
    recorded = clips(1, 2, 60, 25)[0].swapaxes(0, 1)
    lines = [json.dumps({"joints": one.tolist(), "time": t / 30}) for t, one in enumerate(recorded)]

    def told(given: list[str], status: int) -> list[tuple[object, ...]]:
        assert follow(given, model, monkeypatch) == status
        answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return [(one["time"], one["class"], one["probability"]) for one in answers]

    late = [*lines[:30], lines[3], '{"joints": [', "frame", *lines[30:]]
    assert told(late, 1) == told(lines, 0)


def test_only_bad_lines_are_told(model, monkeypatch, capsys):
    assert follow(["0", "1"], model, monkeypatch) == 1
    assert capsys.readouterr().err.endswith("no frame came; 2 lines were skipped\n")


def test_a_causal_network_follows_frame_by_frame(tmp_path, monkeypatch, capsys):
    rules = Preprocessing(50, centre="per-body", scale="none", rotate="none")
    path = file_of(tmp_path, network(NTU, causal=True), preprocessing=rules, bodies=2, rate=30.0)
    recorded = clips(1, 2, 30, 25)[0].swapaxes(0, 1)
    lines = [json.dumps({"joints": one.tolist()}) for one in recorded]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))
    words = ["classify", "--follow", "--model", str(path), "--mode", "continual"]
    assert main([*words, "--pool", "4", "--spread", "--rate", "15"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    stream = Session(path).stream("continual", pool=4, spread=True, rate=15)
    answers = [stream.push(np.ascontiguousarray(one)) for one in recorded]
    wanted = [one for one in answers if one is not None]
    assert len(told) == len(wanted) > 2
    assert [one["class"] for one in told] == [one.name for one in wanted]
    assert [one["time"] for one in told] == pytest.approx([one.time for one in wanted], abs=1e-6)
    assert main([*words, "--seconds", "2"]) == 2
    assert "seconds is a setting of mode 'window', got 2.0 with mode 'continual'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--follow", "--top", "3"], "top is for a recording, not for follow; got 3"),
        (["--follow", "--format", "json"], "format is for a recording, not for follow; got json"),
        (["--follow", "--dataset", "ntu"], "dataset is for a recording, not for follow; got ntu"),
        (["--follow", "--pool", "3"], "pool is a setting of mode 'continual', got 3 with mode 'window'"),
        (["--follow", "--mode", "continual"], "causal"),
        (["clip.skeleton", "--seconds", "2"], "seconds is for follow, not for a recording; got 2.0"),
        (["clip.skeleton", "--mode", "window"], "mode is for follow, not for a recording; got window"),
        (["clip.skeleton", "--spread"], "spread is for follow, not for a recording; got True"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words, message, model, capsys):
    assert main(["classify", *words, "--model", str(model)]) == 2
    assert message in capsys.readouterr().err


def test_no_frame_and_no_place_for_a_recording(model, monkeypatch, capsys):
    assert follow([], model, monkeypatch) == 0
    assert capsys.readouterr().err == "no frame came\n"
    assert main(["classify", "clip.skeleton", "--follow", "--model", str(model)]) == 2
    assert "follow reads standard input, and no recording; got clip.skeleton" in capsys.readouterr().err
    slow = [json.dumps({"joints": [], "time": 1000 * t}) for t in range(4)]
    assert follow(slow, model, monkeypatch) == 0
    said = capsys.readouterr().err
    assert "none of them with an answer" in said
    assert "began anew 3 times after a gap (times are in seconds)" in said
    assert follow([], model, monkeypatch, "--source", "coco") == 2
    assert "2-D joints do not become 3-D ones" in capsys.readouterr().err
