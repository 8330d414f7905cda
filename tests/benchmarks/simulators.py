"""How good are posteriors of simulators, beside those of a flow trained for nothing else?

The tasks are those of the simulation-based inference benchmark, as sbibm-jax ports them, with its
reference posterior draws. Three methods learn the joint density of parameters and simulations by
`fit`: "fit" and "focus" with the contrastive objective, without and with the parameters in focus,
relative to the same mixture, and "likelihood" with `Likelihood` and this focus, where counts are
spread over unit intervals. "flow" is neural posterior estimation with flowjax's spline flow on the
same pairs, with default settings. Draws outside of the prior's bounds are left out for all methods,
and so are numbers of a simulation that are the same in all of them. Each row of the table is one
method at one observation: the accuracy with which the better of two classifiers tells its draws
from reference draws, where 0.5 is perfect, and the W1 distance of the worst parameter in its
standard deviations.

    pip install flowjax diffrax; pip install --no-deps sbibm-jax       needs Python 3.12
    python tests/benchmarks/simulators.py --small
    python tests/benchmarks/simulators.py --tasks two_moons slcp --observations 1 2 3
    python tests/benchmarks/simulators.py --tasks slcp --methods likelihood flow

References: Lueckmann et al. 2021.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints
from scipy.stats import wasserstein_distance

import numpyro_disco as disco

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.two_sample import neighbours, network, two_sample_accuracy  # noqa: E402

TASKS = ("two_moons", "gaussian_mixture", "slcp", "sir", "bernoulli_glm")
METHODS = ("fit", "focus", "likelihood", "flow")
NUM_DRAWS = 2000
Draw = Callable[[jax.Array, np.ndarray], np.ndarray]
"""Draws of the parameters given an observation, from a key and the observation."""


class Pairs(NamedTuple):
    """A task of the benchmark and simulations from its prior."""

    task: Any
    theta: np.ndarray
    """Parameters, shape (N, parameters)."""
    x: np.ndarray
    """Simulations without columns that are constant among them, shape (N, D)."""
    varying: np.ndarray
    """True for the numbers of a simulation that are in `x`."""

    def supports(self, bounded: bool, counts: bool) -> dict[str, Any]:
        """Supports of the columns: bounds of the prior and of counts, where asked for."""
        found, prior = {}, self.task.prior_params
        for i in range(self.theta.shape[1]):
            if self.task.name == "sir":
                found[f"theta.{i}"] = constraints.positive
            elif bounded and "low" in prior:
                bounds = float(prior["low"][i]), float(prior["high"][i])
                found[f"theta.{i}"] = constraints.interval(*bounds)
        for i, column in enumerate(self.x.T):
            if counts and (column == np.round(column)).all():
                found[f"x.{i}"] = constraints.nonnegative_integer
        return found

    def spread(self, seed: int) -> np.ndarray:
        """Simulations whose counts are spread over unit intervals, so that they have a density."""
        noise = np.random.default_rng(seed).uniform(-0.5, 0.5, self.x.shape)
        return self.x + noise * (self.x == np.round(self.x)).all(axis=0)

    def inside(self, theta: np.ndarray) -> np.ndarray:
        """The draws within the prior's bounds."""
        prior = self.task.prior_params
        if self.task.name == "sir":
            return theta[(theta > 0).all(1)]
        if "low" not in prior:
            return theta
        low, high = np.asarray(prior["low"]), np.asarray(prior["high"])
        return theta[((theta > low) & (theta < high)).all(1)]


def simulated(name: str, num_simulations: int, seed: int) -> Pairs:
    """Pairs from the prior and the simulator."""
    from sbibm_jax import get_task

    task = get_task(name)
    prior_key, simulator_key = jax.random.split(jax.random.key(seed))
    theta = task.get_prior(prior_key, num_simulations)
    x = task.get_simulator(simulator_key)(simulator_key, theta)
    x = np.asarray(x, np.float64)
    varying = np.ptp(x, axis=0) > 0
    return Pairs(task, np.asarray(theta, np.float64), x[:, varying], varying)


