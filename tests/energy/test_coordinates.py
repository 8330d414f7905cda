"""Unconstrained coordinates from the reference given what is observed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import biject_to, constraints
from scipy import stats

import numpyro_disco as disco

MEAN = np.array([0.5, -0.3, 0.2])
COVARIANCE = np.array([[1.0, 0.6, 0.2], [0.6, 1.5, -0.4], [0.2, -0.4, 0.8]])
REFERENCE = disco.GaussianReference(MEAN, COVARIANCE)
SUPPORTS = {"b": constraints.positive}


def prior_of(**options):
    """A prior that equals its reference."""
    return disco.EnergyDistribution(
        lambda x: -REFERENCE.log_prob(x), REFERENCE, names=("a", "b", "c"), **options
    )


@pytest.mark.parametrize("supports", [None, SUPPORTS], ids=["real", "bounded"])
@pytest.mark.parametrize("clamped", [{}, {"a": 0.7}, {"b": 2.0, "c": 0.1}], ids=str)
def test_a_prior_that_equals_its_reference_is_standard_normal(supports, clamped):
    """log p(x) + log |dx/du| = log N(u; 0, I) + log p(observed), which are known."""
    prior = prior_of(supports=supports).clamp(clamped)
    num_free = 3 - len(clamped)
    u = jnp.asarray(np.random.default_rng(0).normal(size=(5, num_free)), jnp.float32)
    transform = biject_to(prior.support)
    x = transform(u)
    log_prob = prior.log_prob(x) + transform.log_abs_det_jacobian(u, x)
    observed = np.flatnonzero(prior.observed)
    y = [np.log(v) if supports and k == "b" else v for k, v in clamped.items()]
    log_observed = 0.0
    if clamped:
        marginal = MEAN[observed], COVARIANCE[np.ix_(observed, observed)]
        log_observed = stats.multivariate_normal.logpdf(y, *marginal)
    expected = stats.norm.logpdf(u).sum(-1) + log_observed
    np.testing.assert_allclose(log_prob, expected, rtol=1e-4, atol=1e-4)


def test_the_prior_may_have_a_location_and_a_scale_of_its_own():
    scale = 0.5 * np.sqrt(np.diag(COVARIANCE))
    prior = prior_of(loc=np.array([1.0, 2.0, 3.0]), scale=scale)
    support = prior.support
    np.testing.assert_allclose(support.loc, [1.0, 2.0, 3.0], rtol=1e-6)
    product = np.asarray(support.factor) @ np.asarray(support.factor).T
    np.testing.assert_allclose(product, COVARIANCE / 4, rtol=1e-4, atol=1e-6)


def test_concrete_coordinates_are_no_part_of_a_compiled_program():
    prior = prior_of()
    values, observed = np.array([[0.2, 0.0, 0.0]]), np.array([[True, False, False]])
    expected = prior.coordinates(values, observed)

    def shapes(values):
        concrete = prior.coordinates(np.array([[0.2, 0.0, 0.0]]), observed)
        assert not any(isinstance(array, jax.core.Tracer) for array in concrete)
        assert not isinstance(prior.support.factor, jax.core.Tracer)
        return prior.coordinates(values, observed)

    for got, array in zip(jax.jit(shapes)(values), expected, strict=True):
        np.testing.assert_allclose(got, array, rtol=1e-5)


def test_priors_mapped_over_have_coordinates_of_their_own():
    def coordinates(mean):
        reference = disco.GaussianReference(mean, COVARIANCE)
        prior = disco.EnergyDistribution(lambda x: -reference.log_prob(x), reference)
        return prior.support.loc, prior

    means = MEAN + np.arange(2)[:, None]
    locs, priors = jax.vmap(coordinates)(means)
    np.testing.assert_allclose(locs, means, rtol=1e-6)
    np.testing.assert_allclose(priors.support.loc, means, rtol=1e-6)
