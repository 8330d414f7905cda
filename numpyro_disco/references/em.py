r"""Expectation-maximisation for mixtures, in two matrix products an iteration.

A component is a Gaussian, and for mixed tables also a categorical distribution for each discrete
column, all of them independent of each other. With x the real columns and e the indicators of the
levels of the discrete ones, its log density is linear in phi(x, e) = (1, x_i, x_i x_j, e_l):

    log w_k + log N(x; mu_k, P_k^-1) + sum_l e_l log pi_kl = phi(x, e) . c_k,

where c_k holds a constant, P_k mu_k, the entries of -P_k / 2 and the log pi_kl. One matrix product
therefore gives the log densities of all rows under all components, and with them the probabilities
r_ik of the components. A second one gives the sums over rows of r_ik phi(x_i, e_i), which hold the
weights, means, second moments and level counts of the next mixture. These sums add up over parts of
the rows, and a row with weight v counts v times.

Mixtures grow by splitting: every component becomes two, and the iterations go on from there.
Everything is NumPy in double precision; nothing has to be compiled for each number of components.

References:
    Dempster, Laird & Rubin 1977.
    Ueda, Nakano, Ghahramani & Hinton 2000, for splitting components.
    McLachlan & Peel 2000, section 5.5, for mixtures with discrete and continuous columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from numpyro_disco._gaussians import LOG_2_PI, affine_gaussian
from numpyro_disco._statistics import standard_error

ADDED_VARIANCE = 1e-6
"""Variance that is added to every component, in the units of the rows."""
ADDED_ROWS = 1.0
"""Rows with the overall shares of the levels that are added to every component, the Dirichlet prior
of its level probabilities: a level that no row of a component has keeps a positive probability."""
FIRST_ROWS = 64
"""Rows for each component and column that a mixture is fitted to before it sees all rows."""
MAX_ITERATIONS, MIN_GAIN = 100, 1e-3
"""Most iterations, and the gain in mean log density below which they end."""
MAX_PRODUCTS = 2**22
"""Most products of coordinates that are held at once."""
MIN_PROBABILITY = 1e-3
"""Probability of a component from which a row has a say in how the component is split."""
NO_LEVELS = np.zeros((0, 0))
"""Shares of levels of a table without discrete columns."""


class MixtureParameters(NamedTuple):
    """The parameters of a mixture in double precision: R real and C discrete columns."""

    weights: np.ndarray
    """Shape (K,)."""
    means: np.ndarray
    """Shape (K, R)."""
    covariances: np.ndarray
    """Shape (K, R, R)."""
    probabilities: np.ndarray
    """Probability of each level of each discrete column, zero beyond its levels, (K, C, L)."""

    def affine(self, matrix: np.ndarray, shift: np.ndarray) -> MixtureParameters:
        """The mixture of matrix @ x + shift, x the real columns."""
        means, covariances = affine_gaussian(self.means, self.covariances, matrix, shift)
        return self._replace(means=means, covariances=covariances)

    def log_prob(self, rows: np.ndarray) -> np.ndarray:
        """Log density of each row (N, R + T), shape (N,); rows as for `growing_mixtures`."""
        coefficients = _coefficients(self)
        num_real = self.means.shape[1]
        return np.concatenate(
            [_log_sum(_products(part, num_real) @ coefficients)[0] for part in _parts(rows)]
        )


def growing_mixtures(
    rows: np.ndarray,
    counts: list[int],
    level_shares: np.ndarray = NO_LEVELS,
    row_weights: np.ndarray | None = None,
) -> Iterator[MixtureParameters]:
    """Mixtures with 1, 2, 4, ... components fitted to rows, each grown from the one before.

    Each is fitted to `FIRST_ROWS` rows for each component and column first, then to all rows.

    Args:
        rows: the real columns, with a covariance close to the identity, followed by the
            indicators of the discrete ones (`with_indicators`), shape (N, R + T).
        counts: the numbers of components, the first powers of two.
        level_shares: overall share of each level of each discrete column, positive, and zero
            beyond its levels, shape (C, L).
        row_weights: weight of each row, shape (N,); all equal by default.
    """
    order = np.random.default_rng(0).permutation(len(rows))
    rows = rows[order]
    row_weights = np.ones(len(rows)) if row_weights is None else row_weights[order]
    num_real = rows.shape[1] - int((level_shares > 0).sum())
    one = MixtureParameters(
        np.ones(1), np.zeros((1, num_real)), np.eye(num_real)[None], level_shares[None]
    )
    mixture = next_mixture(expectations(one, rows, row_weights)[0], level_shares)
    for count in counts:
        if count > 1:
            num_first = FIRST_ROWS * count * rows.shape[1]
            first = slice(num_first if 2 * num_first <= len(rows) else None)
            start = split(mixture, rows[first], level_shares, row_weights[first])
            mixture = iterate(start, rows[first], level_shares, row_weights[first])
            if first.stop is not None:
                mixture = iterate(mixture, rows, level_shares, row_weights)
        yield mixture


def best_mixture(
    mixtures: Iterable[MixtureParameters],
    log_prob: Callable[[MixtureParameters], np.ndarray],
    held_out_weights: np.ndarray | None,
) -> tuple[MixtureParameters, list[float]]:
    """The last mixture whose mean held-out log density rises by more than its standard error.

    Args:
        mixtures: mixtures of more and more components; none is made after the best one but one.
        log_prob: from a mixture to the log density of each held-out row, shape (M,).
        held_out_weights: positive weights of the held-out rows, shape (M,); None if all are equal.

    Returns:
        The mixture, and the mean held-out log density of each mixture that was made.
    """
    best, before, means = None, np.zeros(0), []
    for mixture in mixtures:
        found = log_prob(mixture)
        means.append(float(np.average(found, weights=held_out_weights)))
        if best is not None:
            gain = found - before
            error = standard_error(gain, held_out_weights)
            if not np.average(gain, weights=held_out_weights) > error:
                break
        best, before = mixture, found
    assert best is not None
    return best, means


def split(
    mixture: MixtureParameters,
    rows: np.ndarray,
    level_shares: np.ndarray = NO_LEVELS,
    row_weights: np.ndarray | None = None,
) -> MixtureParameters:
    """Split every component into two, where its rows look least like one.

    Without discrete columns, a component is split along the direction in which its white rows z
    have the smallest fourth moment, the first eigenvector of E[|z|^2 z z^T]: two separate clouds
    have less than a Gaussian. The two have half its weight and lie at the means of the two halves
    of the Gaussian; their common mean and covariance are those of the component.

    With discrete columns, a second direction is tried as well, that of the strongest dependence
    between columns which a component takes to be independent: the first eigenvector of the
    covariance of (z, u) outside of the blocks of z and of each discrete column, with u the
    indicators scaled as in correspondence analysis. The rows on either side of the mean are the
    two halves, and the direction whose halves describe the rows better is taken.

    Args:
        mixture: the mixture of K components.
        rows: rows (N, R + T) that it describes, as for `growing_mixtures`.
        level_shares: as for `growing_mixtures`.
        row_weights: weight of each row, shape (N,); all equal by default.

    References:
        Cardoso 1989, for the eigenvectors of the fourth moments.
        Greenacre 1984, for correspondence analysis.
    """
    row_weights = np.ones(len(rows)) if row_weights is None else row_weights
    coefficients, num_real = _coefficients(mixture), mixture.means.shape[1]
    parts = [_log_sum(_products(part, num_real) @ coefficients)[1] for part in _parts(rows)]
    probabilities = np.concatenate(parts) * row_weights[:, None]
    if level_shares.size:
        halves = [
            _mixed_halves(mixture, k, rows, probability, level_shares)
            for k, probability in enumerate(probabilities.T)
        ]
        lower, upper = zip(*halves, strict=True)
        sums = np.stack(lower + upper)
        return next_mixture(sums, level_shares)
    factors = np.linalg.cholesky(mixture.covariances)
    step = np.empty_like(mixture.means)
    for k, (probability, factor) in enumerate(zip(probabilities.T, factors, strict=True)):
        white = np.linalg.solve(factor, (rows - mixture.means[k]).T).T
        step[k] = np.sqrt(2 / np.pi) * factor @ _flattest(white, probability)
    covariances = mixture.covariances - step[:, :, None] * step[:, None, :]
    return MixtureParameters(
        np.tile(mixture.weights / 2, 2),
        np.concatenate([mixture.means - step, mixture.means + step]),
        np.tile(covariances, (2, 1, 1)),
        np.tile(mixture.probabilities, (2, 1, 1)),
    )


def _flattest(white: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """The direction of the smallest fourth moment of white rows (n, R), shape (R,)."""
    moments = ((probability * (white**2).sum(1))[:, None] * white).T @ white
    return np.linalg.eigh(moments)[1][:, 0]


def _mixed_halves(
    mixture: MixtureParameters,
    index: int,
    rows: np.ndarray,
    probability: np.ndarray,
    level_shares: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The sums, as of `expectations`, of the two halves of a component with discrete columns."""
    some = probability > MIN_PROBABILITY
    rows, probability = rows[some], probability[some]
    num_real, levels = mixture.means.shape[1], level_shares > 0
    factor = np.linalg.cholesky(mixture.covariances[index])
    white = np.linalg.solve(factor, (rows[:, :num_real] - mixture.means[index]).T).T
    shares = mixture.probabilities[index][levels]
    scores = np.concatenate([white, (rows[:, num_real:] - shares) / np.sqrt(shares)], axis=1)
    dependence = (probability[:, None] * scores).T @ scores
    block = np.concatenate([np.full(num_real, -1), np.nonzero(levels)[0]])
    dependence[block[:, None] == block] = 0
    tried = [scores @ np.linalg.eigh(dependence)[1][:, -1]]
    if num_real:
        tried.append(white @ _flattest(white, probability))
    products = _products(rows, num_real)
    both = probability @ products
    best, most = (both / 2, both / 2), -np.inf
    for along in tried:
        upper = (probability * (along > 0)) @ products
        sums = np.stack([both - upper, upper])
        if sums[:, 0].min() < ADDED_ROWS:
            continue
        found = _separate_log_density(sums, level_shares)
        if found > most:
            best, most = (sums[0], sums[1]), found
    return best


