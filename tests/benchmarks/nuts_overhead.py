"""Cost of NumPyro's NUTS per gradient of a learned energy, relative to the gradient alone.

    python tests/benchmarks/nuts_overhead.py [--chains 16] [--width 128] [--repeats 5]

The gradient alone is `vmap(value_and_grad(energy))` over as many points as there are chains, many
times in one compiled loop. NUTS runs vectorised chains with the same batch. A chain that has
finished its trajectory waits for the longest one while its gradients are still computed, so there
are two costs:

    used     seconds / (leapfrog steps of all chains): the cost of a draw
    made     seconds / (chains x leapfrog steps of the longest chain, draw by draw): the cost of the
             machinery around a gradient. Chains also wait for each other at each doubling of a
             tree, which is not counted: more gradients are made than this assumes.

The first line is NumPyro's NUTS with the energy as its `potential_fn`, without model, supports or
sites: what is above 1 there is NumPyro's own. All costs are shown as ratios to the gradient alone,
medians of several timed runs after one that compiles. Only draws after warm-up are timed. Seconds
are those of the processor.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import numpyro
from learned_priors import learned_prior
from numpyro.infer import MCMC, NUTS

import numpyro_disco as disco

BARE = "NumPyro's NUTS on the energy as `potential_fn`"
"""The line that shows what NumPyro's own machinery costs."""
LOOP = 500
"""Gradients of each point in one timed call."""


class Cost(NamedTuple):
    """Cost of NUTS on one model."""

    used: float
    """Seconds for each gradient used."""
    made: float
    """Seconds for each gradient made."""
    leapfrogs: float
    """Mean leapfrog steps of a draw."""


def median_seconds(call: Callable[[jax.Array], Any], repeats: int) -> tuple[float, list]:
    """Median seconds of calls with fresh keys, after one that compiles, and their values."""
    keys = jax.random.split(jax.random.key(1), repeats + 1)
    jax.block_until_ready(call(keys[0]))
    values, seconds = [], []
    for key in keys[1:]:
        start = time.process_time()
        values.append(jax.block_until_ready(call(key)))
        seconds.append(time.process_time() - start)
    return float(np.median(seconds)), values


def bare_gradients(prior: disco.EnergyDistribution, num_chains: int) -> Callable:
    """A compiled loop of LOOP energies and gradients of `num_chains` points, from a key."""
    value_and_grad = jax.vmap(jax.value_and_grad(prior.energy_fn))

    @jax.jit
    def loop(rng_key: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = prior.reference.sample(rng_key, (num_chains,))

        def step(_: int, carry: tuple) -> tuple:
            x, total = carry
            # Each step depends on the previous one, so the compiler cannot drop any.
            energy, gradient = value_and_grad(x)
            return x - 1e-4 * prior.scale**2 * gradient, total + energy

        return jax.lax.fori_loop(0, LOOP, step, (x, 0.0 * x[:, 0]))

    return loop


def nuts_cost(kernel: NUTS, start: jax.Array | None, args: argparse.Namespace) -> Cost:
    """Cost of NUTS after warm-up, of the chains that `start` (chains, D) starts if it is given."""
    mcmc = MCMC(
        kernel,
        num_warmup=args.warmup,
        num_samples=args.draws,
        num_chains=args.chains,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.warmup(jax.random.key(0), init_params=start)
    warm = mcmc.post_warmup_state

    # Compiled as a whole: `run` alone would compile again at each call.
    @jax.jit
    def draw(rng_key: jax.Array) -> tuple[jax.Array, dict]:
        mcmc.post_warmup_state = warm
        mcmc.run(rng_key, extra_fields=("num_steps",))
        return mcmc.get_extra_fields(group_by_chain=True)["num_steps"], mcmc.get_samples()

    seconds, values = median_seconds(draw, args.repeats)
    steps = np.stack([np.asarray(num_steps) for num_steps, _ in values])  # (repeats, chains, draws)
    used = steps.sum((1, 2)).mean()
    made = args.chains * steps.max(axis=1).sum(-1).mean()
    return Cost(seconds / used, seconds / made, steps.mean())


def kernels_of(prior: disco.EnergyDistribution, row: np.ndarray) -> dict[str, NUTS]:
    """NUTS on the energy alone, and on models with the prior as one site, as one site for each
    coordinate, and conditioned."""

    def whole() -> None:
        numpyro.sample("x", prior)

    def sites() -> None:
        disco.sample("x", prior)

    observed = {f"x.{name}": row[i] for i, name in enumerate(prior.names) if i % 2 == 0}
    return {
        BARE: NUTS(potential_fn=prior.energy_fn),
        'numpyro.sample("x", prior)': NUTS(whole),
        'disco.sample("x", prior)': NUTS(sites),
        "the same, 5 of 10 conditioned": NUTS(numpyro.handlers.condition(sites, observed)),
    }


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Run the benchmark, print its table, and return the ratios of gradients made."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chains", type=int, default=16)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--train-steps", type=int, default=300)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(arguments)
    name, prior, row = learned_prior(width=args.width, num_steps=args.train_steps)
    gradients = bare_gradients(prior, args.chains)
    print(f"{name}, width {args.width}, {args.chains} chains; microseconds for each gradient:\n")
    print("| model | leapfrog steps a draw | alone | used | ratio | made | ratio |")
    print("|---|---|---|---|---|---|---|")
    ratios = {}
    start = prior.reference.sample(jax.random.key(2), (args.chains,))
    for label, kernel in kernels_of(prior, row).items():
        used, made, steps = nuts_cost(kernel, start if label == BARE else None, args)
        # Timed beside each model, so that a machine that slows down slows both.
        seconds, _ = median_seconds(gradients, args.repeats)
        bare = seconds / (LOOP * args.chains)
        ratios[label] = made / bare
        print(
            f"| {label} | {steps:.1f} | {1e6 * bare:.3g} | {1e6 * used:.3g} | {used / bare:.2f} "
            f"| {1e6 * made:.3g} | {made / bare:.2f} |",
            flush=True,
        )
    return ratios


if __name__ == "__main__":
    main()
