"""Known answers: Random123's own test vectors for Philox4x32-10 (kat_vectors), given there as counter, key, result."""

import numpy as np
import pytest

from asma_fast.philox import Purpose, derive_seed, philox, uniform

VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def _signed(low, high):
    return np.array(low | high << 32, dtype=np.uint64).astype(np.int64)


@pytest.mark.parametrize(("counter", "key", "words"), VECTORS)
def test_known_answers(counter, key, words):
    result = philox(_signed(*key), _signed(*counter[:2]), counter[2], counter[3])
    assert result.dtype == np.uint32
    assert tuple(result.tolist()) == words


def test_arguments_broadcast():
    ids, draws = np.arange(5)[:, None], np.arange(3)
    words = philox(7, ids, draws, Purpose.JOINTS)
    assert words.shape == (5, 3, 4)
    for i in range(5):
        for d in range(3):
            np.testing.assert_array_equal(words[i, d], philox(7, i, d, 0))
    many = philox(np.arange(4), 0, 0, 0)
    assert many.shape == (4, 4)
    np.testing.assert_array_equal(many[2], philox(2, 0, 0, 0))


def test_uniform_is_the_first_word_scaled():
    draws = np.arange(1000)
    u = uniform(3, 1, draws, Purpose.AUGMENTATION)
    np.testing.assert_array_equal(u * 2.0**32, philox(3, 1, draws, Purpose.AUGMENTATION)[:, 0])
    assert 0 <= u.min() < 0.01
    assert 0.99 < u.max() < 1
    assert abs(u.mean() - 0.5) < 0.05


def test_purposes_do_not_collide():
    values = [int(p) for p in Purpose]
    assert len(set(values)) == len(values)
    assert max(values) == Purpose.DROPOUT, "the numbers above DROPOUT belong to its blocks"


def test_derived_seeds_are_distinct_and_non_negative():
    seeds = {derive_seed(0, a, b) for a in range(40) for b in range(40)}
    assert len(seeds) == 1600
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(-5) >= 0
    assert derive_seed(5) != derive_seed(5, 0)
    assert derive_seed(7, 1, 2) == derive_seed(7, 1, 2) != derive_seed(7, 2, 1)
