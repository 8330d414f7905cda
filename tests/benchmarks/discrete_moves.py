"""Moves of discrete coordinates while tempering: Gibbs, proposals of the base, and none.

    python tests/benchmarks/discrete_moves.py
    python tests/benchmarks/discrete_moves.py --small

Independent runs draw a known density of four continuous and two discrete coordinates (3 and 4
levels), from a base of one wide Gaussian whose levels are either equally probable or mostly wrong
(97 % on one level). For each kind of move:

- root mean square error of the probabilities of the 12 combinations of levels, over all runs;
- root mean square error of the log evidence, whose truth is 0;
- processor seconds of a run, after compilation, over those of the runs without discrete moves.

"base" proposes each coordinate from the base's conditional given the others, and evaluates the
target once.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.mixed import HARD, far_reference, mixed_prior  # noqa: E402

import numpyro_disco as disco  # noqa: E402
from numpyro_disco.energy.drawing import Request  # noqa: E402
from numpyro_disco.tempering import moves  # noqa: E402

GIBBS = moves.draw_levels


def no_moves(rng_key: Any, chains: Any, *_: Any) -> Any:
    """Leave all levels as they are."""
    return chains


def base_moves(
    rng_key: Any,
    chains: Any,
    b: Any,
    free: Any,
    num_levels: tuple[int, ...],
    log_densities: Any,
    _: Any,
) -> Any:
    """Propose levels by Gibbs sampling of the base; accept by the ratio of target to base."""

    def of_base(u: Any) -> tuple[Any, Any]:
        log_base = log_densities(u)[0]
        return log_base, log_base

    for place in np.flatnonzero(num_levels):
        alone = free * (np.arange(len(num_levels)) == place)
        draw_key, accept_key = jax.random.split(jax.random.fold_in(rng_key, place))
        drawn = GIBBS(draw_key, chains, jnp.zeros(()), alone, num_levels, of_base, None)
        log_base, log_target = jax.vmap(log_densities)(drawn.position)
        gain = b * ((log_target - log_base) - (chains.log_target - chains.log_base))
        uniform = jax.random.uniform(accept_key, gain.shape)
        drawn = drawn._replace(log_base=log_base, log_target=log_target)
        chains = moves.choose(jnp.log(uniform) < gain, drawn, chains)
    return chains


MOVES = {"none": no_moves, "base": base_moves, "gibbs": GIBBS}


def skewed_reference() -> disco.MixedReference:
    """The far reference, with 97 % of each discrete coordinate on its second level."""
    far = far_reference()
    table = np.array(far.log_probabilities)
    for place in HARD.discrete:
        count = HARD.num_levels[place]
        table[:, place, :count] = np.log(0.03 / (count - 1))
        table[:, place, 1] = np.log(0.97)
    covariances = 4 * np.eye(HARD.dimension)[None]
    return disco.MixedReference(np.ones(1), np.zeros((1, HARD.dimension)), covariances, table)


def run(prior: Any, num_runs: int, particles: int) -> tuple[float, float, float]:
    """Errors of probabilities and of the log evidence, and processor seconds of a run."""
    rows = prior.pattern(np.full((num_runs, HARD.dimension), np.nan))
    key = jax.random.key(0)
    prior.draw_rows(key, rows.select([0]), Request(particles, particles))
    start = time.process_time()
    result = prior.draw_rows(key, rows, Request(particles, particles))
    seconds = (time.process_time() - start) / num_runs
    assert (result.info.method == "tempering").all()
    codes, probabilities, _ = HARD.conditional(np.zeros(HARD.dimension), np.zeros(6, bool))
    draws = np.asarray(result.draws)[:, :, None, HARD.discrete]
    found = (draws == codes).all(-1).mean(0)
    error = np.sqrt(np.mean((found - probabilities) ** 2))
    return float(error), float(np.sqrt(np.mean(np.square(result.log_integral)))), seconds


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Print and return one row for each reference and kind of move."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=32)
    parser.add_argument("--particles", type=int, default=512)
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args(arguments)
    if args.small:
        args.runs, args.particles = 2, 64
    found = []
    for levels, reference in (("equal", far_reference()), ("wrong", skewed_reference())):
        prior = mixed_prior(HARD, reference)
        without = 0.0
        for kind, function in MOVES.items():
            vars(moves)["draw_levels"] = function
            jax.clear_caches()
            mass, evidence, seconds = run(prior, args.runs, args.particles)
            without = without or seconds
            found.append(
                {
                    "levels": levels,
                    "moves": kind,
                    "error of probabilities": mass,
                    "error of log evidence": evidence,
                    "cost": seconds / without,
                }
            )
            print(found[-1], flush=True)
    vars(moves)["draw_levels"] = GIBBS
    return found


if __name__ == "__main__":
    main()