def _separate_log_density(sums: np.ndarray, level_shares: np.ndarray) -> float:
    """Log density of rows that are assigned to components, up to a constant, by their sums."""
    halves = next_mixture(sums, level_shares)
    positive = np.where(halves.probabilities > 0, halves.probabilities, 1.0)
    of_each = (
        np.log(halves.weights)
        - 0.5 * np.linalg.slogdet(halves.covariances)[1]
        + (positive * np.log(positive)).sum((1, 2))
    )
    return float(sums[:, 0] @ of_each)


def iterate(
    mixture: MixtureParameters,
    rows: np.ndarray,
    level_shares: np.ndarray = NO_LEVELS,
    row_weights: np.ndarray | None = None,
) -> MixtureParameters:
    """Iterate from a mixture until the mean log density gains less than `MIN_GAIN`."""
    return iterate_steps(
        mixture, lambda mixture: expectations(mixture, rows, row_weights), level_shares
    )


def iterate_steps(
    mixture: MixtureParameters,
    expect: Callable[[MixtureParameters], tuple[np.ndarray, float]],
    level_shares: np.ndarray,
    max_iterations: int = MAX_ITERATIONS,
) -> MixtureParameters:
    """Iterate from a mixture until the mean log density gains less than `MIN_GAIN`.

    Args:
        mixture: the mixture to start from.
        expect: from a mixture to the sums that `next_mixture` reads, and the mean log density.
        level_shares: as for `growing_mixtures`.
        max_iterations: most iterations.
    """
    before = -np.inf
    for _ in range(max_iterations):
        sums, log_density = expect(mixture)
        mixture = next_mixture(sums, level_shares)
        if log_density - before < MIN_GAIN:
            break
        before = log_density
    return mixture


