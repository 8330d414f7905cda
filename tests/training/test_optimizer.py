"""The default optimiser: which weights decay, and by how much."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.fits import quick_fit

import numpyro_disco as disco
from numpyro_disco.training.optimizer import check_optimizer, transformation


def test_only_kernels_of_layers_decay(few):
    """Without a gradient, each step shrinks them by the learning rate times the decay."""
    weights = quick_fit(few).resumable.run.best
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(weights)]
    nothing = jax.tree.map(jnp.zeros_like, weights)
    for decay in (None, 0, 3.0):
        settings = disco.AdamW(weight_decay=decay)
        optimizer = transformation(settings, 50)
        state, left = optimizer.init(weights), weights
        for _ in range(6):  # five steps of warming up, then one at the full rate
            before = left
            updates, state = optimizer.update(nothing, state, left)
            left = optax.apply_updates(left, updates)
        for path, old, new in zip(paths, *map(jax.tree.leaves, (before, left)), strict=True):
            share = 1 - settings.learning_rate * (decay or 0) * ("kernel" in path)
            np.testing.assert_allclose(new, share * old, rtol=1e-5, atol=1e-12)
    # The matrix of the Gaussian start does not belong to a layer.
    assert {"kernel" in path for path in paths if "linear" not in path} == {True, False}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"learning_rate": "0.001"}, "learning_rate"),
        ({"weight_decay": -1.0}, "weight_decay"),
    ],
)
def test_wrong_settings_are_refused(given, named):
    with pytest.raises(ValueError, match=named):
        disco.AdamW(**given)


def test_optax_optimisers_are_accepted():
    adam = optax.adam(1e-3)
    assert check_optimizer(adam) is adam and transformation(adam, 50) is adam
