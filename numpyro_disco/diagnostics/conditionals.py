"""Typicality of conditioning values, and trust in their conditionals.

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
from numpyro_disco.diagnostics.verdicts import PASS, WARN, verdict_of, worst
from numpyro_disco.energy.conditionals import draw_conditionals
from numpyro_disco.energy.distribution import EnergyDistribution, check_prior
from numpyro_disco.energy.drawing import Request
from numpyro_disco.energy.pattern import check_some_observed
from numpyro_disco.tables.reading import read_observations

SMALL_SHARE = 0.01
"""Effective share of the reference's draws below which they say little of the conditional."""
OFF = (0.25, 1.0)
"""Relative errors of conditionals above 1 by at most so much pass, and do not fail."""
NUM_DRAWS = 100
"""Draws of the conditional of each neighbour."""
RARE = 0.01
"""Percentile below which conditioning values are not typical."""
MAX_ROWS = 2000
"""Most rows whose distances to their neighbours are compared."""


class ConditionalCheck(NamedTuple):
    """Typicality of the conditioning values, and trust in the conditional there, row by row.

    `print` shows one sentence for each row, rated pass, warn or fail.
    """

    percentile: np.ndarray
    """Share of draws of the prior whose marginal density of the same coordinates is no higher,
    shape (rows,), or () for one row."""
    distance_percentile: np.ndarray | None
    """Share of data rows at least as far from their nearest neighbour, in the same coordinates, as
    the conditioning values are from theirs, shape (rows,) or (); None without `data`."""
    typical: np.ndarray
    """True if neither percentile is below 0.01, shape (rows,) or ()."""
    effective_share: np.ndarray
    """Share of the reference's draws, given the same values, that are effective under the learned
    density, shape (rows,) or (). Where it is small, the answer rests on the network alone."""
    method: np.ndarray
    """How the marginal density of the values was estimated: "exact", "importance" or "tempering",
    as in `DrawInfo`, shape (rows,) or ()."""
    relative_error: np.ndarray | None
    """RMS distance of true values from the mean of their conditional, in its standard deviations,
    over the nearest rows of `data`, shape (rows, D) or (D,): 1 if the conditionals are right there,
    more if they are off or too narrow. NaN for discrete and observed columns; None without `data`,
    and with `num_neighbours=0`."""
    relative_error_se: np.ndarray | None
    """Its standard error, in the same shape."""
    names: tuple[str, ...]
    """Names of the D columns."""

    def __str__(self) -> str:
        """One sentence for each row: verdict, typicality, and how far to trust the conditional."""
        return "\n".join(map(_sentence, _by_row(self)))


def _by_row(check: ConditionalCheck) -> list[ConditionalCheck]:
    """The check of each row, without the axis of rows."""
    if check.typical.ndim == 0:
        return [check]
    arrays = {
        name: value for name, value in check._asdict().items() if isinstance(value, np.ndarray)
    }
    return [
        check._replace(**{name: value[row] for name, value in arrays.items()})
        for row in range(len(check.typical))
    ]


def _sentence(check: ConditionalCheck) -> str:
    """The check of one row as a sentence."""
    distance = ""
    if check.distance_percentile is not None:
        distance = (
            f" and {check.distance_percentile:.1%} of the rows of `data` are as far from their "
            "nearest neighbour"
        )
    is_far = bool(check.effective_share < SMALL_SHARE)
    verdict, trust = _trust(check)
    return (
        f"{worst(verdict, PASS if check.typical and not is_far else WARN):5}"
        f"the values are {'typical' if check.typical else 'rare'}: {check.percentile:.1%} of prior "
        f"draws have a marginal density no higher than these values{distance}; "
        f"{check.effective_share:.2g} of the reference's draws are effective given them "
        f"(method: {check.method})"
        + " (so few that the answer rests on the network alone)" * is_far
        + f"; {trust}"
    )


def _trust(check: ConditionalCheck) -> tuple[str, str]:
    """Verdict and words on the conditionals of the nearest rows of data."""
    ratios, errors = check.relative_error, check.relative_error_se
    if ratios is None or errors is None:
        hint = "give `data` and `num_neighbours` to see how far conditionals of near rows are off"
        return PASS, hint
    if np.isnan(ratios).all():
        return PASS, "no real column is free"
    place = int(np.nanargmax(ratios))
    verdict = verdict_of(ratios[place] - 1, *OFF, errors[place])
    return verdict, (
        f"at the nearest rows of `data`, true values of {check.names[place]!r} lie "
        f"{ratios[place]:.2f} +- {errors[place]:.1g} times as far from the mean of their "
        "conditional as its standard deviation says, the most of all columns"
        + "; widen intervals by that factor, or learn from more rows there"
        * (verdict != PASS)
    )


