"""Functions called in other processes, so that reading written in Python uses every core.

A worker is a fresh interpreter that imports this package and nothing of the calling program: unlike
``multiprocessing``'s, it needs no ``if __name__ == "__main__"`` in a script, and copies no threads, as forking would.
It ends when its input does, also if the caller was killed.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

_PROGRAM = "import sys; sys.path[:] = {path!r}; from asma_fast.data.workers import serve; serve()"
_LONGEST_CALL = 1 << 22
"""Bytes of a packed call; where a reader holds more than that, it is not worth sending."""


class Workers:
    """Processes that run calls for the threads of one executor: each thread has one, started when first used."""

    def __init__(self) -> None:
        self._own = threading.local()
        self._lock = threading.Lock()
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            for process in self._running:
                _end(process)
            self._running.clear()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """``function(*arguments)``, in a worker if all of it can be sent there, else here.

        Raises
        ------
        ChildProcessError
            If the worker dies; whatever the function raises.
        """
        packed = _packed((function, arguments))
        if packed is None:
            return function(*arguments)
        process = self._process()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            _send(process.stdin, packed)
            kind, value = pickle.loads(_receive(process.stdout))
        except (EOFError, BrokenPipeError):
            raise ChildProcessError(_fate(process)) from None
        if kind == "unknown":
            return function(*arguments)
        if kind == "error":
            raise value
        return value

    def _process(self) -> subprocess.Popen[bytes]:
        if not hasattr(self._own, "process"):
            self._own.process = subprocess.Popen(
                [sys.executable, *subprocess._args_from_interpreter_flags(), "-c", _PROGRAM.format(path=_path())],  # type: ignore[attr-defined]
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # an interrupt from the keyboard is the caller's to handle
            )
            with self._lock:
                self._running.append(self._own.process)
        process: subprocess.Popen[bytes] = self._own.process
        return process


def _path() -> list[str]:
    package = str(Path(__file__).resolve().parents[2])
    return [package, *(os.path.abspath(entry) for entry in sys.path)]


def _packed(call: object) -> bytes | None:
    if not sys.executable:
        return None
    try:
        packed = pickle.dumps(call, protocol=5)
    except (pickle.PicklingError, AttributeError, TypeError):  # a lambda, say
        return None
    return packed if len(packed) <= _LONGEST_CALL else None


def _fate(process: subprocess.Popen[bytes]) -> str:
    status = process.wait()
    if status >= 0:
        return f"a worker process ended with status {status}"
    name = signal.Signals(-status).name
    hint = "; by the system, if memory ran out" if name == "SIGKILL" else ""
    return f"a worker process was ended by {name}{hint}"


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with contextlib.suppress(OSError):  # what was to be sent to a dead worker
            pipe.close()
    try:
        process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def serve() -> None:
    """What a worker does: answers the calls on its standard input until that ends."""
    calls, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed is no answer
    while True:
        try:
            packed = _receive(calls)
        except EOFError:
            return
        try:
            _send(answers, _answer(packed))
        except BrokenPipeError:
            os._exit(0)


def _answer(packed: bytes) -> bytes:
    try:
        function, arguments = pickle.loads(packed)
    except Exception:  # of the caller's own main program, which is not here
        return pickle.dumps(("unknown", None))
    try:
        return pickle.dumps(("value", function(*arguments)), protocol=5)
    except Exception as error:
        return _told(error)


def _told(error: Exception) -> bytes:
    try:
        packed = pickle.dumps(("error", error))
        pickle.loads(packed)
    except Exception:  # an exception of its own shape may not travel
        packed = pickle.dumps(("error", RuntimeError(f"{type(error).__name__}: {error}")))
    return packed


def _send(pipe: IO[bytes], content: bytes) -> None:
    pipe.write(len(content).to_bytes(8, "little"))
    pipe.write(content)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes:
    length = int.from_bytes(_exactly(pipe, 8), "little")
    return _exactly(pipe, length)


def _exactly(pipe: IO[bytes], size: int) -> bytes:
    content = pipe.read(size)
    if len(content) < size:
        raise EOFError
    return content
