"""Trained networks on small machines: NumPy and the native module, without torch.

``export`` alone needs torch, where the network was trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from asma_fast.edge._errors import EdgeError
from asma_fast.edge.session import Prediction, Session
from asma_fast.edge.stream import StreamResult, WindowStream

if TYPE_CHECKING:
    from asma_fast.data import Preprocessing
    from asma_fast.edge.adaptation import adapt

__all__ = ["EdgeError", "Prediction", "Session", "StreamResult", "WindowStream", "adapt", "export"]


def export(
    model: Any,
    path: str | Path,
    *,
    preprocessing: Preprocessing | None = None,
    bodies: int = 0,
    class_names: tuple[str, ...] | list[str] | None = None,
    precision: Literal["fp32", "int8"] = "fp32",
    calibration: Any = None,
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
        ``"fp32"``, or ``"int8"``: weights of 8 bits with a scale for each channel, activations of 7; a quarter of the
        file, and faster. Its results are the same bits on every CPU.
    calibration
        Of int8, and needed for it: preprocessed clips ``(N, C, T, V, M)``, array or tensor, on which the ranges of the
        activations are chosen. Some hundred of the training clips.

    Returns
    -------
    Path
        That of the file.

    Raises
    ------
    TypeError, ValueError
        If the model is another network (two aligned encoders, say), a layer of it was replaced, a weight is not finite,
        the names are not as many as its classes, the recipe needs what a recording does not tell, or calibration clips
        are wanted and do not fit, or are given for fp32.
    """
    from asma_fast.edge.exporter import write_model

    return write_model(model, Path(path), preprocessing, bodies, class_names, precision, calibration)


def __getattr__(name: str) -> Any:
    if name == "adapt":  # reads the maps of asma_fast.data, which a session does without
        from asma_fast.edge.adaptation import adapt

        return adapt
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
