"""Typicality of conditioning values: are they where the learned density rests on data?

The percentile of a conditioning value x_o is the share of draws X of the prior whose marginal
density is no higher, P(p(X_o) <= p(x_o)).
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._checks import check_count, check_key
from numpyro_disco._levels import level_places
from numpyro_disco._typing import Array
from numpyro_disco.energy.distribution import EnergyDistribution, check_prior
from numpyro_disco.energy.drawing import Request
from numpyro_disco.energy.pattern import check_some_observed
from numpyro_disco.tables.reading import read_observations

RARE = 0.01
"""Percentile below which conditioning values are not typical."""
MAX_ROWS = 2000
"""Most rows whose distances to their neighbours are compared."""


class ConditionalCheck(NamedTuple):
    """Typicality of the conditioning values, row by row."""

    percentile: np.ndarray
    """Share of draws of the prior whose marginal density of the same coordinates is no higher,
    shape (rows,), or () for one row."""
    distance_percentile: np.ndarray | None
    """Share of data rows at least as far from their nearest neighbour, in the same coordinates, as
    the conditioning values are from theirs, shape (rows,) or (); None without `data`."""
    typical: np.ndarray
    """True if neither percentile is below 0.01, shape (rows,) or ()."""


def check_conditional(
    rng_key: Array,
    prior: EnergyDistribution,
    observed: Any,
    *,
    data: Any = None,
    num_samples: int = 200,
    num_particles: int = 256,
) -> ConditionalCheck:
    """Check that conditioning values are typical of what was learned, and warn if they are not.

    A learned density is an extrapolation where no training row was. This function compares the
    conditioning values in two ways: their marginal log density with that of draws of the prior,
    each by one run of tempered SMC; and, if `data` is given, their distance to the nearest row with
    the distances between rows, in standardised units. The second also finds gaps between rows that
    the learned density has bridged.

    Args:
        rng_key: random key.
        prior: the `EnergyDistribution`.
        observed: conditioning values, as for `sample_conditional`, at least one in every row.
        data: the rows that the prior was trained on, as given to `fit`; incomplete rows are left
            out.
        num_samples: number of draws of the prior to compare with. Each pattern of observed
            coordinates in `observed` costs as many runs.
        num_particles: number of particles of each run.

    Returns:
        A `ConditionalCheck`.

    Raises:
        ValueError: a row without an observed value, or `data` without two complete rows.
        RuntimeError: the particles of some run did not reach its conditional.

    Warns:
        UserWarning: a percentile is below 0.01.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro_disco as disco
        >>> q = disco.GaussianReference(jnp.zeros(2), 9 * jnp.eye(2))
        >>> prior = disco.EnergyDistribution(lambda x: 0.5 * (x @ x), q, names=("a", "b"))
        >>> bool(disco.check_conditional(jax.random.key(0), prior, {"a": 0.3}).typical)
        True
    """
    rng_key = check_key(rng_key)
    check_prior(prior, "Give its `distribution`.")
    check_count(num_samples, "num_samples", minimum=2)
    given = prior.with_clamped(prior.pattern(observed))
    single, pattern_rows = given.is_single, given.as_rows("observed")
    rows = jnp.asarray(pattern_rows.values, prior.loc.dtype)
    seen = np.asarray(pattern_rows.observed)
    check_some_observed(seen)
    draw_key, run_key = jax.random.split(rng_key)
    draws = prior.sample(draw_key, (num_samples,)).reshape(num_samples, -1, len(prior.names))[:, 0]
    table = None if data is None else _complete_rows(data, prior)
    percentile, distance = np.empty(len(rows)), np.ones(len(rows))
    for index, pattern in enumerate(np.unique(seen, axis=0)):
        which = np.flatnonzero((seen == pattern).all(axis=1))
        key = jax.random.fold_in(run_key, index)
        percentile[which] = _percentiles(key, prior, rows[which], draws, pattern, num_particles)
        if table is not None:
            points = np.asarray(rows)[np.ix_(which, pattern)]
            distance[which] = _distance_percentiles(prior, points, table[:, pattern], pattern)
    typical = (percentile >= RARE) & (distance >= RARE)
    _warn_of_rare(typical)
    if single:
        percentile, distance, typical = percentile[0], distance[0], typical[0]
    return ConditionalCheck(percentile, None if table is None else distance, typical)


def _percentiles(
    rng_key: Array,
    prior: EnergyDistribution,
    rows: Array,
    draws: Array,
    pattern: np.ndarray,
    num_particles: int,
) -> np.ndarray:
    """Share of draws with a marginal density no higher than that of each row, shape (rows,).

    Up to log Z, which all share, the marginal density is the integral of exp(-E) over the
    coordinates that are free, in the user's units of those that are observed.
    """
    points = jnp.concatenate([rows, draws])
    index = np.arange(len(points))
    if prior.coordinate_supports.discrete[pattern].all():
        # Few points are distinct, and equal ones must have equal densities.
        held = np.where(pattern, points, 0.0)
        distinct, index = np.unique(held, axis=0, return_inverse=True)
        points = jnp.asarray(distinct)
    given = prior.pattern_at(points, np.broadcast_to(pattern, points.shape))
    integral = prior.draw_rows(rng_key, given, Request(0, num_particles)).log_integral
    log_density = np.asarray(integral - prior.log_dets(points, pattern))[index]
    at_rows, at_draws = np.split(log_density, [len(rows)])
    return (at_draws <= at_rows[:, None]).mean(axis=1)


def _complete_rows(data: Any, prior: EnergyDistribution) -> np.ndarray:
    """The complete rows of `data`, columns in the order of the prior's names, shape (n, D)."""
    table = read_observations(data, prior.names, prior.columns, "data", others=True).values
    if table.ndim != 2:
        raise ValueError(
            f"Expected rows with the columns {prior.names} for `data`; got shape {table.shape}."
        )
    table = table[~np.isnan(table).any(axis=1)]
    if len(table) < 2:
        raise ValueError(
            f"Expected at least 2 complete rows in `data`; got {len(table)}. Give the rows that "
            "the prior was trained on, or leave `data` out."
        )
    return table


