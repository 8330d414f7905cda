"""Report lines on smoothing and on the score of the smoothed density.

An objective that smooths learns the density of the rows convolved with N(0, sigma_0^2 I) in
standardised units, whose exact score at a point is known from the training rows. Rows, held-out
rows and points are in standardised units unless stated otherwise.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._statistics import selected, standard_error
from numpyro_disco._typing import Array
from numpyro_disco.diagnostics.verdicts import PASS, WARN, verdict_of, worst
from numpyro_disco.energy.learned import Learned
from numpyro_disco.training.objectives.noise import geometric_noise_scales
from numpyro_disco.training.objectives.noise_scale import TRIED_SCALES, smoothed_log_density
from numpyro_disco.training.report.evidence import FitEvidence, basis_of
from numpyro_disco.training.report.lines import ReportLine, make_line
from numpyro_disco.training.rows.row_posterior import row_posterior

NUM_LEVELS = 5
"""Noise scales at which the score is checked."""


def smoothing_line(evidence: FitEvidence, held_out: np.ndarray) -> ReportLine:
    """Check how much smoothing widens the columns, and the gain of less smoothing."""
    objective, density = evidence.objective, evidence.density
    if not objective.smooths:
        return ReportLine("smoothing", 0.0, PASS, "none: the density of the rows is learned")
    sigma = objective.resolution
    gain, error = _gain_of_less_smoothing(evidence, held_out, sigma)
    widening, deviations = _widening(evidence, sigma)
    widest = int(np.argmax(widening))
    verdict = worst(
        verdict_of(float(widening[widest]), 0.1, 0.5), verdict_of(gain - 2 * error, 0.1, 0.5)
    )
    comparison = _scale_comparison(evidence, sigma, gain, error)
    if density.noise_scale is None:
        verdict = WARN
        comparison += "; it is undone as far as the reference describes the rows"
    unit = "in its own unit"
    if not evidence.coordinate_supports.real:
        unit += " of unconstrained space"
    each = ", ".join(f"{n} by {s:.3g}" for n, s in zip(density.names, deviations, strict=True))
    return make_line(
        "smoothing",
        float(widening[widest]),
        verdict,
        f"smooths {each} (each {unit}), which widens {density.names[widest]} given "
        f"the others by at least {100 * widening[widest]:.2g} %" + comparison,
        "use a smaller `noise_scale`, or the contrastive objective, which does not smooth",
    )


def _gain_of_less_smoothing(
    evidence: FitEvidence, held_out: np.ndarray, sigma: float
) -> tuple[float, float]:
    """Held-out nats per row that the best smaller scale would add, at least 0; standard error."""
    rows = evidence.training_rows
    at_sigma = smoothed_log_density(rows, held_out, sigma)
    weights = selected(evidence.held_out_weights, slice(len(at_sigma)))
    # A scale that held-out rows have chosen is the best of these already.
    smaller = [scale for scale in TRIED_SCALES if scale < sigma and not evidence.noise_scales]
    gains = [smoothed_log_density(rows, held_out, scale) - at_sigma for scale in smaller] or [
        np.zeros(len(at_sigma))
    ]
    means = [float(np.average(gain, weights=weights)) for gain in gains]
    best = int(np.argmax(means))
    return max(0.0, means[best]), standard_error(gains[best], weights)


def _widening(evidence: FitEvidence, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Relative widening of each column given the others, and the smoothing in user's units, (D,).

    For Gaussian rows with covariance C, the deviation of column i given the others is
    1 / sqrt((C^-1)_ii); smoothing adds sigma^2 B B^T to C, with B the inverse of the whitener.
    Other rows have narrower conditionals, which are widened by more.
    """
    basis = basis_of(evidence.model)
    rows = np.asarray(evidence.rows, np.float64)
    covariance = np.atleast_2d(np.cov(rows, rowvar=False, aweights=evidence.row_weights))
    covariance = basis @ covariance @ basis.T
    noise = sigma * basis @ (sigma * basis).T
    deviations = [
        1 / np.sqrt(np.diagonal(np.linalg.inv(c))) for c in (covariance + noise, covariance)
    ]
    return deviations[0] / deviations[1] - 1, np.sqrt(np.diagonal(noise))


