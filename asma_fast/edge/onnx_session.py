"""An ONNX file, run by onnxruntime: what a session asks of a runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asma_fast.edge._description import KEY
from asma_fast.edge._errors import EdgeError


class OnnxSession:
    """What :class:`asma_fast.edge.Session` needs of the file that :func:`asma_fast.edge.export_onnx` wrote.

    Raises
    ------
    EdgeError
        If onnxruntime is not installed, or the file cannot be read or was written by something else.
    """

    def __init__(self, path: str | Path, threads: int) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise EdgeError(
                f"runtime 'onnxruntime' needs onnxruntime, which `pip install 'asma-fast[edge]'` installs: {error}"
            ) from None
        if threads < 1:
            raise EdgeError(f"threads must be at least 1, got {threads}")
        if not Path(path).is_file():
            raise EdgeError(f"{path}: cannot be opened")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own classes have no base but this
            raise EdgeError(f"{path}: onnxruntime cannot read it: {error}") from None
        told = self._session.get_modelmeta().custom_metadata_map
        if KEY not in told:
            raise EdgeError(f"{path}: does not tell what it is; asma_fast.edge.export_onnx writes a file that does")
        self.path, self.description = path, str(told[KEY])
        self.missing = 0

    def run(self, clips: NDArray[np.float32], joints: int, channels: int) -> NDArray[np.float32]:
        """Prepared clips ``(N, M, T, V, C)`` to logits ``(N, classes)``."""
        if clips.shape[3:] != (joints, channels) or 0 in clips.shape[1:3]:
            raise EdgeError(f"clips must have shape (N, M, T, {joints}, {channels}), got {clips.shape}")
        here = np.isfinite(clips).all(axis=(3, 4), keepdims=True)
        if not here.all():
            clips = np.where(here, clips, np.float32(0))
            self.missing += int(here.size - np.count_nonzero(here))
        given = np.ascontiguousarray(clips.transpose(0, 4, 2, 3, 1))
        logits: Any = self._session.run(None, {self._session.get_inputs()[0].name: given})[0]
        return np.asarray(logits, np.float32)
