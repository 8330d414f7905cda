"""Masses of separated modes, as score matching alone learns them and as `fit` does.

    python tests/benchmarks/mode_masses.py            about half an hour on two cores
    python tests/benchmarks/mode_masses.py --small    one case, hardly trained

Two and eight modes in the plane, the lightest of 5 %, each a skewed cloud (so that no mixture of
Gaussians is the truth), at distances of 5 to 80 sigma_0 from the nearest other. Columns: total
variation between true masses and those of the learned density, by quadrature over the plane: of
`fit` with its defaults, of the mixture reference alone, and of the DISCO loss alone from one
Gaussian. The learned masses are those of a sample of rows at best: with 20,000 rows the masses of
the rows themselves are off by the last column.
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np

import numpyro_disco as disco

NUM_ROWS = 20_000
GRID = 600


def modes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights and centres, the nearest of which are a distance of 1 apart."""
    if count == 2:
        return np.array([0.05, 0.95]), np.array([[0.0, 0.0], [1.0, 0.0]])
    weights = np.array([0.05, 0.05, 0.1, 0.1, 0.15, 0.15, 0.2, 0.2])
    angle = 2 * np.pi * np.arange(8) / 8
    radius = 0.5 / np.sin(np.pi / 8)
    return weights, radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def draw(rng: np.random.Generator, count: int, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows, and which mode each is of."""
    weights, centers = modes(count)
    mode = rng.choice(count, num_rows, p=weights)
    # Gamma(4): a skew of 1, and a deviation of a thirtieth of the distance.
    cloud = (rng.gamma(4.0, size=(num_rows, 2)) - 4.0) / 2 / 30
    return centers[mode] + cloud, mode


def masses(log_density, rows: np.ndarray, count: int) -> np.ndarray:
    """Masses of a density by the nearest centre, on a grid over all rows and more."""
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
    found = np.bincount(nearest, density, minlength=count)
    return found / found.sum()


def variation(found: np.ndarray, count: int) -> float:
    """Total variation to the true masses."""
    return 0.5 * float(np.abs(found - modes(count)[0]).sum())


def run(count: int, separation: float, num_steps: int, num_rows: int) -> list[float]:
    """The columns of one case."""
    rows, mode = draw(np.random.default_rng(count), count, num_rows)
    # Units of sigma_0 are deviations: of two modes, those of the column that tells them apart.
    noise_scale = 1 / separation / float(rows.std(0).max())
    settings = {
        "noise_scale": noise_scale,
        "max_noise_scale": max(2.0, 4 * noise_scale),
        "num_steps": num_steps,
        "progress_bar": False,
    }
    fit = disco.fit(jax.random.key(0), rows, **settings)
    alone = disco.fit(
        jax.random.key(0), rows, objective="disco", reference="gaussian", whiten=False, **settings
    )
    densities = (
        fit.distribution.log_prob,
        fit.distribution.reference.log_prob,
        alone.distribution.log_prob,
    )
    found = [variation(masses(density, rows, count), count) for density in densities]
    return [*found, variation(np.bincount(mode, minlength=count) / num_rows, count)]


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="one case, hardly trained")
    parser.add_argument("--steps", type=int, default=2000)
    args = parser.parse_args(arguments)
    cases = [(count, k) for count in (2, 8) for k in (5, 10, 20, 40, 80)]
    steps, num_rows = args.steps, NUM_ROWS
    if args.small:
        cases, steps, num_rows = [(8, 20)], 100, 2000
    print("| modes | distance / sigma_0 | fit | its reference | DISCO alone | the rows |")
    print("|---|---|---|---|---|---|")
    for count, separation in cases:
        values = run(count, separation, steps, num_rows)
        cells = " | ".join(f"{value:.4f}" for value in values)
        print(f"| {count} | {separation} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
