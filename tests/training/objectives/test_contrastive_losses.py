"""The contrastive and the ranking loss are lowest at the log ratio of two densities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from numpyro_disco.training.objectives.losses import contrastive_loss, ranking_loss


def flipped_contrastive_loss(at_row, at_draw):
    return contrastive_loss(at_draw, at_row)


def test_contrastive_loss_is_lowest_at_the_log_ratio():
    """The slope along any direction is zero there; that of the flipped loss is not."""
    grid = np.linspace(-12, 12, 4001)
    step = grid[1] - grid[0]
    p = 0.3 * norm.pdf(grid, -2, 0.5) + 0.7 * norm.pdf(grid, 1, 1)
    q = norm.pdf(grid, 0, 3)
    truth = np.log(q) - np.log(p)

    def slope(loss, direction):
        def expected(size):
            f = jnp.asarray(truth + size * direction)
            rows, draws = jax.grad(lambda a, b: loss(a, b).sum(), argnums=(0, 1))(f, f)
            return ((p * rows + q * draws) * direction).sum() * step

        return float(jax.jit(expected)(0.0))

    for direction in (np.ones_like(grid), np.tanh(grid), np.cos(3 * grid)):
        assert abs(slope(contrastive_loss, direction)) < 1e-4
    assert abs(slope(flipped_contrastive_loss, np.tanh(grid))) > 0.1
    assert float(contrastive_loss(0.0, 0.0)) == pytest.approx(2 * np.log(2))


def swapped_ranking_loss(row, draws):
    return ranking_loss(draws[0], jnp.append(draws[1:], row))


def test_ranking_loss_is_lowest_at_the_log_ratio_up_to_a_constant():
    """The slope along any direction is zero there; that of a loss that ranks a draw is not."""
    grid = np.linspace(-6, 6, 241)
    p = 0.3 * norm.pdf(grid, -2, 0.5) + 0.7 * norm.pdf(grid, 1, 1)
    q = norm.pdf(grid, 0, 1.5)
    p, q = p / p.sum(), q / q.sum()
    truth = np.log(q) - np.log(p) + 1.7

    def slope(loss, direction):
        f = jnp.asarray(truth)
        pairs = jax.vmap(jax.vmap(jax.grad(loss, argnums=(0, 1)), (None, 0)), (0, None))
        row, draw = jax.jit(pairs)(f, f[:, None])
        along = row * direction[:, None] + draw[..., 0] * direction
        return float(p @ along @ q)

    for direction in (np.tanh(grid), np.cos(3 * grid)):
        assert abs(slope(ranking_loss, direction)) < 1e-4
    assert abs(slope(swapped_ranking_loss, np.tanh(grid))) > 0.1
    assert float(ranking_loss(0.0, jnp.zeros(4))) == pytest.approx(np.log(5))
    assert float(ranking_loss(1.0, jnp.zeros(0))) == 0
