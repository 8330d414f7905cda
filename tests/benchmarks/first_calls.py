"""Seconds of first calls, compilation included, each in a fresh process.

    python tests/benchmarks/first_calls.py [--repeats 5] [--lines plain,learned] [--keep FILE]

A user asks one question and waits for compilation, so nothing here is warmed up. Each line is the
first call of a fresh Python process, after the imports, with the persistent compilation cache off.
BlackJAX's adaptive tempered SMC, with the loop written by hand in one compiled program, is run on
the same densities, beside the others so that a machine that slows down slows all of them. With
`--keep`, measurements are added to those of earlier calls, so a long benchmark can be interrupted.

Columns: seconds by the clock, and of the processor, medians of the repeats; number of programs that
XLA compiled, and its seconds; the error of the answer against a closed form, where there is one;
and the ratio of the processor's seconds to those of BlackJAX on the plain model.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import numpyro_disco as disco

DIMENSION, NOISE, RUNS = 10, 0.3, 4
Y = np.linspace(-1, 1, DIMENSION).astype(np.float32)
COMPILED = "/jax/core/compile/backend_compile_duration"


class Sizes(NamedTuple):
    """Sizes of the problems."""

    num_particles: int
    num_rows: int
    """Rows that are fitted, and rows with missing entries that are filled."""
    num_draws: int
    fit_steps: int | None
    """Training steps of the small fit; None for the default."""


FULL = Sizes(1024, 500, 1000, None)
QUICK = Sizes(64, 60, 64, 20)


class First(NamedTuple):
    """One first call."""

    seconds: float
    processor: float
    compilations: int
    compile_seconds: float
    error: float


# -- what is asked -----------------------------------------------------------------------------


def model(y: np.ndarray) -> None:
    """Ten independent Gaussian numbers, each observed once."""
    x = numpyro.sample("x", dist.Normal(0, 1).expand([DIMENSION]).to_event(1))
    numpyro.sample("y", dist.Normal(x, NOISE).to_event(1), obs=y)


def log_evidence() -> float:
    """Closed form of the plain model's log evidence."""
    variance = 1 + NOISE**2
    return float(-0.5 * (Y @ Y) / variance - 0.5 * DIMENSION * np.log(2 * np.pi * variance))


def learned_prior() -> disco.EnergyDistribution:
    """A prior of ten columns with a network of the default size and fixed random weights."""
    width = 128
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = ((DIMENSION, width), (width, width), (width, 1))
    layers = [
        np.asarray(jax.random.normal(key, shape)) / np.sqrt(shape[0])
        for key, shape in zip(keys, shapes, strict=True)
    ]

    def energy(x: jax.Array) -> jax.Array:
        hidden = jax.nn.silu(x @ layers[0])
        hidden = jax.nn.silu(hidden @ layers[1])
        # Bounded, so the energy is proper.
        return 0.5 * (x**2).sum() + jnp.tanh(hidden @ layers[2])[0]

    reference = disco.GaussianReference(np.zeros(DIMENSION), np.eye(DIMENSION))
    return disco.EnergyDistribution(energy, reference=reference)


def learned_model(prior: disco.EnergyDistribution) -> Callable[[np.ndarray], None]:
    """The plain model with the learned prior."""

    def learned(y: np.ndarray) -> None:
        x = numpyro.sample("x", prior)
        numpyro.sample("y", dist.Normal(x, NOISE).to_event(1), obs=y)

    return learned


