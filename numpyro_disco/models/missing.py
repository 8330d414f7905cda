"""The missing entries of a table as latent vectors: distributions for `numpyro_disco.sample`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Distribution, Normal, constraints

from numpyro_disco._numpyro import validate_sample
from numpyro_disco._typing import Array, ArrayLike
from numpyro_disco.energy.distribution import EnergyDistribution
from numpyro_disco.supports.clamped import StandardizedVector

NOT_DRAWN = (
    "The missing entries of a table are inferred with the rest of the model: run MCMC, SVI or "
    "TemperedSMC. To fill them from the prior alone use `numpyro_disco.impute`."
)


class Holes(Distribution):
    """The missing entries of a table, as one vector: density of the rows given what is there.

    `log_prob` is the sum of the rows' joint log densities, up to what normalises the prior.

    Args:
        prior: an unclamped `EnergyDistribution` of one row.
        values: the table (..., D), anything where it is missing.
        observed: concrete boolean array (..., D), true where an entry is there.
        rows: labels of the rows, if they have other names than their places.
    """

    arg_constraints: dict[str, Any] = {}
    pytree_data_fields = ("prior", "values")
    pytree_aux_fields = ("holes", "shape_of_table", "rows")

    def __init__(
        self,
        prior: EnergyDistribution,
        values: Array,
        observed: np.ndarray,
        rows: tuple[str, ...] | None = None,
    ) -> None:
        self.prior, self.values, self.rows = prior, values, rows
        self.shape_of_table = observed.shape
        self.holes = tuple(int(i) for i in np.flatnonzero(~observed))
        super().__init__((), (len(self.holes),))

    @property
    def _columns(self) -> np.ndarray:
        return np.asarray(self.holes) % self.shape_of_table[-1]

    @property
    def labels(self) -> tuple[list[str], list[str]]:
        """Of each hole the label of its row, and the name of its column."""
        return labels_of(self.holes, self.shape_of_table, self.prior.names, self.rows)

    @property
    def support(self) -> constraints.Constraint:
        """Vectors in the supports; unconstrained coordinates are standardised column by column."""
        columns = self._columns
        nothing = (False,) * len(columns)
        return StandardizedVector(
            self.prior.loc[..., columns],
            self.prior.scale[..., columns],
            None,
            nothing,
            self.prior.coordinate_supports.select(columns),
        )

    def complete(self, value: ArrayLike) -> Array:
        """The table with its holes filled by `value`: shape (..., holes) to (..., *table)."""
        value = jnp.asarray(value)
        batch = value.shape[:-1]
        flat = jnp.broadcast_to(self.values.ravel(), (*batch, self.values.size))
        filled = flat.astype(value.dtype).at[..., np.asarray(self.holes)].set(value)
        return filled.reshape(*batch, *self.shape_of_table)

    def sample(self, key: Array | None, sample_shape: tuple[int, ...] = ()) -> Array:
        """Not drawn forward: a model with holes in its data is for inference."""
        raise NotImplementedError(NOT_DRAWN)

    @validate_sample
    def log_prob(self, value: ArrayLike) -> Array:
        """Sum over rows of the joint log density, shape (..., holes) to (...)."""
        rows = self.prior.log_prob(self.complete(value))
        batch_ndim = jnp.ndim(value) - 1
        return rows.sum(axis=tuple(range(batch_ndim, rows.ndim)))

    @property
    def reference(self) -> Distribution:
        """The holes under the reference of each row given what is there: drawable, normalised."""
        return HolesReference(self)


def labels_of(
    holes: Sequence[int],
    shape: tuple[int, ...],
    names: tuple[str, ...],
    rows: tuple[str, ...] | None = None,
) -> tuple[list[str], list[str]]:
    """Rows and columns of the entries at flat places `holes` of a table (..., D)."""
    *before, columns = np.unravel_index(np.asarray(holes, int), shape)
    if rows is not None:
        labels = [rows[int(place)] for place in before[0]]
    else:
        labels = [".".join(map(str, place)) for place in zip(*before, strict=True)]
    return labels, [names[place] for place in columns]


class HolesReference(Distribution):
    """Conditionals of the reference for the holes of a table, as one vector."""

    arg_constraints: dict[str, Any] = {}
    pytree_data_fields = ("parent",)

    def __init__(self, parent: Holes) -> None:
        self.parent = parent
        super().__init__((), parent.event_shape)

    @property
    def support(self) -> constraints.Constraint:
        """That of the holes."""
        return self.parent.support

    @property
    def _rows(self) -> Distribution:
        parent = self.parent
        observed = np.ones(parent.shape_of_table, bool)
        observed.flat[list(parent.holes)] = False
        return parent.prior.reference_given(parent.values, observed)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Independent draws, shape sample_shape + (holes,)."""
        rows = self._rows.sample(key, sample_shape)
        flat = rows.reshape(*sample_shape, -1)
        return flat[..., np.asarray(self.parent.holes)]

    def log_prob(self, value: ArrayLike) -> Array:
        """Normalised log density of the holes, shape (..., holes) to (...)."""
        rows = self._rows.log_prob(self.parent.complete(value))
        return rows.sum(axis=tuple(range(jnp.ndim(value) - 1, rows.ndim)))


