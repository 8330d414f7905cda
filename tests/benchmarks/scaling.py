"""Growth of memory and time with particles and rows, on a learned energy of ten columns.

    python tests/benchmarks/scaling.py                          all three measurements
    python tests/benchmarks/scaling.py --only rows --rows 1000
    python tests/benchmarks/scaling.py --small

- memory: peak memory of the process in TemperedSMC with `particles_at_once`, and before the run;
- rows: seconds of `impute` for n and 2 n rows with a third of the entries missing, in a pattern of
  its own for each row, after a first call that compiles; and the ratio of the two (2 is linear);
- missing: a table of ten thousand rows with a third of the entries missing, under vectorised NUTS:
  seconds of a first run, which compiles, and of a second run on another table with other missing
  entries, which does not.
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

GIGABYTE = 1024**2
"""One GB in the units of `ru_maxrss`, 1024 bytes."""


def peak() -> float:
    """Largest resident memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIGABYTE


def measure_memory(prior: disco.EnergyDistribution, small: bool) -> None:
    """Print the peak memory of a run of many particles."""
    num_particles, particles_at_once = (2_000, 500) if small else (100_000, 4_000)
    before = peak()
    smc = disco.TemperedSMC(
        lambda: disco.sample("x", prior),
        num_particles=num_particles,
        num_chains=1,
        particles_at_once=particles_at_once,
        progress_bar=False,
    )
    start = time.perf_counter()
    smc.run(jax.random.key(1))
    seconds = time.perf_counter() - start
    print(
        f"{num_particles} particles, {particles_at_once} at once: peak memory {peak():.2f} GB, "
        f"{before:.2f} GB before the run; {seconds:.0f} s with compilation; log Z "
        f"{float(smc.log_normalizer[0]):.3f}"
    )


def rows_with_missing(prior: disco.EnergyDistribution, num_rows: int, seed: int) -> np.ndarray:
    """Draws of the prior with a third of the entries missing."""
    rows = np.array(prior.sample(jax.random.key(seed), (num_rows,)))
    rows[np.random.default_rng(seed).random(rows.shape) < 1 / 3] = np.nan
    return rows


def measure_rows(
    prior: disco.EnergyDistribution, num_rows: int, num_calls: int, small: bool
) -> None:
    """Print the seconds of imputing rows, and twice as many."""
    draws = 8 if small else 20
    medians = []
    for count in (num_rows, 2 * num_rows):
        data = rows_with_missing(prior, count, count)
        seconds = []
        for call in range(1 + num_calls):
            start = time.perf_counter()
            jax.block_until_ready(disco.impute(jax.random.key(call), prior, data, draws))
            seconds.append(time.perf_counter() - start)
        medians.append(statistics.median(seconds[1:]))
        print(
            f"impute {count} rows x 10 columns, {draws} draws each: {medians[-1]:.2f} s, the first "
            f"call {seconds[0]:.2f} s",
            flush=True,
        )
    print(f"twice the rows take {medians[1] / medians[0]:.2f} times as long")


def measure_missing(prior: disco.EnergyDistribution, small: bool) -> None:
    """Print the seconds of vectorised NUTS over all missing entries of a large table, twice."""
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
        table = rows_with_missing(prior, num_rows, run)
        start = time.perf_counter()
        mcmc.run(jax.random.key(run), jnp.asarray(table), extra_fields=("num_steps",))
        jax.block_until_ready(mcmc.get_samples())
        seconds = time.perf_counter() - start
        leapfrogs = int(mcmc.get_extra_fields()["num_steps"].sum())
        label = "first run, with compilation" if run == 0 else "other missing entries"
        print(
            f"{label}: {np.isnan(table).sum()} missing entries in {num_rows} rows, 2 chains of "
            f"{2 * num_steps} NUTS steps, {leapfrogs} leapfrog steps after warm-up, {seconds:.1f} s"
        )


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="fewer particles and rows")
    parser.add_argument("--only", choices=("memory", "rows", "missing"), help="one measurement")
    parser.add_argument("--rows", type=int, default=100, help="rows to impute, and twice as many")
    parser.add_argument("--calls", type=int, default=3, help="timed calls, after one that compiles")
    args = parser.parse_args(arguments)
    small = args.small
    data = load_diabetes().data * 20
    steps = 50 if small else 300
    fit = disco.fit(jax.random.key(0), data, noise_scale=0.1, num_steps=steps, progress_bar=False)
    prior = fit.distribution
    if args.only in (None, "memory"):
        measure_memory(prior, small)
    if args.only in (None, "rows"):
        measure_rows(prior, 4 if small else args.rows, args.calls, small)
    if args.only in (None, "missing"):
        measure_missing(prior, small)


if __name__ == "__main__":
    main()
