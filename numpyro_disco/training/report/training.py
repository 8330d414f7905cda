"""Report lines on how the density was learned: its reference, and the length of training."""

from __future__ import annotations

import warnings

import jax
import numpy as np

from numpyro_disco._statistics import standard_error
from numpyro_disco._typing import Array
from numpyro_disco.diagnostics.verdicts import FAIL, PASS, WARN
from numpyro_disco.energy.learned import LearnedEnergy
from numpyro_disco.references.fitting import MixtureFit
from numpyro_disco.training.objectives import Contrastive
from numpyro_disco.training.report.evidence import FitEvidence
from numpyro_disco.training.report.lines import (
    MIN_HELD_OUT,
    ReportLine,
    make_line,
    num_fitted_components,
)
from numpyro_disco.training.settings import Refit

SMALL_SHARE = 0.1
"""Effective share of the reference's draws below which it is far from what was learned."""
EASILY_TOLD = 0.8
"""Logistic loss below which `fit` warns that draws of the reference are easily told from rows. It
is 2 log 2 where they cannot be told apart."""
LATE, LATE_GAIN = 0.75, 0.05
"""Part of the steps after which training is late, and the share of the whole gain that may come
then if training is long enough."""
SMALL_GAIN = 0.02
"""Gain of the last doubling of the components, in nats a row, that counts as none."""


@jax.jit
def _gains(energy: LearnedEnergy, points: Array) -> Array:
    return jax.vmap(lambda z: -energy.parts(z)[1])(points)


def normalized_line(evidence: FitEvidence) -> ReportLine:
    """Check that a normalised density describes held-out rows better than its reference does.

    It does not start from the reference, as the other energies do, so that the loss of the
    untrained network says nothing.
    """
    gains = np.asarray(_gains(evidence.energy, evidence.held_out), np.float64)
    gain = float(np.average(gains, weights=evidence.held_out_weights))
    error = standard_error(gains, evidence.held_out_weights)
    return make_line(
        "network",
        gain,
        PASS if gain > 2 * error else WARN if gain > -2 * error else FAIL,
        f"log density of held-out rows {gain:+.3g} +- {error:.2g} nats relative to the reference "
        f"(step {evidence.best_step} is kept)",
        "use more rows or steps, or the default objective, which starts from the reference",
        enough_rows=evidence.num_held_out >= MIN_HELD_OUT,
    )


def training_line(evidence: FitEvidence) -> ReportLine:
    """Check that training ended by itself, or gained little in its last quarter."""
    steps, losses = evidence.history.step, evidence.history.held_out_loss
    last, planned = int(steps[-1]), evidence.settings.total_steps
    kept = losses[np.flatnonzero(steps == evidence.best_step)[0]]
    late = float(losses[steps <= LATE * last].min() - kept)
    gain = float(losses[0] - kept)
    share = max(0.0, late) / gain if gain > 0 else 0.0
    # Fits that learn several times are not resumed.
    again = isinstance(evidence.settings.missing, Refit)
    more = (
        f"fit again with `num_steps={2 * planned}`"
        if again
        else f"continue it, `fit(..., resume=fit, num_steps={2 * planned})`"
    )
    if evidence.interrupted:
        finding, verdict = f"training was interrupted after {last} of {planned} steps", WARN
        more = "fit again" if again else "continue it, `fit(..., resume=fit)`"
    elif last < planned:
        finding, verdict = f"training ended by itself after {last} of {planned} steps", PASS
    else:
        finding = (
            f"training took all of its {planned} steps, and the last quarter of them gave "
            f"{100 * share:.2g} % of the gain on held-out rows"
        )
        verdict = WARN if share > LATE_GAIN else PASS
    return make_line("training", share, verdict, finding, f"it may gain further: {more}")


