"""Gaussian mixtures fitted to rows by expectation-maximisation (scikit-learn's).

References:
    Dempster, Laird & Rubin 1977; Schwarz 1978 for the criterion of `fit_mixture`.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from numpyro_disco.reference import MixtureReference

BASE_WIDTH = 2.0
"""Covariances of a mixture fitted to a user's draws, relative to those of its components."""
MAX_ROWS = 60_000
"""Rows that expectation-maximisation reads; more cost time and say little more."""
RIDGE = 1e-6
"""What is added to each variance, as a share of it."""
WIDE_SHARE, WIDE = 0.01, 4.0
"""Share of a reference that is one component with the data's covariance, so many times wider."""


class _Components(NamedTuple):
    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray


def _fit_components(rows: np.ndarray, num_components: int) -> _Components:
    """A mixture of full covariances, in the rows' units."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    # Whitened, seeds are spread along every direction of nearly collinear columns.
    loc = rows.mean(0)
    factor = np.linalg.cholesky(_covariance(rows))
    white = np.linalg.solve(factor, (rows - loc).T).T
    mixture = GaussianMixture(
        num_components, random_state=0, reg_covar=1e-6, init_params="k-means++", max_iter=100
    )
    with warnings.catch_warnings():
        # Stopped before the last digit is as good a start.
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(white)
    return _Components(
        mixture.weights_,
        loc + mixture.means_ @ factor.T,
        factor @ mixture.covariances_ @ factor.T + RIDGE * np.diag(rows.var(0)),
    )


def _covariance(rows: np.ndarray) -> np.ndarray:
    """Regular in single precision, however few the rows."""
    covariance = np.atleast_2d(np.cov(rows, rowvar=False))
    return covariance + RIDGE * np.diag(np.diagonal(covariance))


def fit_reference(
    rows: np.ndarray, held_out: np.ndarray, *, max_components: int
) -> tuple[MixtureReference, dict[int, float]]:
    """A mixture with as many components as held-out rows ask for: 1, 2, 4, ...

    More are tried as long as they raise the held-out log density by more than its standard error.
    One more component, wide and of little weight, reaches where the others do not.

    Args:
        rows: rows to fit to, (N, D); at most `MAX_ROWS` of them are read.
        held_out: rows that judge, (M, D).
        max_components: most components.

    Returns:
        The reference, in the rows' units, and the mean held-out log density by components tried.
    """
    rows, held_out = np.asarray(rows, np.float64), np.asarray(held_out, np.float64)
    if len(rows) > MAX_ROWS:
        rows = rows[np.random.default_rng(0).choice(len(rows), MAX_ROWS, replace=False)]
    wide = WIDE * _covariance(rows)
    best: MixtureReference | None = None
    log_densities: np.ndarray = np.zeros(0)
    tried: dict[int, float] = {}
    count = 1
    # Two rows for each mean at the very least, but always one component.
    while count <= max_components and (count == 1 or 2 * count * rows.shape[1] <= len(rows)):
        weights, means, covariances = _fit_components(rows, count)
        reference = MixtureReference(
            np.append((1 - WIDE_SHARE) * weights, WIDE_SHARE),
            np.concatenate([means, rows.mean(0)[None]]),
            np.concatenate([covariances, wide[None]]),
        )
        found = np.asarray(reference.log_prob(jnp.asarray(held_out)), np.float64)
        tried[count] = float(found.mean())
        if best is not None:
            gain = found - log_densities
            if not gain.mean() > gain.std() / np.sqrt(len(gain)):
                break
        best, log_densities = reference, found
        count *= 2
    assert best is not None
    return best, tried


def fit_mixture(draws: np.ndarray) -> MixtureReference:
    """A Gaussian mixture for draws (num_draws, d): as many components as BIC finds, then widened.

    Args:
        draws: unconstrained draws.
    """
    from sklearn.mixture import GaussianMixture

    if not np.isfinite(draws).all():
        raise ValueError("Expected finite draws in `base`, inside the support of their sites.")
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
