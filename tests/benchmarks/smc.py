"""Tempered SMC against BlackJAX and NumPyro, all measured side by side in one run.

    python tests/benchmarks/smc.py                      every target, about 40 minutes on two cores
    python tests/benchmarks/smc.py --small              two targets, coarsely, under two minutes
    python tests/benchmarks/smc.py --targets skewed,brownian --output table.md

TemperedSMC runs with its default settings. BlackJAX's are searched for on each target; the search
is not timed. All get the same densities (`numpyro_disco.models.reading.prepare_model`, checked here against
NumPyro's own), float32, and as many runs, one after the other in one compiled program. Needs the
`benchmarks` extra.

Columns: seconds of one run, without compilation: the median of several calls of all runs, divided
by the runs; seconds of compilation, the first call's less that; gradient evaluations of one run;
root mean squared error of the log evidence; root mean squared error of posterior means, in
posterior standard deviations; total variation of mode masses; W1 of one marginal to exact draws, in
standard deviations; modes lost (estimated at less than a tenth of their mass), of all modes of all
runs; seconds x MSE of the log evidence, and its ratio to TemperedSMC's: above 1, TemperedSMC is
the cheaper. A mean square over n runs is itself uncertain by sqrt(2 / n) of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from judging import (
    Bench,
    Row,
    first_line,
    flat_covariance,
    format_table,
    long_runs,
    pooled_truth,
    timed,
)
from rivals import Outcome, nested, nuts, persistent_run, tempered_run
from targets import TARGETS, Target
from tuning import SMALL_GRID, Grid, Search, Settings

import numpyro_disco as disco

Key = jax.Array


class Sizes(NamedTuple):
    """How much of everything."""

    num_particles: int | None
    """By default what the target says."""
    num_runs: int
    num_repeats: int
    """Timed calls of all runs, after one that compiles."""
    num_tuning_runs: int
    """Runs of each candidate in the search; the best few get five times as many."""
    num_warmup: int
    num_choices: int
    """How many settings of waste-free and persistent sampling are tried around the tuned ones."""
    grid: Grid
    """What is tried for adaptive tempered SMC."""


FULL = Sizes(None, 16, 2, 2, 500, 2, Grid())
SMALL = Sizes(128, 4, 1, 2, 50, 1, SMALL_GRID)
SMALL_TARGETS = ["skewed", "eight_schools"]
NUM_PILOTS = 4
"""Runs of the pilot, and of each of the long runs that make a truth."""


def program(run_one: Callable[[Key], Outcome], num_runs: int) -> Callable[[Key], Outcome]:
    """All runs in one compiled program, one after the other, as TemperedSMC's are on a CPU."""
    run_all = jax.jit(lambda rng_keys: jax.lax.map(run_one, rng_keys))
    return lambda rng_key: run_all(jax.random.split(rng_key, num_runs))


def tempered_smc(target: Target, num_particles: int, num_runs: int) -> Callable[[Key], Outcome]:
    """TemperedSMC with its defaults."""
    smc = disco.TemperedSMC(
        target.model, num_particles=num_particles, num_chains=num_runs, progress_bar=False
    )

    def run(rng_key: Key) -> Outcome:
        smc.run(rng_key)
        per_particle = np.nansum(np.asarray(smc.history.num_gradients), axis=1)
        return Outcome(
            smc.log_normalizer,
            smc.get_samples(group_by_chain=True),
            per_particle * num_particles,
            np.ones(num_runs),
        )

    return run


