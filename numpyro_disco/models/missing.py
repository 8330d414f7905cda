"""Distributions of the missing entries of a table, given the entries that are observed.

Rows x_1, ..., x_n are independent draws of one learned prior p, each split into observed entries
o_i and missing entries m_i. Both distributions below are over the missing entries, with

    log p(m_1, ..., m_n) = sum_i log p(o_i, m_i) + const,

and have as `reference` the reference of each row given its observed entries, which is normalised
and can be drawn. They differ in what is known when a program is compiled:

- `MissingEntries`: the places of the missing entries. All of them form one vector.
- `PaddedEntries`: only the shape of the table. Each row has a value for every entry, and values for
  observed entries are padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Distribution, Normal, constraints

from numpyro_disco._numpyro import StableDistribution, validate_sample
from numpyro_disco._typing import Array, ArrayLike
from numpyro_disco.energy.distribution import EnergyDistribution
from numpyro_disco.models.entries import row_coordinates
from numpyro_disco.supports.clamped import StandardizedVector
from numpyro_disco.supports.rows import StandardizedRows

NOT_DRAWN = (
    "The missing entries of a table are inferred with the rest of the model: run MCMC, SVI or "
    "TemperedSMC. To fill them from the prior alone use `numpyro_disco.impute`."
)


class MissingEntries(StableDistribution):
    """The missing entries of a table as one vector, given the observed ones.

    `log_prob` is the sum of the rows' joint log densities, unnormalised unless the prior is
    normalised. Missing discrete entries are not part of the vector: they are sites of their own
    (`RowLevels`), and if there are any, `log_prob` is 0 and the joint density is a factor beside.

    Args:
        prior: an unclamped `EnergyDistribution` of one row.
        values: the table, shape (..., D), with any values where entries are missing.
        observed: concrete boolean array (..., D), true where an entry is observed.
        rows: labels of the rows; by default their positions.
    """

    arg_constraints: dict[str, Any] = {}
    pytree_data_fields = ("prior", "values", "loc", "factors")
    pytree_aux_fields = ("places", "discrete_places", "table_shape", "rows", "sizes")

    places: tuple[int, ...]
    """Positions of the missing continuous entries in the flattened table."""
    discrete_places: tuple[int, ...]
    """Positions of the missing discrete entries in the flattened table."""
    table_shape: tuple[int, ...]
    """Shape of the table, (..., D)."""
    sizes: tuple[int, ...]
    """Number of missing continuous entries of each row that has any."""

    def __init__(
        self,
        prior: EnergyDistribution,
        values: Array,
        observed: np.ndarray,
        rows: tuple[str, ...] | None = None,
    ) -> None:
        self.prior, self.values, self.rows = prior, values, rows
        self.table_shape = observed.shape
        discrete = prior.coordinate_supports.discrete
        self.places = tuple(np.flatnonzero(~observed & ~discrete).tolist())
        self.discrete_places = tuple(np.flatnonzero(~observed & discrete).tolist())
        self.loc, self.factors, self.sizes = row_coordinates(prior, values, observed)
        super().__init__((), (len(self.places),))

    @property
    def labels(self) -> tuple[list[str], list[str]]:
        """The row label and the column name of each missing entry."""
        return entry_labels(self.places, self.table_shape, self.prior.names, self.rows)

    @property
    def support(self) -> constraints.Constraint:
        """The support of each entry's column.

        The unconstrained coordinates of a row are those of the reference given its observed
        entries.
        """
        columns = np.asarray(self.places) % self.table_shape[-1]
        supports = self.prior.coordinate_supports.select(columns)
        return StandardizedRows(self.loc, self.factors, self.sizes, supports)

    def complete(self, value: ArrayLike) -> Array:
        """Fill the missing entries with `value`, shape (..., num_missing) to (..., *table)."""
        value = jnp.asarray(value)
        batch = value.shape[:-1]
        flat = jnp.broadcast_to(self.values.ravel(), (*batch, self.values.size))
        filled = flat.astype(value.dtype).at[..., np.asarray(self.places)].set(value)
        return filled.reshape(*batch, *self.table_shape)

    def sample(self, key: Array | None, sample_shape: tuple[int, ...] = ()) -> Array:
        """Raise `NotImplementedError`: missing entries are inferred, not simulated."""
        raise NotImplementedError(NOT_DRAWN)

    @validate_sample
    def log_prob(self, value: ArrayLike) -> Array:
        """Sum over rows of the joint log density, shape (..., num_missing) to (...)."""
        if self.discrete_places:
            return jnp.zeros(jnp.shape(value)[:-1])
        return _sum_rows(self.prior.log_prob(self.complete(value)), value)

    @property
    def reference(self) -> Distribution:
        """The missing entries under the reference of each row given its observed entries."""
        return MissingEntriesReference(self)


class MissingEntriesReference(StableDistribution):
    """The reference's conditional of the missing entries of a table, as one vector.

    Args:
        parent: the `MissingEntries` it is the reference of.
    """

    arg_constraints: dict[str, Any] = {}
    pytree_data_fields = ("parent",)

    def __init__(self, parent: MissingEntries) -> None:
        self.parent = parent
        super().__init__((), parent.event_shape)

    @property
    def support(self) -> constraints.Constraint:
        """The support of the missing entries."""
        return self.parent.support

    @property
    def _rows(self) -> Distribution:
        parent = self.parent
        observed = np.ones(parent.table_shape, bool)
        observed.flat[[*parent.places, *parent.discrete_places]] = False
        return parent.prior.reference_given(parent.values, observed)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Independent draws, shape sample_shape + (num_missing,)."""
        rows = self._rows.sample(key, sample_shape)
        flat = rows.reshape(*sample_shape, -1)
        return flat[..., np.asarray(self.parent.places)]

    def log_prob(self, value: ArrayLike) -> Array:
        """Log density, normalised, (..., num_missing) to (...); discrete entries are summed out."""
        table, parent = self.parent.complete(value), self.parent
        if not parent.discrete_places:
            return _sum_rows(self._rows.log_prob(table), value)
        known = np.ones(parent.table_shape, bool)
        known.flat[list(parent.discrete_places)] = False
        return _sum_rows(self._rows.marginal_log_prob(table, known), value)


