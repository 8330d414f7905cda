"""Narrow modes that TemperedSMC loses, and whether its error and status report them.

    python tests/benchmarks/lost_modes.py            six groups of four runs, 2 minutes
    python tests/benchmarks/lost_modes.py --small    one group

The prior is N(0, I) in five dimensions. The posterior is a plateau with a tenth of the mass and a
spike with the rest; the true log evidence is 0, and -2.3 without the spike. The spike is beside the
centre of the plateau, or at it. A group is a TemperedSMC with four runs of default settings.

Columns: evidence, the median over groups of the log evidence; error, the median of the printed
error; low, groups whose evidence is low by more than five printed errors; status, the number of
these that say so by themselves; peaks, the number that say so with `search_peaks`; difference, the
number in which twice as many particles find an evidence that differs by more than five errors;
Pareto k, the median of the shape of the first step's weights.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy.special import logsumexp

import numpyro_disco as disco
from numpyro_disco.energy.importance import pareto_k
from numpyro_disco.tempering.status import CONVERGED, MISSED

DIMENSION = 5
SHARE = 0.9
"""Share of the mass that the spike holds."""
PLACES = {"beside": (0.0, 0.5, 0.6), "centre": (0.3, 0.3, 0.3)}
"""Centre and width of the plateau, and centre of the spike."""
WIDTHS = (0.3, 0.1, 0.07, 0.05, 0.03, 0.01)
"""Widths of the spike."""
SIGMAS = 5
"""Printed errors beyond which an evidence is wrong."""


class Group(NamedTuple):
    """What one group of runs found."""

    log_evidence: float
    error: float
    status: int
    first_step: float


def log_ratio(u: jax.Array, place: jax.Array, width: float) -> jax.Array:
    """Log of posterior over prior at one point."""
    centre, plateau_width, spike = place
    plateau = jnp.log1p(-SHARE) + dist.Normal(centre, plateau_width).log_prob(u).sum()
    narrow = jnp.log(SHARE) + dist.Normal(spike, width).log_prob(u).sum()
    return jnp.logaddexp(plateau, narrow) - dist.Normal(0, 1).log_prob(u).sum()


def model(place: jax.Array, width: float) -> None:
    """The prior and the likelihood that makes the posterior."""
    u = numpyro.sample("u", dist.Normal(0.0, 1.0).expand([DIMENSION]).to_event(1))
    numpyro.factor("likelihood", log_ratio(u, place, width))


def one_group(smc: disco.TemperedSMC, seed: int, place: jax.Array, width: float) -> Group:
    """Run one sampler."""
    smc.run(jax.random.key(seed), place, width)
    estimates = np.asarray(smc.log_normalizer, np.float64)
    return Group(
        float(logsumexp(estimates) - np.log(len(estimates))),
        float(smc.log_normalizer_error),
        int(smc.status[0]),
        float(smc.history.inverse_temperature[0, 0]),
    )


def first_shape(group: Group, seed: int, place: jax.Array, width: float) -> float:
    """Pareto k of the weights of a run's first step, on draws of their own."""
    draws = jax.random.normal(jax.random.key(seed), (32 * 1024, DIMENSION))
    ratios = np.asarray(jax.vmap(log_ratio, (0, None, None))(draws, place, width), np.float64)
    return pareto_k(np.exp(group.first_step * (ratios - ratios.max())))


def measure(name: str, width: float, samplers: list, num_groups: int) -> str:
    """One row of the table."""
    place, seeds = jnp.array(PLACES[name]), range(num_groups)
    default, twice = ([one_group(smc, seed, place, width) for seed in seeds] for smc in samplers)
    low = [seed for seed in seeds if default[seed].log_evidence < -SIGMAS * default[seed].error]
    apart = [
        abs(twice[seed].log_evidence - default[seed].log_evidence)
        > SIGMAS * np.hypot(twice[seed].error, default[seed].error)
        for seed in low
    ]
    evidence, error = (np.median([group[i] for group in default]) for i in (0, 1))
    shape = np.median([first_shape(default[seed], seed, place, width) for seed in seeds])
    counts = [
        len(low),
        sum(default[seed].status not in (CONVERGED, MISSED) for seed in low),
        sum(default[seed].status == MISSED for seed in low),
        sum(apart),
    ]
    cells = [name, width, f"{evidence:.2f}", f"{error:.3f}", *counts, f"{shape:.1f}"]
    return "| " + " | ".join(map(str, cells)) + " |"


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="one group, two widths")
    small = parser.parse_args(arguments).small
    samplers = [
        disco.TemperedSMC(
            model,
            num_particles=num_particles,
            progress_bar=False,
            throw=False,
            search_peaks=num_particles == 1024,
        )
        for num_particles in (1024, 2048)
    ]
    print("| spike | width | evidence | error | low | status | peaks | difference | Pareto k |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in PLACES:
        for width in WIDTHS[::4] if small else WIDTHS:
            print(measure(name, width, samplers, 1 if small else 6), flush=True)


if __name__ == "__main__":
    main()