def run_target(target: Target, sizes: Sizes) -> list[Row]:
    """All methods on one target."""
    bench = Bench(target, sizes.num_repeats)
    particles, runs = sizes.num_particles or target.num_particles, sizes.num_runs
    # The pilot gives BlackJAX its mass matrix and, where nothing else is known, a first truth.
    pooled = target.truth is None
    covariance = None if target.truth is None else target.truth.covariance
    pilot_particles = 8 * particles if pooled else particles
    if covariance is None and (pooled or "posterior" in sizes.grid.mass):
        pilot = tempered_smc(target, pilot_particles, NUM_PILOTS)(jax.random.key(0))
        covariance = flat_covariance(bench, pilot.draws)
    if pooled:
        ours = long_runs(bench, "TemperedSMC", pilot)
        bench.truth = pooled_truth(bench, ours)
    problem = bench.problem(covariance)

    def search(run_one: Callable[[Settings, Key], Outcome]) -> Search:
        return Search(
            run_one,
            bench.truth.log_evidence,
            num_runs=sizes.num_tuning_runs,
            timed=timed,
            rng_key=jax.random.key(2),
        )

    adaptive = partial(tempered_run, problem, particles, waste_free=False)
    settings = search(adaptive).try_grid(sizes.grid)
    if pooled:
        long = partial(tempered_run, problem, pilot_particles, settings, waste_free=False)
        outcome = program(long, NUM_PILOTS)(jax.random.key(3))
        outcome = outcome._replace(draws=bench.constrain(outcome.draws))
        bench.truth = pooled_truth(bench, ours, long_runs(bench, "BlackJAX", outcome))

    bench.measure("TemperedSMC", "defaults", lambda: tempered_smc(target, particles, runs))
    bench.measure(
        "BlackJAX adaptive tempered",
        settings,
        lambda: program(partial(adaptive, settings), runs),
        constrain=bench.constrain,
    )
    for method, run_one, choices in (
        # It keeps every move as a particle: four times as many, for a like cost.
        (
            "BlackJAX waste-free",
            partial(tempered_run, problem, 4 * particles, waste_free=True),
            [dataclasses.replace(settings, num_moves=p) for p in (4, 16)],
        ),
        # Its effective sample size counts the particles of all temperatures, and goes above 1.
        (
            "BlackJAX persistent",
            partial(persistent_run, problem, particles),
            [dataclasses.replace(settings, target_ess=ess) for ess in (1.0, 3.0)],
        ),
    ):
        best = search(run_one).try_all(choices[: sizes.num_choices])
        bench.measure(
            method,
            best,
            partial(program, partial(run_one, best), runs),
            constrain=bench.constrain,
        )
    bench.measure(
        "NumPyro NUTS",
        f"warm-up {sizes.num_warmup}, {'dense' if target.correlated else 'diagonal'} mass",
        lambda: nuts(
            target.model,
            num_warmup=sizes.num_warmup,
            num_samples=particles,
            num_chains=runs,
            dense_mass=target.correlated,
        ),
    )
    bench.measure("NumPyro NestedSampler", "defaults", lambda: nested(target.model, particles))
    return bench.rows


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="two targets, coarsely")
    parser.add_argument("--targets", help=f"some of {','.join(TARGETS)}")
    parser.add_argument("--num-particles", type=int, help="of each run; a multiple of 4")
    parser.add_argument("--runs", type=int, help="independent runs in one call")
    parser.add_argument("--output", type=Path, help="write the table here, as markdown")
    args = parser.parse_args(arguments)
    # Waste-free SMC divides four times as many into trajectories of 16.
    if args.num_particles is not None and args.num_particles % 4:
        parser.error(f"--num-particles: expected a multiple of 4; got {args.num_particles}.")
    return args


def main(arguments: list[str] | None = None) -> list[Row]:
    """Run the benchmark and print its table."""
    args = parse(arguments)
    sizes, names = (SMALL, SMALL_TARGETS) if args.small else (FULL, list(TARGETS))
    names = names if args.targets is None else args.targets.split(",")
    if unknown := set(names) - set(TARGETS):
        raise SystemExit(f"--targets {sorted(unknown)}: expected some of {', '.join(TARGETS)}.")
    sizes = sizes._replace(
        num_particles=args.num_particles or sizes.num_particles,
        num_runs=args.runs or sizes.num_runs,
    )
    rows = []
    for name in names:
        start = time.perf_counter()
        try:
            rows += run_target(TARGETS[name](), sizes)
        except Exception as error:  # the other targets are worth having all the same
            rows.append(Row(name, "all", "", note=first_line(error)))
        print(f"{name}: {time.perf_counter() - start:.0f} s in all", flush=True)
    table = format_table(rows)
    print(table)
    if args.output is not None:
        args.output.write_text(table)
    return rows


if __name__ == "__main__":
    main()
