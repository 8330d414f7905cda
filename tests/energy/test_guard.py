"""The guard: no normaliser may depend on what is inferred."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers.energies import (
    KEY,
    prior_of,
)
from jax.flatten_util import ravel_pytree
from numpyro.infer import MCMC, NUTS

import numpyro_disco as disco


@pytest.fixture(scope="module")
def mixture():
    return prior_of()


X = jnp.array([0.1, 0.2, 0.3])
GUARD = r"being inferred.*Keep one joint site"


def through_clamp(prior, value):
    return prior.clamp({"a": value}).log_prob(X.at[0].set(value))


def through_temper(prior, value):
    return prior.temper(value).log_prob(X)


def through_weights(prior, value):
    leaves, rebuild = ravel_pytree(prior.energy_fn)
    return prior.replace(energy_fn=rebuild(leaves * value)).log_prob(X)


def through_normalizer(prior, value):
    return prior.replace(log_normalizer=value).log_prob(X)


def through_vmap(prior, value):
    return jax.vmap(lambda v: prior.clamp({"a": v}).log_prob(X.at[0].set(v)))(
        value * jnp.ones(2)
    ).sum()


def through_scan(prior, value):
    return jax.lax.scan(
        lambda total, _: (total + prior.clamp({"a": value}).log_prob(X.at[0].set(value)), None),
        0.0,
        None,
        2,
    )[0]


@pytest.mark.parametrize(
    "path",
    [
        through_clamp,
        through_temper,
        through_weights,
        through_normalizer,
        through_vmap,
        through_scan,
    ],
)
def test_differentiating_through_what_log_z_depends_on_raises(mixture, path):
    value = jnp.asarray(0.5)
    along = partial(path, mixture)
    assert np.isfinite(along(value))
    for program in (
        jax.grad(along),
        jax.jit(jax.grad(along)),
        jax.grad(jax.jit(along)),
        jax.jacfwd(along),
    ):
        with pytest.raises(ValueError, match=GUARD):
            program(value)


def test_points_and_weights_of_energies_can_be_differentiated(mixture):
    clamped = mixture.clamp({"a": X[0]})
    gradient = jax.jit(jax.grad(clamped.log_prob))(X)
    np.testing.assert_allclose(gradient, clamped.score(X), rtol=1e-5)
    assert np.isfinite(jax.jit(jax.hessian(clamped.log_prob))(X)).all()
    weights, rebuild = ravel_pytree(mixture.energy_fn)

    def energy(weights):
        return mixture.replace(energy_fn=rebuild(weights)).energy(X)

    by_weights = jax.jit(jax.grad(energy))(weights)
    assert np.isfinite(by_weights).all() and (by_weights != 0).any()


def test_nuts_raises_the_error_of_the_guard(mixture):
    def clamped_to_a_latent():
        z = numpyro.sample("z", dist.Normal())
        disco.sample("x", mixture.clamp({"a": z}))

    def tempered_by_a_latent():
        b = numpyro.sample("b", dist.LogNormal())
        numpyro.sample("x", mixture.temper(b))

    for model in (clamped_to_a_latent, tempered_by_a_latent):
        mcmc = MCMC(NUTS(model), num_warmup=2, num_samples=2, progress_bar=False)
        with pytest.raises(ValueError, match=GUARD):
            mcmc.run(KEY)
