r"""Mixtures fitted by expectation-maximisation to rows with missing entries.

Given the observed part x_o of a row and its component k, the missing part is Gaussian with a mean
that is affine in x_o and a covariance C_k that does not depend on it:

    E[x | x_o, k] = A_k x_o + b_k,     Cov[x | x_o, k] = C_k.

Rows that miss the same columns form a pattern. The sums over a pattern that complete rows would
give (`em.py`) therefore follow from the sums over the observed columns alone:

    sum_i r_ik E[h h^T | x_io, k] = B_k (sum_i r_ik h_io h_io^T) B_k^T + C_k sum_i r_ik,

with h = (1, x), h_o = (1, x_o) and B_k = (1, 0; b_k, A_k). The sums of all patterns add up, and the
next mixture is read off them as usual. This maximises the likelihood of what is observed, which is
right if entries are missing at random: whether one is missing may depend on what is observed.

The indicators of a discrete column that is missing have the expectations that the component gives
them, whatever else is observed.

References:
    Dempster, Laird & Rubin 1977, section 4.1; Ghahramani & Jordan 1994.
    Rubin 1976, for entries that are missing at random.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from numpyro_disco._levels import level_shares, with_indicators
from numpyro_disco._statistics import effective_number, selected
from numpyro_disco.references import em
from numpyro_disco.references.em import MixtureParameters, best_mixture, iterate_steps, split

MAX_COMPONENTS = 16
"""Most components; the imputed rows that follow are described by a reference of their own."""
MAX_ROWS = 20_000
"""Most rows that are fitted; an iteration takes longer than one over complete rows."""
MAX_ITERATIONS = 50
"""Most iterations."""


class _Conditional(NamedTuple):
    """The real columns of rows given the observed ones, for each of K components."""

    matrix: np.ndarray
    """A_k, shape (K, R, O): the identity for observed columns."""
    shift: np.ndarray
    """b_k, shape (K, R): zero for observed columns."""
    covariance: np.ndarray
    """C_k, shape (K, R, R): zero for observed columns."""


def fit_incomplete(
    rows: np.ndarray,
    held_out: np.ndarray,
    num_levels: tuple[int, ...],
    row_weights: np.ndarray | None = None,
    held_out_weights: np.ndarray | None = None,
    names: Sequence[str] | None = None,
) -> MixtureParameters:
    """Fit a mixture to rows with missing entries.

    The number of components doubles as long as the mean log density of what is observed of held-out
    rows rises by more than its standard error.

    Args:
        rows: shape (N, D), NaN where an entry is missing.
        held_out: rows to judge the number of components by, shape (M, D), NaN likewise.
        num_levels: number of levels of each column, which hold codes 0, 1, ...; 0 for real ones.
        row_weights: positive weights of `rows`, shape (N,); ones by default.
        held_out_weights: those of `held_out`, shape (M,).
        names: names of the D columns for error messages; their positions by default.

    Raises:
        ValueError: a column is not observed in any of the rows that are fitted.
    """
    order = np.random.default_rng(0).permutation(len(rows))[:MAX_ROWS]
    rows, row_weights = rows[order], selected(row_weights, order)
    _check_observed(rows, names)
    loc, scale = _observed_moments(rows, row_weights, num_levels)
    standard, judges = (rows - loc) / scale, (held_out - loc) / scale
    num_rows = effective_number(row_weights, len(rows))
    most = max(1, min(MAX_COMPONENTS, int(num_rows) // (2 * rows.shape[1])))
    best, _ = best_mixture(
        _growing(standard, num_levels, row_weights, most),
        lambda mixture: log_prob(mixture, judges, num_levels),
        held_out_weights,
    )
    real = np.equal(num_levels, 0)
    return best.affine(np.diag(scale[real]), loc[real])


def _check_observed(rows: np.ndarray, names: Sequence[str] | None) -> None:
    """Refuse columns without entries: nothing is known of them."""
    known = names if names is not None else [str(place) for place in range(rows.shape[1])]
    empty = np.isnan(rows).all(axis=0)
    never = [name for name, one in zip(known, empty, strict=True) if one]
    if never:
        raise ValueError(
            "Expected columns of `data` with entries in the rows that a mixture is fitted to, at "
            f"most {MAX_ROWS} of those that are not held out; "
            f"{never} have none among {len(rows)} rows. Drop them, or bring more rows that have "
            "them."
        )


def _observed_moments(
    rows: np.ndarray, row_weights: np.ndarray | None, num_levels: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean and deviation of the observed entries of each column, shape (D,) each.

    Those of discrete columns are 0 and 1.
    """
    observed = ~np.isnan(rows)
    weights = observed * (1.0 if row_weights is None else row_weights[:, None])
    loc = (weights * np.where(observed, rows, 0)).sum(0) / weights.sum(0)
    square = (weights * np.where(observed, rows - loc, 0) ** 2).sum(0) / weights.sum(0)
    discrete = np.not_equal(num_levels, 0)
    return np.where(discrete, 0, loc), np.sqrt(np.where(discrete | (square <= 0), 1.0, square))


