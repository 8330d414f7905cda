"""Gaussian mixtures fitted to rows by expectation-maximisation (scikit-learn's).

References:
    Dempster, Laird & Rubin 1977; Schwarz 1978 for the criterion of `fit_mixture`.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from numpyro_disco._checks import check_count
from numpyro_disco._progress import progress
from numpyro_disco._statistics import standard_error
from numpyro_disco.references.mixture import MixtureReference

BASE_WIDTH = 2.0
"""Covariances of a mixture fitted to a user's draws, relative to those of its components."""
MAX_ROWS = 60_000
"""Rows that expectation-maximisation reads; more cost time and say little more."""
RIDGE = 1e-6
"""What is added to each variance, as a share of it."""
LEAST_VARIANCE = 2.0
"""What is added to the variance of each column of a component, as a share of it, in roundings times
columns: where columns are more nearly collinear, that precision could not condition on them."""
KNOWN_ROWS = 4
"""Rows to a column from which on a component's covariance is taken as it is."""
WIDE_SHARE, WIDE = 0.01, 4.0
"""Share of a reference that is one component with the data's covariance, so many times wider."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureFit:
    """Settings of a mixture fitted to rows."""

    max_components: int = 128

    def __post_init__(self) -> None:
        check_count(self.max_components, "max_components")


class Components(NamedTuple):
    """The parameters of a mixture, in double precision."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    def moved(self, matrix: np.ndarray, shift: np.ndarray) -> Components:
        """Of matrix @ x + shift."""
        covariances = matrix @ self.covariances @ matrix.T
        covariances = 0.5 * (covariances + np.swapaxes(covariances, -1, -2))
        return Components(self.weights, self.means @ matrix.T + shift, covariances)

    def regular_in(self, basis: np.ndarray) -> Components:
        """With more variance along the columns that basis @ x has, a share of what is there."""
        inverse = np.linalg.inv(basis)
        variances = np.einsum("ij,kjl,il->ki", basis, self.covariances, basis)
        share = LEAST_VARIANCE * len(basis) * float(jnp.finfo(jnp.result_type(float)).eps)
        more = np.einsum("ij,kj,lj->kil", inverse, share * variances, inverse)
        return self._replace(covariances=self.covariances + more)


def _fit_components(rows: np.ndarray, num_components: int) -> Components:
    """A mixture of full covariances, in the rows' units."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    # Whitened, clusters are spread along every direction of nearly collinear columns.
    loc = rows.mean(0)
    factor = np.linalg.cholesky(_covariance(rows))
    white = np.linalg.solve(factor, (rows - loc).T).T
    mixture = GaussianMixture(num_components, random_state=0, reg_covar=1e-6, max_iter=100)
    with warnings.catch_warnings():
        # Stopped before the last digit is as good a start.
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(white)
    # Of a few rows the shape is not known: such a component becomes round, and as large.
    dimension = rows.shape[1]
    known = np.minimum(1, mixture.weights_ * len(rows) / (KNOWN_ROWS * dimension))[:, None, None]
    sizes = np.trace(mixture.covariances_, axis1=1, axis2=2)[:, None, None] / dimension
    covariances = known * mixture.covariances_ + (1 - known) * sizes * np.eye(dimension)
    return Components(
        mixture.weights_,
        loc + mixture.means_ @ factor.T,
        factor @ covariances @ factor.T + RIDGE * np.diag(rows.var(0)),
    )


def _covariance(rows: np.ndarray) -> np.ndarray:
    """Regular in single precision, however few the rows."""
    covariance = np.atleast_2d(np.cov(rows, rowvar=False))
    return covariance + RIDGE * np.diag(np.diagonal(covariance))


def fit_reference(
    rows: np.ndarray,
    held_out: np.ndarray,
    *,
    settings: MixtureFit,
    basis: np.ndarray | None = None,
    progress_bar: bool = False,
) -> tuple[Components, dict[int, float]]:
    """A mixture with as many components as held-out rows ask for: 1, 2, 4, ...

    More are tried as long as they raise the held-out log density by more than its standard error.
    One more component, wide and of little weight, reaches where the others do not.

    Args:
        rows: rows to fit to, (N, D); at most `MAX_ROWS` of them are read.
        held_out: rows that judge, (M, D).
        max_components: most components.
        basis: the matrix that takes rows to the units of the columns, in which single precision
            has to do; by default they are in these.
        progress_bar: show the numbers of components tried with tqdm.

    Returns:
        The mixture, in the rows' units, and the mean held-out log density by components tried.
    """
    rows, held_out = np.asarray(rows, np.float64), np.asarray(held_out, np.float64)
    if len(rows) > MAX_ROWS:
        rows = rows[np.random.default_rng(0).choice(len(rows), MAX_ROWS, replace=False)]
    basis = np.eye(rows.shape[1]) if basis is None else basis
    wide = WIDE * _covariance(rows)
    best: Components | None = None
    log_densities: np.ndarray = np.zeros(0)
    tried: dict[int, float] = {}
    # Two rows for each mean at the very least, but always one component.
    most = max(1, min(settings.max_components, len(rows) // (2 * rows.shape[1])))
    counts = [2**k for k in range(most.bit_length())]
    with progress(counts, desc="mixture", shown=progress_bar) as bar:
        for count in bar:
            bar.set_postfix(components=count)
            weights, means, covariances = _fit_components(rows, count)
            mixture = Components(
                np.append((1 - WIDE_SHARE) * weights, WIDE_SHARE),
                np.concatenate([means, rows.mean(0)[None]]),
                np.concatenate([covariances, wide[None]]),
            ).regular_in(basis)
            reference = MixtureReference(*mixture)
            found = np.asarray(reference.log_prob(jnp.asarray(held_out)), np.float64)
            tried[count] = float(found.mean())
            if best is not None:
                gain = found - log_densities
                if not gain.mean() > standard_error(gain):
                    break
            best, log_densities = mixture, found
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
