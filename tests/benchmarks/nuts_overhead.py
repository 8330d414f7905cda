"""Cost of NumPyro's NUTS per gradient of a learned energy, relative to the gradient alone.

    python tests/benchmarks/nuts_overhead.py [--chains 16] [--width 128] [--repeats 5]

The gradient alone is `vmap(value_and_grad(energy))` over as many points as there are chains, many
times in one compiled loop. NUTS runs vectorised chains with the same batch. A chain that has
finished its trajectory waits for the longest one while its gradients are still computed, so there
are two costs:

    used     seconds / (leapfrog steps of all chains): the cost of a draw
    made     seconds / (chains x leapfrog steps of the longest chain, draw by draw): the cost of the
             machinery around a gradient

The first lines are NumPyro's NUTS on a Gaussian, whose gradient costs next to nothing: the cost of
a tree of trajectories, which no model avoids, over one array and over one number for each
coordinate. In the next, the energy is the `potential_fn`, without model, supports or sites. All
costs are shown as ratios to the gradient of the energy alone, medians of several timed runs after
one that compiles. Only draws after warm-up are timed. Seconds are those of the processor.

The column "potential" has no NUTS in it: the gradient of the model's potential energy, which is
what sites, supports and coordinates add, in the same loop as the gradient alone. It is the ratio of
the least seconds of many short calls in turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from learned_priors import learned_prior
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import initialize_model

import numpyro_disco as disco

BARE = "NumPyro's NUTS on the energy as `potential_fn`"
"""The line that shows what NumPyro's own machinery costs."""
TREE = "NumPyro's NUTS on a Gaussian"
"""The line that shows what a tree costs."""
SPLIT_TREE = "the same, a site for each coordinate"
"""The line that shows what a tree of as many arrays as coordinates costs."""
LOOP = 500
"""Gradients of each point in one timed call."""
STEP = 1e-6
"""Step along the gradient, so that no gradient is that of the point before."""


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


def gradients_of(potential: Callable, start: Any) -> Callable:
    """A compiled loop of LOOP potentials and gradients of the points in `start`, from a key."""
    value_and_grad = jax.vmap(jax.value_and_grad(potential))

    @jax.jit
    def loop(rng_key: jax.Array) -> tuple[Any, jax.Array]:
        shift = STEP * jax.random.normal(rng_key)
        first = jax.tree.map(lambda x: x + shift, start)

        def step(_: int, carry: tuple) -> tuple:
            x, total = carry
            # Each step depends on the previous one, so the compiler cannot drop any.
            energy, gradient = value_and_grad(x)
            return jax.tree.map(lambda x, g: x - STEP * g, x, gradient), total + energy

        return jax.lax.fori_loop(0, LOOP, step, (first, jax.vmap(potential)(first)))

    return loop


def potential_ratio(model: Callable, bare: Callable, num_chains: int, repeats: int) -> float:
    """Least seconds of the gradients of a model's potential over those of the gradient alone."""
    info = initialize_model(jax.random.split(jax.random.key(3), num_chains), model)
    loops = [bare, gradients_of(info.potential_fn, info.param_info.z)]
    least = [np.inf, np.inf]
    for _ in range(5 * repeats):
        for place, loop in enumerate(loops):
            least[place] = min(least[place], median_seconds(loop, 1)[0])
    return least[1] / least[0]


def nuts_cost(kernel: NUTS, start: Any, args: argparse.Namespace) -> Cost:
    """Cost of NUTS after warm-up, of the chains that `start` starts, if it is given."""
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


def models_of(prior: disco.EnergyDistribution, row: np.ndarray) -> dict[str, Callable]:
    """Models with the prior as one site, as one site for each coordinate, and conditioned."""

    def whole() -> None:
        numpyro.sample("x", prior)

    def sites() -> None:
        disco.sample("x", prior)

    observed = {f"x.{name}": row[i] for i, name in enumerate(prior.names) if i % 2 == 0}
    return {
        'numpyro.sample("x", prior)': whole,
        'disco.sample("x", prior)': sites,
        "the same, 5 of 10 conditioned": numpyro.handlers.condition(sites, observed),
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
    parser.add_argument("--lines", type=int, nargs="+", help="numbers of the lines, from 0")
    args = parser.parse_args(arguments)
    name, prior, row = learned_prior(width=args.width, num_steps=args.train_steps)
    start = prior.reference.sample(jax.random.key(2), (args.chains,))
    gradients = gradients_of(prior.energy_fn, start)
    print(f"{name}, width {args.width}, {args.chains} chains; microseconds for each gradient:\n")
    print("| model | leapfrog steps a draw | alone | used | ratio | made | ratio | potential |")
    print("|---|---|---|---|---|---|---|---|")
    ratios = {}
    models = models_of(prior, row)

    def gaussian(x: jax.Array) -> jax.Array:
        return 0.5 * (((x - prior.loc) / prior.scale) ** 2).sum()

    def split_gaussian(x: dict[str, jax.Array]) -> jax.Array:
        return gaussian(jnp.stack(list(x.values())))

    split_start = {f"x.{i}": start[:, i] for i in range(start.shape[1])}
    kernels: dict[str, tuple[NUTS, Any]] = {
        TREE: (NUTS(potential_fn=gaussian), start),
        SPLIT_TREE: (NUTS(potential_fn=split_gaussian), split_start),
        BARE: (NUTS(potential_fn=prior.energy_fn), start),
        **{label: (NUTS(model), None) for label, model in models.items()},
    }
    labels = list(kernels)
    for label in labels if args.lines is None else [labels[place] for place in args.lines]:
        used, made, steps = nuts_cost(*kernels[label], args)
        # Timed beside each model, so that a machine that slows down slows both.
        seconds, _ = median_seconds(gradients, args.repeats)
        bare = seconds / (LOOP * args.chains)
        ratios[label] = made / bare
        potential = ""
        if label in models:
            ratio = potential_ratio(models[label], gradients, args.chains, args.repeats)
            potential = f"{ratio:.2f}"
        print(
            f"| {label} | {steps:.1f} | {1e6 * bare:.3g} | {1e6 * used:.3g} | {used / bare:.2f} "
            f"| {1e6 * made:.3g} | {made / bare:.2f} | {potential} |",
            flush=True,
        )
    return ratios


if __name__ == "__main__":
    main()
