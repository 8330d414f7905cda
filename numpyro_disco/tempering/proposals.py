"""A Gaussian mixture fitted to particles, for draws that need no path.

Once particles are at b = 1, a density q fitted to them can be drawn afresh. The weights target / q
of such draws estimate the mass of the target without bias, whatever tuning came before, with a
variance that is known from the weights themselves. An independence Metropolis step with q moves
particles between modes, which no local move can do.

The fit is by expectation-maximisation (EM). Each component k has a wide copy of itself, which
bounds the weights:

    q(u) = sum_k w_k ((1 - WIDE_SHARE) N(u; m_k, S_k) + WIDE_SHARE N(u; m_k, WIDE S_k)).

References:
    South, Pettitt & Drovandi 2019 (independent proposals fitted to particles); Hesterberg 1995
    (the wide component); Arthur & Vassilvitskii 2007 (k-means++).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from numpyro_disco._gaussians import cholesky_or_diagonal, component_distances
from numpyro_disco._typing import Array
from numpyro_disco.tempering.noise import signed_uniforms, to_normal
from numpyro_disco.tempering.resampling import cumulative_sum
from numpyro_disco.tempering.whitening import shrinkage

MOST_COMPONENTS = 8
"""Largest number of components."""
NUM_ITERATIONS = 11
"""Iterations of EM."""
NUM_CANDIDATES = 8
"""Candidates for each seed of the components; the best one is taken."""
GOLDEN_RATIO = 0.618034
"""Step, modulo 1, of the sequence from which the candidates are taken."""
INFLATION = 1.1
"""Smallest factor of the fitted covariances."""
FOR_FEW = 2.5
"""Inflation of covariances in units of d / n. A fit to n particles of a Gaussian in d dimensions is
too narrow in some directions; weights vary least when it is widened by about 1 + 2.5 d / n."""
MOST_INFLATION = 1.6
"""Largest factor of the fitted covariances."""
WIDE_SHARE, WIDE = 0.1, 4.0
"""Share of draws that come from the wide copies, and the factor of their covariances."""


class Proposal(NamedTuple):
    """A mixture of K Gaussians over u, each with a wide copy of itself."""

    log_weights: Array
    """Log weights of the components, shape (K,)."""
    means: Array
    """Shape (K, d)."""
    factors: Array
    """Lower-triangular factors of the covariances, shape (K, d, d)."""
    free: Array
    """Shape (d,): a coordinate with 0 is a constant, and no part of the density."""

    def draw(self, rng_key: Array, num_draws: int) -> tuple[Array, Array]:
        """Draw from the mixture.

        Args:
            rng_key: random key.
            num_draws: number of draws, n.

        Returns:
            Draws, shape (n, d), and an independent uniform number beside each, shape (n,).
        """
        # One call for all that is random: each further call is slow to compile.
        dimension = len(self.free)
        signed = signed_uniforms(rng_key, (num_draws, dimension + 3), self.means.dtype)
        uniform = 0.5 * (1 - signed[:, dimension:])
        wide = uniform[:, :1] < WIDE_SHARE
        cumulative = jnp.cumsum(jnp.exp(self.log_weights))
        component = (cumulative[:-1] < uniform[:, 1:2] * cumulative[-1]).sum(1)
        normal = to_normal(signed[:, :dimension])
        noise = self.free * normal * jnp.where(wide, WIDE**0.5, 1.0)
        steps = noise @ jnp.swapaxes(self.factors, 1, 2)
        chosen = jax.nn.one_hot(component, len(self.means), dtype=noise.dtype)
        shift = (chosen.T[:, :, None] * steps).sum(0)
        return chosen @ self.means + self.free * shift, uniform[:, 2]

    def log_prob(self, position: Array) -> Array:
        """Log density of positions (n, d), shape (n,)."""
        square, constant = component_distances(position, self.means, self.factors, self.free)
        constant = self.log_weights + constant
        narrow = constant - 0.5 * square + jnp.log(1 - WIDE_SHARE)
        wide = constant - 0.5 * square / WIDE - 0.5 * self.free.sum() * jnp.log(WIDE)
        return logsumexp(jnp.logaddexp(narrow, wide + jnp.log(WIDE_SHARE)), axis=1)


def num_components(num_particles: int, dimension: int) -> int:
    """Number of components with two particles for every parameter, from 1 to 8."""
    return max(1, min(MOST_COMPONENTS, num_particles // max(dimension, 4) ** 2))


class Standardized(NamedTuple):
    """Particles with mean 0 and deviation 1; a constant coordinate is 0."""

    x: Array
    """Shape (n, d)."""
    loc: Array
    """Origin in the units of u, shape (d,)."""
    scale: Array
    """Unit in the units of u, shape (d,)."""
    free: Array
    """Shape (d,): a coordinate with 0 is a constant."""


class Fit(NamedTuple):
    """The progress of EM, in standardised coordinates."""

    share: Array
    """Probabilities that particles belong to components, shape (n, K)."""
    total: Array
    """Number of particles that each component was fitted to, shape (K,)."""
    log_weights: Array
    """Shape (K,)."""
    means: Array
    """Shape (K, d)."""
    factors: Array
    """Lower-triangular factors of the covariances, shape (K, d, d)."""


def fit_proposal(position: Array, free: Array) -> Proposal:
    """Fit a mixture to equally weighted particles by expectation-maximisation.

    Args:
        position: particles, shape (n, d).
        free: 0/1 array (d,): coordinates with 0 are constants.

    Returns:
        A `Proposal`, somewhat wider than the particles.

    Example:
        >>> position = jax.random.normal(jax.random.key(0), (100, 2))
        >>> fit_proposal(position, jnp.ones(2)).means.shape
        (6, 2)
    """
    count, dimension = position.shape
    components = num_components(count, dimension)
    points = standardize(position, free)
    share = start_shares(points.x, components)
    zeros = jnp.zeros((components, dimension, dimension), position.dtype)
    start = Fit(share, zeros[:, 0, 0], zeros[:, 0, 0], zeros[:, 0], zeros)
    num_iterations = 1 if components == 1 else NUM_ITERATIONS

    # Maximisation comes first, so that it occurs once in the program; the last shares are unused.
    def iterate(_: int, fit: Fit) -> Fit:
        fit = maximize(points, fit.share)
        square, constant = component_distances(points.x, fit.means, fit.factors, free)
        share = jax.nn.softmax(fit.log_weights + constant - 0.5 * square, axis=1)
        return fit._replace(share=share)

    return widen(points, jax.lax.fori_loop(0, num_iterations, iterate, start))


def standardize(position: Array, free: Array) -> Standardized:
    """Standardise particles (n, d)."""
    loc = jnp.where(free > 0, position.mean(0), position[0])
    scale = jnp.where(free > 0, jnp.maximum(position.std(0), 1e-30), 1.0)
    return Standardized(free * (position - loc) / scale, loc, scale, free)


def start_shares(x: Array, components: int) -> Array:
    """Assign particles to the nearest of some seeds far from each other (greedy k-means++).

    Of some candidates, drawn with probability proportional to the squared distance to the nearest
    seed, the next seed is the one that leaves the least of it. So a small mode gets a seed of its
    own. In place of random numbers there is a sequence spread evenly over (0, 1).

    Args:
        x: standardised particles, shape (n, d).
        components: number of seeds, K.

    Returns:
        Zeros and ones of shape (n, K).
    """
    count = len(x)
    if components == 1:
        return jnp.ones((count, 1), x.dtype)

    def seed(index: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        seeds, nearest = carry
        cumulative = cumulative_sum(nearest)
        place = (index * NUM_CANDIDATES + jnp.arange(NUM_CANDIDATES)) * GOLDEN_RATIO % 1.0
        # Comparing with all compiles faster than a binary search.
        places = place * cumulative[-1]
        found = jnp.searchsorted(cumulative, places, method="compare_all").clip(max=count - 1)
        candidates = x[found]
        left = jnp.minimum(nearest, ((x - candidates[:, None]) ** 2).sum(-1))
        best = left.sum(1).argmin()
        seeds = jax.lax.dynamic_update_index_in_dim(seeds, candidates[best], index, 0)
        return seeds, left[best]

    seeds = jnp.broadcast_to(x[0], (components, x.shape[1]))
    nearest = ((x - x[0]) ** 2).sum(-1)
    seeds, _ = jax.lax.fori_loop(1, components, seed, (seeds, nearest))
    distance = ((x[:, None] - seeds[None]) ** 2).sum(-1)
    return jax.nn.one_hot(distance.argmin(1), components, dtype=x.dtype)


def maximize(points: Standardized, share: Array) -> Fit:
    """Fit components to the particles that belong to them.

    Args:
        points: standardised particles.
        share: probabilities that particles belong to components, shape (n, K).

    Returns:
        The components, with `share` as it was given.
    """
    count, components = share.shape
    total = share.sum(0)
    means = (share.T @ points.x) / jnp.maximum(total, 1e-6)[:, None]
    factors = cholesky_or_diagonal(covariances(points, share, means))
    return Fit(share, total, jnp.log((total + 1) / (count + components)), means, factors)


def covariances(points: Standardized, share: Array, means: Array) -> Array:
    """Regular covariances of the components, shape (K, d, d)."""
    count, dimension = points.x.shape
    dtype = points.x.dtype
    eye = jnp.eye(dimension, dtype=dtype)
    total = jnp.maximum(share.sum(0), 1.0)
    residual = points.x[None] - means[:, None]
    scatter = jnp.swapaxes(residual * share.T[:, :, None], 1, 2) @ residual
    # Components of few particles shrink towards their own diagonals. Borrowing from the others
    # would hide a narrow mode beside a wide one.
    own = scatter / total[:, None, None]
    shrunk = own * (1 - shrinkage(dimension, total)[:, None, None] * (1 - eye))
    within = jnp.trace(scatter.sum(0) / count) / dimension
    ridge = 64 * jnp.finfo(dtype).eps * jnp.maximum(within, 1e-3)
    # A constant coordinate has variance 1, which leaves the factor regular.
    return shrunk + ridge * eye + eye * (1 - points.free)


def widen(points: Standardized, fit: Fit) -> Proposal:
    """Inflate the fitted covariances, and go back to the units of u."""
    free, eye = points.free, jnp.eye(len(points.free), dtype=points.x.dtype)
    means = points.loc + points.scale * fit.means
    inflation = 1 + FOR_FEW * free.sum() / jnp.maximum(fit.total, 1.0)
    inflation = jnp.clip(inflation, INFLATION, MOST_INFLATION)[:, None, None]
    factors = fit.factors * points.scale[:, None] * jnp.sqrt(inflation)
    factors = jnp.where(eye * (1 - free) > 0, eye, factors)
    return Proposal(fit.log_weights, means, factors, free)
