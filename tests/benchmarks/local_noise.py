"""DISCO with noise in the shape of the reference's components, and without the row behind a point.

Rows are assigned to components of a mixture. A row of component k is perturbed by sigma(t) L_k eps,
with L_k L_k^T the covariance of the component, so the smoothed rows are a kernel density of
variable bandwidth,

    p_0(x) = mean_i N(x; r_i, sigma_0^2 L_k L_k^T),    k = k(i),

whose score and log density are as exact as those of equal kernels. With one component and L = I
they are those of `disco.Disco`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import numpyro_disco as disco
from numpyro_disco.energy.learned import Learned
from numpyro_disco.training.objectives.disco import NoisyPointsObjective
from numpyro_disco.training.objectives.losses import density_loss

CHUNK = 256
"""Rows of one component that are compared with all points at a time."""
LOG_2_PI = float(np.log(2 * np.pi))


class LocalRows(NamedTuple):
    """Training rows in chunks, each of rows of one component."""

    white: jax.Array
    """Rows in units of their component, shape (chunks, CHUNK, D)."""
    places: jax.Array
    """Places of these rows among all rows, -1 for padding, shape (chunks, CHUNK)."""
    chunk_component: jax.Array
    """Component of each chunk, shape (chunks,)."""
    component: jax.Array
    """Component of each row, shape (N,)."""
    means: jax.Array
    """Shape (K, D)."""
    whiteners: jax.Array
    """Inverses of `factors`, shape (K, D, D)."""
    factors: jax.Array
    """L_k, shape (K, D, D)."""


class LocalPosterior(NamedTuple):
    """What all rows together say about B points."""

    score: jax.Array
    """Score of the smoothed rows, shape (B, D)."""
    log_density: jax.Array
    """Their log density, shape (B,)."""
    largest: jax.Array
    """Posterior probability of the likeliest row, shape (B,)."""


class LocalBatch(NamedTuple):
    """Noisy points and their targets."""

    points: jax.Array
    """Shape (B, D)."""
    score: jax.Array
    """Shape (B, D)."""
    factor: jax.Array
    """L_k of the row behind each point, shape (B, D, D)."""
    proposal_scale: jax.Array
    """Shape (B,)."""
    log_density: jax.Array
    """Shape (B,)."""
    depth: jax.Array
    """Difference of the log density to the highest in the batch, shape (B,)."""
    largest: jax.Array
    """Shape (B,)."""


def local_rows(rows: np.ndarray, mixture: Any | None) -> LocalRows:
    """Assign rows (N, D) to components at random, by how likely each is; None is one round one."""
    dimension = rows.shape[1]
    if mixture is None:
        means, whiteners = np.zeros((1, dimension)), np.eye(dimension)[None]
        component = np.zeros(len(rows), int)
    else:
        found = mixture.components()
        means, whiteners = (np.asarray(a, np.float64) for a in (found.means, found.whiteners))
        component = drawn_components(mixture, rows)
    chunks = [
        np.pad(part, (0, -len(part) % CHUNK), constant_values=-1).reshape(-1, CHUNK)
        for part in (np.flatnonzero(component == k) for k in range(len(means)))
    ]
    chunk_component = np.repeat(np.arange(len(means)), [len(chunk) for chunk in chunks])
    index = np.concatenate(chunks)
    offsets = rows[index] - means[chunk_component][:, None]
    white = np.einsum("cde,cne->cnd", whiteners[chunk_component], offsets)
    floats = (jnp.asarray(a, jnp.float32) for a in (means, whiteners, np.linalg.inv(whiteners)))
    places = (jnp.asarray(a) for a in (index, chunk_component, component))
    return LocalRows(jnp.asarray(white, jnp.float32), *places, *floats)


def drawn_components(mixture: Any, rows: np.ndarray) -> np.ndarray:
    """A component for each row, drawn from the posterior over components, shape (N,)."""
    features = jax.jit(lambda x: mixture.describe(x)[1])(jnp.asarray(rows, jnp.float32))
    shares = np.asarray(features, np.float64)[:, rows.shape[1] :]
    ends = np.cumsum(shares, axis=1)
    thresholds = np.random.default_rng(0).uniform(size=(len(rows), 1)) * ends[:, -1:]
    return (ends <= thresholds).sum(1).clip(max=shares.shape[1] - 1)


def local_posterior(
    points: jax.Array, own: jax.Array, rows: LocalRows, noise_scale: float | jax.Array
) -> LocalPosterior:
    """Score and log density of the smoothed rows at points (B, D), without the rows `own` (B,)."""
    precision = 1 / noise_scale**2
    log_dets = jnp.linalg.slogdet(rows.whiteners)[1]

    def read(running: Any, chunk: Any) -> tuple[Any, None]:
        white, places, component = chunk
        whitener = rows.whiteners[component]
        at = (points - rows.means[component]) @ whitener.T
        square = (at**2).sum(-1)[:, None] - 2 * at @ white.T + (white**2).sum(-1)
        logits = log_dets[component] - 0.5 * precision * square
        logits = jnp.where((places < 0) | (places == own[:, None]), -jnp.inf, logits)
        maximum, total, pull = running
        highest = jnp.maximum(maximum, logits.max(axis=1))
        shrink, weights = jnp.exp(maximum - highest), jnp.exp(logits - highest[:, None])
        added = weights.sum(axis=1)
        toward = (weights @ white - added[:, None] * at) @ whitener
        return (highest, total * shrink + added, pull * shrink[:, None] + toward), None

    lowest = jnp.full(len(points), jnp.finfo(points.dtype).min)
    start = lowest, jnp.zeros(len(points)), jnp.zeros_like(points)
    chunks = rows.white, rows.places, rows.chunk_component
    (maximum, total, pull), _ = jax.lax.scan(read, start, chunks)
    count = len(rows.component) - (own >= 0)
    constant = 0.5 * points.shape[1] * (LOG_2_PI - jnp.log(precision))
    log_density = maximum + jnp.log(total) - jnp.log(count) - constant
    return LocalPosterior(precision * pull / total[:, None], log_density, 1 / total)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalDisco(NoisyPointsObjective):
    """DISCO with the noise of `rows`; residuals are in units of the component behind each point."""

    rows: LocalRows = dataclasses.field(compare=False, repr=False)
    shaped: bool
    left_out: bool
    antithetic: bool
    density_weight: float
    posterior_rows: int | str | None = "all"

    def round_data(self, rng_key: Any, rows: Any, model: Learned, batch_size: int) -> Any:
        """All rows, and the same in chunks."""
        return rows, self.rows

    def noisy_batch(self, rng_key: Any, rows: Any, batch_size: int) -> Any:
        """One batch of noisy points with their targets."""
        every, local = rows
        row_key, level_key, noise_key = jax.random.split(rng_key, 3)
        num_chosen = batch_size // 2 if self.antithetic else batch_size
        index = jax.random.randint(row_key, (num_chosen,), 0, len(every.values))
        scale = self.levels(level_key, (num_chosen,))
        noise = jax.random.normal(noise_key, (num_chosen, every.values.shape[1]))
        if self.antithetic:
            index, scale = jnp.tile(index, 2), jnp.tile(scale, 2)
            noise = jnp.concatenate([noise, -noise])
        factor = local.factors[local.component[index]]
        steps = jnp.einsum("nde,ne->nd", factor, noise)
        points = every.values[index] + scale[:, None] * steps
        own = index if self.left_out else jnp.full_like(index, -1)
        found = local_posterior(points, own, local, self.resolution)
        depth = found.log_density.max() - found.log_density
        return LocalBatch(
            points, found.score, factor, scale, found.log_density, depth, found.largest
        )

    def loss(self, model: Any, *example: jax.Array) -> jax.Array:
        """DISCO loss in units of the noise, and weighted log-density loss, at one noisy point."""
        x, target, factor, scale, log_density, depth, largest = example
        energy, slope = jax.value_and_grad(model.standardized)(x)
        error = self.resolution**2 * factor.T @ (target + slope) / scale
        height_loss = density_loss(energy, log_density, depth, largest)
        return (error**2).mean() + self.density_weight * height_loss

    def held_out_noise(self, rng_key: Any, rows: Any, repeats: int, model: Learned) -> Any:
        """Standard normal numbers, and the factor of each row's component."""
        noise = super().held_out_noise(rng_key, rows, repeats, model)
        component = np.zeros(len(rows), int)
        if self.shaped:
            component = drawn_components(model.reference, np.asarray(rows))
        factor = self.rows.factors[component]
        return noise, jnp.broadcast_to(factor[:, None], (len(rows), repeats, *factor.shape[1:]))

    def held_out_loss(self, model: Any, row: jax.Array, noise: Any) -> jax.Array:
        """Denoising score matching at sigma_0, in units of the noise."""
        normal, factor = noise

        def one(epsilon: jax.Array) -> jax.Array:
            slope = (
                self.resolution * factor.T @ model.score(row + self.resolution * factor @ epsilon)
            )
            return (slope**2 + 2 * slope * epsilon).mean()

        return 0.5 * (one(normal) + one(-normal))


def smoothed_reference(mixture: Any, scale: float, shaped: bool) -> Any:
    """The mixture smoothed like the rows."""
    if not shaped:
        return mixture.smoothed(scale)
    found = mixture.components()
    inflated = (1 + scale**2) * found.covariances
    return disco.MixtureReference(jnp.exp(found.log_weights), found.means, inflated)
