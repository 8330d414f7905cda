"""Halves of the particles, and the combination of two estimates of one mass."""

import jax.numpy as jnp
import numpy as np

from numpyro_disco.tempering.proposals import Proposal
from numpyro_disco.tempering.settings import TemperingSettings
from numpyro_disco.tempering.state import Particles
from numpyro_disco.tempering.sweep import (
    CARRIED_OVER,
    Swept,
    combine_estimates,
    join_halves,
    split_in_halves,
)


def test_halves_join_to_all_particles_with_each_mixture_from_the_other_half():
    rng = np.random.default_rng(0)
    position = np.concatenate([rng.normal(size=(20, 2)), 100 + rng.normal(size=(21, 2))])
    log_base, log_target, acceptance = rng.normal(size=(3, 41)).astype(np.float32)
    particles = Particles(position.astype(np.float32), log_base, log_target, acceptance)
    halves = split_in_halves(particles, jnp.ones(2))
    for leaf, expected in zip(join_halves(halves.particles, particles), particles, strict=True):
        np.testing.assert_array_equal(leaf, expected)
    assert (np.abs(halves.proposals.means[0]) > 50).all()
    assert (np.abs(halves.proposals.means[1]) < 50).all()
    own, mean = halves.log_probs(halves.particles.position)
    first = Proposal(*(leaf[0] for leaf in halves.proposals))
    expected = first.log_prob(halves.particles.position[0])
    np.testing.assert_allclose(own[0], expected, rtol=1e-4)
    # Each half is far from its mixture and in the other one.
    assert (mean > own).all()


def test_estimates_are_weighted_by_the_inverse_of_their_variances():
    settings = TemperingSettings(num_particles=100, base_draws=4, max_temperatures=5)
    ess = np.array([200.0, 40.0, 50.0, np.nan, np.nan], np.float32)
    swept = Swept(None, jnp.float32(1.0), jnp.float32(0.0), variance=jnp.float32(0.03))
    # A mean of n weights with effective size m has relative variance 1 / m - 1 / n.
    path = 1 / 200 - 1 / 400 + CARRIED_OVER * (1 / 40 - 1 / 100 + 1 / 50 - 1 / 100)
    share = np.array([1 / 0.03, 1 / path]) / (1 / 0.03 + 1 / path)
    expected = np.log(share @ np.exp([1.0, 0.4]))
    found = combine_estimates(jnp.float32(0.4), ess, 3, swept, settings)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_estimates_without_variance_count_equally():
    settings = TemperingSettings(num_particles=100, base_draws=4, max_temperatures=1)
    swept = Swept(None, jnp.float32(1.0), jnp.float32(0.0), variance=jnp.float32(-1e-9))
    found = combine_estimates(jnp.float32(0.0), jnp.array([400.0]), 1, swept, settings)
    np.testing.assert_allclose(found, np.log((1 + np.e) / 2), rtol=1e-5)
