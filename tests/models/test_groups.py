"""Coordinate sites that start together."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from helpers.three_coordinates import POINT, PRIOR
from numpyro import handlers

import numpyro_disco as disco
from numpyro_disco._tracing import trace_sites
from numpyro_disco.models.groups import coordinate_groups


def two_vectors():
    disco.sample("x", PRIOR.clamp({"b": POINT[1]}))
    with numpyro.plate("rows", 2):
        disco.sample("many", PRIOR)


def places(group):
    """The coordinate of each latent site."""
    return {name: int(part.indices[0]) for name, part in group.free.items()}


def test_each_vector_is_a_group_of_its_free_coordinates():
    model = handlers.condition(two_vectors, {"x.a": POINT[0], "many.c": POINT[2]})
    sites = trace_sites(model, (), {})
    x, many = coordinate_groups(sites, ())
    assert places(x) == {"x.c": 2} and places(many) == {"many.a": 0, "many.b": 1}
    np.testing.assert_array_equal(x.point(sites)[:2], POINT[:2])
    assert many.point(sites).shape == (2, 3)


def test_the_base_of_a_group_is_the_reference_given_the_other_coordinates():
    model = handlers.condition(two_vectors, {"x.a": POINT[0]})
    sites = trace_sites(model, (), {})
    x, _ = coordinate_groups(sites, ())
    draws = x.reference(sites).sample(jax.random.key(0), (5,))
    np.testing.assert_allclose(draws[:, :2], jnp.broadcast_to(POINT[:2], (5, 2)))
    truth = PRIOR.clamp({"a": POINT[0], "b": POINT[1]}).reference.log_prob(draws)
    np.testing.assert_allclose(x.reference(sites).log_prob(draws), truth, rtol=1e-5)


def test_a_base_for_some_coordinates_is_refused():
    sites = trace_sites(two_vectors, (), {})
    with pytest.raises(ValueError, match=r"names \['x.a'\] of 'x'.*start together"):
        coordinate_groups(sites, {"x.a"})
    (many,) = coordinate_groups(sites, {"x.a", "x.c"})
    assert set(many.free) == {"many.a", "many.b", "many.c"}
