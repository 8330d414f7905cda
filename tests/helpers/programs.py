"""What a traced function computes."""

from collections.abc import Callable
from typing import Any

import jax


def operations(function: Callable, *arguments: Any) -> list[str]:
    """Names of the operations of a function, in order.

    Newer releases of JAX keep a function that is compiled inline as one operation until all is
    compiled; those inside of it count.
    """
    return _names(jax.make_jaxpr(function)(*arguments).jaxpr)


def _names(program: Any) -> list[str]:
    names: list[str] = []
    for equation in program.eqns:
        if equation.primitive.name in ("jit", "pjit"):
            names += _names(equation.params["jaxpr"].jaxpr)
        else:
            names.append(equation.primitive.name)
    return names
