"""The record that a report and its figures are made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from numpyro_disco._statistics import effective_number
from numpyro_disco._typing import Array, ArrayLike
from numpyro_disco.energy.distribution import EnergyDistribution
from numpyro_disco.energy.learned import Learned, LearnedEnergy
from numpyro_disco.supports.coordinates import CoordinateSupports
from numpyro_disco.tables.columns import Column
from numpyro_disco.training.loop import History
from numpyro_disco.training.objectives import Objective
from numpyro_disco.training.rows.batches import TrainingRows, spread_picks, training_rows
from numpyro_disco.training.settings import FitSettings


class ImputedRows(NamedTuple):
    """Numbers of rows with missing entries, which were imputed to learn from them."""

    total: int
    """Number of imputed rows."""
    judging: int
    """Number of them among the rows that judge; 0 if only complete rows do."""


@dataclasses.dataclass(frozen=True)
class FitEvidence:
    """Everything a report reads: the learned density, its rows, and the training history.

    Rows are in standardised units z = W (y - loc), where y are the unconstrained coordinates, W is
    `model.whitener` and loc is `model.loc`.
    """

    distribution: EnergyDistribution | None
    """The learned density in the user's units; None for a score network, which has no density."""
    model: Learned
    """The trained network over standardised rows, with its reference."""
    coordinate_supports: CoordinateSupports
    """Maps between unconstrained coordinates and the user's units."""
    names: tuple[str, ...]
    """Names of the columns."""
    columns: tuple[Column, ...]
    """Meaning of the numbers of each column."""
    rows: np.ndarray
    """Standardised training rows, shape (N, D)."""
    held_out: np.ndarray
    """Standardised held-out rows, shape (M, D)."""
    history: History
    """Losses by training step."""
    best_step: int
    """The step whose weights `model` holds; 0 if no step improved on the initial weights."""
    settings: FitSettings
    """The settings of the fit, every default resolved."""
    noise_scales: Mapping[float, float]
    """Mean held-out log density of the smoothed rows by noise scale tried; empty if the scale was
    given."""
    components: Mapping[int, float] = dataclasses.field(default_factory=dict)
    """Mean held-out log density by number of components tried; empty unless a mixture was
    fitted as the reference."""
    interrupted: bool = False
    """True if training was interrupted."""
    row_weights: np.ndarray | None = None
    """Positive weights of the training rows, shape (N,); None if all are equal."""
    held_out_weights: np.ndarray | None = None
    """Positive weights of the held-out rows, shape (M,); None if all are equal."""
    imputed: ImputedRows = ImputedRows(0, 0)
    """Rows with missing entries."""
    array_shape: tuple[int, ...] | None = None
    """Shape of the arrays that the rows are, such as images; None for a table."""

    @property
    def objective(self) -> Objective:
        """The training objective."""
        return self.settings.objective

    @property
    def density(self) -> EnergyDistribution:
        """The learned density in the user's units.

        Raises:
            ValueError: the model is a score network.
        """
        if self.distribution is None:
            raise ValueError(_NO_DENSITY)
        return self.distribution

    @property
    def energy(self) -> LearnedEnergy:
        """The learned energy.

        Raises:
            ValueError: the model is a score network.
        """
        if not isinstance(self.model, LearnedEnergy):
            raise ValueError(_NO_DENSITY)
        return self.model

    @property
    def num_held_out(self) -> float:
        """The effective number of held-out rows: their number if they are equally weighted."""
        return effective_number(self.held_out_weights, len(self.held_out))

    @property
    def evenly_weighted_held_out(self) -> np.ndarray:
        """Held-out rows for a figure, shape (M, D): drawn by weight, if they have weights."""
        if self.held_out_weights is None:
            return self.held_out
        num_rows, rng = len(self.held_out), np.random.default_rng(0)
        ends = training_rows(self.held_out, self.held_out_weights).ends
        return self.held_out[spread_picks(rng, num_rows, (1, num_rows), ends)[0]]

    @property
    def training_rows(self) -> TrainingRows:
        """The training rows with their weights."""
        return training_rows(self.rows, self.row_weights)

    def standardize(self, x: ArrayLike) -> Array:
        """Map points from the user's units to standardised units, shape (..., D) to (..., D)."""
        y = self.coordinate_supports.unconstrain(jnp.asarray(x))
        return (y - self.model.loc) @ self.model.whitener.T

    def unstandardize(self, z: ArrayLike) -> Array:
        """Map points from standardised units to the user's units, shape (..., D) to (..., D)."""
        y = np.asarray(z, np.float64) @ basis_of(self.model).T + np.asarray(self.model.loc)
        return self.coordinate_supports.constrain(jnp.asarray(y, self.model.loc.dtype))


def basis_of(model: Learned) -> np.ndarray:
    """The matrix (D, D) that maps standardised units to the columns' own, without their location.

    In double precision: a column far from zero would lose digits otherwise.
    """
    return np.linalg.inv(np.asarray(model.whitener, np.float64))


_NO_DENSITY = (
    "Expected a fit with a density to condition, sample or report on; got a score network, which "
    "learns a score only. Use `score`, or train with another `objective`."
)
