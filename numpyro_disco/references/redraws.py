"""Exact draws from a reference given part of a point, along directions that need not be axes.

`Reference.condition` fixes coordinates. The contrastive objective compares a row with draws that
differ from it in some columns of the data only, and in standardised coordinates a column is in
general an oblique direction.

Let H be orthonormal, with first F columns that span the free directions, and v = H'x. Write the
precision of component k in these coordinates as R'R, with R upper triangular. Then

    log N(v; mean, (R'R)^-1) = sum_i log |R_ii| - |R (v - mean)|^2 / 2 + const.

The last D - F rows of R do not involve the free part: they give the density of the fixed part, and
with it the probability of the component. The first F rows give the free part given the fixed one.
F is an array, so one compiled program serves every choice of directions.

Discrete coordinates have no direction. Those that are fixed add their log probabilities to those of
the components; those that are free are drawn from the component that was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._gaussians import inverse_factor, log_diagonal
from numpyro_disco._random import host_generator
from numpyro_disco._typing import Array
from numpyro_disco.references.base import Reference
from numpyro_disco.references.categorical import categorical_log_probs, draw_codes


class Directions(NamedTuple):
    """The directions of space that are free, and the discrete coordinates that are."""

    rotation: Array
    """Orthonormal matrix, shape (..., D, D); its first `num_free` columns span the free space."""
    num_free: Array
    """Whole numbers up to D, shape (...); 0 if only discrete coordinates are free."""
    free_levels: Array
    """True for discrete coordinates that are free, shape (..., D)."""


def column_directions(
    rng_key: Array,
    whitener: Array,
    num_sets: int,
    num_levels: tuple[int, ...] | None = None,
    free_columns: Sequence[int] | None = None,
) -> Directions:
    """Random sets of columns of the data to be free, as directions in standardised units.

    Half of the sets hold a single column. The others hold a random number of columns, but not all.
    This runs in NumPy, so it cannot be called inside a compiled program.

    Args:
        rng_key: random key.
        whitener: matrix (D, D) that takes differences of rows to standardised units.
        num_sets: number of sets.
        num_levels: number of levels of each column, 0 for real ones; all are real by default. The
            whitener is the identity on discrete columns.
        free_columns: the columns of every set; random ones by default.

    Returns:
        Directions with a leading axis of `num_sets`.
    """
    rng = host_generator(rng_key)
    columns = np.asarray(whitener, np.float64).T  # row j: the direction of column j
    dimension = len(columns)
    several = rng.integers(1, max(2, dimension), num_sets)
    num_free = np.where(rng.random(num_sets) < 0.5, 1, several)
    orders = rng.permuted(np.tile(np.arange(dimension), (num_sets, 1)), axis=1)
    free = np.argsort(orders, axis=1) < num_free[:, None]
    if free_columns is not None:
        free = np.tile(np.isin(np.arange(dimension), free_columns), (num_sets, 1))
        orders = np.argsort(~free, axis=1, kind="stable")
    discrete = np.zeros(dimension, bool) if num_levels is None else np.asarray(num_levels) > 0
    # Discrete columns come last; all others keep their order, the free ones first.
    last = np.argsort(discrete[orders], axis=1, kind="stable")
    orders = np.take_along_axis(orders, last, axis=1)
    # For every n, the first n columns of Q span the same space as the first n directions.
    rotations = np.linalg.qr(np.swapaxes(columns[orders], 1, 2))[0]
    return Directions(
        jnp.asarray(rotations, jnp.result_type(float)),
        jnp.asarray((free & ~discrete).sum(1)),
        jnp.asarray(free & discrete),
    )


def redraw(
    rng_key: Array, reference: Reference, points: Array, directions: Directions, num_draws: int
) -> Array:
    """Independent exact draws y ~ q(y | H'y = H'x) for each point x; H spans the fixed directions.

    Args:
        rng_key: random key.
        reference: q, without batch axes and with all coordinates free.
        points: array (B, D).
        directions: the free directions, without leading axes.
        num_draws: draws for each point.

    Returns:
        Array (B, num_draws, D) that differs from the points along the free directions only.
    """
    component_key, noise_key = jax.random.split(rng_key)
    log_weights, means, _, whiteners, log_probabilities = reference.components()
    rotation, num_free, free_levels = directions
    discrete, codes = jnp.asarray(reference.discrete), points
    points = jnp.where(discrete, 0.0, points)
    dimension = points.shape[-1]
    fixed = jnp.arange(dimension) >= num_free

    root = jnp.linalg.qr(whiteners @ rotation, mode="r")
    inverse = inverse_factor(root, lower=False)
    rotated, centres = points @ rotation, means @ rotation
    white = jnp.einsum("kij,bkj->bki", root, rotated[:, None] - centres)

    log_det = (log_diagonal(root) * fixed).sum(-1)
    logits = log_weights + log_det - 0.5 * (white**2 * fixed).sum(-1)
    if log_probabilities is not None:
        kept = discrete & ~free_levels
        logits += categorical_log_probs(codes, log_probabilities, reference.num_levels, kept)
    shape = (len(points), num_draws)
    component = jax.random.categorical(component_key, logits[:, None], shape=shape)

    noise = jax.random.normal(noise_key, (*shape, dimension), points.dtype)
    chosen = jnp.take_along_axis(white, component[..., None], axis=1)
    white = jnp.where(fixed, chosen, noise)
    if len(inverse) == 1:
        steps = white @ inverse[0].T  # no copy of the one matrix for each draw
    else:
        steps = jnp.einsum("bmij,bmj->bmi", inverse[component], white)
    drawn = jnp.where(fixed, rotated[:, None], centres[component] + steps) @ rotation.T
    if log_probabilities is None:
        return drawn
    uniform = jax.random.uniform(jax.random.fold_in(noise_key, 1), drawn.shape, drawn.dtype)
    levels = draw_codes(uniform, jnp.exp(log_probabilities)[component])
    return jnp.where(discrete, jnp.where(free_levels, levels, codes[:, None]), drawn)
