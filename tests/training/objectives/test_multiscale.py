"""Denoising at many noise levels: the row as the target, or the noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.scores import NOISE, ROW, LinearScore

import numpyro_disco as disco

LEVEL = jnp.asarray(0.8)


def test_multiscale_loss_points_to_the_row():
    sigma, x = 0.2, np.asarray(ROW + LEVEL * NOISE)
    error = np.asarray(ROW) - x - sigma**2 * (-2 * x)
    found = disco.Multiscale(noise_scale=sigma).loss(LinearScore, ROW, (NOISE, LEVEL))
    assert float(found) == pytest.approx((error**2).mean() / 0.8**2, rel=1e-5)


def test_diffusion_loss_predicts_the_noise():
    x = np.asarray(ROW + LEVEL * NOISE)
    expected = ((np.asarray(NOISE) + 0.8 * (-2 * x)) ** 2).mean()
    found = disco.Diffusion().loss(LinearScore, ROW, (NOISE, LEVEL))
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", [disco.Multiscale, disco.Diffusion])
def test_held_out_rows_are_judged_by_the_training_loss(kind):
    objective = kind(noise_scale=0.1, max_noise_scale=1.0)
    assert objective.held_out_loss(LinearScore, ROW, (NOISE, LEVEL)) == objective.loss(
        LinearScore, ROW, (NOISE, LEVEL)
    )
    noise, levels = objective.held_out_noise(jax.random.key(0), jnp.zeros((5, 2)), 7, None)
    assert noise.shape == (5, 7, 2) and levels.shape == (5, 7)
    assert 0.1 <= float(levels.min()) * 1.0001 and float(levels.max()) <= 1.0001
