"""A score that is known exactly, for tests of single losses."""

import jax.numpy as jnp

ROW, NOISE = jnp.array([0.5, -1.0]), jnp.array([0.3, 0.7])


class LinearScore:
    """A model with the score s(x) = -2 x."""

    @staticmethod
    def score(x):
        return -2.0 * x
