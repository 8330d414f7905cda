"""Conditionals and normalising constants of a density, on grids and by importance sampling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp
from tasks import Density, Task

import numpyro_disco as disco

NUM_DRAWS = 20_000
"""Draws of the reference that estimate the normalising constant."""
LARGEST_ERROR = 0.1
"""Largest standard error of log Z, in nats, with which normalised densities are shown."""


def by_quadrature(log_density: Density) -> Callable[[Task, int], np.ndarray]:
    """Conditionals of a joint density: from a task and a column to log densities on the grid.

    The result has shape (n, points), up to a constant for each test row.
    """

    @jax.jit
    def all_rows(rows: jax.Array, column: jax.Array, values: jax.Array) -> jax.Array:
        def one(row: jax.Array) -> jax.Array:
            return jax.vmap(lambda value: log_density(row.at[column].set(value)))(values)

        return jax.lax.map(one, rows)

    def conditionals(task: Task, column: int) -> np.ndarray:
        rows, values = (jnp.asarray(a, jnp.float32) for a in (task.test, task.grid(column)))
        return np.asarray(all_rows(rows, jnp.asarray(column), values), np.float64)

    return conditionals


def at_test_rows(log_density: Density) -> Callable[[Task], np.ndarray]:
    """A normalised density, as a function from a task to log densities of its test rows."""
    return lambda task: in_batches(log_density, task.test)


def in_batches(density: Density, points: Any) -> np.ndarray:
    """Log densities of points (n, D) in double precision, shape (n,)."""
    all_points = jax.jit(lambda x: jax.lax.map(density, x, batch_size=1000))
    return np.asarray(all_points(jnp.asarray(points, jnp.float32)), np.float64)


def log_normalizer(prior: disco.EnergyDistribution, task: Task) -> tuple[float, float]:
    """Log Z of a learned density, and its standard error.

    By quadrature in the plane, elsewhere by importance sampling from the reference; NaN where that
    is less accurate than `LARGEST_ERROR`.
    """
    if task.rows.shape[1] == 2:
        first, second = (task.grid(column)[::4] for column in (0, 1))
        grid = np.stack(np.meshgrid(first, second), axis=-1).reshape(-1, 2)
        area = (first[1] - first[0]) * (second[1] - second[0])
        return float(logsumexp(in_batches(prior.log_prob, grid)) + np.log(area)), 0.0
    draws = prior.reference.sample(jax.random.key(0), (NUM_DRAWS,))
    log_weights = in_batches(lambda x: prior.log_prob(x) - prior.reference.log_prob(x), draws)
    log_z = logsumexp(log_weights) - np.log(NUM_DRAWS)
    error = np.std(np.exp(log_weights - log_z)) / np.sqrt(NUM_DRAWS)
    return (float(log_z), float(error)) if error < LARGEST_ERROR else (np.nan, np.nan)


def on_grid(log_densities: np.ndarray, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Densities and distribution functions from logs up to a constant, (n, points) each."""
    step = grid[1] - grid[0]
    density = np.exp(log_densities - log_densities.max(1, keepdims=True))
    density /= density.sum(1, keepdims=True) * step
    return density, np.cumsum(density, axis=1) * step


def wasserstein(one: np.ndarray, other: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """W1 distance between conditionals given as log densities up to a constant, shape (n,)."""
    (_, first), (_, second) = on_grid(one, grid), on_grid(other, grid)
    return np.abs(first - second).sum(1) * (grid[1] - grid[0])