class PaddedHoles(Distribution):
    """The entries of rows whose holes are not known when the program is compiled.

    A vector has a number for each entry of its row. Where the entry is missing it is the entry;
    elsewhere it is padding, with the density of a standard normal of the standardised entry, which
    integrates to one and touches nothing else.

    Args:
        prior: an unclamped `EnergyDistribution` of one row.
        values: rows (..., D), anything where missing.
        observed: boolean array (..., D), traced or not.
    """

    arg_constraints: dict[str, Any] = {}
    pytree_data_fields = ("prior", "values", "observed")

    def __init__(self, prior: EnergyDistribution, values: Array, observed: Array) -> None:
        self.prior, self.values, self.observed = prior, values, observed
        super().__init__(values.shape[:-1], values.shape[-1:])

    @property
    def holes(self) -> tuple[int, ...]:
        """Flat places of the holes, once the rows are concrete."""
        return tuple(np.flatnonzero(~np.asarray(self.observed)).tolist())

    @property
    def labels(self) -> tuple[list[str], list[str]]:
        """As those of `Holes`."""
        return labels_of(self.holes, self.values.shape, self.prior.names)

    @property
    def support(self) -> constraints.Constraint:
        """That of the prior."""
        return self.prior.support

    def complete(self, value: ArrayLike) -> Array:
        """Rows with their holes filled by `value`, shape (..., D)."""
        return jnp.where(self.observed, self.values, value)

    def padding(self, value: Array) -> Array:
        """Log density of the entries that are no holes, shape (..., D) to (...)."""
        prior = self.prior
        y = prior.coordinate_supports.unconstrain(value)
        log_prob = Normal(prior.loc, prior.scale).log_prob(y) - prior.coordinate_supports.log_dets(
            y, value
        )
        return jnp.where(self.observed, log_prob, 0.0).sum(-1)

    def sample(self, key: Array | None, sample_shape: tuple[int, ...] = ()) -> Array:
        """Not drawn forward: a model with holes in its data is for inference."""
        raise NotImplementedError(NOT_DRAWN)

    @validate_sample
    def log_prob(self, value: ArrayLike) -> Array:
        """Joint log density of each row, and of its padding, shape (..., D) to (...)."""
        value = jnp.asarray(value)
        return self.prior.log_prob(self.complete(value)) + self.padding(value)

    @property
    def reference(self) -> Distribution:
        """The holes under the reference of each row given what is there: drawable, normalised."""
        return PaddedReference(self)


class PaddedReference(Distribution):
    """Conditionals of the reference for the holes of rows, with padding elsewhere."""

    arg_constraints: dict[str, Any] = {}
    pytree_data_fields = ("parent",)

    def __init__(self, parent: PaddedHoles) -> None:
        self.parent = parent
        super().__init__(parent.batch_shape, parent.event_shape)

    @property
    def support(self) -> constraints.Constraint:
        """That of the holes."""
        return self.parent.support

    @property
    def _rows(self) -> Distribution:
        return self.parent.prior.reference_given(self.parent.values, self.parent.observed)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Independent draws, shape sample_shape + batch_shape + (D,)."""
        parent, prior = self.parent, self.parent.prior
        rows_key, padding_key = jax.random.split(key)
        shape = self.shape(sample_shape)
        y = prior.loc + prior.scale * jax.random.normal(padding_key, shape, prior.loc.dtype)
        padding = prior.coordinate_supports.constrain(y)
        return jnp.where(parent.observed, padding, self._rows.sample(rows_key, sample_shape))

    def log_prob(self, value: ArrayLike) -> Array:
        """Normalised log density, shape (..., D) to (...)."""
        value = jnp.asarray(value)
        return self._rows.log_prob(self.parent.complete(value)) + self.parent.padding(value)
