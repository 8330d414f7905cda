"""Learning from rows with missing entries.

All rows, held-out ones included, are learned from with their missing entries imputed: first from a
mixture fitted to the training rows by expectation-maximisation (`references/incomplete.py`), which
is right if entries are missing at random; then, on request, from the learned density itself.

Imputed entries agree with whatever drew them, so they judge nothing: complete held-out rows do,
each weighted by the inverse of the chance that such a row is complete. Unweighted, they would
represent only those kinds of rows that are often complete.

References:
    Seaman & White 2013, for weights by the inverse chance of being complete.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from numpyro.distributions import constraints

from numpyro_disco._random import host_generator
from numpyro_disco._statistics import effective_number, selected
from numpyro_disco._typing import Array
from numpyro_disco.energy.distribution import EnergyDistribution
from numpyro_disco.energy.imputation import impute
from numpyro_disco.references.incomplete import draw_missing, fit_incomplete
from numpyro_disco.supports.coordinates import CoordinateSupports
from numpyro_disco.training.learning import PreparedRows, Task, learn
from numpyro_disco.training.report.evidence import ImputedRows
from numpyro_disco.training.result import FitResult
from numpyro_disco.training.rows.units import split_rows
from numpyro_disco.training.settings import Refit

MIN_COMPLETE = 100
"""Smallest effective number of complete held-out rows that judge alone."""


def learn_from_incomplete(rng_key: Array, task: Task, resume: FitResult | None) -> FitResult:
    """Impute missing entries and learn from all rows, as often as `missing` asks for.

    Args:
        rng_key: random key for the imputations.
        task: what to learn from, and how; some rows have missing entries.
        resume: an earlier result to continue, or None.

    Raises:
        ValueError: a `Refit` together with `resume`, or with an objective that learns a score only.
    """
    missing = task.settings.missing
    num_refits = missing.num_refits if isinstance(missing, Refit) else 0
    if num_refits and resume is not None:
        raise ValueError(
            "Expected `resume` without `missing=disco.Refit(...)`, which learns several times; got "
            "both. Start anew without `resume`."
        )
    objective = task.settings.objective
    if num_refits and not objective.learns_energy:
        raise ValueError(
            "Expected an `objective` that learns a density for `missing=disco.Refit(...)`, which "
            f"draws missing entries from it; got {type(objective).__name__}. Leave `missing` out, "
            "or learn with `disco.Disco(...)`."
        )
    prepared = task.prepared
    start_key, refit_key = jax.random.split(rng_key)

    make = partial(_drawn_from_mixture, start_key, task)
    result = _learn_imputed(task, "fit", make, resume)
    for refit in range(num_refits):
        if result.interrupted:
            break
        name, key = f"refit_{refit + 1}", jax.random.fold_in(refit_key, refit)
        make = partial(_drawn_from_prior, key, prepared, result.distribution)
        result = _learn_imputed(task, name, make, resume)
    return result


def _learn_imputed(
    task: Task, name: str, impute: Callable[[], dict[str, np.ndarray]], resume: FitResult | None
) -> FitResult:
    """Learn from imputed rows, judged by complete held-out rows if there are enough of them."""
    rows = task.checkpoint.subfolder(name).kept("imputed", impute)["rows"]
    complete, weights = ~np.isnan(task.prepared.rows).any(axis=1), task.prepared.weights
    held_out, _ = split_rows(task.keys.split, len(rows), task.settings.held_out_fraction)
    judging = judging_weights(rows, complete, held_out, weights)
    prepared = task.prepared._replace(rows=rows, judging_weights=judging)
    result = learn(task._replace(prepared=prepared), name, resume)
    among = ~complete if judging is None else np.zeros(len(rows), bool)
    imputed = ImputedRows(int((~complete).sum()), int(among[held_out].sum()))
    evidence = dataclasses.replace(result.evidence, imputed=imputed)
    return dataclasses.replace(result, evidence=evidence)


def judging_weights(
    rows: np.ndarray,
    complete: np.ndarray,
    held_out: np.ndarray,
    weights: np.ndarray | None = None,
) -> np.ndarray | None:
    """Weights with which complete rows stand for all, or None if too few are held out.

    A logistic regression on the columns and their squares estimates the chance that a row is
    complete. Incomplete rows take part in it with their imputed entries.

    Args:
        rows: rows whose missing entries are imputed, shape (N, D).
        complete: True for rows in which no entry was missing, shape (N,).
        held_out: indices of the held-out rows.
        weights: positive weights of the rows, shape (N,); None if all are equal.

    Returns:
        Array (N,), zero for incomplete rows, or None.
    """
    from sklearn.linear_model import LogisticRegression

    if complete[held_out].sum() < MIN_COMPLETE:
        return None
    scale = rows.std(axis=0)
    standard = (rows - rows.mean(axis=0)) / np.where(scale > 0, scale, 1.0)
    features = np.concatenate([standard, standard**2], axis=1)
    regression = LogisticRegression(max_iter=500).fit(features, complete, weights)
    chance = regression.predict_proba(features)[:, 1]
    found = np.where(complete, (1.0 if weights is None else weights) / chance, 0.0)
    judging = found[held_out][complete[held_out]]
    return found if effective_number(judging, len(judging)) >= MIN_COMPLETE else None


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
