"""Draws of other runs as the data of `fit`, in the forms in which people have them."""

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers import smc
from numpyro.distributions import constraints
from numpyro.infer import MCMC, NUTS

import numpyro_disco as disco

pytestmark = pytest.mark.training
KEY = jax.random.key(0)
QUICK = {
    "num_steps": 1,
    "network": disco.MLP(width=8, num_blocks=1),
    "reference": disco.MixtureFit(max_components=1),
    "progress_bar": False,
}
RNG = np.random.default_rng(0)
POSTERIOR = {"b": RNG.normal(size=(2, 100, 2)), "s2": RNG.gamma(3.0, 1.0, (2, 100))}


def fitted(data, **settings):
    return disco.fit(KEY, data, **(QUICK | settings)).distribution


def dict_with_a_vector():
    return {name: value.reshape(-1, *value.shape[2:]) for name, value in POSTERIOR.items()}


def arviz_object():
    try:
        return az.from_dict(posterior=POSTERIOR)
    except TypeError:
        return az.from_dict({"posterior": POSTERIOR})


def extracted_dataset():
    return az.extract(arviz_object(), keep_dataset=True)


def regression(x, y=None):
    b = numpyro.sample("b", dist.Normal(0, 1).expand([2]).to_event(1))
    s2 = numpyro.sample("s2", dist.InverseGamma(3.0, 1.0))
    numpyro.deterministic("norm", (b**2).sum())
    numpyro.sample("y", dist.Normal(x @ b, jnp.sqrt(s2)), obs=y)


def finished_mcmc():
    # A chain with a short warmup rejects many proposals, and `fit` refuses so many equal draws.
    mcmc = MCMC(NUTS(regression), num_warmup=300, num_samples=200, progress_bar=False)
    mcmc.run(KEY, jnp.ones((3, 2)), jnp.array([0.1, 0.2, 0.4]))
    return mcmc


def finished_smc():
    x, y = jnp.ones((3, 2)), jnp.array([0.1, 0.2, 0.4])
    return smc.tempered(regression, x, y, **smc.QUICK | {"num_particles": 100})


@pytest.mark.parametrize("data", [dict_with_a_vector, extracted_dataset, finished_smc])
def test_draws_become_variables_of_their_shapes(data):
    has_model = data is finished_smc
    supports = None if has_model else {"s2": constraints.positive}
    prior = fitted(data(), supports=supports)
    assert prior.variables.shapes == {"b": (2,), "s2": ()}
    assert prior.coordinate_supports.supports[-1] == constraints.positive
    draws = prior.variables.unpack(prior.sample(KEY, (50,)))
    assert draws["b"].shape == (50, 2) and (draws["s2"] > 0).all()


def test_matrices_and_whole_numbers_are_variables_too():
    draws = {"M": RNG.normal(size=(200, 2, 2)), "k": RNG.integers(0, 3, (200, 2))}
    prior = fitted(draws)
    assert prior.names[:2] == ("M[0,0]", "M[0,1]") and prior.names[-1] == "k[1]"
    assert prior.variables.shapes == {"M": (2, 2), "k": (2,)}


def test_yesterdays_model_with_its_priors_replaced_by_one_line():
    mcmc = finished_mcmc()
    prior = fitted(mcmc)

    def today(x, y=None):
        theta = disco.sample("theta", prior)
        numpyro.sample("y", dist.Normal(x @ theta["b"], jnp.sqrt(theta["s2"])), obs=y)

    run = MCMC(NUTS(today), num_warmup=300, num_samples=100, progress_bar=False)
    run.run(KEY, jnp.ones((2, 2)), jnp.array([0.3, 0.2]))
    assert run.get_samples()["theta.b"].shape == (100, 2)
    assert {*az.from_numpyro(run)["posterior"].data_vars} == {"theta.b", "theta.s2"}
    tomorrow = fitted(run)
    assert tomorrow.variables == prior.variables
    assert tomorrow.coordinate_supports == prior.coordinate_supports
