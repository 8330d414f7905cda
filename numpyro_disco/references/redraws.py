"""Draws of a reference given all of a point but some directions of it, in closed form.

A density over D coordinates is also one over any rotation of them. With the free directions put
first, each component's precision has a triangular root R whose lower rows say how likely the held
rest is and whose upper rows say how the free part is spread around what the rest leads one to
expect. One such root a component serves all points, and which directions are free is an array: one
compiled program serves every choice.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import numpy as np

from numpyro_disco._typing import Array
from numpyro_disco.references.base import Reference
from numpyro_disco.references.gaussian import GaussianReference
from numpyro_disco.references.mixture import MixtureReference


class Directions(NamedTuple):
    """Which directions of space are free."""

    rotation: Array
    """Orthonormal, (..., D, D): the first `num_free` columns span what is free."""
    num_free: Array
    """Whole numbers from 1 to D, (...)."""


def column_directions(rng_key: Array, whitener: Array, count: int) -> Directions:
    """Random sets of free columns of a table, as directions of standardised units.

    Half of them are of a single column; the others of as many as chance says, but not of all. By
    NumPy, so not to be called inside of a compiled program.

    Args:
        rng_key: random key.
        whitener: the matrix (D, D) that takes differences of rows to standardised units.
        count: how many sets.

    Returns:
        With a leading axis of `count`.
    """
    rng = np.random.default_rng(np.asarray(jax.random.key_data(rng_key)).ravel())
    steps = np.asarray(whitener, np.float64).T  # of each column, in standardised units
    dimension = len(steps)
    several = rng.integers(1, max(2, dimension), count)
    num_free = np.where(rng.random(count) < 0.5, 1, several)
    orders = rng.permuted(np.tile(np.arange(dimension), (count, 1)), axis=1)
    # Of each order the first columns span what is free, however many these are.
    rotations = np.linalg.qr(np.swapaxes(steps[orders], 1, 2))[0]
    return Directions(jnp.asarray(rotations, jnp.result_type(float)), jnp.asarray(num_free))


def redraw(
    rng_key: Array, reference: Reference, points: Array, directions: Directions, num_draws: int
) -> Array:
    """Independent exact draws y ~ q( . | H'y = H'x) for each point x; H spans what is not free.

    Args:
        rng_key: random key.
        reference: q, over all coordinates.
        points: array (B, D).
        directions: which are free, without leading axes.
        num_draws: how many for each point.

    Returns:
        Array (B, num_draws, D), equal to the points but for the free directions.
    """
    component_key, noise_key = jax.random.split(rng_key)
    log_weights, means, whiteners = _components(reference)
    rotation, num_free = directions
    dimension = points.shape[-1]
    # Densities in rotated coordinates v = rotation' x: |R (v - mean)|^2 is the squared distance.
    root = jnp.linalg.qr(whiteners @ rotation, mode="r")
    identity = jnp.broadcast_to(jnp.eye(dimension, dtype=root.dtype), root.shape)
    inverse = jsl.solve_triangular(root, identity, lower=False)
    rotated, centres = points @ rotation, means @ rotation
    white = jnp.einsum("kij,bkj->bki", root, rotated[:, None] - centres)
    held = jnp.arange(dimension) >= num_free
    # The lower rows of R do not read the free part: they are the root of the rest's own density.
    log_det = (jnp.log(jnp.abs(jnp.diagonal(root, axis1=-2, axis2=-1))) * held).sum(-1)
    log_shares = log_weights + log_det - 0.5 * (white**2 * held).sum(-1)
    shape = (len(points), num_draws)
    component = jax.random.categorical(component_key, log_shares[:, None], shape=shape)
    noise = jax.random.normal(noise_key, (*shape, dimension), points.dtype)
    chosen = jnp.take_along_axis(white, component[..., None], axis=1)
    white = jnp.where(held, chosen, noise)
    if len(inverse) == 1:
        steps = white @ inverse[0].T  # rather than a copy of it for each draw
    else:
        steps = jnp.einsum("bmij,bmj->bmi", inverse[component], white)
    return jnp.where(held, rotated[:, None], centres[component] + steps) @ rotation.T


def _components(reference: Reference) -> tuple[Array, Array, Array]:
    """Log weights (K,), means (K, D) and roots of the precisions (K, D, D)."""
    if isinstance(reference, MixtureReference):
        return reference.log_weights, reference.means, reference.whiteners
    assert isinstance(reference, GaussianReference)
    return jnp.zeros(1, reference.mean_.dtype), reference.mean_[None], reference.whitener[None]