def check_conditional(
    rng_key: Array,
    prior: EnergyDistribution,
    observed: Any,
    *,
    data: Any = None,
    num_samples: int = 200,
    num_particles: int = 256,
    num_neighbours: int = 30,
) -> ConditionalCheck:
    """Check that conditioning values are typical, and how far their conditional can be trusted.

    A learned density is an extrapolation where no training row was. This function compares the
    conditioning values in two ways: their marginal log density with that of draws of the prior,
    estimated as by `log_marginal`; and, if `data` is given, their distance to the nearest row with
    the distances between rows, in standardised units. The second also finds gaps between rows that
    the learned density has bridged.

    The joint density may be good and the conditional wrong where the values lie. So with `data` the
    function also draws the conditionals of the rows nearest to the values, and compares them with
    the true values of these rows: their distance from the mean of the conditional is its standard
    deviation, in root mean square, if the conditionals are right.

    Args:
        rng_key: random key.
        prior: the `EnergyDistribution`.
        observed: conditioning values, as for `sample_conditional`, at least one in every row.
        data: the rows that the prior was trained on, as given to `fit`; incomplete rows are left
            out. Rows that it was not trained on, as many and from the same source, judge the
            conditionals more strictly.
        num_samples: number of draws of the prior to compare with. Each pattern of observed
            coordinates in `observed` costs as many runs.
        num_particles: number of particles of each run.
        num_neighbours: number of rows of `data` whose conditionals are drawn for each row of
            `observed`; 0 leaves that out. Each costs as much as a call of `sample_conditional`.

    Returns:
        A `ConditionalCheck`; print it.

    Raises:
        ValueError: a row without an observed value, or `data` without two complete rows.
        RuntimeError: the particles of some run did not reach its conditional.

    Warns:
        UserWarning: a percentile is below 0.01, or conditionals of the nearest rows are off by
            twice as much as they say.

    References:
        Zhao, Dalmasso, Izbicki & Lee 2021, Diagnostics for conditional density models, for local
        coverage.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro_disco as disco
        >>> q = disco.GaussianReference(jnp.zeros(2), 9 * jnp.eye(2))
        >>> prior = disco.EnergyDistribution(lambda x: 0.5 * (x @ x), q, names=("a", "b"))
        >>> bool(disco.check_conditional(jax.random.key(0), prior, {"a": 0.3}).typical)
        True
    """
    rng_key = check_key(rng_key)
    check_prior(prior)
    check_count(num_samples, "num_samples", minimum=2)
    check_count(num_neighbours, "num_neighbours", minimum=0)
    given = prior.with_clamped(prior.pattern(observed))
    single, pattern_rows = given.is_single, given.as_rows("observed")
    rows = jnp.asarray(pattern_rows.values, prior.loc.dtype)
    seen = np.asarray(pattern_rows.observed)
    check_some_observed(seen)
    draw_key, run_key = jax.random.split(rng_key)
    draws = prior.sample(draw_key, (num_samples,)).reshape(num_samples, -1, len(prior.names))[:, 0]
    table = None if data is None else _complete_rows(data, prior)
    judged = table is not None and num_neighbours > 0
    percentile, share, distance = np.empty(len(rows)), np.empty(len(rows)), np.ones(len(rows))
    method = np.empty(len(rows), "<U10")
    ratio, error = np.full((2, *rows.shape), np.nan)
    for index, pattern in enumerate(np.unique(seen, axis=0)):
        which = np.flatnonzero((seen == pattern).all(axis=1))
        key = jax.random.fold_in(run_key, index)
        percentile[which], share[which], method[which] = _percentiles(
            key, prior, rows[which], draws, pattern, num_particles
        )
        if table is not None:
            points = np.asarray(rows)[np.ix_(which, pattern)]
            near = _Neighbours(prior, points, table, pattern, num_neighbours)
            distance[which] = near.distance_percentiles()
            if judged:
                near_key = jax.random.fold_in(key, 1)
                ratio[which], error[which] = _relative_errors(near_key, prior, near, num_particles)
    typical = (percentile >= RARE) & (distance >= RARE)
    _warn_of_rare(typical)
    _warn_of_errors(ratio, error, prior.names)
    check = ConditionalCheck(
        percentile,
        None if table is None else distance,
        typical,
        share,
        method,
        ratio if judged else None,
        error if judged else None,
        prior.names,
    )
    return _by_row(check)[0] if single else check


