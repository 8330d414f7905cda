"""Columns in very small and very large units, against the same columns in ordinary ones."""

import warnings

import jax
import numpy as np
import pytest
from helpers.fits import NETWORK
from numpyro.distributions import constraints

import numpyro_disco as disco

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
Z = RNG.normal(size=300)
W = 0.8 * Z + 0.6 * RNG.normal(size=300)
POINTS = np.stack([50 + Z[:9], W[:9]], axis=1)


def fitted(scale, **settings):
    settings = {"reference": disco.MixtureFit(max_components=1)} | settings
    data = {"t": scale * (50 + Z), "w": W}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = disco.fit(KEY, data, num_steps=1, network=NETWORK, progress_bar=False, **settings)
    return fit.distribution


@pytest.fixture(scope="module")
def ordinary():
    return fitted(1.0)


@pytest.mark.parametrize("scale", [1e-28, 1e30])
def test_a_fit_does_not_depend_on_the_unit(scale, ordinary, tmp_path):
    prior, unit = fitted(scale), np.array([scale, 1.0])
    points = POINTS * unit
    log_prob = prior.log_prob(points)
    np.testing.assert_allclose(log_prob + np.log(scale), ordinary.log_prob(POINTS), atol=1e-4)
    np.testing.assert_allclose(prior.score(points) * unit, ordinary.score(POINTS), atol=1e-4)
    draws, expected = (
        disco.sample_conditional(KEY, p, {"w": 0.5}, num_samples=200)[:, 0]
        for p in (prior, ordinary)
    )
    np.testing.assert_allclose(draws / scale, expected, rtol=1e-3)
    assert abs(float(prior.sample(KEY, (400,))[:, 0].mean() / scale) - 50) < 0.3
    disco.save(tmp_path / "prior.npz", prior)
    loaded = disco.load(tmp_path / "prior.npz")
    np.testing.assert_array_equal(loaded.log_prob(points), log_prob)


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_double_precision_holds_its_whole_range(scale):
    with jax.enable_x64(True):
        found = fitted(scale).log_prob(POINTS * [scale, 1.0]) + np.log(scale)
        np.testing.assert_allclose(found, fitted(1.0).log_prob(POINTS), atol=1e-8)


@pytest.mark.parametrize("scale", [1e-300, 1e40])
def test_what_single_precision_cannot_hold_is_named(scale):
    match = "range of float32; 't' holds.*another unit.*enable_x64"
    with pytest.raises(ValueError, match=match):
        fitted(scale)
    with pytest.raises(ValueError, match=match):
        fitted(scale, supports={"t": constraints.positive})


def test_other_maps_at_small_scales(ordinary):
    points = POINTS * [1e-19, 1.0]
    for settings in ({"supports": {"t": constraints.positive}}, {"transform": "sinh_arcsinh"}):
        found = fitted(1e-19, **settings).log_prob(points) + np.log(1e-19)
        np.testing.assert_allclose(found, ordinary.log_prob(POINTS), atol=0.5)
