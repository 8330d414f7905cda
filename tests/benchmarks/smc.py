"""TemperedSMC compared with BlackJAX's and NumPyro's samplers, side by side in one run.

    python tests/benchmarks/smc.py                      all targets, about 40 minutes on two cores
    python tests/benchmarks/smc.py --small              two targets, coarsely, under two minutes
    python tests/benchmarks/smc.py --targets skewed,brownian --output table.md
    python tests/benchmarks/smc.py --targets gaussian_50 --forms adaptive waste-free

TemperedSMC runs with its default settings. BlackJAX's settings are searched for on each target; the
search is not timed. All methods get the same densities in float32 (checked against NumPyro's own)
and the same number of runs, one after the other in one compiled program. Needs the `benchmarks`
extra.

Columns: seconds of one run without compilation (median of several calls of all runs, divided by the
runs); seconds of compilation (those of the first call beyond that); gradient evaluations of one
run; root mean squared error of the log evidence; root mean squared error of posterior means, in
posterior standard deviations; total variation of mode masses; W1 of one marginal from exact draws,
in standard deviations; modes lost (estimated at less than a tenth of their mass), out of the modes
of all runs; seconds x MSE of the log evidence, and its ratio to that of TemperedSMC (above 1,
TemperedSMC is cheaper). A mean square over n runs has a relative error of sqrt(2 / n).
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
from rivals import Outcome, Problem, nested, nuts, persistent_run, tempered_run
from targets import TARGETS, Target
from tuning import SMALL_GRID, Grid, Search, Settings

import numpyro_disco as disco

Key = jax.Array
FORMS = ("adaptive", "waste-free", "persistent")


class Sizes(NamedTuple):
    """Sizes of all runs and searches."""

    num_particles: int | None
    """Particles of each run; None for the number that the target gives."""
    num_chains: int
    """Independent runs in one call."""
    num_repeats: int
    """Timed calls of all runs, after one that compiles."""
    num_tuning_runs: int
    """Runs of each candidate in the search; the best few get five times as many."""
    num_warmup: int
    """Warm-up steps of NUTS."""
    num_choices: int
    """Settings of waste-free and persistent sampling that are tried around the tuned ones."""
    grid: Grid
    """Settings of adaptive tempered SMC that are tried."""
    forms: tuple[str, ...] = FORMS
    """Forms of BlackJAX's tempered SMC that are measured."""


FULL = Sizes(None, 16, 2, 2, 500, 2, Grid())
SMALL = Sizes(128, 4, 1, 2, 50, 1, SMALL_GRID)
SMALL_TARGETS = ["skewed", "eight_schools"]
NUM_PILOTS = 4
"""Runs of the pilot, and of each of the long runs that make a truth."""

RunOne = Callable[[Settings, Key], Outcome]
"""One run of BlackJAX, from settings and a random key."""


class Comparison(NamedTuple):
    """One target, ready for all methods."""

    bench: Bench
    problem: Problem
    particles: int
    sizes: Sizes


def program(run_one: Callable[[Key], Outcome], num_runs: int) -> Callable[[Key], Outcome]:
    """All runs in one compiled program, one after the other, as TemperedSMC does on a CPU."""
    run_all = jax.jit(lambda rng_keys: jax.lax.map(run_one, rng_keys))
    return lambda rng_key: run_all(jax.random.split(rng_key, num_runs))


def tempered_smc(target: Target, num_particles: int, num_chains: int) -> Callable[[Key], Outcome]:
    """TemperedSMC with its defaults."""
    smc = disco.TemperedSMC(
        target.model, num_particles=num_particles, num_chains=num_chains, progress_bar=False
    )

    def run(rng_key: Key) -> Outcome:
        smc.run(rng_key)
        per_particle = np.nansum(np.asarray(smc.history.num_gradients), axis=1)
        return Outcome(
            smc.log_normalizer,
            smc.get_samples(group_by_chain=True),
            per_particle * num_particles,
            np.ones(num_chains),
        )

    return run


def search(comparison: Comparison, run_one: RunOne) -> Search:
    """A search for the settings of a BlackJAX sampler."""
    return Search(
        run_one,
        comparison.bench.truth.log_evidence,
        num_runs=comparison.sizes.num_tuning_runs,
        timed=timed,
        rng_key=jax.random.key(2),
    )


