"""Equality and leaves of supports and maps, which NumPyro asks each class for."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np


class Fields:
    """Equality and pytree structure of a constraint or a transform by the names of its fields.

    It comes before NumPyro's class among the bases: `class Support(Fields, Constraint)`.
    """

    array_fields: ClassVar[tuple[str, ...]]
    """Names of the attributes that hold an array or None: the leaves."""
    static_fields: ClassVar[tuple[str, ...]] = ()
    """Names of the other attributes."""

    def eq(self, other: object, static: bool = False) -> Any:
        """Compare type and fields.

        Args:
            other: any object.
            static: return a bool; otherwise a boolean array (), which may be traced.
        """
        if type(other) is not type(self):
            return False
        if any(getattr(self, name) != getattr(other, name) for name in self.static_fields):
            return False
        pairs = [(getattr(self, name), getattr(other, name)) for name in self.array_fields]
        if any((a is None) != (b is None) for a, b in pairs):
            return False
        pairs = [pair for pair in pairs if pair[0] is not None]
        if static:
            return all(np.array_equal(a, b) for a, b in pairs)
        return jnp.array([jnp.array_equal(a, b) for a, b in pairs]).all()

    def tree_flatten(self) -> tuple[Any, Any]:
        """The arrays, with their names and the other fields as static data."""
        static = {name: getattr(self, name) for name in self.static_fields}
        leaves = tuple(getattr(self, name) for name in self.array_fields)
        return leaves, (self.array_fields, static)
