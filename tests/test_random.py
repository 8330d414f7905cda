"""Random numbers on the host."""

import jax
import numpy as np

from numpyro_disco._random import host_generator


def test_numbers_depend_on_the_key_alone():
    first, again = (host_generator(jax.random.key(3)).random(4) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.isin(host_generator(jax.random.key(4)).random(4), first).any()
    assert not np.isin(host_generator(jax.random.key(3), 1).random(4), first).any()
