"""What can be said of a fit before it is trusted, judged by rows that it was not trained on."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import multivariate_normal

from numpyro_disco._statistics import standard_error
from numpyro_disco._typing import Array
from numpyro_disco.energy.learned import Learned, LearnedEnergy
from numpyro_disco.training.noise import geometric_noise_scales
from numpyro_disco.training.objectives import OBJECTIVES
from numpyro_disco.training.row_posterior import TRIED_SCALES, row_posterior, smoothed_log_density
from numpyro_disco.training.settings import CONTRASTS

if TYPE_CHECKING:
    from numpyro_disco.training.fit import FitResult

MAX_POINTS = 2000
"""Rows and draws that are compared; more cost time and say little more."""
MAX_CLUSTERS = 10
COARSEST = 0.15
"""Total variation between held-out rows and draws that may be chance, for masses to be judged."""
NUM_LEVELS = 5
NUM_RUNS = 8
FEWEST = 10
"""Held-out rows of whose standard error something can be said."""
GOOD, LOOK, BAD = "good", "look", "bad"


class Line(NamedTuple):
    """One thing looked at."""

    name: str
    value: float
    """The number that the verdict is about."""
    verdict: str
    """"good", "look" or "bad"."""
    why: str
    """What was compared, and what to do where it is not good."""


@dataclasses.dataclass(frozen=True)
class Report:
    """The lines of `FitResult.report`, and what `plot_report` draws."""

    lines: tuple[Line, ...]
    draws: np.ndarray
    """Draws of the learned density in the user's units, shape (n, D); none if none can be had."""
    noise_scales: np.ndarray
    """Noise levels, shape (L,); empty where what is learned is not smoothed."""
    score_errors: np.ndarray
    """RMS error of the score at each over the RMS of the exact score, shape (L,)."""

    def __getitem__(self, name: str) -> Line:
        """The line of that name."""
        return next(line for line in self.lines if line.name == name)

    def __str__(self) -> str:
        """One line for each thing looked at."""
        width = max(len(line.name) for line in self.lines)
        return "\n".join(f"{line.verdict:5}{line.name:{width}}  {line.why}" for line in self.lines)


def _verdict(value: float, good: float, look: float, error: float = 0.0) -> str:
    """By upper bounds; what is not a number is bad.

    Chance may be what makes a value worse, never what makes it good: where its standard error could
    hide one that is bad, it is not known.
    """
    if not value - 2 * error <= look:
        return BAD
    return GOOD if value - 2 * error <= good and 2 * error <= look else LOOK


def _line(
    name: str, value: float, verdict: str, why: str, remedy: str, *, known: bool = True
) -> Line:
    """A line with its remedy; nothing is good that too few held-out rows have judged."""
    if not known:
        verdict = LOOK if verdict == GOOD else verdict
        remedy = f"there are too few held-out rows to see it; {remedy}"
    return Line(name, value, verdict, why if verdict == GOOD else f"{why}; {remedy}")


# The model is an argument of what is compiled: its weights are no constants of the program.


@jax.jit
def _energies(energy: LearnedEnergy, points: Array) -> Array:
    return jax.vmap(energy.standardized)(points)


@jax.jit
def _learned_scores(model: Learned, points: Array) -> Array:
    return jax.lax.map(model.score, points, batch_size=min(256, len(points)))


