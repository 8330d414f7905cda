"""Levels of discrete columns: shares, indicators, and rows with other levels in one column.

Training looks for a row among copies of it with other levels in one discrete column. Given the
other columns, the conditional distribution of that column is a softmax over its levels, which needs
no draws. With very many levels the row competes with random ones: all subsets of the levels that
hold the row's own are equally likely, so the best answer is still the conditional distribution,
restricted to the subset.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._levels import level_shares
from numpyro_disco._typing import Array

MAX_LEVELS_COMPARED = 8
"""Most levels that a row is compared at in one step."""


class LevelSets(NamedTuple):
    """Choices of a discrete column and of other levels."""

    column: Array | np.ndarray
    """Index of the column, shape (...)."""
    offsets: Array | np.ndarray
    """Distances to the other levels in the cyclic order of the levels, shape (..., A). A distance
    that is not less than the number of levels stands for none."""


def random_level_sets(
    rng: np.random.Generator, num_levels: tuple[int, ...], num_sets: int
) -> LevelSets:
    """Choose a discrete column and other levels at random, on the host.

    Args:
        rng: source of random numbers.
        num_levels: number of levels of each column, 0 for real ones; not all are 0.
        num_sets: number of choices.

    Returns:
        Choices with a leading axis of `num_sets`; A is the largest number of other levels, at most
        `MAX_LEVELS_COMPARED` - 1.
    """
    levels = np.asarray(num_levels)
    column = rng.choice(np.flatnonzero(levels), num_sets)
    size = min(int(levels.max()), MAX_LEVELS_COMPARED) - 1
    offsets = np.full((num_sets, size), int(levels.max()))
    for place, count in enumerate(levels[column] - 1):
        kept = min(count, size)
        offsets[place, :kept] = 1 + rng.permutation(count)[:kept]
    return LevelSets(column, offsets)


def at_other_levels(rows: Array, sets: LevelSets, num_levels: tuple[int, ...]) -> Array:
    """The rows with other levels in one column.

    Args:
        rows: array (..., D) whose discrete columns hold codes.
        sets: one choice for all rows.
        num_levels: as for `random_level_sets`.

    Returns:
        Array (..., A, D). Where there is no further level, the code is -1, which is no level.
    """
    count = jnp.asarray(num_levels, rows.dtype)[sets.column]
    codes = (rows[..., sets.column, None] + sets.offsets) % count
    codes = jnp.where(sets.offsets < count, codes, -1.0)
    chosen = jnp.arange(rows.shape[-1]) == sets.column
    return jnp.where(chosen, codes[..., None], rows[..., None, :])


def level_loss(at_row: Array, at_others: Array) -> Array:
    r"""Minus the log probability of a row's level, given its other columns.

    .. math:: L = E(r) + \log\Bigl(e^{-E(r)} + \sum_a e^{-E(r_a)}\Bigr)

    with r_a the row at its other levels. Its expectation is least if E is right up to a function of
    the other columns.

    Args:
        at_row: the energy of the row, shape ().
        at_others: its energy at other levels, shape (A,), infinite where there is no level.

    Returns:
        The loss, shape ().

    References:
        Besag 1975, for the pseudo-likelihood.
    """
    return at_row + jax.nn.logsumexp(-jnp.append(at_others, at_row))


def level_log_shares(
    rows: np.ndarray,
    points: np.ndarray,
    num_levels: tuple[int, ...],
    row_weights: np.ndarray | None = None,
) -> np.ndarray:
    """Log of the product of the shares that the levels of points have among rows.

    Args:
        rows: rows (N, D) with codes in discrete columns.
        points: points (n, D).
        num_levels: number of levels of each column.
        row_weights: positive weights of `rows` with mean one, shape (N,); ones by default.

    Returns:
        Array (n,); zeros without discrete columns.
    """
    shares = level_shares(rows, num_levels, row_weights)
    codes = points[:, np.flatnonzero(num_levels)].astype(int)
    return np.log(shares[np.arange(len(shares)), codes]).sum(axis=1)
