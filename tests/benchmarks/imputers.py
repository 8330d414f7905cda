"""Methods that fill in missing entries of rows: ours, EM mixtures, an imputer and a flow."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flows import train_flow
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from settings import fit_arguments
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer
from sklearn.mixture import GaussianMixture
from tables import TABLES

import numpyro_disco as disco

OURS = ("fit", "its mixture alone", "truth")
"""Names of the methods that are not rivals."""
FLOW = "flow, our sampler"
MAX_IMPUTER_ROWS = 20_000
"""Most rows that the IterativeImputer is trained on."""


class Task(NamedTuple):
    """Standardised rows to learn from, and rows to fill in."""

    rows: np.ndarray
    """Rows to learn from, shape (N, D)."""
    test: np.ndarray
    """Complete test rows, shape (n, D)."""
    observed: np.ndarray
    """`test` with NaN for missing entries."""
    truth: GaussianMixture | None
    """The density that the rows were drawn from, if known."""


class Drawn(NamedTuple):
    """Draws of a method."""

    draws: np.ndarray
    """Filled-in rows, shape (num_draws, m, D), for the first m test rows."""
    training: float
    """Seconds of training."""
    drawing: float
    """Seconds of drawing."""


class Clock:
    """Seconds since the last reading."""

    def __init__(self) -> None:
        self.last = time.perf_counter()

    def read(self) -> float:
        """Seconds since the last reading, or since the start."""
        before, self.last = self.last, time.perf_counter()
        return self.last - before


@contextmanager
def no_warnings(category: type[Warning] = Warning) -> Iterator[None]:
    """Silence warnings of a category."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category)
        yield