def expectations(
    mixture: MixtureParameters, rows: np.ndarray, row_weights: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """The sums that `next_mixture` reads, and the mean log density of the rows.

    Args:
        mixture: the mixture of K components.
        rows: shape (N, R + T), as for `growing_mixtures`.
        row_weights: weight of each row, shape (N,); all equal by default.

    Returns:
        The sums over rows of v_i r_ik phi(x_i, e_i), shape (K, 1 + R + R (R + 1) / 2 + T), and the
        weighted mean.
    """
    row_weights = np.ones(len(rows)) if row_weights is None else row_weights
    coefficients = _coefficients(mixture)
    sums, total = np.zeros(coefficients.T.shape), 0.0
    for part, weights in zip(_parts(rows), _parts(rows, row_weights), strict=True):
        products = _products(part, mixture.means.shape[1])
        log_densities, probabilities = _log_sum(products @ coefficients)
        sums += (weights[:, None] * probabilities).T @ products
        total += weights @ log_densities
    return sums, total / row_weights.sum()


def next_mixture(sums: np.ndarray, level_shares: np.ndarray = NO_LEVELS) -> MixtureParameters:
    """The mixture whose components have these sums, with `ADDED_VARIANCE` and `ADDED_ROWS`."""
    levels = level_shares > 0
    num_products = sums.shape[1] - int(levels.sum())
    num_real = round((np.sqrt(8 * num_products + 1) - 3) / 2)
    counts = sums[:, 0] + 10 * np.finfo(float).eps
    means = sums[:, 1 : 1 + num_real] / counts[:, None]
    first, second = np.triu_indices(num_real)
    moments = np.empty((len(sums), num_real, num_real))
    moments[:, first, second] = moments[:, second, first] = sums[:, 1 + num_real : num_products]
    covariances = moments / counts[:, None, None] - means[:, :, None] * means[:, None, :]
    covariances = covariances + ADDED_VARIANCE * np.eye(num_real)
    level_counts = np.tile(ADDED_ROWS * level_shares, (len(sums), 1, 1))
    level_counts[:, levels] += sums[:, num_products:]
    probabilities = level_counts / (counts + ADDED_ROWS)[:, None, None]
    return MixtureParameters(counts / counts.sum(), means, covariances, probabilities)


def _coefficients(mixture: MixtureParameters) -> np.ndarray:
    """The coefficients c_k of the products of coordinates, shape (F, K)."""
    num_real = mixture.means.shape[1]
    precisions = np.linalg.inv(mixture.covariances)
    linear = np.einsum("kij,kj->ki", precisions, mixture.means)
    constant = (
        np.log(mixture.weights)
        - 0.5 * np.linalg.slogdet(mixture.covariances)[1]
        - 0.5 * (linear * mixture.means).sum(1)
        - 0.5 * num_real * LOG_2_PI
    )
    first, second = np.triu_indices(num_real)
    # The product of two different coordinates stands for two entries of the matrix.
    quadratic = np.where(first == second, -0.5, -1.0) * precisions[:, first, second]
    # Every level has a positive probability in every component.
    levels = np.log(mixture.probabilities[:, mixture.probabilities[0] > 0])
    return np.concatenate([constant[:, None], linear, quadratic, levels], axis=1).T


def _products(rows: np.ndarray, num_real: int) -> np.ndarray:
    """phi(x, e) of each row: 1, real columns, their products, and indicators, shape (N, F)."""
    first, second = np.triu_indices(num_real)
    real, indicators = rows[:, :num_real], rows[:, num_real:]
    products = real[:, first] * real[:, second]
    return np.concatenate([np.ones((len(rows), 1)), real, products, indicators], axis=1)


def _parts(rows: np.ndarray, values: np.ndarray | None = None) -> list[np.ndarray]:
    """Consecutive parts of the rows, whose products of coordinates fit into `MAX_PRODUCTS`.

    Args:
        rows: shape (N, D).
        values: what to take the same parts of, shape (N, ...); the rows by default.
    """
    dimension = rows.shape[1]
    size = max(1, 2 * MAX_PRODUCTS // ((dimension + 1) * (dimension + 2)))
    values = rows if values is None else values
    return [values[start : start + size] for start in range(0, len(rows), size)]


def _log_sum(log_terms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log of the sum of the terms along the last axis, and the share of each."""
    largest = log_terms.max(axis=1, keepdims=True)
    shares = np.exp(log_terms - largest)
    total = shares.sum(axis=1, keepdims=True)
    return (largest + np.log(total))[:, 0], shares / total
