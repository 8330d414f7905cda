"""Moves leave their density invariant, and are tuned to go far for what they cost."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.statistics import Mixture, assert_within, mean_and_error, moments

from numpyro_disco.tempering import kernels
from numpyro_disco.tempering.kernels import (
    KERNELS,
    Chains,
    Kernel,
    Tuning,
    in_batches,
    initial_tuning,
    spread,
)

pytestmark = pytest.mark.statistics

NUM_CHAINS = 20_000
# Two scales, unequal weights, a skewed whole; the narrow component refuses most long steps.
WIDE = [[1.0, 0.6, 0.0], [0.6, 0.8, -0.2], [0.0, -0.2, 1.2]]
MIXTURE = Mixture([0.7, 0.3], [[-0.5, 0.3, 0.0], [0.8, -0.4, 0.5]], [WIDE, 0.01 * np.eye(3)])
GAUSSIAN = Mixture([1.0], [[0.5, -0.2, 0.1]], [[[0.3, 0.1, 0.0], [0.1, 0.2, 0.0], [0, 0, 0.05]]])
BASE = Mixture([1.0], [[0.2, 0.0, -0.3]], [[[2.0, 0.3, 0.0], [0.3, 1.5, 0.0], [0, 0, 4.0]]])
EVERY = np.ones(3, np.float32)
SOME = np.array([1, 0, 1], np.float32)


def parameters(mixture):
    """Log heights, means and precisions of two components: one program serves every target."""
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


def make_run(kernel_class=Kernel, log_target_of=log_density):
    """Many moves under fixed tuning, the first of them without a gradient; compiled for itself."""

    @partial(jax.jit, static_argnames=("name", "batch_size"))
    def run(key, position, target, b, tuning, factor, free, *, name, num_moves, batch_size=None):
        def log_densities(u):
            return log_density(u, *parameters(BASE)), log_target_of(u, *target)

        kernel = kernel_class(name, log_densities, 32, batch_size)

        def body(index, carry):
            chains, sum_probability, _ = carry
            chains, _, probability, gradients = kernel.move(
                jax.random.fold_in(key, index),
                chains,
                (index == 0).astype(int),
                b,
                tuning,
                factor,
                free,
                jnp.ones(()),
            )
            return chains, sum_probability + probability, gradients

        log_base, log_target = jax.vmap(log_densities)(position)
        chains = Chains(position, log_base, log_target, jnp.zeros_like(position))
        start = (chains, jnp.zeros(len(position)), jnp.zeros((), int))
        chains, sum_probability, gradients = jax.lax.fori_loop(0, num_moves, body, start)
        return chains, sum_probability / num_moves, gradients

    return run


run = make_run()
factor_of = jax.jit(spread, static_argnums=3)


def tempered(b):
    """base^(1 - b) GAUSSIAN^b, normalised."""
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


# Steps that are often refused, with trajectories of several leapfrogs: per kernel, log step and
# log length, and how many moves.
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
    """What a broken move could change: moments, and how the density is distributed."""
    height = density.log_prob(x)[:, None]
    near = np.linalg.norm(x - MIXTURE.means[1], axis=1)[:, None]
    inside = [near < radius for radius in (0.1, 0.2, 0.4)]
    return np.concatenate([moments(x), height, np.abs(height + 3), *inside], axis=1)


def check_invariant(position, density, chains, resolution=0.08):
    """The mean of each function before and after, of chains that started from exact draws."""
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
    assert 0.2 < acceptance < 0.9, f"the test wants moves and refusals; acceptance {acceptance}"
    assert np.mean(np.any(chains.position != position, axis=1)) > 0.5
    check_invariant(position, density, chains)
    if case == "clamped":
        np.testing.assert_array_equal(chains.position[:, 1], position[:, 1])
    assert gradients == {"hmc": 2, "mala": 1, "random_walk": 0}[name]
    # What is carried along belongs to the position, after moves and refusals alike.
    if case == "mixture":
        target, base = density.log_prob(chains.position), BASE.log_prob(chains.position)
        np.testing.assert_allclose(chains.log_target, target, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(chains.log_base, base, rtol=1e-4, atol=1e-4)
        if name != "random_walk":
            expected = mixture_gradient(chains.position)
            np.testing.assert_allclose(chains.gradient, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["hmc", "random_walk"])
def test_moves_without_refusals_fail(monkeypatch, name):
    monkeypatch.setattr(kernels, "accept_probability", jnp.ones_like)
    position, density, (chains, *_) = moved(make_run(), name, "mixture", True)
    with pytest.raises(AssertionError, match="is off"):
        check_invariant(position, density, chains, resolution=np.inf)


class Forgetful(Kernel):
    """Refused chains keep the gradient that they came with, stale or not."""

    def _leapfrogs(self, chains, *args):
        _, *rest = super()._leapfrogs(chains, *args)
        return chains, *rest


def test_gradients_that_stay_stale_fail():
    position, density, (chains, *_) = moved(make_run(Forgetful), "hmc", "mixture", True)
    with pytest.raises(AssertionError, match="is off"):
        check_invariant(position, density, chains, resolution=np.inf)
    wrong = ~np.isclose(chains.gradient, mixture_gradient(chains.position), rtol=1e-3, atol=1e-3)
    assert wrong.any(1).mean() > 0.05


def walled(u):
    """A Gaussian with no gradient beyond u_0 = 1, no value beyond u_1 = 1, nothing past u_2 = 1."""
    no_gradient = 0 * jnp.sqrt(jnp.maximum(1 - u[0], 0))
    no_value = 0 * jnp.log(1 - u[1])
    return -0.5 * (u**2).sum() + no_gradient + no_value + jnp.where(u[2] < 1, 0.0, -jnp.inf)


def boundless(u):
    """A Gaussian whose logarithm overflows beyond u_0 = 1."""
    return -0.5 * (u**2).sum() + jnp.where(u[0] < 1, 0.0, jnp.inf)


def at_walls(name, target, seed=3):
    """Exact draws inside of all walls, and the same chains after a few moves."""
    position = np.random.default_rng(seed).standard_normal((80_000, 3)).astype(np.float32)
    position = position[(position < 0.999).all(1)][:20_000]
    tuning, key = Tuning(jnp.log(0.8), jnp.log(1.6)), jax.random.key(4, impl="rbg")
    chains, probability, _ = make_run(log_target_of=target)(
        key, position, (), jnp.ones(()), tuning, EVERY, EVERY, name=name, num_moves=4
    )
    assert 0.2 < probability.mean() < 0.8
    return position, chains


@pytest.mark.parametrize("name", ["hmc", "random_walk"])
def test_what_is_not_a_number_is_refused(name):
    position, chains = at_walls(name, walled)
    end = np.asarray(chains.position)
    assert np.isfinite(end).all() and np.isfinite(chains.log_target).all()
    assert (end[:, 1:] < 1).all()
    assert (end != position).any(1).mean() > 0.7
    if name == "random_walk":  # it needs no gradient
        assert (end[:, 0] > 1).mean() > 0.02
        end, position = end[:, 1:], position[:, 1:]
    else:
        assert (end[:, 0] <= 1).all()
    change = moments(end) - moments(position)
    assert_within(*mean_and_zero(change), resolution=0.15, label="change of the means")


def test_an_infinite_density_is_refused():
    _, chains = at_walls("random_walk", boundless)
    assert np.isfinite(chains.log_target).all()


def test_chunks_change_nothing():
    position = MIXTURE.draw(np.random.default_rng(5), 20).astype(np.float32)
    tuning, key = Tuning(jnp.log(0.3), jnp.log(1.5)), jax.random.key(6, impl="rbg")
    move = partial(run, key, position, parameters(MIXTURE), jnp.float32(0.7), tuning, EVERY, EVERY)
    whole, probability, _ = move(name="hmc", num_moves=2)
    chunks, chunk_probability, _ = move(name="hmc", num_moves=2, batch_size=7)
    # Sums in another order differ in the last digits.
    for one, other in zip(whole, chunks, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(probability, chunk_probability, rtol=1e-4, atol=1e-4)
    assert (np.asarray(whole.position) != position).any()


def test_batches_keep_order_and_bound_memory():
    sizes = []

    def function(arrays):
        sizes.append(len(arrays["a"]))
        return arrays["a"] + 1, arrays["b"].sum(1)

    for count, batch_size in ((1, 1), (10, 1), (10, 3), (10, 9), (10, 10), (10, None)):
        arrays = {"a": jnp.arange(count), "b": jnp.arange(2 * count).reshape(count, 2)}
        first, second = in_batches(function, arrays, batch_size)
        np.testing.assert_array_equal(first, np.arange(count) + 1)
        np.testing.assert_array_equal(second, 4 * np.arange(count) + 1)
        assert sizes[-1] <= (batch_size or count)


def weighted_covariance(position, weights):
    return np.cov(np.asarray(position, np.float64), rowvar=False, aweights=weights, bias=True)


@pytest.mark.parametrize("free", [EVERY, SOME], ids=["all free", "one clamped"])
def test_spread_is_the_covariance(free):
    rng = np.random.default_rng(7)
    position = (MIXTURE.draw(rng, 3000) * [1.0, 30.0, 0.01] + [0.0, 5.0, 3.0]).astype(np.float32)
    weights = rng.exponential(size=3000)
    weights = (weights / weights.sum()).astype(np.float32)
    expected = weighted_covariance(position, weights)
    factor = np.asarray(factor_of(position, weights, free, True), np.float64)
    np.testing.assert_array_equal(factor, np.tril(factor))
    assert (np.diagonal(factor) > 0).all()
    scale = np.sqrt(np.diagonal(expected))
    expected = np.where(np.outer(free, free) > 0, expected, np.eye(3))
    scale = np.where(free > 0, scale, 1.0)
    correlation = expected / np.outer(scale, scale)
    np.testing.assert_allclose(factor @ factor.T / np.outer(scale, scale), correlation, atol=1e-4)
    deviation = factor_of(position, weights, free, False)
    np.testing.assert_allclose(deviation, scale, rtol=1e-4)
    # Weights count: without them the covariance is another one.
    equal = np.asarray(factor_of(position, np.full(3000, 1 / 3000, np.float32), free, True))
    assert np.abs((equal - factor) / scale).max() > 5e-3


def test_spread_of_few_particles_is_shrunk_to_the_diagonal():
    rng = np.random.default_rng(8)
    position = rng.standard_normal((40, 3)).astype(np.float32)
    position[:, 1] = position[:, 0]
    weights = np.zeros(40, np.float32)
    weights[:3] = 1 / 3
    factor = np.asarray(factor_of(position, weights, EVERY, True))
    deviation = np.asarray(factor_of(position, weights, EVERY, False))
    np.testing.assert_allclose(factor, np.diag(deviation), rtol=1e-5, atol=1e-6)


def singular(kind, count, dimension):
    rng = np.random.default_rng(9)
    x = rng.standard_normal((count, dimension))
    if kind == "constant columns":
        x[:, 1:] = [0.0, 0.1, 3e4][: dimension - 1]
    elif kind == "one place":
        x[:] = x[0]
    elif kind == "two places":
        x = x[np.arange(count) % 2]
    elif kind == "tiny":
        x *= 1e-15
    elif kind == "narrow pair":
        x[:, 1] = x[:, 0] + 1e-3 * x[:, 1]
    elif kind == "narrow ridge":
        x = x[:, :1] * rng.standard_normal(dimension) + 1e-3 * x
    return x.astype(np.float32)


@pytest.mark.parametrize(
    "kind, count, dimension",
    [
        ("constant columns", 1000, 4),
        ("tiny", 1000, 4),
        ("narrow pair", 100, 4),
        ("narrow ridge", 100, 10),
        ("regular", 8, 10),
        ("regular", 2, 10),
        ("one place", 8000, 10),
        ("two places", 8000, 10),
        ("narrow pair", 8000, 10),
        ("narrow ridge", 8000, 10),
    ],
)
def test_spread_of_nearly_singular_positions_is_finite(kind, count, dimension):
    position = singular(kind, count, dimension)
    free = np.ones(dimension, np.float32)
    for seed in range(5):
        weights = np.random.default_rng(seed).exponential(size=count)
        weights = (weights / weights.sum()).astype(np.float32)
        deviation = factor_of(position, weights, free, False)
        assert np.isfinite(deviation).all() and (np.asarray(deviation) > 0).all()
        factor = np.asarray(factor_of(position, weights, free, True))
        assert np.isfinite(factor).all()
        assert (np.diagonal(factor) > 0).all()


@partial(jax.jit, static_argnames="name")
def tuned(key, tuning, *, name):
    """200 moves in a 10-D standard Gaussian: the tuning, acceptance and length of the last 50."""

    def log_densities(u):
        height = -0.5 * (u**2).sum()
        return height, height

    kernel = Kernel(name, log_densities, 32, None)
    position = jax.random.normal(key, (512, 10))
    height = -0.5 * (position**2).sum(1)
    one = jnp.ones(10)

    def body(index, carry):
        chains, tuning, acceptance, length = carry
        key_of_move, share = jax.random.fold_in(key, index), jnp.where(index < 150, 0.0, 1 / 50)
        chains, next_tuning, probability, gradients = kernel.move(
            key_of_move, chains, (index == 0).astype(int), 1.0, tuning, one, one, jnp.sqrt(5.0)
        )
        acceptance += share * probability.mean()
        length += share * gradients * jnp.exp(tuning.log_step)
        return chains, next_tuning, acceptance, length

    chains = Chains(position, height, height, jnp.zeros_like(position))
    return jax.lax.fori_loop(0, 200, body, (chains, tuning, 0.0, 0.0))[1:]


@pytest.mark.parametrize("name, least, most", [("hmc", 0.5, 0.95), ("random_walk", 0.15, 0.45)])
def test_tuning_finds_sensible_moves(name, least, most):
    key, found = jax.random.key(10, impl="rbg"), []
    start = initial_tuning(10, jnp.float32)
    for off in (-2.0, 0.0, 2.0):
        first = Tuning(start.log_step + off, start.log_length - off / 2)
        tuning, acceptance, length = tuned(key, first, name=name)
        assert least < acceptance < most, f"acceptance {acceptance} from {off}"
        if name == "hmc":
            assert 0.8 < length < 3, f"length {length} from {off}"
            assert tuning.log_step <= tuning.log_length
        found.append(float(tuning.log_step))
    assert np.ptp(found) < 0.4, f"where it starts should not matter: {found}"
