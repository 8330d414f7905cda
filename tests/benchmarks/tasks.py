"""Tasks of density estimation: rows to learn from, rows to test on, and the truth where known."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from sklearn.datasets import make_moons
from tables import TABLES

import numpyro_disco as disco

NUM_POINTS, NUM_POINTS_EACH = 4001, 1001
"""Points of a grid, for a task with one column to predict and for a task with several."""
NOISE = 0.05
"""Standard deviation of the noise around moons and rings."""

Density: TypeAlias = Callable[[jax.Array], jax.Array]
"""Log density of one point (D,), up to a constant."""


class Task(NamedTuple):
    """Standardised rows, and the columns to predict."""

    rows: np.ndarray
    """Rows to learn from, shape (N, D)."""
    test: np.ndarray
    """Test rows, shape (n, D)."""
    columns: tuple[int, ...]
    """Columns to predict, each given all others."""
    truth: Density | None = None
    """The normalised log density that the rows were drawn from, if known."""
    scale: np.ndarray | None = None
    """Standard deviations of real columns in their own units, shape (D,)."""

    def grid(self, column: int) -> np.ndarray:
        """A grid over the range of a column, extended by a tenth at both ends."""
        values = self.rows[:, column]
        margin = 0.1 * np.ptp(values)
        count = NUM_POINTS if len(self.columns) == 1 else NUM_POINTS_EACH
        return np.linspace(values.min() - margin, values.max() + margin, count)


def paper_mixture(dimension: int, num_rows: int, seed: int) -> tuple[Task, disco.MixtureReference]:
    """Mixture of twenty Gaussians: predict the last coordinate given the others.

    References:
        Wedenig & Peharz 2025.
    """
    rng = np.random.default_rng(42 + seed)
    means = rng.uniform(-4, 4, (20, dimension))
    factors = rng.standard_normal((20, dimension, dimension))
    covariances = factors @ np.swapaxes(factors, 1, 2) / 10
    weights = rng.uniform(size=20)
    weights /= weights.sum()

    def draw(count: int) -> np.ndarray:
        component = rng.choice(20, count, p=weights)
        noise = rng.standard_normal((count, dimension))
        steps = np.einsum("nij,nj->ni", factors[component], noise) / 10**0.5
        return means[component] + steps

    sample = draw(10_000)
    loc, scale = sample.mean(0), sample.std(0)
    covariances = covariances / np.multiply.outer(scale, scale) + 1e-6 * np.eye(dimension)
    truth = disco.MixtureReference(weights, (means - loc) / scale, covariances)
    rows, test = (draw(num_rows) - loc) / scale, (draw(100) - loc) / scale
    return Task(rows, test, (dimension - 1,), truth.log_prob), truth


def mixture(dimension: int, num_rows: int, seed: int) -> Task:
    """The task of `paper_mixture`."""
    return paper_mixture(dimension, num_rows, seed)[0]


def shape(name: str, num_rows: int, seed: int) -> Task:
    """Moons, a checkerboard or rings in the plane: predict the second coordinate."""
    rng = np.random.default_rng(seed)
    total = num_rows + 500
    if name == "moons":
        rows = make_moons(total, noise=NOISE, random_state=seed)[0]
    elif name == "checkerboard":
        x = rng.uniform(-2, 2, (4 * total, 2))
        rows = x[(np.floor(x).sum(1) % 2) == 0][:total]
    else:
        radius = rng.choice([1.0, 2.0, 3.0], total) + NOISE * rng.standard_normal(total)
        angle = rng.uniform(0, 2 * np.pi, total)
        rows = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    task, loc, scale = standardised(rows[rng.permutation(total)], (1,), num_rows, 500)
    log_density = SHAPES[name]()
    log_det = float(np.log(scale).sum())
    return task._replace(truth=lambda z: log_density(loc + scale * z) + log_det)


def moons() -> Density:
    """Log density of two noisy half circles, as a fine mixture of Gaussians along them."""
    angle = (np.arange(500) + 0.5) * np.pi / 500
    outer = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = jnp.asarray(np.concatenate([outer, [1.0, 0.5] - outer]))

    def log_density(x: jax.Array) -> jax.Array:
        components = norm.logpdf(x, points, NOISE).sum(-1)
        return jax.nn.logsumexp(components) - np.log(len(points))

    return log_density


def checkerboard() -> Density:
    """Log density of the uniform distribution on eight of sixteen squares."""

    def log_density(x: jax.Array) -> jax.Array:
        inside = (jnp.floor(x).sum() % 2 == 0) & (jnp.abs(x) < 2).all()
        return jnp.where(inside, -np.log(8.0), -jnp.inf)

    return log_density


def rings() -> Density:
    """Log density of three circles with a noisy radius; negative radii are neglected."""

    def log_density(x: jax.Array) -> jax.Array:
        radius = jnp.linalg.norm(x)
        log_radial = jax.nn.logsumexp(norm.logpdf(radius, jnp.array([1.0, 2.0, 3.0]), NOISE))
        return log_radial - np.log(3.0) - jnp.log(2 * np.pi * radius)

    return log_density


SHAPES = {"moons": moons, "checkerboard": checkerboard, "rings": rings}


def standardised(
    rows: np.ndarray, columns: tuple[int, ...], num_rows: int, num_test: int
) -> tuple[Task, np.ndarray, np.ndarray]:
    """Split off the last rows as test rows, and standardise by the means and scales of the others.

    Returns:
        The task, and the means and standard deviations, (D,) each.
    """
    rows, test = rows[:-num_test][:num_rows], rows[-num_test:]
    loc, scale = rows.mean(0), rows.std(0)
    task = Task((rows - loc) / scale, (test - loc) / scale, columns, scale=scale)
    return task, loc, scale


def real(name: str, num_test: int, num_rows: int, seed: int) -> Task:
    """A real table: predict the redshift of galaxies, or each column of another table in turn."""
    rows = np.random.default_rng(seed).permutation(TABLES[name]())
    columns = (0,) if name == "galaxies" else tuple(range(rows.shape[1]))
    return standardised(rows, columns, num_rows, num_test)[0]


TASKS: dict[str, Callable[[int, int], Task]] = {
    **{f"mixture_{d}": partial(mixture, d) for d in (2, 10, 50)},
    **{name: partial(shape, name) for name in SHAPES},
    "galaxies": partial(real, "galaxies", 500),
    "magic": partial(real, "magic", 1000),
    "texture": partial(real, "texture", 200),
}
"""From a number of rows and a seed to a task."""
