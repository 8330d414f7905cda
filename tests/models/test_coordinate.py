"""The distribution of one coordinate's site."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.three_coordinates import PRIOR
from numpyro.distributions import biject_to

from numpyro_disco.models.coordinate import Coordinate


def test_the_density_of_a_coordinate_is_in_the_joint_factor():
    coordinate = Coordinate(PRIOR, 1)
    assert coordinate.name == "b"
    np.testing.assert_array_equal(coordinate.log_prob(jnp.arange(4.0)), jnp.zeros(4))


def test_unconstrained_coordinates_are_standardised():
    transform = biject_to(Coordinate(PRIOR, 1).support)
    np.testing.assert_allclose(transform(jnp.array(0.0)), PRIOR.loc[1], atol=1e-6)
    np.testing.assert_allclose(transform(jnp.array(1.0)), PRIOR.loc[1] + PRIOR.scale[1], rtol=1e-6)


def test_a_coordinate_is_not_drawn_on_its_own():
    with pytest.raises(NotImplementedError, match="'b'.*cannot be drawn on its own.*site_values"):
        Coordinate(PRIOR, 1).sample(jax.random.key(0))
