"""Effect of smoothing alone on conditionals, and of a first-order correction that undoes it.

    python tests/benchmarks/smoothing.py
    python tests/benchmarks/smoothing.py --small

No network is trained. Mixtures are smoothed exactly by N(0, sigma^2 I), which is what perfect score
matching with that `noise_scale` would learn. To first order in sigma^2 the correction

    log p - sigma^2 / 2 (laplacian of log p + |gradient of log p|^2)

undoes the smoothing of any density p. Columns: W1 of the last coordinate given the others, smoothed
and corrected, over 100 conditionals by quadrature (mean, and the largest), in standard deviations.
"""

from __future__ import annotations

import argparse
from functools import partial

import jax
import jax.numpy as jnp
from quadrature import by_quadrature, wasserstein
from tasks import paper_mixture

import numpyro_disco as disco


def corrected(smoothed: disco.MixtureReference, sigma: float, x: jax.Array) -> jax.Array:
    """Log density at one point with the smoothing by sigma undone to first order."""
    gradient = jax.grad(smoothed.log_prob)
    laplacian = jnp.trace(jax.jacfwd(gradient)(x))
    return smoothed.log_prob(x) - 0.5 * sigma**2 * (laplacian + (gradient(x) ** 2).sum())


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="two dimensions only")
    args = parser.parse_args(arguments)
    print("| D | sigma | smoothed | worst | corrected | worst |\n|---|---|---|---|---|---|")
    for dimension in (2,) if args.small else (2, 10):
        task, truth = paper_mixture(dimension, 10_000, 0)
        column = dimension - 1
        exact = by_quadrature(truth.log_prob)(task, column)
        for sigma in (0.1, 0.05, 0.025):
            smoothed = truth.smoothed(sigma)
            cells = []
            for log_density in (smoothed.log_prob, partial(corrected, smoothed, sigma)):
                conditionals = by_quadrature(log_density)(task, column)
                distances = wasserstein(conditionals, exact, task.grid(column))
                cells.append(f"{distances.mean():.4f} | {distances.max():.3f}")
            print(f"| {dimension} | {sigma} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
