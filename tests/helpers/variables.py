"""A prior over variables with shapes, whose density is known, and draws of it.

In unconstrained space all coordinates are independent normals, so `s2` is log-normal, the simplex
`p` logistic-normal and `L` the Cholesky factor of a correlation.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

import numpyro_disco as disco
from numpyro_disco.tables.variable import Variable
from numpyro_disco.tables.variables import Variables

VARIABLES = Variables(
    (
        Variable("b", (2,)),
        Variable("s2"),
        Variable("p", (3,), "simplex"),
        Variable("L", (2, 2), "corr_cholesky"),
    )
)
SUPPORTS = {
    "s2": constraints.positive,
    "p": constraints.simplex,
    "L": constraints.corr_cholesky,
}
LOC = np.array([0.5, -1.0, 0.3, 0.2, -0.4, 0.6])
SCALE = np.array([0.7, 1.3, 0.5, 0.6, 0.8, 0.4])


def normal_energy(x):
    """Minus the log density of the normals, normalised."""
    z = (x - LOC) / SCALE
    return 0.5 * (z @ z) + jnp.log(SCALE).sum() + 0.5 * len(LOC) * jnp.log(2 * jnp.pi)


def variables_prior():
    """The prior, whose energy is normalised."""
    reference = disco.GaussianReference(LOC + 0.1, np.diag((1.3 * SCALE) ** 2))
    prior = disco.EnergyDistribution(
        normal_energy, reference, names=VARIABLES.names, supports={"s2": constraints.positive}
    )
    return prior.replace(variables=VARIABLES)


def draws_of_variables(num_draws, seed=0):
    """Independent draws of the prior: a dict of arrays (num_draws, *shape)."""
    rng = np.random.default_rng(seed)
    y = LOC + SCALE * rng.normal(size=(num_draws, len(LOC)))
    y[:, 2] = np.exp(y[:, 2])
    return {name: np.asarray(value) for name, value in VARIABLES.unpack(y).items()}
