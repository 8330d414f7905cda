"""Rows in unconstrained space, and the standardised units in which networks are trained."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from numpyro_disco._levels import real_columns
from numpyro_disco._random import host_generator
from numpyro_disco._statistics import column_means, selected
from numpyro_disco._typing import Array
from numpyro_disco.supports.clamped import StandardizedReal
from numpyro_disco.supports.coordinates import CoordinateSupports, num_levels
from numpyro_disco.supports.sinh_arcsinh import fit_sinh_arcsinh
from numpyro_disco.training.rows.dependence import standardized
from numpyro_disco.training.rows.table import Table, constant_columns, rounding

MIN_VARIANCE = 1e-6
"""Smallest variance of a direction that is scaled to one, relative to those of the columns."""
ORDINARY_SCALES = (1e-8, 1e8)
"""Standard deviations of columns whose covariances single precision holds with ease."""


class UnconstrainedRows(NamedTuple):
    """Rows mapped to unconstrained space."""

    values: np.ndarray
    """Shape (N, D), double precision; NaN where an entry is missing."""
    supports: CoordinateSupports
    """Maps between unconstrained space and the user's units."""


def unconstrained_rows(
    rng_key: Array, table: Table, transform: str | None = None, rescale: bool = True
) -> UnconstrainedRows:
    """Map rows to unconstrained space.

    Discrete columns get the codes 0, 1, ... of their levels. Whole numbers that are too many for an
    exact mass are spread evenly over the unit interval around each, so that they have a density.
    Real columns in very small or very large units are standardised, so that single precision holds
    their covariances.

    Args:
        rng_key: random key for the spreading.
        table: the rows in the user's units.
        transform: "sinh_arcsinh" fits a map to every column that may hold any real number; None
            fits none.
        rescale: standardise columns in very small or very large units.

    Raises:
        ValueError: values outside of their support or on its bound.
    """
    found = list(table.supports)
    for place, support in enumerate(table.supports):
        if is_spread(support):
            found[place] = _interval_around(support)
        elif isinstance(support, type(constraints.real)):
            column = table.values[:, place]
            seen = ~np.isnan(column)
            if transform == "sinh_arcsinh":
                found[place] = fit_sinh_arcsinh(column[seen], selected(table.weights, seen))
            elif rescale:
                found[place] = _in_ordinary_units(column[seen])
    supports = CoordinateSupports(tuple(found))
    return UnconstrainedRows(map_rows(rng_key, table, supports), supports)


def map_rows(rng_key: Array, table: Table, supports: CoordinateSupports) -> np.ndarray:
    """Map rows to unconstrained space by maps that were found before.

    Args:
        rng_key: random key for the spreading of whole numbers.
        table: the rows in the user's units.
        supports: the maps.

    Returns:
        Array (N, D) in double precision; NaN where an entry is missing.

    Raises:
        ValueError: values outside of their support or on its bound.
    """
    values = table.values.copy()
    for place, (name, support) in enumerate(zip(table.names, table.supports, strict=True)):
        column = values[:, place]
        seen = column[~np.isnan(column)]
        outside = seen[~np.asarray(support(seen))]
        if len(outside):
            raise ValueError(
                f"Expected values of {name!r} in `data` to be in its support, {support!r}; "
                f"{len(outside)} of {len(seen)} are not, for example {outside[0]:g}."
            )
        if is_spread(support):
            values[:, place] += _within_unit_interval(jax.random.fold_in(rng_key, place), column)
    if supports.real:
        return values
    # Double precision: columns may be nearly collinear in unconstrained space as well.
    with jax.enable_x64(True):
        y = np.asarray(supports.unconstrain(jnp.asarray(values)))
    infinite = ~np.isfinite(y) & ~np.isnan(values)
    if infinite.any():
        row, place = np.argwhere(infinite)[0]
        raise ValueError(
            f"Expected values of {table.names[place]!r} in `data` inside of its support, "
            f"{supports.supports[place]!r}; {int(infinite[:, place].sum())} are on its bound, "
            f"{values[row, place]:g}, where no density reaches. Give a wider support, or move them "
            "inside by less than the precision of the measurement."
        )
    return np.where(np.isnan(values), np.nan, y)


