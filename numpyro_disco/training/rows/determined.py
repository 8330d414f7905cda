"""Columns that a few others determine by a nonlinear function, exactly or nearly.

Such columns have no joint density, or one so thin that no method learns it well. Linear dependence
is treated apart (`dependence.py`), so what is examined here is e_j, the part of column j that no
linear function of the other columns explains, however small it is. Two steps:

1. Boosted trees regress e_j on the other columns, on few rows. Where they explain little of it, the
   column is not determined by the others. This step is cheap and leaves few columns.
2. A local regression on up to three columns, those that the trees rely on, measures what is left of
   e_j. It is locally quadratic, so its error falls with the third power of the distance between
   rows, where that of trees falls with the first.

References:
    Cleveland 1979, for local regression; Breiman 2001, for permutation importance.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, rankdata

from numpyro_disco.training.rows.dependence import standardized

MIN_ROWS, MAX_ROWS = 500, 8000
"""Fewest rows that say anything, and most that are read."""
TREE_ROWS = 2000
"""Rows for the trees, half of which judge them."""
MAX_COLUMNS = 50
"""Most columns; the check would be slow with more."""
EXPLAINED = 0.75
"""Share of the variance of e_j that trees explain if the column may be determined."""
MAX_INPUTS, MAX_CANDIDATES = 3, 5
"""Most columns that determine one, and most that are tried."""
NUM_QUERIES = 400
"""Rows at which the local regression is judged."""
MOST = 0.8
"""Quantile of the errors that counts: rows that share one value have none, but most rows count."""
NEXT_TO_NOTHING = 0.05
"""Largest share of e_j that is left of a column that is determined."""


class Determined(NamedTuple):
    """A column that a few others determine."""

    column: int
    """Index of the column."""
    inputs: tuple[int, ...]
    """Indices of the columns that determine it, in order."""
    left: float
    """Error of its regression on them over the size of e_j, both at the quantile `MOST`."""


def find_determined(rows: np.ndarray, targets: np.ndarray) -> list[Determined]:
    """Find columns that up to three others determine, exactly or nearly.

    A column that is found is no input of the others: of a = b c only one is named.

    Args:
        rows: complete rows (N, D), none of whose columns is constant.
        targets: indices of the columns to examine; the others are inputs only.

    Returns:
        One `Determined` for each column found; none for fewer than 500 rows or more than 50
        columns.
    """
    num_rows, dimension = rows.shape
    if num_rows < MIN_ROWS or not 1 < dimension <= MAX_COLUMNS:
        return []
    rng = np.random.default_rng(0)
    z = standardized(rows[rng.permutation(num_rows)[:MAX_ROWS]])[0]
    shares = {target: _screen(z, target, [])[0] for target in targets}
    found: list[Determined] = []
    for target in sorted(shares, key=shares.__getitem__, reverse=True):
        if shares[target] <= EXPLAINED:
            break
        left_out = [one.column for one in found]
        explained, candidates = _screen(z, target, left_out)
        one = _best_regression(z, target, left_out, candidates)
        if explained > EXPLAINED and one.left <= NEXT_TO_NOTHING:
            found.append(one)
    return found


def _others(z: np.ndarray, target: int, left_out: list[int]) -> np.ndarray:
    """Indices of the columns that may determine one."""
    return np.setdiff1d(np.arange(z.shape[1]), [target, *left_out])


def _without_linear_part(z: np.ndarray, target: int, others: np.ndarray) -> np.ndarray:
    """The part e_j of a column that the others do not explain linearly, shape (N,)."""
    inputs = np.column_stack([z[:, others], np.ones(len(z))])
    return z[:, target] - inputs @ np.linalg.lstsq(inputs, z[:, target], rcond=None)[0]


def _normal_scores(x: np.ndarray) -> np.ndarray:
    """Ranks of each column as quantiles of the normal distribution, so that no row lies far off."""
    return norm.ppf((rankdata(x, axis=0) - 0.5) / len(x))


def _screen(z: np.ndarray, target: int, left_out: list[int]) -> tuple[float, np.ndarray]:
    """Share of the variance of e_j that trees explain, and the columns that they rely on."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    others = _others(z, target, left_out)
    if not len(others):
        return 0.0, others
    outcome = _normal_scores(_without_linear_part(z, target, others))[:TREE_ROWS]
    learned, judged = np.array_split(np.arange(len(outcome)), 2)
    trees = HistGradientBoostingRegressor(
        learning_rate=0.3, max_iter=25, min_samples_leaf=5, early_stopping=False, random_state=0
    ).fit(z[learned][:, others], outcome[learned])

    def error(points: np.ndarray) -> float:
        return float(np.mean((trees.predict(points) - outcome[judged]) ** 2))

    points = z[judged][:, others]
    explained = 1 - error(points) / outcome[judged].var()
    if explained <= EXPLAINED:
        return explained, others[:0]
    rng, importance = np.random.default_rng(0), np.empty(len(others))
    for place in range(len(others)):
        permuted = points.copy()
        permuted[:, place] = rng.permutation(permuted[:, place])
        importance[place] = error(permuted)
    return explained, others[np.argsort(-importance)[:MAX_CANDIDATES]]


