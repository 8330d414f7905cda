"""Observations, parsed and checked once.

A mapping, an array or a DataFrame of observations becomes one `Pattern`: the values, which of them
are observed, and the values in unconstrained space. All functions that condition on observations
parse them with `EnergyDistribution.pattern` and hand the result on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._checks import name_index
from numpyro_disco._typing import Array
from numpyro_disco.references.constrained import unconstrained_values
from numpyro_disco.supports.coordinates import CoordinateSupports


class Pattern(NamedTuple):
    """The observed coordinates of one vector, or of many rows, and their values."""

    values: Any
    """Observed values in the user's units, zero where free, shape (..., D). A float64 NumPy array,
    so that observed entries can be returned bit for bit, unless some value is traced."""
    observed: Any
    """True where a coordinate is observed, boolean, shape (..., D). A NumPy array unless a traced
    *array* was given, whose missing entries are unknown until the program runs."""
    unconstrained: Array
    """`values` in unconstrained space and in the prior's precision, zero where free, (..., D)."""
    labels: tuple[str, ...] | None = None
    """Row labels, if the observations are a DataFrame."""

    @property
    def is_single(self) -> bool:
        """True for one vector (D,) without a row axis."""
        return self.values.ndim == 1

    def fill_from(self, other: Pattern) -> Pattern:
        """Add what `other` observes and this pattern does not; shapes broadcast."""
        keep = self.observed | ~other.observed
        return Pattern(
            _where(keep, self.values, other.values),
            self.observed | other.observed,
            jnp.where(keep, self.unconstrained, other.unconstrained),
            self.labels,
        )

    def as_rows(self, argument: str = "observed") -> Pattern:
        """This pattern with exactly one row axis, shape (rows, D).

        Args:
            argument: name of the argument for the error message.

        Raises:
            ValueError: more than one axis before the last.
        """
        if self.values.ndim > 2:
            raise ValueError(
                f"Expected (D,) or (rows, D) for `{argument}`; got shape {self.values.shape}."
            )
        return self._each(lambda array: array[None] if array.ndim == 1 else array)

    def select(self, rows: Any) -> Pattern:
        """The rows at some indices, which may repeat; labels are dropped."""
        index = np.asarray(rows)
        return self._each(lambda array: array[index])._replace(labels=None)

    def reshape(self, *shape: int) -> Pattern:
        """The same entries in another shape; labels are dropped."""
        return self._each(lambda array: array.reshape(shape))._replace(labels=None)

    def hide(self, hidden: np.ndarray) -> Pattern:
        """This pattern with some entries free.

        Args:
            hidden: boolean array (..., D), true for entries to make free.
        """
        return self._replace(
            values=_where(hidden, 0.0, self.values),
            observed=self.observed & ~hidden,
            unconstrained=jnp.where(hidden, 0.0, self.unconstrained),
        )

    def _each(self, function: Any) -> Self:
        return self._replace(
            values=function(self.values),
            observed=function(self.observed),
            unconstrained=function(self.unconstrained),
        )


def make_pattern(
    values: Any, observed: Any, supports: CoordinateSupports, dtype: np.dtype
) -> Pattern:
    """A `Pattern` of values that are known to be valid.

    Args:
        values: array (..., D) in the user's units; entries of free coordinates are ignored.
        observed: boolean array (..., D).
        supports: the supports of the D coordinates.
        dtype: precision of the unconstrained values.
    """
    # Concrete observations stay concrete while a program is traced, so that they can be checked.
    with nullcontext() if _is_traced(values, observed) else jax.ensure_compile_time_eval():
        unconstrained = unconstrained_values(supports, jnp.asarray(values, dtype), observed)
    return Pattern(_where(observed, values, 0.0), observed, unconstrained)


def parse_pattern(
    observed: Any,
    names: Sequence[str],
    supports: CoordinateSupports,
    dtype: np.dtype,
    argument: str = "observed",
) -> Pattern:
    """Parse and check observations.

    Args:
        observed: mapping from names to numbers or to arrays of one batch shape; or an array or a
            DataFrame whose last axis has one entry for each name. NaN marks free entries. Values
            may be traced; a traced entry of a mapping counts as observed.
        names: names of the D coordinates.
        supports: their supports.
        dtype: precision of the unconstrained values.
        argument: name of the argument for error messages.

    Raises:
        ValueError: unknown names, shapes that do not fit, entries that are not numbers, infinite
            values, or values outside their supports.

    Example:
        >>> from numpyro.distributions import constraints
        >>> supports = CoordinateSupports((constraints.real, constraints.positive))
        >>> pattern = parse_pattern({"b": [1.0, np.nan]}, ("a", "b"), supports, np.dtype("f4"))
        >>> pattern.observed.tolist()
        [[False, True], [False, False]]
    """
    values, seen = _values_and_observed(observed, names, argument)
    pattern = make_pattern(values, seen, supports, dtype)._replace(labels=_row_labels(observed))
    _check_inside(pattern, names, supports, dtype, argument)
    return pattern


