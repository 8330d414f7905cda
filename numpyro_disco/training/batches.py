"""Batches of training rows and of draws of the reference.

Rows in the order of a k-d tree are neighbours when they follow each other. A batch that takes one
row from each of `batch_size` equal shares of that order is stratified: its mean varies much less
than the mean of independently drawn rows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._typing import Array, Pytree
from numpyro_disco.energy.learned import Learned
from numpyro_disco.references.redraws import Directions, column_directions
from numpyro_disco.training.noise import NUM_NOISE_SCALES, geometric_noise_scales
from numpyro_disco.training.row_posterior import tree_order

STEPS_PER_ROUND = 50
"""Optimiser steps between two evaluations on held-out rows; one compiled program runs them all."""

Source: TypeAlias = tuple[Callable[[Any], tuple[Array, ...]], Pytree]
"""The batches of a round: a function from one entry of a pytree to a batch, and that pytree, whose
leaves have a leading axis of STEPS_PER_ROUND."""


class RowsAndDraws(NamedTuple):
    """The data of one round of a contrastive objective; rows and draws in k-d tree order."""

    rows: Array
    """All training rows, shape (N, D)."""
    draws: Array
    """Draws of the reference for one round, shape (batch_size * STEPS_PER_ROUND, D)."""
    directions: Directions
    """Coordinates to redraw given the others, one choice per step: leading axis STEPS_PER_ROUND."""


def each_step(draw: Callable[[Array], tuple[Array, ...]], rng_key: Array) -> Source:
    """Batches that a function draws, with one key for each step."""
    return draw, jax.random.split(rng_key, STEPS_PER_ROUND)


def random_rows(rng_key: Array, rows: Array, size: int) -> Array:
    """Draw `size` of the rows (N, D) independently, with replacement."""
    return rows[jax.random.randint(rng_key, (size,), 0, rows.shape[0])]


def spread_rows(rng_key: Array, rows: Array, size: int) -> Array:
    """Draw one row from each of `size` equal shares of all rows (N, D); all are equally likely."""
    whole, rest = np.divmod(np.arange(size) * len(rows), size)
    # Single precision cannot count the rows of a large table, so the whole part is added last.
    within = rest / size + jax.random.uniform(rng_key, (size,)) * (len(rows) / size)
    return rows[jnp.minimum(whole + within.astype(int), len(rows) - 1)]


@partial(jax.jit, static_argnames="batch_size")
def reference_draws(rng_key: Array, model: Learned, batch_size: int) -> Array:
    """Draws of the reference for one round, shape (batch_size * STEPS_PER_ROUND, D)."""
    draw = lambda key: model.reference.sample(key, (batch_size,))  # noqa: E731
    draws = jax.lax.map(draw, jax.random.split(rng_key, STEPS_PER_ROUND))
    return draws.reshape(-1, draws.shape[-1])


def rows_and_draws(rng_key: Array, rows: Array, model: Learned, batch_size: int) -> RowsAndDraws:
    """Draws and redraw directions for one round, with the rows, which are in k-d tree order."""
    draw_key, directions_key = jax.random.split(rng_key)
    draws = np.asarray(reference_draws(draw_key, model, batch_size))
    directions = column_directions(directions_key, model.whitener, STEPS_PER_ROUND)
    return RowsAndDraws(rows, jnp.asarray(draws[tree_order(draws)]), directions)


def noise_levels(
    rng_key: Array, shape: tuple[int, ...], noise_scale: float, max_noise_scale: float
) -> Array:
    """Random noise levels from the geometric grid between the two scales."""
    scales = geometric_noise_scales(noise_scale, max_noise_scale, NUM_NOISE_SCALES)
    return jax.random.choice(rng_key, jnp.asarray(scales, jnp.result_type(float)), shape)