def _best_regression(
    z: np.ndarray, target: int, left_out: list[int], candidates: np.ndarray
) -> Determined:
    """The local regression on the fewest of some columns that leaves next to nothing, or least."""
    others = _others(z, target, left_out)
    residual = _without_linear_part(z, target, others) if len(others) else z[:, target]
    size = np.quantile(np.abs(residual - np.median(residual)), MOST)
    # A function may be linear in columns that the trees do not need for e_j, or that they do.
    outcomes = np.column_stack([residual, z[:, target]])
    scores, best = _normal_scores(z), Determined(target, (), np.inf)
    for count in range(1, min(MAX_INPUTS, len(candidates)) + 1):
        for inputs in itertools.combinations(candidates, count):
            errors = np.abs(_local_errors(scores[:, inputs], outcomes))
            left = float(np.quantile(errors, MOST, axis=0).min() / size)
            if left < best.left:
                best = Determined(int(target), tuple(sorted(map(int, inputs))), left)
        if best.left <= NEXT_TO_NOTHING:
            break
    return best


def _local_errors(inputs: np.ndarray, outcomes: np.ndarray) -> np.ndarray:
    """Errors of a quadratic fitted to the nearest rows of a row, the row itself left out.

    Args:
        inputs: shape (N, d).
        outcomes: shape (N, K).

    Returns:
        Errors at the first `NUM_QUERIES` rows, shape (queries, K).
    """
    from sklearn.neighbors import NearestNeighbors

    num_inputs = inputs.shape[1]
    pairs = list(itertools.combinations_with_replacement(range(num_inputs), 2))
    num_terms = 1 + num_inputs + len(pairs)
    queries, count = inputs[:NUM_QUERIES], 2 * num_terms
    # Among equal rows the row itself need not be the first.
    near = NearestNeighbors(n_neighbors=count + 1).fit(inputs).kneighbors(queries)[1]
    itself = near == np.arange(len(queries))[:, None]
    itself[~itself.any(axis=1), -1] = True
    near = near[~itself].reshape(len(queries), count)
    away = inputs[near] - queries[:, None]
    away /= np.maximum(np.abs(away).max(axis=(1, 2), keepdims=True), np.finfo(float).tiny)
    squares = [away[..., one] * away[..., other] for one, other in pairs]
    terms = np.stack([np.ones(near.shape), *np.moveaxis(away, -1, 0), *squares], axis=-1)
    transposed = np.swapaxes(terms, 1, 2)
    normal = transposed @ terms + 1e-6 * np.eye(num_terms)
    at_query = np.linalg.solve(normal, transposed @ outcomes[near])[:, 0]
    return at_query - outcomes[: len(queries)]
