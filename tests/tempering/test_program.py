"""A whole run: shapes, clamped coordinates, reports and status."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_disco.tempering import moves
from numpyro_disco.tempering.noise import quick_key
from numpyro_disco.tempering.program import Program, tempered_smc
from numpyro_disco.tempering.settings import TemperingSettings
from numpyro_disco.tempering.status import COLLAPSED, CONVERGED, NON_FINITE, RUNNING

FREE = np.array([1.0, 0.0], np.float32)


def draw_base(rng_key):
    return jnp.where(FREE > 0, 2 * jax.random.normal(rng_key, (2,)), 0.25)


def log_densities(u):
    base = jax.scipy.stats.norm.logpdf(u[0], 0, 2)
    return base, jax.scipy.stats.norm.logpdf(u[0], 1, 0.1) + u[1]


@pytest.fixture(scope="module")
def run():
    """A result, and the inverse temperatures that were reported."""
    reported = []

    def report(b):
        jax.debug.callback(lambda b: reported.append(float(b)), b, ordered=True)

    settings = TemperingSettings(num_particles=64, base_draws=2, chain_length=2, target_ess=0.8)

    @jax.jit
    def once(rng_key):
        return tempered_smc(rng_key, draw_base, log_densities, settings, free=FREE, report=report)

    result = jax.block_until_ready(once(jax.random.key(0)))
    jax.effects_barrier()
    return result, reported


def test_clamped_coordinates_keep_their_values(run):
    result, _ = run
    assert result.position.shape == (64, 2)
    np.testing.assert_array_equal(result.position[:, 1], 0.25)
    assert len(np.unique(result.position[:, 0])) > 32
    assert result.status == CONVERGED


def test_densities_are_those_of_the_positions(run):
    result, _ = run
    base, target = jax.vmap(log_densities)(result.position)
    np.testing.assert_allclose(result.log_base, base, rtol=1e-5)
    np.testing.assert_allclose(result.log_target, target, rtol=1e-5)


def test_reports_and_history_agree(run):
    result, reported = run
    steps = int(result.num_steps)
    assert len(reported) == steps > 2
    np.testing.assert_array_equal(result.history.inverse_temperature[:steps], np.float32(reported))
    assert reported[-1] == 1 and (np.diff(reported) > 0).all()
    assert np.isnan(result.history.inverse_temperature[steps:]).all()
    assert result.history.log_normalizer[steps - 1] == result.log_path_normalizer


@pytest.mark.parametrize(
    "value, status", [(0.0, RUNNING), (-np.inf, COLLAPSED), (np.nan, NON_FINITE)]
)
def test_status_before_the_first_moves(value, status):
    def densities(u):
        base, target = log_densities(u)
        return base, target + value

    settings = TemperingSettings(num_particles=16, base_draws=1)
    program = Program(draw_base, densities, settings)
    assert jax.jit(program.init)(quick_key(jax.random.key(0))).status == status


def test_runs_under_vmap_are_those_of_one_run_each():
    def densities_towards(centre):
        def densities(u):
            base = jax.scipy.stats.norm.logpdf(u[0], 0, 2)
            return base, jax.scipy.stats.norm.logpdf(u[0], centre, 0.1)

        return densities

    @jax.jit
    def run(rng_key, centre):
        settings = TemperingSettings(num_particles=32, num_sweeps=0)
        return tempered_smc(rng_key, draw_base, densities_towards(centre), settings, free=FREE)

    # The first run is the shortest, and its key is no longer renewed after it has ended.
    keys, centres = jax.random.split(jax.random.key(5), 2), jnp.array([0.0, 30.0])
    alone = [run(*pair) for pair in zip(keys, centres, strict=True)]
    together = jax.vmap(run)(keys, centres)
    assert alone[0].num_steps < alone[1].num_steps
    for index, one in enumerate(alone):
        np.testing.assert_allclose(together.position[index], one.position, atol=1e-5)
        np.testing.assert_array_equal(together.num_steps[index], one.num_steps)


@pytest.mark.parametrize("bound", [moves.MOST_COPIES, 1.0], ids=["bound", "no bound"])
def test_few_particles_are_copies_at_the_end(monkeypatch, bound):
    """Moves along a narrow, curved ridge are often rejected. Without the bound, copies remain."""
    monkeypatch.setattr(moves, "MOST_COPIES", bound)

    def draw_wide(rng_key):
        return 2 * jax.random.normal(rng_key, (2,))

    def ridge(u):
        base = jax.scipy.stats.norm.logpdf(u, 0, 2).sum()
        return base, base + jax.scipy.stats.norm.logpdf(u[1], u[0] ** 2, 0.03)

    settings = TemperingSettings(num_particles=512, num_sweeps=0)
    result = jax.jit(lambda key: tempered_smc(key, draw_wide, ridge, settings))(jax.random.key(0))
    assert result.status == CONVERGED
    copies = 1 - len(np.unique(result.position, axis=0)) / 512
    assert (copies <= 0.01) == (bound < 1), copies
