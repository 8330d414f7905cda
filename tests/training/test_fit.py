"""`fit`: same key, same result; names and units are kept; missing entries are refitted."""

import jax
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import pytest
from helpers.fits import NETWORK, SMALL, quick_fit, weights_of
from helpers.statistics import assert_within

import numpyro_disco as disco


def test_the_same_key_gives_the_same_result_and_names_are_kept(few):
    table = {"length": few[:, 0], "width": few[:, 1]}
    one = quick_fit(table)
    two = quick_fit(pd.DataFrame(table))
    other = quick_fit(few, key=1)
    assert one.distribution.names == two.distribution.names == ("length", "width")
    assert other.distribution.names == ("0", "1")
    for a, b in zip(weights_of(one), weights_of(two), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(weights_of(one), weights_of(other), strict=True))


def test_a_fit_records_its_history_and_settings(few):
    fit = quick_fit(few)
    assert fit.history.step.tolist() == [0, 50, 100, 150]
    assert np.isnan(fit.history.loss[0]) and np.isfinite(fit.history.loss[1:]).all()
    assert np.isfinite(fit.history.held_out_loss).all()
    assert not fit.interrupted
    assert fit.distribution.noise_scale == pytest.approx(fit.settings.objective.noise_scale)
    assert fit.best_step in fit.history.step


def test_shifted_and_rescaled_columns_give_the_same_density(few):
    """A fit to shifted and rescaled columns is the same density in other units."""
    scale, shift = np.array([100.0, 0.01]), np.array([5000.0, -3.0])
    plain = quick_fit(few).distribution
    moved = quick_fit(shift + scale * few).distribution
    x = few[:50]
    difference = moved.log_prob(shift + scale * x) - plain.log_prob(x)
    # The change of units multiplies the density by the inverse of the product of the scales.
    np.testing.assert_allclose(difference, -np.log(scale).sum(), atol=2e-2)


@pytest.mark.training
def test_the_gaussian_start_is_kept_if_no_step_improves_on_it():
    """A network could only memorise a few rows of a Gaussian in many dimensions."""
    noise = np.random.default_rng(0).normal(size=(60, 6))
    with pytest.warns(UserWarning, match="the reference alone"):
        fit = quick_fit(
            noise,
            objective=disco.Disco(noise_scale=0.2, whiten=False),
            optimizer=disco.AdamW(learning_rate=1e-2),
        )
    assert fit.best_step == 0
    train = np.asarray(fit.evidence.unstandardize(fit.evidence.rows), np.float64)
    assert len(train) == 54
    unit = train.std(axis=0)
    covariance = np.cov(train / unit, rowvar=False) + 0.2**2 * np.eye(6)
    score = -np.linalg.solve(covariance, ((noise[:20] - train.mean(0)) / unit).T).T
    np.testing.assert_allclose(fit.distribution.score(noise[:20]) * unit, score, atol=1e-4)


def test_names_put_columns_in_order_or_rename_them(few):
    table = {"a": few[:, 0], "b": 100 + few[:, 1]}
    swapped = quick_fit(table, names=("b", "a"), num_steps=1).distribution
    assert swapped.names == ("b", "a") and swapped.loc[0] > 90
    renamed = quick_fit(table, names=("c", "d"), num_steps=1).distribution
    assert renamed.names == ("c", "d") and renamed.loc[1] > 90
    with pytest.raises(ValueError, match=r"which share \['a'\]"):
        quick_fit(table, names=("c", "a"), num_steps=1)


def test_the_default_objective_follows_the_reference(few):
    fit = disco.fit(jax.random.key(0), few, reference=disco.MixtureFit(max_components=2), **SMALL)
    assert isinstance(fit.settings.objective, disco.Contrastive)
    assert list(fit.components) == [1, 2]
    assert isinstance(fit.distribution.reference, disco.MixtureReference)
    assert fit.distribution.noise_scale is None
    again = disco.fit(jax.random.key(0), few, resume=fit, num_steps=200, progress_bar=False)
    assert again.components == fit.components
    given = disco.fit(jax.random.key(0), few, reference="gaussian", **SMALL)
    assert isinstance(given.settings.objective, disco.Disco)


def test_a_users_reference_is_checked_and_kept(few):
    reference = disco.MixtureReference([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], [np.eye(2) * 4] * 2)
    fit = quick_fit(few, reference=reference)
    assert fit.distribution.reference is reference
    with pytest.raises(ValueError, match="`reference` over 2 coordinates"):
        wrong = disco.GaussianReference(np.zeros(3), np.eye(3))
        quick_fit(few, reference=wrong)
    for wrong in (42, "normal", dist.MultivariateNormal(np.zeros(2), np.eye(2))):
        with pytest.raises(ValueError, match="for `reference`; got.*disco.GaussianReference"):
            quick_fit(few, reference=wrong)
    with pytest.raises(ValueError, match="one unconditioned `reference`"):
        given = reference.condition(np.zeros(2), np.array([True, False]))
        quick_fit(few, reference=given)


