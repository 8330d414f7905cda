"""Draws of the conditionals of an energy, by tempered SMC from its reference.

Energies come in as plain functions; which coordinates are observed comes in as an array, so one
compiled program serves every pattern of observation.
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
"""Particles of a tempered run that was asked for fewer draws than this."""


class ScaledEnergy(NamedTuple):
    """An energy over D coordinates, with what sampling has to know of it."""

    energy_fn: EnergyFn
    """One point (D,) to its energy (), a callable pytree."""
    inverse_temperature: Array
    """Factor of the energy, shape ()."""
    reference: Reference
    """Where tempering starts: normalised, over the same coordinates."""
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
        values: shape (D,), ignored where free.
        observed: boolean array (D,), traced or not.
        settings: see `TemperingSettings`.

    Returns:
        A `TemperedResult` whose positions are points in the user's units; its `log_normalizer` is
        the log of the integral of exp(-E) over the free coordinates.
    """
    reference = energy.reference.condition(values, observed)
    free = (~observed).astype(energy.loc.dtype)

    def point(u: Array) -> Array:
        return jnp.where(observed, values, energy.loc + energy.scale * u)

    # Both densities are over u; what is fitted to particles is, too.
    log_det = free @ jnp.log(energy.scale)

    def draw_base(key: Array) -> Array:
        return jnp.where(observed, 0.0, (reference.sample(key) - energy.loc) / energy.scale)

    def log_densities(u: Array) -> tuple[Array, Array]:
        x = point(u)
        log_target = -energy.inverse_temperature * energy.energy_fn(x)
        return reference.log_prob(x) + log_det, log_target + log_det

    result = tempered_smc(rng_key, draw_base, log_densities, settings, free=free)
    return result._replace(position=jax.vmap(point)(result.position))


@partial(jax.jit, static_argnames=("num_samples", "settings", "batch_size"))
def draw_conditionals(
    rng_keys: Array,
    energy: ScaledEnergy,
    values: Array,
    observed: Array,
    num_samples: int,
    settings: TemperingSettings,
    batch_size: int = 64,
) -> tuple[Array, TemperedResult]:
    """Draws of many conditionals of one energy, as one compiled program.

    Args:
        rng_keys: one key for each row, shape (rows,).
        energy: the joint energy.
        values: array (rows, D).
        observed: boolean array (rows, D); other holes do not compile again.
        num_samples: draws for each row, at most `settings.num_particles`.
        settings: see `TemperingSettings`.
        batch_size: rows that are run side by side; bounds memory. A CPU is kept busy by the
            particles of one row, and runs row after row: then none waits for the slowest.

    Returns:
        Draws (num_samples, rows, D) in the user's units, and each row's `TemperedResult` without
        its particles.
    """

    def one(row: tuple[Array, Array, Array]) -> tuple[Array, TemperedResult]:
        key, value, seen = row
        run_key, pick_key = jax.random.split(key)
        result = sample_one_conditional(run_key, energy, value, seen, settings)
        # Any subset taken without looking is as equally weighted as the whole.
        pick = jax.random.permutation(pick_key, settings.num_particles)[:num_samples]
        nothing = jnp.zeros(())
        summary = result._replace(position=nothing, log_base=nothing, log_target=nothing)
        return result.position[pick], summary

    if jax.default_backend() == "cpu":
        draws, results = jax.lax.map(one, (rng_keys, values, observed))
        return jnp.swapaxes(draws, 0, 1), results
    draws, results = in_batches(jax.vmap(one), (rng_keys, values, observed), batch_size)
    return jnp.swapaxes(draws, 0, 1), results


def poisoned(array: Array, result: TemperedResult, axis: int) -> Array:
    """`array`, if every run along `axis` converged; else an error, or NaN where it is traced."""
    if not isinstance(result.status, jax.core.Tracer):
        status = np.asarray(result.status)
        failed = np.flatnonzero(status != CONVERGED)
        if len(failed):
            first = int(failed[0])
            steps = int(result.num_steps[first])
            column = np.asarray(result.history.inverse_temperature[first])
            reached = float(column[steps - 1]) if steps else 0.0
            raise RuntimeError(
                f"Tempered sampling failed for {len(failed)} of {len(status)} conditionals (rows "
                f"{failed[:5].tolist()}{'...' if len(failed) > 5 else ''}): "
                + status_message(int(status[first]), reached, steps)
            )
        infinite = np.flatnonzero(~np.isfinite(np.asarray(result.log_normalizer)))
        if len(infinite):
            raise RuntimeError(
                f"The integral of exp(-E) is not finite for {len(infinite)} of {len(status)} "
                f"conditionals (rows {infinite[:5].tolist()}): the energy falls without bound "
                "somewhere. Mend it, or give a narrower support."
            )
        return array
    shape = [1] * array.ndim
    shape[axis] = -1
    return jnp.where((result.status == CONVERGED).reshape(shape), array, jnp.nan)
