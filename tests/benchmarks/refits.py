"""What learning from rows with holes gains: complete rows alone, refits, and no holes at all.

    python tests/benchmarks/refits.py            wine and breast cancer, four seeds
    python tests/benchmarks/refits.py --small    one seed of the wine, hardly trained

Holes are made where the first column (standardised, with noise) is large, in the other columns:
missing at random, so complete rows are another population than all rows. Each way is judged by the
log density of held-back whole rows, under the prior normalised by SMC, in nats a row; with the
standard error over rows and seeds of the difference from complete rows alone.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from sklearn.datasets import load_breast_cancer, load_wine

import numpyro_disco as disco

TASKS: dict[str, tuple[Callable, list[int]]] = {
    # Columns in which no value is frequent.
    "wine": (load_wine, [0, 1, 5, 6, 9, 11]),
    "breast cancer": (load_breast_cancer, [0, 1, 4, 5, 8, 9]),
}


def holed(rng: np.random.Generator, rows: np.ndarray) -> np.ndarray:
    """About half of the rows lose a third of their other entries."""
    first = (rows[:, 0] - rows[:, 0].mean()) / rows[:, 0].std()
    loses = first + 0.5 * rng.standard_normal(len(rows)) > 0
    gone = rng.random(rows.shape) < 1 / 3
    gone[:, 0] = False
    return np.where(loses[:, None] & gone, np.nan, rows)


def log_densities(
    rng_key: jax.Array, data: np.ndarray, test: np.ndarray, **settings: Any
) -> np.ndarray:
    """Of held-back rows, under what is learned from `data`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fit = disco.fit(rng_key, data, progress_bar=False, max_components=8, **settings)
    prior = fit.distribution.normalize(rng_key)
    return np.asarray(prior.log_prob(test), np.float64)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="what refits gain")
    parser.add_argument("--small", action="store_true", help="one seed, hardly trained")
    args = parser.parse_args(arguments)
    settings = {"num_steps": 100 if args.small else 1000, "width": 64, "num_blocks": 2}
    ways = {"complete rows": {}, "1 refit": {"num_refits": 1}, "3 refits": {"num_refits": 3}}
    for task, (loader, columns) in list(TASKS.items())[: 1 if args.small else None]:
        found: dict[str, list[np.ndarray]] = {way: [] for way in (*ways, "no holes")}
        seconds: dict[str, float] = dict.fromkeys(found, 0.0)
        complete = []
        for seed in range(1 if args.small else 4):
            rng = np.random.default_rng(seed)
            rows = np.log1p(loader().data[:, columns])
            rows = rows[rng.permutation(len(rows))]
            test, train = rows[: len(rows) // 4], rows[len(rows) // 4 :]
            table = holed(rng, train)
            complete.append(np.mean(~np.isnan(table).any(axis=1)))
            for way in found:
                start = time.perf_counter()
                data = train if way == "no holes" else table
                more = ways.get(way, {})
                found[way].append(
                    log_densities(jax.random.key(seed), data, test, **settings, **more)
                )
                seconds[way] += time.perf_counter() - start
        base = np.concatenate(found["complete rows"])
        print(f"{task}: {np.mean(complete):.0%} of the rows are complete")
        for way, parts in found.items():
            values = np.concatenate(parts)
            gain = values - base
            print(
                f"   {way:14} {values.mean():7.3f} nats a row, gain {gain.mean():+.3f} +- "
                f"{gain.std() / len(gain) ** 0.5:.3f}, {seconds[way] / len(parts):.0f} s a fit"
            )


if __name__ == "__main__":
    main()
