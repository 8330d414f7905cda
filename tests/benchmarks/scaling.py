"""Memory of a large run, and time of many conditionals, on a learned energy in ten dimensions.

    python tests/benchmarks/scaling.py [--small] [--rows-only]

Prints, for TemperedSMC with `batch_size`, the peak memory of the process, and before the run; and
for `impute`, seconds for n and 2 n rows with a third missing, in holes of their own, after a first
call that compiles, and the ratio of the two (2 is linear).
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time

import jax
import numpy as np
from sklearn.datasets import load_diabetes

import numpyro_disco as disco

GIGABYTE = 1024**2  # of ru_maxrss, which counts in units of 1024 bytes


def peak() -> float:
    """Largest resident memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIGABYTE


def memory(prior: disco.EnergyDistribution, small: bool) -> None:
    """Peak memory of a run of many particles."""
    num_particles, batch_size = (2_000, 500) if small else (100_000, 4_000)
    before = peak()
    smc = disco.TemperedSMC(
        lambda: disco.sample("x", prior),
        num_particles=num_particles,
        num_chains=1,
        batch_size=batch_size,
        progress_bar=False,
    )
    start = time.perf_counter()
    smc.run(jax.random.key(1))
    seconds = time.perf_counter() - start
    print(
        f"{num_particles} particles, batch_size {batch_size}: peak memory {peak():.2f} GB, "
        f"{before:.2f} GB before the run; {seconds:.0f} s with compilation; log normaliser "
        f"{float(smc.log_normalizer[0]):.3f}"
    )


def rows_in_time(prior: disco.EnergyDistribution, table: np.ndarray, small: bool) -> None:
    """Seconds of many conditionals, and of twice as many."""
    num_rows, draws = (4, 8) if small else (100, 20)
    rng = np.random.default_rng(0)
    timings = []
    for rows in (num_rows, 2 * num_rows):
        observed = table[:rows].copy()
        observed[rng.random(observed.shape) < 1 / 3] = np.nan
        seconds = []
        for call in range(4):
            start = time.perf_counter()
            disco.impute(jax.random.key(call), prior, observed, draws).block_until_ready()
            seconds.append(time.perf_counter() - start)
        timings.append(statistics.median(seconds[1:]))
        print(
            f"impute {rows} rows x 10, {draws} draws each: {timings[-1]:.2f} s, the first call "
            f"{seconds[0]:.2f} s"
        )
    print(f"twice the rows take {timings[1] / timings[0]:.2f} times as long")


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="memory and time of large runs")
    parser.add_argument("--small", action="store_true", help="fewer particles and rows")
    parser.add_argument("--rows-only", action="store_true", help="time of many conditionals only")
    args = parser.parse_args(arguments)
    small = args.small
    table = load_diabetes().data * 20
    steps = 50 if small else 300
    fit = disco.fit(jax.random.key(0), table, noise_scale=0.1, num_steps=steps, progress_bar=False)
    prior = fit.distribution

    if not args.rows_only:
        memory(prior, small)
    rows_in_time(prior, table, small)


if __name__ == "__main__":
    main()
