"""Report lines that compare draws with held-out rows.

Rows and draws are in standardised units; discrete columns hold codes of levels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from numpyro_disco._levels import with_indicators
from numpyro_disco._statistics import column_means, effective_number, standard_error
from numpyro_disco.diagnostics.verdicts import FAIL, verdict_of
from numpyro_disco.references.base import host_draws
from numpyro_disco.training.report.evidence import FitEvidence, basis_of
from numpyro_disco.training.report.lines import ReportLine, make_line

NUM_FOLDS, NUM_TREES = 5, 50
"""Parts of the cross-validation, and trees of each classifier."""
CORRELATION = 1.3
"""Factor of standard errors: one classifier judges many rows, so its errors are not independent."""
EASIER = 2.5
"""Draws are easier to tell than those of the reference if the accuracy is higher than theirs, and
than 0.5, by so many standard errors."""
MIN_HELD_OUT = 100
"""Fewest held-out rows from which trees learn anything."""
MAX_COLUMNS = 50
"""Most columns that a classifier sees in two kinds of units."""
MAX_NEIGHBOURS = 50_000
"""Most training rows among which the nearest is found."""
NUM_REPLICATES = 40
"""Pairs of samples of the training rows that say which distances chance gives."""


class Compared(NamedTuple):
    """Draws of the fit and of its reference, and the rows that they are compared with."""

    held_out: np.ndarray
    """Held-out rows, shape (m, D), with noise if the learned density is that of noisy rows."""
    weights: np.ndarray | None
    """Positive weights of the held-out rows, shape (m,); None if all are equal."""
    draws: np.ndarray
    """Draws of the learned density, shape (n, D)."""
    reference_draws: np.ndarray
    """Draws of the reference alone, shape (n, D)."""

    @property
    def num_held_out(self) -> float:
        """The effective number of held-out rows."""
        return effective_number(self.weights, len(self.held_out))


def compared(
    rng: np.random.Generator,
    evidence: FitEvidence,
    held_out: np.ndarray,
    weights: np.ndarray | None,
    draws: np.ndarray,
) -> Compared:
    """Draw from the reference, and smooth held-out rows as the learned density is smoothed.

    Args:
        rng: source of random numbers.
        evidence: the learned density.
        held_out: held-out rows, shape (m, D).
        weights: their positive weights, shape (m,); None if all are equal.
        draws: draws of the learned density, shape (n, D).
    """
    held_out = _smoothed(rng, evidence, held_out)
    reference_draws = host_draws(rng, evidence.energy.reference.components(), len(draws))
    return Compared(held_out, weights, draws, reference_draws)


def _smoothed(rng: np.random.Generator, evidence: FitEvidence, rows: np.ndarray) -> np.ndarray:
    """Rows with noise, if the learned density is that of noisy rows."""
    sigma = evidence.density.noise_scale
    return rows if sigma is None else rows + float(sigma) * rng.standard_normal(rows.shape)


class Separation(NamedTuple):
    """Correct answers of a classifier of rows and draws, on parts that it was not trained on."""

    rows: np.ndarray
    """1 for rows that are classified correctly, else 0, shape (m,)."""
    weights: np.ndarray | None
    """Positive weights of the rows; None if all are equal."""
    draws: np.ndarray
    """1 for draws that are classified correctly, else 0, shape (n,)."""

    @property
    def accuracy(self) -> float:
        """Mean of the accuracies among rows and among draws: 0.5 if they have one density."""
        return 0.5 * float(np.average(self.rows, weights=self.weights) + self.draws.mean())

    @property
    def error(self) -> float:
        """Standard error of the accuracy."""
        errors = standard_error(self.rows, self.weights), standard_error(self.draws)
        return CORRELATION * 0.5 * float(np.hypot(*errors))

    def excess(self, other: Separation) -> tuple[float, float]:
        """Difference to another accuracy on the same rows, and its standard error."""
        errors = (
            standard_error(self.rows - other.rows, self.weights),
            standard_error(self.draws),
            standard_error(other.draws),
        )
        error = CORRELATION * 0.5 * float(np.linalg.norm(errors))
        return self.accuracy - other.accuracy, error


def separate(
    rows: np.ndarray,
    draws: np.ndarray,
    weights: np.ndarray | None = None,
    discrete: np.ndarray | None = None,
) -> Separation:
    """Tell draws from rows by boosted trees, with cross-validation.

    Both count the same in all, so that guessing has an accuracy of 0.5. There are at least as many
    draws as rows.

    Args:
        rows: shape (m, D).
        draws: shape (n, D).
        weights: positive weights of the rows, shape (m,); None if all are equal.
        discrete: True for columns of codes, shape (D,); none by default.

    References:
        Lopez-Paz & Oquab 2017, Revisiting classifier two-sample tests.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    # Rows are in the same parts whatever they are compared with.
    part_of_rows, part_of_draws = (
        np.random.default_rng(0).permutation(len(x)) % NUM_FOLDS for x in (rows, draws)
    )
    draws = np.random.default_rng(1).permutation(draws)
    correct_rows, correct_draws = np.empty(len(rows)), np.empty(len(draws))
    for part in range(NUM_FOLDS):
        is_judged, are_judged = part_of_rows == part, part_of_draws == part
        # Weights would make binning slow: as many draws as rows, which are drawn by weight.
        seen = rows[~is_judged]
        if weights is not None:
            seen = _resampled(np.random.default_rng(part), seen, weights[~is_judged], len(seen))
        some = draws[~are_judged][: len(seen)]
        points = np.concatenate([seen, some])
        label = np.repeat([0, 1], [len(seen), len(some)])
        trees = HistGradientBoostingClassifier(
            learning_rate=0.05,
            max_iter=NUM_TREES,
            max_leaf_nodes=7,
            min_samples_leaf=40,
            early_stopping=False,
            categorical_features=discrete,
            random_state=0,
        )
        trees.fit(points, label)
        if is_judged.any():
            correct_rows[is_judged] = trees.predict(rows[is_judged]) == 0
        correct_draws[are_judged] = trees.predict(draws[are_judged]) == 1
    return Separation(correct_rows, weights, correct_draws)


