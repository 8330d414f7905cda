"""Report lines for any learned density; each checks one property.

Rows, held-out rows and points are in standardised units.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import multivariate_normal

from numpyro_disco._levels import with_indicators
from numpyro_disco._statistics import column_means, effective_number, selected, standard_error
from numpyro_disco._typing import Array
from numpyro_disco.diagnostics.verdicts import FAIL, PASS, WARN, verdict_of, worst
from numpyro_disco.energy.learned import LearnedEnergy
from numpyro_disco.training.report.evidence import FitEvidence
from numpyro_disco.training.rows.levels import level_log_shares
from numpyro_disco.training.rows.row_weights import FEW_PER_COLUMN

MIN_HELD_OUT = 10
"""Fewest held-out rows whose standard error means anything."""
MAX_CLUSTERS = 10
"""Most clusters whose masses are compared."""
MAX_CLUSTERED_ROWS = 20_000
"""Most training rows that are clustered."""
MAX_CHANCE_VARIATION = 0.15
"""Largest total variation that chance may cause for masses to be judged."""
MAX_RAYS = 256
"""Most rays along which the energy must increase."""
MAX_LEAD = 0.03
"""Most nats for each column by which a mixture may be ahead on training rows for its size."""
RAY_RADII = (1.0, 1.5, 2.0, 4.0, 8.0)
"""Points on each ray, in units of the distance of the farthest row."""


class ReportLine(NamedTuple):
    """The result of one check."""

    name: str
    """Name of the check."""
    value: float
    """The number that the verdict is about."""
    verdict: str
    """"pass", "warn" or "fail"."""
    reason: str
    """The comparison and, unless the check passed, the remedy."""


def make_line(
    name: str, value: float, verdict: str, finding: str, remedy: str, *, enough_rows: bool = True
) -> ReportLine:
    """A line that gives the remedy unless it passes, which needs enough held-out rows.

    Args:
        name: name of the check.
        value: the number that the verdict is about.
        verdict: the verdict if there are enough held-out rows.
        finding: the comparison and its result.
        remedy: the advice if the check does not pass.
        enough_rows: False if too few held-out rows were compared for the check to pass.
    """
    if not enough_rows:
        verdict = worst(verdict, WARN)
        remedy = f"there are too few held-out rows to rule out failure; {remedy}"
    return ReportLine(name, value, verdict, finding if verdict == PASS else f"{finding}; {remedy}")


@jax.jit
def _energies(energy: LearnedEnergy, points: Array) -> Array:
    # The energy is an argument, so that its weights are not constants of the compiled program.
    return jax.vmap(energy.standardized)(points)


def network_line(evidence: FitEvidence) -> ReportLine:
    """Check that training lowered the held-out loss by more than two standard errors."""
    history = evidence.history
    kept = int(np.flatnonzero(history.step == evidence.best_step)[0])
    gain = float(history.held_out_loss[0] - history.held_out_loss[kept])
    error = float(history.held_out_error[kept])
    side = "below" if gain >= 0 else "above"
    finding = (
        f"held-out loss {abs(gain):.3g} +- {error:.2g} {side} that of the untrained network "
        f"(step {evidence.best_step} is kept)"
    )
    if evidence.best_step == 0:
        finding = "training did not lower the held-out loss, so the untrained network is kept"
    return make_line(
        "network",
        gain,
        PASS if gain > 2 * error else WARN,
        finding,
        "what training starts from may describe the rows already; if not, use more rows or steps",
        enough_rows=evidence.num_held_out >= MIN_HELD_OUT,
    )


def weights_line(evidence: FitEvidence) -> ReportLine:
    """Check that the weights of the training rows leave enough of an effective number of rows."""
    num_rows, dimension = evidence.rows.shape
    effective = effective_number(evidence.row_weights, num_rows)
    return make_line(
        "weights",
        effective,
        WARN if effective < FEW_PER_COLUMN * dimension else PASS,
        f"{num_rows} weighted training rows are worth {effective:.4g} equally weighted ones, and "
        f"{len(evidence.held_out)} held-out rows {evidence.num_held_out:.4g}",
        "most of the weight is on a few rows: bring more rows, or limit the largest weights",
        enough_rows=evidence.num_held_out >= MIN_HELD_OUT,
    )


def missing_line(evidence: FitEvidence) -> ReportLine:
    """Check that no imputed entries are among those that judge."""
    total, judging = evidence.imputed
    held_out = len(evidence.held_out)
    return make_line(
        "missing",
        judging,
        WARN if judging else PASS,
        f"{total} rows with missing entries were imputed; "
        + (
            f"{judging} of {held_out} held-out rows are among them, and agree with what imputed "
            "them in the other checks"
            if judging
            else f"the {held_out} held-out rows that judge are complete, and weighted to stand for "
            "all"
        ),
        "complete rows are too few to judge alone: bring more, or hold out a larger "
        "`held_out_fraction`",
    )


def no_draws_line(problem: RuntimeError) -> ReportLine:
    """Report why the learned density could not be sampled."""
    return make_line(
        "draws",
        0.0,
        FAIL,
        f"the learned density cannot be sampled: {str(problem).rstrip('.')}",
        "use more steps, a wider reference or bounded `supports`",
    )


class LogDensities(NamedTuple):
    """Normalised log densities in standardised units."""

    rows: np.ndarray
    """Log densities of training rows in nats, shape (n,)."""
    held_out: np.ndarray
    """Log densities of held-out rows in nats, shape (m,)."""
    log_normalizer: float
    """The estimate of log Z that was subtracted."""
    log_normalizer_error: float
    """Its standard error."""
    row_weights: np.ndarray | None = None
    """Positive weights of the training rows, shape (n,); None if all are equal."""
    held_out_weights: np.ndarray | None = None
    """Positive weights of the held-out rows, shape (m,); None if all are equal."""


def log_densities(
    energy: LearnedEnergy, rows: np.ndarray, held_out: np.ndarray, log_z: float, error: float
) -> LogDensities:
    """Evaluate -E(z) - log Z at training rows (n, D) and held-out rows (m, D)."""
    at_held_out = -np.asarray(_energies(energy, held_out), np.float64) - log_z
    at_rows = -np.asarray(_energies(energy, rows), np.float64) - log_z
    return LogDensities(at_rows, at_held_out, log_z, error)


def log_density_line(
    evidence: FitEvidence, held_out: np.ndarray, densities: LogDensities
) -> ReportLine:
    """Compare the held-out log density with that of a simple density of all training rows.

    It is the Gaussian of the real columns, and the shares of the levels of discrete ones.
    """
    real = ~evidence.coordinate_supports.discrete
    num_levels, row_weights = evidence.coordinate_supports.num_levels, evidence.row_weights
    simple = level_log_shares(evidence.rows, held_out, num_levels, row_weights)
    name = "shares of levels"
    if real.any():
        rows = np.asarray(evidence.rows[:, real], np.float64)
        covariance = np.cov(rows, rowvar=False, aweights=row_weights)
        covariance = covariance.reshape(2 * rows.shape[1:])
        if evidence.array_shape is not None:
            # Elements of arrays may be constant; both densities are smoothed.
            covariance = covariance + evidence.objective.resolution**2 * np.eye(len(covariance))
        center = column_means(rows, row_weights)
        gaussian = multivariate_normal.logpdf(held_out[:, real], center, covariance)
        simple = simple + np.asarray(gaussian, np.float64)
        name = "Gaussian" if real.all() else "Gaussian and the shares of levels"
    gains, weights = densities.held_out - simple, densities.held_out_weights
    gain, mean = (float(np.average(x, weights=weights)) for x in (gains, densities.held_out))
    error = float(np.hypot(standard_error(gains, weights), densities.log_normalizer_error))
    return make_line(
        "log density",
        mean,
        PASS if gain > 2 * error else WARN if gain > -2 * error else FAIL,
        f"{mean:.3f} nats per held-out row (standardised; log Z {densities.log_normalizer:.3f} +- "
        f"{densities.log_normalizer_error:.2g}), {gain:+.3f} +- {error:.2g} relative to the "
        f"{name} of the training rows",
        "use a mixture as the reference, or fewer steps",
        enough_rows=effective_number(weights, len(held_out)) >= MIN_HELD_OUT,
    )


def memorisation_line(evidence: FitEvidence, densities: LogDensities) -> ReportLine:
    """Compare the log density of training rows with that of held-out rows.

    A fitted mixture is ahead on its training rows by about its number of parameters for each row
    (Akaike 1974), which is not memorisation, and is allowed for.
    """
    of_rows = densities.rows, densities.row_weights
    of_held_out = densities.held_out, densities.held_out_weights
    means = [np.average(values, weights=weights) for values, weights in (of_rows, of_held_out)]
    gap = float(means[0] - means[1])
    error = float(np.hypot(standard_error(*of_rows), standard_error(*of_held_out)))
    dimension, lead = evidence.held_out.shape[1], _lead_of_mixture(evidence)
    finding = (
        f"log density of training rows {gap:+.3f} +- {error:.2g} nats relative to held-out rows"
    )
    if lead:
        finding += f" (a mixture of this size is about {lead:.2g} ahead)"
    return make_line(
        "memorisation",
        gap,
        verdict_of(gap, 0.02 * dimension + lead, 0.1 * dimension, error),
        finding,
        "if it is much higher, rows are memorised: use fewer steps, more smoothing or a smaller "
        "network",
        enough_rows=2 * error <= 0.1 * dimension,
    )


def num_fitted_components(evidence: FitEvidence) -> int:
    """Number of components of the fitted mixture, without the wide one that is added to them."""
    return len(evidence.energy.reference.components().log_weights) - 1


def _lead_of_mixture(evidence: FitEvidence) -> float:
    """Parameters of the fitted mixture for each training row, at most MAX_LEAD for each column."""
    if not evidence.components:
        return 0.0
    num_levels = np.asarray(evidence.coordinate_supports.num_levels)
    num_real, num_masses = (num_levels == 0).sum(), np.maximum(num_levels - 1, 0).sum()
    each = 1 + num_real * (num_real + 3) // 2 + num_masses
    num_rows = effective_number(evidence.row_weights, len(evidence.rows))
    return float(min(num_fitted_components(evidence) * each / num_rows, MAX_LEAD * len(num_levels)))


def constant_line(densities: LogDensities) -> ReportLine:
    """Check that log Z is 0, as it is for the exact minimiser of a contrastive objective."""
    log_z, error = densities.log_normalizer, densities.log_normalizer_error
    remedy = (
        "there may be mass where neither rows nor draws of the reference reach: use more rows, a "
        "`defensive_share` or fewer steps (`normalize` corrects the constant, not the shape)"
        if log_z > 0
        else "the constant was not learned: correct it by `normalize`, or use more rows"
    )
    return make_line(
        "constant",
        log_z,
        verdict_of(abs(log_z), 0.1, 1, error),
        f"log Z {log_z:+.3f} +- {error:.2g}, where the exact density has 0",
        remedy,
    )


def masses_line(
    evidence: FitEvidence,
    held_out: np.ndarray,
    draws: np.ndarray,
    held_out_weights: np.ndarray | None = None,
) -> ReportLine:
    """Compare the shares of held-out rows and of draws in clusters of the training rows.

    Weighted rows have the shares of their weights, and the chance variation of as many rows as
    their effective number.
    """
    from sklearn.cluster import KMeans

    num_levels = evidence.coordinate_supports.num_levels
    num_held_out = round(effective_number(held_out_weights, len(held_out)))
    count = int(np.clip(num_held_out // 20, 2, MAX_CLUSTERS))
    clustered, held_out, draws = (
        with_indicators(rows, num_levels)
        for rows in (evidence.rows[:MAX_CLUSTERED_ROWS], held_out, draws)
    )
    weights = selected(evidence.row_weights, slice(MAX_CLUSTERED_ROWS))
    clusters = KMeans(count, n_init=1, random_state=0).fit(clustered, sample_weight=weights)

    def shares(x: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        masses = np.bincount(clusters.predict(x), weights, count)
        return masses / masses.sum()

    held_out_share, pooled = shares(held_out, held_out_weights), shares(clustered, weights)
    distance = 0.5 * float(np.abs(held_out_share - shares(draws, None)).sum())
    usual, rare = distance_by_chance(pooled, num_held_out, len(draws))
    return make_line(
        "masses",
        distance,
        verdict_of(distance, max(0.02, usual), max(0.05, rare)),
        f"total variation {distance:.3f} between held-out rows and draws over {count} clusters "
        f"(chance alone gives up to {usual:.3f})",
        "use the contrastive objective, which learns the masses of separate modes, or with `Disco` "
        "a larger `density_weight`",
        enough_rows=bool(usual <= MAX_CHANCE_VARIATION),
    )


def distance_by_chance(shares: np.ndarray, *num_rows: int) -> tuple[float, float]:
    """Usual and rare total variation between two samples of one distribution.

    Args:
        shares: probabilities of the classes.
        *num_rows: sizes of the two samples.

    Returns:
        The quantiles 0.99 and 0.9999.
    """
    rng = np.random.default_rng(0)
    one, other = (rng.multinomial(size, shares, 20_000) / size for size in num_rows)
    usual, rare = np.quantile(0.5 * np.abs(one - other).sum(1), [0.99, 0.9999])
    return float(usual), float(rare)


def levels_line(
    evidence: FitEvidence,
    held_out: np.ndarray,
    draws: np.ndarray,
    held_out_weights: np.ndarray | None = None,
) -> ReportLine:
    """Compare the shares of the levels of discrete columns among held-out rows and draws."""
    names, worst_line = evidence.density.names, None
    num_held_out = round(effective_number(held_out_weights, len(held_out)))
    weighted = (evidence.rows, evidence.row_weights), (held_out, held_out_weights), (draws, None)
    for place in np.flatnonzero(evidence.coordinate_supports.discrete):
        count = evidence.coordinate_supports.num_levels[place]
        of_rows, of_held_out, of_draws = (
            np.bincount(x[:, place].astype(int), weights, count)
            / (len(x) if weights is None else weights.sum())
            for x, weights in weighted
        )
        distance = 0.5 * float(np.abs(of_held_out - of_draws).sum())
        usual, rare = distance_by_chance(of_rows, num_held_out, len(draws))
        line = make_line(
            "levels",
            distance,
            verdict_of(distance, max(0.02, usual), max(0.05, rare)),
            f"total variation {distance:.3f} between held-out rows and draws over the {count} "
            f"levels of {names[place]!r} (chance alone gives up to {usual:.3f}), the most of all "
            "discrete columns",
            "use more rows or more steps",
            enough_rows=usual <= MAX_CHANCE_VARIATION,
        )
        if worst_line is None or distance > worst_line.value:
            worst_line = line
    assert worst_line is not None
    return worst_line


def tails_line(evidence: FitEvidence, held_out: np.ndarray) -> ReportLine:
    """Check that the energy increases along rays outward from the farthest training row."""
    # Discrete coordinates keep their levels along a ray.
    real = ~evidence.coordinate_supports.discrete
    farthest = float(np.linalg.norm(evidence.rows[:, real], axis=1).max())
    starts = jnp.asarray(held_out[:MAX_RAYS])
    directions = starts / jnp.linalg.norm(starts[:, real], axis=1, keepdims=True)
    radii = farthest * jnp.asarray(RAY_RADII)
    points = jnp.where(real, radii[None, :, None] * directions[:, None], starts[:, None])
    energies = np.asarray(_energies(evidence.energy, points.reshape(-1, points.shape[-1])))
    energies = energies.reshape(points.shape[:2])
    falling = float(1 - (np.diff(energies, axis=1) > 0).all(axis=1).mean())
    return make_line(
        "tails",
        falling,
        verdict_of(falling, 0.0, 0.05),
        f"the energy increases beyond the farthest row along {100 * (1 - falling):.3g} % of "
        f"{len(directions)} rays",
        "draws may run away there: use more steps, a larger `max_noise_scale` or a wider reference",
    )
