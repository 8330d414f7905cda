"""Draws from conditionals of an energy by importance sampling from its reference.

Points x_1, ..., x_M are drawn from the reference's conditional q and weighted by

    w_i = exp(-E(x_i)) / q(x_i).

The mean weight estimates the integral of exp(-E) over the free coordinates without bias. Points
that are resampled in proportion to their weights are draws of the conditional, asymptotically
exact as M grows. Nothing has to move, so where q is close to the target this takes a fraction of
the time of tempering. `Judgement` says where that is.

Points are drawn in *blocks* of 1024 for one row, and a fixed number of blocks is one call of one
compiled program. It serves few rows with many draws as well as many rows with few draws, and every
pattern of observed coordinates.

References:
    Rubin 1988 (sampling importance resampling); Kong 1992 (effective sample size); Zhang & Stephens
    2009 (fit of a generalised Pareto distribution); Vehtari, Simpson, Gelman, Yao & Gabry 2024
    (Pareto k as a diagnostic of importance sampling).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax
import numpy as np
from scipy.special import logsumexp

from numpyro_disco._compiling import compiler_options
from numpyro_disco._statistics import log_mean
from numpyro_disco._typing import Array, EnergyFn
from numpyro_disco.references.base import Reference
from numpyro_disco.supports.coordinates import CoordinateSupports
from numpyro_disco.tempering.noise import quick_key

BLOCK = 1024
"""Points in a block."""
MOST_BLOCKS = 32
"""Most blocks in one call of the compiled program."""
MOST_NUMBERS = 2**22
"""Most numbers in the points of one call; bounds memory where there are many coordinates."""
ESS_PER_DRAW = 2
"""Least effective sample size of the weights for each draw that is asked for. The weights then add
at most half of the variance that as many independent draws have."""
IMPORTANCE, TEMPERING = 0, 1
"""Numbers folded into a random key, for importance sampling and for tempering."""
LEAST_ESS = 200
"""Least effective sample size, however few draws are asked for."""
MOST_COPIES = 0.01
"""Largest expected share of draws that are copies of another draw."""
LEAST_EXCESS = 1e-3
"""Share by which the largest weights have to exceed the others before they count as a tail."""
MOST_PARETO_K = 0.7
"""Largest Pareto k at which the effective sample size can be trusted."""
FEW, MOST_OF_FEW = 10, 0.1
"""Number of the largest weights, and the largest share of the sum of squares that they may hold."""


class ScaledEnergy(NamedTuple):
    """An energy over D unconstrained coordinates, with the properties that sampling needs."""

    energy_fn: EnergyFn
    """The energy of one point, (D,) to (), a callable pytree."""
    inverse_temperature: Array
    """Factor of the energy, shape ()."""
    reference: Reference
    """The normalised density over the same coordinates from which sampling starts."""
    loc: Array
    """Origin of the coordinates in which particles move, shape (D,)."""
    scale: Array
    """Unit of those coordinates, shape (D,)."""


class Points(NamedTuple):
    """Weighted points of one row."""

    x: np.ndarray
    """Points in the user's units, shape (M, D); entries of observed coordinates mean nothing."""
    log_weights: np.ndarray
    """Log of exp(-E) / q in unconstrained space, shape (M,)."""

    def join(self, other: Points) -> Points:
        """These points followed by others."""
        return Points(*(np.concatenate(both) for both in zip(self, other, strict=True)))


