"""Can a conditional be trusted? Is what is given typical, and are the draws calibrated?"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._checks import check_count, check_key, columns_of
from numpyro_disco._typing import Array
from numpyro_disco.energy.conditionals import log_integrals
from numpyro_disco.energy.distribution import EnergyDistribution, check_prior
from numpyro_disco.energy.pattern import check_some_observed

RARE = 0.01
"""Share of draws or rows below which something is called rare."""
MAX_ROWS = 2000
"""Rows among which distances are compared."""
NUM_POLYNOMIALS = 4


class ConditionalCheck(NamedTuple):
    """How typical what is given is of what was learned, row by row."""

    percentile: np.ndarray
    """Share of draws of the prior whose coordinates, the same ones, have a log density no higher
    than the given ones, shape (rows,) or ()."""
    distance_percentile: np.ndarray | None
    """Share of data rows that are as far from their nearest neighbour, in these coordinates, as the
    given ones from theirs; None without `data`."""
    typical: np.ndarray
    """Neither is rare."""


def check_conditional(
    rng_key: Array,
    prior: EnergyDistribution,
    observed: Any,
    *,
    data: Any = None,
    num_draws: int = 200,
    num_particles: int = 256,
) -> ConditionalCheck:
    """Is what is clamped typical of what was learned? Warns where it is not.

    A learned density says little about places where no row was. Two looks at them: the marginal log
    density of the given coordinates among that of draws of the prior (a percentile, by tempered
    SMC, one run each); and, with `data`, the distance to the nearest row among the distances of
    rows to their own nearest, in standardised units.

    Args:
        rng_key: random key.
        prior: the `EnergyDistribution`.
        observed: as for `sample_conditional`, at least one number in every row. Each pattern of
            what is observed costs `num_draws` runs.
        data: the rows that were learned from, as given to `fit`; incomplete ones are left out.
        num_draws: draws of the prior that are compared with.
        num_particles: particles of each run.

    Returns:
        A `ConditionalCheck`.

    Warns:
        UserWarning: something is rarer than one in a hundred.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro_disco as disco
        >>> q = disco.GaussianReference(jnp.zeros(2), 9 * jnp.eye(2))
        >>> prior = disco.EnergyDistribution(lambda x: 0.5 * (x @ x), q, names=("a", "b"))
        >>> bool(disco.check_conditional(jax.random.key(0), prior, {"a": 0.3}).typical)
        True
    """
    rng_key = check_key(rng_key)
    check_prior(prior, "Give its `distribution`.")
    check_count(num_draws, "num_draws", minimum=2)
    given = prior.with_clamped(prior.pattern(observed))
    single, pattern_rows = given.is_single, given.as_rows("observed")
    rows = jnp.asarray(pattern_rows.values, prior.loc.dtype)
    seen = np.asarray(pattern_rows.observed)
    check_some_observed(seen)
    draw_key, run_key = jax.random.split(rng_key)
    draws = prior.sample(draw_key, (num_draws,)).reshape(num_draws, -1, len(prior.names))[:, 0]
    percentile = np.empty(len(rows))
    distance = None if data is None else np.empty(len(rows))
    table = None if data is None else _complete_rows(data, prior)
    for index, pattern in enumerate(np.unique(seen, axis=0)):
        which = np.flatnonzero((seen == pattern).all(axis=1))
        points = jnp.concatenate([rows[which], draws])
        marginal, _ = log_integrals(
            jax.random.fold_in(run_key, index),
            prior,
            prior.pattern_at(points, np.broadcast_to(pattern, points.shape)),
            num_particles,
            num_chains=1,
        )
        log_density = np.asarray(marginal - prior.log_dets(points, pattern))
        of_rows, of_draws = np.split(log_density, [len(which)])
        percentile[which] = (of_draws <= of_rows[:, None]).mean(axis=1)
        if table is not None and distance is not None:
            standard = _standardized(prior, np.asarray(rows)[np.ix_(which, pattern)], pattern)
            distance[which] = _distance_percentile(
                standard, _standardized(prior, table[:, pattern], pattern)
            )
    typical = percentile >= RARE
    if distance is not None:
        typical &= distance >= RARE
    odd = np.flatnonzero(~typical)
    if len(odd):
        warnings.warn(
            f"What is given in {len(odd)} of {len(rows)} rows of `observed` (rows "
            f"{odd[:5].tolist()}{'...' if len(odd) > 5 else ''}) is rarer than one in "
            f"{1 / RARE:.0f} among what was learned: there the conditional rests on hardly any "
            "data. Check units and typing errors, or widen what is known by a likelihood.",
            stacklevel=2,
        )
    if single:
        distance = None if distance is None else distance[0]
        return ConditionalCheck(percentile[0], distance, typical[0])
    return ConditionalCheck(percentile, distance, typical)


def _complete_rows(data: Any, prior: EnergyDistribution) -> np.ndarray:
    table, names = columns_of(data)
    if names is not None and set(names) >= set(prior.names):
        table = table[:, [names.index(name) for name in prior.names]]
    if table.ndim != 2 or table.shape[1] != len(prior.names):
        raise ValueError(
            f"Expected rows with the columns {prior.names} for `data`; got shape {table.shape}."
        )
    table = table[~np.isnan(table).any(axis=1)]
    if len(table) < 2:
        raise ValueError(f"Expected complete rows in `data`; got {len(table)}.")
    return table


def _standardized(prior: EnergyDistribution, x: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    """Some coordinates in unconstrained, standardised units."""
    places = np.flatnonzero(pattern)
    y = np.asarray(prior.coordinate_supports.select(places).unconstrain(jnp.asarray(x)), np.float64)
    return (y - np.asarray(prior.loc)[places]) / np.asarray(prior.scale)[places]


def _distance_percentile(points: np.ndarray, rows: np.ndarray) -> np.ndarray:
    from sklearn.neighbors import NearestNeighbors

    neighbours = NearestNeighbors(n_neighbors=2).fit(rows)
    # The nearest row to a row is itself.
    own = neighbours.kneighbors(rows[:: -(-len(rows) // MAX_ROWS)])[0][:, 1]
    distance = neighbours.kneighbors(points, n_neighbors=1)[0]
    return (own >= distance).mean(axis=1)
