"""How sure a difference of two results is: a paired bootstrap over seeds and test clips together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]
_CELLS = 4_000_000  # of one chunk of draws


def bootstrap_difference(
    parts: Sequence[NDArray[np.float64]], resamples: int = 10_000, seed: int = 0
) -> tuple[float, Interval]:
    """Mean difference of two results, and its 95 % percentile interval.

    Each draw takes seeds and, within each part, clips, both with replacement (Efron and Tibshirani, 1993). Parts weigh
    alike, whatever their number of clips; the seeds of a draw are the same in all of them.

    Parameters
    ----------
    parts
        Of each data set ``(S, N)`` float64: ours − theirs, hit or miss, by seed and test clip. One row where there is
        one seed; the interval is then over clips alone.

    Raises
    ------
    ValueError
        If there is no part, one has no clips, or they differ in their number of seeds.

    Examples
    --------
    >>> bootstrap_difference([np.ones((5, 9))])
    (1.0, (1.0, 1.0))
    """
    shapes = [part.shape for part in parts]
    if not shapes or any(len(shape) != 2 or 0 in shape for shape in shapes) or len({seeds for seeds, _ in shapes}) > 1:
        raise ValueError(f"parts must be (seeds, clips) of as many seeds each, got shapes {shapes}")
    rng = np.random.default_rng(seed)
    count = shapes[0][0]
    chunk = max(1, _CELLS // max(clips for _, clips in shapes))
    means = []
    for start in range(0, resamples, chunk):
        draws = min(chunk, resamples - start)
        seeds = rng.multinomial(count, np.full(count, 1 / count), size=draws) / count
        total = np.zeros(draws)
        for part in parts:
            clips = rng.multinomial(part.shape[1], np.full(part.shape[1], 1 / part.shape[1]), size=draws)
            total += ((seeds @ part) * clips).sum(1) / part.shape[1]
        means.append(total / len(parts))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(np.mean([part.mean() for part in parts])), (float(low), float(high))
