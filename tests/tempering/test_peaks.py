"""The search for peaks, on targets whose masses are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.statistics import assert_within
from jax.scipy.stats import multivariate_normal, norm

from numpyro_disco.tempering import peaks
from numpyro_disco.tempering.peaks import STARTS_PER_RUN, find_peak, highest, laplace
from numpyro_disco.tempering.state import Particles

KEY = jax.random.key(0)
CENTRE = np.array([0.3, -0.2, 0.1], np.float32)


def spiked(u):
    """A plateau with a tenth of e^2, and a spike in its middle with the rest."""
    plateau = jnp.log(0.1) + norm.logpdf(u, CENTRE, 0.5).sum()
    spike = jnp.log(0.9) + norm.logpdf(u, CENTRE, 0.01).sum()
    return 2 + jnp.logaddexp(plateau, spike)


def starts(seed=0):
    return CENTRE + 0.5 * jax.random.normal(jax.random.key(seed), (8, 3))


def check(log_target, truth, scale=0.5, resolution=0.2):
    peak = jax.jit(find_peak, static_argnums=1)(KEY, log_target, starts(), jnp.full(3, scale))
    assert_within(peak.log_mass, truth, peak.error, resolution=resolution, label="log mass")
    return peak


def test_climbing_finds_the_spike_and_its_mass():
    peak = check(spiked, 2 + np.log(0.9))
    np.testing.assert_allclose(peak.position, CENTRE, atol=2e-3)


def test_a_correlated_gaussian_is_its_own_peak():
    covariance = np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1e-4]])
    check(lambda u: multivariate_normal.logpdf(u, CENTRE, covariance) - 1.5, -1.5)


def test_a_covariance_of_the_wrong_size_fails(monkeypatch):
    """The broken twin: draws that are a hundredth as wide as the peak do not see its mass."""
    monkeypatch.setattr(peaks, "INFLATION", 1e-4)
    with pytest.raises(AssertionError, match="is off"):
        check(spiked, 2 + np.log(0.9), resolution=np.inf)


def test_a_spike_beside_all_paths_is_not_found():
    def beside(u):
        plateau = jnp.log(0.1) + norm.logpdf(u, CENTRE, 0.5).sum()
        return jnp.logaddexp(plateau, jnp.log(0.9) + norm.logpdf(u, CENTRE + 0.5, 0.001).sum())

    check(beside, np.log(0.1))


def test_densities_that_are_not_finite():
    def half(u):
        return jnp.where(u[0] > CENTRE[0] - 1, norm.logpdf(u, CENTRE, 0.1).sum(), jnp.nan)

    check(half, 0.0, scale=0.1)


def test_the_highest_particles():
    height = jnp.arange(20.0)
    flat = Particles(height[:, None], height, height, height)
    np.testing.assert_array_equal(highest(flat)[:, 0], 19 - np.arange(STARTS_PER_RUN))
    assert highest(jax.tree.map(lambda leaf: leaf[:3], flat)).shape == (3, 1)


def test_a_plateau_does_not_win_against_a_peak():
    """Far from the peak the target is flat and low, where Laplace's method has no meaning."""

    def flat_outside(u):
        return jnp.logaddexp(norm.logpdf(u, CENTRE, 0.01).sum(), -4.0)

    scattered = (20.0 * starts()).at[0].set(CENTRE)
    peak = jax.jit(find_peak, static_argnums=1)(KEY, flat_outside, scattered, jnp.full(3, 0.5))
    np.testing.assert_allclose(peak.position, CENTRE, atol=2e-3)


def test_curvature_that_is_not_finite_has_no_mass():
    log_mass, _, _ = laplace(lambda u: -(jnp.abs(u).sum() ** 1.5), jnp.zeros(2), jnp.ones(2))
    assert log_mass == -jnp.inf


def test_derivatives_of_their_own_are_followed():
    @jax.custom_vjp
    def half_square(u):
        return 0.5 * u @ u

    half_square.defvjp(lambda u: (half_square(u), u), lambda u, bar: (bar * u,))
    log_mass, _, curved = laplace(lambda u: -half_square(u), jnp.zeros(2), jnp.ones(2))
    np.testing.assert_allclose(log_mass, np.log(2 * np.pi), rtol=1e-5)
    assert curved
