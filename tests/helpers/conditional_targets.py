"""Mixtures whose conditionals are known, and rows of data with missing entries.

Calls have the same number of rows, draws and particles wherever possible, so that all targets and
all patterns of missing entries share one compiled program.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

import numpyro_disco as disco
from helpers.statistics import Mixture

NAMES = ("a", "b", "c")
KEY = jax.random.key(3)
ROWS, DRAWS, REPEATS = 20, 256, 20
SIGMAS = 7.4
"""Student's t with 19 degrees of freedom, for errors from 20 runs, exceeds 7.4 as rarely as a
Gaussian exceeds 5."""

GAUSSIAN = Mixture(
    [1.0, 1.0],
    [[0.5, -0.3, 0.2]] * 2,
    [[[1.0, 0.6, 0.2], [0.6, 1.5, -0.4], [0.2, -0.4, 0.8]]] * 2,
)
# Unequal in weight, place, width and correlation, because a symmetric target hides many errors.
UNEQUAL = Mixture(
    [0.3, 0.7],
    [[-1.2, 0.4, 0.8], [1.0, -0.6, -0.5]],
    [
        [[0.5, 0.3, 0.0], [0.3, 0.6, -0.2], [0.0, -0.2, 0.4]],
        [[0.9, -0.4, 0.2], [-0.4, 0.7, 0.3], [0.2, 0.3, 1.1]],
    ],
)


def energy(parameters, x):
    """-log of an unnormalised mixture; +infinity beyond a wall in the first coordinate."""
    log_masses, means, precisions, wall = parameters
    residual = x - means
    quadratic = jnp.einsum("ki,kij,kj->k", residual, precisions, residual)
    inside = -logsumexp(log_masses - 0.5 * quadratic)
    return jnp.where(x[0] > wall, jnp.inf, inside)


def prior_of(mixture, flip=False, wall=np.inf):
    covariances = mixture.covariances
    if flip:
        # The broken twin: the cross term of b and c has the wrong sign.
        covariances = covariances * np.array([[1, 1, 1], [1, 1, -1], [1, -1, 1]])
    precisions = np.linalg.inv(covariances)
    log_masses = np.log(mixture.weights) + 0.5 * np.linalg.slogdet(precisions)[1]
    parameters = tuple(
        jnp.asarray(a, jnp.float32) for a in (log_masses, mixture.means, precisions, wall)
    )
    reference = disco.GaussianReference(np.zeros(3), 6.0 * np.eye(3))
    return disco.EnergyDistribution(
        jax.tree_util.Partial(energy, parameters), reference, names=NAMES
    )


def rows_with_missing_entries(seed=0):
    """Rows of the unequal mixture: the first complete, the second empty, the others random."""
    rng = np.random.default_rng(seed)
    rows = UNEQUAL.draw(rng, ROWS)
    missing = rng.random((ROWS, 3)) < 0.5
    missing[0], missing[1] = False, True
    missing[2:5] = [[True, False, True], [False, True, False], [True, True, False]]
    return np.where(missing, np.nan, rows)


DATA = rows_with_missing_entries()


def draw(prior, table=DATA, key=KEY, num_samples=DRAWS):
    return np.asarray(disco.sample_conditional(key, prior, table, num_samples, num_particles=DRAWS))
