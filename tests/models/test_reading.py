"""A model as a base and two log densities, compared with formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers.smc import check_evidence, tempered
from helpers.three_coordinates import POINT, PRIOR
from scipy.special import betaln, logsumexp
from scipy.stats import norm

from numpyro_disco.models.reading import prepare_model


def test_an_observed_site_that_looks_like_a_jacobian_is_not_in_the_base():
    def model():
        y = numpyro.sample("y", dist.Normal(0.0, 1.0))
        numpyro.sample("_y", dist.Normal(y, 1.0), obs=2.0)

    densities = prepare_model(model, (), {}).log_densities(jnp.array([0.7]))
    base = norm.logpdf(0.7)
    np.testing.assert_allclose(densities, (base, base + norm.logpdf(2.0, 0.7)), rtol=1e-5)


def test_what_a_model_draws_beside_its_sites_is_the_same_in_base_and_density():
    def model():
        shift = 3 * jax.random.normal(numpyro.prng_key())
        numpyro.sample("y", dist.Normal(shift, 0.1))

    prepared = prepare_model(model, (), {})
    draws = np.asarray(jax.vmap(prepared.draw_base)(jax.random.split(jax.random.key(0), 500)))
    assert draws.std() < 0.2
    base, target = jax.vmap(prepared.log_densities)(draws)
    np.testing.assert_allclose(base, target)
    # The mean log density of a Gaussian under itself is minus its entropy.
    assert np.mean(base) == pytest.approx(-norm.entropy(scale=0.1), abs=0.2)


def test_a_transformed_prior_starts_from_its_transformed_reference():
    shift, stretch = jnp.array([1.0, 2.0, 0.0]), jnp.array([2.0, 3.0, 0.5])

    def model():
        affine = dist.transforms.AffineTransform(shift, stretch)
        numpyro.sample("x", dist.TransformedDistribution(PRIOR, affine))

    base = float(PRIOR.reference.log_prob(POINT)) - np.log(3)
    target = float(PRIOR.log_prob(POINT)) - np.log(3)
    prepared = prepare_model(model, (), {})
    u = prepared.unravel(jnp.zeros(3))["x"] + shift + stretch * POINT
    np.testing.assert_allclose(prepared.log_densities(u), (base, target), rtol=1e-4)


def test_a_site_without_a_base_is_named():
    def model():
        numpyro.sample("flat", dist.ImproperUniform(dist.constraints.real, (), ()))

    with pytest.raises(ValueError, match="'flat' has no base that can be drawn.*proper prior"):
        tempered(model, num_particles=8, num_chains=1)


@pytest.mark.statistics
def test_discrete_sites_are_summed_out():
    """The colour of each of five balls, drawn from an urn with a Beta prior."""
    other = np.array([0.1, 0.9])

    def model(y):
        share = numpyro.sample("share", dist.Beta(2.0, 3.0))
        with numpyro.plate("balls", len(y)):
            colour = numpyro.sample("colour", dist.Bernoulli(share))
            numpyro.sample("y", dist.Bernoulli(jnp.asarray(other)[colour]), obs=y)
        numpyro.deterministic("twice", 2 * colour)

    y = np.array([1, 1, 0, 1, 0])
    terms = []
    for colours in np.ndindex(*(2,) * 5):
        colours = np.array(colours)
        likelihood = np.where(y, other[colours], 1 - other[colours])
        ones = colours.sum()
        terms.append(np.log(likelihood).sum() + betaln(2 + ones, 3 + 5 - ones) - betaln(2, 3))
    smc = tempered(model, y)
    check_evidence(smc, logsumexp(terms))
    # The broken twin: the largest term is forgotten in the sum.
    with pytest.raises(AssertionError, match="is off"):
        check_evidence(smc, logsumexp(np.sort(terms)[:-1]))
    assert set(smc.get_samples()) == {"share"}
