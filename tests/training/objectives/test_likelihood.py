"""Maximum likelihood of a normalised density."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import numpyro_disco as disco


class Standard:
    """The energy of the standard normal, up to a constant."""

    @staticmethod
    def standardized(z):
        return 0.5 * (z**2).sum()


def test_the_loss_is_the_energy_of_a_row():
    objective, row = disco.Likelihood(), jnp.array([1.0, -2.0])
    assert float(objective.loss(Standard, row)) == 2.5
    noise = objective.judging_noise(jax.random.key(0), jnp.zeros((5, 2)), 3, None)
    assert noise.shape == (5, 3) and float(objective.judge(Standard, row, noise[0, 0])) == 2.5
    assert objective.strict and not objective.whitens and not objective.smooths


def test_discrete_columns_are_refused():
    data = {"a": np.arange(40) % 2 == 0, "b": np.random.default_rng(0).normal(size=40)}
    with pytest.raises(ValueError, match="discrete columns"):
        disco.fit(jax.random.key(0), data, objective="likelihood")
