"""The page that ``benchmarks/report.py`` writes says what the run's JSON says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
LOSS = "Barlow Twins, N=128, D=6144, forward + backward, 2 threads"
FORWARD = "encoder forward, 32 clips, 2 threads"


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    import report

    return report


def row(group: str | None, seconds: float, /, **info: Any) -> dict[str, Any]:
    """One benchmark of the JSON; its fastest round took four fifths of the median."""
    return {
        "group": group,
        "name": "test_something[0]",
        "param": None,
        "stats": {"median": seconds, "min": 0.8 * seconds},
        "extra_info": {key.replace("_", " ").replace(" per ", "/"): value for key, value in info.items()},
    }


def ours(group: str, seconds: float, ratio: float, best: str, **info: Any) -> dict[str, Any]:
    made = row(group, seconds, rival="asma_fast", kind="ours", threads=2, **info)
    made["extra_info"] |= {
        f"ratio to {best}": ratio,
        "best rival": best,
        "ratio to best rival": ratio,
        "spread of ratio to best rival": [ratio - 0.5, ratio + 0.5],
    }
    return made


def run() -> dict[str, Any]:
    rows = [
        row("machine: sgemm 1024³, 2 threads", 0.010, rival="sgemm", kind="limit", threads=2, GFLOP_per_s=200.0),
        row("machine: copy 64 MB, 2 threads", 0.010, rival="copy", kind="limit", threads=2, GB_per_s=40.0),
        ours(FORWARD, 0.25, 3.0, "torch.compile", GFLOP_per_s=125.0, peak_MB=123.4),
        row(FORWARD, 0.75, rival="torch.compile", kind="rival", threads=2, GFLOP_per_s=41.7),
        row(FORWARD, 0.80, rival="eager", kind="rival", threads=2, GFLOP_per_s=39.1),
        ours(LOSS, 0.002, 19.5, "D×D"),
        row(LOSS, 0.039, rival="D×D", kind="rival", threads=2),
        row("read_clip ntu 1.3 MB", 3.2e-6, GB_per_s=10.0),
        row(None, 1.5e-9),
        *(
            {**row("gather_view", 1e-3 * n), "params": {"who": who, "reads": reads}, "param": f"{reads}-{who}"}
            for reads, ours_takes in (("frames", 1), ("joints", 2))
            for who, n in (("asma", ours_takes), ("eager", 7 * ours_takes))
        ),
        *(
            row(f"scaling of motion over {axis}", 1e-3 * n, op="motion", axis=axis, value=n)
            for axis in ("clips", "frames")
            for n in (1, 2, 4)
        ),
    ]
    return {
        "machine": "A CPU, 2 cores, 24 GB",
        "command": "pytest benchmarks",
        "datetime": "2026-11-24T12:00:00",
        "benchmarks": rows,
    }


def written(report: Any, folder: Path, data: Any) -> str:
    path = folder / "run.json"
    path.write_text(json.dumps(data))
    assert report.main([str(path), "--out", str(folder / "RESULTS.md")]) == 0
    return (folder / "RESULTS.md").read_text(encoding="utf-8")


def test_targets_are_reached_or_missed(report: Any, tmp_path: Path) -> None:
    page = written(report, tmp_path, run())
    assert "| encoder forward, batch 32 | 2.50× | 3.00× | 2.50× … 3.50× | reached |" in page
    loss = next(line for line in page.splitlines() if line.startswith("| Barlow Twins"))
    assert "20.00×" in loss
    assert "19.50×" in loss
    assert "**missed**" in loss


def test_rows_tell_time_rate_share_of_the_limit_and_best_rival(report: Any, tmp_path: Path) -> None:
    page = written(report, tmp_path, run())
    # The limit is the fastest round: 200 / 0.8.
    assert "| asma_fast | 250 ms | 125 | 50 % | 3.00 (torch.compile) | 123 |" in page
    assert "| eager | 800 ms | 39.1 | 16 % |  |  |" in page
    assert "| asma_fast | 2.00 ms | 19.50 |" in page
    assert "| frames-asma | 1.00 ms | ≈ 7.00 |" in page
    assert "| joints-asma | 2.00 ms | ≈ 7.00 |" in page
    assert "3.20 µs" in page
    assert "1.50 ns" in page
    assert "A CPU, 2 cores, 24 GB" in page
    assert "2026-11-24" in page


def test_every_table_is_rectangular_and_every_picture_exists_and_is_small(report: Any, tmp_path: Path) -> None:
    page = written(report, tmp_path, run())
    tables = [block.splitlines() for block in page.split("\n\n") if block.startswith("|")]
    assert len(tables) == 1 + len({entry["group"] for entry in run()["benchmarks"]})
    for table in tables:
        assert len({line.count("|") for line in table}) == 1
    pictures = [line.split("(")[1].rstrip(")") for line in page.splitlines() if line.startswith("![")]
    assert pictures == ["results/targets.png", "results/scaling-clips.png", "results/scaling-frames.png"]
    for picture in pictures:
        data = (tmp_path / picture).read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) < 60_000


def test_a_run_says_how_long_it_took_and_what_is_missing(
    report: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "one run of `pytest benchmarks`." in written(report, tmp_path, run())
    assert "one run of `pytest benchmarks` of 27 minutes." in written(report, tmp_path, {**run(), "seconds": 1620.0})
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**run(), "incomplete": ["benchmarks/nn/bench_a.py"]}))
    assert report.main([str(path), "--out", str(tmp_path / "RESULTS.md")]) == 1
    assert "incomplete: benchmarks/nn/bench_a.py" in capsys.readouterr().err
    page = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert "**Incomplete**: rows are missing of `benchmarks/nn/bench_a.py`" in page
    assert "### " + LOSS in page


@pytest.mark.parametrize(("two", "doubted"), [(90.0, True), (190.0, False)])
def test_a_machine_that_was_not_quiet_is_named(report: Any, tmp_path: Path, two: float, doubted: bool) -> None:
    limits = [
        row(f"machine: sgemm 1024³, {n} threads", 0.01, rival="sgemm", kind="limit", threads=n, GFLOP_per_s=speed)
        for n, speed in ((1, 100.0), (2, two))
    ]
    page = written(report, tmp_path, {**run(), "benchmarks": limits})
    assert ("**Not quiet**" in page) == doubted


def test_gpu_groups_have_their_device_or_say_that_they_were_not_run(report: Any, tmp_path: Path) -> None:
    assert "GPU groups (`benchmarks/gpu`): not run: no GPU.\n" in written(report, tmp_path, run())
    assert "not run: none of their rows is in this run" in written(report, tmp_path, {**run(), "gpu": "A GPU"})
    rows = [
        row(
            "machine: GPU, copy 256 MB",
            0.1,
            rival="copy",
            kind="limit",
            threads=2,
            device="A GPU",
            dtype="",
            GB_per_s=8.0,
        ),
        row(
            "GPU: frame_motion", 0.1, rival="eager", kind="rival", threads=2, device="A GPU", dtype="TF32", GB_per_s=5.0
        ),
    ]
    page = written(report, tmp_path, {**run(), "benchmarks": rows, "gpu": "A GPU"})
    assert "GPU groups: A GPU, by the device's events" in page
    assert "| eager | 100 ms | 5.00 | 50 % |" in page  # of 8 / 0.8


def test_files_run_one_by_one_make_one_run(report: Any, tmp_path: Path) -> None:
    import suite

    parts = {
        "a": (0, {**run(), "datetime": "first", "benchmarks": run()["benchmarks"][:2], "seconds": 5.0}),
        "died": (-11, None),
        "left out": (5, {**run(), "benchmarks": []}),
        "failed": (1, {**run(), "datetime": "later", "benchmarks": run()["benchmarks"][2:3]}),
    }

    def run_part(arguments: tuple[str, ...]) -> tuple[int, Path]:
        (name,) = arguments
        status, part = parts[name]
        path = tmp_path / f"{name}.json"
        if part is not None:
            path.write_text(json.dumps(part))
        return status, path

    whole = suite.merged([(name,) for name in parts], run_part)
    assert whole["benchmarks"] == run()["benchmarks"][:3]
    assert whole["incomplete"] == ["died", "failed"]
    assert (whole["datetime"], whole["machine"]) == ("first", run()["machine"])
    assert whole["seconds"] != 5.0


def test_the_same_run_gives_the_same_bytes(report: Any, tmp_path: Path) -> None:
    pages = []
    for name, data in (("a", run()), ("b", run())):
        (tmp_path / name).mkdir()
        written(report, tmp_path / name, data)
        pages.append({path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.*")})
    assert pages[0] == pages[1]


def test_a_run_of_a_few_benchmarks_has_a_page_too(report: Any, tmp_path: Path) -> None:
    page = written(report, tmp_path, {**run(), "benchmarks": run()["benchmarks"][7:8]})
    assert "## Targets" not in page
    assert "### read_clip ntu 1.3 MB" in page


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "no result of pytest --benchmark-json"),
        ('{"benchmarks": 3}', "no list 'benchmarks'"),
    ],
)
def test_other_files_are_refused(
    report: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    assert report.main([str(path), "--out", str(tmp_path / "RESULTS.md")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "RESULTS.md").exists()
    assert report.main([str(tmp_path / "absent.json"), "--out", str(tmp_path / "RESULTS.md")]) == 1
