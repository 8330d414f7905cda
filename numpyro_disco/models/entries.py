"""Unconstrained coordinates of the missing continuous entries of a table, a block for each row.

Rows with the same entries missing share the covariances of their components' conditionals, which
are by far the dearest part. Rows are therefore grouped by what is missing.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._checks import is_traced
from numpyro_disco._typing import Array
from numpyro_disco.energy.distribution import EnergyDistribution


class RowCoordinates(NamedTuple):
    """Coordinates u of the N missing entries of a table: y = loc + L u in each row."""

    loc: Array
    """Location of each entry, shape (N,)."""
    factors: Array
    """Lower-triangular factor of each row, padded with the identity, shape (rows, M, M)."""
    sizes: tuple[int, ...]
    """Number of missing continuous entries of each row that has any; at most M."""


def row_coordinates(
    prior: EnergyDistribution, values: Array, observed: np.ndarray
) -> RowCoordinates:
    """Coordinates of each row of a table given its observed entries.

    Args:
        prior: an unclamped `EnergyDistribution` of one row.
        values: the table, shape (..., D), with any values where entries are missing.
        observed: concrete boolean array (..., D).
    """
    dimension = observed.shape[-1]
    missing = ~observed.reshape(-1, dimension)
    continuous = missing & ~prior.coordinate_supports.discrete
    incomplete = np.flatnonzero(continuous.any(1))
    missing, continuous = missing[incomplete], continuous[incomplete]
    if not len(incomplete):
        return RowCoordinates(jnp.zeros(0), jnp.zeros((0, 0, 0)), ())
    groups, patterns, place = _group(missing)
    sizes = continuous.sum(1)
    width = int(sizes.max())
    # Columns of a row with those to be moved first, in order.
    columns = np.argsort(~continuous, axis=1, kind="stable")[:, :width]
    arguments = prior, values, incomplete[groups], patterns, place, columns, sizes
    if is_traced(arguments):
        loc, factors = _padded_rows(*arguments)
    else:
        with jax.ensure_compile_time_eval():
            loc, factors = jax.tree.map(np.asarray, _padded_rows(*arguments))
    within = np.arange(width) < sizes[:, None]
    return RowCoordinates(loc[within], factors, tuple(sizes.tolist()))


@jax.jit
def _padded_rows(
    prior: EnergyDistribution,
    values: Array,
    groups: Array,
    patterns: Array,
    place: Array,
    columns: Array,
    sizes: Array,
) -> tuple[Array, Array]:
    """Location (rows, M) and factor (rows, M, M) of the missing entries of each row."""
    dimension = values.shape[-1]
    loc, factor = prior.coordinates(values.reshape(-1, dimension)[groups], patterns[:, None])
    loc, factor = loc.reshape(-1, dimension)[place], factor.reshape(-1, dimension, dimension)[place]
    loc = jnp.take_along_axis(loc, columns, axis=1)
    factor = jnp.take_along_axis(factor, columns[:, :, None], axis=1)
    factor = jnp.take_along_axis(factor, columns[:, None, :], axis=2)
    within = jnp.arange(columns.shape[1]) < sizes[:, None]
    both = within[:, :, None] & within[:, None, :]
    return loc, jnp.where(both, factor, jnp.eye(columns.shape[1], dtype=factor.dtype))


def _group(missing: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Group rows by what is missing, into groups of one size.

    Args:
        missing: boolean array (rows, D).

    Returns:
        Rows of each group, (groups, size), where the last row of a group may be repeated; what is
        observed in each group, (groups, D); and the place of each row among the groups, (rows,).
    """
    patterns, inverse, counts = np.unique(missing, axis=0, return_inverse=True, return_counts=True)
    inverse = inverse.ravel()
    # At this size there are at most twice as many groups as patterns.
    size = -(-len(missing) // len(patterns))
    num_groups = -(-counts // size)
    first = np.cumsum(num_groups) - num_groups
    order = np.argsort(inverse, kind="stable")
    start = np.cumsum(counts) - counts
    rank = np.empty(len(missing), int)
    rank[order] = np.arange(len(missing)) - np.repeat(start, counts)
    place = first[inverse] * size + rank
    groups = np.zeros(int(num_groups.sum()) * size, int)
    groups[place] = np.arange(len(missing))
    filled = np.zeros(len(groups), bool)
    filled[place] = True
    # Places without a row repeat one of the same group: its first, which is always filled.
    firsts = np.repeat(groups[::size], size)
    groups = np.where(filled, groups, firsts)
    which = np.repeat(np.arange(len(patterns)), num_groups)
    return groups.reshape(-1, size), ~patterns[which], place