def _percentiles(
    rng_key: Array,
    prior: EnergyDistribution,
    rows: Array,
    draws: Array,
    pattern: np.ndarray,
    num_particles: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of draws with a marginal density no higher than that of each row, shape (rows,).

    Up to log Z, which all share, the marginal density is the integral of exp(-E) over the
    coordinates that are free, in the user's units of those that are observed. The other arrays are
    the effective share of the reference's draws given each row, and the method, shape (rows,) each.
    """
    points = jnp.concatenate([rows, draws])
    index = np.arange(len(points))
    if prior.coordinate_supports.discrete[pattern].all():
        # Few points are distinct, and equal ones must have equal densities.
        held = np.where(pattern, points, 0.0)
        distinct, index = np.unique(held, axis=0, return_inverse=True)
        points = jnp.asarray(distinct)
    given = prior.pattern_at(points, np.broadcast_to(pattern, points.shape))
    drawn = prior.draw_rows(rng_key, given, Request(0, num_particles))
    log_density = np.asarray(drawn.log_integral - prior.log_dets(points, pattern))[index]
    at_rows, at_draws = np.split(log_density, [len(rows)])
    assert drawn.info is not None
    info = drawn.info.select(index[: len(rows)])
    return (at_draws <= at_rows[:, None]).mean(axis=1), info.effective_share, info.method


def _complete_rows(data: Any, prior: EnergyDistribution) -> np.ndarray:
    """The complete rows of `data`, columns in the order of the prior's names, shape (n, D)."""
    if len(prior.event_shape) > 1:
        data = prior.read(data, "data")
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


class _Neighbours:
    """The rows of `data` nearest to some points, in the coordinates of a pattern."""

    def __init__(
        self,
        prior: EnergyDistribution,
        points: np.ndarray,
        table: np.ndarray,
        pattern: np.ndarray,
        num_neighbours: int,
    ) -> None:
        """Find the neighbours of points (n, numbers) in the user's units."""
        from sklearn.neighbors import NearestNeighbors

        self.table, self.pattern = table, pattern
        rows = _standardized(prior, table[:, pattern], pattern)
        neighbours = NearestNeighbors(n_neighbors=2).fit(rows)
        # The first neighbour of a row is the row itself.
        self._between_rows = neighbours.kneighbors(rows[:: -(-len(rows) // MAX_ROWS)])[0][:, 1]
        count = int(np.clip(num_neighbours, 1, len(rows)))
        self._to_rows, self.near = neighbours.kneighbors(
            _standardized(prior, points, pattern), n_neighbors=count
        )

    def distance_percentiles(self) -> np.ndarray:
        """Share of rows at least as far from their neighbour as each point from its, (n,)."""
        return (self._between_rows >= self._to_rows[:, :1]).mean(axis=1)


def _relative_errors(
    rng_key: Array, prior: EnergyDistribution, neighbours: _Neighbours, num_particles: int
) -> tuple[np.ndarray, np.ndarray]:
    """RMS error of conditional means in conditional deviations, near each point, (n, D).

    The second array is its standard error.
    """
    chosen, place = np.unique(neighbours.near, return_inverse=True)
    true = neighbours.table[chosen]
    seen = np.broadcast_to(neighbours.pattern, true.shape)
    given = prior.pattern_at(jnp.asarray(true, prior.loc.dtype), seen)
    drawn = draw_conditionals(rng_key, prior, given, NUM_DRAWS, max(num_particles, NUM_DRAWS))
    draws = np.asarray(drawn.draws, np.float64)
    free = ~neighbours.pattern & ~prior.coordinate_supports.discrete
    squares = np.full(true.shape, np.nan)
    deviation = draws[..., free].std(axis=0, ddof=1)
    squares[:, free] = ((true - draws.mean(axis=0))[:, free] / deviation) ** 2
    squares = squares[place.reshape(neighbours.near.shape)]
    ratio = np.sqrt(squares.mean(axis=1))
    count = squares.shape[1]
    errors = squares.std(axis=1) / np.sqrt(count - 1) if count > 1 else np.full_like(ratio, np.inf)
    return ratio, errors / (2 * ratio)


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


def _warn_of_errors(ratio: np.ndarray, error: np.ndarray, names: tuple[str, ...]) -> None:
    """Warn of the rows near which conditionals are off by twice as much as they say."""
    bad = np.argwhere(ratio - 2 * error > 1 + OFF[1])
    if len(bad):
        row, place = max(bad, key=lambda entry: ratio[tuple(entry)])
        warnings.warn(
            f"Conditionals near {len(np.unique(bad[:, 0]))} of {len(ratio)} rows of `observed` "
            f"are off: near row {row}, true values of {names[place]!r} lie "
            f"{ratio[row, place]:.2g} +- {error[row, place]:.1g} times as far from the mean of "
            "their conditional as its standard deviation says. Do not rely on the conditional "
            "there; learn from more rows, above all near these values.",
            stacklevel=3,
        )
