"""Coordinates of the missing entries of a table, against one row at a time."""

import jax
import numpy as np

import numpyro_disco as disco
from numpyro_disco.models.entries import row_coordinates

RNG = np.random.default_rng(0)
BASIS = RNG.normal(size=(2, 4, 4))
REFERENCE = disco.MixtureReference(
    np.array([0.6, 0.4]),
    RNG.normal(size=(2, 4)),
    0.5 * np.eye(4) + BASIS @ np.swapaxes(BASIS, 1, 2),
)
PRIOR = disco.EnergyDistribution(lambda x: -REFERENCE.log_prob(x), REFERENCE)


def test_rows_are_those_of_one_row_at_a_time():
    """30 rows, some whole and some with the same entries missing as others."""
    observed = RNG.uniform(size=(5, 6, 4)) < 0.6
    observed[0] = True
    values = np.where(observed, RNG.normal(size=observed.shape), 0.0).astype(np.float32)
    got = row_coordinates(PRIOR, values, observed)
    assert got.loc.shape == ((~observed).sum(),)
    rows, there = values.reshape(-1, 4), observed.reshape(-1, 4)
    locs, factors = PRIOR.coordinates(rows, there)
    incomplete = np.flatnonzero(~there.all(1))
    assert got.sizes == tuple((~there[incomplete]).sum(1))
    assert got.factors.shape == (len(incomplete), max(got.sizes), max(got.sizes))
    np.testing.assert_allclose(got.loc, np.asarray(locs)[~there], rtol=1e-4, atol=1e-5)
    for row, factor, size in zip(incomplete, got.factors, got.sizes, strict=True):
        free = np.flatnonzero(~there[row])
        expected = np.eye(len(factor))
        expected[:size, :size] = np.asarray(factors)[row][np.ix_(free, free)]
        np.testing.assert_allclose(factor, expected, rtol=1e-3, atol=1e-4)
    # A prior that is traced gives the same.
    traced = jax.jit(lambda prior: row_coordinates(prior, values, observed)[:2])(PRIOR)
    for a, b in zip(traced, got[:2], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
