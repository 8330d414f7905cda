"""`FitEvidence`: everything a report reads about a fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from numpyro_disco._typing import Array, ArrayLike
from numpyro_disco.energy.distribution import EnergyDistribution
from numpyro_disco.energy.learned import Learned
from numpyro_disco.supports.coordinates import CoordinateSupports
from numpyro_disco.training.loop import History
from numpyro_disco.training.objectives import Objective


@dataclasses.dataclass(frozen=True)
class FitEvidence:
    """The learned density, its rows in standardised units, and the training history."""

    distribution: EnergyDistribution | None
    """The learned density in the user's units; None for a score network."""
    model: Learned
    """The learned energy or score over standardised coordinates."""
    coordinate_supports: CoordinateSupports
    """Maps between unconstrained space and the user's units."""
    rows: np.ndarray
    """Standardised rows that were trained on, shape (N, D)."""
    held_out: np.ndarray
    """Standardised rows that were not trained on, shape (M, D)."""
    history: History
    """Losses by step."""
    best_step: int
    """The step whose weights were kept."""
    objective: Objective
    """The training objective, every default resolved."""
    noise_scales: Mapping[float, float]
    """Mean held-out log density by noise scale tried; empty if the scale was given."""

    def standardize(self, x: ArrayLike) -> Array:
        """Map points (..., D) from the user's units to standardised units."""
        y = self.coordinate_supports.unconstrain(jnp.asarray(x))
        return (y - self.model.loc) @ self.model.whitener.T

    def unstandardize(self, z: ArrayLike) -> Array:
        """Map points (..., D) from standardised units to the user's units."""
        basis = np.linalg.inv(np.asarray(self.model.whitener, np.float64))
        y = np.asarray(z, np.float64) @ basis.T + np.asarray(self.model.loc)
        return self.coordinate_supports.constrain(jnp.asarray(y, self.model.loc.dtype))
