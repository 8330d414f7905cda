"""The choice of the noise scale by held-out rows."""

import jax
import numpy as np
import pytest
from helpers.fits import quick_fit, weights_of

import numpyro_disco as disco
from numpyro_disco.training.objectives.noise_scale import (
    MAX_JUDGES,
    TRIED_SCALES,
    choose_noise_scale,
)
from numpyro_disco.training.report.smoothing import smoothing_line
from numpyro_disco.training.rows.batches import TrainingRows


@pytest.mark.training
def test_held_out_rows_choose_the_noise_scale(few):
    fit = quick_fit(few, noise_scale="auto")
    chosen = fit.settings.objective.noise_scale
    assert fit.noise_scales[chosen] == max(fit.noise_scales.values())
    assert fit.distribution.noise_scale == pytest.approx(chosen)
    line = smoothing_line(fit.evidence, fit.evidence.held_out)
    assert f"of 15 scales tried, {chosen:.2g} gave held-out rows" in line.reason
    given = quick_fit(few, noise_scale=chosen)
    for a, b in zip(weights_of(fit), weights_of(given), strict=True):
        np.testing.assert_array_equal(a, b)
    more = disco.fit(jax.random.key(0), few, resume=fit, num_steps=200, progress_bar=False)
    assert more.settings.objective.noise_scale == chosen and more.noise_scales == fit.noise_scales


def test_the_chosen_noise_scale_is_the_bandwidth_of_a_kernel_density():
    """For Gaussian rows it is (4 / (D + 2) / N)^(1 / (D + 4)), up to the spacing of the grid."""
    rng = np.random.default_rng(0)
    for dimension, num_rows in ((1, 4000), (4, 4000)):
        rows, held_out = (
            TrainingRows(np.float32(rng.normal(size=(n, dimension))))
            for n in (num_rows, 4 * MAX_JUDGES)
        )
        chosen, tried = choose_noise_scale(rows, held_out)
        best = (4 / (dimension + 2) / num_rows) ** (1 / (dimension + 4))
        assert best / 1.7 < chosen < 1.7 * best
        assert tuple(tried) == TRIED_SCALES and tried[chosen] == max(tried.values())
        # Far too small and far too large are both much worse.
        assert min(tried[chosen] - tried[s] for s in (TRIED_SCALES[0], TRIED_SCALES[-1])) > 0.02


def test_log_density_of_the_chosen_scale_is_exact():
    rng = np.random.default_rng(1)
    rows, held_out = (np.float32(rng.normal(size=(n, 2))) for n in (300, 50))
    judges = TrainingRows(held_out, rng.integers(1, 4, 50))
    chosen, tried = choose_noise_scale(TrainingRows(rows), judges)
    squares = ((held_out[:, None] - rows.astype(np.float64)) ** 2).sum(-1) / chosen**2
    terms = np.exp(-0.5 * squares) / (2 * np.pi * chosen**2)
    np.testing.assert_allclose(
        tried[chosen], np.average(np.log(terms.mean(1)), weights=judges.weights), rtol=1e-4
    )
