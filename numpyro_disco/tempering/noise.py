"""Random numbers of a run, in a form that compiles quickly.

Each call of a generator, and each split of a key, adds as much to a compiled program as a whole
density may. So keys are numbered instead of split, and one draw of uniform numbers serves all that
is random in a move.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_disco._typing import Array

DRAWS_PER_STEP = 2**16
"""Numbers that are set apart for the draws of one step."""


def draws_quickly() -> bool:
    """True on CPUs, where runs come one after another.

    Elsewhere runs side by side are batched, and the draws of a batch of keys of JAX's "rbg" kind
    depend on the first key alone: runs that go on after the first has ended would draw the same
    again.
    """
    return jax.default_backend() == "cpu"


def quick_key(rng_key: Array) -> Array:
    """A key of JAX's "rbg" kind on CPUs, where its draws compile faster, and elsewhere the default.

    Args:
        rng_key: a key, or an array of keys, of either kind.
    """
    if not draws_quickly():
        return threefry_key(rng_key)
    data = jax.random.key_data(rng_key)
    return jax.random.wrap_key_data(jnp.concatenate([data, data], -1)[..., :4], impl="rbg")


def draw_key(rng_key: Array, step: Array | int, draw: Array | int) -> Array:
    """The key of one draw of one step of a run.

    A key of JAX's "rbg" kind holds a key and a counter of Philox, a counter-based generator (Salmon
    et al. 2011). The number of the draw is added to the upper word of the counter, so that draws
    of less than 2^32 blocks do not overlap. Keys of other kinds are folded.

    Args:
        rng_key: key of the run.
        step: number of the step, below 2^16.
        draw: number of the draw within the step, below 2^16.
    """
    number = jnp.asarray(step * DRAWS_PER_STEP + draw, jnp.uint32)
    data = jax.random.key_data(rng_key)
    if data.shape[-1] != 4:
        return jax.random.fold_in(rng_key, number)
    return jax.random.wrap_key_data(data.at[3].add(number), impl="rbg")


def threefry_key(rng_key: Array) -> Array:
    """Keys of JAX's default kind, which alone draw for many keys side by side."""
    return jax.random.wrap_key_data(jax.random.key_data(rng_key)[..., :2], impl="threefry2x32")


def signed_uniforms(rng_key: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """Uniform numbers in the open interval (-1, 1)."""
    least = np.nextafter(np.asarray(-1, dtype), np.asarray(0, dtype))
    return jax.random.uniform(rng_key, shape, dtype, minval=least, maxval=1)


def to_normal(signed: Array) -> Array:
    """Map uniform numbers in (-1, 1) to standard normal ones."""
    return np.sqrt(2).astype(signed.dtype) * jax.lax.erf_inv(signed)
