"""Gain of refits when entries are missing, relative to complete rows alone and to all entries.

    python tests/benchmarks/refits.py            wine and breast cancer, four seeds
    python tests/benchmarks/refits.py --small    one seed of the wine data, briefly trained

Entries of a row are missing, except in the first column, where the first column (standardised, with
noise) is large. This is missing at random, so complete rows have another distribution than all
rows. Each way to learn is judged by the mean log density of complete test rows, in nats a row,
under the prior normalised by tempered SMC; the gain over complete rows alone has a standard error
over rows and seeds.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from settings import fit_arguments
from sklearn.datasets import load_breast_cancer, load_wine

import numpyro_disco as disco

TASKS: dict[str, tuple[Callable, list[int]]] = {
    # Columns without frequently repeated values.
    "wine": (load_wine, [0, 1, 5, 6, 9, 11]),
    "breast cancer": (load_breast_cancer, [0, 1, 4, 5, 8, 9]),
}
REFITS = {"complete rows": 0, "1 refit": 1, "3 refits": 3, "all entries": 0}
"""Ways to learn, and the number of refits of each."""


class Result(NamedTuple):
    """One way to learn, on all seeds of a task."""

    log_densities: np.ndarray
    """Log densities of the test rows of all seeds, shape (n,)."""
    seconds: float
    """Mean seconds of a fit, with the normalising constant."""


def remove_entries(rng: np.random.Generator, rows: np.ndarray) -> np.ndarray:
    """Remove a third of the entries of about half of the rows."""
    first = (rows[:, 0] - rows[:, 0].mean()) / rows[:, 0].std()
    affected = first + 0.5 * rng.standard_normal(len(rows)) > 0
    missing = rng.random(rows.shape) < 1 / 3
    missing[:, 0] = False
    return np.where(affected[:, None] & missing, np.nan, rows)


def log_densities(
    rng_key: jax.Array, data: np.ndarray, test: np.ndarray, settings: dict[str, Any]
) -> np.ndarray:
    """Log densities of test rows under the density learned from `data`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # rows with missing entries are left out
        fit = disco.fit(rng_key, data, progress_bar=False, **fit_arguments(settings))
    prior = fit.distribution.normalize(rng_key)
    return np.asarray(prior.log_prob(test), np.float64)


def run_task(task: str, num_seeds: int, num_steps: int) -> dict[str, Result]:
    """All ways to learn on one task."""
    loader, columns = TASKS[task]
    values: dict[str, list[np.ndarray]] = {way: [] for way in REFITS}
    seconds: dict[str, list[float]] = {way: [] for way in REFITS}
    complete = []
    for seed in range(num_seeds):
        rng = np.random.default_rng(seed)
        rows = np.log1p(loader().data[:, columns])
        rows = rows[rng.permutation(len(rows))]
        test, train = rows[: len(rows) // 4], rows[len(rows) // 4 :]
        table = remove_entries(rng, train)
        complete.append(np.mean(~np.isnan(table).any(axis=1)))
        for way, num_refits in REFITS.items():
            start = time.perf_counter()
            data = train if way == "all entries" else table
            settings = {
                "num_steps": num_steps,
                "width": 64,
                "max_components": 8,
                "num_refits": num_refits,
            }
            values[way].append(log_densities(jax.random.key(seed), data, test, settings))
            seconds[way].append(time.perf_counter() - start)
    print(f"{task}: {np.mean(complete):.0%} of the rows are complete")
    return {
        way: Result(np.concatenate(values[way]), float(np.mean(seconds[way]))) for way in REFITS
    }


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="one seed, briefly trained")
    args = parser.parse_args(arguments)
    tasks, num_seeds, num_steps = list(TASKS), 4, 1000
    if args.small:
        tasks, num_seeds, num_steps = ["wine"], 1, 100
    for task in tasks:
        results = run_task(task, num_seeds, num_steps)
        base = results["complete rows"].log_densities
        for way, (values, seconds) in results.items():
            gain = values - base
            error = gain.std() / len(gain) ** 0.5
            print(
                f"   {way:14} {values.mean():7.3f} nats a row, gain {gain.mean():+.3f} ± "
                f"{error:.3f}, {seconds:.0f} s a fit"
            )


if __name__ == "__main__":
    main()
