"""Mixtures with as many components as data support.

`fit_reference` fits the reference of a learned prior to rows of data; held-out rows choose the
number of components. `fit_mixture` fits the starting density of tempering to a user's draws; the
Bayesian information criterion chooses. Both grow mixtures by expectation-maximisation (`em.py`).

References:
    Schwarz 1978, for the criterion of `fit_mixture`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from numpyro_disco._checks import check_count
from numpyro_disco._levels import level_shares, real_columns, with_indicators
from numpyro_disco._progress import progress
from numpyro_disco._statistics import column_means, effective_number
from numpyro_disco.references.em import MixtureParameters, best_mixture, growing_mixtures
from numpyro_disco.references.mixed import MixedReference
from numpyro_disco.references.mixture import MixtureReference

BASE_WIDTH = 2.0
"""Factor by which `fit_mixture` widens the fitted covariances."""
MAX_ROWS = 60_000
"""Most rows that `fit_reference` reads; more rows take longer and barely change the fit."""
RIDGE = 1e-6
"""Share of each column's variance that is added to it, so that a covariance is regular."""
ROUNDING_VARIANCE = 2.0
"""Share of each column's variance that is added to it in every component, in units of the machine
epsilon times the number of columns. Without it, a component could be closer to singular than the
precision of its conditionals allows."""
MAX_COMPONENTS, ROWS_FOR_ONE = (128, 512), 32
"""Default largest number of components, on few rows and on many, and rows for each in between."""
ROWS_PER_COLUMN = 4
"""Rows per column from which a component's covariance is used without shrinkage."""
BASE_COMPONENTS, BASE_ROWS_PER_COLUMN = 8, 4
"""Most components of `fit_mixture`, and fewest draws for each component and column."""
WIDE_SHARE, WIDE = 0.01, 4.0
"""Weight of the wide component, and the factor by which it widens the covariance of the rows."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureFit:
    """Settings of the mixture that `fit` uses as the reference.

    Expectation-maximisation fits mixtures with 1, 2, 4, ... components and full covariances. Each
    starts from the one before, with every component split into two. The number doubles as long as
    the mean log density of the held-out rows rises by more than its standard error. One more
    component, wide and of small weight, covers the space in between.

    Args:
        max_components: largest number of components, not counting the wide one. By default one for
            every 32 rows, but at least 128 and at most 512.

    Raises:
        ValueError: `max_components` is not a positive whole number.

    Example:
        >>> MixtureFit(max_components=16)
        MixtureFit(max_components=16)
    """

    max_components: int | None = None

    def __post_init__(self) -> None:
        if self.max_components is not None:
            check_count(self.max_components, "max_components")

    def resolved(self, num_rows: float) -> MixtureFit:
        """Choose the largest number of components by the number of rows."""
        if self.max_components is not None:
            return self
        fewest, most = MAX_COMPONENTS
        return MixtureFit(max_components=max(fewest, min(most, int(num_rows) // ROWS_FOR_ONE)))


def fit_reference(
    rows: np.ndarray,
    held_out: np.ndarray,
    *,
    settings: MixtureFit,
    basis: np.ndarray | None = None,
    row_weights: np.ndarray | None = None,
    held_out_weights: np.ndarray | None = None,
    num_levels: tuple[int, ...] | None = None,
    progress_bar: bool = False,
) -> tuple[MixtureParameters, dict[int, float]]:
    """Fit a mixture with as many components as the held-out rows support.

    The number of components doubles as long as the mean held-out log density rises by more than
    its standard error. One more component, wide and of small weight, covers the space in between.

    Args:
        rows: rows to fit, shape (N, D); at most `MAX_ROWS` of them are read. Discrete columns hold
            the codes 0, 1, ... of their levels.
        held_out: rows to judge the fits by, shape (M, D).
        settings: largest number of components.
        basis: matrix (D, D) that takes differences of rows to the user's units, in which single
            precision must be able to condition; by default, the rows' own units. It leaves
            discrete columns as they are.
        row_weights: positive weights of `rows`, shape (N,); None if all are equal. Rows of unequal
            weights count as their effective number.
        held_out_weights: positive weights of `held_out`, shape (M,); None if all are equal.
        num_levels: number of levels of each column, 0 for real ones, D entries; all real by
            default.
        progress_bar: show the numbers of components tried with tqdm.

    Returns:
        The mixture in the rows' units, and the mean held-out log density by number of components
        tried.
    """
    rows, row_weights = _subsample(rows, row_weights)
    num_rows = effective_number(row_weights, len(rows))
    num_levels = (0,) * rows.shape[1] if num_levels is None else num_levels
    real = real_columns(num_levels)
    basis = np.eye(rows.shape[1]) if basis is None else basis
    basis = basis[np.ix_(real, real)]
    relative = None if row_weights is None else row_weights / row_weights.mean()
    shares = level_shares(rows, num_levels, relative)
    rows, indicators = np.split(with_indicators(rows, num_levels), [len(real)], axis=1)
    held_out = with_indicators(held_out, num_levels)
    num_means = rows.shape[1] + indicators.shape[1] - len(shares)
    most = settings.resolved(num_rows).max_components
    assert most is not None
    # Two rows or more for each number of a mean.
    counts = _powers_of_two(max(1, min(most, int(num_rows) // (2 * num_means))))
    whitened, loc, factor = _whitened(rows, row_weights)
    fits = growing_mixtures(
        np.concatenate([whitened, indicators], axis=1), counts, shares, row_weights
    )

    def finished() -> Iterator[MixtureParameters]:
        with progress(counts, desc="mixture", shown=progress_bar) as bar:
            for count in bar:
                bar.set_postfix(components=count)
                mixture = _shrunk(next(fits), num_rows).affine(factor, loc)
                mixture = _with_wide_component(mixture, rows, row_weights, shares)
                yield _regularized(mixture, rows, row_weights, basis)

    best, means = best_mixture(
        finished(), lambda mixture: mixture.log_prob(held_out), held_out_weights
    )
    return best, dict(zip(counts, means, strict=False))


def mixture_reference(
    parameters: MixtureParameters, num_levels: tuple[int, ...]
) -> MixtureReference | MixedReference:
    """The reference with these parameters; a `MixedReference` if some columns are discrete.

    Args:
        parameters: parameters of the real columns and of the discrete ones.
        num_levels: number of levels of each of the D columns, 0 for real ones.
    """
    weights, means, covariances, probabilities = parameters
    if not any(num_levels):
        return MixtureReference(weights, means, covariances)
    num_components, dimension = len(weights), len(num_levels)
    real = real_columns(num_levels)
    all_means = np.zeros((num_components, dimension))
    all_means[:, real] = means
    all_covariances = np.tile(np.eye(dimension), (num_components, 1, 1))
    all_covariances[:, real[:, None], real] = covariances
    logs = np.full((num_components, dimension, probabilities.shape[2]), -np.inf)
    with np.errstate(divide="ignore"):
        logs[:, np.flatnonzero(num_levels)] = np.log(probabilities)
    return MixedReference(weights, all_means, all_covariances, logs, num_levels=num_levels)


def fit_mixture(draws: np.ndarray) -> MixtureReference:
    """Fit a Gaussian mixture to draws, and widen it.

    The Bayesian information criterion chooses among 1, 2, 4 and 8 components. All covariances are
    then multiplied by `BASE_WIDTH`, so that tempering starts from a density wider than the draws.

    Args:
        draws: unconstrained draws, shape (num_draws, D).

    Raises:
        ValueError: Some draws are not finite.
    """
    if not np.isfinite(draws).all():
        raise ValueError(
            "Expected finite draws for `base`, inside the supports of their sites; got some that "
            "are not finite in unconstrained space. Drop them."
        )
    num_draws, dimension = draws.shape
    most = max(1, min(BASE_COMPONENTS, num_draws // (BASE_ROWS_PER_COLUMN * dimension)))
    whitened, loc, factor = _whitened(np.asarray(draws, np.float64), None)
    fits = growing_mixtures(whitened, _powers_of_two(most))
    best = min(fits, key=lambda mixture: _bayesian_criterion(mixture, whitened))
    weights, means, covariances, _ = best.affine(factor, loc)
    return MixtureReference(weights, means, BASE_WIDTH * covariances)


def _bayesian_criterion(mixture: MixtureParameters, rows: np.ndarray) -> float:
    """Minus twice the log likelihood, plus the log number of rows for each free parameter."""
    num_components, dimension = mixture.means.shape
    num_parameters = num_components * (dimension + 1) * (dimension + 2) / 2 - 1
    return -2 * mixture.log_prob(rows).sum() + num_parameters * np.log(len(rows))


def _whitened(
    rows: np.ndarray, row_weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows with mean zero and the identity as covariance, and loc and factor of the way back.

    The directions in which nearly collinear columns differ are then as long as all others.
    """
    loc = column_means(rows, row_weights)
    factor = np.linalg.cholesky(_covariance(rows, row_weights))
    return np.linalg.solve(factor, (rows - loc).T).T, loc, factor


