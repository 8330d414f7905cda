"""Moves leave their density invariant."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.statistics import Mixture, assert_within, mean_and_error, moments

from numpyro_disco.tempering import kernels
from numpyro_disco.tempering.kernels import KERNELS, Kernel
from numpyro_disco.tempering.state import Chains, Level, Tuning
from numpyro_disco.tempering.whitening import spread

pytestmark = pytest.mark.statistics

NUM_CHAINS = 20_000
# Two scales, unequal weights, skewed; most long steps from the narrow component are rejected.
WIDE = [[1.0, 0.6, 0.0], [0.6, 0.8, -0.2], [0.0, -0.2, 1.2]]
MIXTURE = Mixture([0.7, 0.3], [[-0.5, 0.3, 0.0], [0.8, -0.4, 0.5]], [WIDE, 0.01 * np.eye(3)])
GAUSSIAN = Mixture([1.0], [[0.5, -0.2, 0.1]], [[[0.3, 0.1, 0.0], [0.1, 0.2, 0.0], [0, 0, 0.05]]])
BASE = Mixture([1.0], [[0.2, 0.0, -0.3]], [[[2.0, 0.3, 0.0], [0.3, 1.5, 0.0], [0, 0, 4.0]]])
EVERY = np.ones(3, np.float32)
SOME = np.array([1, 0, 1], np.float32)


def parameters(mixture):
    """Log heights, means and precisions of two components, so one program serves all targets."""
    repeats = 2 // len(mixture.weights)
    log_det = np.linalg.slogdet(mixture.covariances)[1]
    height = np.log(mixture.weights / repeats) - 0.5 * log_det - 1.5 * np.log(2 * np.pi)
    stacked = (height, mixture.means, np.linalg.inv(mixture.covariances))
    return tuple(np.concatenate([leaf] * repeats).astype(np.float32) for leaf in stacked)


def log_density(u, heights, means, precisions):
    residual = u - means
    # Not two sums of products in a row: jaxlib 0.10.2 gets those wrong on a CPU from the 16385th
    # number on (https://github.com/jax-ml/jax/issues/39103).
    square = jnp.einsum("ki,kij,kj->k", residual, precisions, residual)
    return jax.scipy.special.logsumexp(heights - 0.5 * square)


def make_run(log_target_of=log_density):
    """Compile many moves with fixed tuning, the first of them without a gradient."""

    @partial(jax.jit, static_argnames=("name", "particles_at_once"))
    def run(
        key, position, target, b, tuning, factor, free, *, name, num_moves, particles_at_once=None
    ):
        def log_densities(u):
            return log_density(u, *parameters(BASE)), log_target_of(u, *target)

        kernel = Kernel(name, log_densities, 32, particles_at_once)
        level = Level(b, factor, free, jnp.ones(()))

        def body(index, carry):
            chains, sum_probability, _ = carry
            stale = (index == 0).astype(int)
            move = kernel.move(jax.random.fold_in(key, index), chains, stale, tuning, level)
            return move.chains, sum_probability + move.acceptance, move.num_gradients

        log_base, log_target = jax.vmap(log_densities)(position)
        chains = Chains(position, log_base, log_target, jnp.zeros_like(position))
        start = (chains, jnp.zeros(len(position)), jnp.zeros((), int))
        chains, sum_probability, gradients = jax.lax.fori_loop(0, num_moves, body, start)
        return chains, sum_probability / num_moves, gradients

    return run


run = make_run()
factor_of = jax.jit(spread, static_argnums=3)


def tempered(b):
    """Normalised BASE^(1 - b) GAUSSIAN^b."""
    precision = [np.linalg.inv(mixture.covariances[0]) for mixture in (BASE, GAUSSIAN)]
    covariance = np.linalg.inv((1 - b) * precision[0] + b * precision[1])
    pull = (1 - b) * precision[0] @ BASE.means[0] + b * precision[1] @ GAUSSIAN.means[0]
    return Mixture([1.0], [covariance @ pull], [covariance])


def problem(case, seed):
    """Exact draws, the target's parameters, b, the free coordinates, and a log density."""
    rng = np.random.default_rng(seed)
    if case == "mixture":
        return MIXTURE.draw(rng, NUM_CHAINS), parameters(MIXTURE), 1.0, EVERY, MIXTURE
    if case == "clamped":
        rest = MIXTURE.condition([1], [-0.3])
        position = np.insert(rest.draw(rng, NUM_CHAINS), 1, -0.3, axis=1)
        return position, parameters(MIXTURE), 1.0, SOME, MIXTURE
    path = tempered(0.3)
    return path.draw(rng, NUM_CHAINS), parameters(GAUSSIAN), 0.3, EVERY, path


