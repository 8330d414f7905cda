"""Weights of rows at the door of `fit`."""

import numpy as np
import pandas as pd
import pytest
import xarray

from numpyro_disco.tables.draws import read_draws
from numpyro_disco.training.rows.row_weights import (
    aligned,
    aligned_with_draws,
    draws_without_weights,
    weights_beside,
    with_mean_one,
)
from numpyro_disco.training.rows.table import read_table

ROWS = np.random.default_rng(0).normal(size=(20, 3))
NAMES = ("a", "w", "b")
WEIGHTS = np.arange(20.0)


def test_a_named_column_is_taken_out():
    values = ROWS.copy()
    values[:, 1] = WEIGHTS
    others, weights = weights_beside(values, NAMES, "w")
    np.testing.assert_array_equal(others, [0, 2])
    np.testing.assert_array_equal(weights, WEIGHTS)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(19), r"for each of 20 rows.*got shape \(19,\)"),
        (-WEIGHTS, "19 are negative"),
        (np.where(WEIGHTS == 3, np.nan, 1), "1 are not finite"),
        (np.where(WEIGHTS == 3, np.inf, 1), "1 are not finite"),
        (np.zeros(20), "all are zero"),
        (["heavy"] * 20, "got shape"),
        ("c", r"got 'c', and `data` has the columns \('a', 'w', 'b'\)"),
    ],
)
def test_what_are_no_weights_is_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        weights_beside(ROWS, NAMES, weights)


def test_names_of_weights_without_a_column_are_refused():
    with pytest.raises(ValueError, match="`data` has no names"):
        weights_beside(ROWS, None, "w")
    with pytest.raises(ValueError, match="Leave 'w' out of `names`"):
        weights_beside(ROWS, NAMES, "w", ("a", "w"))


def test_weights_have_mean_one_in_any_unit():
    np.testing.assert_allclose(with_mean_one(WEIGHTS).mean(), 1)
    huge = with_mean_one(WEIGHTS * 1e306)
    np.testing.assert_allclose(huge, with_mean_one(WEIGHTS))
    assert with_mean_one(np.full(20, 7.0)) is None and with_mean_one(None) is None


def test_rows_of_weight_zero_are_not_in_the_table():
    weights = WEIGHTS * (WEIGHTS > 4)
    data = ROWS.copy()
    data[0, 0], data[1, 1] = np.inf, np.nan
    table = read_table(data, None, None, weights)
    np.testing.assert_array_equal(table.values, ROWS[5:])
    np.testing.assert_allclose(table.weights / table.weights[0], WEIGHTS[5:] / 5)


def test_columns_keep_their_order_and_names_beside_the_weights():
    frame = pd.DataFrame(dict(zip(NAMES, ROWS.T, strict=True))).assign(w=WEIGHTS)
    table = read_table(frame, ("b", "a"), None, "w")
    assert table.names == ("b", "a")
    np.testing.assert_array_equal(table.values, ROWS[1:, [2, 0]])
    renamed = read_table(frame, ("x", "y"), None, "w")
    assert renamed.names == ("x", "y") and renamed.values.shape == (19, 2)


def test_weights_with_an_index_go_by_it():
    frame = pd.DataFrame(ROWS, index=range(20, 40))
    weights = pd.Series(WEIGHTS, index=range(20, 40))
    np.testing.assert_array_equal(aligned(weights[::-1], frame), WEIGHTS)
    assert aligned(weights, frame) is weights and aligned(weights, ROWS) is weights
    with pytest.raises(ValueError, match="with the index of `data`"):
        aligned(pd.Series(WEIGHTS), frame)


@pytest.mark.parametrize("labels", [range(20, 40), pd.date_range("2020-01-31", periods=20)])
def test_weights_go_by_the_labels_of_series_and_arrays(labels):
    series = {name: pd.Series(ROWS[:, i], index=labels) for i, name in enumerate("ab")}
    weights = pd.Series(WEIGHTS, index=labels)
    np.testing.assert_array_equal(aligned(weights[::-1], series), WEIGHTS)
    # Rows of two orders are those of a frame of both, in the order of its index.
    mixed = series | {"b": series["b"][::-1]}
    expected = pd.DataFrame({**mixed, "w": weights})["w"]
    np.testing.assert_array_equal(aligned(weights[::-1], mixed), expected)
    arrays = pd.DataFrame(series).rename_axis("row").to_xarray()
    given = weights.rename_axis("row").to_xarray()
    np.testing.assert_array_equal(aligned(given[::-1], arrays), WEIGHTS)
    assert aligned(WEIGHTS, arrays) is WEIGHTS
    np.testing.assert_array_equal(aligned(weights, {"a": ROWS[:, 0]}), WEIGHTS)
    with pytest.raises(ValueError, match="with the index of `data`"):
        aligned(pd.Series(WEIGHTS), series)


def test_weights_of_draws_are_no_variable():
    draws = read_draws({"w": 1 + np.arange(20), "b": ROWS}, None, None)
    learned = draws_without_weights(draws, "w")
    names = ("b[0]", "b[1]", "b[2]")
    assert learned.variables.names == tuple(learned.columns) == names
    assert read_table(draws.columns, None, learned.supports, "w").names == names
    assert draws_without_weights(draws, WEIGHTS) is draws
    with pytest.raises(ValueError, match=r"one number for each draw.*got 'b\[1\]'"):
        draws_without_weights(draws, "b[1]")


def test_labelled_weights_of_draws_go_by_label():
    draws = xarray.Dataset(
        {"b": (("chain", "draw", "k"), np.zeros((2, 3, 2)))},
        coords={"chain": [0, 1], "draw": [5, 6, 7]},
    )
    weights = draws["b"][..., 0] + np.arange(6.0).reshape(2, 3)
    turned = weights.transpose("draw", "chain")[::-1, ::-1]
    stacked = turned.to_series().rename("w")
    for labelled in (weights, turned, stacked):
        np.testing.assert_array_equal(aligned_with_draws(labelled, draws, 6), np.arange(6.0))
    np.testing.assert_array_equal(aligned_with_draws(weights.values, draws, 6), weights.values)
    with pytest.raises(ValueError, match="`weights` with the labels of the draws"):
        aligned_with_draws(weights.assign_coords(draw=[5, 6, 8]), draws, 6)


def test_weights_of_draws_without_labels_have_their_positions():
    draws, weights = {"b": np.zeros((4, 2))}, pd.Series(np.arange(4.0))
    np.testing.assert_array_equal(aligned_with_draws(weights[::-1], draws, 4), np.arange(4.0))
    with pytest.raises(ValueError, match="np.asarray"):
        aligned_with_draws(pd.Series(np.arange(4.0), index=list("abcd")), draws, 4)
    indexed = draws | {"s": pd.Series(np.zeros(4), index=list("dcba"))}
    by_label = pd.Series(np.arange(4.0), index=list("abcd"))
    np.testing.assert_array_equal(aligned_with_draws(by_label, indexed, 4), [3, 2, 1, 0])
