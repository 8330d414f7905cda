"""A Gaussian mixture fitted to particles, for draws that need no path.

Once particles are at b = 1, a density q fitted to them can be drawn afresh. The weights
target / q of such draws estimate the target's mass without bias, whatever tuning came before,
with a variance that is known from the weights themselves; and an independence Metropolis step
with q moves particles between modes, which no local move can.

References:
    South, Pettitt & Drovandi 2019 (independent proposals fitted to particles); Hesterberg 1995
    (the wide component that bounds the weights).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from numpyro_disco._typing import Array

MOST_COMPONENTS = 8
NUM_ITERATIONS = 11
NUM_CANDIDATES, GOLDEN_RATIO = 8, 0.618034
INFLATION, FOR_FEW, MOST_INFLATION = 1.1, 2.5, 1.6
"""Of each fitted covariance: at least, times d / n, and at most. A fit to n particles of a Gaussian
in d dimensions is too narrow in some directions; weights vary least when it is widened by about
1 + 2.5 d / n."""
WIDE_SHARE, WIDE = 0.1, 4.0
"""Share of draws that come from components with covariances so many times wider."""


class Proposal(NamedTuple):
    """A mixture of K Gaussians over u, each with a wide copy of itself."""

    log_weights: Array
    """Shape (K,)."""
    means: Array
    """Shape (K, d)."""
    factors: Array
    """Lower-triangular factors of the covariances, (K, d, d)."""
    free: Array
    """Shape (d,): a coordinate with 0 is a constant, and no part of the density."""

    def draw(self, rng_key: Array, num_draws: int) -> tuple[Array, Array]:
        """Draws, shape (num_draws, d), and a uniform number beside each, shape (num_draws,)."""
        # One call for all that is random: each of its own takes long to compile.
        dimension = len(self.free)
        noise = jax.random.normal(rng_key, (num_draws, dimension + 3), self.means.dtype)
        uniform = jax.scipy.special.ndtr(noise[:, dimension:])
        wide = uniform[:, :1] < WIDE_SHARE
        cumulative = jnp.cumsum(jnp.exp(self.log_weights))
        component = (cumulative[:-1] < uniform[:, 1:2] * cumulative[-1]).sum(1)
        noise = self.free * noise[:, :dimension] * jnp.where(wide, WIDE**0.5, 1.0)
        steps = noise @ jnp.swapaxes(self.factors, 1, 2)
        chosen = jax.nn.one_hot(component, len(self.means), dtype=noise.dtype)
        shift = (chosen.T[:, :, None] * steps).sum(0)
        return chosen @ self.means + self.free * shift, uniform[:, 2]

    def log_prob(self, position: Array) -> Array:
        """Log density of positions (n, d), shape (n,)."""
        square, constant = _squares(position, self.means, self.factors, self.free)
        constant = self.log_weights + constant
        narrow = constant - 0.5 * square + jnp.log(1 - WIDE_SHARE)
        dimension = self.free.sum()
        wide = constant - 0.5 * square / WIDE - 0.5 * dimension * jnp.log(WIDE)
        return logsumexp(jnp.logaddexp(narrow, wide + jnp.log(WIDE_SHARE)), axis=1)


def _squares(position: Array, means: Array, factors: Array, free: Array) -> tuple[Array, Array]:
    """Squared distance to each component in its own metric, (n, K), and log det terms, (K,)."""
    eye = jnp.broadcast_to(jnp.eye(len(free), dtype=factors.dtype), factors.shape)
    inverse = jax.scipy.linalg.solve_triangular(factors, eye, lower=True)
    residual = (position[None] - means[:, None]) * free
    white = residual @ jnp.swapaxes(inverse, 1, 2)
    log_det = jnp.log(jnp.diagonal(factors, axis1=1, axis2=2)).sum(1)
    return (white**2).sum(2).T, -log_det - 0.5 * jnp.log(2 * jnp.pi) * free.sum()


def num_components(num_particles: int, dimension: int) -> int:
    """As many as leave two particles for every parameter, and at most 8."""
    return max(1, min(MOST_COMPONENTS, num_particles // max(dimension, 4) ** 2))


class _Fit(NamedTuple):
    """Where the fit stands, in standardised coordinates."""

    share: Array
    """Probabilities that particles belong to components, (n, K)."""
    total: Array
    """Particles that the components were fitted to, (K,)."""
    log_weights: Array
    means: Array
    factors: Array


def fit_proposal(position: Array, free: Array) -> Proposal:
    """Fit a mixture to equally weighted particles by expectation-maximisation.

    Args:
        position: particles, shape (n, d).
        free: 0/1 array (d,): coordinates with 0 are constants.

    Returns:
        A `Proposal`, somewhat wider than the particles.
    """
    count, dimension = position.shape
    dtype = position.dtype
    components = num_components(count, dimension)
    loc = jnp.where(free > 0, position.mean(0), position[0])
    scale = jnp.where(free > 0, jnp.maximum(position.std(0), 1e-30), 1.0)
    x = free * (position - loc) / scale
    eye = jnp.eye(dimension, dtype=dtype)
    clamped = eye * (1 - free)

    def covariances(share: Array, means: Array) -> Array:
        total = share.sum(0)
        residual = x[None] - means[:, None]
        scatter = jnp.swapaxes(residual * share.T[:, :, None], 1, 2) @ residual
        # Components of few particles shrink towards their own diagonals. Borrowing from the others
        # would hide a narrow mode beside a wide one.
        within = scatter.sum(0) / count
        own = scatter / jnp.maximum(total, 1.0)[:, None, None]
        # With enough particles nothing may be left of it: it would hide narrow directions.
        share_of_diagonal = jnp.minimum((dimension / jnp.maximum(total, 1.0)) ** 6, 1.0)
        share_of_diagonal = share_of_diagonal[:, None, None]
        pooled = own * (1 - share_of_diagonal * (1 - eye))
        ridge = 64 * jnp.finfo(dtype).eps * jnp.maximum(jnp.trace(within) / dimension, 1e-3)
        return pooled + ridge * eye + clamped

    def maximise(share: Array) -> tuple[Array, Array, Array]:
        total = share.sum(0)
        means = (share.T @ x) / jnp.maximum(total, 1e-6)[:, None]
        covariance = covariances(share, means)
        factors = jnp.linalg.cholesky(covariance)
        # Rounding can leave a singular matrix none; the deviations alone always serve.
        deviation = jnp.sqrt(jnp.maximum(jnp.diagonal(covariance, axis1=1, axis2=2), 0))
        sound = jnp.isfinite(factors).all((1, 2), keepdims=True)
        factors = jnp.where(sound, factors, deviation[:, :, None] * eye)
        return jnp.log((total + 1) / (count + components)), means, factors

    # Maximisation first, so that it stands once in the program: the last shares go unused.
    def iterate(_: int, fit: _Fit) -> _Fit:
        log_weights, means, factors = maximise(fit.share)
        square, constant = _squares(x, means, factors, free)
        share = jax.nn.softmax(log_weights + constant - 0.5 * square, axis=1)
        return _Fit(share, fit.share.sum(0), log_weights, means, factors)

    # Seeds far from each other: of some candidates, drawn with probability as the squared distance
    # to the nearest seed, the one that leaves the least of it (greedy k-means++), so that a small
    # mode gets one of its own. What is random about it is a sequence spread over (0, 1).
    def seed(index: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        seeds, nearest = carry
        cumulative = jnp.cumsum(nearest)
        place = (index * NUM_CANDIDATES + jnp.arange(NUM_CANDIDATES)) * GOLDEN_RATIO % 1.0
        found = jnp.searchsorted(cumulative, place * cumulative[-1]).clip(max=count - 1)
        candidates = x[found]
        left = jnp.minimum(nearest, ((x - candidates[:, None]) ** 2).sum(-1))
        best = left.sum(1).argmin()
        return seeds.at[index].set(candidates[best]), left[best]

    if components == 1:
        share = jnp.ones((count, 1), dtype)
    else:
        seeds = jnp.broadcast_to(x[0], (components, dimension))
        nearest = ((x - x[0]) ** 2).sum(-1)
        seeds, _ = jax.lax.fori_loop(1, components, seed, (seeds, nearest))
        distance = ((x[:, None] - seeds[None]) ** 2).sum(-1)
        share = jax.nn.one_hot(distance.argmin(1), components, dtype=dtype)
    nothing = jnp.zeros((components, dimension, dimension), dtype)
    start = _Fit(share, nothing[:, 0, 0], nothing[:, 0, 0], nothing[:, 0], nothing)
    num_iterations = 1 if components == 1 else NUM_ITERATIONS
    _, total, log_weights, means, factors = jax.lax.fori_loop(0, num_iterations, iterate, start)
    means = loc + scale * means
    inflation = 1 + FOR_FEW * free.sum() / jnp.maximum(total, 1.0)
    inflation = jnp.clip(inflation, INFLATION, MOST_INFLATION)[:, None, None]
    factors = factors * scale[:, None] * jnp.sqrt(inflation)
    factors = jnp.where(clamped > 0, eye, factors)
    return Proposal(log_weights, means, factors, free)
