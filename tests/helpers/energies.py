"""User-defined energies with known densities, and distributions made from them.

Almost every distribution belongs to one family, a mixture of two Gaussians in three dimensions with
its parameters as leaves, so that Gaussian, mixture, shifted and walled-off targets share a few
compiled programs of tempered sampling.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.scipy.special import logsumexp

import numpyro_disco as disco

NAMES = ("a", "b", "c")
KEY = jax.random.key(20)

MEAN = np.array([0.5, -0.3, 0.2])
COVARIANCE = np.array([[1.0, 0.6, 0.2], [0.6, 1.5, -0.4], [0.2, -0.4, 0.8]])
# Unequal weights and widths: a symmetric target would hide errors of sign and of mode masses.
WEIGHTS = np.array([0.25, 0.75])
MEANS = np.stack([MEAN, MEAN + [1.5, 2.0, -1.5]])
COVARIANCES = np.stack([COVARIANCE, 0.3 * np.diag([1.0, 0.5, 2.0])])


def family(parameters, x):
    """-log of an unnormalised mixture, +offset; +infinity beyond `wall`, NaN beyond `cliff`."""
    white = jnp.einsum("kij,kj->ki", parameters["whiteners"], x - parameters["means"])
    log_density = logsumexp(parameters["log_masses"] - 0.5 * (white**2).sum(-1))
    distance = jnp.sqrt(((x - parameters["means"][0]) ** 2).sum() + 1e-12)
    energy = parameters["offset"] - log_density
    energy = jnp.where(distance > parameters["wall"], jnp.inf, energy)
    return jnp.where(distance > parameters["cliff"], jnp.nan, energy)


def parameters_of(weights, means, covariances, offset=0.0, wall=np.inf, cliff=np.inf):
    # log_masses omit the common normaliser of the Gaussians, so that log Z is known and not zero.
    log_det = np.linalg.slogdet(covariances)[1]
    return {
        "log_masses": jnp.asarray(np.log(weights) - 0.5 * log_det),
        "means": jnp.asarray(means),
        "whiteners": jnp.asarray(np.linalg.inv(np.linalg.cholesky(covariances))),
        "offset": jnp.asarray(offset),
        "wall": jnp.asarray(wall),
        "cliff": jnp.asarray(cliff),
    }


LOG_NORMALIZER = 1.5 * np.log(2 * np.pi)


def reference():
    return disco.GaussianReference(MEAN, 9.0 * np.eye(3))


def prior_of(weights=WEIGHTS, means=MEANS, covariances=COVARIANCES, **kwargs):
    energy = jax.tree_util.Partial(family, parameters_of(weights, means, covariances, **kwargs))
    return disco.EnergyDistribution(energy, reference(), names=NAMES)


def gaussian_log_density(x, mean, covariance):
    residual = np.asarray(x) - mean
    quadratic = (residual * np.linalg.solve(covariance, residual[..., None])[..., 0]).sum(-1)
    return -0.5 * (quadratic + np.linalg.slogdet(2 * np.pi * covariance)[1])


def mixture_log_marginal(values, places, weights=WEIGHTS, means=MEANS, covariances=COVARIANCES):
    places = list(places)
    parts = [
        np.log(w) + gaussian_log_density(values, m[places], c[np.ix_(places, places)])
        for w, m, c in zip(weights, means, covariances, strict=True)
    ]
    return np.logaddexp(*parts)


GAUSSIAN = (WEIGHTS, np.stack([MEAN, MEAN]), np.stack([COVARIANCE, COVARIANCE]))
"""Arguments of `prior_of` that make the mixture a single Gaussian."""


def skewed(x):
    """A correlated energy, linear on one side and exponential on the other."""
    z = jnp.array([[1.0, 0.0, 0.0], [0.7, 1.2, 0.0], [-0.3, 0.4, 0.8]]) @ x
    return (jnp.exp(0.5 * z) - z).sum() + 0.05 * (x @ x)


class Quadratic(nnx.Module):
    def __init__(self, diagonal):
        self.diagonal = nnx.Param(jnp.asarray(diagonal))

    def __call__(self, x):
        return 0.5 * (self.diagonal[...] * x**2).sum() + 0.1 * x[0] * x[1]


@jax.tree_util.register_pytree_node_class
class Cubic:
    """A pytree callable without any framework."""

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, x):
        return 0.5 * (x @ x) + 0.01 * self.scale * (x**3).sum() ** 2

    def tree_flatten(self):
        return (self.scale,), None

    @classmethod
    def tree_unflatten(cls, _, leaves):
        return cls(*leaves)


def energies():
    return {
        "function": skewed,
        "partial": jax.tree_util.Partial(family, parameters_of(WEIGHTS, MEANS, COVARIANCES)),
        "nnx": Quadratic([1.0, 2.0, 0.5]),
        "pytree": Cubic(jnp.asarray(1.5)),
    }
