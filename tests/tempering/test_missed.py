"""A region that draws of the base find and particles do not, on arrays with known masses."""

import jax.numpy as jnp
import numpy as np

from numpyro_disco.tempering import missed
from numpyro_disco.tempering.missed import NUM_HIGHEST, highest_draws, lost_a_mode
from numpyro_disco.tempering.state import Particles

RUNS, PARTICLES, DRAWS = 4, 1000, 32_000


def highest(log_target, log_base):
    """What runs keep of draws of the base, shape (runs, draws)."""
    return np.stack(
        [
            highest_draws(Particles(jnp.zeros((len(row), 1)), base, row, jnp.zeros(len(row))))
            for row, base in zip(jnp.asarray(log_target), jnp.asarray(log_base), strict=True)
        ]
    )


def test_the_highest_draws_and_their_weights():
    rng = np.random.default_rng(0)
    log_target, log_base = rng.normal(size=(2, 1, 100)).astype(np.float32)
    ((kept, log_weights),) = highest(log_target, log_base)
    order = np.argsort(-log_target[0])[:NUM_HIGHEST]
    np.testing.assert_array_equal(kept, log_target[0, order])
    expected = (log_target - log_base)[0, order] - np.log(100)
    np.testing.assert_allclose(log_weights, expected, rtol=1e-5)


def spiked(rng, num_met):
    """Runs that agree on half of the mass, log 0.5, with `num_met` draws in the other half.

    The density is -8 in the plateau, in which all particles are, and 2 in a spike that holds the
    other half of the mass. The base has density -9 in both.
    """
    log_target = rng.normal(-8, 0.1, (RUNS, DRAWS)).astype(np.float32)
    log_base = np.full_like(log_target, -9)
    log_target[0, :num_met] = 2
    return highest(log_target, log_base), rng.normal(-8, 0.1, (RUNS, PARTICLES))


def test_draws_in_a_spike_without_particles():
    rng = np.random.default_rng(1)
    log_masses = np.full(RUNS, np.log(0.5))
    assert not lost_a_mode(*spiked(rng, 0), log_masses)
    draws, particles = spiked(rng, 1)
    assert lost_a_mode(draws, particles, log_masses)
    # Ten of 4,000 particles came back, which is far from half of them.
    particles[1, :10] = 2.5
    assert lost_a_mode(draws, particles, log_masses)
    # A weight that is a hundredth of all mass is none of the particles' business.
    assert not lost_a_mode(draws, particles, log_masses + 5)


def test_particles_in_the_spike():
    draws, particles = spiked(np.random.default_rng(2), 1)
    particles[:, : PARTICLES // 2] = 2.5
    assert not lost_a_mode(draws, particles, np.full(RUNS, np.log(0.5)))


def gaussian(rng, width, dimension):
    """Runs that sample N(0, width) exactly from N(0, 1); true if a lost mode is reported."""
    u = rng.normal(size=(RUNS, DRAWS, dimension))
    log_base = -0.5 * (u**2).sum(-1) - 0.5 * dimension * np.log(2 * np.pi)
    log_target = -0.5 * (u**2).sum(-1) / width**2 - 0.5 * dimension * np.log(2 * np.pi * width**2)
    chi_square = rng.chisquare(dimension, (RUNS, PARTICLES))
    particles = -0.5 * chi_square - 0.5 * dimension * np.log(2 * np.pi * width**2)
    return lost_a_mode(highest(log_target, log_base), particles, np.zeros(RUNS))


WIDTHS = [(1.0, 2), (0.1, 2), (0.01, 2), (0.2, 5), (0.1, 5), (0.05, 5)]
"""From a target that is the base to one that few or none of the draws meet."""


def test_exact_particles_raise_no_alarm():
    rng = np.random.default_rng(3)
    assert not any(gaussian(rng, *case) for case in WIDTHS for _ in range(3))


def test_a_lower_bar_raises_alarms(monkeypatch):
    """The broken twin: the bar at half of what the region holds on average."""
    monkeypatch.setattr(missed, "LEAST_RATIO", 0.5)
    rng = np.random.default_rng(3)
    assert any(gaussian(rng, *case) for case in WIDTHS for _ in range(3))
