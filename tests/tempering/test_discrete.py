"""Gibbs moves of discrete coordinates, against exact conditionals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.statistics import assert_within, mean_and_error

from numpyro_disco.tempering.discrete import draw_levels
from numpyro_disco.tempering.program import tempered_smc
from numpyro_disco.tempering.settings import TemperingSettings
from numpyro_disco.tempering.state import Chains

LEVELS = (3, 0, 2)
BASE = np.log([0.2, 0.5, 0.3])
PULL = np.array([1.0, -2.0, 0.5])
NUM_CHAINS = 20_000


def log_densities(u):
    """A table of levels as the base, tilted by the continuous coordinate as the target."""
    log_base = jnp.asarray(BASE)[u[0].astype(int)] - 0.5 * u[1] ** 2 + 0.4 * u[2]
    return log_base, log_base + jnp.asarray(PULL)[u[0].astype(int)] * u[1] + 0.7 * u[0] * u[2]


def start(first=0.0):
    position = jnp.tile(jnp.array([first, 0.8, 1.0]), (NUM_CHAINS, 1))
    log_base, log_target = jax.vmap(log_densities)(position)
    return Chains(position, log_base, log_target, jnp.zeros_like(position))


def drawn(free, b=0.5, densities=log_densities, chains=None):
    chains = start() if chains is None else chains
    return jax.jit(draw_levels, static_argnums=(4, 5, 6))(
        jax.random.key(0), chains, jnp.float32(b), jnp.asarray(free), LEVELS, densities, None
    )


def test_levels_have_the_exact_conditional():
    chains = drawn([1.0, 1.0, 0.0])
    logits = BASE + 0.5 * (PULL * 0.8 + 0.7 * np.arange(3))
    exact = np.exp(logits) / np.exp(logits).sum()
    found, error = mean_and_error(np.asarray(chains.position[:, :1]) == np.arange(3))
    assert_within(found, exact, error, resolution=0.03)
    # At another inverse temperature the conditional is another one.
    with pytest.raises(AssertionError, match="is off"):
        twin = np.asarray(drawn([1.0, 1.0, 0.0], b=0.9).position[:, :1])
        assert_within(*mean_and_error(twin == np.arange(3))[:1], exact, error, resolution=0.03)
    # What is held stays, and densities are those of the new points.
    np.testing.assert_array_equal(chains.position[:, 1:], start().position[:, 1:])
    log_base, log_target = jax.vmap(log_densities)(chains.position)
    np.testing.assert_allclose(chains.log_base, log_base, rtol=1e-6)
    np.testing.assert_allclose(chains.log_target, log_target, rtol=1e-6)


def test_coordinates_are_drawn_in_turn():
    chains = drawn([1.0, 1.0, 1.0])
    first = np.exp(BASE + 0.5 * (PULL * 0.8 + 0.7 * np.arange(3)))
    second = 1 / (1 + np.exp(-0.4 - 0.35 * np.arange(3)))
    joint = first / first.sum() * second
    position = np.asarray(chains.position)
    both = (position[:, :1] == np.arange(3)) & (position[:, 2:] == 1)
    found, error = mean_and_error(both)
    assert_within(found, joint, error, resolution=0.03)
    # The broken twin: both coordinates drawn from where the chains were.
    with pytest.raises(AssertionError, match="is off"):
        assert_within(found, first / first.sum() * second[0], error, resolution=0.03)


def test_levels_without_a_density_are_not_drawn():
    def partly(u):
        log_base, log_target = log_densities(u)
        none = jnp.where(u[0] == 1, -jnp.inf, jnp.where(u[0] == 2, jnp.nan, log_target))
        return log_base, jnp.where(u[2] == 1, none, -jnp.inf)

    chains = drawn([1.0, 1.0, 0.0], densities=partly, chains=start(1.0))
    assert (chains.position[:, 0] == 0).all()
    # Nothing moves where no level has a density.
    nowhere = drawn(
        [1.0, 1.0, 0.0], densities=lambda u: (jnp.zeros(()), jnp.nan * u[0]), chains=start(1.0)
    )
    np.testing.assert_array_equal(nowhere.position, start(1.0).position)


def eight_flags(u):
    """Eight flags that agree with each other and with the sign of a number, hardly ever in q."""
    spin = 2 * u[1:] - 1
    log_base = -0.5 * (u[0] / 3) ** 2 - jnp.log(3 * jnp.sqrt(2 * jnp.pi)) - 8 * jnp.log(2.0)
    return log_base, -2.0 * (u[0] - spin.sum() / 4) ** 2 + 0.25 * (spin[1:] * spin[:-1]).sum()


def run(num_runs=20):
    settings = TemperingSettings(num_particles=256, base_draws=4, num_sweeps=0)
    free, num_levels = jnp.ones(9), (0,) + 8 * (2,)

    def draw_base(key):
        number, flags = jax.random.split(key)
        codes = jax.random.bernoulli(flags, shape=(8,)).astype(jnp.float32)
        return jnp.concatenate([3 * jax.random.normal(number, (1,)), codes])

    def one(key):
        return tempered_smc(key, draw_base, eight_flags, settings, free=free, num_levels=num_levels)

    return jax.jit(lambda keys: jax.lax.map(one, keys))(
        jax.random.split(jax.random.key(0), num_runs)
    )


def exact_flags(coupling):
    """Log evidence of `eight_flags`, agreement of neighbours, and mean square of the number."""
    flags = np.array(np.meshgrid(*[[-1, 1]] * 8)).reshape(8, -1).T
    neighbours = flags[:, 1:] * flags[:, :-1]
    mass = np.exp(coupling * neighbours.sum(1))
    share = mass / mass.sum()
    spread = share @ (flags.sum(1) / 4) ** 2 + 0.25
    return np.log(mass.sum() * np.sqrt(np.pi / 2)), share @ neighbours.mean(1), spread


def test_runs_over_both_kinds_are_exact():
    log_z, agreement, spread = exact_flags(0.25)
    result = run()
    spin = 2 * np.asarray(result.position[..., 1:]) - 1
    found = np.stack(
        [
            (spin[..., 1:] * spin[..., :-1]).mean((1, 2)),
            (np.asarray(result.position[..., 0]) ** 2).mean(1),
            spin.mean((1, 2)),
            np.exp(np.asarray(result.log_normalizer) - log_z),
        ],
        axis=1,
    )
    mean, error = mean_and_error(found)
    gates = {"standard_error": error, "resolution": [0.15, 0.4, 0.4, 0.4], "sigmas": 7.4}
    assert_within(mean, [agreement, spread, 0.0, 1.0], **gates)
    # The broken twin: flags that are drawn without regard to each other.
    _, agreement, spread = exact_flags(0.0)
    with pytest.raises(AssertionError, match="is off"):
        assert_within(mean, [agreement, spread, 0.0, 1.0], **gates)
