"""Options for programs that take longer to compile than to run.

XLA compiles for programs that run many times. The programs behind a first answer run once or a few
times, so the seconds of compilation are what the user waits for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np

# Several loops are fused by LLVM rather than one by one by MLIR.
_FUSE_BY_LLVM: dict[str, Any] = {"xla_cpu_use_fusion_emitters": False}
# Passes that XLA repeats until nothing changes, for each loop inside of loops.
_KEEP_IN_LOOPS: dict[str, Any] = {
    "xla_disable_hlo_passes": "while-loop-invariant-code-motion,simplify-while-loops"
}
_P = ParamSpec("_P")
_R = TypeVar("_R")

_OPTIONS: dict[str, Any] = {
    # LLVM's first level of optimisation; matrix products are calls into Eigen at any level.
    "xla_backend_optimization_level": 1,
}


def as_one_program(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Compile a function of pytrees as one program, where it is called outside of compiled code.

    Otherwise JAX would compile a program for each of its operations and each new shape. Inside of
    compiled code the function is a part of that program, as if it were not decorated.

    Args:
        function: a function, or a method of a pytree, whose arguments are pytrees of arrays.
    """
    program = jax.jit(function, inline=True)

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        return program(*args, **kwargs)

    return call


@cache
def compiler_options(*, fuse_by_llvm: bool = True, hoist: bool = True) -> dict[str, Any]:
    """Options of XLA that shorten compilation and leave the time of a run as it is.

    They apply to CPUs only, and only as far as this version of XLA knows them. JAX accepts them
    for the outermost `jit` alone, so they belong to functions that no other traced function calls:

        jax.jit(function, compiler_options=compiler_options())

    Args:
        fuse_by_llvm: also leave the fusion of loops to LLVM. This shortens compilation further, but
            it slows a program that evaluates energies at very many points.
        hoist: move what stays the same out of loops. Without it, programs of several nested loops
            compile sooner; it is for programs that compute nothing again and again.

    Returns:
        A dict for the argument `compiler_options` of `jax.jit`; empty where no option applies.
    """
    if jax.default_backend() != "cpu":
        return {}
    options = _OPTIONS | (_FUSE_BY_LLVM if fuse_by_llvm else {})
    options |= {} if hoist else _KEEP_IN_LOOPS
    if jax.config.read("jax_disable_most_optimizations"):
        # JAX's level is 0 then, which the options of a program would replace.
        options.pop("xla_backend_optimization_level", None)
    return {name: value for name, value in options.items() if _is_known({name: value})}


def _is_known(options: dict[str, Any]) -> bool:
    """Compile a program without instructions: XLA refuses options that it does not know."""
    lowered = jax.jit(lambda x: x).lower(np.float32(0))
    try:
        lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError:
        return False
    return True
