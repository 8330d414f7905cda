"""Batches are spread over the rows and over draws of the reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_disco.references.redraws import column_directions
from numpyro_disco.training.batches import (
    STEPS_PER_ROUND,
    RowsAndDraws,
    random_rows,
    spread_rows,
)
from numpyro_disco.training.objectives.contrastive import contrastive_batches
from numpyro_disco.training.row_posterior import tree_order


def rows_of_whole_shares(rng_key, rows, size):
    """A broken `spread_rows`: shares end at whole rows, so rows are not equally likely."""
    ends = np.arange(size + 1) * len(rows) // size
    within = jax.random.uniform(rng_key, (size,)) * np.diff(ends)
    return rows[ends[:-1] + within.astype(int)]


def largest_deviation(pick, num_rows, size, num_batches=4000):
    """Largest deviation of a row's count from its mean, in standard errors of independent picks."""
    keys = jax.random.split(jax.random.key(0), num_batches)
    picked = jax.vmap(lambda key: pick(key, jnp.arange(num_rows), size))(keys)
    counts = np.bincount(np.asarray(picked).ravel(), minlength=num_rows)
    expected = num_batches * size / num_rows
    return np.abs(counts - expected).max() / np.sqrt(expected)


@pytest.mark.parametrize(("num_rows", "size"), [(150, 100), (100, 150), (90, 90), (7, 64), (64, 7)])
def test_each_row_is_as_likely_as_any_other(num_rows, size):
    # A Gaussian exceeds 5 once in 10,000 such tests.
    assert largest_deviation(spread_rows, num_rows, size) < 5


def test_unequal_chances_are_detected():
    assert largest_deviation(rows_of_whole_shares, 150, 100) > 10


def test_every_row_of_a_large_table_is_reached():
    """Above 2^24, single precision represents only every second whole number."""
    rows = jnp.arange(2**25 + 2, dtype=jnp.int32)
    picked = np.asarray(spread_rows(jax.random.key(0), rows, 4096))
    last_eighth = picked[picked > 7 * 2**22]
    assert len(last_eighth) > 400
    assert (last_eighth % 2).mean() == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(400))
    assert (np.diff(picked) >= 0).all()


def test_means_over_a_spread_batch_vary_less():
    rows = np.random.default_rng(0).normal(size=(5000, 2)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 500)

    def variance(pick, table):
        mean = lambda key: jnp.cos(pick(key, jnp.asarray(table), 256)).mean(0)  # noqa: E731
        return np.asarray(jax.vmap(mean)(keys)).var(0).mean()

    ordered = rows[tree_order(rows)]
    independent = variance(random_rows, ordered)
    assert variance(spread_rows, ordered) < 0.1 * independent
    # Without that order a share is not a neighbourhood, and the variance is not reduced.
    assert variance(spread_rows, rows) > 0.8 * independent


def test_a_round_uses_every_draw_once_and_each_step_one_per_neighbourhood():
    size = 32
    draws = jnp.arange(size * STEPS_PER_ROUND, dtype=jnp.float32)[:, None] * jnp.ones(2)
    directions = column_directions(jax.random.key(0), jnp.eye(2), STEPS_PER_ROUND)
    data = RowsAndDraws(draws, draws, directions)
    batch_of, entries = contrastive_batches(jax.random.key(0), data, None, size, 0)
    batches = jax.vmap(batch_of)(entries)
    rows, drawn, _ = (np.asarray(part) for part in batches)
    assert rows.shape == drawn.shape == (STEPS_PER_ROUND, size, 2)
    np.testing.assert_array_equal(drawn[..., 0], drawn[..., 1])
    np.testing.assert_array_equal(np.sort(drawn[..., 0].ravel()), draws[:, 0])
    np.testing.assert_array_equal(
        drawn[..., 0] // STEPS_PER_ROUND, np.tile(np.arange(size), (STEPS_PER_ROUND, 1))
    )
    # Successive steps do not take successive draws.
    assert (np.diff(drawn[:, 0, 0]) != 1).any()
