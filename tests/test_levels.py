"""Indicators and shares of the levels of discrete columns."""

import numpy as np

from numpyro_disco._levels import level_shares, real_columns, with_indicators

NUM_LEVELS = (3, 0, 2)
ROWS = np.array([[0.0, 0.5, 1.0], [2.0, 1.5, 1.0], [2.0, 2.5, np.nan]])


def test_indicators_follow_the_real_columns():
    assert real_columns(NUM_LEVELS).tolist() == [1]
    found = with_indicators(np.float32(ROWS), NUM_LEVELS)
    expected = [[0.5, 1, 0, 0, 0, 1], [1.5, 0, 0, 1, 0, 1], [2.5, 0, 0, 1, 0, 0]]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(with_indicators(ROWS[:, 1:2], (0,)), ROWS[:, 1:2])


def test_shares_are_those_of_weighted_entries_that_are_there():
    shares = level_shares(ROWS, NUM_LEVELS)
    np.testing.assert_allclose(shares, np.array([[1.5, 0.5, 2.5], [0.5, 2.5, 0]]) / [[4.5], [3]])
    weighted = level_shares(ROWS, NUM_LEVELS, np.array([0.6, 1.2, 1.2]))
    np.testing.assert_allclose(weighted[1, :2], np.array([0.5, 2.3]) / 2.8)
    assert level_shares(ROWS[:, 1:2], (0,)).shape == (0, 0)
