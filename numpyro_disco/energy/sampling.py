"""Draws from conditionals of an energy, by tempered SMC from its reference.

Each conditional has a run of its own: particles are drawn from the reference's conditional and
moved along exp(-b E) q^(1 - b), while the inverse temperature b rises from 0 to 1. Which
coordinates are observed is an array, so one compiled program serves every pattern of missing
entries.

Free discrete coordinates are moved by Gibbs sweeps, in a program of its own: rows whose discrete
coordinates are all observed have the program of continuous priors.

This is the way for conditionals that `importance.py` cannot draw, and for those inside a compiled
function, where the choice cannot be made.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._batching import in_batches
from numpyro_disco._checks import is_traced
from numpyro_disco._compiling import compiler_options
from numpyro_disco._typing import Array
from numpyro_disco.energy.importance import TEMPERING, ScaledEnergy
from numpyro_disco.supports.coordinates import CoordinateSupports
from numpyro_disco.tempering.program import tempered_smc
from numpyro_disco.tempering.settings import TemperingSettings
from numpyro_disco.tempering.state import TemperedResult
from numpyro_disco.tempering.status import CONVERGED, status_message


def sample_one_conditional(
    rng_key: Array,
    energy: ScaledEnergy,
    values: Array,
    observed: Array,
    settings: TemperingSettings,
    num_levels: tuple[int, ...] | None,
) -> TemperedResult:
    """One tempered run for the conditional given `values` where `observed`.

    Args:
        rng_key: random key.
        energy: the joint energy.
        values: unconstrained values, shape (D,); entries of free coordinates are ignored.
        observed: boolean array (D,), traced or not.
        settings: see `TemperingSettings`.
        num_levels: levels of each coordinate, as `free_levels` returns them.

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

    # Discrete coordinates have location 0 and scale 1, so that u holds their codes.
    result = tempered_smc(
        rng_key, draw_base, log_densities, settings, free=free, num_levels=num_levels
    )
    return result._replace(position=jax.vmap(point)(result.position))


def free_levels(supports: CoordinateSupports, observed: Any) -> tuple[int, ...] | None:
    """Levels of all coordinates, or None if no discrete one is free: a smaller program serves.

    Args:
        supports: supports of the D coordinates.
        observed: boolean array (rows, D), traced or not.
    """
    known = np.zeros(1, bool) if is_traced(observed) else np.asarray(observed)
    return supports.num_levels if (supports.discrete & ~known).any() else None


def temper_rows(
    rng_key: Array,
    run: Array,
    energy: ScaledEnergy,
    values: Array,
    observed: Array,
    *,
    supports: CoordinateSupports,
    settings: TemperingSettings,
    rows_at_once: int,
    num_levels: tuple[int, ...] | None,
) -> tuple[Array, TemperedResult]:
    """Run tempered SMC for many conditionals of one energy.

    Args:
        rng_key: random key of the whole call.
        run: a different whole number for each run, shape (rows,).
        energy: the joint energy.
        values: unconstrained values, shape (rows, D).
        observed: boolean array (rows, D). Another pattern does not compile again.
        supports: maps from unconstrained space to the user's units.
        settings: see `TemperingSettings`.
        rows_at_once: number of rows that run side by side; bounds memory. Ignored on a CPU, which
            the particles of one row keep busy: rows run one after another there, so none waits for
            the slowest.
        num_levels: levels of each coordinate, as `free_levels` returns them.

    Returns:
        Particles (rows, num_particles, D) in the user's units, and the `TemperedResult` of each row
        without its particles.
    """

    def one(row: tuple[Array, Array, Array]) -> tuple[Array, TemperedResult]:
        index, value, seen = row
        key = jax.random.fold_in(jax.random.fold_in(rng_key, TEMPERING), index)
        result = sample_one_conditional(key, energy, value, seen, settings, num_levels)
        nothing = jnp.zeros(())
        summary = result._replace(
            position=nothing, log_base=nothing, log_target=nothing, starts=nothing
        )
        return supports.constrain(result.position), summary

    if jax.default_backend() == "cpu":
        return jax.lax.map(one, (run, values, observed))
    return in_batches(jax.vmap(one), (run, values, observed), rows_at_once)


@cache
def compiled_tempering() -> Callable[..., tuple[Array, TemperedResult]]:
    """`temper_rows` as one compiled program, made once the devices are known."""
    return jax.jit(
        temper_rows,
        static_argnames=("supports", "settings", "rows_at_once", "num_levels"),
        compiler_options=compiler_options(hoist=False),
    )


def require_convergence(result: TemperedResult, rows: np.ndarray, num_rows: int) -> None:
    """Require that tempered runs have converged.

    Args:
        result: the runs, one entry along the leading axis for each.
        rows: the number of each run's row, for the message.
        num_rows: number of rows in all.

    Raises:
        RuntimeError: a run did not converge, or its integral of exp(-E) is not finite.
    """
    status = np.asarray(result.status)
    failed = np.flatnonzero(status != CONVERGED)
    if len(failed):
        first = int(failed[0])
        steps = int(result.num_steps[first])
        column = np.asarray(result.history.inverse_temperature[first])
        reached = float(column[steps - 1]) if steps else 0.0
        raise RuntimeError(
            f"Tempered sampling failed for {len(np.unique(rows[failed]))} of "
            f"{num_rows} conditionals ({_listed(rows[failed])}): "
            + status_message(int(status[first]), reached, steps)
        )
    infinite = np.flatnonzero(~np.isfinite(np.asarray(result.log_normalizer)))
    if len(infinite):
        raise RuntimeError(
            f"Expected a finite integral of exp(-E); got an infinite one for "
            f"{len(np.unique(rows[infinite]))} of {num_rows} conditionals "
            f"({_listed(rows[infinite])}). The energy falls without bound somewhere. Bound it from "
            "below relative to the reference, or give a narrower support."
        )


def _listed(rows: np.ndarray) -> str:
    """The first few row numbers, for an error message."""
    rows = np.unique(rows)
    return f"rows {rows[:5].tolist()}{'...' if len(rows) > 5 else ''}"
