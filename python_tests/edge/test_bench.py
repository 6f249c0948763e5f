"""``python -m asma_fast.edge.bench``: what it tells, and what it refuses."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

from edge.networks import file_of, network
from programs import program_output

from asma_fast import Skeleton
from asma_fast.data import Preprocessing
from asma_fast.edge.bench import bench, main


def test_it_tells_what_was_measured(tmp_path, capsys):
    rules = Preprocessing.named("small")
    path = file_of(tmp_path, network(Skeleton.named("ntu-rgb+d")), preprocessing=rules, bodies=2)
    assert main([str(path), "--runs", "5", "--seconds", "0.2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["threads"], told["bodies"], told["frames"], told["hop"]) == (1, 2, rules.frames, 5)
    assert told["file_bytes"] == path.stat().st_size
    for times in (told["clip"], told["stream"]):
        assert 0 < times["p50"] <= times["p99"] <= times["longest"]
        assert times["mean"] <= times["longest"]
    assert told["clip"]["p50"] < told["first_ms"]
    assert told["peak_bytes"] > 2**20
    assert main([str(path), "--runs", "2"]) == 0
    assert "stream, an answer every 5 frames, each frame: p50" in capsys.readouterr().out


def test_a_budget_chooses_the_least_hop_that_fits(tmp_path):
    path = file_of(tmp_path, network(Skeleton.named("ntu-rgb+d")), preprocessing=Preprocessing.named("small"), bodies=1)
    report = bench(path, bodies=1, runs=5, seconds=0.2, budget_ms=0.05)
    assert report.hop == math.ceil(report.clip.p99 / 0.05)
    assert bench(path, bodies=1, runs=3, seconds=0.2, budget_ms=1e6).hop == 1


def test_causal_networks_have_a_continual_stream(tmp_path, capsys):
    model = network(Skeleton.named("ntu-rgb+d"), causal=True)
    path = file_of(tmp_path, model, preprocessing=Preprocessing(16), bodies=2)
    report = bench(path, runs=5, seconds=0.2)
    for times in (report.continual, report.spread):
        assert 0 < times.p50 <= times.longest
    assert "stream, continual, spread, each frame: p50" in str(report)
    assert json.loads(json.dumps(asdict(report)))["continual"]["mean"] == report.continual.mean


def test_prepared_clips_alone_have_no_stream(tmp_path, capsys):
    path = file_of(tmp_path, network())
    report = bench(path, bodies=1, frames=7, threads=2, runs=2)
    assert report.stream is None
    assert report.continual is None
    assert "stream" not in str(report)
    assert str(report).splitlines()[2].startswith("clip of 1 bodies x 7 frames: p50")
    for words, message in (
        ([str(tmp_path / "no")], "no: cannot be opened"),
        ([str(path), "--runs", "0"], "runs must be at least 1, got 0"),
        ([str(path), "--budget-ms", "0"], "budget_ms must be positive, got 0.0"),
    ):
        assert main(words) == 2
        assert message in capsys.readouterr().err


def test_it_needs_no_torch(tmp_path):
    path = file_of(tmp_path, network())
    code = """
        import sys
        from asma_fast.edge.bench import main
        main([sys.argv[1], "--runs", "2"])
        print("torch" in sys.modules)
    """
    assert program_output(code, path, without=("torch", "scipy", "safetensors")).endswith("False")