class PaddedEntries(StableDistribution):
    """One value for every entry of each row, where compiled code cannot know which are missing.

    The value of a missing entry is that entry. The value of an observed entry is padding: an
    independent standard normal in the standardised coordinate, which integrates to one and leaves
    the evidence and the posterior of everything else as they are.

    Args:
        prior: an unclamped `EnergyDistribution` of one row.
        values: rows, shape (..., D), with any values where entries are missing.
        observed: boolean array (..., D), traced or not, true where an entry is observed.
    """

    arg_constraints: dict[str, Any] = {}
    pytree_data_fields = ("prior", "values", "observed", "loc", "factor")

    def __init__(self, prior: EnergyDistribution, values: Array, observed: Array) -> None:
        self.prior, self.values, self.observed = prior, values, observed
        self.loc, self.factor = prior.coordinates(values, observed)
        super().__init__(values.shape[:-1], values.shape[-1:])

    @property
    def places(self) -> tuple[int, ...]:
        """Positions of the missing entries in the flattened rows, which must be concrete."""
        return tuple(np.flatnonzero(~np.asarray(self.observed)).tolist())

    @property
    def labels(self) -> tuple[list[str], list[str]]:
        """The row position and the column name of each missing entry of concrete rows."""
        return entry_labels(self.places, self.values.shape, self.prior.names)

    @property
    def support(self) -> constraints.Constraint:
        """The support of the prior.

        The unconstrained coordinates of a row are those of the reference given its observed
        entries. Padding is standard normal in them.
        """
        columns, prior = (False,) * len(self.prior.names), self.prior
        return StandardizedVector(self.loc, self.factor, None, columns, prior.coordinate_supports)

    def complete(self, value: ArrayLike) -> Array:
        """Fill the missing entries of the rows with those of `value`, shape (..., D)."""
        return jnp.where(self.observed, self.values, value)

    def padding(self, value: Array) -> Array:
        """Log density of the padding, shape (..., D) to (...)."""
        prior = self.prior
        y = prior.coordinate_supports.unconstrain(value)
        log_prob = Normal(prior.loc, prior.scale).log_prob(y) - prior.coordinate_supports.log_dets(
            y, value
        )
        return jnp.where(self.observed, log_prob, 0.0).sum(-1)

    def sample(self, key: Array | None, sample_shape: tuple[int, ...] = ()) -> Array:
        """Raise `NotImplementedError`: missing entries are inferred, not simulated."""
        raise NotImplementedError(NOT_DRAWN)

    @validate_sample
    def log_prob(self, value: ArrayLike) -> Array:
        """Joint log density of each row and its padding, shape (..., D) to (...)."""
        value = jnp.asarray(value)
        return self.prior.log_prob(self.complete(value)) + self.padding(value)

    @property
    def reference(self) -> Distribution:
        """Each row under its reference given the observed entries, with padding for these."""
        return PaddedEntriesReference(self)


class PaddedEntriesReference(StableDistribution):
    """The reference's conditional of the missing entries of each row, with padding elsewhere.

    Args:
        parent: the `PaddedEntries` it is the reference of.
    """

    arg_constraints: dict[str, Any] = {}
    pytree_data_fields = ("parent",)

    def __init__(self, parent: PaddedEntries) -> None:
        self.parent = parent
        super().__init__(parent.batch_shape, parent.event_shape)

    @property
    def support(self) -> constraints.Constraint:
        """The support of the prior."""
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


def entry_labels(
    places: Sequence[int],
    table_shape: tuple[int, ...],
    names: tuple[str, ...],
    rows: tuple[str, ...] | None = None,
) -> tuple[list[str], list[str]]:
    """Row labels and column names of some entries of a table.

    Args:
        places: positions of the entries in the flattened table.
        table_shape: shape of the table, (..., D).
        names: names of the D columns.
        rows: labels of the rows of a table (n, D). By default a row's label is its position, with
            dots between the indices of several axes.

    Example:
        >>> entry_labels([1, 2], (2, 2), ("a", "b"))
        (['0', '1'], ['b', 'a'])
    """
    *before, columns = np.unravel_index(np.asarray(places, int), table_shape)
    if rows is not None:
        labels = [rows[int(row)] for row in before[0]]
    else:
        labels = [".".join(map(str, indices)) for indices in zip(*before, strict=True)]
    return labels, [names[column] for column in columns]


def _sum_rows(log_prob: Array, value: ArrayLike) -> Array:
    """Sum log densities of rows, shape (*batch, *rows), over the rows of each `value`."""
    num_batch_axes = jnp.ndim(value) - 1
    return log_prob.sum(axis=tuple(range(num_batch_axes, log_prob.ndim)))