def table(num_rows: int) -> np.ndarray:
    """Rows of correlated Gaussian columns."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(num_rows, DIMENSION)) @ (np.eye(DIMENSION) + 0.3)


# -- first calls -------------------------------------------------------------------------------


def blackjax_call(log_prior: Callable, log_likelihood: Callable, sizes: Sizes) -> np.ndarray:
    """Log evidence by `blackjax.adaptive_tempered_smc`, as its users write the loop."""
    import blackjax

    algorithm = blackjax.adaptive_tempered_smc(
        log_prior,
        log_likelihood,
        blackjax.hmc.build_kernel(),
        blackjax.hmc.init,
        blackjax.smc.extend_params(
            {
                "step_size": 0.2,
                "inverse_mass_matrix": jnp.ones(DIMENSION),
                "num_integration_steps": 10,
            }
        ),
        blackjax.smc.resampling.systematic,
        0.5,
        num_mcmc_steps=5,
    )

    def one(rng_key: jax.Array) -> tuple[jax.Array, jax.Array]:
        start_key, loop_key = jax.random.split(rng_key)
        position = jax.random.normal(start_key, (sizes.num_particles, DIMENSION))
        state = jax.tree.map(jnp.asarray, algorithm.init(position))

        def step(carry: tuple) -> tuple:
            state, log_normalizer, key = carry
            key, step_key = jax.random.split(key)
            state, info = algorithm.step(step_key, state)
            return state, log_normalizer + info.log_likelihood_increment, key

        def unfinished(carry: tuple) -> jax.Array:
            return carry[0].tempering_param < 1

        state, log_normalizer, _ = jax.lax.while_loop(
            unfinished, step, (state, jnp.zeros(()), loop_key)
        )
        return log_normalizer, state.particles

    run = jax.jit(lambda rng_key: jax.lax.map(one, jax.random.split(rng_key, RUNS)))
    return np.asarray(jax.block_until_ready(run(jax.random.key(0)))[0])


def log_likelihood(x: jax.Array) -> jax.Array:
    """Log likelihood of the plain model."""
    return dist.Normal(x, NOISE).log_prob(Y).sum()


def blackjax_plain(sizes: Sizes) -> float:
    """BlackJAX on the plain model."""
    found = blackjax_call(lambda x: dist.Normal(0, 1).log_prob(x).sum(), log_likelihood, sizes)
    return float(np.abs(found.mean() - log_evidence()))


def blackjax_learned(prior: disco.EnergyDistribution, sizes: Sizes) -> float:
    """BlackJAX on the model with the learned prior."""
    reference = prior.reference
    blackjax_call(
        reference.log_prob,
        lambda x: log_likelihood(x) - prior.energy_fn(x) - reference.log_prob(x),
        sizes,
    )
    return np.nan


def tempered(asked: Callable, truth: float, sizes: Sizes) -> float:
    """TemperedSMC with its defaults."""
    smc = disco.TemperedSMC(
        asked, num_particles=sizes.num_particles, num_chains=RUNS, progress_bar=False
    )
    smc.run(jax.random.key(0), Y)
    return float(np.abs(np.asarray(smc.log_normalizer).mean() - truth))


def conditional(prior: disco.EnergyDistribution, sizes: Sizes) -> float:
    """Draws of the learned prior, two coordinates given."""
    given = dict.fromkeys(prior.names[:2], 0.3)
    draws = disco.sample_conditional(jax.random.key(0), prior, given, num_samples=sizes.num_draws)
    jax.block_until_ready(draws)
    return np.nan


def imputed(prior: disco.EnergyDistribution, sizes: Sizes) -> float:
    """Missing entries of a table, a third of it."""
    rows = table(sizes.num_rows)
    rows[np.random.default_rng(1).random(rows.shape) < 1 / 3] = np.nan
    disco.impute(jax.random.key(0), prior, rows, num_imputations=20)
    return np.nan


def small_fit(sizes: Sizes) -> disco.FitResult:
    """A fit of a small table."""
    rows = table(sizes.num_rows)
    return disco.fit(jax.random.key(0), rows, num_steps=sizes.fit_steps, progress_bar=False)


def prepare(line: str, sizes: Sizes) -> Callable[[], Any]:
    """The call of one line. What a user has before the question is asked is made here."""
    if line == "blackjax":
        return partial(blackjax_plain, sizes)
    if line == "plain":
        return partial(tempered, model, log_evidence(), sizes)
    if line == "fit":
        return partial(small_fit, sizes)
    if line == "report":
        return small_fit(sizes).report
    prior = learned_prior()
    calls: dict[str, Callable[[], Any]] = {
        "blackjax_learned": partial(blackjax_learned, prior, sizes),
        "learned": partial(tempered, learned_model(prior), np.nan, sizes),
        "sample_conditional": partial(conditional, prior, sizes),
        "impute": partial(imputed, prior, sizes),
        "normalize": partial(prior.normalize, jax.random.key(0)),
    }
    return calls[line]


LINES = {
    "blackjax": "BlackJAX, plain model",
    "plain": "`TemperedSMC`, plain model",
    "blackjax_learned": "BlackJAX, learned prior",
    "learned": "`TemperedSMC`, learned prior",
    "sample_conditional": "`sample_conditional`",
    "normalize": "`normalize`",
    "impute": "`impute`",
    "fit": "`fit`, small table",
    "report": "`report()` after it",
}


# -- processes ---------------------------------------------------------------------------------


def measure(line: str, sizes: Sizes) -> First:
    """The first call of this process."""
    jax.config.update("jax_enable_compilation_cache", False)
    call = prepare(line, sizes)
    seconds: list[float] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event == COMPILED:
            seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    start, processor = time.perf_counter(), time.process_time()
    answer = call()
    elapsed = time.perf_counter() - start
    error = answer if isinstance(answer, float) else np.nan
    used = time.process_time() - processor
    return First(elapsed, used, len(seconds), sum(seconds), error)


def in_fresh_process(line: str, quick: bool) -> First:
    """Measure a line in a process of its own."""
    command = [sys.executable, __file__, "--one", line, *(["--quick"] if quick else [])]
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return First(*json.loads(done.stdout.splitlines()[-1]))


def kept_measurements(keep: Path | None, lines: list[str]) -> dict[str, list[First]]:
    """Measurements of earlier calls."""
    measured: dict[str, list[First]] = {line: [] for line in lines}
    if keep is not None and keep.exists():
        for line, *numbers in map(json.loads, keep.read_text().splitlines()):
            if line in measured:
                measured[line].append(First(*numbers))
    return measured


def main(arguments: list[str] | None = None) -> dict[str, First]:
    """Run the benchmark, print its table, and return the medians of each line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="fresh processes for each line")
    parser.add_argument("--lines", default=",".join(LINES), help="some of the default's")
    parser.add_argument("--keep", type=Path, help="file of measurements, one in each line")
    parser.add_argument("--quick", action="store_true", help="small problems, once")
    parser.add_argument("--one", choices=LINES, help="measure one line in this process")
    args = parser.parse_args(arguments)
    if args.one:
        print(json.dumps(measure(args.one, QUICK if args.quick else FULL)))
        return {}
    chosen = args.lines.split(",")
    if unknown := set(chosen) - set(LINES):
        parser.error(f"Expected some of {', '.join(LINES)} for --lines; got {', '.join(unknown)}.")
    # Lines take turns, so that no line has the machine's slow minutes to itself.
    measured = kept_measurements(args.keep, chosen)
    for repeat in range(1, 2 if args.quick else args.repeats + 1):
        for line in chosen:
            if len(measured[line]) >= repeat:
                continue
            measured[line].append(in_fresh_process(line, args.quick))
            if args.keep:
                with args.keep.open("a") as file:
                    print(json.dumps([line, *measured[line][-1]]), file=file)
    medians = {line: First(*np.median(rows, axis=0)) for line, rows in measured.items()}
    print("| first call | s | processor s | programs | compile s | error | ratio |")
    print("|---|---|---|---|---|---|---|")
    unit = medians["blackjax"].processor if "blackjax" in medians else np.nan
    for line, row in medians.items():
        error = "" if np.isnan(row.error) else f"{row.error:.2g}"
        print(
            f"| {LINES[line]} | {row.seconds:.1f} | {row.processor:.1f} | {row.compilations:.0f} "
            f"| {row.compile_seconds:.1f} | {error} | {row.processor / unit:.2f} |"
        )
    return medians


if __name__ == "__main__":
    main()
