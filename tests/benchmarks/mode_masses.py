"""Accuracy of the masses of separated modes, learned by score matching alone and by `fit`.

    python tests/benchmarks/mode_masses.py            about a quarter of an hour on two cores
    python tests/benchmarks/mode_masses.py --small    one case, briefly trained

Two and eight modes in the plane, the lightest with 5 % of the mass. Each mode is a skewed cloud, so
no Gaussian mixture is the truth. Columns: total variation between the true masses and those of the
learned density, by quadrature over the plane, for

- `fit` with its defaults, which does not smooth, and the mixture that it starts from;
- DISCO from one Gaussian, with the nearest modes 5 to 80 sigma_0 apart;
- DISCO by the score alone (`density_weight=0`);
- the training rows themselves, which no method can improve on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import numpyro_disco as disco

NUM_ROWS = 20_000
GRID = 600
"""Grid points along each axis."""


def modes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights and centres of the modes; nearest centres are a distance of 1 apart."""
    if count == 2:
        return np.array([0.05, 0.95]), np.array([[0.0, 0.0], [1.0, 0.0]])
    weights = np.array([0.05, 0.05, 0.1, 0.1, 0.15, 0.15, 0.2, 0.2])
    angle = 2 * np.pi * np.arange(8) / 8
    radius = 0.5 / np.sin(np.pi / 8)
    return weights, radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def draw(rng: np.random.Generator, count: int, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows, and the mode of each row."""
    weights, centers = modes(count)
    mode = rng.choice(count, num_rows, p=weights)
    # Gamma(4) has a skewness of 1; its deviation is a thirtieth of the distance between modes.
    cloud = (rng.gamma(4.0, size=(num_rows, 2)) - 4.0) / 2 / 30
    return centers[mode] + cloud, mode


def masses(
    log_density: Callable[[jax.Array], jax.Array], rows: np.ndarray, count: int
) -> np.ndarray:
    """Masses of a density around each centre, on a grid that extends beyond the rows."""
    _, centers = modes(count)
    low, high = rows.min(0), rows.max(0)
    margin = 0.5 * (high - low).max()
    axes = [np.linspace(low[i] - margin, high[i] + margin, GRID) for i in range(2)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    values = np.asarray(
        jax.lax.map(jax.jit(log_density), jnp.asarray(grid, jnp.float32), batch_size=4096)
    )
    density = np.exp(np.asarray(values, np.float64) - values.max())
    nearest = ((grid[:, None] - centers) ** 2).sum(-1).argmin(1)
    mass = np.bincount(nearest, density, minlength=count)
    return mass / mass.sum()


def variation(mass: np.ndarray, count: int) -> float:
    """Total variation from the true masses."""
    return 0.5 * float(np.abs(mass - modes(count)[0]).sum())


def run(count: int, separations: list[int], num_steps: int, num_rows: int) -> None:
    """Print a line for each distance between modes, in units of sigma_0."""
    rows, mode = draw(np.random.default_rng(count), count, num_rows)
    settings: dict[str, Any] = {"num_steps": num_steps, "progress_bar": False}
    # The contrastive objective does not smooth: one fit for all separations.
    prior = disco.fit(jax.random.key(0), rows, **settings).distribution
    row_variation = variation(np.bincount(mode, minlength=count) / num_rows, count)
    contrastive = [
        variation(masses(log_density, rows, count), count)
        for log_density in (prior.log_prob, prior.reference.log_prob)
    ]
    for separation in separations:
        # sigma_0 is in standard deviations: for two modes, those of the column that separates them.
        noise_scale = 1 / separation / float(rows.std(0).max())
        smoothed = []
        for weight in (None, 0.0):
            objective = disco.Disco(
                noise_scale=noise_scale,
                max_noise_scale=max(2.0, 4 * noise_scale),
                density_weight=weight,
                whiten=False,
            )
            learned = disco.fit(jax.random.key(0), rows, objective=objective, **settings)
            learned_masses = masses(learned.distribution.log_prob, rows, count)
            smoothed.append(variation(learned_masses, count))
        cells = " | ".join(f"{value:.4f}" for value in (*contrastive, *smoothed, row_variation))
        print(f"| {count} | {separation} | {cells} |", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="one case, briefly trained")
    parser.add_argument("--steps", type=int, default=2000)
    args = parser.parse_args(arguments)
    counts, separations, steps, num_rows = [2, 8], [5, 10, 20, 40, 80], args.steps, NUM_ROWS
    if args.small:
        counts, separations, steps, num_rows = [8], [20], 100, 2000
    print("| modes | distance / sigma_0 | fit | its reference | DISCO | its score alone | rows |")
    print("|---|---|---|---|---|---|---|")
    for count in counts:
        run(count, separations, steps, num_rows)


if __name__ == "__main__":
    main()
