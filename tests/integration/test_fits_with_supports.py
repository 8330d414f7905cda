"""Fits with supports: draws stay inside, whole numbers are spread, ties are reported."""

import warnings

import jax
import numpy as np
import pytest
from numpyro.distributions import constraints

import numpyro_disco as disco
from numpyro_disco.tables.columns import Real
from numpyro_disco.training.rows.table import Table
from numpyro_disco.training.rows.table_warnings import warn_of_spikes

NAMES = ("mass", "share", "shift")
SUPPORTS = {"mass": constraints.positive, "share": constraints.unit_interval}
MEAN = np.array([0.2, -0.4, 0.5])
COVARIANCE = np.array([[0.5, 0.3, 0.1], [0.3, 0.9, -0.2], [0.1, -0.2, 0.6]])
KEY = jax.random.key(5)


def points(num=50):
    rng = np.random.default_rng(2)
    y = rng.multivariate_normal(MEAN, COVARIANCE, size=num)
    return np.stack([np.exp(y[:, 0]), 1 / (1 + np.exp(-y[:, 1])), y[:, 2]], axis=-1)


NETWORK = disco.MLP(width=16, num_blocks=1)
TINY = dict(num_steps=50, network=NETWORK, batch_size=64, progress_bar=False)


def columns(num=300):
    x = points(num)
    counts = np.random.default_rng(1).poisson(x[:, 0])
    return {"mass": x[:, 0], "share": x[:, 1], "count": counts.astype(float)}


@pytest.mark.training
def test_draws_of_a_fit_are_inside_the_supports():
    supports = SUPPORTS | {"count": constraints.nonnegative_integer}
    reference = disco.MixtureFit(max_components=4)
    fit = disco.fit(KEY, columns(), supports=supports, reference=reference, **TINY)
    prior = fit.distribution
    draws = np.asarray(prior.sample(KEY, (500,)))
    assert prior.support(draws).all() and np.isfinite(prior.log_prob(draws)).all()
    # Whole numbers are spread over the interval around each, including the first.
    assert (draws[:, 2] > -0.5).all() and (draws[:, 2] < 0).any()
    np.testing.assert_allclose(fit.score(draws[:5]), prior.score(draws[:5]), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        fit.evidence.unstandardize(fit.evidence.standardize(draws[:5])),
        draws[:5],
        rtol=1e-4,
        atol=1e-4,
    )
    counts = np.bincount(np.round(draws[:, 2]).astype(int), minlength=3)[:3] / len(draws)
    truth = np.bincount(columns()["count"].astype(int), minlength=3)[:3] / 300
    assert np.abs(counts - truth).max() < 0.15
    assert str(fit.report())


def test_columns_outside_their_supports_are_refused():
    data = columns()
    supports = SUPPORTS | {"count": constraints.nonnegative_integer}
    with pytest.raises(ValueError, match="'share' in `data` to be in its support.*not"):
        disco.fit(KEY, data | {"share": data["share"] + 1}, supports=supports, **TINY)
    on_bound = data | {"share": np.where(np.arange(300) < 3, 1.0, data["share"])}
    with pytest.raises(ValueError, match="'share'.*3 are on its bound, 1"):
        disco.fit(KEY, on_bound, supports=supports, **TINY)
    with pytest.raises(ValueError, match="'count' in `data` to be in its support"):
        half = data | {"count": data["count"] + 0.25}
        disco.fit(KEY, half, supports={"count": constraints.nonnegative_integer}, **TINY)


def test_tied_columns_are_refused_with_a_remedy():
    with pytest.raises(ValueError, match=r"'count'.*integer_interval\(0, \d+\).*`noise_scale`"):
        disco.fit(KEY, columns(), supports=SUPPORTS, **TINY)
    spiked = columns() | {"share": np.where(np.arange(300) < 50, 0.123, columns()["share"])}
    del spiked["count"]
    with pytest.raises(ValueError, match="'share'.*0.123 in 17% of the rows.*outside of the prior"):
        disco.fit(KEY, spiked, **TINY)


def test_a_spike_is_warned_of_but_rounding_is_not():
    rows = points(2000)
    real = (constraints.real,) * 3
    with pytest.warns(UserWarning, match="'mass' in.*value 0 in 40 rows.*narrow mode"):
        spiked = rows.copy()
        spiked[:40, 0] = 0.0
        warn_of_spikes(Table(spiked, NAMES, real, (Real(),) * 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_spikes(Table(np.round(rows, 2), NAMES, real, (Real(),) * 3))