def make_report(rng_key: Array, fit: FitResult) -> Report:
    """Look at a fit from every side: see `FitResult.report`."""
    density_key, draw_key, noise_key, pick_key = jax.random.split(rng_key, 4)
    pick = np.random.default_rng(np.asarray(jax.random.key_data(pick_key)).ravel())
    rows = fit._rows[pick.permutation(len(fit._rows))[:MAX_POINTS]]
    held_out = fit._held_out[:MAX_POINTS]
    lines, draws = [_network(fit)], np.zeros((0, rows.shape[1]))
    try:
        found = fit.distribution.sample(draw_key, (MAX_POINTS,))
        normalized = fit.distribution.normalize(density_key, num_chains=NUM_RUNS)
    except RuntimeError as problem:
        lines.append(Line("draws", 0.0, BAD, f"none can be had: {problem}"))
    else:
        draws = np.asarray(found, np.float64)
        log_z, error = (
            float(np.asarray(number))
            for number in (normalized.log_normalizer, normalized.log_normalizer_error)
        )
        lines += _density(fit, rows, held_out, log_z, error)
        if fit.settings.objective in CONTRASTS:
            lines.append(_constant(log_z, error))
    noise_scales = score_errors = np.zeros(0)
    lines.append(_smoothing(fit, held_out))
    if fit.distribution.noise_scale is not None:
        noise_scales, score_errors, own = _scores(noise_key, fit, held_out)
        lines += _score_lines(score_errors, own)
    if len(draws):
        lines.append(_masses(fit, held_out, np.asarray(fit._standardize(draws))))
    lines.append(_tails(fit, held_out))
    return Report(tuple(lines), draws, noise_scales, score_errors)


def _network(fit: FitResult) -> Line:
    """What training has added to where it started."""
    kept = int(np.flatnonzero(fit.history.step == fit.best_step)[0])
    gain = float(fit.history.held_out_loss[0] - fit.history.held_out_loss[kept])
    error = float(fit.history.held_out_error[kept])
    side = "below" if gain >= 0 else "above"
    why = (
        f"held-out loss {abs(gain):.3g} +- {error:.2g} {side} that of the start "
        f"(step {fit.best_step})"
    )
    if fit.best_step == 0:
        why = "adds nothing that held-out rows confirm to its start"
    return _line(
        "network",
        gain,
        GOOD if gain > 2 * error else LOOK,
        why,
        "its start says it all, or more rows or steps are needed",
        known=len(fit._held_out) >= FEWEST,
    )


def _density(
    fit: FitResult, rows: np.ndarray, held_out: np.ndarray, log_z: float, error: float
) -> tuple[Line, Line]:
    """Held-out log density against a Gaussian's, and against that of rows trained on."""
    of_held_out, of_rows = (
        -np.asarray(_energies(fit._energy, x), np.float64) - log_z for x in (held_out, rows)
    )
    everything = np.asarray(fit._rows, np.float64)
    covariance = np.cov(everything, rowvar=False).reshape(2 * everything.shape[1:])
    gaussian = multivariate_normal.logpdf(held_out, everything.mean(0), covariance)
    gains = of_held_out - np.asarray(gaussian, np.float64)
    gain = float(gains.mean())
    noise = float(np.hypot(standard_error(gains), error))
    verdict = GOOD if gain > 2 * noise else LOOK if gain > -2 * noise else BAD
    first = _line(
        "log density",
        float(of_held_out.mean()),
        verdict,
        f"{of_held_out.mean():.3f} nats a held-out row (standardised; log Z {log_z:.3f} +- "
        f"{error:.2g}), {gain:+.3f} +- {noise:.2g} over the Gaussian of the rows",
        "a mixture reference, or fewer steps, may do better",
        known=len(held_out) >= FEWEST,
    )
    gap = float(of_rows.mean() - of_held_out.mean())
    spread = float(np.hypot(standard_error(of_rows), standard_error(of_held_out)))
    dimension = rows.shape[1]
    second = _line(
        "memory",
        gap,
        _verdict(gap, 0.02 * dimension, 0.1 * dimension, spread),
        f"rows trained on have {gap:+.3f} +- {spread:.2g} nats more than held-out ones",
        "much more means learned by heart: fewer steps, more smoothing, a smaller network",
        known=2 * spread <= 0.1 * dimension,
    )
    return first, second


def _constant(log_z: float, error: float) -> Line:
    """A contrast learns the constant too: what `fit` returns is normalised but for its errors."""
    remedy = (
        "there may be mass where neither rows nor draws of the reference have been: more rows, a "
        "`defensive_share`, or fewer steps (`normalize` corrects the constant, not the shape)"
        if log_z > 0
        else "the constant was not learned: `normalize` corrects it, more rows do better"
    )
    return _line(
        "constant",
        log_z,
        _verdict(abs(log_z), 0.1, 1, error),
        f"log Z {log_z:+.3f} +- {error:.2g}, and a contrast learns a density that has 0",
        remedy,
    )


