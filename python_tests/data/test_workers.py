"""Calls in other processes give what calls here give, and a worker that dies is told of."""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from programs import run_program

from asma_fast.data import FormatError
from asma_fast.data.workers import Workers


def test_values_and_errors_come_back() -> None:
    with Workers() as workers:
        assert workers.call(divmod, 7, 2) == (3, 1)
        frames = workers.call(np.full, (3, 4), 2.5, np.float32)
        np.testing.assert_array_equal(frames, np.full((3, 4), 2.5, np.float32))
        with pytest.raises(ZeroDivisionError, match="zero"):
            workers.call(divmod, 7, 0)
        with pytest.raises(FormatError, match="a number"):
            workers.call(fails_to_read)
        assert workers.call(divmod, 9, 2) == (4, 1)


def fails_to_read() -> None:
    raise FormatError("x.json", "a number", "none")


def test_threads_have_a_process_each() -> None:
    with Workers() as workers, ThreadPoolExecutor(2) as pool:
        pids = set(pool.map(lambda _: workers.call(os.getpid) if not time.sleep(0.02) else None, range(8)))
    assert os.getpid() not in pids
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_what_cannot_be_sent_is_called_here() -> None:
    with Workers() as workers:
        assert workers.call(lambda: os.getpid()) == os.getpid()
        assert workers.call(len, b"x" * 5_000_000) == 5_000_000
        assert not workers._running


def test_printing_is_no_answer(capfd: pytest.CaptureFixture[str]) -> None:
    with Workers() as workers:
        assert workers.call(print, "said in a worker") is None
        assert workers.call(os.system, "echo and by a program") == 0
    assert "said in a worker" in capfd.readouterr().err


def test_a_killed_worker_is_told() -> None:
    with Workers() as workers:
        pid = workers.call(os.getpid)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ChildProcessError, match="a worker process was ended by SIGKILL"):
            workers.call(divmod, 7, 2)


PREPARE = """
    import os, sys
    from pathlib import Path
    from asma_fast.data import PrepareConfig, prepare
    print("main program", os.getpid(), file=sys.stderr)
    report = prepare(PrepareConfig("synthetic", Path(sys.argv[1]), clips_per_class=8, workers=int(sys.argv[2])))
    assert report.ok and report.clips == 96
"""


def test_a_script_needs_no_guard_and_any_number_of_workers_writes_the_same(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("\n".join(line[4:] for line in PREPARE.splitlines()))
    contents = set()
    for workers in (1, 2, 3):
        out = tmp_path / f"{workers}.safetensors"
        done = run_program("import runpy; runpy.run_path(sys.argv.pop(1), run_name='__main__')", script, out, workers)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("main program") == 1
        contents.add(out.read_bytes())
    assert len(contents) == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks processes up in /proc")
def test_workers_of_a_killed_caller_end(tmp_path: Path) -> None:
    program = """
        import os, signal
        from asma_fast.data.workers import Workers
        workers = Workers()
        print(workers.call(os.getpid), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = run_program(program)
    assert done.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 20
    while Path(f"/proc/{int(done.stdout)}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_worker_leaves_work_to_go_on_from(tmp_path: Path) -> None:
    """``prepare`` whose worker is killed says so, and the next run takes up what was finished."""
    program = """
        import os, signal, sys
        from pathlib import Path
        from asma_fast.data import PrepareConfig, prepare, workers
        started = []
        popen = workers.subprocess.Popen
        def remember(*words, **named):
            started.append(popen(*words, **named))
            return started[-1]
        workers.subprocess.Popen = remember
        def progress(done, total):
            if done == 20: started[0].kill()
        config = PrepareConfig("synthetic", Path(sys.argv[1]), clips_per_class=8, workers=2)
        try:
            prepare(config, progress=progress)
        except ChildProcessError as error:
            print(error)
        report = prepare(config)
        assert report.resumed >= 20 and report.clips == 96, report
    """
    done = run_program(program, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "a worker process was ended by SIGKILL" in done.stdout
    assert "it was reading" in done.stdout
