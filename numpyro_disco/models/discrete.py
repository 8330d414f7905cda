"""Discrete coordinates of learned priors as sites of a NumPyro model.

A latent discrete coordinate is a discrete site with log density 0 at each of its levels; the joint
log density of all coordinates is a factor beside it, as for continuous ones. NumPyro sums such
sites out (NUTS, HMC; `TemperedSMC` does so as well) or moves them (`DiscreteHMCGibbs`).

- `DiscreteCoordinate`: one coordinate of a vector.
- `RowLevels`: the missing discrete entries of each row of a table, together. A row with entries
  missing in columns of 2 and 3 levels has 6 combinations, whatever is missing elsewhere.

Values are whole numbers from 0 on, since an enumerated site takes 0, 1, 2, ... in NumPyro.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.distributions import constraints

from numpyro_disco._checks import is_traced
from numpyro_disco._numpyro import (
    StableDistribution,
    active_handlers,
    chooses_start,
    enumerates_later,
    validate_sample,
)
from numpyro_disco._typing import Array, ArrayLike
from numpyro_disco.energy.distribution import EnergyDistribution
from numpyro_disco.models.coordinate import Coordinate
from numpyro_disco.models.missing import NOT_DRAWN
from numpyro_disco.supports.coordinates import CoordinateSupports
from numpyro_disco.tables.columns import Categories

MOST_COMBINATIONS = 4096
"""Most combinations of levels that are summed out in one row."""
MOST_VALUES = 128
"""Largest value, plus one, of a whole number that may be latent."""

NO_LEVEL = -1
"""Stands for a level that is summed out later. It is impossible, so that a bound of SVI that does
not sum, such as that of `Trace_ELBO`, is infinite instead of wrong."""


class DiscreteCoordinate(Coordinate):
    """One discrete coordinate of an `EnergyDistribution`, with log density 0 at each level.

    Args:
        prior: the joint distribution.
        index: position of the coordinate.
        latent: False if its value is observed, so that it is never enumerated.

    Raises:
        ValueError: It is latent, and some level is below 0 or at least `MOST_VALUES`.
    """

    has_enumerate_support = True
    # `TraceEnum_ELBO` finds what depends on a site only if it cannot be reparametrised.
    has_rsample = False

    def __init__(self, prior: EnergyDistribution, index: int, *, latent: bool = True) -> None:
        super().__init__(prior, index)
        lowest, highest = self._bounds
        if latent and (lowest < 0 or highest >= MOST_VALUES):
            raise ValueError(
                f"Expected whole numbers from 0 to {MOST_VALUES - 1} for a latent discrete "
                f"coordinate; {self.name!r} has {lowest} to {highest}. Observe it, or learn the "
                "prior from values with an origin subtracted."
            )

    @property
    def _bounds(self) -> tuple[int, int]:
        """The lowest and the highest level."""
        return level_bounds(self.prior.coordinate_supports, self.index)

    @property
    def support(self) -> constraints.Constraint:
        """The levels."""
        return constraints.integer_interval(*self._bounds)

    @property
    def labels(self) -> tuple[Any, ...]:
        """The levels of a category in the order of their codes; none for other coordinates."""
        column = self.prior.columns[self.index]
        return column.levels if isinstance(column, Categories) else ()

    def enumerate_support(self, expand: bool = True) -> Array:
        """The whole numbers from 0 to the highest level, along a new first axis."""
        return _numbers(self._bounds[1] + 1, self.batch_shape, expand)

    def sample(self, key: Array | None, sample_shape: tuple[int, ...] = ()) -> Array:
        """A level for a sampler to start from; otherwise raise `NotImplementedError`."""
        if enumerates_later():
            return jnp.full(self.shape(sample_shape), NO_LEVEL)
        if key is None or not chooses_start(key):
            return super().sample(key, sample_shape)
        lowest, highest = self._bounds
        return jax.random.randint(key, self.shape(sample_shape), lowest, highest + 1)

    @validate_sample
    def log_prob(self, value: ArrayLike) -> Array:
        """Zero at the levels, -inf below the lowest."""
        value = jnp.asarray(value)
        shape = jnp.broadcast_shapes(value.shape, self.batch_shape)
        lowest, highest = self._bounds
        inside = (value >= lowest) & (value <= highest)
        return jnp.broadcast_to(jnp.where(inside, 0.0, -jnp.inf), shape)


class RowLevels(StableDistribution):
    """The missing discrete entries of each row of a table, as one number for each row.

    The number counts the combinations of levels of the entries that the row misses. It has log
    density 0, or -inf past the last combination of its row.

    Args:
        prior: an unclamped `EnergyDistribution` of one row.
        values: the table, shape (..., D), with any values where entries are missing.
        observed: boolean array (..., D). If it is traced, all discrete columns are counted, and
            combinations that contradict an observed entry are impossible.

    Raises:
        ValueError: More than `MOST_COMBINATIONS` in some row.
    """

    arg_constraints: dict[str, Any] = {}
    pytree_data_fields = ("levels", "possible", "missing")
    has_enumerate_support = True
    has_rsample = False

    levels: ArrayLike
    """Values of the discrete entries in each combination, shape (..., M, D)."""
    possible: ArrayLike
    """True for the combinations that a row can have, shape (..., M)."""
    missing: Array
    """True for missing discrete entries, shape (..., D)."""

    def __init__(self, prior: EnergyDistribution, values: Array, observed: Any) -> None:
        supports = prior.coordinate_supports
        self.missing = ~observed & supports.discrete
        all_bounds = [level_bounds(supports, i) for i in range(len(prior.names))]
        dtype = prior.loc.dtype
        if is_traced(observed):
            levels = _combinations(all_bounds, supports.discrete, prior.names)
            self.levels = jnp.broadcast_to(
                levels.astype(dtype), (*values.shape[:-1], *levels.shape)
            )
            same = self.missing[..., None, :] | (self.levels == values[..., None, :])
            # Among combinations that differ in observed entries only, the one that agrees counts.
            self.possible = (same | ~supports.discrete).all(-1)
        else:
            rows = self.missing.reshape(-1, len(prior.names))
            patterns, place = np.unique(rows, axis=0, return_inverse=True)
            tables = [_combinations(all_bounds, pattern, prior.names) for pattern in patterns]
            most = max(len(table) for table in tables)
            padded = [np.resize(table, (most, table.shape[1])) for table in tables]
            counts = np.array([len(table) for table in tables])[place.ravel()]
            shape = values.shape[:-1]
            self.levels = np.stack(padded)[place.ravel()].reshape(*shape, most, -1).astype(dtype)
            self.possible = (np.arange(most) < counts[:, None]).reshape(*shape, most)
        super().__init__(values.shape[:-1], ())

    @property
    def num_combinations(self) -> int:
        """M, the largest number of combinations of a row."""
        return int(np.shape(self.possible)[-1])

    @property
    def support(self) -> constraints.Constraint:
        """Whole numbers from 0 to M - 1."""
        return constraints.integer_interval(0, self.num_combinations - 1)

    def enumerate_support(self, expand: bool = True) -> Array:
        """The whole numbers from 0 to M - 1, along a new first axis."""
        return _numbers(self.num_combinations, self.batch_shape, expand)

    def complete(self, value: ArrayLike, rows: Array) -> Array:
        """Rows with their missing discrete entries, shape (..., D).

        Args:
            value: the number of a combination for each row.
            rows: array (..., D) whose other entries are kept.
        """
        levels = jnp.asarray(self.levels)[(*self._rows, jnp.asarray(value))]
        return jnp.where(self.missing, levels, rows)

    def sample(self, key: Array | None, sample_shape: tuple[int, ...] = ()) -> Array:
        """The first possible combination, for samplers; otherwise raise `NotImplementedError`."""
        if enumerates_later():
            return jnp.full(self.shape(sample_shape), NO_LEVEL)
        if key is None or not chooses_start(key):
            raise NotImplementedError(NOT_DRAWN)
        first = jnp.argmax(jnp.asarray(self.possible), axis=-1)
        return jnp.broadcast_to(first, self.shape(sample_shape))

    @validate_sample
    def log_prob(self, value: ArrayLike) -> Array:
        """Zero for a combination that the row can have, otherwise -inf."""
        value = jnp.asarray(value)
        possible = jnp.asarray(self.possible)[(*self._rows, value)]
        return jnp.where(possible & (value >= 0), 0.0, -jnp.inf)

    @property
    def _rows(self) -> tuple[np.ndarray, ...]:
        """Indices of the rows, which broadcast with a number for each."""
        return tuple(np.ogrid[tuple(slice(size) for size in self.batch_shape)])


def refuse_scales(name: str) -> None:
    """Refuse `scale` around latent discrete sites, whose sum NumPyro would scale term by term."""
    if any(isinstance(handler, numpyro.handlers.scale) for handler in active_handlers()):
        raise ValueError(
            f"Expected no `scale` around {name!r}, which is discrete: NumPyro scales each level "
            "before it sums them out, which is another density. Scale other sites instead."
        )


def level_bounds(supports: CoordinateSupports, index: int) -> tuple[int, int]:
    """The lowest and the highest level of a discrete coordinate."""
    lowest = int(getattr(supports.supports[index], "lower_bound", 0))
    return lowest, lowest + supports.num_levels[index] - 1


def _combinations(
    bounds: list[tuple[int, int]], chosen: np.ndarray, names: tuple[str, ...]
) -> np.ndarray:
    """All combinations of the levels of some coordinates, zero elsewhere: shape (M, D).

    Args:
        bounds: lowest and highest level of each coordinate; ignored for continuous ones.
        chosen: boolean array (D,), true for the coordinates to combine.
        names: their names, for the error message.
    """
    ranges = [
        np.arange(low, high + 1) if use else np.zeros(1)
        for (low, high), use in zip(bounds, chosen, strict=True)
    ]
    count = int(np.prod([len(values) for values in ranges], dtype=float))
    if count > MOST_COMBINATIONS:
        together = [name for name, use in zip(names, chosen, strict=True) if use]
        raise ValueError(
            f"Expected at most {MOST_COMBINATIONS} combinations of the missing discrete entries of "
            f"a row; those of {together} have {count}. Impute some of them first, with "
            "`numpyro_disco.impute`, or give the table as a constant of the model instead of as "
            "an argument that is compiled for by shape."
        )
    grid = np.meshgrid(*ranges, indexing="ij")
    return np.stack([axis.ravel() for axis in grid], axis=-1)


def _numbers(count: int, batch_shape: tuple[int, ...], expand: bool) -> Array:
    """0, ..., count - 1 along a new first axis, before axes of length one or of `batch_shape`."""
    values = jnp.arange(count).reshape(count, *(1 for _ in batch_shape))
    return jnp.broadcast_to(values, (count, *batch_shape)) if expand else values
