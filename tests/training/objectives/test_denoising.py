"""Denoising score matching at a single noise level."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.scores import NOISE, ROW, LinearScore

import numpyro_disco as disco
from numpyro_disco.training.rows.batches import TrainingRows


def test_the_loss_is_the_squared_error_of_the_denoising_direction():
    sigma = 0.3
    objective = disco.Denoising(noise_scale=sigma)
    x = np.asarray(ROW + sigma * NOISE)
    expected = ((-sigma * np.asarray(NOISE) - sigma**2 * (-2 * x)) ** 2).mean() / sigma**2
    assert float(objective.loss(LinearScore, ROW, NOISE)) == pytest.approx(expected, rel=1e-5)


def test_batches_are_rows_beside_standard_normal_noise():
    rows = jnp.arange(200.0).reshape(100, 2)
    batch_of, entries = disco.Denoising().batches(jax.random.key(0), TrainingRows(rows), None, 64)
    chosen, noise = batch_of(entries[0])
    assert chosen.shape == noise.shape == (64, 2)
    assert set(map(tuple, np.asarray(chosen))) <= set(map(tuple, np.asarray(rows)))
    assert abs(float(noise.std()) - 1) < 0.3


def test_smoothing_can_be_undone():
    assert disco.Denoising(undo_smoothing=True).undoes_smoothing
    assert not disco.Denoising().undoes_smoothing
