"""Time on a device, by its own events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def seconds_by_events(call: Callable[[], object], repeats: int, event: Callable[..., Any] = torch.cuda.Event) -> float:
    """Seconds of one call on the current stream, from the first kernel's start to the last one's end.

    Parameters
    ----------
    repeats
        Calls between the two events, none of which is waited for.
    event
        Makes an event.
    """
    began, ended = event(enable_timing=True), event(enable_timing=True)
    began.record()
    for _ in range(repeats):
        call()
    ended.record()
    ended.synchronize()
    return float(began.elapsed_time(ended)) / 1e3 / repeats
