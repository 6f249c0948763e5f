"""Weights to whole numbers, each making up for the rounding of those before it (Frantar et al., ICLR 2023: GPTQ).

Rounding weights one by one errs by some w' of what a sum weighs, so that the sum errs by E (w' x)² = w' G w'ᵀ of the
products G = E x xᵀ on calibration clips: not every w' of a size costs the same. Taken in order, the weights that are
not rounded yet are moved to where that is least.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DAMPING = 1e-3  # of the mean square that is added to each input's
WORK = 2**35  # multiply-adds that the products of a layer may take, where inputs are few
LEAST_ROWS = 4  # for each input
CHUNK = 1024  # rows of codes whose products float32 sums without an error: 1,024 · 127² is under 2^24

Wide = NDArray[np.float64]


def products(parts: Iterable[Tensor], width: int) -> Wide:
    """``(F, F)``: the mean product of two inputs, about their means, which biases make up for; of rows ``(n, F)``."""
    total, sums, count = np.zeros((width, width)), np.zeros(width), 0
    for part in parts:
        for rows in part.split(CHUNK):
            total += (rows.T @ rows).double().numpy()
            sums += rows.sum(0, dtype=torch.float64).numpy()
            count += len(rows)
    mean = sums / count
    found: Wide = total / count - np.outer(mean, mean)
    return found


def row_limit(width: int) -> int:
    """Rows that are enough for the products of so many inputs."""
    return max(WORK // width**2, LEAST_ROWS * width)


def rounded(weight: Wide, gram: Wide, most: int) -> Wide:
    """Whole numbers of −most to most for ``(O, F)``, by the products ``(F, F)`` of what they weigh."""
    order = np.argsort(-np.diag(gram), kind="stable")  # what weighs most is rounded first, and made up for by the rest
    damped = gram[np.ix_(order, order)] + np.eye(len(gram)) * (DAMPING * np.trace(gram) / len(gram) + 1e-12)
    spread = np.linalg.cholesky(np.linalg.inv(damped)).T
    left, codes = weight[:, order], np.empty_like(weight)
    for place, feature in enumerate(order):
        codes[:, feature] = np.clip(np.rint(left[:, place]), -most, most)
        error = (left[:, place] - codes[:, feature]) / spread[place, place]
        left[:, place + 1 :] -= np.outer(error, spread[place, place + 1 :])
    return codes
