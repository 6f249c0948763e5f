"""Where a model file, or an ONNX file, tells what it is: JSON text in its metadata."""

from __future__ import annotations

KEY = "asma_fast.edge"
FORMAT = 1
