"""What edge inference refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class EdgeError(ValueError):
    """What is wrong with a model file, or with what a session or a stream was given."""


@contextmanager
def told() -> Iterator[None]:
    """What native code refuses, as an error of this package."""
    try:
        yield
    except (ValueError, RecursionError) as error:
        raise EdgeError(str(error)) from None
