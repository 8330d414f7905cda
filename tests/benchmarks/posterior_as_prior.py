"""Posteriors of a first half of data as priors for the second, against all data at once.

    python tests/benchmarks/posterior_as_prior.py            about ten minutes on two cores
    python tests/benchmarks/posterior_as_prior.py --small    few draws and training steps

The draws of the first half are independent draws of its exact posterior, and the moments given all
data and the evidence of the second half given the first are known: a conjugate regression, a
simplex with counts and the Cholesky factor of a correlation, and the hyperparameters of eight
schools. `fit` learns the draws with its default settings. The rival is what `prior_from_idata` of
pymc-extras does: a multivariate normal in unconstrained space with the mean and the covariance of
the draws. Both priors run through the same model and sampler.

Columns: largest error of a posterior mean, in posterior standard deviations; largest relative error
of a standard deviation; error of the log evidence of the second half, with its standard error; and
seconds to learn the prior, compilation included.
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

import numpyro_disco as disco

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.updates import UPDATES, as_dataset, run_second_half  # noqa: E402

SMALL: dict[str, Any] = {"num_steps": 100, "network": disco.MLP(width=32, num_blocks=1)}


def learned(rng_key: jax.Array, update: Any, settings: dict[str, Any]) -> disco.EnergyDistribution:
    """The prior that `fit` learns from the draws, normalised."""
    fit = disco.fit(
        rng_key,
        as_dataset(update.draws),
        supports=update.supports,
        progress_bar=False,
        **settings,
    )
    return fit.distribution.normalize(rng_key)


def gaussian(rng_key: jax.Array, prior: disco.EnergyDistribution, update: Any) -> Any:
    """A multivariate normal in unconstrained space, with the moments of the draws."""
    assert prior.variables is not None
    draws = {name: jnp.asarray(value) for name, value in update.draws.items()}
    y = np.asarray(prior.coordinate_supports.unconstrain(prior.variables.pack(draws)), np.float64)
    reference = disco.GaussianReference(y.mean(0), np.cov(y, rowvar=False))
    normal = disco.EnergyDistribution(
        lambda y: -reference.log_prob(y),
        reference,
        names=prior.names,
        supports=dict(zip(prior.names, prior.coordinate_supports.supports, strict=True)),
    )
    return normal.replace(variables=prior.variables).normalize(rng_key)


def run(name: str, num_draws: int, settings: dict[str, Any], num_particles: int) -> None:
    """Print one line for each prior of a problem."""
    update = UPDATES[name](num_draws)
    fit_key, run_key = jax.random.split(jax.random.key(0))
    start = time.perf_counter()
    prior = learned(fit_key, update, settings)
    seconds = time.perf_counter() - start
    rivals = {"fit": (prior, seconds), "normal": (gaussian(fit_key, prior, update), 0.0)}
    for method, (one, cost) in rivals.items():
        mean, deviation, _, evidence, error = run_second_half(
            run_key, update, one, num_particles=num_particles, num_chains=8
        )
        print(
            f"| {name} | {method} | {np.abs(mean).max():.3f} | {np.abs(deviation).max():.3f} "
            f"| {evidence:+.3f} ± {error:.3f} | {cost:.0f} |",
            flush=True,
        )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a quick run")
    parser.add_argument("--problems", nargs="*", default=list(UPDATES), choices=list(UPDATES))
    args = parser.parse_args()
    print("| problem | prior | means | deviations | log evidence | seconds |")
    print("|---|---|---|---|---|---|")
    for name in args.problems:
        if args.small:
            run(name, 1000, SMALL, 512)
        else:
            run(name, 4000, {}, 2048)


if __name__ == "__main__":
    main()
