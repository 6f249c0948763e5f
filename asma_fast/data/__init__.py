"""Recordings of people as arrays: readers of raw files, preprocessing, and the store that training reads.

NumPy and the compiled module are enough to import this package, to read NTU RGB+D and to preprocess; a reader that
needs more says so when it is used.
"""

from __future__ import annotations

from asma_fast.data.clip import Clip, ClipInfo
from asma_fast.data.errors import FormatError, StoreError
from asma_fast.data.missing import fill_missing
from asma_fast.data.prepare import Failure, PrepareConfig, PrepareReport, prepare
from asma_fast.data.preprocessing import Preprocessing
from asma_fast.data.readers import DATASETS, read_clip
from asma_fast.data.readers.base import split_by
from asma_fast.data.store import Store
from asma_fast.data.store_writer import StoreWriter
from asma_fast.data.synthetic import Synthetic

__all__ = [
    "DATASETS",
    "Clip",
    "ClipInfo",
    "Failure",
    "FormatError",
    "PrepareConfig",
    "PrepareReport",
    "Preprocessing",
    "Store",
    "StoreError",
    "StoreWriter",
    "Synthetic",
    "fill_missing",
    "prepare",
    "read_clip",
    "split_by",
]
