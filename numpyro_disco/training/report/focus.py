"""Report line for the conditional that a fit was asked to learn first."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._statistics import selected, standard_error
from numpyro_disco._typing import Array
from numpyro_disco.diagnostics.verdicts import FAIL, PASS, WARN
from numpyro_disco.energy.learned import LearnedEnergy
from numpyro_disco.references.redraws import Directions, column_directions, redraw
from numpyro_disco.training.objectives import Contrastive
from numpyro_disco.training.report.evidence import FitEvidence
from numpyro_disco.training.report.lines import MIN_HELD_OUT, ReportLine, make_line

MAX_ROWS, NUM_REDRAWS = 512, 256
"""Most held-out rows that are judged, and redraws of each."""
SMALL_SHARE = 0.05
"""Effective shares of redraws below this one are small."""


def focus_lines(rng_key: Array, evidence: FitEvidence) -> list[ReportLine]:
    """Compare the learned conditional in focus with that of the reference, on held-out rows.

    With M redraws y_m of the reference's conditional, the log density of a row r given its other
    columns exceeds that of the reference by

        -f(r) - log((1/M) sum_m exp(-f(y_m))),

    up to an error of order 1/M if the effective share of redraws is not small.

    Args:
        rng_key: random key.
        evidence: the learned density and its rows.

    Returns:
        One line, or none without a focus.
    """
    objective = evidence.objective
    if not isinstance(objective, Contrastive) or objective.redrawn is None:
        return []
    gains, shares = _gains_and_shares(rng_key, evidence, objective.redrawn)
    weights = selected(evidence.held_out_weights, slice(len(gains)))
    gain = float(np.average(gains, weights=weights))
    error, share = standard_error(gains, weights), float(np.average(shares, weights=weights))
    verdict = PASS if gain > 2 * error else WARN if gain > -2 * error else FAIL
    remedy = (
        "the network adds nothing to this conditional: use more rows or steps"
        if verdict != PASS
        else "redraws seldom reach where it lies: more components may bring the reference nearer"
    )
    if verdict == PASS and share < SMALL_SHARE:
        verdict = WARN
    names = ", ".join(evidence.names[place] for place in objective.redrawn)
    return [
        make_line(
            "focus",
            gain,
            verdict,
            f"log density of {names} given the other columns {abs(gain):.3g} +- {error:.2g} nats "
            f"{'above' if gain >= 0 else 'below'} the reference's, whose draws have an effective "
            f"share of {share:.2g}",
            remedy,
            enough_rows=evidence.num_held_out >= MIN_HELD_OUT,
        )
    ]


def _gains_and_shares(
    rng_key: Array, evidence: FitEvidence, places: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """For each held-out row, the gain in nats and the effective share of redraws, shape (rows,)."""
    model = evidence.energy
    directions = column_directions(
        rng_key, model.whitener, 1, model.reference.num_levels, free_columns=places
    )
    directions = jax.tree.map(lambda leaf: leaf[0], directions)
    log_weights, at_rows = _log_weights(
        rng_key, model, jnp.asarray(evidence.held_out[:MAX_ROWS]), directions
    )
    log_weights = np.asarray(log_weights, np.float64)
    weights = np.exp(log_weights - log_weights.max(1, keepdims=True))
    log_means = log_weights.max(1) + np.log(weights.mean(1))
    shares = weights.mean(1) ** 2 / (weights**2).mean(1)
    return np.asarray(at_rows, np.float64) - log_means, shares


@jax.jit
def _log_weights(
    rng_key: Array, model: LearnedEnergy, rows: Array, directions: Directions
) -> tuple[Array, Array]:
    """-f at redraws of each row, shape (rows, NUM_REDRAWS), and at the rows."""

    def at_row(entry: tuple[Array, Array]) -> tuple[Array, Array]:
        key, row = entry
        redraws = redraw(key, model.reference, row[None], directions, NUM_REDRAWS)[0]

        def minus_f(point: Array) -> Array:
            return -model.parts(point)[1]

        return jax.vmap(minus_f)(redraws), minus_f(row)

    return jax.lax.map(at_row, (jax.random.split(rng_key, len(rows)), rows), batch_size=8)