def _subsample(
    rows: np.ndarray, row_weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """At most `MAX_ROWS` of the rows, the same ones in every call, and their weights."""
    if len(rows) <= MAX_ROWS:
        return rows, row_weights
    rng = np.random.default_rng(0)
    if row_weights is None:
        return rows[rng.choice(len(rows), MAX_ROWS, replace=False)], None
    # Picks in proportion to the weights keep more of the effective number than equal picks would.
    ends = np.cumsum(row_weights)
    places = (np.arange(MAX_ROWS) + rng.random()) * (ends[-1] / MAX_ROWS)
    picks = np.minimum(np.searchsorted(ends, places, side="right"), len(rows) - 1)
    picked, counts = np.unique(picks, return_counts=True)
    return rows[picked], counts.astype(np.float64)


def _powers_of_two(most: int) -> list[int]:
    return [2**k for k in range(most.bit_length())]


def _shrunk(mixture: MixtureParameters, num_rows: float) -> MixtureParameters:
    """Shrink the covariances of components with few rows towards spheres of the same trace."""
    dimension = max(1, mixture.means.shape[1])
    known = np.minimum(1, num_rows * mixture.weights / (ROWS_PER_COLUMN * dimension))
    known = known[:, None, None]
    sizes = np.trace(mixture.covariances, axis1=1, axis2=2)[:, None, None] / dimension
    spheres = sizes * np.eye(mixture.means.shape[1])
    return mixture._replace(covariances=known * mixture.covariances + (1 - known) * spheres)


def _regularized(
    mixture: MixtureParameters,
    rows: np.ndarray,
    row_weights: np.ndarray | None,
    basis: np.ndarray,
) -> MixtureParameters:
    """Add `RIDGE` to the variances of the rows, and `ROUNDING_VARIANCE` to those of basis @ x."""
    away = rows - column_means(rows, row_weights)
    variances = column_means(away**2, row_weights)
    covariances = mixture.covariances + RIDGE * np.diag(variances)
    inverse = np.linalg.inv(basis)
    in_basis = np.einsum("ij,kjl,il->ki", basis, covariances, basis)
    epsilon = float(jnp.finfo(jnp.result_type(float)).eps)
    added = ROUNDING_VARIANCE * len(basis) * epsilon * in_basis
    ridge = np.einsum("ij,kj,lj->kil", inverse, added, inverse)
    return mixture._replace(covariances=covariances + ridge)


def _with_wide_component(
    mixture: MixtureParameters,
    rows: np.ndarray,
    row_weights: np.ndarray | None,
    shares: np.ndarray,
) -> MixtureParameters:
    """Give `WIDE_SHARE` of the weight to a component with `WIDE` times the rows' covariance.

    Its level probabilities are the overall shares.
    """
    return MixtureParameters(
        np.append((1 - WIDE_SHARE) * mixture.weights, WIDE_SHARE),
        np.concatenate([mixture.means, column_means(rows, row_weights)[None]]),
        np.concatenate([mixture.covariances, (WIDE * _covariance(rows, row_weights))[None]]),
        np.concatenate([mixture.probabilities, shares[None]]),
    )


def _covariance(rows: np.ndarray, row_weights: np.ndarray | None) -> np.ndarray:
    """Covariance of the rows, regular in single precision however few they are."""
    num_columns = rows.shape[1]
    covariance = np.cov(rows, rowvar=False, aweights=row_weights)
    covariance = covariance.reshape(num_columns, num_columns)
    variances = np.diagonal(covariance)
    return covariance + RIDGE * np.diag(np.where(variances > 0, variances, 1.0))