# Step size, length and number of moves for each kernel: steps that are often rejected, with
# trajectories of several leapfrogs.
SETTINGS = {"hmc": (0.5, 1.0, 4), "mala": (0.35, 1.0, 8), "random_walk": (0.5, 1.0, 12)}


def moved(run, name, case, dense):
    position, target, b, free, density = problem(case, seed=1)
    position = position.astype(np.float32)
    step, length, num_moves = SETTINGS[name]
    # The tempered Gaussian has no narrow part.
    scale = {"mixture": 1.0, "tempered": 1.8 if name == "hmc" else 3.0, "clamped": 0.5}[case]
    factor = factor_of(position, np.full(NUM_CHAINS, 1 / NUM_CHAINS, np.float32), free, dense)
    tuning = Tuning(jnp.log(scale * step), jnp.log(scale * length))
    key = jax.random.key(2, impl="rbg")
    result = run(
        key, position, target, jnp.float32(b), tuning, factor, free, name=name, num_moves=num_moves
    )
    return position, density, result


def functions(x, density):
    """Functions that a broken move would change: moments, and the distribution of the density."""
    height = density.log_prob(x)[:, None]
    near = np.linalg.norm(x - MIXTURE.means[1], axis=1)[:, None]
    inside = [near < radius for radius in (0.1, 0.2, 0.4)]
    return np.concatenate([moments(x), height, np.abs(height + 3), *inside], axis=1)


def check_invariant(position, density, chains, resolution=0.08):
    """Check that moves of exact draws do not change the mean of any function."""
    before = functions(position, density)
    scale = before.std(0)
    kept = scale > 1e-6  # not those of clamped coordinates alone
    change = (functions(chains.position, density) - before)[:, kept] / scale[kept]
    assert_within(*mean_and_zero(change), resolution=resolution, label="change of the means")


def mean_and_zero(samples):
    mean, error = mean_and_error(samples)
    return mean, 0.0, error


@jax.jit
def mixture_gradient(position):
    return jax.vmap(jax.grad(log_density), (0, None, None, None))(position, *parameters(MIXTURE))


