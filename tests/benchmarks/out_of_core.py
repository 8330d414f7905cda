"""Memory and accuracy of a fit of rows that stay in a Parquet file.

    python tests/benchmarks/out_of_core.py                      20 million rows of ten columns
    python tests/benchmarks/out_of_core.py --rows 1000000 --steps 100
    python tests/benchmarks/out_of_core.py --small

The rows are those of a bent mixture of four Gaussians, whose density is known. The file is sorted
by component, so that a reader that takes rows from one place at a time sees one component only.
Printed are the seconds of the fit with compilation, the peak memory of the process so far, and the
mean log density of new rows less that of the truth, of the mixture alone and of the fit; then the
same for a fit in memory of as many rows as the sample has, with the same settings.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import numpyro_disco as disco
from numpyro_disco.training.rows.windows import SAMPLE_ROWS

DIMENSION, GROUP_ROWS = 10, 1_000_000
WEIGHTS = np.array([0.1, 0.2, 0.3, 0.4])
MEANS = np.random.default_rng(1).normal(size=(4, DIMENSION)) * 2
FACTORS = np.random.default_rng(2).normal(size=(4, DIMENSION, DIMENSION)) / 3 + np.eye(DIMENSION)
BEND = 0.3


def bent(z: np.ndarray, sign: float = 1.0) -> np.ndarray:
    """Shift the second half of the columns by squares of the first; the inverse with sign -1."""
    half = DIMENSION // 2
    return np.concatenate([z[:, :half], z[:, half:] + sign * BEND * z[:, :half] ** 2], axis=1)


def draw(rng: np.random.Generator, components: np.ndarray) -> np.ndarray:
    """One row of each of the components."""
    rows = np.empty((len(components), DIMENSION))
    for k in range(4):
        chosen = components == k
        normal = rng.normal(size=(chosen.sum(), DIMENSION))
        rows[chosen] = MEANS[k] + normal @ FACTORS[k].T
    return bent(rows)


def log_density(rows: np.ndarray) -> np.ndarray:
    """The true log density; bending keeps volumes."""
    straight = bent(rows, -1.0)
    parts = [multivariate_normal(MEANS[k], FACTORS[k] @ FACTORS[k].T) for k in range(4)]
    return logsumexp(
        np.stack([part.logpdf(straight) for part in parts]), b=WEIGHTS[:, None], axis=0
    )


def write(path: Path, num_rows: int) -> None:
    """Write a file of single-precision rows, sorted by component, group by group."""
    rng = np.random.default_rng(0)
    schema = pa.schema([(f"x{i}", pa.float32()) for i in range(DIMENSION)])
    edges = np.cumsum(WEIGHTS) * num_rows
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, num_rows, GROUP_ROWS):
            places = np.arange(start, min(start + GROUP_ROWS, num_rows))
            components = np.minimum(np.searchsorted(edges, places, side="right"), 3)
            rows = draw(rng, components).astype(np.float32)
            writer.write_table(pa.table(list(rows.T), schema=schema))


def excess(prior: disco.EnergyDistribution, new_rows: np.ndarray) -> tuple[float, float]:
    """Mean log density of the mixture and of the fit on new rows, less that of the truth."""
    truth = log_density(new_rows)
    found = [np.asarray(which.log_prob(new_rows)) for which in (prior.reference, prior)]
    mixture, learned = (float((values - truth).mean()) for values in found)
    return mixture, learned


def main(args: argparse.Namespace) -> None:
    """Write the file, fit it, and print one line for each fit."""
    num_rows = 400_000 if args.small else args.rows
    settings: dict[str, Any] = {
        "num_steps": 100 if args.small else args.steps,
        "reference": disco.MixtureFit(max_components=4 if args.small else 8),
        "progress_bar": False,
    }
    rng = np.random.default_rng(3)
    new_rows = draw(rng, rng.choice(4, 20_000, p=WEIGHTS))
    some_rows = draw(rng, rng.choice(4, SAMPLE_ROWS, p=WEIGHTS))
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "rows.parquet"
        write(path, num_rows)
        print(f"{num_rows} rows in a file of {path.stat().st_size / 1e9:.2f} GB")
        for name, data in [("on disk", path), ("in memory", some_rows)]:
            start, used = time.perf_counter(), time.process_time()
            fit = disco.fit(jax.random.key(0), data, **settings)
            seconds, used = time.perf_counter() - start, time.process_time() - used
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
            mixture, learned = excess(fit.distribution, new_rows)
            print(
                f"{name:9}  {fit.history.step[-1]} steps  {seconds:.0f} s, of processors {used:.0f}"
                f"  peak memory {peak:.2f} GB  mixture {mixture:.3f}  fit {learned:.3f} nats",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--folder", help="where the file is written")
    parser.add_argument("--small", action="store_true")
    main(parser.parse_args())
