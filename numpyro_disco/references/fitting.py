"""Gaussian mixtures fitted by expectation-maximisation, with scikit-learn.

`fit_reference` fits the reference of a learned prior to rows of data; held-out rows choose the
number of components. `fit_mixture` fits the starting density of tempering to a user's draws; the
Bayesian information criterion chooses.

References:
    Dempster, Laird & Rubin 1977, for expectation-maximisation.
    Schwarz 1978, for the criterion of `fit_mixture`.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from numpyro_disco._checks import check_count
from numpyro_disco._gaussians import affine_gaussian
from numpyro_disco._progress import progress
from numpyro_disco._statistics import standard_error
from numpyro_disco.references.mixture import MixtureReference

BASE_WIDTH = 2.0
"""Factor by which `fit_mixture` widens the fitted covariances."""
MAX_ROWS = 60_000
"""Most rows that `fit_reference` reads; more rows take longer and barely change the fit."""
RIDGE = 1e-6
"""Share of each variance that is added to it, so that a covariance is regular."""
ROUNDING_VARIANCE = 2.0
"""Share of each column's variance that is added to it in every component, in units of the machine
epsilon times the number of columns. Without it, a component could be closer to singular than the
precision of its conditionals allows."""
ROWS_PER_COLUMN = 4
"""Rows per column from which a component's covariance is used without shrinkage."""
WIDE_SHARE, WIDE = 0.01, 4.0
"""Weight of the wide component, and the factor by which it widens the covariance of the rows."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureFit:
    """Settings of the Gaussian mixture that `fit` uses as the reference.

    Expectation-maximisation fits mixtures with 1, 2, 4, ... components and full covariances. The
    number doubles as long as the mean log density of the held-out rows rises by more than its
    standard error. One more component, wide and of small weight, covers the space in between.

    Args:
        max_components: largest number of components, not counting the wide one.

    Raises:
        ValueError: `max_components` is not a positive whole number.

    Example:
        >>> MixtureFit(max_components=16)
        MixtureFit(max_components=16)
    """

    max_components: int = 128

    def __post_init__(self) -> None:
        check_count(self.max_components, "max_components")


class MixtureParameters(NamedTuple):
    """The parameters of a mixture in double precision, in the order of `MixtureReference`."""

    weights: np.ndarray
    """Shape (K,)."""
    means: np.ndarray
    """Shape (K, D)."""
    covariances: np.ndarray
    """Shape (K, D, D)."""

    def affine(self, matrix: np.ndarray, shift: np.ndarray) -> MixtureParameters:
        """The mixture of matrix @ x + shift."""
        return MixtureParameters(
            self.weights, *affine_gaussian(self.means, self.covariances, matrix, shift)
        )

    def regularized(self, basis: np.ndarray) -> MixtureParameters:
        """Add `ROUNDING_VARIANCE` to the variance of each column of basis @ x."""
        inverse = np.linalg.inv(basis)
        variances = np.einsum("ij,kjl,il->ki", basis, self.covariances, basis)
        epsilon = float(jnp.finfo(jnp.result_type(float)).eps)
        added = ROUNDING_VARIANCE * len(basis) * epsilon * variances
        ridge = np.einsum("ij,kj,lj->kil", inverse, added, inverse)
        return self._replace(covariances=self.covariances + ridge)


def fit_reference(
    rows: np.ndarray,
    held_out: np.ndarray,
    *,
    settings: MixtureFit,
    basis: np.ndarray | None = None,
    progress_bar: bool = False,
) -> tuple[MixtureParameters, dict[int, float]]:
    """Fit a Gaussian mixture with as many components as the held-out rows support.

    The number of components doubles as long as the mean held-out log density rises by more than
    its standard error. One more component, wide and of small weight, covers the space in between.

    Args:
        rows: rows to fit, shape (N, D); at most `MAX_ROWS` of them are read.
        held_out: rows to judge the fits by, shape (M, D).
        settings: largest number of components.
        basis: matrix (D, D) that takes differences of rows to the user's units, in which single
            precision must be able to condition; by default, the rows' own units.
        progress_bar: show the numbers of components tried with tqdm.

    Returns:
        The mixture in the rows' units, and the mean held-out log density by number of components
        tried.
    """
    rows = _subsample(np.asarray(rows, np.float64))
    held_out = np.asarray(held_out, np.float64)
    basis = np.eye(rows.shape[1]) if basis is None else basis
    best: MixtureParameters | None = None
    best_log_densities: np.ndarray = np.zeros(0)
    tried: dict[int, float] = {}
    counts = _component_counts(rows, settings.max_components)
    with progress(counts, desc="mixture", shown=progress_bar) as bar:
        for count in bar:
            bar.set_postfix(components=count)
            mixture = _with_wide_component(_fit_components(rows, count), rows).regularized(basis)
            reference = MixtureReference(*mixture)
            log_densities = np.asarray(reference.log_prob(jnp.asarray(held_out)), np.float64)
            tried[count] = float(log_densities.mean())
            if best is not None:
                gain = log_densities - best_log_densities
                if not gain.mean() > standard_error(gain):
                    break
            best, best_log_densities = mixture, log_densities
    assert best is not None
    return best, tried


def fit_mixture(draws: np.ndarray) -> MixtureReference:
    """Fit a Gaussian mixture to draws, and widen it.

    The Bayesian information criterion chooses among 1, 2, 4 and 8 components. All covariances are
    then multiplied by `BASE_WIDTH`, so that tempering starts from a density wider than the draws.

    Args:
        draws: unconstrained draws, shape (num_draws, D).

    Raises:
        ValueError: Some draws are not finite.
    """
    from sklearn.mixture import GaussianMixture

    if not np.isfinite(draws).all():
        raise ValueError(
            "Expected finite draws for `base`, inside the supports of their sites; got some that "
            "are not finite in unconstrained space. Drop them."
        )
    loc, scale = draws.mean(0), draws.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    standard = np.asarray((draws - loc) / scale, np.float64)
    fits = [
        GaussianMixture(k, random_state=0, reg_covar=1e-6).fit(standard)
        for k in (1, 2, 4, 8)
        if k == 1 or k * standard.shape[1] * 4 <= len(standard)
    ]
    best = min(fits, key=lambda fit: fit.bic(standard))
    return MixtureReference(
        best.weights_,
        loc + scale * best.means_,
        BASE_WIDTH * best.covariances_ * np.multiply.outer(scale, scale),
    )


def _subsample(rows: np.ndarray) -> np.ndarray:
    """At most `MAX_ROWS` of the rows, the same ones in every call."""
    if len(rows) <= MAX_ROWS:
        return rows
    return rows[np.random.default_rng(0).choice(len(rows), MAX_ROWS, replace=False)]


def _component_counts(rows: np.ndarray, max_components: int) -> list[int]:
    """The numbers of components to try, in order: powers of two, with enough rows for the means."""
    num_rows, dimension = rows.shape
    most = max(1, min(max_components, num_rows // (2 * dimension)))
    return [2**k for k in range(most.bit_length())]


def _fit_components(rows: np.ndarray, num_components: int) -> MixtureParameters:
    """Fit a mixture with full covariances, in the rows' units."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    # EM starts from k-means, which sees only directions of large variance. Whitening gives equal
    # weight to the directions in which nearly collinear columns differ.
    loc = rows.mean(0)
    factor = np.linalg.cholesky(_covariance(rows))
    white = np.linalg.solve(factor, (rows - loc).T).T
    mixture = GaussianMixture(num_components, random_state=0, reg_covar=1e-6, max_iter=100)
    with warnings.catch_warnings():
        # A reference need not be converged to the last digit.
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(white)
    covariances = _shrunk(mixture.covariances_, mixture.weights_ * len(rows))
    return MixtureParameters(
        mixture.weights_,
        loc + mixture.means_ @ factor.T,
        factor @ covariances @ factor.T + RIDGE * np.diag(rows.var(0)),
    )


def _shrunk(covariances: np.ndarray, num_rows: np.ndarray) -> np.ndarray:
    """Shrink the covariances of components with few rows towards spheres of the same trace."""
    dimension = covariances.shape[-1]
    known = np.minimum(1, num_rows / (ROWS_PER_COLUMN * dimension))[:, None, None]
    sizes = np.trace(covariances, axis1=1, axis2=2)[:, None, None] / dimension
    return known * covariances + (1 - known) * sizes * np.eye(dimension)


def _with_wide_component(mixture: MixtureParameters, rows: np.ndarray) -> MixtureParameters:
    """Give `WIDE_SHARE` of the weight to a component with `WIDE` times the rows' covariance."""
    return MixtureParameters(
        np.append((1 - WIDE_SHARE) * mixture.weights, WIDE_SHARE),
        np.concatenate([mixture.means, rows.mean(0)[None]]),
        np.concatenate([mixture.covariances, (WIDE * _covariance(rows))[None]]),
    )


def _covariance(rows: np.ndarray) -> np.ndarray:
    """Covariance of the rows, regular in single precision however few they are."""
    covariance = np.atleast_2d(np.cov(rows, rowvar=False))
    return covariance + RIDGE * np.diag(np.diagonal(covariance))