def components_line(evidence: FitEvidence) -> ReportLine:
    """Check that the number of components of the fitted mixture did not run into its limit."""
    tried, fitted = evidence.components, evidence.settings.reference
    assert isinstance(fitted, MixtureFit) and fitted.max_components is not None
    limit = fitted.max_components
    num_components = num_fitted_components(evidence)
    chosen = max(count for count in tried if count <= max(1, num_components))
    gain = tried[chosen] - tried[chosen // 2] if chosen > 1 else 0.0
    at_limit = chosen == max(tried) and 2 * chosen > limit
    finding = f"the reference is a mixture of {chosen} components"
    if at_limit:
        finding += f", the limit, and the last doubling gained {gain:.2g} nats a held-out row"
    elif chosen == max(tried):
        finding += ", as many as the number of rows allows"
    else:
        finding += ", beyond which held-out rows gain nothing"
    return make_line(
        "components",
        chosen,
        WARN if at_limit and gain > SMALL_GAIN else PASS,
        finding,
        f"raise the limit, `reference=disco.MixtureFit(max_components={2 * limit})`",
    )


def reference_line(evidence: FitEvidence, share: float) -> ReportLine:
    """Check that draws of the reference reach the learned density.

    A contrastive objective learns from these draws, and sees little of the rows if few are
    effective. The other objectives do not use them, and a small share only costs time.

    Args:
        evidence: the learned density.
        share: effective share of the reference's draws under the learned density.
    """
    contrastive = evidence.objective.is_contrastive
    finding = (
        f"{100 * share:.3g} % of the reference's draws are effective under the learned density"
    )
    if share >= SMALL_SHARE:
        finding += ": draws and conditionals are weighted draws of the reference, which is quick"
    elif not contrastive:
        finding += ": draws and conditionals are mostly tempered, which is slower and as exact"
    return make_line(
        "reference",
        share,
        WARN if contrastive and share < SMALL_SHARE else PASS,
        finding,
        "the reference is far from the rows, so training sees little where they are, log Z is "
        "uncertain, and conditionals are mostly tempered, which is slower: leave out columns that "
        "others determine, use more components or more rows, or compare the log density with that "
        "of `objective=disco.Likelihood()`, which learns without draws",
    )


def warn_of_distant_reference(evidence: FitEvidence) -> None:
    """Warn if the contrastive objective has found draws of the mixture easy to tell from rows.

    The report judges the same by the effective share of these draws. Here the held-out loss says
    it, which costs nothing. Other losses are part of it with redraws or discrete columns, and
    these fits are left to the report.
    """
    objective = evidence.objective
    if not isinstance(objective, Contrastive) or objective.num_redraws:
        return
    if evidence.interrupted or evidence.coordinate_supports.discrete.any():
        return
    kept = np.flatnonzero(evidence.history.step == evidence.best_step)[0]
    loss = float(evidence.history.held_out_loss[kept])
    if loss < EASILY_TOLD:
        warnings.warn(
            "Draws of the reference are easily told from the rows of `data` (held-out loss "
            f"{loss:.2f}, where {2 * np.log(2):.2f} means that they cannot be told apart), so the "
            "contrastive objective sees little of where the rows are. Leave out columns that "
            "others determine, or compare the log density of held-out rows with that of "
            "`objective=disco.Likelihood()`, which learns thin structure without draws.",
            stacklevel=4,
        )


def warn_if_untrained(evidence: FitEvidence) -> None:
    """Warn if an objective that learns scores has kept the untrained network.

    What it returns is then the density of its reference alone. A contrastive objective starts from
    a mixture, which may well be all that the rows support, so it is left to the report.
    """
    if evidence.objective.strict or evidence.interrupted or evidence.best_step:
        return
    warnings.warn(
        "No step of training lowered the held-out loss, so the untrained network is kept, and what "
        "was learned is the reference alone. Use more rows, a larger `noise_scale`, or the default "
        "objective, `fit` without `noise_scale` and `objective`.",
        stacklevel=4,
    )
