"""Readers of raw recordings, one file a data set."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from asma_fast.data.clip import Clip
from asma_fast.data.readers.base import Reader

_READERS = {
    "ntu": ("asma_fast.data.readers.ntu", "Ntu"),
    "nw-ucla": ("asma_fast.data.readers.nw_ucla", "NwUcla"),
    "utd-mhad": ("asma_fast.data.readers.utd_mhad", "UtdMhad"),
    "pku-mmd": ("asma_fast.data.readers.pku_mmd", "PkuMmd"),
    "sbu": ("asma_fast.data.readers.sbu", "Sbu"),
    "irds": ("asma_fast.data.readers.irds", "Irds"),
    "precog": ("asma_fast.data.readers.precog", "Precog"),
    "aimclr": ("asma_fast.data.readers.aimclr", "AimClr"),
    "ctrgcn": ("asma_fast.data.readers.ctrgcn", "CtrGcn"),
    "pyskl": ("asma_fast.data.readers.pyskl", "Pyskl"),
    "openpose": ("asma_fast.data.readers.openpose", "OpenPose"),
    "coco": ("asma_fast.data.readers.coco", "Coco"),
    "mediapipe": ("asma_fast.data.readers.mediapipe", "MediaPipe"),
    "arrays": ("asma_fast.data.readers.arrays", "Arrays"),
}

DATASETS = tuple(_READERS)


def reader(dataset: str) -> Reader:
    """The reader of that data set.

    Raises
    ------
    ValueError
        If there is none.
    """
    if dataset not in _READERS:
        raise ValueError(f"dataset must be one of {', '.join(_READERS)}; got {dataset!r}")
    module, name = _READERS[dataset]
    instance: Reader = getattr(import_module(module), name)()
    return instance


def read_clip(path: str | Path, dataset: str, *, bodies: str = "file-order") -> Clip:
    """Reads one raw recording.

    Parameters
    ----------
    path
        The file.
    dataset
        Whose format it has: ``"ntu"``, ``"nw-ucla"``, ``"utd-mhad"``, ``"pku-mmd"``, ``"sbu"``, ``"irds"``,
        ``"precog"``, or a pose estimator's, ``"openpose"``, ``"coco"``, ``"mediapipe"``.
    bodies
        Which bodies are taken where a frame holds more than the data set's number. ``"file-order"``: the first of each
        frame, without tracking; pose estimators have ``"first"`` for the first alone. NTU has ``"denoised"`` and
        ``"energy"`` besides: see :mod:`asma_fast.data.bodies`.

    Returns
    -------
    Clip
        ``frames (M, T, V, C)`` float32 as recorded, M being the set's number of bodies (NTU, PKU-MMD and SBU 2, the
        other sets 1); an absent body is all zeros, and joints that the sensor did not see are marked in ``missing``
        (:func:`fill_missing` fills them in). Label, subject and camera are None where neither the file nor its name
        tells them.

    Raises
    ------
    FormatError
        If the file is not what the format asks for; names file, line, expected and found.
    ValueError
        If there is no such data set or body rule.
    ModuleNotFoundError
        If the format needs a package that is not installed; names the extra that brings it.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> clip = read_clip("S001C001P001R001A001.skeleton", "ntu")  # doctest: +SKIP
    >>> clip.frames.shape, clip.label, clip.subject  # doctest: +SKIP
    ((2, 103, 25, 3), 0, 1)
    """
    chosen = reader(dataset)
    chosen.check_bodies(bodies)
    return chosen.read(Path(path), bodies)
