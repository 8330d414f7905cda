"""Checks of the parts from which an `EnergyDistribution` is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from numpyro_disco._checks import is_traced, name_index
from numpyro_disco._levels import MAX_LEVELS
from numpyro_disco._typing import Array, EnergyFn
from numpyro_disco.references.base import Reference, host_draws
from numpyro_disco.supports.coordinates import CoordinateSupports, check_supports
from numpyro_disco.tables.columns import Column
from numpyro_disco.tables.kinds import default_column

NUM_TRIAL_DRAWS = 64
"""Draws of the reference at which a new energy is evaluated."""


def check_joint_reference(reference: Any) -> None:
    """Require one unconditioned reference."""
    if not isinstance(reference, Reference):
        raise ValueError(
            "Expected a `GaussianReference`, a `MixtureReference` or a `MixedReference` for "
            f"`reference`; got {type(reference).__name__}."
        )
    if reference.observed is not None or reference.batch_shape != ():
        raise ValueError(
            "Expected one unconditioned `reference` over all coordinates; got one with batch "
            f"shape {reference.batch_shape}. Condition the distribution instead, with `clamp`."
        )


def check_prior_supports(
    supports: Mapping[str, constraints.Constraint] | None,
    names: tuple[str, ...],
    num_levels: tuple[int, ...],
) -> CoordinateSupports:
    """Return one support for each coordinate, as many levels as the reference has.

    By default the real line, or codes 0, 1, ... for the discrete coordinates of the reference.

    Args:
        supports: from names to NumPyro constraints on one number, or None.
        names: names of all coordinates.
        num_levels: levels of each coordinate in the reference, 0 for continuous ones.
    """
    given = supports or {}
    found = list(check_supports(supports, names))
    for place, (name, levels) in enumerate(zip(names, num_levels, strict=True)):
        if levels and name not in given:
            found[place] = constraints.integer_interval(0, levels - 1)
    coordinates = CoordinateSupports(tuple(found))
    for name, support, levels, count in zip(
        names, found, num_levels, coordinates.num_levels, strict=True
    ):
        if support.is_discrete and not count:
            raise ValueError(
                "Expected continuous constraints, `boolean`, or `integer_interval` with at most "
                f"{MAX_LEVELS} levels in `supports`; got {support!r} for {name!r}. Other whole "
                "numbers have no exact mass here; `fit` spreads them over unit intervals."
            )
        if count != levels:
            raise ValueError(
                f"Expected a `reference` and `supports` that agree; {name!r} has "
                f"{levels or 'no'} levels in the reference and {count or 'none'} in its support, "
                f"{support!r}. Discrete coordinates need a `MixedReference` with their levels."
            )
    return coordinates


def check_columns(
    columns: Mapping[str, Column] | None,
    names: tuple[str, ...],
    supports: tuple[constraints.Constraint, ...],
) -> tuple[Column, ...]:
    """Return what the numbers of each coordinate stand for.

    Args:
        columns: from names to columns, or None.
        names: names of all coordinates.
        supports: their supports, which decide where no column is given.
    """
    found = [default_column(support) for support in supports]
    for name, column in (columns or {}).items():
        if not isinstance(column, Column):
            raise ValueError(
                f"Expected a column such as `disco.Categories` for {name!r} in `columns`; got "
                f"{column!r}."
            )
        found[name_index(name, names, "columns")] = column
    return tuple(found)


def check_location(value: Array, dimension: int, argument: str) -> Array:
    """Return `value`; it must have one entry for each of `dimension` coordinates."""
    if value.shape != (dimension,):
        raise ValueError(f"Expected shape ({dimension},) for `{argument}`; got {value.shape}.")
    return value


def check_energy(energy_fn: EnergyFn, reference: Reference, loc: Array) -> None:
    """Require one floating-point number per point, finite where the reference has its mass.

    Args:
        energy_fn: the energy of one point (D,).
        reference: the reference, at whose mean and draws the energy is evaluated.
        loc: a point (D,). Nothing is evaluated while the energy or the reference is traced.
    """
    out = jax.eval_shape(energy_fn, loc)
    single = isinstance(out, jax.ShapeDtypeStruct) and out.shape == ()
    if not (single and jnp.issubdtype(out.dtype, jnp.floating)):
        raise ValueError(
            f"Expected `energy_fn` to return one number for a point of shape {loc.shape}; got "
            f"{out}. Sum over coordinates, and return a floating-point array of shape ()."
        )
    if is_traced(energy_fn, reference, loc):
        return
    components = reference.components()
    draws = host_draws(np.random.default_rng(0), components, NUM_TRIAL_DRAWS)
    mean = np.exp(components.log_weights) @ np.asarray(components.means)
    mean = np.where(reference.discrete, draws[0], mean)
    points = jnp.asarray(np.concatenate([mean[None], draws]), loc.dtype)
    energies = np.asarray(_energies(energy_fn, points))
    bad = np.isnan(energies) | (energies == -np.inf)
    if bad.any() or np.isinf(energies).all():
        index = int(np.argmax(bad)) if bad.any() else 0
        raise ValueError(
            f"Expected a finite energy from `energy_fn` where the reference has its mass; got "
            f"{energies[index]} at x = {np.asarray(points[index]).tolist()} "
            f"({int(bad.sum())} of {len(bad)} trial points are NaN or -infinity). Correct the "
            "energy there, return +infinity for points of zero density, or narrow the reference."
        )


@jax.jit
def _energies(energy_fn: EnergyFn, points: Array) -> Array:
    return jax.vmap(energy_fn)(points)
