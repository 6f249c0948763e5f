"""Unfinished work beside the file it will become: one writer at a time, and nothing torn is ever taken up."""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from asma_fast._files import locked
from asma_fast.data.errors import StoreError

# Holds the fingerprint of the store that the work has become, or is about to become.
ASSEMBLED = "assembled"


class WorkInProgress:
    """The folder ``TARGET.partial``: raw frames, and a journal with a checked line for each unit of work.

    Frames are appended before the line that speaks of them. After a crash the journal is read up to its first flaw, be
    it in a line or in the frames it speaks of, and both files are cut there.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.folder = target.with_name(target.name + ".partial")
        self._files = contextlib.ExitStack()
        self._frames: IO[bytes]
        self._journal: IO[bytes]

    def open(self) -> None:
        """Takes possession of the folder.

        Raises
        ------
        StoreError
            If another process has it.
        """
        try:
            self._files.enter_context(locked(self.folder / "lock", self._refusal))
            self._frames = self._open("frames")
            self._journal = self._open("journal")
        except BaseException:
            self.close()
            raise

    def take_up(self, description: str, recall: Callable[[dict[str, Any]], int | None]) -> None:
        """Keeps what an earlier writer of the same description left, and drops everything else.

        ``recall`` is given each line's record and returns the end of its frames, or None if they are not sound;
        it may raise KeyError, TypeError, ValueError or AttributeError where the record is not one it knows.
        """
        about = self.folder / "about.json"
        lines = frames = 0
        if about.is_file() and about.read_text(encoding="utf-8", errors="replace") == description:
            for line in self._journal.read().splitlines(keepends=True):
                record = _parse_line(line)
                try:
                    end = None if record is None else recall(record)
                except (KeyError, TypeError, ValueError, AttributeError):  # a line of another release's making
                    end = None
                if end is None:
                    break
                frames, lines = max(frames, end), lines + len(line)
        self._frames.truncate(frames)
        self._journal.truncate(lines)
        for file in (self._frames, self._journal):
            file.seek(0, os.SEEK_END)
        fresh = about.with_name("about.json.new")
        fresh.write_text(description, encoding="utf-8")
        os.replace(fresh, about)

    def append_frames(self, content: bytes) -> int:
        """Returns the byte at which they begin."""
        begin = self._frames.tell()
        _write_all(self._frames, content)
        return begin

    def append_line(self, record: Mapping[str, Any]) -> None:
        text = json.dumps(record, separators=(",", ":"))
        _write_all(self._journal, f"{zlib.crc32(text.encode()):08x} {text}\n".encode())

    def read(self, begin: int, size: int) -> bytes:
        """That part of the frames; shorter where the file ends before."""
        return os.pread(self._frames.fileno(), size, begin)

    def discard(self) -> None:
        """Removes everything and lets go."""
        for name in ("about.json", "about.json.new", "journal", "frames", "whole", ASSEMBLED):
            (self.folder / name).unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Lets go; the work stays."""
        self._files.close()

    def _refusal(self, holder: str) -> StoreError:
        return StoreError(f"{self.target} is being written by another process ({holder})")

    def _open(self, name: str) -> IO[bytes]:
        descriptor = os.open(self.folder / name, os.O_RDWR | os.O_CREAT, 0o666)
        return self._files.enter_context(os.fdopen(descriptor, "r+b", buffering=0))


def _parse_line(line: bytes) -> dict[str, Any] | None:
    """A journal line's record; None where the line is torn or altered."""
    checked, _, text = line.removesuffix(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checked != f"{zlib.crc32(text):08x}".encode():
        return None
    record: dict[str, Any] = json.loads(text)
    return record


def _write_all(file: IO[bytes], content: bytes) -> None:
    """An unbuffered file may take less than it is given."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]
