r"""Expectation-maximisation for Gaussian mixtures, in two matrix products an iteration.

The log density of a Gaussian is linear in the products of coordinates, phi(x) = (1, x_i, x_i x_j):

    log w_k + log N(x; mu_k, P_k^-1) = phi(x) . c_k,

where c_k holds a constant, P_k mu_k and the entries of -P_k / 2. One matrix product therefore gives
the log densities of all rows under all components, and with them the probabilities r_ik of the
components. A second one gives the sums over rows of w_i r_ik phi(x_i), with w_i the weight of a
row, which hold the weights, means and second moments of the next mixture. These sums add up over
parts of the rows. Without weights of rows, all are one.

Mixtures grow by splitting: every component becomes two, and the iterations go on from there.
Everything is NumPy in double precision; nothing has to be compiled for each number of components.

References:
    Dempster, Laird & Rubin 1977.
    Ueda, Nakano, Ghahramani & Hinton 2000, for splitting components.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from numpyro_disco._gaussians import LOG_2_PI, affine_gaussian

ADDED_VARIANCE = 1e-6
"""Variance that is added to every component, in the units of the rows."""
FIRST_ROWS = 64
"""Rows for each component and column that a mixture is fitted to before it sees all rows."""
MAX_ITERATIONS, MIN_GAIN = 100, 1e-3
"""Most iterations, and the gain in mean log density below which they end."""
MAX_PRODUCTS = 2**22
"""Most products of coordinates that are held at once."""


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

    def log_prob(self, rows: np.ndarray) -> np.ndarray:
        """Log density of each row (N, D), shape (N,)."""
        coefficients = _coefficients(self)
        return np.concatenate(
            [_log_sum(_products(part) @ coefficients)[0] for part in _parts(rows)]
        )


def growing_mixtures(
    rows: np.ndarray, counts: list[int], row_weights: np.ndarray | None = None
) -> Iterator[MixtureParameters]:
    """Mixtures with 1, 2, 4, ... components fitted to rows, each grown from the one before.

    Each is fitted to `FIRST_ROWS` rows for each component and column first, then to all rows.

    Args:
        rows: shape (N, D), with a covariance close to the identity.
        counts: the numbers of components, the first powers of two.
        row_weights: positive weights of the rows, shape (N,); ones by default.
    """
    order = np.random.default_rng(0).permutation(len(rows))
    rows, row_weights = rows[order], _ones_or(row_weights, rows)[order]
    dimension = rows.shape[1]
    one = MixtureParameters(np.ones(1), np.zeros((1, dimension)), np.eye(dimension)[None])
    mixture = next_mixture(expectations(one, rows, row_weights)[0])
    for count in counts:
        if count > 1:
            num_first = FIRST_ROWS * count * dimension
            first = slice(num_first if 2 * num_first <= len(rows) else len(rows))
            mixture = split(mixture, rows[first], row_weights[first])
            mixture = iterate(mixture, rows[first], row_weights[first])
            if len(rows[first]) < len(rows):
                mixture = iterate(mixture, rows, row_weights)
        yield mixture


def split(
    mixture: MixtureParameters, rows: np.ndarray, row_weights: np.ndarray | None = None
) -> MixtureParameters:
    """Split every component into two of half its weight, where its rows look least like one.

    A component is split along the direction in which its white rows z have the smallest fourth
    moment, the first eigenvector of E[|z|^2 z z^T]: two separate clouds have less than a Gaussian.
    The two lie at the means of the two halves of the Gaussian; their common mean and covariance are
    those of the component.

    Args:
        mixture: the mixture of K components.
        rows: rows (N, D) that it describes.
        row_weights: positive weights of the rows, shape (N,); ones by default.

    References:
        Cardoso 1989, for the eigenvectors of the fourth moments.
    """
    coefficients = _coefficients(mixture)
    parts = [_log_sum(_products(part) @ coefficients)[1] for part in _parts(rows)]
    probabilities = np.concatenate(parts) * _ones_or(row_weights, rows)[:, None]
    factors = np.linalg.cholesky(mixture.covariances)
    step = np.empty_like(mixture.means)
    for k, (probability, factor) in enumerate(zip(probabilities.T, factors, strict=True)):
        white = np.linalg.solve(factor, (rows - mixture.means[k]).T).T
        moments = ((probability * (white**2).sum(1))[:, None] * white).T @ white
        step[k] = np.sqrt(2 / np.pi) * factor @ np.linalg.eigh(moments)[1][:, 0]
    covariances = mixture.covariances - step[:, :, None] * step[:, None, :]
    return MixtureParameters(
        np.tile(mixture.weights / 2, 2),
        np.concatenate([mixture.means - step, mixture.means + step]),
        np.tile(covariances, (2, 1, 1)),
    )


def iterate(
    mixture: MixtureParameters, rows: np.ndarray, row_weights: np.ndarray | None = None
) -> MixtureParameters:
    """Iterate from a mixture until the mean log density gains less than `MIN_GAIN`."""
    before = -np.inf
    for _ in range(MAX_ITERATIONS):
        sums, log_density = expectations(mixture, rows, row_weights)
        mixture = next_mixture(sums)
        if log_density - before < MIN_GAIN:
            break
        before = log_density
    return mixture


def expectations(
    mixture: MixtureParameters, rows: np.ndarray, row_weights: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """The sums that `next_mixture` reads, and the weighted mean log density of the rows.

    Args:
        mixture: the mixture of K components.
        rows: shape (N, D).
        row_weights: positive weights w_i of the rows, shape (N,); ones by default.

    Returns:
        The sums over rows of w_i r_ik phi(x_i), shape (K, 1 + D + D (D + 1) / 2), and the mean.
    """
    row_weights = _ones_or(row_weights, rows)
    coefficients = _coefficients(mixture)
    sums, total = np.zeros(coefficients.T.shape), 0.0
    for part, weights in zip(_parts(rows), _parts(row_weights, rows.shape[1]), strict=True):
        products = _products(part)
        log_densities, probabilities = _log_sum(products @ coefficients)
        sums += (weights[:, None] * probabilities).T @ products
        total += (weights * log_densities).sum()
    return sums, total / row_weights.sum()


def next_mixture(sums: np.ndarray) -> MixtureParameters:
    """The mixture whose components have these sums, with `ADDED_VARIANCE`."""
    dimension = round((np.sqrt(8 * sums.shape[1] + 1) - 3) / 2)
    counts = sums[:, 0] + 10 * np.finfo(float).eps
    means = sums[:, 1 : 1 + dimension] / counts[:, None]
    first, second = np.triu_indices(dimension)
    moments = np.empty((len(sums), dimension, dimension))
    moments[:, first, second] = moments[:, second, first] = sums[:, 1 + dimension :]
    covariances = moments / counts[:, None, None] - means[:, :, None] * means[:, None, :]
    covariances = covariances + ADDED_VARIANCE * np.eye(dimension)
    return MixtureParameters(counts / counts.sum(), means, covariances)


def _coefficients(mixture: MixtureParameters) -> np.ndarray:
    """The coefficients c_k of the products of coordinates, shape (F, K)."""
    dimension = mixture.means.shape[1]
    precisions = np.linalg.inv(mixture.covariances)
    linear = np.einsum("kij,kj->ki", precisions, mixture.means)
    constant = (
        np.log(mixture.weights)
        - 0.5 * np.linalg.slogdet(mixture.covariances)[1]
        - 0.5 * (linear * mixture.means).sum(1)
        - 0.5 * dimension * LOG_2_PI
    )
    first, second = np.triu_indices(dimension)
    # The product of two different coordinates stands for two entries of the matrix.
    quadratic = np.where(first == second, -0.5, -1.0) * precisions[:, first, second]
    return np.concatenate([constant[:, None], linear, quadratic], axis=1).T


def _products(rows: np.ndarray) -> np.ndarray:
    """phi(x) of each row: 1, its coordinates, and their products, shape (N, F)."""
    first, second = np.triu_indices(rows.shape[1])
    ones = np.ones((len(rows), 1))
    return np.concatenate([ones, rows, rows[:, first] * rows[:, second]], axis=1)


def _ones_or(row_weights: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
    return np.ones(len(rows)) if row_weights is None else row_weights


def _parts(rows: np.ndarray, dimension: int | None = None) -> list[np.ndarray]:
    """Consecutive parts of rows (N, D), whose products of coordinates fit into `MAX_PRODUCTS`.

    Numbers that belong to rows, shape (N,), are parted like the rows if D is given.
    """
    dimension = rows.shape[1] if dimension is None else dimension
    size = max(1, 2 * MAX_PRODUCTS // ((dimension + 1) * (dimension + 2)))
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _log_sum(log_terms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log of the sum of the terms along the last axis, and the share of each."""
    largest = log_terms.max(axis=1, keepdims=True)
    shares = np.exp(log_terms - largest)
    total = shares.sum(axis=1, keepdims=True)
    return (largest + np.log(total))[:, 0], shares / total
