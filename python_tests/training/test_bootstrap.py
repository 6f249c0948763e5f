"""The interval of a difference covers it as often as it says, over seeds and clips."""

from __future__ import annotations

import numpy as np
import pytest

from asma_fast.training.bootstrap import bootstrap_difference


def test_covers_what_another_draw_of_clips_changes():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        change = (rng.random((1, 150)) < 0.7).astype(float) - (rng.random((1, 150)) < 0.6)
        _, (low, high) = bootstrap_difference([change], 400, trial)
        covered += low <= 0.1 <= high
    assert 0.9 <= covered / 200 <= 0.99


def test_covers_what_another_seed_changes():
    """Seeds whose accuracies differ by more than the clips do; five of them make the interval a little short."""
    rng = np.random.default_rng(1)
    covered, over_clips = 0, 0
    for trial in range(200):
        change = rng.normal(0.1, 0.1, size=(5, 1)) + rng.normal(0, 0.2, size=(1, 400)) + np.zeros((5, 400))
        _, (low, high) = bootstrap_difference([change], 400, trial)
        covered += low <= 0.1 <= high
        _, (low, high) = bootstrap_difference([change.mean(0, keepdims=True)], 400, trial)
        over_clips += low <= 0.1 <= high
    assert 0.78 <= covered / 200 <= 0.99
    assert over_clips < 0.5 * covered


def test_parts_weigh_alike():
    large, small = np.zeros((2, 400)), np.ones((2, 5))
    assert bootstrap_difference([large, small]) == (0.5, (0.5, 0.5))


def test_seeds_are_drawn_alike_in_all_parts():
    """What one part gains by a seed the other loses: nothing is left to vary."""
    seeds = np.array([[0.0], [1.0], [0.5]])
    first, second = np.repeat(seeds, 7, axis=1), np.repeat(1 - seeds, 4, axis=1)
    mean, interval = bootstrap_difference([first, second], 500)
    assert (mean, *interval) == pytest.approx((0.5, 0.5, 0.5))


def test_the_draw_is_the_seeds():
    change = np.random.default_rng(2).normal(size=(3, 50))
    assert bootstrap_difference([change], 300, 4) == bootstrap_difference([change], 300, 4)
    assert bootstrap_difference([change], 300, 4) != bootstrap_difference([change], 300, 5)


@pytest.mark.parametrize("shapes", [[], [(3,)], [(0, 4)], [(2, 4), (3, 4)]])
def test_parts_that_do_not_fit_are_refused(shapes):
    with pytest.raises(ValueError, match="parts must be"):
        bootstrap_difference([np.zeros(shape) for shape in shapes])
