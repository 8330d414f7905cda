"""Observations, parsed and checked once.

Observations in any form that `tables` reads become one `Pattern`: the values, which of them
are observed, and the values in unconstrained space. All functions that condition on observations
parse them with `EnergyDistribution.pattern` and hand the result on.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._checks import is_traced
from numpyro_disco._typing import Array
from numpyro_disco.references.constrained import unconstrained_values
from numpyro_disco.supports.coordinates import CoordinateSupports
from numpyro_disco.tables.columns import Column
from numpyro_disco.tables.reading import read_observations


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
    """Row labels, if the observations have any."""

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
    with nullcontext() if is_traced(values, observed) else jax.ensure_compile_time_eval():
        unconstrained = unconstrained_values(supports, jnp.asarray(values, dtype), observed)
    return Pattern(_where(observed, values, 0.0), observed, unconstrained)


def parse_pattern(
    observed: Any,
    names: Sequence[str],
    columns: Sequence[Column],
    supports: CoordinateSupports,
    dtype: np.dtype,
    argument: str = "observed",
) -> Pattern:
    """Parse and check observations.

    Args:
        observed: anything with names (a mapping from names to values or arrays of one batch
            shape, a DataFrame, a series, an xarray object), or an array whose last axis has one
            entry for each name. What is missing is free. Values may be traced; a traced entry of a
            mapping counts as observed.
        names: names of the D coordinates.
        columns: what their numbers stand for.
        supports: their supports.
        dtype: precision of the unconstrained values.
        argument: name of the argument for error messages.

    Raises:
        ValueError: unknown names, shapes that do not fit, entries that are not numbers, infinite
            values, or values outside their supports.

    Example:
        >>> from numpyro.distributions import constraints
        >>> from numpyro_disco.tables.columns import Real
        >>> supports = CoordinateSupports((constraints.real, constraints.positive))
        >>> pattern = parse_pattern(
        ...     {"b": [1.0, np.nan]}, ("a", "b"), (Real(), Real()), supports, np.dtype("f4")
        ... )
        >>> pattern.observed.tolist()
        [[False, True], [False, False]]
    """
    values, seen, labels = _values_and_observed(observed, names, columns, argument)
    pattern = make_pattern(values, seen, supports, dtype)._replace(labels=labels)
    _check_inside(pattern, names, supports, dtype, argument)
    return pattern


def check_some_observed(observed: np.ndarray) -> None:
    """Require at least one true entry of `observed` (rows, D) in every row."""
    some = observed.any(axis=1)
    if not some.all():
        raise ValueError(
            f"Expected at least one number in every row of `observed`; row {int(np.argmin(some))} "
            "has none."
        )


def _values_and_observed(
    observed: Any, names: Sequence[str], columns: Sequence[Column], argument: str
) -> tuple[Any, Any, tuple[str, ...] | None]:
    """Values (..., D), zero where free, which of them are observed, and labels of the rows."""
    values, seen, labels = read_observations(observed, names, columns, argument)
    if not is_traced(values) and np.isinf(values).any():
        raise ValueError(
            f"Expected finite numbers, or NaN for what is free, in `{argument}`; got infinity."
        )
    return _where(seen, values, 0.0), seen, labels


def _check_inside(
    pattern: Pattern,
    names: Sequence[str],
    supports: CoordinateSupports,
    dtype: np.dtype,
    argument: str,
) -> None:
    """Require observed values inside their supports; traced values cannot be checked."""
    if supports.real or is_traced(pattern.values, pattern.observed):
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


def _where(condition: Any, x: Any, y: Any) -> Any:
    """`where`, in NumPy unless something is traced, so that float64 values keep their last bit."""
    return (jnp if is_traced(condition, x, y) else np).where(condition, x, y)