def _distance_percentiles(
    prior: EnergyDistribution, points: np.ndarray, table: np.ndarray, pattern: np.ndarray
) -> np.ndarray:
    """Share of rows at least as far from their neighbour as each point from its, shape (points,).

    Points and rows hold the coordinates of `pattern` only, in the user's units.
    """
    from sklearn.neighbors import NearestNeighbors

    rows = _standardized(prior, table, pattern)
    neighbours = NearestNeighbors(n_neighbors=2).fit(rows)
    # The first neighbour of a row is the row itself.
    between_rows = neighbours.kneighbors(rows[:: -(-len(rows) // MAX_ROWS)])[0][:, 1]
    to_rows = neighbours.kneighbors(_standardized(prior, points, pattern), n_neighbors=1)[0]
    return (between_rows >= to_rows).mean(axis=1)


def _standardized(prior: EnergyDistribution, x: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    """The coordinates of `pattern`, unconstrained and standardised, shape (n, numbers).

    Discrete ones are indicators of their levels, at distance 1 from each other.
    """
    places = np.flatnonzero(pattern)
    supports = prior.coordinate_supports.select(places)
    y = np.asarray(supports.unconstrain(jnp.asarray(x)), np.float64)
    z = (y - np.asarray(prior.loc)[places]) / np.asarray(prior.scale)[places]
    coordinate, code = level_places(supports.num_levels)
    indicators = (y[:, coordinate] == code) / np.sqrt(2)
    return np.concatenate([z[:, ~supports.discrete], indicators], axis=1)


def _warn_of_rare(typical: np.ndarray) -> None:
    """Warn of the rows that are not typical."""
    rare = np.flatnonzero(~typical)
    if len(rare):
        warnings.warn(
            f"The values in {len(rare)} of {len(typical)} rows of `observed` (rows "
            f"{rare[:5].tolist()}{'...' if len(rare) > 5 else ''}) are rarer than one in "
            f"{1 / RARE:.0f} under what was learned: the conditional rests on hardly any data "
            "there. Check units and typing errors, or replace exact values by a likelihood.",
            stacklevel=3,
        )