def draws_line(evidence: FitEvidence, sample: Compared) -> ReportLine:
    """Compare how well draws of the fit, and of the reference, are told from held-out rows."""
    supports = evidence.coordinate_supports
    views = _views(evidence, sample.held_out)
    discrete = np.append(supports.discrete, np.zeros(views.shape[1] - len(supports.discrete), bool))
    of_fit, of_reference = (
        separate(
            views,
            _views(evidence, draws),
            sample.weights,
            discrete,
        )
        for draws in (sample.draws, sample.reference_draws)
    )
    excess, error = of_fit.excess(of_reference)
    is_easier = excess > EASIER * error and of_fit.accuracy - 0.5 > EASIER * of_fit.error
    remedy = (
        "the network has moved the density away from the rows: use fewer steps, a smaller network "
        "or more rows"
        if is_easier
        else "see the lines 'reference', 'components' and 'training', and 'columns' for where"
    )
    return make_line(
        "draws",
        of_fit.accuracy,
        FAIL if is_easier else verdict_of(of_fit.accuracy - 0.5, 0.05, 0.25, of_fit.error),
        f"a classifier tells draws from held-out rows with an accuracy of {of_fit.accuracy:.3f} "
        f"+- {of_fit.error:.2g} (0.5 is perfect), and draws of the reference alone with "
        f"{of_reference.accuracy:.3f} +- {of_reference.error:.2g}",
        remedy,
        enough_rows=sample.num_held_out >= MIN_HELD_OUT,
    )


def _views(evidence: FitEvidence, points: np.ndarray) -> np.ndarray:
    """Points in standardised units, and their real columns as they are given, (n, D + real).

    Trees see single columns: differences between nearly equal columns appear in standardised
    units, which are decorrelated, and edges of one column in its own unit. Of many columns, such as
    pixels, the standardised units alone are taken, for speed.
    """
    real = ~evidence.coordinate_supports.discrete
    if len(real) > MAX_COLUMNS:
        return points
    basis = basis_of(evidence.model)
    return np.concatenate([points, (points @ basis.T)[:, real]], axis=1)


