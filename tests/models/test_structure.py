"""The sites of a model: which are latent, and the models that are refused."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest
from helpers.smc import tempered
from helpers.three_coordinates import PRIOR
from numpyro import handlers

from numpyro_disco.models.structure import read_structure, without_wrappers


def test_discrete_latent_is_named():
    def model():
        numpyro.sample("k", dist.Poisson(0.5))

    with pytest.raises(ValueError, match="'k' is a discrete latent without finite support"):
        tempered(model, num_particles=8, num_chains=1)


def test_no_latent():
    with pytest.raises(ValueError, match="no latent site"):
        tempered(lambda: numpyro.sample("y", dist.Normal(0.0, 1.0), obs=1.0), num_particles=8)


def test_subsampling_plate():
    def model():
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        with numpyro.plate("n", 10, subsample_size=5):
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=jnp.zeros(5))

    with pytest.raises(ValueError, match="'n' subsamples 5 of 10"):
        tempered(model, num_particles=8)


def test_sites_are_sorted_by_what_they_are():
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        numpyro.sample("y", dist.Normal(mu + z, scale), obs=y)

    structure = read_structure(model, (0.3,), {})
    assert structure.latent == ("mu", "scale") and set(structure.discrete) == {"z"}
    assert {name: u.shape for name, u in structure.prototypes.items()} == {"mu": (), "scale": ()}
    trace = handlers.trace(
        handlers.substitute(structure.fixed_model, {"mu": 0.1, "scale": 1.0})
    ).get_trace(0.3)
    assert trace["z"]["value"] == structure.discrete["z"]


def test_wrappers_are_stripped_from_a_distribution():
    wrapped = PRIOR.expand([4]).to_event(1).mask(True)
    assert without_wrappers(wrapped) is PRIOR
    assert without_wrappers(PRIOR) is PRIOR
