"""A Gaussian prior over two coordinates, a and b; a is observed with noise.

The prior enters a model as one site per coordinate or as one vector site, and the posterior is
known in closed form. `TWIN` is the broken prior that checks must reject.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from numpyro.infer.util import initialize_model
from scipy.special import logsumexp

import numpyro_disco as disco
from helpers.priors import gaussian_prior, log_mass

KEY = jax.random.key(5)
NAMES = ("a", "b")
MEAN = np.array([0.5, -0.3])
COVARIANCE = np.array([[1.0, 0.6], [0.6, 1.5]])
NOISE = 0.5
POINT = jnp.array([0.1, 0.7])
Y = 2.0


def prior_of(mean=MEAN, covariance=COVARIANCE):
    # Not 0 and not 1, so that a forgotten change of units is detected.
    reference = disco.GaussianReference(np.array([0.2, -0.1]), np.diag([4.0, 2.25]))
    return gaussian_prior(mean, covariance, names=NAMES, reference=reference)


PRIOR = prior_of()
# The correlation has its sign flipped.
TWIN = prior_of(covariance=COVARIANCE * np.array([[1, -1], [-1, 1]]))
LOG_Z = log_mass(COVARIANCE)
LOG_SCALES = float(jnp.log(PRIOR.scale).sum())

both_ways = pytest.mark.parametrize("vector", [False, True], ids=["coordinates", "vector"])


def put(name, prior, vector):
    """Sample a prior as one vector site, or as a site for each coordinate."""
    return numpyro.sample(name, prior) if vector else disco.sample(name, prior)


def sites_of(name, x, vector):
    """Vectors as the sites that `put` makes."""
    return {name: x} if vector else disco.site_values(name, PRIOR, x)


def standardized(name, x, vector, prior=PRIOR):
    """Vectors as the unconstrained sites that a sampler moves."""
    u = (x - prior.loc) / prior.scale
    return {name: u} if vector else disco.site_values(name, prior, u)


def model(prior=PRIOR, y=Y, vector=False):
    x = put("x", prior, vector)
    numpyro.sample("y", dist.Normal(x[..., 0], NOISE), obs=y)


def posterior(y=Y, mean=MEAN, covariance=COVARIANCE):
    """Mean and covariance of x given y = x_a + noise, and the log density of y."""
    variance = covariance[0, 0] + NOISE**2
    gain = covariance[:, 0] / variance
    evidence = -0.5 * ((y - mean[0]) ** 2 / variance + np.log(2 * np.pi * variance))
    return mean + gain * (y - mean[0]), covariance - np.outer(gain, covariance[0]), evidence


def potential(model, *args, **kwargs):
    """The potential energy that NumPyro's samplers use, after a start has been found."""
    info = initialize_model(KEY, model, model_args=args, model_kwargs=kwargs, dynamic_args=True)
    assert np.isfinite(info.param_info.potential_energy)
    return jax.jit(info.potential_fn(*args, **kwargs))


def assert_same(got, expected, at, other=None):
    """Two functions and their gradients agree at a point; a broken function does not."""
    value, gradient = jax.jit(jax.value_and_grad(got))(at)
    true_value, true_gradient = jax.jit(jax.value_and_grad(expected))(at)
    np.testing.assert_allclose(value, true_value, rtol=2e-5)
    assert gradient.keys() == true_gradient.keys()
    for name, entry in gradient.items():
        np.testing.assert_allclose(entry, true_gradient[name], rtol=2e-4, atol=2e-5, err_msg=name)
    if other is not None:
        assert abs(jax.jit(other)(at) - value) > 0.01


# -- an unknown location and scale of the prior --------------------------------------------------


def unknown_map():
    loc = numpyro.sample("loc", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    return loc, numpyro.sample("scale", dist.LogNormal(0.0, 0.5))


def unknown_map_density(u):
    """Log density of `unknown_map` in unconstrained space, location and scale."""
    scale = jnp.exp(u["scale"])
    log_prob = dist.Normal(0.0, 3.0).log_prob(u["loc"]).sum()
    return log_prob + dist.LogNormal(0.0, 0.5).log_prob(scale) + u["scale"], u["loc"], scale


UNKNOWN_MAP = {"loc": jnp.array([0.3, -0.2]), "scale": jnp.array(0.4)}


def transformed(prior):
    """Centred: the density of w = loc + scale x, whose normaliser depends on neither."""
    loc, scale = unknown_map()
    affine = dist.transforms.AffineTransform(loc, scale)
    return numpyro.sample("w", dist.TransformedDistribution(prior, affine))


# -- a discrete latent that shifts the observation ---------------------------------------------

SHIFT, WEIGHT = 1.5, 0.3


def switched(prior=PRIOR, vector=False):
    z = numpyro.sample("z", dist.Bernoulli(WEIGHT))
    x = put("x", prior, vector)
    numpyro.sample("y", dist.Normal(x[..., 0] + SHIFT * z, NOISE), obs=Y)


def posterior_switched():
    """Probability of z, and mean of x, given y."""
    states = [posterior(Y), posterior(Y - SHIFT)]
    log_joint = np.log([1 - WEIGHT, WEIGHT]) + [evidence for *_, evidence in states]
    weights = np.exp(log_joint - logsumexp(log_joint))
    return np.array([weights[1], *(weights @ [mean for mean, *_ in states])])


# -- a series with innovations from the prior ----------------------------------------------------

SERIES = jnp.array([0.1, 0.5, 1.0, 0.3, -0.2])


def series(prior, y, vector=False, length=5):
    """An autoregressive level with innovations from the prior; its first entry is observed."""

    def step(level, seen):
        level = 0.8 * level + put("e", prior, vector)
        numpyro.sample("y", dist.Normal(level[..., 0], NOISE), obs=seen)
        return level, level

    _, levels = scan(step, jnp.zeros(2), y, length=length)
    return levels
