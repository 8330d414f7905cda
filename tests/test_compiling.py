"""Compiler options, known to this XLA and harmless to results, and functions as one program."""

import jax
import jax.numpy as jnp
import numpy as np
from helpers.programs import operations

from numpyro_disco import _compiling
from numpyro_disco._compiling import compiler_options


def test_this_xla_accepts_the_options():
    options = compiler_options(hoist=False)
    assert options.keys() >= _compiling._KEEP_IN_LOOPS.keys()
    quick = jax.jit(lambda x: jnp.exp(x).sum(), compiler_options=options)
    assert np.allclose(quick(jnp.arange(3.0)), np.exp(np.arange(3.0)).sum(), rtol=1e-5)


def test_unknown_options_are_left_out(monkeypatch):
    known = {"xla_cpu_multi_thread_eigen": True}
    monkeypatch.setattr(_compiling, "_OPTIONS", known | {"xla_of_another_year": 1})
    assert compiler_options.__wrapped__(fuse_by_llvm=False) == known


def test_a_user_may_turn_optimisations_off(monkeypatch):
    level = {"xla_backend_optimization_level": 1}
    monkeypatch.setattr(_compiling, "_OPTIONS", level)
    for disabled, expected in ((True, {}), (False, level)):
        jax.config.update("jax_disable_most_optimizations", disabled)
        assert compiler_options.__wrapped__(fuse_by_llvm=False) == expected


def test_other_backends_get_no_options(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiler_options.__wrapped__() == {}


def test_a_function_is_one_program_by_itself_and_a_part_of_others():
    calls = []

    @_compiling.as_one_program
    def shifted_square(x):
        """Documented."""
        calls.append(x)
        return x * x + 1.0

    x = np.arange(3.0)
    np.testing.assert_array_equal(shifted_square(x), [1.0, 2.0, 5.0])
    np.testing.assert_array_equal(shifted_square(x + 1), [2.0, 5.0, 10.0])
    assert len(calls) == 1 and shifted_square.__doc__ == "Documented."
    assert operations(shifted_square, x) == ["mul", "add"]
