"""Density estimators that answer the same conditionals: `fit`, EM mixtures, a kernel density."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from quadrature import at_test_rows, by_quadrature, in_batches, log_normalizer
from scipy.ndimage import gaussian_filter1d
from scipy.special import logsumexp
from settings import fit_arguments
from sklearn.mixture import GaussianMixture
from tasks import Task

import numpyro_disco as disco
from numpyro_disco.training.rows.row_posterior import row_posterior

BANDWIDTH = 0.05
"""Bandwidth of the kernel density, in standard deviations of the columns."""
TINY = 1e-300
"""Smallest density whose logarithm is taken."""
OURS = ("fit", "its reference alone", "fit, Gaussian reference")
"""Names of the methods that are not rivals."""


class Method(NamedTuple):
    """A trained density estimator."""

    name: str
    conditionals: Callable[[Task, int], np.ndarray]
    """From a task and a column to log densities of the column on its grid, shape (n, points), up to
    a constant for each test row."""
    seconds: float
    """Training time."""
    joint: Callable[[Task], np.ndarray]
    """From a task to normalised log densities of its test rows, shape (n,); NaN if unknown."""
    note: str = ""


def ours(task: Task, seed: int, settings: dict[str, Any]) -> list[Method]:
    """`fit` and its reference alone; where the truth is known, also from a Gaussian reference.

    Args:
        task: what to learn.
        seed: seed of `fit`.
        settings: flat settings of `fit`, see `settings.fit_arguments`.
    """
    methods = _learned("fit", task, seed, settings)
    if task.truth is not None and not {"noise_scale", "objective", "reference"} & set(settings):
        gaussian = {**settings, "reference": "gaussian", "objective": "contrastive"}
        methods += _learned(OURS[2], task, seed, gaussian)[:1]
    return methods


def _learned(name: str, task: Task, seed: int, settings: dict[str, Any]) -> list[Method]:
    """`fit` with some settings, and the reference that it starts from."""
    start = time.perf_counter()
    arguments = fit_arguments(settings)
    fit = disco.fit(jax.random.key(seed), task.rows, progress_bar=False, **arguments)
    seconds = time.perf_counter() - start
    prior = fit.distribution
    note = f"step {fit.best_step}, held-out loss {fit.history.held_out_loss.min():.4f}"
    if fit.components:
        note += f", {max(fit.components)} components tried"
    log_z, error = log_normalizer(prior, task)
    note += f", log Z {log_z:+.4f} ± {error:.4f}"
    joint = partial(_normalised, prior, log_z)
    alone = prior.reference.log_prob
    return [
        Method(name, by_quadrature(prior.log_prob), seconds, joint, note),
        Method(OURS[1], by_quadrature(alone), seconds, at_test_rows(alone)),
    ]


def _normalised(prior: disco.EnergyDistribution, log_z: float, task: Task) -> np.ndarray:
    """Normalised log densities of the test rows, shape (n,)."""
    return in_batches(prior.log_prob, task.test) - log_z


def kernel_density(task: Task) -> Method:
    """A Gaussian around each row; conditionals are smoothed weighted histograms."""

    def conditionals(task: Task, column: int) -> np.ndarray:
        others = np.arange(task.rows.shape[1]) != column
        grid = task.grid(column)
        step = grid[1] - grid[0]
        place = np.clip(np.rint((task.rows[:, column] - grid[0]) / step), 0, len(grid) - 1)
        densities = []
        for row in task.test:
            square = ((task.rows[:, others] - row[others]) ** 2).sum(1) / BANDWIDTH**2
            weight = np.exp(-0.5 * (square - square.min()))
            counts = np.bincount(place.astype(int), weight, minlength=len(grid))
            densities.append(gaussian_filter1d(counts, BANDWIDTH / step, truncate=8))
        return np.log(np.maximum(densities, TINY))

    def joint(task: Task) -> np.ndarray:
        points, rows = (jnp.asarray(part, jnp.float32) for part in (task.test, task.rows))
        return np.asarray(row_posterior(jax.random.key(0), points, rows, BANDWIDTH).log_density)

    return Method(f"kernel density, {BANDWIDTH}", conditionals, 0.0, joint)


def em_mixture(task: Task, num_components: int) -> Method:
    """scikit-learn's mixture by EM on all rows, with closed-form conditionals in double precision.

    With precision P and x - m = (u, v), v the column to predict and u the others, the exponent of a
    component is -(P_vv v^2 + 2 v P_vu u + u P_uu u) / 2.
    """
    start = time.perf_counter()
    fit = GaussianMixture(num_components, random_state=0).fit(task.rows)
    seconds = time.perf_counter() - start

    def conditionals(task: Task, column: int) -> np.ndarray:
        precisions, grid = fit.precisions_, task.grid(column)
        offset = task.test[:, None] - fit.means_
        offset[:, :, column] = 0
        curvature = precisions[:, column, column]
        slope = np.einsum("nkd,kd->nk", offset, precisions[:, column])
        rest = np.einsum("nkd,kde,nke->nk", offset, precisions, offset)
        log_dets = np.linalg.slogdet(precisions)[1]
        log_weights = np.log(fit.weights_) + 0.5 * log_dets - 0.5 * rest
        v = grid[:, None] - fit.means_[:, column]
        log_densities = [
            logsumexp(w - 0.5 * curvature * v**2 - b * v, axis=1)
            for w, b in zip(log_weights, slope, strict=True)
        ]
        return np.asarray(log_densities)

    return Method(
        f"EM, {num_components} components",
        conditionals,
        seconds,
        lambda task: fit.score_samples(task.test),
    )
