"""Mean and covariance of a mixture's conditional, against their definitions."""

import jax.numpy as jnp
import numpy as np
from helpers.statistics import Mixture

import numpyro_disco as disco
from numpyro_disco.references.moments import conditional_moments, coordinate_factor

WEIGHTS = np.array([0.5, 0.2, 0.3])
MEANS = np.array([[0.0, 1.0, -1.0], [2.0, -1.0, 0.5], [-1.5, 0.3, 2.0]])
BASIS = np.random.default_rng(0).normal(size=(3, 3, 3))
COVARIANCES = 0.3 * np.eye(3) + 0.4 * BASIS @ np.swapaxes(BASIS, 1, 2)
COMPONENTS = disco.MixtureReference(WEIGHTS, MEANS, COVARIANCES).components()


def expected_moments(observed, values):
    """Moments of the conditional's components, added up in double precision."""
    mixture = Mixture(WEIGHTS, MEANS, COVARIANCES)
    if observed.any():
        mixture = mixture.condition(np.flatnonzero(observed), values[observed])
    mean = mixture.weights @ mixture.means
    second = mixture.covariances + np.einsum("ki,kj->kij", mixture.means, mixture.means)
    return mean, np.einsum("k,kij->ij", mixture.weights, second) - np.outer(mean, mean)


def test_moments_of_conditionals():
    values = np.array([[0.3, 0.1, -0.4], [1.0, -1.0, 0.7]])
    patterns = np.array([[True, False, False], [False, True, True], [False, False, False]])
    # Rows with one pattern share the covariances of their components.
    mean, covariance = conditional_moments(
        COMPONENTS, jnp.asarray(values[None]), jnp.asarray(patterns[:, None]), (0, 0, 0)
    )
    assert mean.shape == (3, 2, 3) and covariance.shape == (3, 2, 3, 3)
    for i, observed in enumerate(patterns):
        free = ~observed
        for j, row in enumerate(values):
            expected_mean, expected = expected_moments(observed, row)
            np.testing.assert_allclose(mean[i, j][free], expected_mean, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(mean[i, j][observed], row[observed], rtol=1e-6)
            got = np.asarray(covariance[i, j])
            np.testing.assert_allclose(got[np.ix_(free, free)], expected, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(got[observed], 0.0, atol=1e-6)


def test_the_factor_of_the_free_coordinates():
    covariance = jnp.asarray(COVARIANCES[0], jnp.float32)
    scale, observed = jnp.array([2.0, 0.5, 3.0]), jnp.array([False, True, False])
    factor = np.asarray(coordinate_factor(covariance, scale, observed))
    product = factor @ factor.T
    free = np.array([0, 2])
    np.testing.assert_allclose(
        product[np.ix_(free, free)], COVARIANCES[0][np.ix_(free, free)], rtol=1e-4
    )
    np.testing.assert_array_equal(factor[1], [0.0, 0.5, 0.0])
    np.testing.assert_array_equal(factor[:, 1], [0.0, 0.5, 0.0])


def test_a_singular_covariance_has_a_factor_with_an_inverse():
    none = jnp.zeros(2, bool)
    for covariance in (
        [[1.0, 1.0], [1.0, 1.0]],
        [[1.0, 2.0], [2.0, 1.0]],
        [[0.0, 0.0], [0.0, -1e-7]],
    ):
        factor = np.asarray(coordinate_factor(jnp.array(covariance), jnp.ones(2), none))
        assert np.isfinite(factor).all() and (np.diagonal(factor) > 1e-4).all()