def _growing(
    rows: np.ndarray, num_levels: tuple[int, ...], row_weights: np.ndarray | None, most: int
) -> Iterator[MixtureParameters]:
    """Mixtures with 1, 2, 4, ... components, each grown from the one before."""
    weights, rng = (
        np.ones(len(rows)) if row_weights is None else row_weights,
        np.random.default_rng(0),
    )
    shares = level_shares(rows, num_levels, weights)
    num_real = num_levels.count(0)
    start = MixtureParameters(
        np.ones(1), np.zeros((1, num_real)), np.eye(num_real)[None], shares[None]
    )
    mixture = iterate(start, rows, num_levels, shares, weights)
    yield mixture
    while 2 * len(mixture.weights) <= most:
        # Where to split is seen on complete rows; one draw of the missing entries is enough.
        filled = draw_missing(rng, mixture, rows, num_levels)
        halves = split(mixture, with_indicators(filled, num_levels), shares, weights)
        mixture = iterate(halves, rows, num_levels, shares, weights)
        yield mixture


def iterate(
    mixture: MixtureParameters,
    rows: np.ndarray,
    num_levels: tuple[int, ...],
    level_shares: np.ndarray,
    row_weights: np.ndarray,
) -> MixtureParameters:
    """Iterate from a mixture until the mean log density gains less than `MIN_GAIN`."""
    return iterate_steps(
        mixture,
        lambda mixture: expectations(mixture, rows, num_levels, row_weights),
        level_shares,
        MAX_ITERATIONS,
    )


def expectations(
    mixture: MixtureParameters,
    rows: np.ndarray,
    num_levels: tuple[int, ...],
    row_weights: np.ndarray,
) -> tuple[np.ndarray, float]:
    """The expected sums that `next_mixture` reads, and the mean log density of what is observed.

    Args:
        mixture: the mixture of K components.
        rows: shape (N, D), NaN where an entry is missing; no row misses all.
        num_levels: number of levels of each column, 0 for real ones.
        row_weights: positive weights of the rows, shape (N,).

    Returns:
        The sums as those of `em.expectations`, and the weighted mean.
    """
    sums: Any = 0.0
    total = 0.0
    for observed, places, seen in _patterns(rows, num_levels):
        mass, part_of = row_weights[places], _marginal(mixture, observed, num_levels)
        part, log_density = em.expectations(part_of, seen, mass)
        total += log_density * mass.sum()
        sums = sums + _lifted(part, mixture, observed, num_levels)
    return sums, total / row_weights.sum()


def log_prob(
    mixture: MixtureParameters, rows: np.ndarray, num_levels: tuple[int, ...]
) -> np.ndarray:
    """Log density of the observed entries of each row (N, D), shape (N,)."""
    found = np.empty(len(rows))
    for observed, places, seen in _patterns(rows, num_levels):
        found[places] = _marginal(mixture, observed, num_levels).log_prob(seen)
    return found


def draw_missing(
    rng: np.random.Generator,
    mixture: MixtureParameters,
    rows: np.ndarray,
    num_levels: tuple[int, ...],
) -> np.ndarray:
    """Rows (N, D) whose missing entries are drawn from the mixture given the observed ones."""
    filled, real = rows.copy(), np.equal(num_levels, 0)
    for observed, places, seen in _patterns(rows, num_levels):
        component = _drawn_components(rng, _marginal(mixture, observed, num_levels), seen)
        missing_real = ~observed[real]
        if missing_real.any():
            given = _conditional(mixture, observed[real])
            known = rows[places][:, observed & real]
            noise = rng.standard_normal((len(places), missing_real.sum()))
            block = given.covariance[:, missing_real][:, :, missing_real]
            drawn = np.einsum("nij,nj->ni", given.matrix[component][:, missing_real], known)
            drawn += given.shift[component][:, missing_real]
            drawn += np.einsum("nij,nj->ni", np.linalg.cholesky(block)[component], noise)
            filled[np.ix_(places, ~observed & real)] = drawn
        for index, place in enumerate(np.flatnonzero(num_levels)):
            if not observed[place]:
                shares = mixture.probabilities[component, index, : num_levels[place]]
                uniform = rng.random((len(places), 1)) * shares.sum(1, keepdims=True)
                codes = (shares.cumsum(1) <= uniform).sum(1)
                filled[places, place] = np.minimum(codes, num_levels[place] - 1)
    return filled


