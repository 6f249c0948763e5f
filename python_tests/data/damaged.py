"""Damaged files, and what a reader may do with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from asma_fast.data import Clip, FormatError

TOKENS = (b"null", b"NaN", b"-Infinity", b"1e999", b"1e39", b"9" * 40, b"9" * 5000, b"-1", b"true", b'"x"', b"[]",
          b"{}", b"", b",", b"0", b"[" * 3000, b"\xff", b"\x00", b'"', b"\r", b"\n\n")  # fmt: skip


def damaged(original: bytes, count: int = 2000, seed: int = 0, tokens: Sequence[bytes] = TOKENS) -> Iterator[bytes]:
    """The same ``count`` variants every time: a few bytes changed, cut out, doubled, or replaced by a token."""
    rng = np.random.default_rng(seed)
    yield from (b"", b"\xef\xbb\xbf" + original, original.replace(b"\n", b"\r\n"), b"\x1f\x8b" + original)
    for _ in range(count - 4):
        content = bytearray(original)
        for _ in range(int(rng.integers(1, 3))):
            begin = int(rng.integers(len(content) + 1))
            end = min(begin + int(rng.choice([1, 2, 8, 60])), len(content))
            kind = int(rng.integers(6))
            if kind == 0:
                content[begin:end] = rng.integers(256, size=end - begin, dtype=np.uint8).tobytes()
            elif kind == 1:
                del content[begin:end]
            elif kind == 2:
                content[begin:begin] = content[begin:end]
            elif kind == 3:
                del content[begin:]
            elif kind == 4:
                content[begin:end] = tokens[int(rng.integers(len(tokens)))]
            else:  # a whole number or word
                while begin < len(content) and not chr(content[begin]).isalnum():
                    begin += 1
                end = begin
                while end < len(content) and (chr(content[end]).isalnum() or content[end] in b".-"):
                    end += 1
                content[begin:end] = tokens[int(rng.integers(len(tokens)))]
        yield bytes(content)


def read_or_refuse(path: Path, contents: Iterator[bytes], read: Callable[[], Clip]) -> tuple[list[Clip], list[str]]:
    """Clips of the contents that could be read, and what was said of the others; anything but FormatError fails."""
    clips, errors = [], []
    for content in contents:
        path.write_bytes(content)
        try:
            clip = read()
        except FormatError as error:
            errors.append(error)
            continue
        assert clip.frames.nbytes < 100 * len(content) + (1 << 20)
        clips.append(clip)
    assert {Path(error.file) for error in errors} <= {path, path.parent}
    assert max(len(str(error)) for error in errors) < 1000
    return clips, [str(error) for error in errors]