def _scale_comparison(evidence: FitEvidence, sigma: float, gain: float, error: float) -> str:
    """The end of the sentence: how the noise scale compares with others on held-out rows."""
    tried = evidence.noise_scales
    if tried:
        edge = {min(tried): " (the smallest)", max(tried): " (the largest)"}.get(sigma, "")
        return (
            f"; of {len(tried)} scales tried, {sigma:.2g}{edge} gave held-out rows the highest "
            "density"
        )
    if gain > 2 * error:
        return f"; less smoothing would add up to {gain:.2g} +- {error:.2g} nats per held-out row"
    return "; less smoothing would not raise the density of held-out rows"


class ScoreCheck(NamedTuple):
    """The learned score against the exact score of the smoothed training rows."""

    noise_scales: np.ndarray
    """Noise scales of the points, smallest first, shape (L,)."""
    errors: np.ndarray
    """RMS error over the RMS of the exact score at each, shape (L,)."""
    own_share: float
    """Mean posterior probability of a row, given that row with noise of the smallest scale."""


@jax.jit
def _learned_scores(model: Learned, points: Array) -> Array:
    # The model is an argument, so that its weights are not constants of the compiled program.
    return jax.lax.map(model.score, points, batch_size=min(256, len(points)))


def check_score(rng_key: Array, evidence: FitEvidence, held_out: np.ndarray) -> ScoreCheck:
    """Compare scores at noisy held-out rows, and measure how isolated training rows are."""
    sigma = evidence.objective.resolution
    noise_scales = geometric_noise_scales(sigma, evidence.objective.largest_noise, NUM_LEVELS)
    rows, points = jnp.asarray(evidence.rows), jnp.asarray(held_out)
    weights, judges = (
        np.ones(len(x)) if w is None else w
        for x, w in ((rows, evidence.row_weights), (points, evidence.held_out_weights))
    )
    posterior = jax.jit(row_posterior)
    errors = []
    own_key, *level_keys = jax.random.split(rng_key, 1 + NUM_LEVELS)
    for key, level in zip(level_keys, noise_scales, strict=True):
        noisy = points + level * jax.random.normal(key, points.shape, points.dtype)
        exact = (posterior(key, noisy, rows, sigma, weights).mean - noisy) / sigma**2
        wrong = _learned_scores(evidence.model, noisy) - exact
        wrong_square, square = (
            judges[: len(x)] @ np.asarray((x**2).sum(1)) for x in (wrong, exact)
        )
        errors.append(float(np.sqrt(wrong_square / square)))
    some, shares = rows[: len(points)], weights[: len(points)] / weights.sum()
    noise = jax.random.normal(own_key, some.shape, some.dtype)
    log_density = posterior(own_key, some + sigma * noise, rows, sigma, weights).log_density
    dimension = rows.shape[1]
    own = -0.5 * (noise**2).sum(-1) - 0.5 * dimension * np.log(2 * np.pi * sigma**2)
    own_shares = np.asarray(jnp.exp(own + jnp.log(shares) - log_density))
    own_share = float(np.average(own_shares, weights=shares))
    return ScoreCheck(noise_scales, np.asarray(errors), own_share)


def score_line(check: ScoreCheck) -> ReportLine:
    """Check the error of the learned score at the noise scale where it is largest."""
    largest = float(check.errors.max())
    # If rows stand alone, the exact score points at single training rows, which held-out rows do
    # not share: an error does not show whether the network or its target is wrong.
    alone = check.own_share > 0.5
    return make_line(
        "score",
        largest,
        WARN if alone else verdict_of(largest, 0.15, 0.5),
        f"relative error {', '.join(f'{e:.2g}' for e in check.errors)} from the smallest to the "
        "largest noise scale",
        "each row stands alone at the smallest scale, so this cannot be judged: use more smoothing"
        if alone
        else "use more steps or a wider network",
    )


def own_row_line(check: ScoreCheck) -> ReportLine:
    """Check that the target of the score rests on more than one row."""
    own = check.own_share
    return make_line(
        "own row",
        own,
        WARN if own > 0.5 else PASS,
        f"given a training row with the smallest noise, {100 * own:.2g} % of the posterior over "
        "rows is on that row",
        "the score points at single rows: use more smoothing or the contrastive objective, and "
        "see memorisation",
    )