def _smoothing(fit: FitResult, held_out: np.ndarray) -> Line:
    """What smoothing does to the rows.

    By how much it widens each column given the others, were the rows Gaussian; and what the rows
    smoothed less, by any of the scales tried, would say more of held-out ones.
    """
    prior, model, settings = fit.distribution, fit._model, fit.settings
    if not OBJECTIVES[settings.objective].smooths:
        return Line("smoothing", 0.0, GOOD, "none: rows are seen as they are")
    sigma = settings.smallest_noise
    # A scale that held-out rows have chosen is the best of these already.
    smaller = [scale for scale in TRIED_SCALES if scale < sigma and not fit.noise_scales]
    at_sigma, *at_less = (
        smoothed_log_density(fit._rows, held_out, scale) for scale in (sigma, *smaller)
    )
    gains = [found - at_sigma for found in at_less] or [np.zeros(len(at_sigma))]
    gain = max(gains, key=lambda gain: float(gain.mean()))
    lost, error = max(0.0, float(gain.mean())), standard_error(gain)
    basis = np.linalg.inv(np.asarray(model.whitener, np.float64))
    noise = sigma * basis
    of_rows = np.atleast_2d(np.cov(np.asarray(fit._rows, np.float64), rowvar=False))
    covariance = basis @ of_rows @ basis.T

    def spread(covariance: np.ndarray) -> np.ndarray:
        return 1 / np.sqrt(np.diagonal(np.linalg.inv(covariance)))

    widening = spread(covariance + noise @ noise.T) / spread(covariance) - 1
    worst = int(np.argmax(widening))
    in_units = np.sqrt(np.diagonal(noise @ noise.T))
    chosen = ""
    if fit.noise_scales:
        edge = {min(fit.noise_scales): " (the smallest)", max(fit.noise_scales): " (the largest)"}
        chosen = (
            f"; of {len(fit.noise_scales)} scales, {sigma:.2g} deviations{edge.get(sigma, '')} "
            "gave held-out rows the highest density of the smoothed rows"
        )
    elif lost > 2 * error:
        chosen = (
            f"; less of it says more of held-out rows, by up to {lost:.2g} +- {error:.2g} nats each"
        )
    else:
        chosen = "; less of it says no more of held-out rows"
    unconstrained = "" if fit._supports.real else " of unconstrained space"
    each = ", ".join(f"{n} {s:.3g}" for n, s in zip(prior.names, in_units, strict=True))
    verdicts = [_verdict(float(widening[worst]), 0.1, 0.5), _verdict(lost - 2 * error, 0.1, 0.5)]
    if settings.undo_smoothing:
        verdicts = [LOOK]
        chosen += "; what the reference knows of the rows is taken out of it again"
    return _line(
        "smoothing",
        float(widening[worst]),
        next(verdict for verdict in (BAD, LOOK, GOOD) if verdict in verdicts),
        f"by {each}, each in its own unit{unconstrained}; {prior.names[worst]} given the others "
        f"is at least {100 * widening[worst]:.2g} % wider for it" + chosen,
        "a smaller `noise_scale`, or a contrast, which smooths nothing",
    )


