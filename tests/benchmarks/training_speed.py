"""The exact posterior over training rows: its error, and what it costs a training step.

    python tests/benchmarks/training_speed.py            about ten minutes on two cores
    python tests/benchmarks/training_speed.py --small    few rows, under a minute

First table: root mean squared error of the posterior mean against float64 brute force over all
rows, as a share of sigma_0, at noise levels from sigma_0 to sigma(T), for several sigma_0; that of
the mean over the rows near each point and a sample of the others (`posterior_rows="near"`, which
`fit` takes by itself with up to two columns and refuses with more than three); and that over 512
rows, the points' own among them (`posterior_rows=512`). Second: seconds of the posterior of 1024
points over all and over near rows, in turn, medians. Third: seconds of a DISCO step over those of a
plain denoising step of the same network (batch 1024, width 128), rounds of either in turn, medians;
the posterior is counted in, amortised over `reuse` steps as in training. Last: `fit` of a million
rows of ten columns, 100 steps of either way, in a process of its own: its seconds, and its peak
memory with the rows, JAX and all that is compiled.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import numpyro_disco as disco
from numpyro_disco.training.loop import _start, _train_round
from numpyro_disco.training.noise import geometric_noise_scales
from numpyro_disco.training.objectives import OBJECTIVES
from numpyro_disco.training.row_posterior import near_row_posterior, row_posterior, tree_order
from numpyro_disco.training.settings import STEPS_PER_ROUND, TrainingSettings

SIGMA = 0.05


def rows_of(dimension: int, count: int) -> np.ndarray:
    """Correlated rows with two modes, standardised."""
    rng = np.random.default_rng(dimension)
    mode = rng.choice([-1.5, 1.5], (count, 1), p=[0.3, 0.7])
    rows = mode + rng.normal(size=(count, dimension)) @ rng.normal(size=(dimension, dimension))
    return np.asarray((rows - rows.mean(0)) / rows.std(0), np.float32)


def brute_force(points: np.ndarray, rows: np.ndarray, sigma: float) -> np.ndarray:
    """Posterior means in float64, every row of every point."""
    means = []
    rows = rows.astype(np.float64)
    for point in points.astype(np.float64):
        log_weights = -0.5 * ((rows - point) ** 2).sum(1) / sigma**2
        weights = np.exp(log_weights - log_weights.max())
        means.append(weights @ rows / weights.sum())
    return np.asarray(means)


def errors(rows: np.ndarray, num_points: int, sigma: float = SIGMA) -> None:
    """Print the error of the posterior mean by noise level."""
    rng = np.random.default_rng(0)
    dimension, ordered = rows.shape[1], rows[tree_order(rows)]
    ways = (jax.jit(row_posterior), jax.jit(near_row_posterior), jax.jit(row_posterior))
    for level in geometric_noise_scales(sigma, 2.0, 6):
        some = rows[rng.integers(len(rows), size=512)]
        chosen = some[rng.integers(len(some), size=num_points)]
        points = np.asarray(chosen + level * rng.normal(size=chosen.shape), np.float32)
        truth = brute_force(points, rows, sigma)
        cells = []
        for posterior, seen in zip(ways, (rows, ordered, some), strict=True):
            found = np.asarray(posterior(jax.random.key(0), points, seen, sigma).mean)
            cells.append(f"{100 * np.sqrt(((found - truth) ** 2).mean()) / sigma:.4g} %")
        settings = f"{dimension} | {len(rows)} | {sigma} | {level:.2f}"
        print(f"| {settings} | {' | '.join(cells)} |", flush=True)


def posteriors(rows: np.ndarray, repeats: int) -> None:
    """Print the seconds of a batch of noisy points, over all rows and over near ones."""
    rng, ordered = np.random.default_rng(0), jnp.asarray(rows[tree_order(rows)])
    chosen = rows[rng.integers(len(rows), size=1024)]
    points = jnp.asarray(np.float32(chosen + 0.3 * rng.normal(size=chosen.shape)))
    seconds: dict[str, list[float]] = {"all": [], "near": []}
    ways = {"all": jax.jit(row_posterior), "near": jax.jit(near_row_posterior)}
    for repeat in range(repeats + 1):
        for name, posterior in ways.items():
            start = time.perf_counter()
            jax.block_until_ready(posterior(jax.random.key(repeat), points, ordered, SIGMA))
            if repeat:  # the first compiles
                seconds[name].append(time.perf_counter() - start)
    every, near = (float(np.median(values)) for values in seconds.values())
    print(f"| {rows.shape[1]} | {len(rows)} | {every:.2f} | {near:.2f} | {every / near:.1f} |")


def steps(rows: np.ndarray, objectives: list[str], repeats: int) -> dict[str, float]:
    """Median seconds of a step of each objective, rounds of them in turn."""
    table = jnp.asarray(rows)
    fit = disco.fit(
        jax.random.key(0), rows[:2000], noise_scale=SIGMA, num_steps=1, progress_bar=False
    )
    model, carries = fit._model, {}
    seconds: dict[str, list[float]] = {name: [] for name in objectives}
    options = {name: TrainingSettings(objective=name, noise_scale=SIGMA) for name in objectives}
    for repeat in range(repeats + 1):
        for name in objectives:
            assert name in OBJECTIVES
            if repeat == 0:
                judge = lambda weights: np.zeros(1)  # noqa: E731
                carries[name] = _start(model.weights, judge, options[name]).carry
            start = time.perf_counter()
            key = jax.random.key(repeat)
            carries[name], _ = jax.block_until_ready(
                _train_round(carries[name], key, table, model, options[name])
            )
            if repeat:  # the first compiles
                seconds[name].append((time.perf_counter() - start) / STEPS_PER_ROUND)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def fitted(count: int, settings: dict) -> tuple[float, float]:
    """Seconds of `fit` on so many rows of ten columns, and the peak memory of this process, GiB."""
    start = time.perf_counter()
    disco.fit(jax.random.key(0), rows_of(10, count), num_steps=100, progress_bar=False, **settings)
    # Linux's own figure: that of `resource` is at least what the parent process had.
    status = Path("/proc/self/status").read_text().split()
    return time.perf_counter() - start, int(status[status.index("VmHWM:") + 1]) / 2**20


def main(arguments: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="few rows")
    args = parser.parse_args(arguments)
    count, many, million, num_points, repeats = 100_000, 300_000, 1_000_000, 256, 5
    if args.small:
        count, many, million, num_points, repeats = 2000, 2000, 4000, 32, 1
    print(
        "| D | rows | sigma_0 | noise | error of the mean over all rows, of sigma_0 | near | 512 |"
    )
    print("|---|---|---|---|---|---|---|")
    for dimension in (2, 3, 10):
        errors(rows_of(dimension, count), num_points)
    errors(rows_of(2, million), num_points // 4)
    for dimension in (1, 2, 3):
        for sigma in (0.01, 0.1, 0.3):
            errors(rows_of(dimension, many), num_points // 4, sigma)
    print("\n| D | rows | all rows, s | near rows, s | ratio |\n|---|---|---|---|---|")
    for dimension, number in ((2, count), (2, million), (3, million)):
        posteriors(rows_of(dimension, number), repeats)
    print("\n| D | rows | denoising step, ms | DISCO step, ms | ratio |\n|---|---|---|---|---|")
    for dimension in (2, 10):
        found = steps(rows_of(dimension, count), ["denoising", "disco"], repeats)
        plain, ours = 1e3 * found["denoising"], 1e3 * found["disco"]
        print(f"| {dimension} | {count} | {plain:.1f} | {ours:.1f} | {ours / plain:.2f} |")
    print("\n| rows, D = 10 | fit | seconds of 100 steps | peak, GiB |\n|---|---|---|---|")
    for settings in ({"noise_scale": SIGMA}, {}):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            seconds, peak = process.submit(fitted, million, settings).result()
        print(
            f"| {million} | {settings or 'by its defaults'} | {seconds:.0f} | {peak:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
