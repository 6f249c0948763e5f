"""Counter-based random numbers: Philox4x32-10 in NumPy, the table of purposes, and seeds derived from seeds.

Every random decision of the package is a function of (seed, sample id, draw, purpose), so that workers, ranks, threads,
backends and resumption do not matter. Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Purpose(IntEnum):
    """The last word of the counter. The same table stands in ``csrc/core/philox.hpp``."""

    JOINTS = 0
    FRAMES = 1
    TIES = 2
    AUGMENTATION = 3
    DERIVE = 4
    DROPOUT = 256  # of block b: 256 + b


_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


def philox(seed: ArrayLike, ids: ArrayLike, draw: ArrayLike, purpose: ArrayLike) -> NDArray[np.uint32]:
    """Four random words for each counter.

    Parameters
    ----------
    seed, ids
        int64; their bits are taken as unsigned. Broadcast against each other and the rest.
    draw, purpose
        Counters in [0, 2**32).

    Returns
    -------
    ndarray of shape (…, 4), uint32

    Raises
    ------
    ValueError
        If a draw or a purpose does not fit 32 bits.

    Examples
    --------
    >>> philox(0, 0, 0, 0).tolist()
    [1713891541, 3781805453, 3159862348, 2600524760]
    """
    for name, counter in (("draw", draw), ("purpose", purpose)):
        if np.min(counter, initial=0) < 0 or np.max(counter, initial=0) > 0xFFFFFFFF:
            raise ValueError(f"{name} must lie in [0, 2**32), got {np.asarray(counter)}")
    key = np.asarray(seed, dtype=np.int64).view(np.uint64)
    sample = np.asarray(ids, dtype=np.int64).view(np.uint64)
    words = [sample & _LOW, sample >> _SHIFT, np.asarray(draw, np.uint64), np.asarray(purpose, np.uint64)]
    c0, c1, c2, c3 = (np.array(word) for word in np.broadcast_arrays(*words, key)[:4])
    key0, key1 = key & _LOW, key >> _SHIFT
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c2 = (p1 >> _SHIFT) ^ c1 ^ key0, (p0 >> _SHIFT) ^ c3 ^ key1
        c1, c3 = p1 & _LOW, p0 & _LOW
        key0, key1 = (key0 + np.uint64(0x9E3779B9)) & _LOW, (key1 + np.uint64(0xBB67AE85)) & _LOW
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def uniform(seed: ArrayLike, ids: ArrayLike, draw: ArrayLike, purpose: ArrayLike) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) with 32 random bits: the first word of each counter."""
    return philox(seed, ids, draw, purpose)[..., 0] / 2.0**32


def derive_seed(seed: int, *parts: int) -> int:
    """A non-negative int64 seed for one part of a run: an encoder, an epoch, a stream.

    Distinct parts give unrelated seeds; the order of the parts matters.

    Examples
    --------
    >>> derive_seed(7, 1, 2) == derive_seed(7, 1, 2) != derive_seed(7, 2, 1)
    True
    """
    for position, part in enumerate((len(parts), *parts)):
        words = philox(seed, part, position, Purpose.DERIVE)
        seed = int(words[0]) | (int(words[1]) & 0x7FFFFFFF) << 32
    return seed
