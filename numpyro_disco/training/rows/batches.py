"""Batches of training rows and of draws of the reference.

Rows in the order of a k-d tree are neighbours when they follow each other. A batch that takes one
row from each of `batch_size` equal shares of that order is stratified: its mean varies much less
than the mean of independently drawn rows.

Rows with weights are drawn in proportion to them, and their losses are not weighted. Rows that are
drawn evenly and weighted afterwards would give the same expected gradient; its variance would be
larger by about the number of rows over their effective number.
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
from numpyro_disco.training.rows.levels import LevelSets, random_level_sets
from numpyro_disco.training.rows.row_posterior import tree_order

STEPS_PER_ROUND = 50
"""Optimiser steps between two evaluations on held-out rows; one compiled program runs them all."""

Source: TypeAlias = tuple[Callable[[Any], tuple[Array, ...]], Pytree]
"""The batches of a round: a function from one entry of a pytree to a batch, and that pytree, whose
leaves have a leading axis of STEPS_PER_ROUND."""


class TrainingRows(NamedTuple):
    """Standardised rows with weights: arrays of NumPy on the host, of JAX on the device."""

    values: Any
    """Shape (N, D)."""
    weights: Any = None
    """Positive weights, shape (N,); None if all are equal."""
    ends: Any = None
    """End of the share of the weight of each row but the last, from 0 to 2^32, shape (N - 1,).
    Whole numbers, because single precision could not tell the shares of many rows apart."""

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the values, (N, D)."""
        return self.values.shape


def training_rows(values: np.ndarray, weights: np.ndarray | None) -> TrainingRows:
    """Rows (N, D) on the host that can be drawn by weight (N,)."""
    if weights is None:
        return TrainingRows(values)
    shares = np.cumsum(weights, dtype=np.float64) / np.sum(weights, dtype=np.float64)
    ends = np.minimum(np.round(shares[:-1] * 2.0**32), 2**32 - 1)
    return TrainingRows(values, weights.astype(values.dtype), ends.astype(np.uint32))


def on_device(rows: TrainingRows) -> TrainingRows:
    """The rows as JAX arrays."""
    return jax.tree.map(jnp.asarray, rows)


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


def random_rows(rng_key: Array, rows: TrainingRows, size: int) -> Array:
    """Draw `size` of the rows by weight, independently and with replacement, shape (size, D)."""
    if rows.ends is None:
        return rows.values[jax.random.randint(rng_key, (size,), 0, len(rows.values))]
    places = jax.random.bits(rng_key, (size,), jnp.uint32)
    return rows.values[jnp.searchsorted(rows.ends, places, side="right")]


def spread_picks(
    rng: np.random.Generator,
    num_rows: int,
    shape: tuple[int, int],
    ends: np.ndarray | None = None,
) -> np.ndarray:
    """Pick one row from each of `size` equal shares of the weight of all rows.

    The expected number of picks of a row is in proportion to its weight.

    Args:
        rng: source of random numbers.
        num_rows: N, number of rows.
        shape: number of batches, and `size`.
        ends: as in `TrainingRows`.

    Returns:
        Indices of rows, shape `shape`.
    """
    within = (np.arange(shape[1]) + rng.random(shape)) / shape[1]
    if ends is not None:
        places = np.minimum(within * 2.0**32, 2**32 - 1).astype(np.uint32)
        return np.searchsorted(ends, places, side="right")
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
    rng_key: Array,
    rows: TrainingRows,
    model: Learned,
    batch_size: int,
    redrawn: tuple[int, ...] | None = None,
) -> RowsAndDraws:
    """The batches of one round, from rows in k-d tree order.

    They are made on the host: the device can be at work on the round before. The columns to redraw
    are `redrawn`, or random ones by default.
    """
    draw_key, directions_key = jax.random.split(rng_key)
    rng = host_generator(draw_key)
    draws = host_draws(rng, model.reference.components(), batch_size * STEPS_PER_ROUND)
    draws = draws.astype(rows.values.dtype)
    picks = spread_picks(rng, len(rows.values), (STEPS_PER_ROUND, batch_size), rows.ends)
    num_levels = model.reference.num_levels
    return RowsAndDraws(
        rows.values[picks],
        spread_draws(rng, draws[tree_order(draws)], STEPS_PER_ROUND),
        column_directions(directions_key, model.whitener, STEPS_PER_ROUND, num_levels, redrawn),
        random_level_sets(rng, num_levels, STEPS_PER_ROUND) if any(num_levels) else None,
    )
