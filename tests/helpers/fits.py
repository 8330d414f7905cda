"""Small fits that tests share."""

from typing import Any

import jax

import numpyro_disco as disco
from helpers.statistics import Mixture

TARGET = Mixture(
    [0.15, 0.25, 0.6],
    [[-2.0, 0.0], [1.0, 1.5], [1.5, -1.0]],
    [[[0.06, 0.03], [0.03, 0.05]], [[0.04, -0.03], [-0.03, 0.08]], [[0.12, 0.02], [0.02, 0.04]]],
)
"""Three skewed, unequally weighted modes in the plane."""
NETWORK = disco.MLP(width=16, num_blocks=1)
SMALL: dict[str, Any] = {
    "network": NETWORK,
    "num_steps": 150,
    "batch_size": 64,
    "progress_bar": False,
}
"""Settings of a fit that takes seconds."""


def quick_fit(data, key=0, **settings):
    """A DISCO fit of a few steps, unless the settings ask for another objective."""
    if "objective" not in settings:
        settings = {"noise_scale": 0.05} | settings
    return disco.fit(jax.random.key(key), data, **(SMALL | settings))


def weights_of(fit):
    """Weights of the learned energy, as a list of arrays."""
    return jax.tree.leaves(fit.distribution.energy_fn.weights)