def columns_line(evidence: FitEvidence, sample: Compared) -> ReportLine:
    """Check the largest first Wasserstein distance of a column between draws and held-out rows.

    Distances are in standard deviations of the training rows, smoothed as the learned density is;
    of array elements that do not vary, in the root mean square of those of all. What chance
    gives is the largest distance between two samples of the training rows, of as many rows.
    """
    real = np.flatnonzero(~evidence.coordinate_supports.discrete)
    rng = np.random.default_rng(0)
    basis = basis_of(evidence.model)[real]
    rows, held_out, draws = (
        points @ basis.T
        for points in (_smoothed(rng, evidence, evidence.rows), sample.held_out, sample.draws)
    )
    scale = _scales(rows, evidence.row_weights)
    distances = _distances(held_out / scale, draws / scale, sample.weights)
    sizes = max(2, round(sample.num_held_out)), len(draws)
    by_chance = [
        _distances(
            *(_resampled(rng, rows, evidence.row_weights, size) / scale for size in sizes)
        ).max()
        for _ in range(NUM_REPLICATES)
    ]
    usual, rare = (float(np.mean(by_chance) + k * np.std(by_chance)) for k in (3, 4))
    worst, largest = evidence.names[real[distances.argmax()]], float(distances.max())
    return make_line(
        "columns",
        largest,
        verdict_of(largest, max(0.05, usual), max(0.1, rare)),
        f"largest W1 of a column between held-out rows and draws {largest:.3f} standard "
        f"deviations, of {worst!r} (chance alone gives up to {usual:.3f})",
        f"compare {worst!r} in `plot_report`; use more rows or steps, or `transform='auto'` if it "
        "has heavy tails",
        enough_rows=usual <= 0.2,
    )


def _scales(rows: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Standard deviation of each column, or the root mean square of all where it is zero, (C,)."""
    variances = column_means((rows - column_means(rows, weights)) ** 2, weights)
    return np.sqrt(np.where(variances > 0, variances, variances.mean()))


def _resampled(
    rng: np.random.Generator, rows: np.ndarray, weights: np.ndarray | None, size: int
) -> np.ndarray:
    """Rows drawn by weight, with replacement."""
    shares = None if weights is None else weights / weights.sum()
    return rows[rng.choice(len(rows), size, p=shares)]


def _distances(
    rows: np.ndarray, draws: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """First Wasserstein distance of each column between rows (m, C) and draws (n, C), shape (C,).

    It is the mean distance between their quantiles, at as many levels as the smaller has rows.
    """
    count = min(len(rows), len(draws))
    levels = (np.arange(count) + 0.5) / count
    away = _quantiles(rows, levels, weights) - _quantiles(draws, levels, None)
    return np.abs(away).mean(axis=0)


def _quantiles(x: np.ndarray, levels: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Quantiles of each column of x (n, C) at some levels, shape (levels, C)."""
    if weights is None:
        return np.sort(x, axis=0)[(levels * len(x)).astype(int)]
    order = np.argsort(x, axis=0)
    cumulative = np.cumsum(weights[order], axis=0)
    places = [np.searchsorted(column / column[-1], levels) for column in cumulative.T]
    return np.take_along_axis(np.take_along_axis(x, order, 0), np.stack(places, axis=1), 0)


def copies_line(evidence: FitEvidence, sample: Compared) -> ReportLine:
    """Check that draws are no nearer to training rows than held-out rows are.

    The statistic is the largest excess of the share of draws within some distance of their nearest
    training row over that share of held-out rows, that of the one-sided Kolmogorov-Smirnov test.
    """
    from sklearn.neighbors import NearestNeighbors

    num_levels = evidence.coordinate_supports.num_levels
    rows = with_indicators(evidence.rows[:MAX_NEIGHBOURS], num_levels)
    neighbours = NearestNeighbors(n_neighbors=1).fit(rows)
    held_out, draws = (
        neighbours.kneighbors(with_indicators(points, num_levels))[0][:, 0]
        for points in (sample.held_out, sample.draws)
    )
    excess = _largest_excess(draws, held_out, sample.weights)
    variance = 1 / sample.num_held_out + 1 / len(draws)
    usual, rare = (float(np.sqrt(np.log(1 / p) / 2 * variance)) for p in (0.01, 1e-4))
    return make_line(
        "copies",
        excess,
        verdict_of(excess, max(0.02, usual), max(0.05, rare)),
        f"{excess:.3f} more of the draws than of the held-out rows lie close to a training row "
        f"(chance alone gives up to {usual:.3f})",
        "training rows are copied, or the density is too narrow: use fewer steps, a smaller "
        "network, fewer components or more rows",
        enough_rows=usual <= 0.15,
    )


def _largest_excess(draws: np.ndarray, rows: np.ndarray, weights: np.ndarray | None) -> float:
    """Largest difference between the distribution functions of draws (n,) and of rows (m,)."""
    order = np.argsort(rows)
    of_rows = np.ones(len(rows)) if weights is None else weights
    cumulative = np.append(0, np.cumsum(of_rows[order])) / of_rows.sum()
    places = np.sort(draws)
    of_draws = np.searchsorted(places, places, side="right") / len(draws)
    below = cumulative[np.searchsorted(rows[order], places, side="right")]
    return float(max(0.0, (of_draws - below).max()))
