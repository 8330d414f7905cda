"""The reference of a fit: fitted, given or derived from the rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from numpyro_disco._typing import Array
from numpyro_disco.references.base import Reference
from numpyro_disco.references.em import MixtureParameters
from numpyro_disco.references.fitting import MixtureFit, mixture_reference
from numpyro_disco.training.batches import TrainingRows
from numpyro_disco.training.network import gaussian_start, shrunk_gaussian
from numpyro_disco.training.result import FitResult
from numpyro_disco.training.settings import FitSettings
from numpyro_disco.training.units import Units


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
) -> References:
    """Fit, take or derive the reference."""
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
        real = np.flatnonzero(np.equal(num_levels, 0))
        moved = mixture.affine(units.basis[np.ix_(real, real)], units.loc[real])
        standard, unconstrained = (
            mixture_reference(found, num_levels) for found in (mixture, moved)
        )
        return References(standard, unconstrained, None, components)
    gaussian, linear = gaussian_start(rows, settings.objective.resolution)
    return References(gaussian, gaussian.affine(units.basis, units.loc), linear, {})


def array_references(
    settings: FitSettings,
    units: Units,
    rows: TrainingRows,
    resume: FitResult | None,
    fitted_mixture: Callable[[MixtureFit], tuple[MixtureParameters, dict[int, float]]],
) -> References:
    """The given reference, or the mixture or Gaussian of the smoothed arrays."""
    given = settings.reference
    if isinstance(given, Reference) or (isinstance(given, MixtureFit) and resume is not None):
        none = (0,) * len(units.loc)
        return make_references(settings, units, rows, none, resume, fitted_mixture)
    if isinstance(given, MixtureFit):
        mixture, components = fitted_mixture(given)
        smoothed = mixture_reference(mixture, ()).smoothed(settings.objective.resolution)
        return References(smoothed, smoothed.affine(units.basis, units.loc), None, components)
    gaussian = shrunk_gaussian(rows, settings.objective.resolution)
    return References(gaussian, gaussian.affine(units.basis, units.loc), None, {})
