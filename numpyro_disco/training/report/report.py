"""The report of a fit: held-out checks, each rated pass, warn or fail, with the reason."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from numpyro_disco._random import host_generator
from numpyro_disco._statistics import selected
from numpyro_disco._typing import Array
from numpyro_disco.energy.drawing import Request, particles_for
from numpyro_disco.training.report.draws import columns_line, compared, copies_line, draws_line
from numpyro_disco.training.report.evidence import FitEvidence
from numpyro_disco.training.report.focus import focus_lines
from numpyro_disco.training.report.lines import (
    LogDensities,
    ReportLine,
    constant_line,
    levels_line,
    log_densities,
    log_density_line,
    masses_line,
    memorisation_line,
    missing_line,
    network_line,
    no_draws_line,
    tails_line,
    weights_line,
)
from numpyro_disco.training.report.smoothing import (
    check_score,
    own_row_line,
    score_line,
    smoothing_line,
)
from numpyro_disco.training.report.training import (
    components_line,
    normalized_line,
    reference_line,
    training_line,
)

MAX_POINTS = 2000
"""Most rows, held-out rows and draws that are compared; more would take longer and show little
more."""
NUM_CHAINS = 8
"""Independent runs that estimate log Z."""


@dataclasses.dataclass(frozen=True)
class Report:
    """The checks of a fit, and the arrays that `FitResult.plot_report` draws.

    `print(report)` shows one line for each check; `report["masses"]` is one of them.
    """

    lines: tuple[ReportLine, ...]
    """The checks, in the order in which they are printed."""
    draws: np.ndarray
    """Draws of the learned density in the user's units, shape (n, D); n = 0 if none could be
    made."""
    noise_scales: np.ndarray
    """Noise scales at which the score was checked, shape (L,); empty if the learned density is not
    a smoothed one."""
    score_errors: np.ndarray
    """RMS error of the score at each noise scale over the RMS of the exact score, shape (L,)."""

    def __getitem__(self, name: str) -> ReportLine:
        """The line with this name."""
        for line in self.lines:
            if line.name == name:
                return line
        raise KeyError(
            f"Expected one of {[line.name for line in self.lines]} for `name`; got {name!r}."
        )

    def __str__(self) -> str:
        """One line for each check: verdict, name and reason."""
        width = max(len(line.name) for line in self.lines)
        return "\n".join(
            f"{line.verdict:5}{line.name:{width}}  {line.reason}" for line in self.lines
        )


class _Keys(NamedTuple):
    density: Array
    draws: Array
    noise: Array
    rows: Array


def make_report(rng_key: Array, evidence: FitEvidence) -> Report:
    """Check a fit against its held-out rows: see `FitResult.report`.

    Args:
        rng_key: random key.
        evidence: the learned density, its rows, and the training history.

    Returns:
        A `Report`. If the learned density cannot be sampled, a failed line "draws" says why, and
        the lines that need draws or log Z ("log density", "memorisation", "constant",
        "reference", "masses", "levels", "columns", "copies") are left out.

    Raises:
        ValueError: the fit is a score network, which has no density.
    """
    keys = _Keys(*jax.random.split(rng_key, len(_Keys._fields)))
    held_out = evidence.held_out[:MAX_POINTS]
    normalizes = evidence.objective.normalizes
    first_line = normalized_line if normalizes else network_line
    lines = [first_line(evidence), training_line(evidence)]
    if evidence.components:
        lines.append(components_line(evidence))
    if evidence.row_weights is not None:
        lines.append(weights_line(evidence))
    if evidence.imputed.total:
        lines.append(missing_line(evidence))
    lines += focus_lines(jax.random.fold_in(rng_key, 1), evidence)
    draws = np.zeros((0, held_out.shape[1]))
    noise_scales = score_errors = np.zeros(0)
    try:
        draws, share, densities = _draws_and_densities(keys, evidence, held_out)
    except RuntimeError as problem:
        lines.append(no_draws_line(problem))
    else:
        if not np.isnan(share):
            lines.append(reference_line(evidence, share))
        lines.append(log_density_line(evidence, held_out, densities))
        lines.append(memorisation_line(evidence, densities))
        if evidence.objective.is_contrastive:
            lines.append(constant_line(densities))
    lines.append(smoothing_line(evidence, held_out))
    if evidence.density.noise_scale is not None:
        check = check_score(keys.noise, evidence, held_out)
        lines += [score_line(check), own_row_line(check)]
        noise_scales, score_errors = check.noise_scales, check.errors
    if len(draws):
        lines += _lines_of_draws(keys.rows, evidence, held_out, draws)
    if not evidence.coordinate_supports.discrete.all():
        lines.append(tails_line(evidence, held_out))
    return Report(tuple(lines), draws, noise_scales, score_errors)


def _lines_of_draws(
    rng_key: Array, evidence: FitEvidence, held_out: np.ndarray, draws: np.ndarray
) -> list[ReportLine]:
    """Lines that compare draws (n, D), in the user's units, with held-out rows (m, D)."""
    weights = selected(evidence.held_out_weights, slice(len(held_out)))
    standardized = np.asarray(evidence.standardize(draws))
    lines = [masses_line(evidence, held_out, standardized, weights)]
    discrete = evidence.coordinate_supports.discrete
    if discrete.any():
        lines.append(levels_line(evidence, held_out, standardized, weights))
    rng = host_generator(jax.random.fold_in(rng_key, 1))
    sample = compared(rng, evidence, held_out, weights, standardized)
    lines.append(draws_line(evidence, sample))
    if not discrete.all():
        lines.append(columns_line(evidence, sample))
    lines.append(copies_line(evidence, sample))
    return lines


def _draws_and_densities(
    keys: _Keys, evidence: FitEvidence, held_out: np.ndarray
) -> tuple[np.ndarray, float, LogDensities]:
    """Draws, the effective share of the reference's, and log densities.

    The share is NaN if the draws are exact. Draws are in the user's units, shape (n, D); log
    densities are those of training and of held-out rows.

    Raises:
        RuntimeError: the learned density cannot be sampled, or has no finite integral.
    """
    order = host_generator(keys.rows).permutation(len(evidence.rows))
    rows, weights = evidence.rows[order[:MAX_POINTS]], evidence.row_weights
    weights = selected(weights, order[:MAX_POINTS])
    density = evidence.density.as_vector
    everything_free = density.clamped.reshape(-1, len(density.names))
    request = Request(MAX_POINTS, particles_for(MAX_POINTS))
    drawn = density.draw_rows(keys.draws, everything_free, request)
    normalized = evidence.density.normalize(keys.density, num_chains=NUM_CHAINS)
    log_z = float(np.asarray(normalized.log_normalizer))
    error = float(np.asarray(normalized.log_normalizer_error))
    densities = log_densities(evidence.energy, rows, held_out, log_z, error)
    held_out_weights = selected(evidence.held_out_weights, slice(len(held_out)))
    densities = densities._replace(row_weights=weights, held_out_weights=held_out_weights)
    assert drawn.info is not None
    draws = np.asarray(drawn.draws[:, 0], np.float64)
    return draws, float(drawn.info.effective_share[0]), densities
