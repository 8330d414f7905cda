"""`fit` on few rows, compared with one Gaussian and EM mixtures.

    python tests/benchmarks/small_data.py
    python tests/benchmarks/small_data.py --small        one table and split, briefly trained
    python tests/benchmarks/small_data.py --settings '{"defensive_share": 0}'

Two tables of scikit-learn, each split several times into a quarter of test rows and the rows to
learn from, which for `fit` include its own held-out rows. Methods: `fit` with its defaults,
normalised by tempered SMC; its reference alone; scikit-learn's EM mixtures of one and of five
components.

Columns: mean log density of the test rows of all splits, in nats, in units of standard deviations;
the paired difference to `fit` with its standard error, which includes that of the normalising
constant (rows of different splits are treated as independent); the number of splits in which the
method is better than `fit`; seconds of training, with compilation. Below each table: log Z of each
split by tempered SMC, which is zero if the contrastive objective learned a normalised density.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from settings import fit_arguments, flat_settings
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.mixture import GaussianMixture

import numpyro_disco as disco

TABLES = {
    "wine": lambda: load_wine().data,
    "breast cancer": lambda: load_breast_cancer().data,
}
SMALL = {"num_steps": 50, "width": 16, "num_blocks": 1, "max_components": 2}
"""Flat settings of a fit that takes seconds."""


class Judged(NamedTuple):
    """One method on one split."""

    log_density: np.ndarray
    """Log densities of the test rows, shape (n,)."""
    log_z: float
    """Log of the normalising constant."""
    error: float
    """Standard error of `log_z`."""
    seconds: float
    """Training time."""


def judge(rows: np.ndarray, seed: int, settings: dict[str, Any]) -> dict[str, Judged]:
    """Train and judge all methods on one split of a table."""
    rows = np.random.default_rng(seed).permutation(rows)
    num_test = len(rows) // 4
    loc, scale = rows[num_test:].mean(0), rows[num_test:].std(0)
    rows = (rows - loc) / scale
    test, train = rows[:num_test], rows[num_test:]
    judged = judge_fit(train, test, seed, settings)
    for count, name in ((1, "one Gaussian"), (5, "EM, 5 components")):
        start = time.perf_counter()
        rival = GaussianMixture(count, random_state=seed).fit(train)
        seconds = time.perf_counter() - start
        judged[name] = Judged(rival.score_samples(test), 0.0, 0.0, seconds)
    return judged


def judge_fit(
    train: np.ndarray, test: np.ndarray, seed: int, settings: dict[str, Any]
) -> dict[str, Judged]:
    """Train and judge `fit` and its reference alone."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # some values are more common than others
        fit = disco.fit(jax.random.key(seed), train, progress_bar=False, **fit_arguments(settings))
    seconds = time.perf_counter() - start
    prior = fit.distribution.normalize(jax.random.key(1000 + seed), num_chains=4)
    points = jnp.asarray(test)
    log_z, error = prior.log_normalizer, prior.log_normalizer_error
    reference = np.asarray(prior.reference.log_prob(points), np.float64)
    return {
        "`fit`": Judged(
            np.asarray(prior.log_prob(points), np.float64),
            float(np.asarray(log_z)),
            float(np.asarray(error)),
            seconds,
        ),
        "its reference alone": Judged(reference, 0.0, 0.0, seconds),
    }


def method_line(name: str, rows: np.ndarray, method: str, runs: list[dict[str, Judged]]) -> str:
    """One line of the table: a method on all splits, compared with `fit`."""
    gains = [run[method].log_density - run["`fit`"].log_density for run in runs]
    gain = np.concatenate(gains)
    log_z_error = np.hypot.reduce([run["`fit`"].error for run in runs]) / len(runs)
    error = np.hypot(gain.std() / np.sqrt(len(gain)), log_z_error)
    better = sum(part.mean() > 0 for part in gains)
    mean = np.mean([run[method].log_density.mean() for run in runs])
    seconds = np.mean([run[method].seconds for run in runs])
    paired = " | " if method == "`fit`" else f"{gain.mean():+.2f} ± {error:.2f} | {better}"
    cells = f"{len(rows)}, {rows.shape[1]} | {method} | {mean:.2f} | {paired} | {seconds:.0f}"
    return f"| {name} | {cells} |"


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="one table and split")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument(
        "--settings", type=flat_settings, default={}, help="settings of `fit`, as flat JSON"
    )
    args = parser.parse_args(arguments)
    settings, names = args.settings, list(TABLES)
    if args.small:
        args.splits, names, settings = 1, ["wine"], SMALL
    print(
        "| table | rows, columns | method | log density | above `fit` | better splits | seconds |\n"
        "|---|---|---|---|---|---|---|"
    )
    for name in names:
        rows = TABLES[name]()
        runs = [judge(rows, seed, settings) for seed in range(args.splits)]
        for method in runs[0]:
            print(method_line(name, rows, method, runs), flush=True)
        each = (f"{run['`fit`'].log_z:.2f} ± {run['`fit`'].error:.2f}" for run in runs)
        print(f"  {name}, log Z: {', '.join(each)}", flush=True)


if __name__ == "__main__":
    main()
