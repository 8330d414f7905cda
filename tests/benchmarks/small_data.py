"""Few rows: the log density of rows that nothing has seen, beside one Gaussian and EM mixtures.

    python tests/benchmarks/small_data.py
    python tests/benchmarks/small_data.py --small                one table and split, hardly trained

Two tables of scikit-learn's, each split several times: three rows in four are learned from, which
for `fit` includes those that it holds out. Methods: `fit`, by its defaults, normalised by SMC; the
mixture that it starts from; scikit-learn's mixtures by EM of one and of five components.

Columns: mean log density of the test rows of all splits, in nats (of rows in standard deviations);
what it is above that of `fit`, with the standard error of the paired difference, in which that of
the normaliser is counted (rows of different splits are taken for independent); in how many splits
it is above; seconds of training, with what was compiled. Below each table, what SMC says of log Z
in each split, which a contrast learns to be zero.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.mixture import GaussianMixture

import numpyro_disco as disco

TABLES = {
    "wine": lambda: load_wine().data,
    "breast cancer": lambda: load_breast_cancer().data,
}


class Judged(NamedTuple):
    """One method on one split."""

    log_density: np.ndarray
    """Of the test rows, (n,)."""
    log_z: float
    error: float
    """Its standard error."""
    seconds: float


def judge(rows: np.ndarray, seed: int, settings: dict) -> dict[str, Judged]:
    """All methods on one split of a table."""
    rows = np.random.default_rng(seed).permutation(rows)
    num_test = len(rows) // 4
    loc, scale = rows[num_test:].mean(0), rows[num_test:].std(0)
    rows = (rows - loc) / scale
    test, train = rows[:num_test], rows[num_test:]
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of values that are more common than others
        fit = disco.fit(jax.random.key(seed), train, progress_bar=False, **settings)
    seconds = time.perf_counter() - start
    prior = fit.distribution.normalize(jax.random.key(1000 + seed), num_chains=4)
    points = jnp.asarray(test)
    found = {
        "`fit`": Judged(
            np.asarray(prior.log_prob(points), np.float64),
            float(np.asarray(prior.log_normalizer)),
            float(np.asarray(prior.log_normalizer_error)),
            seconds,
        ),
        "its reference alone": Judged(
            np.asarray(prior.reference.log_prob(points), np.float64), 0.0, 0.0, seconds
        ),
    }
    for count, name in ((1, "one Gaussian"), (5, "EM, 5 components")):
        start = time.perf_counter()
        rival = GaussianMixture(count, random_state=seed).fit(train)
        seconds = time.perf_counter() - start
        found[name] = Judged(rival.score_samples(test), 0.0, 0.0, seconds)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="held-out log density of tables of few rows")
    parser.add_argument("--small", action="store_true", help="one table and split")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--settings", type=json.loads, default={}, help="more of `fit`, as JSON")
    args = parser.parse_args(arguments)
    settings, tables = args.settings, list(TABLES)
    if args.small:
        args.splits, tables = 1, ["wine"]
        settings = {"num_steps": 50, "width": 16, "num_blocks": 1, "max_components": 2}
    print(
        "| table | rows, columns | method | log density | above `fit` | splits above | seconds |\n"
        "|---|---|---|---|---|---|---|"
    )
    for table in tables:
        rows = TABLES[table]()
        runs = [judge(rows, seed, settings) for seed in range(args.splits)]
        for method in runs[0]:
            gains = [run[method].log_density - run["`fit`"].log_density for run in runs]
            gain = np.concatenate(gains)
            of_z = np.hypot.reduce([run["`fit`"].error for run in runs]) / len(runs)
            error = np.hypot(gain.std() / np.sqrt(len(gain)), of_z)
            above = sum(part.mean() > 0 for part in gains)
            mean = np.mean([run[method].log_density.mean() for run in runs])
            seconds = np.mean([run[method].seconds for run in runs])
            paired = "" if method == "`fit`" else f"{gain.mean():+.2f} ± {error:.2f} | {above}"
            print(
                f"| {table} | {len(rows)}, {rows.shape[1]} | {method} | {mean:.2f} | "
                f"{paired or ' | '} | {seconds:.0f} |",
                flush=True,
            )
        each = (f"{run['`fit`'].log_z:.2f} ± {run['`fit`'].error:.2f}" for run in runs)
        print(f"  {table}, log Z: {', '.join(each)}", flush=True)


if __name__ == "__main__":
    main()
