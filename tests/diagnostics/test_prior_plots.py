"""Figures of a prior whose conditionals are known: which rows, which columns, which words."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

import numpyro_disco as disco

KEY = jax.random.key(0)
COVARIANCE = jnp.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]])
ROWS = np.random.default_rng(0).multivariate_normal(np.zeros(3), COVARIANCE, size=2000)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def prior():
    q = disco.GaussianReference(jnp.zeros(3), COVARIANCE)
    return disco.EnergyDistribution(lambda x: -q.log_prob(x), q, names=("a", "b", "c"))


def test_one_column_is_a_histogram_with_the_nearest_rows(prior):
    ax = disco.plot_conditional(
        KEY, prior, {"a": 1.5, "c": 0.0}, rows=ROWS, num_nearest=50, num_samples=200
    )
    assert ax.get_xlabel() == "b" and ax.get_title() == "given a = 1.5, c = 0"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["the 50 nearest rows", "draws"]
    bars = [bar for bar in ax.patches if hasattr(bar, "get_height")]
    centres = np.array([bar.get_x() + bar.get_width() / 2 for bar in bars])
    weights = np.array([bar.get_height() for bar in bars])
    # E(b | a, c) = 0.9 a; the nearest of 2000 rows are within a few tenths.
    assert abs((centres * weights).sum() / weights.sum() - 1.35) < 0.3


def test_two_columns_show_rows_near_the_condition(prior):
    _, given = plt.subplots()
    ax = disco.plot_conditional(
        KEY, prior, {"a": 1.5}, ("c", "b"), rows=ROWS, num_nearest=30, num_samples=200, ax=given
    )
    assert ax is given and (ax.get_xlabel(), ax.get_ylabel()) == ("c", "b")
    nearest = np.argsort(np.abs(ROWS[:, 0] - 1.5))[:30]
    shown = ax.collections[0].get_offsets()
    np.testing.assert_allclose(np.sort(shown[:, 1]), np.sort(ROWS[nearest, 1]))


def test_draws_of_another_method_are_shown_as_they_are(prior):
    draws = np.tile([1.5, 4.0, 0.0], (30, 1))
    ax = disco.plot_conditional(KEY, prior, {"a": 1.5}, "b", draws=draws)
    assert ax.get_xlim()[0] < 4 < ax.get_xlim()[1] and ax.get_xlim()[0] > 3


def test_columns_have_to_be_free(prior):
    with pytest.raises(ValueError, match="free `columns`"):
        disco.plot_conditional(KEY, prior, {"a": 1.0}, "a")
    with pytest.raises(ValueError, match="one row"):
        disco.plot_conditional(KEY, prior, {"a": [1.0, 2.0]})


def test_plot_pairs_compares_rows_with_draws(prior):
    rows = ROWS[:100].copy()
    rows[0, 0] = np.nan
    figure = disco.plot_pairs(KEY, prior, rows, num_samples=200)
    assert [axis.get_xlabel() for axis in figure.axes[-3:]] == ["a", "b", "c"]
    assert len(figure.axes[1].collections[0].get_offsets()) == 99
    chosen = disco.plot_pairs(KEY, prior, rows, ("c", "a"), num_samples=200)
    assert [axis.get_xlabel() for axis in chosen.axes[-2:]] == ["c", "a"]
