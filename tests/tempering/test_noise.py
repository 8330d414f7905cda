"""Keys by number, and the map from uniform to normal numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from numpyro_disco.tempering.noise import (
    draw_key,
    quick_key,
    signed_uniforms,
    threefry_key,
    to_normal,
)

KEY = jax.random.key(3)


def blocks(rng_key):
    """Random bits in the blocks of 128 that Philox makes at a time."""
    bits = np.asarray(jax.random.bits(rng_key, (4000,), jnp.uint32))
    return {row.tobytes() for row in bits.reshape(-1, 4)}


@pytest.mark.parametrize("key", [quick_key(KEY), KEY], ids=["rbg", "default"])
def test_draws_of_different_numbers_share_no_block(key):
    streams = [blocks(draw_key(key, step, draw)) for step in range(3) for draw in range(3)]
    assert len(set.union(*streams)) == sum(map(len, streams)) == 9000


def test_neighbouring_streams_are_not_correlated():
    keys = [draw_key(quick_key(KEY), 1, draw) for draw in range(4)]
    draws = np.stack([signed_uniforms(key, (40_000,), jnp.float32) for key in keys])
    correlation = np.corrcoef(draws)[np.triu_indices(4, 1)]
    assert np.abs(correlation).max() < 5 / 200  # five standard errors


def test_kinds_of_keys():
    keys = jax.random.split(KEY, 5)
    assert quick_key(keys).shape == (5,)
    assert str(jax.random.key_impl(quick_key(KEY))) == "rbg"
    # A key of the other kind comes back as it was.
    assert (jax.random.key_data(threefry_key(quick_key(KEY))) == jax.random.key_data(KEY)).all()
    assert (
        jax.random.key_data(quick_key(quick_key(KEY))) == jax.random.key_data(quick_key(KEY))
    ).all()


def test_normal_numbers_have_the_quantiles_of_the_uniform_ones():
    signed = signed_uniforms(quick_key(KEY), (1000,), jnp.float32)
    assert (np.abs(signed) < 1).all()
    exact = norm.ppf(0.5 + 0.5 * np.asarray(signed, np.float64))
    np.testing.assert_allclose(to_normal(signed), exact, rtol=1e-4, atol=1e-5)