def check_some_observed(observed: np.ndarray, argument: str = "observed") -> None:
    """Require at least one true entry of `observed` (rows, D) in every row."""
    some = observed.any(axis=1)
    if not some.all():
        raise ValueError(
            f"Expected at least one number in every row of `{argument}`; row "
            f"{int(np.argmin(some))} has none."
        )


def _values_and_observed(observed: Any, names: Sequence[str], argument: str) -> tuple[Any, Any]:
    """Values (..., D), zero where free, and which of them are observed."""
    values: Any
    seen: Any
    if _is_frame(observed):
        columns = [str(column) for column in observed.columns]
        if len(set(columns)) < len(columns):
            raise ValueError(
                f"Expected distinct columns in `{argument}`; got {columns}. Rename the columns."
            )
        observed = {str(column): observed[column].to_numpy() for column in observed.columns}
    if isinstance(observed, Mapping):
        values, seen = _from_mapping(observed, names, argument)
    else:
        values = _numbers(observed, argument)
        seen = ~jnp.isnan(values) if _is_traced(values) else ~np.isnan(values)
    if values.ndim == 0 or values.shape[-1] != len(names):
        raise ValueError(
            f"Expected a last axis of {len(names)} for `{argument}`, one entry for each of "
            f"{tuple(names)}; got shape {values.shape}."
        )
    if not _is_traced(values) and np.isinf(values).any():
        raise ValueError(
            f"Expected finite numbers, or NaN for what is free, in `{argument}`; got infinity."
        )
    return _where(seen, values, 0.0), seen


def _from_mapping(
    observed: Mapping[str, Any], names: Sequence[str], argument: str
) -> tuple[Any, np.ndarray]:
    """Values (..., D), NaN where free, and a concrete boolean array of what is observed."""
    places = {name: name_index(name, names, argument) for name in observed}
    given = {places[name]: _numbers(value, argument) for name, value in observed.items()}
    try:
        shape = np.broadcast_shapes(*(value.shape for value in given.values()))
    except ValueError:
        shapes = {name: given[place].shape for name, place in places.items()}
        raise ValueError(
            f"Expected entries of one batch shape in `{argument}`; got the shapes {shapes}."
        ) from None
    columns = [given.get(place, np.full(shape, np.nan)) for place in range(len(names))]
    numpy = jnp if _is_traced(*columns) else np
    seen = [
        np.full(shape, True) if _is_traced(column) else np.broadcast_to(~np.isnan(column), shape)
        for column in columns
    ]
    values = numpy.stack([numpy.broadcast_to(column, shape) for column in columns], axis=-1)
    return values, np.stack(seen, axis=-1)


def _check_inside(
    pattern: Pattern,
    names: Sequence[str],
    supports: CoordinateSupports,
    dtype: np.dtype,
    argument: str,
) -> None:
    """Require observed values inside their supports; traced values cannot be checked."""
    if supports.real or _is_traced(pattern.values, pattern.observed):
        return
    with jax.ensure_compile_time_eval():
        inside = supports.inside(jnp.asarray(pattern.values, dtype))
        # A value on the bound of an open set is mapped to infinity, where a density has no value.
        inside &= jnp.isfinite(pattern.unconstrained)
        outside = np.asarray(~inside & pattern.observed)
    if outside.any():
        place = tuple(np.argwhere(outside)[0])
        raise ValueError(
            f"Expected values inside their supports in `{argument}`; got "
            f"{float(pattern.values[place])} for {names[place[-1]]!r}, whose support is "
            f"{supports.supports[place[-1]]!r}."
        )


def _numbers(value: Any, argument: str) -> Any:
    """`value` as an array: traced arrays as they are, anything else as float64."""
    if _is_traced(value):
        return value
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"Expected numbers in `{argument}`; got {value!r}.") from None


def _row_labels(table: Any) -> tuple[str, ...] | None:
    """The labels of a DataFrame's rows, if `table` is one."""
    if _is_frame(table) and hasattr(table, "index"):
        return tuple(str(label) for label in table.index)
    return None


def _is_frame(table: Any) -> bool:
    return hasattr(table, "columns") and hasattr(table, "to_numpy")


def _is_traced(*arrays: Any) -> bool:
    return any(isinstance(array, jax.core.Tracer) for array in arrays)


def _where(condition: Any, x: Any, y: Any) -> Any:
    """`where`, in NumPy unless something is traced, so that float64 values keep their last bit."""
    return (jnp if _is_traced(condition, x, y) else np).where(condition, x, y)