def blocks_at_once(dimension: int) -> int:
    """Number of blocks in one call of the compiled program."""
    return int(np.clip(MOST_NUMBERS // (BLOCK * dimension), 1, MOST_BLOCKS))


def weighted_blocks(
    rng_key: Array,
    row: Array,
    block: Array,
    energy: ScaledEnergy,
    values: Array,
    observed: Array,
    *,
    supports: CoordinateSupports,
) -> tuple[Array, Array]:
    """Draw and weigh the points of some blocks, each for a row of its own.

    Args:
        rng_key: random key of the whole call.
        row: number of each block's row, shape (B,).
        block: number of the block among those of its row, shape (B,).
        energy: the joint energy.
        values: unconstrained values of the rows, shape (B, D).
        observed: boolean array (B, D). Another pattern does not compile again.
        supports: maps from unconstrained space to the user's units.

    Returns:
        Points (B, 1024, D) in the user's units and their log weights (B, 1024).
    """
    base_key = jax.random.fold_in(rng_key, IMPORTANCE)

    def draw_block(one: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        row, block, value, seen = one
        key = quick_key(jax.random.fold_in(jax.random.fold_in(base_key, row), block))
        reference = energy.reference.condition(value, seen)
        y = reference.sample(key, (BLOCK,))
        log_target = -energy.inverse_temperature * jax.vmap(energy.energy_fn)(y)
        return y, log_target - reference.log_prob(y)

    # One block at a time: the intermediate arrays of a block fit the cache of a processor, and
    # those of all blocks do not.
    y, log_weights = jax.lax.map(draw_block, (row, block, values, observed))
    return supports.constrain(y), log_weights


@cache
def compiled_blocks() -> Callable[..., tuple[Array, Array]]:
    """`weighted_blocks` as one compiled program, made once the devices are known."""
    return jax.jit(
        weighted_blocks,
        static_argnames="supports",
        compiler_options=compiler_options(fuse_by_llvm=False),
    )


class Judgement(NamedTuple):
    """Quality of weighted points, and the decision whether they are enough."""

    weight_ess: float
    """Effective sample size of the weights; 0 if there is no finite, positive weight."""
    pareto_k: float
    """Shape of the generalised Pareto distribution fitted to the largest weights."""
    copies: float
    """Expected share of resampled draws that are copies of another draw."""
    required: float
    """Least effective sample size."""
    few: float = 1.0
    """Share of the sum of squared weights that the ten largest hold."""
    in_steps: bool = False
    """True if the weights may come in steps, one for each combination of levels."""

    @property
    def enough(self) -> bool:
        """True if the draws are as good as those that are asked for."""
        return (
            self.weight_ess >= self.required and self.has_light_tail and self.copies <= MOST_COPIES
        )

    @property
    def has_light_tail(self) -> bool:
        """True if the effective sample size can be trusted.

        No Pareto distribution fits weights that come in steps, however well they are bounded. They
        are trusted as well if the sum of their squares, on which the effective sample size rests,
        does not come from a few of them: with k above 0.5 it does.
        """
        return self.pareto_k <= MOST_PARETO_K or (self.in_steps and self.few <= MOST_OF_FEW)

    @property
    def growth(self) -> float:
        """Factor by which the number of points has to grow, by what these points show."""
        if self.weight_ess == 0:
            return np.inf
        return max(2.0, 1.3 * self.required / self.weight_ess)


def judge(
    log_weights: np.ndarray, num_samples: int, required: float, *, in_steps: bool = False
) -> Judgement:
    """Judge weighted points by the effective number, the tail and the largest of their weights.

    Args:
        log_weights: shape (M,).
        num_samples: number of draws to resample, or 0.
        required: least effective sample size.
        in_steps: the weights may come in steps, because a discrete coordinate is free.
    """
    largest = log_weights.max()
    if not np.isfinite(largest) or np.isnan(log_weights).any():
        return Judgement(0.0, np.inf, 1.0, required)
    weights = np.exp(log_weights.astype(np.float64) - largest)
    shares = weights / weights.sum()
    excess = np.maximum(num_samples * shares - 1, 0).sum() / max(num_samples, 1)
    squares = float(shares @ shares)
    few = float((np.partition(shares, -FEW)[-FEW:] ** 2).sum()) / squares
    return Judgement(1 / squares, pareto_k(weights), float(excess), required, few, in_steps)


def pareto_k(weights: np.ndarray) -> float:
    """Shape of the generalised Pareto distribution fitted to the largest weights.

    The fit is the approximate posterior mean of Zhang & Stephens, shrunk towards 0.5 as in
    Vehtari et al. A variance is finite below 0.5; estimates are unreliable above 0.7.

    Args:
        weights: non-negative, shape (M,), at least 25 of them.

    Example:
        >>> uniform = (np.arange(1000) + 0.5) / 1000
        >>> round(pareto_k(uniform**-0.25), 1)
        0.3
    """
    count = int(np.ceil(min(0.2 * len(weights), 3 * np.sqrt(len(weights)))))
    tail = np.sort(np.partition(weights, len(weights) - count - 1)[-count - 1 :])
    excess = tail[1:] - tail[0]
    # Weights that are equal up to rounding, as of an energy that is its own reference, have no
    # tail, and differences in the last digit follow no Pareto distribution.
    if excess[-1] <= LEAST_EXCESS * tail[-1] or excess[0] < 0:
        return 0.0
    excess = np.maximum(excess, 1e-12 * excess[-1])
    num_trials = 30 + int(np.sqrt(count))
    trials = 1 - np.sqrt(num_trials / (np.arange(1, num_trials + 1) - 0.5))
    trials = trials / (3 * excess[int(count / 4 + 0.5) - 1]) + 1 / excess[-1]
    shapes = np.log1p(-trials[:, None] * excess).mean(axis=1)
    log_likelihood = count * (np.log(-trials / shapes) - shapes - 1)
    posterior = np.exp(log_likelihood - logsumexp(log_likelihood))
    shape = np.log1p(-(posterior @ trials) * excess).mean()
    return float((count * shape + 10 * 0.5) / (count + 10))


def log_integral(log_weights: np.ndarray, num_groups: int) -> tuple[float, float]:
    """Log of the mean weight, and its standard error from the spread between groups of blocks.

    Args:
        log_weights: shape (M,), a whole number of blocks for each group.
        num_groups: independent groups; the error of a single one is NaN.

    Returns:
        Estimate and standard error.
    """
    blocks = log_weights.astype(np.float64).reshape(-1, num_groups, BLOCK)
    estimate, error = log_mean(logsumexp(blocks, axis=(0, 2)) - np.log(len(blocks) * BLOCK))
    return float(estimate), float(error)


def resample(
    generator: np.random.Generator, log_weights: np.ndarray, num_samples: int
) -> np.ndarray:
    """Systematic resampling on the host, in random order.

    It is NumPy's, unlike that of `tempering.resampling`: JAX would compile it for each number of
    points and of draws.

    Args:
        generator: source of random numbers.
        log_weights: shape (M,).
        num_samples: number of draws, n.

    Returns:
        Indices of the draws, shape (n,).
    """
    weights = np.exp(log_weights.astype(np.float64) - log_weights.max())
    cumulative = np.cumsum(weights)
    places = (np.arange(num_samples) + generator.uniform()) / num_samples * cumulative[-1]
    last = np.flatnonzero(weights)[-1]
    chosen = np.searchsorted(cumulative, places, side="right").clip(max=last)
    return generator.permutation(chosen)
