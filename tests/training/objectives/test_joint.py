"""The joint objective is the contrastive loss plus a small share of the DISCO loss."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.scores import LinearScore

import numpyro_disco as disco
from numpyro_disco.training.objectives.contrastive import row_loss
from numpyro_disco.training.objectives.joint import DISCO_WEIGHT
from numpyro_disco.training.objectives.losses import disco_loss


class Model(LinearScore):
    """A linear score and a quadratic correction."""

    @staticmethod
    def parts(z):
        return jnp.zeros(()), (z**2).sum()


def test_the_loss_is_the_weighted_sum():
    row, draw, redraws = jnp.array([0.5, 1.0]), jnp.array([-1.0, 0.2]), jnp.ones((3, 2))
    x, target, scale = jnp.array([0.1, 0.2]), jnp.array([0.3, 0.0]), jnp.asarray(0.7)
    rest = (jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))
    found = disco.Joint(noise_scale=0.2).loss(Model, row, draw, redraws, x, target, scale, *rest)
    contrastive = float(row_loss(Model, row, draw, redraws))
    slope = float(disco_loss(Model.score, x, target, scale, 0.2))
    assert slope > 0.05 and float(found) == pytest.approx(contrastive + DISCO_WEIGHT * slope)


def test_the_density_of_the_rows_is_learned():
    objective = disco.Joint()
    assert objective.is_contrastive and objective.undoes_smoothing and not objective.smooths
    resolved = objective.resolved(disco.GaussianReference(np.zeros(2), np.eye(2)), 100)
    assert (resolved.posterior_rows, resolved.num_redraws) == ("all", 4)
