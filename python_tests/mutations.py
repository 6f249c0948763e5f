"""Damaged copies of text files, the same in every run, and what readers make of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np

from asma_fast.data import FormatError

Result = TypeVar("Result")

_HOSTILE = (
    b"", b"\n", b"\r", b"\r\n\r\n", b" ", b",", b";", b"(", b")", b"-", b"--", b".", b"e", b"_", b"1_0", b"0x1p3",
    b"nan", b"-inf", b"1e39", b"1e400", b"9" * 30, b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1f\x8b", b"0", b"1",
    b"25", b"#", "\u0661\u00a0".encode(), b"NotTracked", b"#001",
)  # fmt: skip


def read_or_refused(path: Path, original: bytes, read: Callable[[], Result], count: int = 2000) -> list[Result]:
    """What ``read`` gives for the copies that it does not refuse, each written to ``path``.

    Any error but a FormatError about that file goes through; neither all nor next to none may be refused.
    """
    results = []
    for content in mutations(original, count):
        path.write_bytes(content)
        try:
            results.append(read())
        except FormatError as error:
            if error.file != str(path) or not error.expected or not error.found:
                raise
    assert 10 < len(results) < 0.85 * count
    return results


def mutations(original: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """``count`` copies with one to three changes each, to bytes, to fields or to whole lines; none is empty."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        content = original
        for _ in range(rng.integers(1, 4)):
            content = _changed(content, rng) or b"\n"
        yield content


def _changed(content: bytes, rng: np.random.Generator) -> bytes:
    place, kind = int(rng.integers(len(content))), rng.random()
    if kind < 0.05:
        return content[:place]
    if kind < 0.35:
        return content[:place] + bytes([rng.integers(256)]) + content[place + 1 :]
    if kind < 0.7:
        return content[:place] + _HOSTILE[rng.integers(len(_HOSTILE))] + content[place + int(rng.integers(0, 12)) :]
    lines = content.splitlines(keepends=True)
    line, other = rng.integers(len(lines), size=2)
    if kind < 0.8:
        del lines[line]
    elif kind < 0.9:
        lines.insert(line, lines[other])
    else:
        lines[line], lines[other] = lines[other], lines[line]
    return b"".join(lines)