@pytest.mark.parametrize(
    "case, dense", [("mixture", True), ("mixture", False), ("clamped", True), ("tempered", True)]
)
@pytest.mark.parametrize("name", KERNELS)
def test_moves_leave_the_density_invariant(name, case, dense):
    position, density, (chains, probability, gradients) = moved(run, name, case, dense)
    acceptance = float(probability.mean())
    assert 0.2 < acceptance < 0.9, f"the test needs acceptances and rejections; {acceptance}"
    assert np.mean(np.any(chains.position != position, axis=1)) > 0.5
    check_invariant(position, density, chains)
    if case == "clamped":
        np.testing.assert_array_equal(chains.position[:, 1], position[:, 1])
    assert gradients == {"hmc": 2, "mala": 1, "random_walk": 0}[name]
    # Densities and gradients belong to the position, after acceptance and rejection alike.
    if case == "mixture":
        target, base = density.log_prob(chains.position), BASE.log_prob(chains.position)
        np.testing.assert_allclose(chains.log_target, target, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(chains.log_base, base, rtol=1e-4, atol=1e-4)
        if name != "random_walk":
            expected = mixture_gradient(chains.position)
            np.testing.assert_allclose(chains.gradient, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["hmc", "random_walk"])
def test_moves_without_rejections_fail(monkeypatch, name):
    monkeypatch.setattr(kernels, "accept_probability", jnp.ones_like)
    position, density, (chains, *_) = moved(make_run(), name, "mixture", True)
    with pytest.raises(AssertionError, match="is off"):
        check_invariant(position, density, chains, resolution=np.inf)


def test_gradients_that_stay_stale_fail(monkeypatch):
    """Rejected chains keep the gradient that they came with, even if it is that of another b."""
    leapfrogs = kernels.leapfrogs

    def forgetful(log_densities, chains, *args):
        return leapfrogs(log_densities, chains, *args)._replace(start=chains)

    monkeypatch.setattr(kernels, "leapfrogs", forgetful)
    position, density, (chains, *_) = moved(make_run(), "hmc", "mixture", True)
    with pytest.raises(AssertionError, match="is off"):
        check_invariant(position, density, chains, resolution=np.inf)
    wrong = ~np.isclose(chains.gradient, mixture_gradient(chains.position), rtol=1e-3, atol=1e-3)
    assert wrong.any(1).mean() > 0.05


def walled(u):
    """A Gaussian with a NaN gradient past u_0 = 1, NaN past u_1 = 1, and -inf past u_2 = 1."""
    no_gradient = 0 * jnp.sqrt(jnp.maximum(1 - u[0], 0))
    no_value = 0 * jnp.log(1 - u[1])
    return -0.5 * (u**2).sum() + no_gradient + no_value + jnp.where(u[2] < 1, 0.0, -jnp.inf)


def boundless(u):
    """A Gaussian whose log density overflows past u_0 = 1."""
    return -0.5 * (u**2).sum() + jnp.where(u[0] < 1, 0.0, jnp.inf)


def at_walls(name, target, seed=3):
    """Exact draws inside all walls, and the same chains after a few moves."""
    position = np.random.default_rng(seed).standard_normal((80_000, 3)).astype(np.float32)
    position = position[(position < 0.999).all(1)][:20_000]
    tuning, key = Tuning(jnp.log(0.8), jnp.log(1.6)), jax.random.key(4, impl="rbg")
    chains, probability, _ = make_run(log_target_of=target)(
        key, position, (), jnp.ones(()), tuning, EVERY, EVERY, name=name, num_moves=4
    )
    assert 0.2 < probability.mean() < 0.8
    return position, chains


@pytest.mark.parametrize("name", ["hmc", "random_walk"])
def test_non_finite_proposals_are_rejected(name):
    position, chains = at_walls(name, walled)
    end = np.asarray(chains.position)
    assert np.isfinite(end).all() and np.isfinite(chains.log_target).all()
    assert (end[:, 1:] < 1).all()
    assert (end != position).any(1).mean() > 0.7
    # No wall for a density without a gradient.
    assert (end[:, 0] > 1).mean() > 0.02
    end, position = end[:, 1:], position[:, 1:]
    change = moments(end) - moments(position)
    assert_within(*mean_and_zero(change), resolution=0.15, label="change of the means")


def test_infinite_densities_are_rejected():
    _, chains = at_walls("random_walk", boundless)
    assert np.isfinite(chains.log_target).all()


def test_fewer_particles_at_once_change_nothing():
    position = MIXTURE.draw(np.random.default_rng(5), 20).astype(np.float32)
    tuning, key = Tuning(jnp.log(0.3), jnp.log(1.5)), jax.random.key(6, impl="rbg")
    move = partial(run, key, position, parameters(MIXTURE), jnp.float32(0.7), tuning, EVERY, EVERY)
    whole, probability, _ = move(name="hmc", num_moves=2)
    parts, parts_probability, _ = move(name="hmc", num_moves=2, particles_at_once=7)
    # Sums in a different order differ in the last digits.
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(probability, parts_probability, rtol=1e-4, atol=1e-4)
    assert (np.asarray(whole.position) != position).any()
