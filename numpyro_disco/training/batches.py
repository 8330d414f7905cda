"""Batches of training rows and of draws of the reference.

Rows in the order of a k-d tree are neighbours when they follow each other. A batch that takes one
row from each of `batch_size` equal shares of that order is stratified: its mean varies much less
than the mean of independently drawn rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._random import host_generator
from numpyro_disco._typing import Array, Pytree
from numpyro_disco.energy.learned import Learned
from numpyro_disco.references.base import host_draws
from numpyro_disco.references.redraws import Directions, column_directions
from numpyro_disco.training.levels import LevelSets, random_level_sets
from numpyro_disco.training.noise import NUM_NOISE_SCALES, geometric_noise_scales
from numpyro_disco.training.row_posterior import tree_order

STEPS_PER_ROUND = 50
"""Optimiser steps between two evaluations on held-out rows; one compiled program runs them all."""

Source: TypeAlias = tuple[Callable[[Any], tuple[Array, ...]], Pytree]
"""The batches of a round: a function from one entry of a pytree to a batch, and that pytree, whose
leaves have a leading axis of STEPS_PER_ROUND."""


class RowsAndDraws(NamedTuple):
    """The batches of one round of a contrastive objective."""

    rows: Array | np.ndarray
    """Training rows, shape (STEPS_PER_ROUND, batch_size, D)."""
    draws: Array | np.ndarray
    """Draws of the reference, shape (STEPS_PER_ROUND, batch_size, D)."""
    directions: Directions
    """Coordinates to redraw given the others, one choice per step: leading axis STEPS_PER_ROUND."""
    levels: LevelSets | None
    """Levels to compare the rows at, one choice per step; None without discrete columns."""


def each_step(draw: Callable[[Array], tuple[Array, ...]], rng_key: Array) -> Source:
    """Batches that a function draws, with one key for each step."""
    return draw, jax.random.split(rng_key, STEPS_PER_ROUND)


def random_rows(rng_key: Array, rows: Array, size: int) -> Array:
    """Draw `size` of the rows (N, D) independently, with replacement."""
    return rows[jax.random.randint(rng_key, (size,), 0, rows.shape[0])]


def spread_picks(rng: np.random.Generator, num_rows: int, shape: tuple[int, int]) -> np.ndarray:
    """Pick one row from each of `size` equal shares of all rows; all are equally likely.

    Args:
        rng: source of random numbers.
        num_rows: N, number of rows.
        shape: number of batches, and `size`.

    Returns:
        Indices of rows, shape `shape`.
    """
    within = (np.arange(shape[1]) + rng.random(shape)) / shape[1]
    return np.minimum((within * num_rows).astype(int), num_rows - 1)


def spread_draws(rng: np.random.Generator, draws: np.ndarray, num_batches: int) -> np.ndarray:
    """Deal draws in k-d tree order to batches: each gets a draw from every neighbourhood.

    Args:
        rng: source of random numbers.
        draws: shape (num_batches * size, D).
        num_batches: number of batches.

    Returns:
        Array (num_batches, size, D).
    """
    dealt = draws.reshape(-1, num_batches, draws.shape[1])
    order = rng.permuted(np.tile(np.arange(num_batches), (len(dealt), 1)), axis=1)
    return np.take_along_axis(dealt, order[:, :, None], axis=1).swapaxes(0, 1)


def rows_and_draws(
    rng_key: Array, rows: np.ndarray, model: Learned, batch_size: int
) -> RowsAndDraws:
    """The batches of one round, from rows in k-d tree order.

    They are made on the host: the device can be at work on the round before.
    """
    draw_key, directions_key = jax.random.split(rng_key)
    rng = host_generator(draw_key)
    draws = host_draws(rng, model.reference.components(), batch_size * STEPS_PER_ROUND)
    draws = draws.astype(rows.dtype)
    num_levels = model.reference.num_levels
    return RowsAndDraws(
        rows[spread_picks(rng, len(rows), (STEPS_PER_ROUND, batch_size))],
        spread_draws(rng, draws[tree_order(draws)], STEPS_PER_ROUND),
        column_directions(directions_key, model.whitener, STEPS_PER_ROUND, num_levels),
        random_level_sets(rng, num_levels, STEPS_PER_ROUND) if any(num_levels) else None,
    )


def noise_levels(
    rng_key: Array, shape: tuple[int, ...], noise_scale: float, max_noise_scale: float
) -> Array:
    """Random noise levels from the geometric grid between the two scales."""
    scales = geometric_noise_scales(noise_scale, max_noise_scale, NUM_NOISE_SCALES)
    return jax.random.choice(rng_key, jnp.asarray(scales, jnp.result_type(float)), shape)
