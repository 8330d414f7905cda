"""Equality and leaves by the names of fields."""

import jax
import jax.numpy as jnp
import pytest
from numpyro.distributions import constraints

from numpyro_disco.supports.fields import Fields


class Above(Fields, constraints.Constraint):
    """Numbers above a bound."""

    array_fields = ("bound", "offset")
    static_fields = ("label",)

    def __init__(self, bound, offset=None, label="one"):
        self.bound, self.offset, self.label = bound, offset, label


class Other(Above):
    """Another type with the same fields."""


ONE = Above(jnp.zeros(2))


@pytest.mark.parametrize(
    "other",
    [
        Above(jnp.ones(2)),
        Above(jnp.zeros(2), jnp.zeros(2)),
        Above(jnp.zeros(2), label="two"),
        Other(jnp.zeros(2)),
        "one",
    ],
)
def test_another_field_or_type_is_not_equal(other):
    assert ONE != other and not bool(ONE.eq(other))


def test_equal_fields_are_equal_also_in_compiled_code():
    again = jax.tree.map(lambda leaf: leaf + 0, ONE)
    assert ONE == again and (again.label, again.offset) == ("one", None)
    assert bool(jax.jit(lambda one, other: one.eq(other))(ONE, again))
