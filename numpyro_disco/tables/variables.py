"""Variables of any shape as one vector of D coordinates.

A variable whose elements each have a support of their own has one coordinate for each element, in
the user's units. A variable whose support couples its elements, such as a simplex, has the
coordinates u of NumPyro's bijection, value = biject_to(support)(u): entries that are fixed by the
others, such as the zeros of a triangular matrix, have none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._checks import is_traced
from numpyro_disco._typing import Array, ArrayLike
from numpyro_disco.tables.reading import aligned
from numpyro_disco.tables.variable import (
    JOINT_SUPPORTS,
    Variable,
    double_precision_coordinates,
)

# A method of something hashable as one compiled program, and not one for each operation and shape.
_one_program = partial(jax.jit, static_argnums=0, inline=True)


@dataclasses.dataclass(frozen=True)
class Variables:
    """Named arrays and the vector of D coordinates that they form together.

    Attributes:
        variables: the variables in order. A single one without a name, "", is an array such as an
            image, whose elements are called "[0,0]", "[0,1]", ....

    Example:
        >>> import jax.numpy as jnp
        >>> variables = Variables((Variable("b", (2,)), Variable("p", (3,), "simplex")))
        >>> variables.names
        ('b[0]', 'b[1]', 'p.unconstrained[0]', 'p.unconstrained[1]')
        >>> {name: value.shape for name, value in variables.unpack(jnp.zeros((7, 4))).items()}
        {'b': (7, 2), 'p': (7, 3)}
    """

    variables: tuple[Variable, ...]

    def __iter__(self) -> Iterator[Variable]:
        return iter(self.variables)

    def __getitem__(self, name: str) -> Variable:
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Variable]:
        return {variable.name: variable for variable in self.variables}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the D coordinates."""
        return tuple(name for variable in self for name in variable.coordinates)

    @property
    def array(self) -> Variable | None:
        """The only variable, if it has no name: the distribution is then one over arrays."""
        first = next(iter(self), None)
        return first if first is not None and not first.name else None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the variables by name."""
        return {variable.name: variable.shape for variable in self}

    @cached_property
    def indices(self) -> dict[str, np.ndarray]:
        """Positions of the coordinates of each variable, by name."""
        stops = np.cumsum([variable.size for variable in self])
        return {v.name: np.arange(stop - v.size, stop) for v, stop in zip(self, stops, strict=True)}

    def pack(self, values: Mapping[str, ArrayLike]) -> Array:
        """Coordinates of all variables, shape (..., D).

        Args:
            values: an array (..., *shape) for each variable; leading axes broadcast.

        Raises:
            ValueError: a variable is missing or unknown, or a shape does not fit.
        """
        missing = [variable.name for variable in self if variable.name not in values]
        if missing:
            raise ValueError(
                f"Expected a value for each of the variables {list(self.shapes)}; {missing} are "
                "missing."
            )
        given = {n: jnp.asarray(value) for n, value in self._aligned(values, "values").items()}
        for name, value in given.items():
            self._check_shape(name, value.shape, "values")
        return self._packed(given)

    @_one_program
    def _packed(self, values: dict[str, Array]) -> Array:
        parts = [variable.unconstrain(values[variable.name]) for variable in self]
        leading = np.broadcast_shapes(*(part.shape[:-1] for part in parts))
        parts = [jnp.broadcast_to(part, (*leading, part.shape[-1])) for part in parts]
        return jnp.concatenate(parts, axis=-1)

    def unpack(self, coordinates: ArrayLike) -> dict[str, Array]:
        """The variables at coordinates (..., D), by name, each of shape (..., *shape).

        The inverse of `pack`.
        """
        values = self._unpacked(jnp.asarray(coordinates))
        return {variable.name: value for variable, value in zip(self, values, strict=True)}

    @_one_program
    def _unpacked(self, x: Array) -> list[Array]:
        return [v.constrain(x[..., self.indices[v.name]]) for v in self]

    @_one_program
    def log_det(self, coordinates: Array, which: ArrayLike = True) -> Array:
        """Log |d values / d coordinates| of the joint supports, shape (..., D) to (...).

        Args:
            coordinates: array (..., D).
            which: boolean array (..., D), true for the coordinates of the variables to sum over.
        """
        which = jnp.broadcast_to(which, coordinates.shape)
        total = jnp.zeros(coordinates.shape[:-1], coordinates.dtype)
        for variable in self:
            if variable.joint_support is None or not variable.size:
                continue
            places = self.indices[variable.name]
            counts = which[..., places[0]]
            u = jnp.where(counts[..., None], coordinates[..., places], 0.0)
            total += jnp.where(counts, variable.log_det(u), 0.0)
        return total

    def inside(self, values: Mapping[str, ArrayLike]) -> Array:
        """True where all joint supports hold their values up to rounding, shape (...)."""
        return self._inside({v.name: jnp.asarray(values[v.name]) for v in self if v.joint_support})

    @_one_program
    def _inside(self, values: dict[str, Array]) -> Array:
        checks = [self[name].inside(value) for name, value in values.items()]
        return jnp.asarray(jax.tree.reduce(jnp.logical_and, checks, jnp.asarray(True)))

    # -- observations -----------------------------------------------------------------------------

    def observed_coordinates(
        self, observed: Mapping[str, Any], argument: str = "observed"
    ) -> dict[str, Any]:
        """Observations of variables or of their elements, as observations of coordinates.

        Args:
            observed: from names of variables to arrays (..., *shape) in which NaN marks free
                elements, or from names of elements, "b[0]", to arrays (...).
            argument: name of the argument for error messages.

        Returns:
            A dict from names of coordinates to arrays (...).

        Raises:
            ValueError: unknown names, shapes that do not fit, something that is given twice, values
                outside of their joint support, or some elements of a variable whose support couples
                them.
        """
        found: dict[str, Any] = {}
        for name, value in self._aligned(observed, argument).items():
            if name in self.shapes:
                value = value if is_traced(value) else _numbers(value, name, argument)
                self._check_shape(name, value.shape, argument)
                variable = self[name]
                coordinates = _observed_coordinates(variable, value, argument)
                new = {c: coordinates[..., i] for i, c in enumerate(variable.coordinates)}
            else:
                self.check_element(name, argument)
                new = {name: value}
            twice = sorted(set(found) & set(new))
            if twice:
                raise ValueError(f"Expected each element once in `{argument}`; got {twice} twice.")
            found |= new
        return found

    def check_whole(self, observed: np.ndarray, argument: str) -> None:
        """Require that what a joint support couples is observed as a whole, or not at all.

        Args:
            observed: boolean array (..., D) of observed coordinates.
            argument: name of the argument for error messages.
        """
        for variable in self:
            if variable.joint_support is None:
                continue
            seen = observed[..., self.indices[variable.name]]
            if (seen.any(-1) & ~seen.all(-1)).any():
                raise ValueError(_coupled(variable, argument))

    def check_element(self, name: str, argument: str) -> None:
        """Require the name of a coordinate; refuse elements that a joint support couples."""
        for variable in self:
            coupled = variable.coordinates if variable.joint_support else ()
            if name in variable.elements and name not in self.names or name in coupled:
                raise ValueError(
                    f"`{argument}` names {name!r}, but the elements of {variable.name!r} are "
                    f"coupled by its support ({variable.joint_support}), so one of them cannot be "
                    f"held while the others move freely. Give all of {variable.name!r}, or none."
                )
        if name in self.names:
            return
        raise ValueError(
            f"`{argument}` names {name!r}, which is neither a variable of this distribution nor an "
            f"element of one; its variables and their shapes are {self.shapes}."
        )

    def _aligned(self, values: Mapping[str, Any], argument: str) -> dict[str, Any]:
        """Values by name; series with one number in each row are matched by their index."""
        rows = {n: v for n, v in values.items() if not self.shapes.get(n) or np.ndim(v) > 1}
        return {**values, **aligned(rows, argument)}

    def _check_shape(self, name: str, shape: tuple[int, ...], argument: str) -> None:
        if name not in self.shapes:
            self.check_element(name, argument)
            raise ValueError(f"Expected whole variables in `{argument}`; got {name!r}.")
        expected = self.shapes[name]
        if shape[max(0, len(shape) - len(expected)) :] != expected:
            raise ValueError(
                f"Expected an array whose last axes are {expected} for {name!r} in `{argument}`; "
                f"got shape {shape}."
            )

    # -- files ------------------------------------------------------------------------------------

    def to_json(self) -> list[dict[str, Any]]:
        """The variables as plain data."""
        return [dataclasses.asdict(variable) for variable in self]

    @classmethod
    def from_json(cls, described: list[dict[str, Any]]) -> Variables:
        """The variables that `to_json` described.

        Raises:
            ValueError: an unknown support.
        """
        variables = tuple(
            Variable(str(d["name"]), tuple(map(int, d["shape"])), d["joint_support"])
            for d in described
        )
        for variable in variables:
            if variable.joint_support not in (None, *JOINT_SUPPORTS):
                raise ValueError(f"there is no support {variable.joint_support!r}")
        return cls(variables)


def _coupled(variable: Variable, argument: str) -> str:
    return (
        f"Expected all elements of {variable.name!r} in `{argument}`, or none (NaN): they are "
        f"coupled by its support ({variable.joint_support}), so some cannot be held while the "
        "others move freely."
    )


def _numbers(value: Any, name: str, argument: str) -> np.ndarray:
    try:
        return np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"Expected numbers for {name!r} in `{argument}`; got {value!r}.") from None


def _observed_coordinates(variable: Variable, value: Any, argument: str) -> Any:
    """Coordinates (..., size) of an observed variable (..., *shape), NaN where it is free."""
    if variable.joint_support is None:
        return value.reshape(*value.shape[: value.ndim - len(variable.shape)], variable.size)
    if is_traced(value):
        return variable.unconstrain(value)
    axes = tuple(range(value.ndim - len(variable.shape), value.ndim))
    free = np.isnan(value)
    whole = free.all(axes)
    if (free.any(axes) & ~whole).any():
        raise ValueError(_coupled(variable, argument))
    with jax.ensure_compile_time_eval():
        coordinates, inside = double_precision_coordinates(variable, value)
    if not (inside | whole).all():
        raise ValueError(
            f"Expected values of {variable.name!r} in `{argument}` to be in its support, "
            f"{variable.joint_support}; got {value[~inside & ~whole][0].tolist()}."
        )
    return np.where(whole[..., None], np.nan, coordinates)
