"""Weights rounded together: whole numbers, the same each time, that lose less than each by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from edge.networks import clips, file_of, int8_file, logits_of, network
from edge.test_int8 import settled

from asma_fast.data.tensor_file import open_tensors
from asma_fast.edge import Session
from asma_fast.edge.rounding import products, rounded, row_limit


def like_activations(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    """Codes ``(rows, width)``, of which some say nearly the same."""
    rng = np.random.default_rng(seed)
    said = max(1, width // 4)
    mixed = rng.normal(size=(rows, said)) @ rng.normal(size=(said, width)) / said**0.5
    return torch.from_numpy(np.clip(np.rint(60 + 20 * mixed + rng.normal(size=mixed.shape)), 0, 127)).float()


@pytest.mark.parametrize("width", [1, 3, 48, 144])
def test_products_are_exact_however_rows_come(width):
    rows = like_activations(5000, width)
    wide = rows.double().numpy()
    wanted = np.cov(wide.T, bias=True).reshape(width, width)
    found = products([rows], width)
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())
    np.testing.assert_array_equal(products(rows.split(777), width), found)
    np.testing.assert_array_equal(products([rows.flip(0)], width), found)


@pytest.mark.parametrize("width", [3, 48, 144])
def test_less_is_lost_than_by_rounding_each(width):
    rows, others = like_activations(25_000, width).split([20_000, 5000])
    unseen = others.double().numpy()
    weight = np.random.default_rng(1).normal(scale=20, size=(16, width))
    codes = rounded(weight, products([rows], width), 127)
    assert np.abs(codes).max() <= 127
    np.testing.assert_array_equal(codes, np.rint(codes))
    np.testing.assert_array_equal(codes, rounded(weight, products([rows], width), 127))

    def lost(whole):
        return np.var(unseen @ (whole - weight).T, axis=0).mean()

    assert lost(codes) < 0.5 * lost(np.rint(weight))


def test_inputs_that_say_nothing_leave_plain_rounding():
    weight = np.random.default_rng(1).normal(scale=20, size=(5, 7))
    for gram in (np.zeros((7, 7)), np.eye(7)):  # dead, or each by itself: nothing makes up for anything
        np.testing.assert_array_equal(rounded(weight, gram, 127), np.rint(weight))
    assert np.abs(rounded(np.full((2, 7), 200.0), np.ones((7, 7)), 127)).max() == 127


def test_enough_rows_for_every_layer_and_no_more_work_than_that():
    assert row_limit(2304) == 4 * 2304
    assert row_limit(144) * 144**2 <= 2**35


def test_an_export_is_the_same_each_time(tmp_path):
    given = clips(8, 2, 20)
    model = settled(network(), given)
    first = open_tensors(int8_file(tmp_path, model, given))[0]
    first = {name: tensor.copy() for name, tensor in first.items()}
    again = open_tensors(int8_file(tmp_path, model, given))[0]
    for name, tensor in first.items():
        np.testing.assert_array_equal(again[name], tensor, err_msg=name)


def test_biases_make_up_for_the_mean_error(tmp_path):
    given = clips(64, 1, 20)
    model = settled(network(), given)
    exact = logits_of(model, given, torch.float64)
    off = Session(int8_file(tmp_path, model, given), max_clips=64).run(given, preprocessed=True) - exact
    assert np.abs(off.mean(axis=0)).max() < 0.1 * np.sqrt(np.square(off).mean())
    plain = Session(file_of(tmp_path, model), max_clips=64).run(given, preprocessed=True) - exact
    assert np.abs(plain).max() < 1e-4 * np.abs(exact).max()
