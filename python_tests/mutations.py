"""Damaged copies of a good file, the same in every run, and what a reader makes of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from asma_fast.data import Clip, FormatError
from asma_fast.data.readers.base import Job

Result = TypeVar("Result")

TOKENS = (
    b"", b"\n", b"\r", b"\r\n\r\n", b" ", b",", b";", b"(", b")", b"-", b"--", b".", b"e", b"_", b'"', b"#", b"\x00",
    b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1f\x8b", "\u0661\u00a0".encode(), b"0", b"1", b"-1", b"25", b"1_0",
    b"0x1p3", b"1e39", b"1e400", b"1e999", b"9" * 30, b"9" * 5000, b"nan", b"NaN", b"-inf", b"-Infinity", b"null",
    b"true", b'"x"', b"[]", b"{}", b"[" * 3000, b"NotTracked", b"#001",
)  # fmt: skip


def damaged(original: bytes, count: int = 2000, seed: int = 0, tokens: Sequence[bytes] = TOKENS) -> Iterator[bytes]:
    """``count`` copies: empty, with a byte-order mark, with other line ends, as if packed; the rest with one or two
    changes to bytes, to words or to whole lines."""
    yield from (b"", b"\xef\xbb\xbf" + original, original.replace(b"\n", b"\r\n"), b"\x1f\x8b" + original)
    rng = np.random.default_rng(seed)
    for _ in range(count - 4):
        content = original
        for _ in range(rng.integers(1, 3)):
            content = _changed(content, rng, tokens)
        yield content


def _changed(content: bytes, rng: np.random.Generator, tokens: Sequence[bytes]) -> bytes:
    begin, kind = int(rng.integers(len(content) + 1)), rng.random()
    end = min(begin + int(rng.choice([1, 2, 8, 60])), len(content))
    token = tokens[rng.integers(len(tokens))]
    if kind < 0.07:
        return content[:begin]
    if kind < 0.3:
        return content[:begin] + rng.bytes(min(1, end - begin)) + content[begin + 1 :]
    if kind < 0.35:
        return content[:begin] + rng.bytes(end - begin) + content[end:]
    if kind < 0.45:
        return content[:begin] + content[end:]
    if kind < 0.55:
        return content[:end] + content[begin:]
    if kind < 0.65:
        return content[:begin] + token + content[end:]
    if kind < 0.85:  # a whole number or word
        words = [match.span() for match in re.finditer(rb"[\w.-]+", content)] or [(begin, end)]
        begin, end = words[rng.integers(len(words))]
        return content[:begin] + token + content[end:]
    lines = content.splitlines(keepends=True) or [b""]
    line, other = rng.integers(len(lines), size=2)
    if kind < 0.9:
        del lines[line]
    elif kind < 0.95:
        lines.insert(line, lines[other])
    else:
        lines[line], lines[other] = lines[other], lines[line]
    return b"".join(lines)


def clips_of(jobs: Iterable[Job]) -> list[Clip]:
    """Every clip of the jobs; the first that cannot be had raises why."""
    clips = []
    for job in jobs:
        for clip in job.clips():
            if isinstance(clip, ValueError):
                raise clip
            clips.append(clip)
    return clips


def assert_refused(read: Callable[[], object], path: Path, line: int | None, expected: str, found: str) -> None:
    """Asserts that ``read`` raises a FormatError about that file and line, which says what was wanted and what came."""
    with pytest.raises(FormatError) as caught:
        read()
    assert (caught.value.file, caught.value.line) == (str(path), line)
    assert expected in caught.value.expected
    assert found in caught.value.found


def read_or_refuse(path: Path, contents: Iterable[bytes], read: Callable[[], Result]) -> tuple[list[Result], list[str]]:
    """What ``read`` gives for the contents, each written to ``path``, and what it says of those that it refuses.

    Any error but a FormatError about that file, or about its folder, goes through, and so do endless errors and clips
    that are large for their file.
    """
    results, refusals = [], []
    for content in contents:
        path.write_bytes(content)
        try:
            result = read()
        except FormatError as error:
            if Path(error.file) not in (path, path.parent) or not error.expected or not error.found:
                raise
            refusals.append(str(error))
            continue
        if isinstance(result, Clip):
            assert result.frames.nbytes < 100 * len(content) + (1 << 20)
        results.append(result)
    assert min(len(results), len(refusals)) > 10
    assert max(map(len, refusals)) < 1000
    return results, refusals