def _scores(
    rng_key: Array, fit: FitResult, held_out: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Relative error of the score by noise level, and the mass of the posterior on one row.

    Points are held-out rows with noise; the exact score is that of the smoothed training rows.
    """
    settings = fit.settings
    sigma = settings.smallest_noise
    levels = geometric_noise_scales(sigma, settings.max_noise_scale, NUM_LEVELS)
    rows = jnp.asarray(fit._rows)
    posterior = jax.jit(row_posterior)
    errors = []
    points = jnp.asarray(held_out)
    own_key, *keys = jax.random.split(rng_key, 1 + NUM_LEVELS)
    for key, level in zip(keys, levels, strict=True):
        noisy = points + level * jax.random.normal(key, points.shape, points.dtype)
        exact = (posterior(key, noisy, rows, sigma).mean - noisy) / sigma**2
        wrong = _learned_scores(fit._model, noisy) - exact
        errors.append(float(jnp.sqrt((wrong**2).sum() / (exact**2).sum())))
    # A row that was trained on, and noise: how much of the posterior is on that very row?
    some = rows[: len(points)]
    noise = jax.random.normal(own_key, some.shape, some.dtype)
    log_density = posterior(own_key, some + sigma * noise, rows, sigma).log_density
    dimension = rows.shape[1]
    own = -0.5 * (noise**2).sum(-1) - 0.5 * dimension * np.log(2 * np.pi * sigma**2)
    share = jnp.exp(own - jnp.log(len(rows)) - log_density).mean()
    return levels, np.asarray(errors), float(share)


def _score_lines(errors: np.ndarray, own: float) -> tuple[Line, Line]:
    """How well the score is learned, and how far its target is a single row."""
    worst = float(errors.max())
    # With rows alone there is no telling what was not learned from what held-out rows do not share.
    alone = own > 0.5
    score = _line(
        "score",
        worst,
        LOOK if alone else _verdict(worst, 0.15, 0.5),
        f"relative error {', '.join(f'{e:.2g}' for e in errors)} from the smallest to the largest "
        "noise",
        "each row is alone, so this is not known" if alone else "more steps, or a wider network",
    )
    row = _line(
        "own row",
        own,
        LOOK if alone else GOOD,
        f"{100 * own:.2g} % of the posterior behind a row with the smallest noise is on that row",
        "the target is the row itself: more smoothing, or a contrast, and look at memory",
    )
    return score, row


def _masses(fit: FitResult, held_out: np.ndarray, draws: np.ndarray) -> Line:
    """Shares of held-out rows and of draws in clusters of the rows."""
    from sklearn.cluster import KMeans

    count = int(np.clip(len(held_out) // 20, 2, MAX_CLUSTERS))
    some = np.asarray(fit._rows[: 10 * MAX_POINTS], np.float64)
    clusters = KMeans(count, n_init=1, random_state=0).fit(some)
    of_rows, of_draws = (
        np.bincount(clusters.predict(np.asarray(x, np.float64)), minlength=count) / len(x)
        for x in (held_out, draws)
    )
    distance = 0.5 * float(np.abs(of_rows - of_draws).sum())
    pooled = np.bincount(clusters.labels_, minlength=count) / len(some)
    # What it is between two samples of one distribution.
    rng = np.random.default_rng(0)
    of_chance = 0.5 * np.abs(
        rng.multinomial(len(held_out), pooled, 2000) / len(held_out)
        - rng.multinomial(len(draws), pooled, 2000) / len(draws)
    ).sum(1)
    usual, rare = np.quantile(of_chance, [0.95, 0.999])
    return _line(
        "masses",
        distance,
        _verdict(distance, max(0.02, usual), max(0.05, rare)),
        f"total variation {distance:.3f} between held-out rows and draws over {count} clusters "
        f"(up to {usual:.3f} by chance alone)",
        "a contrast sees masses, slopes alone hardly do: see `density_weight`",
        known=bool(usual <= COARSEST),
    )


def _tails(fit: FitResult, held_out: np.ndarray) -> Line:
    """Does the energy grow from the farthest row outward?"""
    farthest = float(np.linalg.norm(fit._rows, axis=1).max())
    directions = jnp.asarray(held_out[:256])
    directions = directions / jnp.linalg.norm(directions, axis=1, keepdims=True)
    radii = farthest * jnp.asarray([1.0, 1.5, 2.0, 4.0, 8.0])
    points = radii[None, :, None] * directions[:, None]
    energies = np.asarray(_energies(fit._energy, points.reshape(-1, points.shape[-1])))
    energies = energies.reshape(points.shape[:2])
    falling = float(1 - (np.diff(energies, axis=1) > 0).all(axis=1).mean())
    return _line(
        "tails",
        falling,
        _verdict(falling, 0.0, 0.05),
        f"the energy grows outward beyond the farthest row along {100 * (1 - falling):.3g} % of "
        f"{len(directions)} rays",
        "draws may run away there: more steps, a larger `max_noise_scale`, or a wider reference",
    )
