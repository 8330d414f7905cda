r"""Samplers that follow a score, for arrays such as images and for score networks.

All move in standardised units, z = (x - loc) / scale, and run as one compiled program that takes
the weights as arguments. `Langevin` starts from draws of the reference given what is observed, the
others from noise:

- `Langevin`: unadjusted (ULA), z' = z + h s(z) / 2 + \sqrt h \epsilon. It needs a score only. Its
  stationary distribution differs from the density by a bias of the order of h.
- `Langevin(metropolis=True)`: MALA, which accepts or rejects each proposal by the density.
  Asymptotically exact in the number of steps; it needs a density.
- `AnnealedLangevin`: ULA along a rising inverse temperature and a falling step. A heuristic that
  crosses between modes; its draws have no exact distribution.
- `Heun`: the paper's deterministic sampler for pictures, the flow of a diffusion with one denoiser
  in place of one for each noise level. Not exact for any density.

For exact conditionals of an energy, with their evidence, use `sample_conditional` or `TemperedSMC`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._checks import check_count, check_flag, check_key, check_positive
from numpyro_disco._typing import Array
from numpyro_disco.energy.distribution import EnergyDistribution
from numpyro_disco.energy.learned import Learned
from numpyro_disco.energy.score_function import ScoreFunction
from numpyro_disco.references.base import Reference

RHO = 7.0
"""Exponent of the schedule of noise levels of `Heun`, as in Karras et al. 2022."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Langevin:
    """Langevin steps: unadjusted, or corrected by a Metropolis step (MALA).

    Args:
        num_steps: number of steps.
        step_size: root of h, the standard deviation of the noise of a step, in standardised units;
            about the smoothing of the density, or less.
        metropolis: accept or reject each step, for which the target needs a density. The step size
            then adapts during the first half of the steps, towards an acceptance of 0.57.

    References:
        Roberts & Tweedie 1996; Roberts & Rosenthal 1998 for the acceptance.
    """

    num_steps: int = 1000
    step_size: float = 0.1
    metropolis: bool = False

    def __post_init__(self) -> None:
        check_count(self.num_steps, "num_steps")
        check_positive(self.step_size, "step_size")
        check_flag(self.metropolis, "metropolis")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnnealedLangevin:
    """Unadjusted Langevin steps at rising inverse temperatures b, with step sizes h / b.

    Args:
        num_steps: number of steps.
        step_size: root of h at the end, as for `Langevin`; the last quarter of the steps should
            cover the density, so that num_steps * step_size^2 / 8 is at least a few units.
        lowest: the inverse temperature at the start, at most 1; they rise geometrically to 1 over
            the first three quarters of the steps.
    """

    num_steps: int = 1000
    step_size: float = 0.1
    lowest: float = 0.01

    def __post_init__(self) -> None:
        check_count(self.num_steps, "num_steps")
        check_positive(self.step_size, "step_size")
        if check_positive(self.lowest, "lowest") > 1:
            raise ValueError(f"Expected at most 1 for `lowest`; got {self.lowest}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heun:
    """Second-order steps of dz / dsigma = (z - D(z)) / sigma from large noise to sigma_0.

    D(z) = z + sigma_0^2 s(z) is the denoiser. There are 2 num_steps - 1 evaluations.

    Args:
        num_steps: number of steps.
        max_noise_scale: the noise to start from, in standardised units.

    References:
        Karras et al. 2022, algorithm 1; Wedenig & Peharz 2025, section D.2.
    """

    num_steps: int = 18
    max_noise_scale: float = 2.0

    def __post_init__(self) -> None:
        check_count(self.num_steps, "num_steps", minimum=2)
        check_positive(self.max_noise_scale, "max_noise_scale")


class _Problem(NamedTuple):
    """The target and the observed coordinates, as a pytree."""

    target: Any
    """The distribution over vectors, or the score."""
    loc: Array
    """Shape (D,)."""
    scale: Array
    """Shape (D,)."""
    reference: Reference
    """A density near the target, over vectors in the user's units."""
    values: Array
    """Observed values, zero where free, shape (D,), or (arrays, D)."""
    free: Array
    """1 where free and 0 where observed, of the same shape."""

    def draw(self, rng_key: Array, num_samples: int) -> Array:
        """Draws of the reference given what is observed, standardised, (num_samples, ..., D)."""
        near = self.reference.condition(self.values, self.free == 0)
        return (near.sample(rng_key, (num_samples,)) - self.loc) / self.scale * self.free

    def noise(self, rng_key: Array, num_samples: int) -> Array:
        """Standard normal numbers, shape (num_samples, ..., D)."""
        shape = (num_samples, *self.values.shape)
        return jax.random.normal(rng_key, shape, self.loc.dtype)

    def point(self, z: Array) -> Array:
        """Points in the user's units with observed values in place."""
        return jnp.where(self.free > 0, self.loc + self.scale * z, self.values)

    def score(self, z: Array) -> Array:
        """Score in standardised units, zero where observed, shape (num_samples, ..., D)."""
        x, target = self.point(z), self.target
        points = x.reshape(-1, *target.shape) if isinstance(target, ScoreFunction) else x
        return target.score(points).reshape(x.shape) * self.scale * self.free


def sample_langevin(
    rng_key: Array,
    target: EnergyDistribution | ScoreFunction,
    num_samples: int = 16,
    *,
    observed: Any = None,
    sampler: Langevin | AnnealedLangevin | Heun | None = None,
) -> Array:
    """Draw by following a score, all draws at once, given some coordinates if there are any.

    What is observed is held at its value, and the score of the others is followed, which is that of
    the conditional. Only `Langevin(metropolis=True)` is asymptotically exact.

    Args:
        rng_key: random key.
        target: an `EnergyDistribution` without supports, or the `score_function` of a fit.
        num_samples: number of independent chains, each of which gives its last point.
        observed: one array of the shape of a point, or a stack of them, NaN for what is free; None
            if nothing is observed.
        sampler: `Langevin()` by default.

    Returns:
        Array (num_samples,) + the shape of a point; given a stack of arrays, (num_samples, arrays)
        + the shape of a point.

    Raises:
        ValueError: a sampler that needs a density for a target without, a target with supports, or
            an array that does not fit.

    Example:
        >>> import jax, jax.numpy as jnp, numpyro_disco as disco
        >>> q = disco.GaussianReference(jnp.zeros(2), 9 * jnp.eye(2))
        >>> prior = disco.EnergyDistribution(lambda x: 0.5 * (x @ x), q)
        >>> sampler = disco.Langevin(num_steps=100)
        >>> disco.sample_langevin(jax.random.key(0), prior, 4, sampler=sampler).shape
        (4, 2)
    """
    rng_key, sampler = check_key(rng_key), Langevin() if sampler is None else sampler
    check_count(num_samples, "num_samples")
    shape = _check_target(target, sampler)
    if isinstance(sampler, Heun):
        _check_denoiser(target, sampler)
    problem = _problem(target, observed, shape)
    z = _RUN[type(sampler)](rng_key, problem, sampler, num_samples)
    return problem.point(z).reshape(*z.shape[:-1], *shape)


def _check_target(target: Any, sampler: Any) -> tuple[int, ...]:
    """Shape of a point, after checks that the sampler can follow the target."""
    if type(sampler) not in _RUN:
        raise ValueError(
            f"Expected `disco.Langevin(...)`, `disco.AnnealedLangevin(...)` or `disco.Heun(...)` "
            f"for `sampler`; got {sampler!r}."
        )
    if isinstance(target, ScoreFunction):
        if isinstance(sampler, Langevin) and sampler.metropolis:
            raise ValueError(
                "Expected a `target` with a density for `metropolis=True`; got a score network, "
                "which has none. Leave `metropolis` out, or train with `disco.Disco(...)`."
            )
        return target.shape
    if not isinstance(target, EnergyDistribution):
        raise ValueError(
            "Expected an `EnergyDistribution`, or the `score_function` of a fit, for `target`; got "
            f"{type(target).__name__}."
        )
    if not target.coordinate_supports.real or target.batch_shape:
        raise ValueError(
            "Expected a `target` without supports and without a batch. Use `sample_conditional`."
        )
    return target.event_shape


def _check_denoiser(target: Any, sampler: Heun) -> None:
    """Refuse targets whose score is no denoiser in standardised units, and a flow without noise."""
    if target.noise_scale is None:
        raise ValueError("Expected a `target` learned with `disco.Disco(...)` for `disco.Heun`.")
    model = target.model if isinstance(target, ScoreFunction) else target.energy_fn
    whitener = np.asarray(model.whitener) if isinstance(model, Learned) else np.eye(1)
    if np.any(whitener != np.diag(np.diag(whitener))):
        raise ValueError(
            "Expected a `target` with the same smoothing in each column's own unit for "
            "`disco.Heun`; got one learned with `whiten=True`. Learn with `whiten=False`."
        )
    if not sampler.max_noise_scale > float(target.noise_scale):
        raise ValueError(
            f"Expected more than the smoothing {float(target.noise_scale):.4g} for "
            f"`max_noise_scale` of `disco.Heun`; got {sampler.max_noise_scale}."
        )


def _problem(target: Any, observed: Any, shape: tuple[int, ...]) -> _Problem:
    """The target over vectors, and what is observed of it."""
    if isinstance(target, ScoreFunction):
        given = np.full(shape, np.nan) if observed is None else _read_array(observed)
        arrays = given.shape[: max(0, given.ndim - len(shape))]
        if given.shape != (*arrays, *shape) or len(arrays) > 1 or 0 in arrays:
            raise ValueError(
                f"Expected shape {shape} for `observed`, or a stack of such arrays; got "
                f"{given.shape}."
            )
        flat = given.reshape(*arrays, -1)
        values, seen, vector = np.nan_to_num(flat), ~np.isnan(flat), target
        reference = target.reference
    else:
        pattern = target.pattern(np.full(shape, np.nan) if observed is None else observed)
        pattern, vector = target.with_clamped(pattern), target.as_vector
        reference = vector.joint_reference
        pattern = pattern if pattern.is_single else pattern.as_rows("observed")
        values, seen = pattern.values, np.asarray(pattern.observed)
    dtype = target.loc.dtype
    values, free = jnp.asarray(values, dtype), jnp.asarray(~seen, dtype)
    return _Problem(vector, target.loc, target.scale, reference, values, free)


def _read_array(observed: Any) -> np.ndarray:
    """Numbers, and NaN where nothing is observed or a mask says so."""
    if isinstance(observed, Mapping):
        raise ValueError(
            "Expected an array with NaN where nothing is observed for `observed`, as a score has "
            "no names; got a mapping."
        )
    given = np.ma.filled(np.ma.asarray(observed, np.float64), np.nan)
    if np.isinf(given).any():
        raise ValueError("Expected finite numbers, or NaN where free, for `observed`.")
    return given


@partial(jax.jit, static_argnames=("sampler", "num_samples"))
def _langevin(rng_key: Array, problem: _Problem, sampler: Langevin, num_samples: int) -> Array:
    """The last points of unadjusted or corrected chains, standardised."""
    start_key, run_key = jax.random.split(rng_key)
    start = problem.draw(start_key, num_samples)
    if not sampler.metropolis:

        def step(z: Array, key: Array) -> tuple[Array, None]:
            return _proposal(key, z, problem.score(z), sampler.step_size) * problem.free, None

        return jax.lax.scan(step, start, jax.random.split(run_key, sampler.num_steps))[0]

    def both(z: Array) -> tuple[Array, Array]:
        return -problem.target.energy(problem.point(z)), problem.score(z)

    def corrected(carry: Any, key_and_index: Any) -> tuple[Any, None]:
        z, log_p, score, log_step = carry
        key, index = key_and_index
        noise_key, accept_key = jax.random.split(key)
        size = jnp.exp(log_step)
        new = _proposal(noise_key, z, score, size)
        new_log_p, new_score = both(new)
        there, back = (
            -0.5 * (((b - a - 0.5 * size**2 * s) * problem.free) ** 2).sum(-1) / size**2
            for a, b, s in ((z, new, score), (new, z, new_score))
        )
        log_ratio = new_log_p - log_p + back - there
        # A proposal at which the energy is not finite is rejected.
        log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)
        accept = jnp.log(jax.random.uniform(accept_key, log_p.shape)) < log_ratio
        rate = jnp.minimum(1.0, jnp.exp(log_ratio)).mean()
        # Adaptation ends halfway: later steps are those of one chain, and exact.
        gain = jnp.where(index < sampler.num_steps // 2, 10 / (10 + index) ** 0.6 / 4, 0.0)
        keep = accept[..., None]
        carry = (
            jnp.where(keep, new, z),
            jnp.where(accept, new_log_p, log_p),
            jnp.where(keep, new_score, score),
            log_step + gain * (rate - 0.57),
        )
        return carry, None

    carry = (start, *both(start), jnp.log(jnp.asarray(sampler.step_size, start.dtype)))
    keys = jax.random.split(run_key, sampler.num_steps)
    return jax.lax.scan(corrected, carry, (keys, jnp.arange(sampler.num_steps)))[0][0]


def _proposal(rng_key: Array, z: Array, score: Array, size: Any) -> Array:
    """Langevin proposals from points (..., D)."""
    return z + 0.5 * size**2 * score + size * jax.random.normal(rng_key, z.shape, z.dtype)


@partial(jax.jit, static_argnames=("sampler", "num_samples"))
def _annealed(
    rng_key: Array, problem: _Problem, sampler: AnnealedLangevin, num_samples: int
) -> Array:
    """The last points of annealed chains, standardised."""
    start_key, run_key = jax.random.split(rng_key)
    start = problem.noise(start_key, num_samples)
    part = jnp.minimum(1.0, jnp.arange(sampler.num_steps) / (0.75 * sampler.num_steps))
    levels = jnp.asarray(sampler.lowest, start.dtype) ** (1 - part)

    def step(z: Array, key_and_level: tuple[Array, Array]) -> tuple[Array, None]:
        key, level = key_and_level
        # The step grows as the density flattens, but not beyond that of a standard normal.
        size = jnp.minimum(sampler.step_size / jnp.sqrt(level), 1.0)
        return _proposal(key, z, level * problem.score(z), size) * problem.free, None

    return jax.lax.scan(step, start, (jax.random.split(run_key, sampler.num_steps), levels))[0]


@partial(jax.jit, static_argnames=("sampler", "num_samples"))
def _heun(rng_key: Array, problem: _Problem, sampler: Heun, num_samples: int) -> Array:
    """The ends of the flow, standardised."""
    smallest = jnp.asarray(problem.target.noise_scale, problem.loc.dtype)
    ends = sampler.max_noise_scale ** (1 / RHO), smallest ** (1 / RHO)
    part = jnp.linspace(0.0, 1.0, sampler.num_steps, dtype=problem.loc.dtype)
    levels = jnp.append((ends[0] + part * (ends[1] - ends[0])) ** RHO, 0.0)
    start = problem.noise(rng_key, num_samples)

    def slope(z: Array, level: Array) -> Array:
        return -(smallest**2) * problem.score(z) / level

    def step(z: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
        level, lower = pair
        first = slope(z, level)
        euler = z + (lower - level) * first
        # The second evaluation would divide by zero in the last step.
        second = jax.lax.cond(lower > 0, lambda: slope(euler, lower), lambda: first)
        return z + (lower - level) * 0.5 * (first + second), None

    z = sampler.max_noise_scale * start
    return jax.lax.scan(step, z, (levels[:-1], levels[1:]))[0]


_RUN: dict[type, Any] = {Langevin: _langevin, AnnealedLangevin: _annealed, Heun: _heun}
"""The program of each sampler."""
