"""Seconds of `fit` with its defaults, and the log density of test rows, today and before.

    python tests/benchmarks/learning_speed.py --old PATH       an hour on two cores
    python tests/benchmarks/learning_speed.py --small          one table, a few steps

PATH is a checkout of the earlier code, for example `git worktree add PATH 2d38f5f`. Each fit runs
in a process of its own without a cache of compiled programs, with the same rows and key. A row
holds

- processor seconds of `fit`, and how many of them compile how many programs;
- the step that was kept, and the last step;
- the mean log density of test rows that no fit has seen. The normalising constant is the mean of
  the density ratio over draws of the reference;
- the difference to the earlier code, with the standard error over test rows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from sklearn.datasets import load_breast_cancer, load_wine
from tables import TABLES
from tasks import paper_mixture

import numpyro_disco as disco

NUM_DRAWS = 100_000
"""Draws of the reference for the normalising constant."""
NAMES = ("wine", "breast_cancer", "mixture_2", "galaxies", "magic")


def rows_of(name: str, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to learn from and test rows, in units of the former's standard deviations."""
    rng = np.random.default_rng(0)
    if name == "mixture_2":
        task, truth = paper_mixture(2, num_rows, 0)
        return task.rows, np.asarray(truth.sample(jax.random.key(1), (2000,)))
    small = {"wine": load_wine, "breast_cancer": load_breast_cancer}
    table = small[name]().data if name in small else TABLES[name]()
    table = rng.permutation(table)
    num_test = min(2000, len(table) // 4)
    rows, test = table[num_test:][:num_rows], table[:num_test]
    loc, scale = rows.mean(0), rows.std(0)
    return (rows - loc) / scale, (test - loc) / scale


def measure(name: str, num_rows: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Fit one table in this process."""
    rows, test = rows_of(name, num_rows)
    compilations: list[float] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compilations.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    start = time.process_time()
    fit = disco.fit(jax.random.key(0), rows, progress_bar=False, **settings)
    seconds = time.process_time() - start
    programs, compiling = len(compilations), sum(compilations)
    prior = fit.distribution
    reference = prior.joint_reference
    ratio = jax.jit(lambda x: prior.log_prob(x) - reference.log_prob(x))
    draws = reference.sample(jax.random.key(2), (NUM_DRAWS,))
    log_normalizer = np.log(np.exp(np.asarray(ratio(draws), np.float64)).mean())
    return {
        "rows": rows.shape,
        "seconds": seconds,
        "compiling": compiling,
        "programs": programs,
        "best_step": fit.best_step,
        "last_step": int(fit.history.step[-1]),
        "log_densities": (np.asarray(prior.log_prob(test)) - log_normalizer).tolist(),
    }


def in_a_process(checkout: Path, name: str, num_rows: int, settings: dict) -> dict[str, Any]:
    """`measure` with the package of a checkout, without a cache of compiled programs."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "measured.json"
        request = json.dumps([name, num_rows, settings, str(file)])
        command = [sys.executable, str(Path(__file__).resolve()), "--measure", request]
        subprocess.run(command, env=environment, check=True)
        return json.loads(file.read_text())


def cells(found: dict[str, Any], before: dict[str, Any] | None) -> str:
    """The cells of one fit; `before` is that of the earlier code."""
    values = np.asarray(found["log_densities"])
    error = values.std(ddof=1) / np.sqrt(len(values))
    difference = ratio = ""
    if before is not None:
        gain = values - np.asarray(before["log_densities"])
        difference = f"{gain.mean():.3f} ± {gain.std(ddof=1) / np.sqrt(len(gain)):.3f}"
        ratio = f"{found['seconds'] / before['seconds']:.2f}"
    steps = f"{found['best_step']} of {found['last_step']}"
    compiled = f"{found['compiling']:.1f} ({found['programs']})"
    log_density = f"{values.mean():.3f} ± {error:.3f}"
    return (
        f"{found['seconds']:.1f} | {ratio} | {compiled} | {steps} | {log_density} | {difference} |"
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="one table, a few steps")
    parser.add_argument("--old", type=Path, help="a checkout of the earlier code")
    parser.add_argument("--rows", type=int, default=20_000, help="most rows to learn from")
    parser.add_argument("--tables", default=",".join(NAMES), help="tables, separated by commas")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.measure:
        name, num_rows, settings, file = json.loads(args.measure)
        Path(file).write_text(json.dumps(measure(name, num_rows, settings)))
        return
    names = ["wine"] if args.small else args.tables.split(",")
    settings = {"num_steps": 50} if args.small else {}
    here = Path(__file__).resolve().parents[2]
    print(
        "| table | rows | code | seconds | ratio | compiling (programs) | step | log density | "
        "gain |\n|---|---|---|---|---|---|---|---|---|"
    )
    for name in names:
        before = None
        if args.old is not None:
            before = in_a_process(args.old, name, args.rows, settings)
            shape = "{} x {}".format(*before["rows"])
            print(f"| {name} | {shape} | before | {cells(before, None)}", flush=True)
        found = in_a_process(here, name, args.rows, settings)
        shape = "{} x {}".format(*found["rows"])
        print(f"| {name} | {shape} | today | {cells(found, before)}", flush=True)


if __name__ == "__main__":
    main()
