"""The path between two densities, and the next inverse temperature on it."""

import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_disco.tempering.resampling import weight_ess
from numpyro_disco.tempering.schedule import log_path, next_inverse_temperature


def log_ratios(scale, num_particles=200):
    values = scale * np.random.default_rng(0).normal(size=num_particles)
    return values.astype(np.float32)


@pytest.mark.parametrize("scale", [3.0, 1e3, 1e7])
@pytest.mark.parametrize("current", [0.0, 0.3])
def test_step_keeps_the_effective_sample_size(scale, current):
    log_ratio = log_ratios(scale)
    b = float(next_inverse_temperature(log_ratio, jnp.float32(current), 0.5))
    assert current < b < 1
    if (b - current) > 1e-5 * current:  # else b has rounded to a multiple of its last digit
        np.testing.assert_allclose(weight_ess((b - current) * log_ratio), 100, rtol=0.05)


def test_a_step_reaches_one_if_the_weights_allow():
    assert next_inverse_temperature(log_ratios(0.1), jnp.float32(0.2), 0.5) == 1


def test_step_always_makes_progress():
    steep = np.where(np.arange(50) == 0, 0.0, -1e30).astype(np.float32)
    assert next_inverse_temperature(steep, jnp.float32(0.5), 0.9) > 0.5


def test_particles_of_weight_zero_do_not_shorten_the_step():
    log_ratio = log_ratios(3.0)
    alive = next_inverse_temperature(log_ratio, jnp.float32(0), 0.5)
    padded = np.concatenate([log_ratio, np.full(300, -np.inf, np.float32)])
    np.testing.assert_allclose(next_inverse_temperature(padded, jnp.float32(0), 0.5), alive)


def test_fewer_kept_particles_allow_a_longer_step():
    log_ratio = log_ratios(10.0)
    every = next_inverse_temperature(log_ratio, jnp.float32(0), 0.5)
    few = next_inverse_temperature(log_ratio, jnp.float32(0), 0.5, num_particles=20)
    assert every < few
    np.testing.assert_allclose(weight_ess(few * log_ratio), 10, rtol=0.05)


def test_path_is_linear_between_base_and_target():
    assert log_path(jnp.float32(1.0), jnp.float32(3.0), jnp.float32(0.25)) == 1.5


def test_infinite_density_without_weight_does_not_enter_the_path():
    inf, two = jnp.float32(jnp.inf), jnp.float32(2.0)
    assert log_path(-inf, two, jnp.float32(1)) == 2
    assert log_path(two, -inf, jnp.float32(0)) == 2
    assert log_path(two, -inf, jnp.float32(0.5)) == -jnp.inf
