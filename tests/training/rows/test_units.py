"""Rows in unconstrained space and in standardised units."""

import jax
import numpy as np
import pytest
from numpyro.distributions import constraints

from numpyro_disco.supports.coordinates import CoordinateSupports
from numpyro_disco.training.rows.table import Table
from numpyro_disco.training.rows.units import (
    map_rows,
    split_rows,
    standard_units,
    unconstrained_rows,
)

KEY = jax.random.key(5)
FACTOR = np.array([[2.0, 0.0, 0.0], [1.0, 0.5, 0.0], [-30.0, 10.0, 5.0]])


def standardized(whiten, rows):
    return standard_units(
        KEY,
        rows,
        ("a", "b", "c"),
        held_out_fraction=0.2,
        resolution=0.05,
        whiten=whiten,
    )


def test_units_are_those_of_the_weighted_rows():
    """N(0, 1) with weights exp(x) is N(1, 1)."""
    rows = np.random.default_rng(0).normal(size=(20_000, 2)) * [1.0, 3.0]
    rows[:, 1] += rows[:, 0]
    units = standard_units(
        KEY,
        rows,
        ("a", "b"),
        row_weights=np.exp(rows[:, 0]),
        held_out_fraction=0.2,
        resolution=0.05,
        whiten=True,
    )
    assert units.loc == pytest.approx([1, 1], abs=0.15)
    assert units.scale == pytest.approx([1, 10**0.5], rel=0.1)
    np.testing.assert_array_equal(units.row_weights, np.exp(units.rows[:, 0]))
    z = units.standardize(units.rows)
    np.testing.assert_allclose(np.cov(z.T, aweights=units.row_weights), np.eye(2), atol=1e-2)


@pytest.mark.parametrize("whiten", [True, False])
def test_training_rows_have_mean_zero_and_unit_variance(whiten):
    rows = 100 + np.random.default_rng(0).normal(size=(500, 3)) @ FACTOR.T
    units = standardized(whiten, rows)
    assert (len(units.rows), len(units.held_out)) == (400, 100)
    assert {tuple(row) for row in np.concatenate([units.rows, units.held_out])} == set(
        map(tuple, rows)
    )
    z = units.standardize(units.rows).astype(np.float64)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-5)
    covariance = np.cov(z, rowvar=False, ddof=0)
    np.testing.assert_allclose(np.diagonal(covariance), 1, rtol=1e-2)
    correlated = np.abs(covariance - np.diag(np.diagonal(covariance))).max()
    assert (correlated < 1e-2) == whiten
    np.testing.assert_allclose(units.whitener @ units.basis, np.eye(3), atol=1e-10)
    np.testing.assert_allclose(z @ units.basis.T + units.loc, units.rows, rtol=1e-5)


def test_split_rows_tells_which_rows_are_held_out():
    rows = np.random.default_rng(0).normal(size=(50, 3))
    held_out, training = split_rows(KEY, 50, 0.2)
    units = standardized(False, rows)
    np.testing.assert_array_equal(units.held_out, rows[held_out])
    np.testing.assert_array_equal(units.rows, rows[training])


def test_maps_that_were_found_before_refuse_values_outside_of_them():
    table = Table(
        np.array([[0.5, 1.0], [np.nan, 2.0]]), ("a", "b"), (constraints.unit_interval,) * 2
    )
    inside = table._replace(values=np.array([[0.25, 0.75]]))
    mapped = map_rows(KEY, inside, CoordinateSupports(table.supports))
    np.testing.assert_allclose(mapped, [[-np.log(3), np.log(3)]], rtol=1e-6)
    with pytest.raises(ValueError, match="'b' in `data` to be in its support"):
        map_rows(KEY, table, CoordinateSupports(table.supports))


@pytest.mark.parametrize(
    "given, found",
    [
        (constraints.integer_interval(1, 99), constraints.interval(0.5, 99.5)),
        (constraints.positive_integer, constraints.greater_than(0.5)),
    ],
)
def test_whole_numbers_are_spread_around_themselves(given, found):
    column = np.random.default_rng(0).integers(1, 2, size=(100, 1)).astype(float)
    y, supports = unconstrained_rows(KEY, Table(column, ("k",), (given,)))
    assert supports == CoordinateSupports((found,))
    x = np.asarray(supports.constrain(y))
    np.testing.assert_array_equal(np.round(x), column)
    assert x.std() > 0.2


def test_levels_are_neither_spread_nor_standardised():
    rng = np.random.default_rng(0)
    column = rng.integers(1, 4, size=200)
    rows = np.stack([column, 100 + rng.normal(size=200) + column, column == 2], axis=1).astype(
        float
    )
    supports = (constraints.integer_interval(1, 3), constraints.real, constraints.boolean)
    y, found = unconstrained_rows(KEY, Table(rows, ("k", "x", "b"), supports))
    np.testing.assert_array_equal(y, rows - [1, 0, 0])
    assert found.num_levels == (3, 0, 2)
    units = standard_units(
        KEY,
        y,
        ("k", "x", "b"),
        held_out_fraction=0.2,
        resolution=0.05,
        whiten=True,
        num_levels=found.num_levels,
    )
    z = units.standardize(units.rows)
    np.testing.assert_array_equal(z[:, [0, 2]], units.rows[:, [0, 2]])
    np.testing.assert_allclose([z[:, 1].mean(), z[:, 1].std()], [0, 1], atol=1e-5)
    np.testing.assert_allclose(units.whitener @ units.basis, np.eye(3), atol=1e-12)


def test_whole_numbers_are_never_spread_onto_a_bound():
    """Among four million zeros, single precision draws one at the lower end of its interval."""
    table = np.zeros((4_000_000, 1))
    key = jax.random.fold_in(jax.random.key(0), 1)
    rows, _ = unconstrained_rows(key, Table(table, ("a",), (constraints.nonnegative_integer,)))
    assert np.isfinite(rows).all()