def prepare(target: Target, sizes: Sizes) -> tuple[Comparison, Settings]:
    """Prepare a target: BlackJAX's mass matrix and settings, and a pooled truth if none is known.

    A pilot of TemperedSMC gives the mass matrix and, if nothing else is known, a first truth, which
    long runs of BlackJAX with tuned settings complete.
    """
    bench = Bench(target, sizes.num_repeats)
    particles = sizes.num_particles or target.num_particles
    pooled = target.truth is None
    pilot_particles = 8 * particles if pooled else particles
    covariance = None if target.truth is None else target.truth.covariance
    estimates = []
    if covariance is None and (pooled or "posterior" in sizes.grid.mass):
        pilot = tempered_smc(target, pilot_particles, NUM_PILOTS)(jax.random.key(0))
        covariance = flat_covariance(bench, pilot.draws)
        if pooled:
            estimates.append(long_runs(bench, "TemperedSMC", pilot))
            bench.truth = pooled_truth(bench, *estimates)
    comparison = Comparison(bench, bench.problem(covariance), particles, sizes)
    adaptive = partial(tempered_run, comparison.problem, particles, waste_free=False)
    settings = search(comparison, adaptive).try_grid(sizes.grid)
    if pooled:
        long = partial(
            tempered_run, comparison.problem, pilot_particles, settings, waste_free=False
        )
        outcome = program(long, NUM_PILOTS)(jax.random.key(3))
        outcome = outcome._replace(draws=bench.constrain(outcome.draws))
        estimates.append(long_runs(bench, "BlackJAX", outcome))
        bench.truth = pooled_truth(bench, *estimates)
    return comparison, settings


def measure_blackjax(comparison: Comparison, settings: Settings) -> None:
    """Measure BlackJAX's three samplers; `settings` are those of adaptive tempered SMC."""
    bench, problem, particles, sizes = comparison
    replace = partial(dataclasses.replace, settings)
    methods: list[tuple[str, RunOne, list[Settings]]] = [
        (
            "BlackJAX adaptive tempered",
            partial(tempered_run, problem, particles, waste_free=False),
            [settings],
        ),
        # It keeps each move as a particle: four times as many particles have a similar cost.
        (
            "BlackJAX waste-free",
            partial(tempered_run, problem, 4 * particles, waste_free=True),
            [replace(num_moves=num_moves) for num_moves in (4, 16)],
        ),
        # Its effective sample size counts the particles of all temperatures and can exceed 1.
        (
            "BlackJAX persistent",
            partial(persistent_run, problem, particles),
            [replace(target_ess=target_ess) for target_ess in (1.0, 3.0)],
        ),
    ]
    for form, (name, run_one, choices) in zip(FORMS, methods, strict=True):
        if form not in sizes.forms:
            continue
        best = search(comparison, run_one).try_all(choices[: sizes.num_choices])
        bench.measure(
            name,
            best,
            partial(program, partial(run_one, best), sizes.num_chains),
            constrain=bench.constrain,
        )


def run_target(target: Target, sizes: Sizes) -> list[Row]:
    """Measure all methods on one target."""
    comparison, settings = prepare(target, sizes)
    bench, particles = comparison.bench, comparison.particles
    bench.measure(
        "TemperedSMC", "defaults", lambda: tempered_smc(target, particles, sizes.num_chains)
    )
    measure_blackjax(comparison, settings)
    bench.measure(
        "NumPyro NUTS",
        f"warm-up {sizes.num_warmup}, {'dense' if target.correlated else 'diagonal'} mass",
        lambda: nuts(
            target.model,
            num_warmup=sizes.num_warmup,
            num_samples=particles,
            num_chains=sizes.num_chains,
            dense_mass=target.correlated,
        ),
    )
    bench.measure("NumPyro NestedSampler", "defaults", lambda: nested(target.model, particles))
    return bench.rows


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="two targets, coarsely")
    parser.add_argument("--targets", help=f"some of {','.join(TARGETS)}")
    parser.add_argument("--num-particles", type=int, help="particles of each run; a multiple of 4")
    parser.add_argument("--runs", type=int, help="independent runs in one call")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS, help="of BlackJAX")
    parser.add_argument("--output", type=Path, help="write the table to this file, as markdown")
    args = parser.parse_args(arguments)
    # Waste-free SMC divides four times as many particles into chains of 16.
    if args.num_particles is not None and args.num_particles % 4:
        parser.error(f"Expected a multiple of 4 for --num-particles; got {args.num_particles}.")
    return args


def main(arguments: list[str] | None = None) -> list[Row]:
    """Run the benchmark and print its table."""
    args = parse(arguments)
    sizes, names = (SMALL, SMALL_TARGETS) if args.small else (FULL, list(TARGETS))
    names = names if args.targets is None else args.targets.split(",")
    if unknown := set(names) - set(TARGETS):
        raise SystemExit(
            f"Expected some of {', '.join(TARGETS)} for --targets; got {', '.join(unknown)}."
        )
    sizes = sizes._replace(
        num_particles=args.num_particles or sizes.num_particles,
        num_chains=args.runs or sizes.num_chains,
        forms=tuple(args.forms),
    )
    rows = []
    for name in names:
        start = time.perf_counter()
        try:
            rows += run_target(TARGETS[name](), sizes)
        except Exception as error:  # one target that fails does not spoil the others
            rows.append(Row(name, "all", "", note=first_line(error)))
        print(f"{name}: {time.perf_counter() - start:.0f} s in total", flush=True)
    table = format_table(rows)
    print(table)
    if args.output is not None:
        args.output.write_text(table)
    return rows


if __name__ == "__main__":
    main()
