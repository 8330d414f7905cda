"""Gaussian mixtures fitted to rows and to draws by expectation-maximisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.references import MODES, TRUTH
from scipy.stats import norm

from numpyro_disco.references.fitting import (
    BASE_WIDTH,
    WIDE_SHARE,
    MixtureFit,
    fit_mixture,
    fit_reference,
    mixture_reference,
)


def mixture_of(rows, held_out, **settings):
    parameters, tried = fit_reference(rows, held_out, **settings)
    return mixture_reference(parameters, (0,) * rows.shape[1]), tried


def test_held_out_rows_choose_the_number_of_components():
    rng = np.random.default_rng(0)
    rows, held_out = MODES.draw(rng, 5000), MODES.draw(rng, 2000)
    reference, tried = mixture_of(rows, held_out, settings=MixtureFit(max_components=64))
    truth = MODES.log_prob(held_out)
    found = np.asarray(reference.log_prob(jnp.asarray(held_out)))
    # The fit is as good as the truth but for the weight of the wide component; one Gaussian is not.
    assert (truth - found).mean() < 0.03 - np.log1p(-WIDE_SHARE)
    assert truth.mean() - tried[1] > 1
    assert list(tried) == [1, 2, 4, 8][: len(tried)]
    # Only the first mode lies left of -1, so the draws there have its weight.
    draws = np.asarray(reference.sample(jax.random.key(0), (200_000,)))
    assert (draws[:, 0] < -1).mean() == pytest.approx(0.05, abs=0.02)


def test_components_are_limited_by_the_settings_and_by_the_rows():
    rng = np.random.default_rng(0)
    rows, held_out = MODES.draw(rng, 500), MODES.draw(rng, 200)
    _, tried = mixture_of(rows, held_out, settings=MixtureFit(max_components=2))
    assert list(tried) == [1, 2]
    reference, tried = mixture_of(rows[:6], held_out, settings=MixtureFit(max_components=64))
    assert list(tried) == [1] and reference.means.shape == (2, 2)


def test_rows_may_be_fewer_than_columns():
    rows = np.random.default_rng(0).normal(size=(8, 10))
    reference, tried = mixture_of(rows, rows[:2], settings=MixtureFit(max_components=4))
    assert list(tried) == [1] and np.isfinite(reference.log_prob(jnp.zeros(10)))


def test_a_single_column_is_fitted():
    rows = np.random.default_rng(0).normal(size=(500, 1))
    reference, _ = mixture_of(rows[:400], rows[400:], settings=MixtureFit(max_components=4))
    assert float(reference.log_prob(jnp.zeros(1))) == pytest.approx(norm.logpdf(0), abs=0.2)


def test_parameters_of_an_affine_map_are_those_of_the_mapped_rows():
    rng = np.random.default_rng(0)
    rows = MODES.draw(rng, 500)
    matrix, shift = np.array([[2.0, 0.5], [0.0, 0.1]]), np.array([3.0, -1.0])
    parameters, _ = fit_reference(rows[:400], rows[400:], settings=MixtureFit(max_components=2))
    mapped = mixture_reference(parameters.affine(matrix, shift), (0, 0))
    expected = np.asarray(mixture_reference(parameters, (0, 0)).log_prob(rows)) - np.log(0.2)
    found = mapped.log_prob(rows @ matrix.T + shift)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_collinear_columns_get_the_variance_of_rounding():
    rows = np.random.default_rng(0).normal(size=(500, 1)) * [1.0, 1.0, 1000.0]
    mixture, _ = mixture_of(rows[:400], rows[400:], settings=MixtureFit(max_components=1))
    variance = mixture.condition(np.array([0.5, np.nan, 500.0])).variance[1]
    assert 0 < variance < 1e-4


def test_a_mixture_of_draws_is_wider_than_the_draws():
    draws = TRUTH["gaussian"].draw(np.random.default_rng(0), 4000)
    mixture = fit_mixture(draws)
    assert len(mixture.weights) == 1
    np.testing.assert_allclose(mixture.means[0], draws.mean(0), rtol=1e-4)
    covariance = BASE_WIDTH * np.cov(draws, rowvar=False, ddof=0)
    np.testing.assert_allclose(mixture.covariances[0], covariance, rtol=1e-4, atol=1e-5)


def test_a_mixture_of_draws_has_a_component_for_each_mode():
    mixture = fit_mixture(MODES.draw(np.random.default_rng(0), 4000))
    nearest = np.linalg.norm(mixture.means[:, None] - MODES.means, axis=-1).argmin(1)
    assert set(nearest) == {0, 1, 2}


def test_draws_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="Expected finite draws for `base`"):
        fit_mixture(np.array([[0.0], [np.inf]]))


@pytest.mark.parametrize(("num_rows", "most"), [(100, 128), (9000, 281), (1e6, 512)])
def test_more_rows_allow_more_components(num_rows, most):
    assert MixtureFit().resolved(num_rows) == MixtureFit(max_components=most)
    assert MixtureFit(max_components=4).resolved(num_rows) == MixtureFit(max_components=4)


@pytest.mark.parametrize("wrong", [0, -1, 2.0, True])
def test_max_components_must_be_a_count(wrong):
    with pytest.raises(ValueError, match="`max_components`; got"):
        MixtureFit(max_components=wrong)