def _in_ordinary_units(column: np.ndarray) -> constraints.Constraint:
    """The real numbers, standardised if the spread of a column is very small or very large."""
    _, (loc,), (scale,) = standardized(column[:, None])
    if ORDINARY_SCALES[0] <= scale <= ORDINARY_SCALES[1]:
        return constraints.real
    return StandardizedReal(float(loc), float(scale))


def is_spread(support: constraints.Constraint) -> bool:
    """True for whole numbers that are spread over unit intervals, not kept as levels."""
    return support.is_discrete and not num_levels(support)


def _within_unit_interval(rng_key: Array, column: np.ndarray) -> np.ndarray:
    """Uniform numbers strictly between -1/2 and 1/2, in the shape of `column`."""
    # Single precision draws multiples of 2^-23 from 0 on: half of one more is inside.
    uniform = np.asarray(jax.random.uniform(rng_key, column.shape, np.float32), np.float64)
    return uniform + 2.0**-24 - 0.5


def _interval_around(support: constraints.Constraint) -> constraints.Constraint:
    """The real numbers within one half of the whole numbers of a discrete support."""
    lower, upper = (getattr(support, f"{end}_bound", None) for end in ("lower", "upper"))
    if lower is not None and upper is not None:
        return constraints.interval(lower - 0.5, upper + 0.5)
    if lower is not None:
        return constraints.greater_than(lower - 0.5)
    return constraints.real if upper is None else constraints.less_than(upper + 0.5)


class Units(NamedTuple):
    """Rows in unconstrained space and the units that standardise them; double precision.

    Means, deviations and correlations are weighted like the rows.
    """

    held_out: np.ndarray
    """Held-out rows, shape (M, D)."""
    rows: np.ndarray
    """Rows to train on, shape (N, D)."""
    loc: np.ndarray
    """Mean of the rows, 0 for discrete columns, shape (D,)."""
    scale: np.ndarray
    """Standard deviations of the rows, 1 for discrete columns, shape (D,)."""
    whitener: np.ndarray
    """Matrix (D, D) of z = whitener @ (x - loc), the identity on discrete columns."""
    basis: np.ndarray
    """Inverse of the whitener."""
    held_out_weights: np.ndarray | None = None
    """Positive weights of `held_out`, shape (M,); None if all are equal."""
    row_weights: np.ndarray | None = None
    """Positive weights of `rows`, shape (N,); None if all are equal."""

    def standardize(self, x: np.ndarray) -> np.ndarray:
        """Rows (n, D) in standardised units, in the precision that JAX computes in."""
        return ((x - self.loc) @ self.whitener.T).astype(jnp.result_type(float))


