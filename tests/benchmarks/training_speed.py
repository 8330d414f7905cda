"""Accuracy of the posterior over training rows, and its share of the cost of a training step.

    python tests/benchmarks/training_speed.py            about ten minutes on two cores
    python tests/benchmarks/training_speed.py --small    few rows, under a minute

Four tables:

1. Root mean squared error of the posterior mean against brute force in float64, as a share of
   sigma_0, at noise levels from sigma_0 to the largest: over all rows; over nearby rows and a
   sample of the others (`posterior_rows="near"`, the default for very many rows of one or two
   columns, available up to three); over 512 rows, those behind the points among them
   (`posterior_rows=512`).
2. Seconds of the posterior of 1024 points over all and over nearby rows, alternating, medians.
3. Seconds of a DISCO step and of a plain denoising step of the same network (batch 1024, width
   128), in alternating rounds, medians. The posterior is included; as in training, each noisy point
   is used 25 times.
4. 100 steps of `fit` on a million rows of ten columns, in a process of its own: seconds, and peak
   memory including rows, JAX and compiled programs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import numpyro_disco as disco
from numpyro_disco.training.loop import Plan, train
from numpyro_disco.training.objectives import Objective
from numpyro_disco.training.objectives.noise import geometric_noise_scales
from numpyro_disco.training.rows.batches import STEPS_PER_ROUND, TrainingRows
from numpyro_disco.training.rows.row_posterior import near_row_posterior, row_posterior, tree_order

SIGMA = 0.05
BATCH_SIZE = 1024


class Sizes(NamedTuple):
    """Sizes of all measurements."""

    rows: int
    many_rows: int
    most_rows: int
    points: int
    """Noisy points at which the posterior mean is compared with brute force."""
    repeats: int
    """Timed calls, after one that compiles."""


FULL = Sizes(100_000, 300_000, 1_000_000, 256, 5)
SMALL = Sizes(2000, 2000, 4000, 32, 1)


def make_rows(dimension: int, count: int) -> np.ndarray:
    """Correlated rows with two modes, standardised."""
    rng = np.random.default_rng(dimension)
    mode = rng.choice([-1.5, 1.5], (count, 1), p=[0.3, 0.7])
    rows = mode + rng.normal(size=(count, dimension)) @ rng.normal(size=(dimension, dimension))
    return np.asarray((rows - rows.mean(0)) / rows.std(0), np.float32)


def brute_force(points: np.ndarray, rows: np.ndarray, sigma: float) -> np.ndarray:
    """Posterior means in float64, from all rows for each point."""
    means = []
    rows = rows.astype(np.float64)
    for point in points.astype(np.float64):
        log_weights = -0.5 * ((rows - point) ** 2).sum(1) / sigma**2
        weights = np.exp(log_weights - log_weights.max())
        means.append(weights @ rows / weights.sum())
    return np.asarray(means)


def print_errors(rows: np.ndarray, num_points: int, sigma: float = SIGMA) -> None:
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
            mean = np.asarray(posterior(jax.random.key(0), points, seen, sigma).mean)
            cells.append(f"{100 * np.sqrt(((mean - truth) ** 2).mean()) / sigma:.4g} %")
        settings = f"{dimension} | {len(rows)} | {sigma} | {level:.2f}"
        print(f"| {settings} | {' | '.join(cells)} |", flush=True)


def print_posterior_seconds(rows: np.ndarray, repeats: int) -> None:
    """Print the seconds of the posterior of a batch, over all rows and over nearby rows."""
    rng, ordered = np.random.default_rng(0), jnp.asarray(rows[tree_order(rows)])
    chosen = rows[rng.integers(len(rows), size=BATCH_SIZE)]
    points = jnp.asarray(np.float32(chosen + 0.3 * rng.normal(size=chosen.shape)))
    seconds: dict[str, list[float]] = {"all": [], "near": []}
    ways = {"all": jax.jit(row_posterior), "near": jax.jit(near_row_posterior)}
    for repeat in range(repeats + 1):
        for name, posterior in ways.items():
            start = time.perf_counter()
            jax.block_until_ready(posterior(jax.random.key(repeat), points, ordered, SIGMA))
            if repeat:  # the first call compiles
                seconds[name].append(time.perf_counter() - start)
    every, near = (float(np.median(values)) for values in seconds.values())
    print(f"| {rows.shape[1]} | {len(rows)} | {every:.2f} | {near:.2f} | {every / near:.1f} |")


def step_seconds(rows: np.ndarray, repeats: int) -> tuple[float, float]:
    """Median seconds of a denoising step and of a DISCO step, in alternating rounds."""
    denoising, ours = disco.Denoising(noise_scale=SIGMA), disco.Disco(noise_scale=SIGMA)
    fit = disco.fit(jax.random.key(0), rows[:2000], objective=ours, num_steps=1, progress_bar=False)
    objectives: tuple[Objective, ...] = (denoising, ours)
    seconds: dict[Objective, list[float]] = {objective: [] for objective in objectives}
    for repeat in range(repeats + 1):
        for objective in objectives:
            plan = Plan(objective, disco.AdamW(), BATCH_SIZE, num_steps=STEPS_PER_ROUND)
            start = time.perf_counter()
            # Two held-out rows: judging them takes next to no time.
            run, _ = train(
                jax.random.key(repeat),
                fit.evidence.model,
                TrainingRows(rows),
                TrainingRows(fit.evidence.held_out[:2]),
                plan,
                patience=STEPS_PER_ROUND,
                progress_bar=False,
            )
            jax.block_until_ready(run.carry)
            if repeat:  # the first round compiles
                seconds[objective].append((time.perf_counter() - start) / STEPS_PER_ROUND)
    return float(np.median(seconds[denoising])), float(np.median(seconds[ours]))


def fit_cost(count: int, arguments: dict[str, Any]) -> tuple[float, float]:
    """Seconds of `fit` on so many rows of ten columns, and peak memory of this process in GiB."""
    start = time.perf_counter()
    rows = make_rows(10, count)
    disco.fit(jax.random.key(0), rows, num_steps=100, progress_bar=False, **arguments)
    # Read from Linux itself: `resource` reports at least the memory of the parent process.
    status = Path("/proc/self/status").read_text().split()
    return time.perf_counter() - start, int(status[status.index("VmHWM:") + 1]) / 2**20


def print_errors_and_posteriors(sizes: Sizes) -> None:
    """Print the first two tables."""
    print(
        "| D | rows | sigma_0 | noise | error of the mean over all rows, of sigma_0 | near | 512 |"
    )
    print("|---|---|---|---|---|---|---|")
    for dimension in (2, 3, 10):
        print_errors(make_rows(dimension, sizes.rows), sizes.points)
    print_errors(make_rows(2, sizes.most_rows), sizes.points // 4)
    for dimension in (1, 2, 3):
        for sigma in (0.01, 0.1, 0.3):
            print_errors(make_rows(dimension, sizes.many_rows), sizes.points // 4, sigma)
    print("\n| D | rows | all rows, s | near rows, s | ratio |\n|---|---|---|---|---|")
    for dimension, count in ((2, sizes.rows), (2, sizes.most_rows), (3, sizes.most_rows)):
        print_posterior_seconds(make_rows(dimension, count), sizes.repeats)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="few rows")
    args = parser.parse_args(arguments)
    sizes = SMALL if args.small else FULL
    print_errors_and_posteriors(sizes)
    print("\n| D | rows | denoising step, ms | DISCO step, ms | ratio |\n|---|---|---|---|---|")
    for dimension in (2, 10):
        plain, ours = step_seconds(make_rows(dimension, sizes.rows), sizes.repeats)
        cells = f"{1e3 * plain:.1f} | {1e3 * ours:.1f} | {ours / plain:.2f}"
        print(f"| {dimension} | {sizes.rows} | {cells} |", flush=True)
    print("\n| rows, D = 10 | fit | seconds of 100 steps | peak, GiB |\n|---|---|---|---|")
    ways: dict[str, dict[str, Any]] = {f"noise_scale={SIGMA}": {"noise_scale": SIGMA}}
    for way, fit_arguments in (ways | {"defaults": {}}).items():
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            seconds, peak = process.submit(fit_cost, sizes.most_rows, fit_arguments).result()
        print(f"| {sizes.most_rows} | {way} | {seconds:.0f} | {peak:.2f} |", flush=True)


if __name__ == "__main__":
    main()
