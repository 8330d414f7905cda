"""Levels of discrete columns: other levels of a row, and the loss of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_disco.training.rows.levels import (
    MAX_LEVELS_COMPARED,
    LevelSets,
    at_other_levels,
    level_log_shares,
    level_loss,
    random_level_sets,
)

NUM_LEVELS = (0, 3, 2)


def test_every_other_level_is_tried_and_no_more():
    rows = jnp.array([[0.5, 0.0, 1.0], [0.1, 2.0, 0.0]])
    sets = random_level_sets(np.random.default_rng(0), NUM_LEVELS, 40)
    assert set(sets.column) == {1, 2}
    for index in range(40):
        one = LevelSets(*(leaf[index] for leaf in sets))
        others = np.asarray(at_other_levels(rows, one, NUM_LEVELS))
        column = one.column
        assert others.shape == (2, 2, 3)
        np.testing.assert_array_equal(np.delete(others - rows[:, None], column, axis=2), 0)
        for row, found in zip(np.asarray(rows), others[:, :, column], strict=True):
            levels = {0.0, 1.0, 2.0} if column == 1 else {0.0, 1.0}
            # -1 stands for a level that the column does not have.
            assert set(found) - {-1.0} == levels - {row[column]}


def probabilities_learned(energy, rng, num_steps=400):
    """Levels drawn from exp(-energy), and the minimum over slopes of the mean loss of levels."""
    num_levels = (len(energy),)
    own = rng.choice(len(energy), num_steps, p=np.exp(-energy))
    sets = random_level_sets(rng, num_levels, num_steps)
    rows = jnp.asarray(own[:, None], jnp.float32)
    others = jax.vmap(lambda row, one: at_other_levels(row, one, num_levels))(rows, sets)
    return own, np.asarray(others)[:, :, 0].astype(int)


def test_the_loss_is_least_at_the_probabilities_also_of_subsets():
    """Twelve levels, of which eight compete; the exact gradient at the truth is zero on average."""
    rng = np.random.default_rng(0)
    energy = -np.log(rng.dirichlet(np.ones(12)))
    own, others = probabilities_learned(energy, rng, 20_000)
    assert others.shape[1] == MAX_LEVELS_COMPARED - 1

    def losses(energy):
        return jax.vmap(lambda o, rest: level_loss(energy[o], energy[rest]))(own, others)

    gradient = jax.jit(jax.jacfwd(losses))(jnp.asarray(energy, jnp.float32))
    gradient = np.asarray(gradient, np.float64)
    error = gradient.std(0) / np.sqrt(len(own))
    assert (np.abs(gradient.mean(0)) <= 5 * error).all() and (5 * error < 0.02).all()
    # Broken twin: the levels of a row among the same few, whatever its own.
    fixed = np.tile(np.arange(7), (len(own), 1))
    others = fixed
    gradient = np.asarray(jax.jit(jax.jacfwd(losses))(jnp.asarray(energy, jnp.float32)))
    assert (np.abs(gradient.mean(0)) > 5 * gradient.std(0) / np.sqrt(len(own))).any()


def test_a_level_that_is_none_has_no_part():
    loss = level_loss(jnp.float32(1.0), jnp.array([2.0, jnp.inf]))
    assert float(loss) == pytest.approx(np.log1p(np.exp(-1.0)), rel=1e-5)


def test_shares_of_levels():
    rows = np.array([[0.5, 0.0, 1.0], [1.5, 2.0, 1.0], [2.5, 2.0, 0.0]], np.float32)
    shares = np.log([1.5 / 4.5, 0.5 / 4.5, 2.5 / 4.5]), np.log([1.5 / 4, 2.5 / 4])
    expected = shares[0][[0, 2, 2]] + shares[1][[1, 1, 0]]
    np.testing.assert_allclose(level_log_shares(rows, rows, NUM_LEVELS), expected)