def split_rows(
    rng_key: Array, num_rows: int, held_out_fraction: float
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the held-out rows and of those to train on, in random order.

    Args:
        rng_key: random key.
        num_rows: number of complete rows.
        held_out_fraction: share of them that is held out.
    """
    order = host_generator(rng_key).permutation(num_rows)
    num_held_out = max(2, round(held_out_fraction * num_rows))
    return order[:num_held_out], order[num_held_out:]


def standard_units(
    rng_key: Array,
    rows: np.ndarray,
    names: tuple[str, ...],
    *,
    row_weights: np.ndarray | None = None,
    judging_weights: np.ndarray | None = None,
    held_out_fraction: float,
    resolution: float,
    whiten: bool,
    num_levels: tuple[int, ...] | None = None,
    pooled: bool = False,
) -> Units:
    """Split rows into held-out and training rows, and find the units of the latter.

    Args:
        rng_key: random key for the split.
        rows: complete rows, shape (N, D).
        names: names of the columns, for messages.
        row_weights: positive weights of the rows, shape (N,); None if all are equal.
        judging_weights: weights of the rows if they are held out, shape (N,); those of weight zero
            are neither trained on nor judge. By default `row_weights`.
        held_out_fraction: share of the rows that is held out.
        resolution: the finest scale that matters, in standardised units.
        whiten: True decorrelates the columns; False standardises each by itself.
        num_levels: number of levels of each column, 0 for real ones; discrete columns stay as they
            are. All are real by default.
        pooled: True scales all columns by one number, their root mean square deviation, as the
            elements of an array share a unit; they may be constant then, and rows few.

    Raises:
        ValueError: too few rows to train on, or columns that are constant among these.
    """
    judging, training = split_rows(rng_key, len(rows), held_out_fraction)
    if judging_weights is None:
        judging_weights = row_weights
    else:
        judging = judging[judging_weights[judging] > 0]
    held_out, train = rows[judging], rows[training]
    held_out_weights, weights = selected(judging_weights, judging), selected(row_weights, training)
    dimension = train.shape[1]
    if pooled:
        loc, scale = _moments(train, weights)
        scale = np.full(dimension, np.sqrt((scale**2).mean()))
        whitener, basis = np.diag(1 / scale), np.diag(scale)
        return Units(held_out, train, loc, scale, whitener, basis, held_out_weights, weights)
    _check_training_rows(train, held_out, names)
    real = np.arange(dimension) if num_levels is None else real_columns(num_levels)
    loc, scale = np.zeros(dimension), np.ones(dimension)
    loc[real], scale[real] = _moments(train[:, real], weights)
    whitener, basis = np.diag(1 / scale), np.diag(scale)
    if whiten and len(real):
        block = np.ix_(real, real)
        whitener[block], basis[block] = _decorrelation(
            train[:, real], weights, scale[real], resolution
        )
    return Units(held_out, train, loc, scale, whitener, basis, held_out_weights, weights)


def _moments(rows: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean and standard deviation of each column of rows (N, D), shape (D,) each."""
    loc = column_means(rows, weights)
    return loc, np.sqrt(column_means((rows - loc) ** 2, weights))


def _decorrelation(
    rows: np.ndarray, weights: np.ndarray | None, scale: np.ndarray, resolution: float
) -> tuple[np.ndarray, np.ndarray]:
    """The matrix that decorrelates and standardises rows (N, D), and its inverse."""
    covariance = np.atleast_2d(np.cov(rows, rowvar=False, aweights=weights))
    deviations = np.sqrt(np.diagonal(covariance))
    values, vectors = np.linalg.eigh(covariance / deviations[:, None] / deviations)
    # Directions filled by rounding, or with next to no variance, are not scaled up to one.
    spacing = float(rounding(rows).max())
    smallest = max(MIN_VARIANCE, (10 * spacing / resolution) ** 2)
    root = np.sqrt(np.maximum(values, smallest))
    # Among all roots of the inverse, the symmetric one stays nearest to the columns.
    whitener = (vectors / root) @ vectors.T / scale
    return whitener, scale[:, None] * ((vectors * root) @ vectors.T)


def _check_training_rows(train: np.ndarray, held_out: np.ndarray, names: tuple[str, ...]) -> None:
    dimension = train.shape[1]
    if len(train) < dimension + 2:
        raise ValueError(
            f"Expected at least {dimension + 2} rows of `data` to train on, for {dimension} "
            f"columns; got {len(train)} beside {len(held_out)} held-out ones. Bring more rows, or "
            "make `held_out_fraction` smaller."
        )
    constant = constant_columns(train)
    if constant.any():
        raise ValueError(
            f"Expected columns of `data` that vary among the {len(train)} rows trained on; "
            f"{[names[i] for i in np.flatnonzero(constant)]} do not. Drop them, or make "
            "`held_out_fraction` smaller."
        )
