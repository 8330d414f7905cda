"""The reference of a fit: fitted, given or derived from the rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from numpyro_disco._levels import real_columns
from numpyro_disco._random import host_generator
from numpyro_disco._typing import Array
from numpyro_disco.references.base import Reference
from numpyro_disco.references.em import MixtureParameters
from numpyro_disco.references.fitting import MixtureFit, mixture_reference
from numpyro_disco.training.network import gaussian_start, shrunk_gaussian
from numpyro_disco.training.result import FitResult
from numpyro_disco.training.rows.batches import TrainingRows
from numpyro_disco.training.rows.units import Units
from numpyro_disco.training.settings import FitSettings

COPIES = 4
"""Noisy copies of each array to which a mixture is fitted."""


class References(NamedTuple):
    """The reference in two kinds of units, and the start of the network."""

    standard: Reference
    """Over standardised coordinates."""
    unconstrained: Reference
    """Over unconstrained coordinates."""
    linear: Array | None
    """The matrix A of `gaussian_start`, for the default Gaussian reference."""
    components: dict[int, float]
    """Mean held-out log density by number of components tried."""


def make_references(
    settings: FitSettings,
    units: Units,
    rows: TrainingRows,
    num_levels: tuple[int, ...],
    resume: FitResult | None,
    fitted_mixture: Callable[[MixtureFit], tuple[MixtureParameters, dict[int, float]]],
    *,
    is_array: bool,
) -> References:
    """Fit, take or derive the reference; for arrays, the Gaussian is that of the smoothed rows."""
    given = settings.reference
    if isinstance(given, Reference):
        standard = given.affine(units.whitener, -units.whitener @ units.loc)
        return References(standard, given, None, {})
    if isinstance(given, MixtureFit):
        if resume is not None:
            standard, before = resume.evidence.model.reference, resume.evidence.distribution
            unconstrained = standard if before is None else before.joint_reference
            return References(standard, unconstrained, None, resume.components)
        mixture, components = fitted_mixture(given)
        real = real_columns(num_levels)
        moved = mixture.affine(units.basis[np.ix_(real, real)], units.loc[real])
        standard, unconstrained = (
            mixture_reference(found, num_levels) for found in (mixture, moved)
        )
        return References(standard, unconstrained, None, components)
    if is_array:
        gaussian = shrunk_gaussian(rows, settings.objective.resolution)
        return References(gaussian, gaussian.affine(units.basis, units.loc), None, {})
    gaussian, linear = gaussian_start(rows, settings.objective.resolution)
    return References(gaussian, gaussian.affine(units.basis, units.loc), linear, {})


def noisy_samples(
    rng_key: Array, rows: TrainingRows, held_out: TrainingRows, resolution: float
) -> tuple[TrainingRows, TrainingRows]:
    """Noisy copies of arrays to fit a mixture to, and to judge it by.

    Some elements are nearly constant, so a mixture fitted to the arrays themselves would be nearly
    singular.
    """
    keys = jax.random.split(rng_key)
    return (
        _noisy_copies(keys[0], rows, resolution),
        _noisy_copies(keys[1], held_out, resolution),
    )


def _noisy_copies(rng_key: Array, rows: TrainingRows, resolution: float) -> TrainingRows:
    """Rows with noise, `COPIES` times."""
    values = np.tile(np.asarray(rows.values), (COPIES, 1))
    noise = resolution * host_generator(rng_key).standard_normal(values.shape)
    weights = None if rows.weights is None else np.tile(np.asarray(rows.weights), COPIES)
    return TrainingRows(values + noise.astype(values.dtype), weights)
