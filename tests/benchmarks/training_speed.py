"""The exact posterior over training rows: its error, and what it costs a training step.

    python tests/benchmarks/training_speed.py            about five minutes on two cores
    python tests/benchmarks/training_speed.py --small    few rows, under a minute

First table: root mean squared error of the posterior mean against float64 brute force over all
rows, as a share of sigma_0, at noise levels from sigma_0 to sigma(T); and that of the mean over 512
rows, the points' own among them (`posterior_rows=512`). Second: seconds of a DISCO
step over those of a plain denoising step of the same network (batch 1024, width 128), rounds of
either in turn, medians; the posterior is counted in, amortised over `reuse` steps as in training.
Last: a million rows, peak memory of the process and seconds of a step.
"""

from __future__ import annotations

import argparse
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np

import numpyro_disco as disco
from numpyro_disco.noise import geometric_noise_scales
from numpyro_disco.objectives import OBJECTIVES
from numpyro_disco.posterior import row_posterior
from numpyro_disco.training import _start, _train_round
from numpyro_disco.training_settings import STEPS_PER_ROUND, TrainingSettings

SIGMA = 0.05


def rows_of(dimension: int, count: int) -> np.ndarray:
    """Correlated rows with two modes, standardised."""
    rng = np.random.default_rng(dimension)
    mode = rng.choice([-1.5, 1.5], (count, 1), p=[0.3, 0.7])
    rows = mode + rng.normal(size=(count, dimension)) @ rng.normal(size=(dimension, dimension))
    return np.float32((rows - rows.mean(0)) / rows.std(0))


def brute_force(points: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Posterior means in float64, every row of every point."""
    means = []
    rows = rows.astype(np.float64)
    for point in points.astype(np.float64):
        log_weights = -0.5 * ((rows - point) ** 2).sum(1) / SIGMA**2
        weights = np.exp(log_weights - log_weights.max())
        means.append(weights @ rows / weights.sum())
    return np.asarray(means)


def errors(rows: np.ndarray, num_points: int) -> None:
    """Print the error of the posterior mean by noise level."""
    rng = np.random.default_rng(0)
    posterior = jax.jit(row_posterior)
    dimension = rows.shape[1]
    for level in geometric_noise_scales(SIGMA, 2.0, 6):
        some = rows[rng.integers(len(rows), size=512)]
        chosen = some[rng.integers(len(some), size=num_points)]
        points = np.float32(chosen + level * rng.normal(size=chosen.shape))
        truth = brute_force(points, rows)
        cells = []
        for seen in (rows, some):
            found = np.asarray(posterior(jax.random.key(0), points, seen, SIGMA).mean)
            cells.append(f"{100 * np.sqrt(((found - truth) ** 2).mean()) / SIGMA:.4g} %")
        print(f"| {dimension} | {len(rows)} | {level:.2f} | {' | '.join(cells)} |", flush=True)


def steps(rows: np.ndarray, objectives: list[str], repeats: int) -> dict[str, float]:
    """Median seconds of a step of each objective, rounds of them in turn."""
    table = jnp.asarray(rows)
    fit = disco.fit(
        jax.random.key(0), rows[:2000], noise_scale=SIGMA, num_steps=1, progress_bar=False
    )
    model, carries, seconds = fit._model, {}, {name: [] for name in objectives}
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


def main(arguments: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="few rows")
    args = parser.parse_args(arguments)
    count, million, num_points, repeats = 100_000, 1_000_000, 256, 5
    if args.small:
        count, million, num_points, repeats = 2000, 4000, 32, 1
    print("| D | rows | noise | error of the posterior mean, of sigma_0 | over 512 rows |")
    print("|---|---|---|---|---|")
    for dimension in (2, 10):
        errors(rows_of(dimension, count), num_points)
    print("\n| D | rows | denoising step, ms | DISCO step, ms | ratio |\n|---|---|---|---|---|")
    for dimension in (2, 10):
        found = steps(rows_of(dimension, count), ["denoising", "disco"], repeats)
        plain, ours = 1e3 * found["denoising"], 1e3 * found["disco"]
        print(f"| {dimension} | {count} | {plain:.1f} | {ours:.1f} | {ours / plain:.2f} |")
    found = steps(rows_of(10, million), ["disco"], 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\n{million} rows, D = 10: {1e3 * found['disco']:.0f} ms a step, peak {peak:.2f} GiB")


if __name__ == "__main__":
    main()
