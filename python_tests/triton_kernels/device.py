"""Where the Triton kernels are tested: interpreted on the CPU, or under ``TRITON_INTERPRET=0`` on a CUDA device."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from asma_fast import View
from asma_fast._backends import interpreting, why_not

DEVICE = "cpu" if interpreting() else "cuda"

needs_triton = pytest.mark.skipif(why_not("triton") is not None, reason=f"not run: {why_not('triton')}")
#: An assertion that fails on a device leaves it unusable to the process.
interpreted_only = pytest.mark.skipif(DEVICE == "cuda", reason="would stop the device")


def there(value: Any) -> Any:
    """A tensor, or a view's arrays, on the device under test, as strided as they come."""
    if isinstance(value, View):
        return View(*(None if array is None else there(torch.as_tensor(array)) for array in value.arrays()))
    return value.to(DEVICE) if isinstance(value, torch.Tensor) else value
