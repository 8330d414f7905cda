"""Batches are spread over the rows and over draws of the reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_disco.training.rows.batches import (
    STEPS_PER_ROUND,
    TrainingRows,
    random_rows,
    spread_draws,
    spread_picks,
    training_rows,
)
from numpyro_disco.training.rows.row_posterior import tree_order


def picks_of_whole_shares(rng, num_rows, shape):
    """A broken `spread_picks`: shares end at whole rows, so rows are not equally likely."""
    ends = np.arange(shape[1] + 1) * num_rows // shape[1]
    return ends[:-1] + (rng.random(shape) * np.diff(ends)).astype(int)


def largest_deviation(pick, num_rows, size, num_batches=4000):
    """Largest deviation of a row's count from its mean, in standard errors of independent picks."""
    picked = pick(np.random.default_rng(0), num_rows, (num_batches, size))
    assert picked.shape == (num_batches, size)
    counts = np.bincount(picked.ravel(), minlength=num_rows)
    expected = num_batches * size / num_rows
    return np.abs(counts - expected).max() / np.sqrt(expected)


@pytest.mark.parametrize(("num_rows", "size"), [(150, 100), (100, 150), (90, 90), (7, 64), (64, 7)])
def test_each_row_is_as_likely_as_any_other(num_rows, size):
    # A Gaussian exceeds 5 once in 10,000 such tests.
    assert largest_deviation(spread_picks, num_rows, size) < 5


def test_unequal_chances_are_detected():
    assert largest_deviation(picks_of_whole_shares, 150, 100) > 10


def test_every_row_of_a_large_table_is_reached():
    """Above 2^24, single precision represents only every second whole number."""
    picked = spread_picks(np.random.default_rng(0), 2**25 + 2, (1, 4096))[0]
    last_eighth = picked[picked > 7 * 2**22]
    assert len(last_eighth) > 400
    assert (last_eighth % 2).mean() == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(400))
    assert (np.diff(picked) >= 0).all()


def weighted_counts(rows, num_batches=2000, size=64):
    """How often each row is drawn in batches on the host, and on the device."""
    num_rows = len(rows.values)
    picked = spread_picks(np.random.default_rng(0), num_rows, (num_batches, size), rows.ends)
    assert (np.diff(picked, axis=1) >= 0).all()
    drawn = random_rows(jax.random.key(0), rows, num_batches * size)[:, 0].astype(int)
    return [np.bincount(places.ravel(), minlength=num_rows) for places in (picked, drawn)]


def test_rows_are_drawn_in_proportion_to_their_weights():
    weights = np.random.default_rng(1).exponential(size=90) ** 2 + 0.01
    expected = 2000 * 64 * weights / weights.sum()
    numbers = np.arange(90.0)[:, None]
    for counts in weighted_counts(training_rows(numbers, weights)):
        assert (np.abs(counts - expected) / np.sqrt(expected)).max() < 5
    for counts in weighted_counts(training_rows(numbers, weights[::-1])):
        assert (np.abs(counts - expected) / np.sqrt(expected)).max() > 10


def test_the_shares_of_many_rows_are_told_apart():
    """Single precision has no numbers between the ends of the last shares of a million rows."""
    weights = np.ones(1_000_000)
    weights[-2:] = [3.0, 1.0]
    ends = training_rows(np.zeros((len(weights), 1)), weights).ends
    shares = np.diff(ends.astype(np.int64)[-3:])
    assert shares[1] / shares[0] == pytest.approx(3, rel=1e-3)


def test_means_over_a_spread_batch_vary_less():
    rows = np.random.default_rng(0).normal(size=(5000, 2)).astype(np.float32)
    picks = spread_picks(np.random.default_rng(0), 5000, (500, 256))

    def variance(batches):
        return np.cos(batches).mean(1).var(0).mean()

    keys = jax.random.split(jax.random.key(0), 500)
    independent = jax.vmap(lambda key: random_rows(key, TrainingRows(jnp.asarray(rows)), 256))(keys)
    independent = variance(np.asarray(independent))
    assert variance(rows[tree_order(rows)][picks]) < 0.1 * independent
    # Without that order a share is not a neighbourhood, and the variance is not reduced.
    assert variance(rows[picks]) > 0.8 * independent


def test_a_round_uses_every_draw_once_and_each_step_one_per_neighbourhood():
    size = 32
    draws = np.arange(size * STEPS_PER_ROUND)[:, None] * np.ones(2)
    dealt = spread_draws(np.random.default_rng(0), draws, STEPS_PER_ROUND)
    assert dealt.shape == (STEPS_PER_ROUND, size, 2)
    np.testing.assert_array_equal(dealt[..., 0], dealt[..., 1])
    np.testing.assert_array_equal(np.sort(dealt[..., 0].ravel()), draws[:, 0])
    np.testing.assert_array_equal(
        dealt[..., 0] // STEPS_PER_ROUND, np.tile(np.arange(size), (STEPS_PER_ROUND, 1))
    )
    # Successive steps do not take successive draws.
    assert (np.diff(dealt[:, 0, 0]) != 1).any()
