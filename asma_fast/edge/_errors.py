"""What edge inference refuses."""

from __future__ import annotations


class EdgeError(ValueError):
    """What is wrong with a model file, or with what a session or a stream was given."""


class told:
    """What native code refuses, as an error of this package. A class: a stream enters it every frame."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: object) -> None:
        if isinstance(error, (ValueError, RecursionError)):
            raise EdgeError(str(error)) from None
