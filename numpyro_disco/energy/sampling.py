"""Draws from conditionals of an energy, by tempered SMC from its reference.

Each conditional has a run of its own: particles are drawn from the reference's conditional and
moved along exp(-b E) q^(1 - b), while the inverse temperature b rises from 0 to 1. Which
coordinates are observed is an array, so one compiled program serves every pattern of missing
entries.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._batching import in_batches
from numpyro_disco._typing import Array, EnergyFn
from numpyro_disco.references.base import Reference
from numpyro_disco.tempering.program import tempered_smc
from numpyro_disco.tempering.settings import TemperingSettings
from numpyro_disco.tempering.state import TemperedResult
from numpyro_disco.tempering.status import CONVERGED, status_message

MIN_PARTICLES = 1024
"""Fewest particles of a tempered run, however few draws are asked for."""


class ScaledEnergy(NamedTuple):
    """An energy over D unconstrained coordinates, with the properties that sampling needs."""

    energy_fn: EnergyFn
    """The energy of one point, (D,) to (), a callable pytree."""
    inverse_temperature: Array
    """Factor of the energy, shape ()."""
    reference: Reference
    """The normalised density over the same coordinates from which tempering starts."""
    loc: Array
    """Origin of the coordinates in which particles move, shape (D,)."""
    scale: Array
    """Unit of those coordinates, shape (D,)."""


def sample_one_conditional(
    rng_key: Array,
    energy: ScaledEnergy,
    values: Array,
    observed: Array,
    settings: TemperingSettings,
) -> TemperedResult:
    """One tempered run for the conditional given `values` where `observed`.

    Args:
        rng_key: random key.
        energy: the joint energy.
        values: unconstrained values, shape (D,); entries of free coordinates are ignored.
        observed: boolean array (D,), traced or not.
        settings: see `TemperingSettings`.

    Returns:
        A `TemperedResult` whose positions are points in unconstrained space. Its `log_normalizer`
        estimates the log of the integral of exp(-E) over the free coordinates.
    """
    reference = energy.reference.condition(values, observed)
    free = (~observed).astype(energy.loc.dtype)

    def point(u: Array) -> Array:
        return jnp.where(observed, values, energy.loc + energy.scale * u)

    # Particles move in u, and whatever is fitted to them is a density of u: both log densities
    # carry the log determinant of the scale.
    log_det = free @ jnp.log(energy.scale)

    def draw_base(key: Array) -> Array:
        return jnp.where(observed, 0.0, (reference.sample(key) - energy.loc) / energy.scale)

    def log_densities(u: Array) -> tuple[Array, Array]:
        x = point(u)
        log_target = -energy.inverse_temperature * energy.energy_fn(x)
        return reference.log_prob(x) + log_det, log_target + log_det

    result = tempered_smc(rng_key, draw_base, log_densities, settings, free=free)
    return result._replace(position=jax.vmap(point)(result.position))


@partial(jax.jit, static_argnames=("num_samples", "settings", "rows_at_once"))
def draw_conditionals(
    rng_keys: Array,
    energy: ScaledEnergy,
    values: Array,
    observed: Array,
    num_samples: int,
    settings: TemperingSettings,
    rows_at_once: int = 64,
) -> tuple[Array, TemperedResult]:
    """Draws from many conditionals of one energy, as one compiled program.

    Args:
        rng_keys: one key for each row, shape (rows,).
        energy: the joint energy.
        values: unconstrained values, shape (rows, D).
        observed: boolean array (rows, D). Another pattern does not compile again.
        num_samples: draws for each row, at most `settings.num_particles`.
        settings: see `TemperingSettings`.
        rows_at_once: number of rows that run side by side; bounds memory. Ignored on a CPU, which
            the particles of one row keep busy: rows run one after another there, so none waits for
            the slowest.

    Returns:
        Draws (num_samples, rows, D) in unconstrained space, and the `TemperedResult` of each row
        without its particles.
    """

    def one(row: tuple[Array, Array, Array]) -> tuple[Array, TemperedResult]:
        key, value, seen = row
        run_key, pick_key = jax.random.split(key)
        result = sample_one_conditional(run_key, energy, value, seen, settings)
        # A subset chosen at random is equally weighted, as the whole is.
        pick = jax.random.permutation(pick_key, settings.num_particles)[:num_samples]
        nothing = jnp.zeros(())
        summary = result._replace(position=nothing, log_base=nothing, log_target=nothing)
        return result.position[pick], summary

    if jax.default_backend() == "cpu":
        draws, results = jax.lax.map(one, (rng_keys, values, observed))
    else:
        draws, results = in_batches(jax.vmap(one), (rng_keys, values, observed), rows_at_once)
    return jnp.swapaxes(draws, 0, 1), results


def require_convergence(array: Array, result: TemperedResult, axis: int) -> Array:
    """Return what tempered runs have estimated, if all of them converged.

    Args:
        array: estimates or draws, one entry for each run along `axis`.
        result: the runs.
        axis: axis of `array` along which the runs lie.

    Returns:
        `array`. While a program is traced, where nothing can be raised, entries of runs that failed
        are NaN.

    Raises:
        RuntimeError: a run did not converge, or its integral of exp(-E) is not finite.
    """
    if isinstance(result.status, jax.core.Tracer):
        shape = [1] * array.ndim
        shape[axis] = -1
        return jnp.where((result.status == CONVERGED).reshape(shape), array, jnp.nan)
    status = np.asarray(result.status)
    failed = np.flatnonzero(status != CONVERGED)
    if len(failed):
        first = int(failed[0])
        steps = int(result.num_steps[first])
        column = np.asarray(result.history.inverse_temperature[first])
        reached = float(column[steps - 1]) if steps else 0.0
        raise RuntimeError(
            f"Tempered sampling failed for {len(failed)} of {len(status)} conditionals "
            f"({_listed(failed)}): " + status_message(int(status[first]), reached, steps)
        )
    infinite = np.flatnonzero(~np.isfinite(np.asarray(result.log_normalizer)))
    if len(infinite):
        raise RuntimeError(
            f"Expected a finite integral of exp(-E); got an infinite one for {len(infinite)} of "
            f"{len(status)} conditionals ({_listed(infinite)}). The energy falls without bound "
            "somewhere. Bound it from below relative to the reference, or give a narrower support."
        )
    return array


def _listed(rows: np.ndarray) -> str:
    """The first few row numbers, for an error message."""
    return f"rows {rows[:5].tolist()}{'...' if len(rows) > 5 else ''}"
