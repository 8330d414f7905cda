"""The report of a fit: held-out checks, each rated pass, warn or fail, with the reason."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from numpyro_disco._random import host_generator
from numpyro_disco._statistics import selected
from numpyro_disco._typing import Array
from numpyro_disco.training import report_lines, report_smoothing
from numpyro_disco.training.evidence import FitEvidence
from numpyro_disco.training.report_lines import ReportLine

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
        the lines that need draws or log Z ("log density", "memorisation", "constant", "masses",
        "levels") are left out.

    Raises:
        ValueError: the fit is a score network, which has no density.
    """
    keys = _Keys(*jax.random.split(rng_key, len(_Keys._fields)))
    held_out = evidence.held_out[:MAX_POINTS]
    held_out_weights = selected(evidence.held_out_weights, slice(MAX_POINTS))
    lines = [report_lines.network_line(evidence)]
    if evidence.row_weights is not None:
        lines.append(report_lines.weights_line(evidence))
    if evidence.imputed.total:
        lines.append(report_lines.missing_line(evidence))
    draws = np.zeros((0, held_out.shape[1]))
    noise_scales = score_errors = np.zeros(0)
    try:
        draws, densities = _draws_and_densities(keys, evidence, held_out)
    except RuntimeError as problem:
        lines.append(report_lines.no_draws_line(problem))
    else:
        lines.append(report_lines.log_density_line(evidence, held_out, densities))
        lines.append(report_lines.memorisation_line(densities, held_out.shape[1]))
        if evidence.objective.is_contrastive:
            lines.append(report_lines.constant_line(densities))
    lines.append(report_smoothing.smoothing_line(evidence, held_out))
    if evidence.density.noise_scale is not None:
        check = report_smoothing.check_score(keys.noise, evidence, held_out)
        lines += [report_smoothing.score_line(check), report_smoothing.own_row_line(check)]
        noise_scales, score_errors = check.noise_scales, check.errors
    if len(draws):
        standardized = np.asarray(evidence.standardize(draws))
        lines.append(report_lines.masses_line(evidence, held_out, standardized, held_out_weights))
        if evidence.coordinate_supports.discrete.any():
            lines.append(
                report_lines.levels_line(evidence, held_out, standardized, held_out_weights)
            )
    if not evidence.coordinate_supports.discrete.all():
        lines.append(report_lines.tails_line(evidence, held_out))
    return Report(tuple(lines), draws, noise_scales, score_errors)


def _draws_and_densities(
    keys: _Keys, evidence: FitEvidence, held_out: np.ndarray
) -> tuple[np.ndarray, report_lines.LogDensities]:
    """Draws in the user's units (n, D), and log densities of training and of held-out rows.

    Raises:
        RuntimeError: the learned density cannot be sampled, or has no finite integral.
    """
    order = host_generator(keys.rows).permutation(len(evidence.rows))
    rows, weights = evidence.rows[order[:MAX_POINTS]], evidence.row_weights
    weights = selected(weights, order[:MAX_POINTS])
    draws = evidence.density.as_vector.sample(keys.draws, (MAX_POINTS,))
    normalized = evidence.density.normalize(keys.density, num_chains=NUM_CHAINS)
    log_z = float(np.asarray(normalized.log_normalizer))
    error = float(np.asarray(normalized.log_normalizer_error))
    densities = report_lines.log_densities(evidence.energy, rows, held_out, log_z, error)
    held_out_weights = selected(evidence.held_out_weights, slice(len(held_out)))
    densities = densities._replace(row_weights=weights, held_out_weights=held_out_weights)
    return np.asarray(draws, np.float64), densities
