"""Fits of weighted rows against the densities that they stand for, known in closed form."""

import jax
import numpy as np
import pandas as pd
import pytest
from helpers.fits import NETWORK, weights_of
from helpers.statistics import assert_within, mean_and_error

import numpyro_disco as disco

FEW_STEPS = {"network": NETWORK, "num_steps": 50, "batch_size": 256, "progress_bar": False}
NORMAL = np.random.default_rng(0).normal(size=(4000, 2))


def fitted(data, key=0, **settings):
    return disco.fit(jax.random.key(key), data, **(FEW_STEPS | settings))


def check_moments(fit, center, label, num_rows=4000, scale=1.0):
    """Check mean and variance of the first column against those of N(center, scale^2).

    Rows of effective number 4000 / e and 4000 draws have both errors.
    """
    draws = np.asarray(fit.distribution.sample(jax.random.key(1), (4000,)), np.float64)[:, 0]
    found, error = mean_and_error(np.stack([draws - center, (draws - center) ** 2], axis=1))
    error = np.hypot(error, [scale, 2**0.5 * scale**2] / np.sqrt(num_rows / np.e))
    assert_within(found, [0, scale**2], error, resolution=0.35, label=label)


@pytest.mark.training
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"objective": disco.Disco(noise_scale=0.1), "num_steps": 150},
        pytest.param({"objective": "joint"}, marks=pytest.mark.slow),
    ],
    ids=["contrastive", "disco", "joint"],
)
def test_importance_weights_move_the_density(settings):
    """N(0, 1) with weights exp(x) is N(1, 1), whatever the objective."""
    fit = fitted(NORMAL, weights=np.exp(NORMAL[:, 0]), **settings)
    check_moments(fit, 1.0, "moments")
    # The broken twin: the rows without their weights.
    with pytest.raises(AssertionError, match="is off"):
        check_moments(fit, 0.0, "twin")


@pytest.mark.training
def test_survey_weights_undo_unequal_sampling():
    """Two strata with mean -2 and 2, nine tenths of the rows from the first, equal in fact."""
    rng = np.random.default_rng(0)
    second = rng.random(4000) < 0.1
    frame = pd.DataFrame({"x": rng.normal(size=4000) + np.where(second, 2.0, -2.0)})
    frame["share"] = np.where(second, 5.0, 5 / 9)
    fit = fitted(frame, weights="share")
    assert fit.distribution.names == ("x",)
    above = np.asarray(fit.distribution.sample(jax.random.key(1), (4000,)))[:, 0] > 0
    # The rows of the second stratum, a tenth of all, have half of the weight.
    share, error = mean_and_error(above.astype(float))
    error = np.hypot(error, 0.5 * np.sqrt(0.9 / 400))
    # Each stratum has 2.3 % of its mass on the other side of zero, which cancels.
    assert_within(share, 0.5, error, resolution=0.15, label="share")
    line = fit.report()["weights"]
    assert line.verdict == "pass" and 1000 < line.value < 1400
    with pytest.raises(AssertionError, match="is off"):
        assert_within(share, 0.1, error, resolution=0.15, label="share")


def test_equal_weights_change_nothing_and_zeros_leave_rows_out():
    """Both are exact: the same numbers, whatever the unit of the weights."""
    few = NORMAL[:300]
    plain = fitted(few)
    for data, weights in (
        (few, np.full(300, 7)),
        (NORMAL[:400], np.arange(400) < 300),
        ({"0": few[:, 0], "1": few[:, 1], "w": np.full(300, 0.1)}, "w"),
    ):
        weighted = fitted(data, weights=weights)
        for a, b in zip(weights_of(plain), weights_of(weighted), strict=True):
            np.testing.assert_array_equal(a, b)
        assert weighted.evidence.row_weights is None


@pytest.mark.training
def test_whole_weights_are_repeated_rows():
    """With one component and few steps, because held-out copies of rows would hide overfitting."""
    counts = np.random.default_rng(1).integers(1, 6, 2000)
    rows, fresh = NORMAL[:2000] ** 3, NORMAL[2000:]
    settings = {"reference": disco.MixtureFit(max_components=1)}
    weighted = fitted(rows, weights=counts, **settings)
    repeated = fitted(np.repeat(rows, counts, axis=0), **settings)
    others = fitted(rows, weights=1 / (1 + rows[:, 0] ** 2), **settings)

    def difference(fit):
        apart = fit.distribution.log_prob(fresh) - repeated.distribution.log_prob(fresh)
        return float(np.sqrt(np.mean(np.asarray(apart) ** 2)))

    assert difference(weighted) < 0.1 < difference(others)


def test_training_stops_and_reports_by_the_weighted_held_out_rows():
    weights = np.exp(NORMAL[:, 0])
    fit = fitted(NORMAL, weights=weights, num_steps=50)
    evidence = fit.evidence
    held_out = np.asarray(evidence.unstandardize(evidence.held_out), np.float64)
    # Weights go with their rows, up to the common factor.
    ratio = evidence.held_out_weights / np.exp(held_out[:, 0])
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)
    mean = np.average(held_out[:, 0], weights=evidence.held_out_weights)
    assert mean == pytest.approx(1, abs=0.35)
    assert evidence.num_held_out == pytest.approx(400 / np.e, rel=0.5)


def test_weights_are_part_of_a_checkpoint_and_of_what_is_resumed(tmp_path):
    few, weights = NORMAL[:300], np.exp(NORMAL[:300, 0])
    arguments = {"checkpoint": tmp_path, "reference": disco.MixtureFit(max_components=1)}
    whole = fitted(few, weights=weights, **arguments)
    again = fitted(few, weights=2 * weights, **arguments)
    for a, b in zip(weights_of(whole), weights_of(again), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(disco.CheckpointError, match="`data`"):
        fitted(few, weights=weights**2, **arguments)
    with pytest.raises(ValueError, match="same key, data"):
        fitted(few, resume=whole, num_steps=100)
    longer = fitted(few, weights=weights, resume=whole, num_steps=100)
    assert longer.history.step[-1] == 100


def test_weights_on_a_few_rows_are_warned_of():
    weights = np.ones(300)
    weights[:20] = 1e4
    with pytest.warns(UserWarning, match="300 rows of `data` worth 20.1 equally weighted ones"):
        fitted(NORMAL[:300], weights=weights)
