"""Trained networks on small machines: NumPy and the native module, without torch.

``export`` and ``export_onnx`` alone need torch, where the network was trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from asma_fast.edge._errors import EdgeError
from asma_fast.edge.session import Prediction, Session
from asma_fast.edge.stream import ContinualStream, ContinualStreams, StreamResult, WindowStream

if TYPE_CHECKING:
    from asma_fast.data import Preprocessing
    from asma_fast.edge.adaptation import adapt

__all__ = [
    "ContinualStream",
    "ContinualStreams",
    "EdgeError",
    "Prediction",
    "Session",
    "StreamResult",
    "WindowStream",
    "adapt",
    "export",
    "export_onnx",
]


def export(
    model: Any,
    path: str | Path,
    *,
    preprocessing: Preprocessing | None = None,
    bodies: int = 0,
    class_names: tuple[str, ...] | list[str] | None = None,
    precision: Literal["fp32", "int8"] = "fp32",
    calibration: Any = None,
    rate: float | None = None,
) -> Path:
    """Write a trained classifier as a model file that :class:`Session` runs.

    Batch-norms go into the weights of the layer before them, edge importance into the adjacency. The file is
    ``.safetensors``, with its description in the metadata.

    Parameters
    ----------
    model
        A :class:`asma_fast.nn.Classifier` over one :class:`asma_fast.nn.STGCN`, on any device; read as in eval mode.
    path
        ``*.safetensors``; written whole or not at all.
    preprocessing
        The recipe that the network's training clips were made by: a session then takes recorded frames. None: it takes
        preprocessed clips only.
    bodies
        Of a clip in training: of a recording the first so many are read, and empty ones added where it has fewer. 0: as
        many as a recording has.
    class_names
        One a logit; by default ``"0"``, ``"1"``, …
    precision
        ``"fp32"``, or ``"int8"``: weights of 8 bits with a scale for each channel, activations of 7. The file is
        two to three times smaller, and runs faster where the CPU multiplies bytes. Its results are the same bits
        on every CPU.
    calibration
        Of int8, and needed for it: preprocessed clips ``(N, C, T, V, M)``, array or tensor, on which the ranges of the
        activations are chosen. Some hundred of the training clips.
    rate
        Frames a second of the clips in training, as the network reads them: what a stream of mode ``"continual"``
        resamples a camera's frames to. None: the file tells of none, and such a stream must be told.

    Returns
    -------
    Path
        That of the file.

    Raises
    ------
    TypeError, ValueError
        If the model is another network (two aligned encoders, say), a layer of it was replaced, a weight is not finite,
        the names are not as many as its classes, the recipe needs what a recording does not tell, calibration clips are
        wanted and do not fit, or are given for fp32, or ``rate`` is out of range.
    """
    from asma_fast.edge.exporter import write_model

    return write_model(model, Path(path), preprocessing, bodies, class_names, precision, calibration, rate)


def export_onnx(model: Any, path: str | Path, *, class_names: tuple[str, ...] | list[str] | None = None) -> Path:
    """Write a trained classifier, over one encoder or two aligned ones, as an ONNX file for other runtimes.

    Standard operators of opset 18: products with the adjacency, convolutions, means. One input, ``clips``
    ``(N, C, T, V, M)`` float32, preprocessed, with N, T and M free; one output, ``logits`` ``(N, classes)``. Skeleton
    and class names are in the metadata. Needs torch, onnx and onnxscript (the extra ``edge``).

    Parameters
    ----------
    model
        A :class:`asma_fast.nn.Classifier` over :class:`asma_fast.nn.STGCN` or :class:`asma_fast.nn.AlignedEncoders`;
        read as in eval mode.
    path
        ``*.onnx``; written whole or not at all.
    class_names
        One a logit; by default ``"0"``, ``"1"``, …

    Returns
    -------
    Path
        That of the file.

    Raises
    ------
    TypeError, ValueError
        If the model is another network, a layer of it was replaced, a weight is not finite, or the names are not as
        many as its classes.
    ImportError
        If onnx or onnxscript is not installed.
    """
    from asma_fast.edge.onnx_writer import write_onnx

    return write_onnx(model, Path(path), class_names)


def __getattr__(name: str) -> Any:
    if name == "adapt":  # reads the maps of asma_fast.data, which a session does without
        from asma_fast.edge.adaptation import adapt

        return adapt
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
