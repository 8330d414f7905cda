"""What is lost when rows have missing entries, by what `fit` does with them.

    python tests/benchmarks/missing_rows.py            wine, breast cancer and MAGIC, two seeds
    python tests/benchmarks/missing_rows.py --tasks magic --shares 0.5 --seeds 1
    python tests/benchmarks/missing_rows.py --small    one seed of the wine data, briefly trained

A share of the rows misses a third of the entries in all columns but the first. These rows are
chosen at random (MCAR), or those in which the first column, with noise, is largest (MAR). Each way
to learn is judged by the mean log density of complete test rows, in nats a row, relative to
learning from all entries, and by the mean distance (W1, in deviations) of the learned marginals to
those of the test rows. The first column of the table of MAGIC is observed in all rows as well, so
with all rows incomplete only the ways that fill entries can learn.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import tables
from scipy.stats import wasserstein_distance
from sklearn.datasets import load_breast_cancer, load_wine

import numpyro_disco as disco

MAGIC_ROWS = 4000
SHARES = (0.05, 0.2, 0.5, 1.0)
"""Shares of the rows with missing entries."""
WAYS: dict[str, Any] = {
    "complete rows": "complete",
    "mixture": "mixture",
    "1 refit": disco.Refit(num_refits=1),
}


def wine() -> np.ndarray:
    """Columns of the wine data without frequently repeated values."""
    return np.log1p(load_wine().data[:, [0, 1, 5, 6, 9, 11]])


def breast_cancer() -> np.ndarray:
    """Likewise of the breast cancer data."""
    return np.log1p(load_breast_cancer().data[:, [0, 1, 4, 5, 8, 9]])


def magic() -> np.ndarray:
    """Five columns of the MAGIC telescope data, with noise that unties rounded values."""
    rng = np.random.default_rng(0)
    rows = rng.permutation(tables.magic())[:MAGIC_ROWS, [0, 1, 3, 8, 9]]
    return rows + 1e-3 * rows.std(0) * rng.standard_normal(rows.shape)


TASKS = {"wine": wine, "breast cancer": breast_cancer, "magic": magic}


def remove_entries(
    rng: np.random.Generator, rows: np.ndarray, share: float, at_random: bool
) -> np.ndarray:
    """Rows of which a share misses at least one entry outside of the first column."""
    first = (rows[:, 0] - rows[:, 0].mean()) / rows[:, 0].std()
    score = (first if at_random else 0) + 0.5 * rng.standard_normal(len(rows))
    affected = score >= np.quantile(score, 1 - share) if share < 1 else np.ones(len(rows), bool)
    missing = rng.random(rows.shape) < 1 / 3
    missing[np.arange(len(rows)), rng.integers(1, rows.shape[1], len(rows))] = True
    missing[:, 0] = False
    return np.where(affected[:, None] & missing, np.nan, rows)


def judge(
    key: jax.Array, data: np.ndarray, test: np.ndarray, missing: Any, num_steps: int
) -> tuple[np.ndarray, float]:
    """Log densities of the test rows, and the mean W1 of the marginals in deviations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fit = disco.fit(
            key,
            data,
            missing=missing,
            num_steps=num_steps,
            network=disco.MLP(width=64),
            reference=disco.MixtureFit(max_components=16),
            progress_bar=False,
        )
        prior = fit.distribution.normalize(key)
    draws = np.asarray(prior.sample(key, (2000,)))
    distances = [wasserstein_distance(a, b) / b.std() for a, b in zip(draws.T, test.T, strict=True)]
    return np.asarray(prior.log_prob(test), np.float64), float(np.mean(distances))


def run_task(task: str, shares: Sequence[float], num_seeds: int, num_steps: int) -> None:
    """Print one line for each share, mechanism and way to learn."""
    for seed in range(num_seeds):
        rng, key = np.random.default_rng(seed), jax.random.key(seed)
        rows = TASKS[task]()
        rows = rows[rng.permutation(len(rows))]
        test, train = rows[: len(rows) // 4], rows[len(rows) // 4 :]
        best, distance = judge(key, train, test, "complete", num_steps)
        print(
            f"{task}, seed {seed}: all entries {best.mean():.3f} nats, W1 {distance:.3f}",
            flush=True,
        )
        for share in shares:
            for at_random in (False, True):
                table = remove_entries(rng, train, share, at_random)
                for way, missing in WAYS.items():
                    label = f"   {'MAR' if at_random else 'MCAR'} {share:4.0%} {way:14}"
                    start = time.process_time()
                    try:
                        found, distance = judge(key, table, test, missing, num_steps)
                    except ValueError as refused:
                        print(f"{label} refused: {str(refused)[:60]}", flush=True)
                        continue
                    loss = best - found
                    error = loss.std() / len(loss) ** 0.5
                    print(
                        f"{label} loses {loss.mean():+.3f} ± {error:.3f} nats, W1 {distance:.3f}, "
                        f"{time.process_time() - start:.0f} s of CPU",
                        flush=True,
                    )


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="one seed, briefly trained")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), help="which tables")
    parser.add_argument("--shares", nargs="*", type=float, default=SHARES, help="incomplete rows")
    parser.add_argument("--seeds", type=int, default=2, help="how many")
    args = parser.parse_args(arguments)
    if args.small:
        run_task("wine", (0.5,), 1, 100)
        return
    for task in args.tasks:
        run_task(task, args.shares, args.seeds, 500)


if __name__ == "__main__":
    main()
