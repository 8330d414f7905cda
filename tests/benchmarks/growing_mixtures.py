"""Mixtures grown by splitting, against scikit-learn's `GaussianMixture` at every size.

    python tests/benchmarks/growing_mixtures.py            two minutes
    python tests/benchmarks/growing_mixtures.py --small    one table of few rows

Both fit the same whitened rows with the same tolerance, and their components are not modified
afterwards. scikit-learn starts from k-means at every size. A row holds the mean log density of rows
that neither has seen, and the processor seconds of all sizes up to this one.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from tables import TABLES
from tasks import mixture

from numpyro_disco.references.em import ADDED_VARIANCE, MAX_ITERATIONS, MIN_GAIN, growing_mixtures


def rows_of(name: str, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Whitened rows to fit, and a fourth as many to judge by."""
    if name == "mixture_2":
        table = mixture(2, num_rows, 0).rows
    else:
        table = np.random.default_rng(0).permutation(TABLES[name]())[:num_rows]
    num_test = len(table) // 5
    loc, factor = table[num_test:].mean(0), np.linalg.cholesky(np.cov(table.T))
    whitened = np.linalg.solve(factor, (table - loc).T).T
    return whitened[num_test:], whitened[:num_test]


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="one table of few rows")
    args = parser.parse_args(arguments)
    num_rows, most = (1000, 4) if args.small else (20_000, 64)
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(
        "| table | components | grown | scikit-learn | seconds | scikit-learn |\n"
        "|---|---|---|---|---|---|"
    )
    for name in ["mixture_2"] if args.small else ["mixture_2", "galaxies", "magic"]:
        rows, test = rows_of(name, num_rows)
        counts = [2**k for k in range(most.bit_length())]
        grown, seconds, peer_seconds = growing_mixtures(rows, counts), 0.0, 0.0
        for count in counts:
            start = time.process_time()
            ours = next(grown)
            middle = time.process_time()
            peer = GaussianMixture(
                count,
                random_state=0,
                reg_covar=ADDED_VARIANCE,
                max_iter=MAX_ITERATIONS,
                tol=MIN_GAIN,
            ).fit(rows)
            seconds += middle - start
            peer_seconds += time.process_time() - middle
            densities = f"{ours.log_prob(test).mean():.3f} | {peer.score(test):.3f}"
            times = f"{seconds:.1f} | {peer_seconds:.1f}"
            print(f"| {name} | {count} | {densities} | {times} |", flush=True)


if __name__ == "__main__":
    main()
