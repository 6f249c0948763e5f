"""prepare: genuine data sets come out whole, bad files are told, and nothing interrupts it for good."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from programs import program_environment, run_program

from asma_fast.data import PrepareConfig, Preprocessing, Store, prepare, read_clip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty small NW-UCLA files in two folders."""
    rng = np.random.default_rng(0)
    source = tmp_path / "raw"
    for index in range(40):
        action, subject, view = 1 + index % 6, 1 + index // 9, 1 + index % 3
        name = f"a{action:02}_s{subject:02}_e{index:02}_v{view:02}"
        frames = rng.normal(size=(int(rng.integers(2, 12)), 20, 3)).round(5).tolist()
        path = source / f"part{index % 2}" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"file_name": name, "label": action, "skeletons": frames}))
    return source


def nw_ucla(folder: Path, **changes: object) -> PrepareConfig:
    return PrepareConfig(**{"dataset": "nw-ucla", "source": folder, "out": folder.parent / "out", **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dataset", "under", "split", "sizes", "ignored"),
    [("nw-ucla", "nw-ucla", "xview", (1020, 464), 0), ("utd-mhad", "utd-mhad", "xsub", (431, 430), 3)],
)
def test_genuine_data_sets(
    recordings: Path, tmp_path: Path, dataset: str, under: str, split: str, sizes: tuple[int, int], ignored: int
) -> None:
    report = prepare(PrepareConfig(dataset, tmp_path / "a.safetensors", recordings / under))
    assert report.ok
    assert report.clips == sum(sizes)
    assert report.splits == {split: sizes}
    assert len(report.ignored) == ignored
    store = Store.open(tmp_path / "a.safetensors")
    assert [len(part) for part in store.split(split)] == list(sizes)
    for index in range(0, len(store), 111):
        (path,) = (recordings / under).rglob(f"{store.names[index]}*")
        np.testing.assert_array_equal(store[index].frames, read_clip(path, dataset).frames)


def test_ntu_leaves_out_the_listed_clips(recordings: Path, tmp_path: Path) -> None:
    listed = tmp_path / "missing.txt"
    listed.write_text("S001C001P001R001A002\nS001C001P001R001A005.skeleton\nS099C001P001R001A001\n")
    config = PrepareConfig("ntu", tmp_path / "a.safetensors", recordings / "ntu-raw", exclude=listed)
    report = prepare(config)
    assert (report.clips, len(report.excluded), len(report.ignored)) == (5, 2, 4)
    assert report.splits == {"xsub": (5, 0), "xview": (1, 4)}
    store = Store.open(config.out)
    assert len(store.classes) == 60
    assert store.bodies == 2


def test_bad_files_are_recorded_and_the_rest_is_kept(folder: Path) -> None:
    (folder / "notes.txt").write_text("not a recording")
    (folder / "part0" / "a01_s01_e97_v01.json").write_text("{")
    (folder / "part0" / "a01_s01_e98_v01.json").mkdir()
    (folder / "part0" / "a01_s01_e99_v01.json").symlink_to(folder / "nowhere")
    still = {"label": 1, "skeletons": np.zeros((3, 20, 3)).tolist()}
    (folder / "part1" / "a01_s01_e96_v01.json").write_text(json.dumps(still))
    twice = next((folder / "part0").glob("a0*.json"))
    shutil.copy(twice, folder / "part1" / twice.name)
    seen: list[tuple[int, int]] = []
    report = prepare(nw_ucla(folder), progress=lambda done, total: seen.append((done, total)))
    assert not report.ok
    assert report.clips == 40
    assert report.ignored == ("notes.txt",)
    reasons = {failure.file: failure.reason for failure in report.failures}
    assert "expected JSON" in reasons["part0/a01_s01_e97_v01.json"]
    assert "No such file" in reasons["part0/a01_s01_e99_v01.json"]
    assert "expected a body in some frame" in reasons["part1/a01_s01_e96_v01.json"]
    assert f"'{twice.stem}' again, first from 'part0/{twice.name}'" in reasons[f"part1/{twice.name}"]
    assert len(reasons) == 4
    assert seen[-1] == (44, 44)
    assert "4 files FAILED" in str(report)
    assert "notes.txt" in str(report)


def test_nothing_readable_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    with pytest.raises(ValueError, match=r"holds no file of nw-ucla.*found none"):
        prepare(nw_ucla(tmp_path / "raw"))
    (tmp_path / "raw" / "a01_s01_e00_v01.json").write_text("")
    report = prepare(nw_ucla(tmp_path / "raw"))
    assert (report.ok, report.clips, report.out, len(report.failures)) == (False, 0, None, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_number_of_workers_does_not_matter(folder: Path) -> None:
    contents = set()
    for workers in (1, 3):
        config = nw_ucla(folder, workers=workers, overwrite=True)
        prepare(config)
        contents.add(config.out.read_bytes())
    assert len(contents) == 1


def test_preprocessing_can_be_applied_and_is_recorded(folder: Path) -> None:
    raw = nw_ucla(folder)
    applied = nw_ucla(folder, out=folder.parent / "applied", preprocessing="small")
    prepare(raw)
    prepare(applied)
    before, after, recipe = Store.open(raw.out), Store.open(applied.out), Preprocessing.named("small")
    assert (before.preprocessing, after.preprocessing) == (None, recipe)
    for recorded, prepared in zip(before, after, strict=True):
        expected = recipe(recorded, before.skeleton)
        np.testing.assert_array_equal(prepared.frames.transpose(3, 1, 2, 0), expected)
        np.testing.assert_array_equal(recipe(prepared, after.skeleton), expected)


def test_changed_and_vanished_sources_are_read_again(folder: Path) -> None:
    stop_after(5, nw_ucla(folder))
    paths = sorted(folder.rglob("*.json"))
    paths[0].unlink()
    record = json.loads(paths[1].read_text())
    paths[1].write_text(json.dumps({**record, "skeletons": record["skeletons"] * 2}))
    report = prepare(nw_ucla(folder))
    assert (report.clips, report.resumed) == (39, 3)
    store = Store.open(folder.parent / "out")
    assert store[0].length == 2 * len(record["skeletons"])


class Interrupted(Exception):
    pass


def stop_after(sources: int, config: PrepareConfig) -> None:
    def stop(done: int, total: int) -> None:
        if done == sources:
            raise Interrupted

    with pytest.raises(Interrupted):
        prepare(config, progress=stop)


def test_killed_runs_are_resumed(folder: Path) -> None:
    """kill −9 at several moments leaves no store; the next run takes up what was finished; the result is the same."""
    prepare(nw_ucla(folder, out=folder.parent / "whole"))
    expected = (folder.parent / "whole").read_bytes()
    program = """
        import os, signal, sys
        from pathlib import Path
        from asma_fast.data import PrepareConfig, prepare
        folder, stop = Path(sys.argv[1]), int(sys.argv[2])
        def progress(done, total):
            if done == stop: os.kill(os.getpid(), signal.SIGKILL)
        prepare(PrepareConfig("nw-ucla", folder.parent / "out", folder), progress=progress)
    """
    out = folder.parent / "out"
    for stop in (3, 4, 17, 40):
        killed = run_program(program, folder, stop)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not out.exists()
    with (folder.parent / "out.partial" / "frames").open("ab") as torn:
        torn.write(b"a frame that no line speaks of")
    report = prepare(nw_ucla(folder))
    assert (report.clips, report.resumed) == (40, 40)
    assert out.read_bytes() == expected
    assert sorted(path.name for path in folder.parent.iterdir()) == ["out", "raw", "whole"]


FULL_DISK = """
    import errno, resource, sys
    from pathlib import Path
    from asma_fast.data import PrepareConfig, prepare
    out, folder, limit = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    if limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        prepare(PrepareConfig("nw-ucla", out, folder))
    except OSError as error:
        assert error.errno in (errno.EFBIG, errno.ENOSPC), error
        print(error)
"""


@pytest.mark.parametrize("limit", [3_000, 30_000, 60_000, 70_000])
def test_a_file_size_limit_ends_in_a_sentence(folder: Path, limit: int) -> None:
    prepare(nw_ucla(folder, out=folder.parent / "whole"))
    size, out = (folder.parent / "whole").stat().st_size, folder.parent / "out"
    assert size > 70_000
    done = run_program(FULL_DISK, out, folder, limit)
    assert done.returncode == 0, done.stderr
    assert "what was finished stays in out.partial" in done.stdout
    assert not out.exists()
    report = prepare(nw_ucla(folder))
    assert report.resumed > 0
    assert out.read_bytes() == (folder.parent / "whole").read_bytes()


@pytest.mark.slow
def test_fifty_kills_at_any_moment_lose_nothing(folder: Path) -> None:
    """The store is there whole or not at all after every kill, and the same when a run is left alone at last."""
    for index in range(40, 80):  # enough files for prepare to read in processes
        path = folder / "part2" / f"a01_s01_e{index:02}_v01.json"
        path.parent.mkdir(exist_ok=True)
        frames = np.full((3 + index % 5, 20, 3), index / 7).tolist()
        path.write_text(json.dumps({"label": 1 + index % 9, "skeletons": frames}))
    expected = folder.parent / "whole"
    prepare(nw_ucla(folder, out=expected, workers=1))
    program = """
        import sys
        from pathlib import Path
        from asma_fast.data import PrepareConfig, prepare
        print("go", flush=True)
        prepare(PrepareConfig("nw-ucla", Path(sys.argv[1]), Path(sys.argv[2]), workers=2))
    """
    out, partial = folder.parent / "out", folder.parent / "out.partial"
    words = [sys.executable, "-W", "error", "-c", textwrap.dedent(program), str(out), str(folder)]
    rng, longest, kills, underway = np.random.default_rng(11), 1.0, 0, 0
    while kills < 50:
        with subprocess.Popen(words, cwd=folder.parent, env=program_environment(), stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"go\n"
            started = time.monotonic()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=rng.uniform(0, longest))
            if child.poll() is None:
                child.kill()
            if child.wait() == 0:
                longest = time.monotonic() - started
            else:
                assert child.returncode == -signal.SIGKILL
                kills += 1
        underway += partial.exists() and not out.exists()
        if out.exists():
            assert out.read_bytes() == expected.read_bytes()
            out.unlink()
    report = prepare(nw_ucla(folder))
    assert report.ok
    assert report.clips == 80
    assert out.read_bytes() == expected.read_bytes()
    assert sorted(path.name for path in folder.parent.iterdir()) == ["out", "raw", "whole"]
    assert underway > 10


def test_two_runs_on_one_store_do_not_mix(folder: Path) -> None:
    said: list[str] = []

    def meanwhile(done: int, total: int) -> None:
        if done == 20:
            program = """
                import sys
                from pathlib import Path
                from asma_fast.cli import main
                sys.exit(main(["prepare", "nw-ucla", sys.argv[1], "--out", sys.argv[2]]))
            """
            second = run_program(program, folder, folder.parent / "out")
            said.extend([second.stderr, str(second.returncode)])

    assert prepare(nw_ucla(folder), progress=meanwhile).clips == 40
    assert said[1] == "2"
    assert f"out is being written by another process (pid {os.getpid()})" in said[0]
    prepare(nw_ucla(folder, out=folder.parent / "alone"))
    assert (folder.parent / "out").read_bytes() == (folder.parent / "alone").read_bytes()


def test_of_two_clips_of_one_name_the_first_stands_and_the_other_is_told(folder: Path) -> None:
    """Whoever reads, and however often it is interrupted."""
    first = sorted((folder / "part0").glob("*.json"))[3]
    record = json.loads(first.read_text())
    (folder / "part1" / first.name).write_text(json.dumps({**record, "skeletons": record["skeletons"] * 3}))
    contents = set()
    for workers, stops in ((1, ()), (3, ()), (2, (3, 9, 30))):
        config = nw_ucla(folder, out=folder.parent / f"out{workers}", workers=workers)
        for stop in stops:
            stop_after(stop, config)
        report = prepare(config)
        assert [failure.file for failure in report.failures] == [f"part1/{first.name}"]
        assert f"again, first from 'part0/{first.name}'" in report.failures[0].reason
        store = Store.open(config.out)
        assert store[store.names.index(first.stem)].length == len(record["skeletons"])
        contents.add(config.out.read_bytes())
    assert len(contents) == 1


def test_names_that_are_no_text_are_read_and_shown_with_escapes(folder: Path) -> None:
    odd = os.fsencode(folder) + b"/caf\xe9"
    os.mkdir(odd)
    good = sorted((folder / "part0").glob("*.json"))[0]
    shutil.copy(good, odd + b"/a01_s01_e90_v01.json")
    shutil.copy(good, odd + b"/n\xf6tes.txt")
    for name, content in ((b"/a01_s01_e91_v01.json", b"{"), (b"/a01_s01_e92_v01.json", b"")):
        with open(odd + name, "wb") as file:
            file.write(content)
    program = """
        import sys
        from asma_fast.cli import main
        sys.exit(main(["prepare", "nw-ucla", sys.argv[1], "--out", sys.argv[2]]))
    """
    done = run_program(program, folder, folder.parent / "out")
    assert done.returncode == 1, done.stderr
    assert "n\\udcf6tes.txt" in done.stdout
    assert "caf\\udce9/a01_s01_e91_v01.json" in done.stdout
    store = Store.open(folder.parent / "out")
    assert len(store) == 41
    assert "a01_s01_e90_v01" in store.names


def test_a_read_only_target_ends_in_a_sentence(folder: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for out in (small_disk / "out", small_disk / "new" / "out"):
        with pytest.raises(OSError, match=r"Read-only file system while writing the store"):
            prepare(nw_ucla(folder, out=out))
    assert not list(small_disk.iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(place)]
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("mounting a small file system needs root")
    if (mounted := subprocess.run(command, capture_output=True, text=True, check=False)).returncode:
        pytest.skip(f"mounting a small file system is refused here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_ends_in_a_sentence(folder: Path, small_disk: Path) -> None:
    out = small_disk / "out"
    done = run_program(FULL_DISK, out, folder, 0)
    assert done.returncode == 0, done.stderr
    assert "No space left on device while writing the store" in done.stdout
    assert not out.exists()
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    report = prepare(nw_ucla(folder, out=out))
    assert report.resumed > 0
    assert len(Store.open(out)) == 40


def test_synthetic(tmp_path: Path) -> None:
    config = PrepareConfig("synthetic", tmp_path / "a", clips_per_class=4, subjects=4, seed=5)
    stop_after(20, config)
    report = prepare(config)
    assert (report.clips, report.resumed) == (48, 20)
    assert report.splits["xsub"] == (24, 24)
    other = PrepareConfig("synthetic", tmp_path / "b", clips_per_class=4, subjects=4, seed=5)
    prepare(other)
    assert config.out.read_bytes() == other.out.read_bytes()


def test_bad_configurations(tmp_path: Path) -> None:
    for changes, message in (
        ({"dataset": "kinetics"}, "dataset must be one of ntu"),
        ({"bodies": "loudest"}, "bodies must be one of"),
        ({"source": None}, "source must be a folder, got None"),
        ({"source": tmp_path / "nowhere"}, "source must be a folder"),
        ({"dataset": "synthetic"}, "source must be None"),
        ({"dataset": "synthetic", "source": None, "subjects": 1}, "subjects must be at least 2"),
        ({"preprocessing": "unheard-of"}, "preprocessing must be one of"),
        ({"workers": -1}, "workers must be at least 0"),
    ):
        (tmp_path / "raw").mkdir(exist_ok=True)
        (tmp_path / "raw" / "a01_s01_e00_v01.json").touch()
        with pytest.raises(ValueError, match=message):
            prepare(nw_ucla(tmp_path / "raw", **changes))
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_only_a_store_is_overwritten(folder: Path) -> None:
    raw = sorted(folder.rglob("*.json"))[0]
    content = raw.read_bytes()
    with pytest.raises(FileExistsError, match="no store is not overwritten"):
        prepare(nw_ucla(folder, out=raw, overwrite=True))
    assert raw.read_bytes() == content


def test_linked_folders_are_read_and_pipes_are_not(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    moved = sorted(folder.rglob("*.json"))[0]
    moved.rename(elsewhere / moved.name)
    (folder / "linked").symlink_to(elsewhere)
    (elsewhere / "round").symlink_to(folder)
    os.mkfifo(folder / "a01_s09_e09_v01.json")
    report = prepare(nw_ucla(folder))
    assert (report.clips, report.failures) == (40, ())
    assert any(name.endswith("a01_s09_e09_v01.json") for name in report.ignored)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"split": "xview=subject:1"}, "split xview is the data set's own"),
        ({"split": "subject:1;subject:2"}, "split xsub is described twice"),
        ({"split": "subjects:1"}, "split must be subject:NUMBERS"),
        ({"min_score": 0.9}, "no use for the option min_score"),
        ({"layout": "coco"}, "no use for the option layout"),
        ({"cut": False}, "no use for the option cut"),
    ],
)
def test_options_that_do_not_apply_are_refused(folder: Path, changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        prepare(nw_ucla(folder, **changes))


def test_a_name_to_be_excluded_that_is_no_files_is_told(folder: Path) -> None:
    names = folder.parent / "names.txt"
    first = sorted(folder.rglob("*.json"))[0].stem
    names.write_text(f"{first}\nnobody\n")
    report = prepare(nw_ucla(folder, exclude=names))
    assert (report.clips, report.unmatched) == (39, ("nobody",))
    assert "1 names to be excluded are no file's: nobody" in str(report)


def test_resized_clips_have_no_rate(folder: Path) -> None:
    prepare(nw_ucla(folder, preprocessing="small"))
    assert Store.open(folder.parent / "out")[0].fps is None