def learned(pairs: Pairs, seed: int, args: argparse.Namespace) -> Iterator[tuple[str, Draw, float]]:
    """The methods that are `fit`, each with its CPU seconds, one after the other."""
    focus = tuple(f"theta.{i}" for i in range(pairs.theta.shape[1]))
    others = tuple(f"x.{i}" for i in range(pairs.x.shape[1]))
    small: dict[str, Any] = {}
    if args.small:
        small = {"num_steps": 50, "network": disco.MLP(width=16, num_blocks=1)}

    def draws_of(prior: disco.EnergyDistribution) -> Draw:
        def draw(rng_key: jax.Array, x: np.ndarray) -> np.ndarray:
            drawn = disco.sample_conditional(
                rng_key, prior, observed=dict(zip(others, x, strict=True)), num_samples=NUM_DRAWS
            )
            return np.asarray(drawn, np.float64)[:, : len(focus)]

        return draw

    reference: Any = "mixture"
    for name, objective in (
        ("fit", disco.Contrastive()),
        ("focus", disco.Contrastive(focus=focus)),
        ("likelihood", disco.Likelihood(focus=focus)),
    ):
        if name not in args.methods:
            continue
        contrastive = name != "likelihood"
        rows = np.hstack([pairs.theta, pairs.x if contrastive else pairs.spread(seed)])
        start = time.process_time()
        fit = disco.fit(
            jax.random.key(seed),
            dict(zip(focus + others, rows.T, strict=True)),
            objective=objective,
            reference=reference if contrastive else "mixture",
            supports=pairs.supports(args.bounded, counts=contrastive),
            progress_bar=False,
            **small,
        )
        yield name, draws_of(fit.distribution), time.process_time() - start
        if contrastive:
            # The same mixture for both, so that they differ by the objective alone.
            reference = fit.distribution.joint_reference


def flow(pairs: Pairs, seed: int, small: bool) -> tuple[Draw, float]:
    """Neural posterior estimation with flowjax's spline flow over standardised numbers."""
    import flowjax.bijections as bijections
    import flowjax.distributions as distributions
    import flowjax.flows as flows
    from flowjax.train import fit_to_data

    start = time.process_time()
    positive = pairs.task.name == "sir"
    theta = np.log(pairs.theta) if positive else pairs.theta
    centre, scale = theta.mean(0), theta.std(0)
    x_centre, x_scale = pairs.x.mean(0), pairs.x.std(0)
    flow_key, train_key = jax.random.split(jax.random.key(seed))
    model = flows.masked_autoregressive_flow(
        flow_key,
        base_dist=distributions.Normal(jnp.zeros(theta.shape[1])),
        transformer=bijections.RationalQuadraticSpline(knots=8, interval=4),
        cond_dim=pairs.x.shape[1],
    )
    data = [jnp.asarray((theta - centre) / scale), jnp.asarray((pairs.x - x_centre) / x_scale)]
    epochs = {"max_epochs": 1} if small else {}
    model, _ = fit_to_data(train_key, model, data, show_progress=False, **epochs)

    def draw(rng_key: jax.Array, x: np.ndarray) -> np.ndarray:
        condition = jnp.asarray((x - x_centre) / x_scale)
        drawn = np.asarray(model.sample(rng_key, (NUM_DRAWS,), condition=condition), np.float64)
        return np.exp(drawn * scale + centre) if positive else drawn * scale + centre

    return draw, time.process_time() - start


def judge(pairs: Pairs, method: str, draw: Draw, seconds: float, observations: list[int]) -> None:
    """Print a row of the table for each observation."""
    for number in observations:
        x = np.asarray(pairs.task.get_observation(number), np.float64)[0, pairs.varying]
        draws = pairs.inside(draw(jax.random.key(number), x))
        if len(draws) < NUM_DRAWS // 10:
            few = f"{len(draws)} draws inside"
            print(
                f"| {pairs.task.name} | {number} | {method} | {few} | | {seconds:.0f} |", flush=True
            )
            continue
        reference = pairs.task.get_reference_posterior_samples(number)
        reference = np.asarray(reference, np.float64)[: len(draws)]
        classifiers = neighbours(), network(reference.shape[1])
        accuracy = max(two_sample_accuracy(draws, reference, each) for each in classifiers)
        distance = max(
            wasserstein_distance(a, b) / b.std() for a, b in zip(draws.T, reference.T, strict=True)
        )
        cells = (pairs.task.name, number, method, f"{accuracy:.3f}", f"{distance:.3f}")
        print("| " + " | ".join(map(str, cells)) + f" | {seconds:.0f} |", flush=True)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, help="all by default")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--observations", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--simulations", type=int, default=10_000)
    parser.add_argument("--bounded", action="store_true", help="supports from the prior's bounds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="a quick run of every step")
    args = parser.parse_args()
    if args.small:
        args.tasks = args.tasks or ["two_moons"]
        args.observations, args.simulations = [1], 1000
    header = ("task", "observation", "method", "accuracy", "W1", "training, CPU s")
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header), flush=True)
    for name in args.tasks or TASKS:
        pairs = simulated(name, args.simulations, args.seed)
        for method, draw, seconds in learned(pairs, args.seed, args):
            judge(pairs, method, draw, seconds, args.observations)
        if "flow" in args.methods:
            draw, seconds = flow(pairs, args.seed, args.small)
            judge(pairs, "flow", draw, seconds, args.observations)


if __name__ == "__main__":
    main()
