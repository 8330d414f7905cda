"""DISCO as published in examples/paper: the library's loss and posterior, on the rivals' loop."""

import diffusion
import jax
import jax.numpy as jnp
import numpy as np
import processes
import published
import pytest
from flax import nnx
from helpers import statistics

from numpyro_disco.training.objectives.losses import disco_loss
from numpyro_disco.training.rows.row_posterior import row_posterior

SIGMA = 0.3
ROWS = jax.random.gamma(jax.random.key(0), 2.0, (60, 2))
POINTS = jnp.array([[1.0, 1.5], [4.0, 0.5], [2.0, 2.5]])
NETWORK = published.network_of(jax.random.key(1), 2, width=8, num_blocks=1, num_octaves=1)


def test_posterior_means_are_those_of_the_library():
    _, mean = published.row_posterior(jax.random.key(0), POINTS, ROWS, SIGMA, 1)
    expected = row_posterior(jax.random.key(0), POINTS, ROWS, SIGMA).mean
    np.testing.assert_allclose(mean, expected, rtol=1e-4)


def test_draws_of_the_posterior():
    """They are rows, and their mean is that of the posterior."""
    draws, mean = published.row_posterior(jax.random.key(0), POINTS, ROWS, SIGMA, 2000)
    assert np.isin(draws, ROWS).all()
    estimate, error = statistics.mean_and_error(np.asarray(draws, np.float64))
    error = np.maximum(error, 1e-4)
    statistics.assert_within(estimate, mean, error, resolution=0.1)
    _, wider = published.row_posterior(jax.random.key(0), POINTS, ROWS, 2 * SIGMA, 1)
    with pytest.raises(AssertionError, match="is off"):
        statistics.assert_within(estimate, wider, error, resolution=0.1)


def test_loss_is_that_of_the_library():
    """The sum over both kinds of targets, which untrained networks share."""
    levels = jnp.array([SIGMA, 0.5, 1.0])
    targets = POINTS + 0.1, POINTS * 0.5

    def score(x):
        return -jax.grad(published.energy_of(NETWORK, SIGMA))(x)

    expected = sum(
        disco_loss(score, x, target, level, SIGMA)
        for kind in targets
        for x, target, level in zip(POINTS, kind, levels, strict=True)
    ) / len(POINTS)
    loss = published.disco_loss(SIGMA)
    found = loss(published.both_kinds(NETWORK), None, None, (POINTS, levels, *targets))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_batches_have_new_draws_in_each_pass():
    """Four batches of a pool are passed over twice: points and means return, draws are new."""
    made = published.noisy_batches(processes.variance_exploding(5, SIGMA))
    points, levels, draws, mean = made(jax.random.key(0), ROWS, (8, 16))
    assert points.shape == draws.shape == mean.shape == (8, 16, 2)
    assert levels.shape == (8, 16)
    assert np.isin(draws, ROWS).all()

    def sorted_pass(leaf, half):
        flat = leaf[4 * half : 4 * half + 4].reshape(64, -1)
        return flat[np.argsort(points[4 * half : 4 * half + 4].reshape(64, 2)[:, 0])]

    np.testing.assert_array_equal(sorted_pass(mean, 0), sorted_pass(mean, 1))
    assert (sorted_pass(draws, 0) != sorted_pass(draws, 1)).any()


def squared_error(network, average, rng_key, batch):
    """A loss without randomness."""
    return ((jax.vmap(network)(batch) - batch[:, 0]) ** 2).mean()


def first_rows(rng_key, rows, shape):
    return jnp.broadcast_to(rows[: shape[1]], (*shape, rows.shape[1]))


def test_tables_side_by_side():
    """Each network is what it is when it is trained alone."""
    tables = jnp.stack([ROWS[:8], ROWS[8:16]])
    settings = {"num_steps": 100, "batch_size": 8, "batches": first_rows}
    train = diffusion.train
    both = train(jax.random.key(0), NETWORK, squared_error, tables, **settings)
    for index, rows in enumerate(tables):
        alone = train(jax.random.key(0), NETWORK, squared_error, rows, **settings)
        leaves = (jax.tree.leaves(nnx.state(found)) for found in (alone, both))
        for one, stacked in zip(*leaves, strict=True):
            np.testing.assert_allclose(stacked[index], one, rtol=1e-3, atol=1e-5)


def test_training_ends_with_its_seconds(capsys):
    """The first round compiles and is not counted."""
    settings = {"num_steps": 10_000, "batch_size": 8, "batches": first_rows, "seconds": 1e-6}
    diffusion.train(jax.random.key(0), NETWORK, squared_error, ROWS, **settings)
    assert " 200 steps in" in capsys.readouterr().out
