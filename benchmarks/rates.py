"""What a timing means: amounts a second beside the seconds."""

from __future__ import annotations


def note_rate(benchmark, unit: str, amount: float) -> None:
    """Note an amount (bytes, operations, elements) a second, in units of 1e9, for the fastest round."""
    if benchmark.stats is not None:  # None under --benchmark-disable
        benchmark.extra_info[unit] = round(amount / benchmark.stats.stats.min / 1e9, 3)
