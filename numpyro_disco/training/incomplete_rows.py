"""Learning from rows with missing entries.

All rows, held-out ones included, are learned from with their missing entries imputed: first from a
mixture fitted to the training rows by expectation-maximisation (`references/incomplete.py`), which
is right if entries are missing at random; then, on request, from the learned density itself.
"""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
from numpyro.distributions import constraints

from numpyro_disco._random import host_generator
from numpyro_disco._statistics import selected
from numpyro_disco._typing import Array
from numpyro_disco.energy.distribution import EnergyDistribution
from numpyro_disco.energy.imputation import impute
from numpyro_disco.references.incomplete import draw_missing, fit_incomplete
from numpyro_disco.supports.coordinates import CoordinateSupports
from numpyro_disco.training.learning import PreparedRows, Task
from numpyro_disco.training.result import FitResult
from numpyro_disco.training.settings import Refit
from numpyro_disco.training.stages import learn_in_stages
from numpyro_disco.training.units import split_rows


def learn_from_incomplete(rng_key: Array, task: Task, resume: FitResult | None) -> FitResult:
    """Impute missing entries and learn from all rows, as often as `missing` asks for.

    Args:
        rng_key: random key for the imputations.
        task: what to learn from, and how; some rows have missing entries.
        resume: an earlier result to continue, or None.

    Raises:
        ValueError: `resume` together with a `Refit`.
    """
    missing = task.settings.missing
    num_refits = missing.num_refits if isinstance(missing, Refit) else 0
    if num_refits and resume is not None:
        raise ValueError(
            "Expected `resume` without `missing=disco.Refit(...)`, which learns several times; got "
            "both. Start anew without `resume`."
        )
    prepared = task.prepared
    start_key, refit_key = jax.random.split(rng_key)

    def learned_from(name: str, filled: dict[str, np.ndarray]) -> FitResult:
        one = task._replace(prepared=prepared._replace(rows=filled["rows"]))
        return learn_in_stages(one, name, resume)

    make = partial(_drawn_from_mixture, start_key, task)
    result = learned_from("fit", task.checkpoint.subfolder("fit").kept("imputed", make))
    for refit in range(num_refits):
        if result.interrupted:
            break
        name, key = f"refit_{refit + 1}", jax.random.fold_in(refit_key, refit)
        make = partial(_drawn_from_prior, key, prepared, result.distribution)
        result = learned_from(name, task.checkpoint.subfolder(name).kept("imputed", make))
    return result


def _drawn_from_mixture(rng_key: Array, task: Task) -> dict[str, np.ndarray]:
    """Rows with missing entries drawn from a mixture that is fitted to the training rows."""
    rows, weights = task.prepared.rows, task.prepared.weights
    judging, training = split_rows(task.keys.split, len(rows), task.settings.held_out_fraction)
    varying = np.arange(rows.shape[1])
    if task.prepared.array_shape is not None:
        # Elements of an array may be constant, such as those of an empty border.
        varying = np.flatnonzero(np.nanstd(rows[training], axis=0) > 0)
    num_levels = tuple(np.take(task.prepared.supports.num_levels, varying).tolist())
    mixture = fit_incomplete(
        rows[np.ix_(training, varying)],
        rows[np.ix_(judging, varying)],
        num_levels,
        selected(weights, training),
        selected(weights, judging),
        np.take(task.prepared.names, varying).tolist(),
    )
    filled = np.where(np.isnan(rows), np.nanmean(rows[training], axis=0), rows)
    drawn = draw_missing(host_generator(rng_key), mixture, rows[:, varying], num_levels)
    filled[:, varying] = drawn
    return {"rows": filled}


def _drawn_from_prior(
    rng_key: Array, prepared: PreparedRows, prior: EnergyDistribution
) -> dict[str, np.ndarray]:
    """Rows with missing entries drawn from a learned density, in unconstrained space."""
    codes = tuple(
        constraints.integer_interval(0, count - 1) if count else constraints.real
        for count in prepared.supports.num_levels
    )
    unconstrained = prior.as_vector.replace(coordinate_supports=CoordinateSupports(codes))
    missing = np.isnan(prepared.rows)
    filled, some = prepared.rows.copy(), missing.any(axis=1)
    drawn = impute(rng_key, unconstrained, prepared.rows[some], num_imputations=1)[0]
    filled[some] = np.where(missing[some], np.asarray(drawn, np.float64), filled[some])
    return {"rows": filled}