def _drawn_components(
    rng: np.random.Generator, mixture: MixtureParameters, rows: np.ndarray
) -> np.ndarray:
    """A component for each complete row, drawn with its probability, shape (N,)."""
    parts = zip(*(part[:, None] for part in mixture), strict=True)
    # Each component alone, with weight one: its own density.
    log_joint = np.stack(
        [
            np.log(weight[0])
            + MixtureParameters(np.ones(1), mean, covariance, probability).log_prob(rows)
            for weight, mean, covariance, probability in parts
        ],
        axis=1,
    )
    return (log_joint + rng.gumbel(size=log_joint.shape)).argmax(1)


def _patterns(
    rows: np.ndarray, num_levels: tuple[int, ...]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Each pattern of observed columns, with the rows that have it.

    Args:
        rows: shape (N, D), NaN where an entry is missing.
        num_levels: number of levels of each column, 0 for real ones.

    Yields:
        The pattern, bool (D,); the indices of its rows, (n,); and their observed columns, with
        indicators in place of the discrete ones, (n, O + T).
    """
    patterns, index = np.unique(~np.isnan(rows), axis=0, return_inverse=True)
    order = np.argsort(index.ravel(), kind="stable")
    ends = np.cumsum(np.bincount(index.ravel(), minlength=len(patterns)))
    for observed, places in zip(patterns, np.split(order, ends[:-1]), strict=True):
        seen = rows[np.ix_(places, observed)]
        yield observed, places, with_indicators(seen, np.extract(observed, num_levels))


def _marginal(
    mixture: MixtureParameters, observed: np.ndarray, num_levels: tuple[int, ...]
) -> MixtureParameters:
    """The mixture over the observed columns."""
    real = np.equal(num_levels, 0)
    kept = observed[real]
    return MixtureParameters(
        mixture.weights,
        mixture.means[:, kept],
        mixture.covariances[:, kept][:, :, kept],
        mixture.probabilities[:, observed[~real]],
    )


def _conditional(mixture: MixtureParameters, observed: np.ndarray) -> _Conditional:
    """The affine mean and the covariance of all real columns given the observed ones, bool (R,)."""
    covariances = mixture.covariances
    block = covariances[:, observed][:, :, observed]
    matrix = np.linalg.solve(block, covariances[:, observed]).swapaxes(1, 2)
    matrix[:, observed] = np.eye(int(observed.sum()))
    shift = mixture.means - np.einsum("kij,kj->ki", matrix, mixture.means[:, observed])
    remaining = covariances - matrix @ covariances[:, observed]
    remaining[:, observed], remaining[:, :, observed] = 0, 0
    shift[:, observed] = 0
    return _Conditional(matrix, shift, (remaining + remaining.swapaxes(1, 2)) / 2)


def _lifted(
    sums: np.ndarray,
    mixture: MixtureParameters,
    observed: np.ndarray,
    num_levels: tuple[int, ...],
) -> np.ndarray:
    """The expected sums of all columns, from those of the observed ones."""
    real = np.equal(num_levels, 0)
    given = _conditional(mixture, observed[real])
    num_components, num_real, num_observed = given.matrix.shape
    first, second = _upper(num_observed)
    of_real, of_levels = sums[:, : len(first)], sums[:, len(first) :]
    homogeneous = np.empty((num_components, num_observed + 1, num_observed + 1))
    homogeneous[:, first, second] = homogeneous[:, second, first] = of_real
    lift = np.zeros((num_components, num_real + 1, num_observed + 1))
    lift[:, 0, 0], lift[:, 1:, 0], lift[:, 1:, 1:] = 1, given.shift, given.matrix
    lifted = lift @ homogeneous @ lift.swapaxes(1, 2)
    lifted[:, 1:, 1:] += sums[:, :1, None] * given.covariance
    parts = [lifted[:, *_upper(num_real)]]
    for index, place in enumerate(np.flatnonzero(num_levels)):
        count = num_levels[place]
        if observed[place]:
            parts.append(of_levels[:, :count])
            of_levels = of_levels[:, count:]
        else:
            parts.append(sums[:, :1] * mixture.probabilities[:, index, :count])
    return np.concatenate(parts, axis=1)


def _upper(dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of 1, x_i and x_i x_j, in the order of `em.expectations`, in (1, x) (1, x)^T."""
    first, second = np.triu_indices(dimension)
    zeros, columns = np.zeros(dimension + 1, int), np.arange(dimension + 1)
    return np.concatenate([zeros, first + 1]), np.concatenate([columns, second + 1])