def test_a_wrong_key_is_refused(few):
    with pytest.raises(ValueError, match="random key for `rng_key`.*jax.random.key"):
        disco.fit(0, few, **SMALL)


# -- rows with missing entries ---------------------------------------------------------------


def rows_missing_at_random(num=800):
    """Rows (num, 2) of a correlated Gaussian with mean 0, complete and with missing entries.

    The second column is mostly missing where the first is positive, so the complete rows have
    another distribution.
    """
    rng = np.random.default_rng(0)
    rows = rng.multivariate_normal([0.0, 0.0], [[1.0, 0.8], [0.8, 1.0]], size=num)
    incomplete = rows.copy()
    incomplete[(rows[:, 0] > 0) & (rng.random(num) < 0.9), 1] = np.nan
    return rows, incomplete


def learned_mean(**settings):
    """Mean (2,) of draws of the prior learned from the rows with missing entries."""
    _, incomplete = rows_missing_at_random()
    fit = disco.fit(
        jax.random.key(0),
        {"a": incomplete[:, 0], "b": incomplete[:, 1]},
        reference=disco.MixtureFit(max_components=2),
        network=NETWORK,
        num_steps=50,
        progress_bar=False,
        **settings,
    )
    return np.asarray(fit.distribution.sample(jax.random.key(1), (2000,))).mean(axis=0)


def check_mean(found, label):
    rows, _ = rows_missing_at_random()
    # Errors of the mean of all rows, of the draws, and of the imputed half of the rows.
    error = np.sqrt(2 / len(rows) + 1 / 2000)
    assert_within(found, rows.mean(axis=0), error, sigmas=5, resolution=0.3, label=label)


@pytest.mark.training
def test_rows_with_missing_entries_are_learned_from():
    """Imputed rows recover the means of all rows; complete rows alone do not."""
    check_mean(learned_mean(missing="mixture"), "mean")
    with pytest.warns(
        UserWarning, match=r"\d+ of 800 rows of `data` have missing entries.*'complete'"
    ):
        alone = learned_mean(missing="complete")
    with pytest.raises(AssertionError, match="is off"):
        check_mean(alone, "twin")


@pytest.mark.slow
def test_refits_learn_from_rows_with_missing_entries():
    check_mean(learned_mean(missing=disco.Refit(num_refits=1)), "mean")


def fitted_quickly(data, **settings):
    return quick_fit(data, objective="contrastive", num_steps=1, **settings)


def test_no_row_has_to_be_complete():
    rng = np.random.default_rng(0)
    rows = rng.multivariate_normal(np.zeros(3), 0.2 * np.eye(3) + 0.8, size=600)
    gaps = rows.copy()
    gaps[np.arange(600), rng.integers(3, size=600)] = np.nan
    gaps[:5] = np.nan
    with pytest.warns(UserWarning, match="5 of 600 rows of `data` miss all entries"):
        fit = fitted_quickly(gaps)
    assert len(fit.evidence.rows) + len(fit.evidence.held_out) == 595
    draws = np.asarray(fit.distribution.sample(jax.random.key(1), (2000,)))
    np.testing.assert_allclose(np.corrcoef(draws.T), np.corrcoef(rows.T), atol=0.12)
    with pytest.raises(ValueError, match="complete rows in `data`"):
        fitted_quickly(gaps, missing="complete")


def test_columns_without_entries_are_refused_by_name():
    gaps = np.random.default_rng(0).normal(size=(50, 2))
    gaps[:, 1] = np.nan
    with pytest.raises(ValueError, match=r"\['b'\] have none"):
        fitted_quickly(gaps, names=("a", "b"))


def test_weights_of_incomplete_rows_count():
    """Rows above zero, half of them incomplete, have nearly all of the weight."""
    rows, incomplete = rows_missing_at_random(600)
    weights = np.where(rows[:, 0] > 0, 1.0, 1e-3)
    fit = fitted_quickly(incomplete, weights=weights)
    mean = np.asarray(fit.distribution.sample(jax.random.key(1), (2000,))).mean(0)
    expected = np.average(rows, axis=0, weights=weights)
    np.testing.assert_allclose(mean, expected, atol=0.2)


def test_refits_are_not_resumed():
    _, incomplete = rows_missing_at_random(100)
    fit = fitted_quickly(incomplete)
    again = disco.fit(jax.random.key(0), incomplete, resume=fit, num_steps=100, progress_bar=False)
    assert again.history.step[-1] == 100
    with pytest.raises(ValueError, match="Expected `resume` without"):
        disco.fit(jax.random.key(0), incomplete, resume=fit, missing=disco.Refit())
    with pytest.raises(ValueError, match="`num_refits`; got 0"):
        disco.Refit(num_refits=0)
