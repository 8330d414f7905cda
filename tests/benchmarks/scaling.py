"""Memory of a large run, and time of many rows with holes, on a learned energy in ten dimensions.

    python tests/benchmarks/scaling.py                          all three
    python tests/benchmarks/scaling.py --only rows --rows 1000
    python tests/benchmarks/scaling.py --small

memory: the peak of the process in TemperedSMC with `batch_size`, and before the run. rows: seconds
of `impute` for n and 2 n rows with a third missing, in holes of their own, after a first call that
compiles, and the ratio of the two (2 is linear). holes: a table of ten thousand rows, a third
missing, under vectorised NUTS: seconds of the first run, which compiles, and of a second one with
another table whose holes lie elsewhere, which does not.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import MCMC, NUTS
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
        particles_at_once=batch_size,
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


def with_holes(prior: disco.EnergyDistribution, num_rows: int, seed: int) -> np.ndarray:
    """Draws of the prior of which a third is missing."""
    rows = np.array(prior.sample(jax.random.key(seed), (num_rows,)))
    rows[np.random.default_rng(seed).random(rows.shape) < 1 / 3] = np.nan
    return rows


def rows_in_time(
    prior: disco.EnergyDistribution, num_rows: int, num_calls: int, small: bool
) -> None:
    """Seconds of many conditionals, and of twice as many."""
    draws = 8 if small else 20
    timings = []
    for rows in (num_rows, 2 * num_rows):
        observed = with_holes(prior, rows, rows)
        seconds = []
        for call in range(1 + num_calls):
            start = time.perf_counter()
            disco.impute(jax.random.key(call), prior, observed, draws).block_until_ready()
            seconds.append(time.perf_counter() - start)
        timings.append(statistics.median(seconds[1:]))
        print(
            f"impute {rows} rows x 10, {draws} draws each: {timings[-1]:.2f} s, the first call "
            f"{seconds[0]:.2f} s",
            flush=True,
        )
    print(f"twice the rows take {timings[1] / timings[0]:.2f} times as long")


def holes_in_time(prior: disco.EnergyDistribution, small: bool) -> None:
    """Vectorised NUTS over every hole of a large table, twice."""
    num_rows, num_steps = (100, 2) if small else (10_000, 20)

    def model(table: jax.Array) -> None:
        disco.sample("rows", prior, obs=table, padded=True)

    mcmc = MCMC(
        NUTS(model, max_tree_depth=4),
        num_warmup=num_steps,
        num_samples=num_steps,
        num_chains=2,
        chain_method="vectorized",
        jit_model_args=True,
        progress_bar=False,
    )
    for run in range(2):
        table = with_holes(prior, num_rows, run)
        start = time.perf_counter()
        mcmc.run(jax.random.key(run), jnp.asarray(table), extra_fields=("num_steps",))
        jax.block_until_ready(mcmc.get_samples())
        seconds = time.perf_counter() - start
        leapfrogs = int(mcmc.get_extra_fields()["num_steps"].sum())
        print(
            f"{'compiling and running' if run == 0 else 'other holes'}: {np.isnan(table).sum()} "
            f"holes in {num_rows} rows, 2 chains of {2 * num_steps} steps under NUTS, "
            f"{leapfrogs} leapfrogs after warm-up, {seconds:.1f} s"
        )


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="memory and time of large runs")
    parser.add_argument("--small", action="store_true", help="fewer particles and rows")
    parser.add_argument("--only", choices=("memory", "rows", "holes"), help="one of the three")
    parser.add_argument("--rows", type=int, default=100, help="rows to impute, and twice as many")
    parser.add_argument("--calls", type=int, default=3, help="timed calls for each, after one")
    args = parser.parse_args(arguments)
    small = args.small
    table = load_diabetes().data * 20
    steps = 50 if small else 300
    fit = disco.fit(jax.random.key(0), table, noise_scale=0.1, num_steps=steps, progress_bar=False)
    prior = fit.distribution
    if args.only in (None, "memory"):
        memory(prior, small)
    if args.only in (None, "rows"):
        rows_in_time(prior, 4 if small else args.rows, args.calls, small)
    if args.only in (None, "holes"):
        holes_in_time(prior, small)


if __name__ == "__main__":
    main()