def make_task(name: str, num_rows: int, num_test: int, seed: int) -> Task:
    """Split a table, standardise it by its training rows, and remove a third of each test row."""
    rng = np.random.default_rng(seed)
    table = rng.permutation(TABLES[name]())
    rows, test = table[:-num_test][:num_rows], table[-num_test:]
    loc, scale = rows.mean(0), rows.std(0)
    truth = None
    if name == "twonorm":
        centre = np.full(20, 2 / np.sqrt(20))
        covariance = np.diag(1 / scale**2)
        means = (np.stack([centre, -centre]) - loc) / scale
        truth = mixture(np.full(2, 0.5), means, np.stack([covariance, covariance]))
    rows, test = (rows - loc) / scale, (test - loc) / scale
    num_missing = -(-test.shape[1] // 3)
    missing = rng.random(test.shape).argsort(1).argsort(1) < num_missing
    return Task(rows, test, np.where(missing, np.nan, test), truth)


def mixture(weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> GaussianMixture:
    """A Gaussian mixture of scikit-learn with these parameters."""
    result = GaussianMixture(len(weights))
    result.weights_, result.means_, result.covariances_ = weights, means, covariances
    return result


def closed_form(
    rng: np.random.Generator, fit: GaussianMixture, task: Task, count: int
) -> np.ndarray:
    """Draws from the conditionals of a mixture in double precision, shape (count, n, D)."""
    draws = np.empty((count, *task.observed.shape))
    for index, row in enumerate(task.observed):
        free = np.isnan(row)
        log_weights, means, factors = [], [], []
        for weight, mean, covariance in zip(
            fit.weights_, fit.means_, fit.covariances_, strict=True
        ):
            seen = covariance[np.ix_(~free, ~free)]
            gain = np.linalg.solve(seen, covariance[np.ix_(~free, free)]).T
            left = covariance[np.ix_(free, free)] - gain @ covariance[np.ix_(~free, free)]
            log_density = multivariate_normal.logpdf(row[~free], mean[~free], seen)
            log_weights.append(np.log(weight) + log_density)
            means.append(mean[free] + gain @ (row[~free] - mean[~free]))
            factors.append(np.linalg.cholesky(left))
        share = np.exp(np.array(log_weights) - logsumexp(log_weights))
        component = rng.choice(len(share), count, p=share / share.sum())
        noise = rng.standard_normal((count, free.sum()))
        steps = np.einsum("nij,nj->ni", np.array(factors)[component], noise)
        draws[:, index], draws[:, index, free] = row, np.array(means)[component] + steps
    return draws


def em(task: Task, num_components: int, count: int, seed: int) -> Drawn:
    """scikit-learn's mixture by EM on all rows, sampled in closed form."""
    clock = Clock()
    fit = GaussianMixture(num_components, random_state=seed).fit(task.rows)
    training = clock.read()
    draws = closed_form(np.random.default_rng(seed), fit, task, count)
    return Drawn(draws, training, clock.read())


def imputer(task: Task, count: int, seed: int) -> Drawn:
    """scikit-learn's chain of Bayesian linear regressions; a new chain for each draw."""
    clock = Clock()
    fit = IterativeImputer(sample_posterior=True, random_state=seed)
    # It warns that its rounds do not converge, which random draws never do.
    with no_warnings():
        fit.fit(task.rows[:MAX_IMPUTER_ROWS])
        training = clock.read()
        draws = fit.transform(np.tile(task.observed, (count, 1)))
    return Drawn(draws.reshape(count, *task.observed.shape), training, clock.read())


def sampled(
    prior: disco.EnergyDistribution, observed: np.ndarray, count: int, seed: int
) -> np.ndarray:
    """Draws by `sample_conditional`, shape (count, n, D)."""
    key = jax.random.key(1000 + seed)
    return np.asarray(disco.sample_conditional(key, prior, observed, num_samples=count))


def ours(task: Task, count: int, seed: int, settings: dict[str, Any]) -> dict[str, Drawn]:
    """`fit` with flat settings, and its mixture reference alone."""
    clock = Clock()
    with no_warnings(UserWarning):  # days without a change of price are tied values
        fit = disco.fit(
            jax.random.key(seed), task.rows, progress_bar=False, **fit_arguments(settings)
        )
    training, prior = clock.read(), fit.distribution
    draws = sampled(prior, task.observed, count, seed)
    drawing = clock.read()
    # With a `transform` the mixture is one of unconstrained coordinates.
    reference, supports = prior.joint_reference, prior.coordinate_supports
    assert isinstance(reference, disco.MixtureReference)
    parameters = (reference.weights, reference.means, reference.covariances)
    known = mixture(*(np.asarray(array, np.float64) for array in parameters))
    moved = task._replace(observed=np.asarray(supports.unconstrain(task.observed), np.float64))
    alone = closed_form(np.random.default_rng(seed), known, moved, count)
    alone = np.asarray(supports.constrain(alone), np.float64)
    print(f"  {max(fit.components, default=0)} components tried, step {fit.best_step}", flush=True)
    return {
        "fit": Drawn(draws, training, drawing),
        "its mixture alone": Drawn(alone, training, clock.read()),
    }


def flow(task: Task, count: int, seed: int, seconds: float, num_rows: int) -> Drawn:
    """flowjax's flow as an energy, sampled by `sample_conditional` for the first test rows."""
    import equinox

    trained = train_flow(task.rows, seed, seconds)
    clock = Clock()
    weights, structure = equinox.partition(trained.model, equinox.is_inexact_array)
    matrix = jnp.asarray(trained.whitener, jnp.float32)

    def energy(weights: Any, x: jax.Array) -> jax.Array:
        return -equinox.combine(weights, structure).log_prob(matrix @ x)

    # Tempering starts here: wider than the rows.
    reference = disco.GaussianReference(task.rows.mean(0), 4 * np.cov(task.rows, rowvar=False))
    prior = disco.EnergyDistribution(jax.tree_util.Partial(energy, weights), reference)
    draws = sampled(prior, task.observed[:num_rows], count, seed)
    return Drawn(draws, trained.seconds, clock.read())


def all_methods(
    task: Task, count: int, seed: int, settings: dict[str, Any], flow_rows: int
) -> dict[str, Drawn]:
    """Draws of all methods by name.

    Args:
        task: what to learn and to fill in.
        count: number of draws of each row.
        seed: random seed.
        settings: flat settings of `fit`.
        flow_rows: number of rows that the flow fills in.
    """
    drawn = ours(task, count, seed, settings)
    drawn[FLOW] = flow(task, count, seed, drawn["fit"].training, flow_rows)
    drawn["Gaussian"] = em(task, 1, count, seed)
    for num_components in (10, 64):
        drawn[f"EM, {num_components}"] = em(task, num_components, count, seed)
    drawn["IterativeImputer"] = imputer(task, count, seed)
    if task.truth is not None:
        exact = closed_form(np.random.default_rng(seed), task.truth, task, count)
        drawn["truth"] = Drawn(exact, 0.0, 0.0)
    return drawn
