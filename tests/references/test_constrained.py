"""A reference in the user's units: exact densities, draws and conditionals under bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.references import TRUTH, reference_of
from numpyro.distributions import constraints
from scipy import stats

from numpyro_disco.references.base import Reference
from numpyro_disco.references.constrained import (
    ConstrainedReference,
    conditional_reference,
    unconstrained_values,
)
from numpyro_disco.supports.coordinates import CoordinateSupports

SUPPORTS = CoordinateSupports((constraints.real, constraints.positive, constraints.real))
X = np.array([[0.3, 2.0, -1.0], [-0.5, 0.1, 0.7]], np.float32)
Y = np.array([X[:, 0], np.log(X[:, 1]), X[:, 2]]).T


@pytest.fixture
def constrained(reference):
    return ConstrainedReference(reference, SUPPORTS)


def test_log_prob_includes_the_jacobian(truth, constrained):
    expected = truth.log_prob(Y) - np.log(X[:, 1])
    np.testing.assert_allclose(constrained.log_prob(X), expected, rtol=1e-5)


def test_draws_stay_inside_the_supports(truth, constrained):
    draws = np.asarray(constrained.sample(jax.random.key(0), (5000,)))
    assert draws.shape == (5000, 3) and (draws[:, 1] > 0).all()
    marginal = truth.marginal([1])
    normals = stats.norm(marginal.means[:, 0], np.sqrt(marginal.covariances[:, 0, 0]))

    def p_value(unconstrained):
        cumulative = normals.cdf(unconstrained) @ marginal.weights
        return stats.kstest(cumulative, "uniform").pvalue

    assert p_value(np.log(draws[:, 1:2])) > 1e-3
    # The broken twin reads the draws on the wrong scale.
    assert p_value(draws[:, 1:2]) < 1e-12


def test_conditionals_are_exact(truth, constrained):
    given = constrained.condition(jnp.array([np.nan, 2.0, np.nan]))
    oracle = truth.condition([1], [np.log(2.0)])
    points = np.array([[0.3, 2.0, -1.0], [-0.5, 2.0, 0.7]])
    expected = oracle.log_prob(points[:, [0, 2]])
    np.testing.assert_allclose(given.log_prob(points), expected, rtol=1e-5, atol=1e-5)
    draws = given.sample(jax.random.key(0), (100,))
    assert (draws[:, 1] == 2.0).all()


def test_conditioning_twice_equals_conditioning_once(constrained):
    once = constrained.condition(jnp.array([0.3, 2.0, np.nan]))
    first = constrained.condition(jnp.array([np.nan, 2.0, np.nan]))
    # The new value of the second coordinate is ignored.
    twice = first.condition(jnp.array([0.3, 99.0, np.nan]))
    np.testing.assert_array_equal(once.values[:2], twice.values[:2])
    np.testing.assert_allclose(once.log_prob(X), twice.log_prob(X), rtol=1e-5)


def test_real_supports_need_no_map():
    reference = reference_of(TRUTH["gaussian"])
    real = CoordinateSupports((constraints.real,) * 3)
    given = conditional_reference(
        reference, real, jnp.asarray(X[0]), np.array([True, False, False])
    )
    assert isinstance(given, Reference)


def test_missing_values_leave_derivatives_finite():
    def total(values):
        observed = ~jnp.isnan(values)
        return unconstrained_values(SUPPORTS, values, observed).sum()

    values = jnp.array([0.3, np.nan, np.nan])
    assert float(total(values)) == pytest.approx(0.3)
    np.testing.assert_array_equal(jax.grad(total)(values), [1.0, 0.0, 0.0])
