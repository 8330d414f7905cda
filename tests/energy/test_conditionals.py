"""`sample_conditional`: what may be observed, conditionals in closed form, and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers.conditional_targets import (
    DATA,
    DRAWS,
    GAUSSIAN,
    KEY,
    NAMES,
    REPEATS,
    ROWS,
    SIGMAS,
    UNEQUAL,
    draw,
    prior_of,
    rows_with_missing_entries,
)
from helpers.statistics import Mixture, assert_within

import numpyro_disco as disco
from numpyro_disco.energy.importance import compiled_blocks
from numpyro_disco.energy.sampling import compiled_tempering


@pytest.fixture(scope="module")
def prior():
    return prior_of(UNEQUAL)


def test_rows_give_draws_of_each_row(prior):
    draws = draw(prior)
    assert draws.shape == (DRAWS, ROWS, 3)
    there = ~np.isnan(DATA)
    assert np.isfinite(draws).all()
    expected = np.broadcast_to(DATA.astype(np.float32), draws.shape)
    np.testing.assert_array_equal(draws[:, there], expected[:, there])
    # Free entries vary; a complete row is returned unchanged.
    assert (draws.std(axis=0)[~there] > 0.05).all()
    np.testing.assert_array_equal(draws[:, 0], expected[:, 0])


def test_frames_and_columns_give_the_draws_of_the_array(prior):
    by_array = draw(prior)
    frame = pd.DataFrame(DATA, columns=list(NAMES))
    # Columns are found by name, not by position.
    for same in (
        frame,
        frame[["c", "a", "b"]],
        {n: DATA[:, i] for i, n in enumerate(NAMES)},
    ):
        np.testing.assert_array_equal(draw(prior, same), by_array)
    # A column that is absent is free in every row.
    without = draw(prior, frame[["c", "a"]])
    table = DATA.copy()
    table[:, 1] = np.nan
    np.testing.assert_array_equal(without, draw(prior, table))


def test_one_row(prior):
    # As a mapping, as a vector, and as numbers of other kinds: one compiled program of one row.
    by_name = draw(prior, {"b": 0.5})
    assert by_name.shape == (DRAWS, 3)
    np.testing.assert_array_equal(by_name[:, 1], 0.5)
    np.testing.assert_array_equal(draw(prior, np.array([np.nan, 0.5, np.nan])), by_name)
    np.testing.assert_array_equal(draw(prior, {"b": jnp.asarray(0.5), "c": np.nan}), by_name)
    one_row = draw(prior, {"b": [0.5]})
    assert one_row.shape == (DRAWS, 1, 3)
    np.testing.assert_array_equal(one_row[:, 0], by_name)
    # What a prior has clamped counts as observed, beside what is given.
    np.testing.assert_array_equal(draw(prior.clamp({"b": 0.5}), {}), by_name)
    both = draw(prior.clamp({"b": 0.5}), {"a": 0.25})
    np.testing.assert_array_equal(both[:, :2], np.tile([0.25, 0.5], (DRAWS, 1)))
    np.testing.assert_array_equal(draw(prior, {"a": 0.25, "b": 0.5}), both)
    # The estimate of log Z does not affect draws.
    normalized = prior.replace(log_normalizer=jnp.asarray(1.0))
    np.testing.assert_array_equal(draw(normalized, {"b": 0.5}), by_name)
    # Legacy keys are accepted.
    legacy = jax.random.PRNGKey(0)
    typed = jax.random.wrap_key_data(legacy)
    np.testing.assert_array_equal(draw(prior, {"b": 0.5}, legacy), draw(prior, {"b": 0.5}, typed))


def test_a_prior_clamped_to_a_batch_has_a_row_for_each_member(prior):
    values = np.linspace(-1, 1, ROWS)
    expected = draw(prior, {"a": values, "b": np.full(ROWS, 0.5)})
    np.testing.assert_array_equal(draw(prior.clamp({"a": values}), {"b": 0.5}), expected)


def test_no_rows(prior):
    assert draw(prior, np.zeros((0, 3))).shape == (DRAWS, 0, 3)


def test_rows_do_not_depend_on_how_many_run_side_by_side(prior):
    together = draw(prior)
    few = disco.sample_conditional(
        KEY, prior, DATA, DRAWS, num_particles=DRAWS, rows_at_once=ROWS // 2
    )
    # A rounding error may change an ancestor and so move all particles of a row; most agree.
    assert np.isclose(few, together, atol=1e-3).mean() > 0.8


def conditional_moments(mixture, table):
    """Means of the free coordinates and of their products, for all rows in one flat array."""
    flat = []
    for row in table:
        seen = np.flatnonzero(~np.isnan(row))
        if len(seen) == 3:
            continue
        conditional = mixture.condition(seen, row[seen])
        second = conditional.covariance + np.outer(conditional.mean, conditional.mean)
        flat += [conditional.mean, second[np.triu_indices(len(conditional.mean))]]
    return np.concatenate(flat)


def estimated_moments(prior, table):
    """The same moments of draws, averaged over runs, with standard errors between runs.

    Draws of one run share ancestors and are not independent, so the error of a mean is taken from
    the spread between runs and never from the spread within one.
    """
    runs = []
    for index in range(REPEATS):
        draws = draw(prior, table, jax.random.fold_in(KEY, index)).astype(float)
        flat = []
        for row, x in zip(table, np.swapaxes(draws, 0, 1), strict=True):
            x = x[:, np.isnan(row)]
            if x.shape[1] == 0:
                continue
            products = np.einsum("ni,nj->ij", x, x) / len(x)
            flat += [x.mean(0), products[np.triu_indices(x.shape[1])]]
        runs.append(np.concatenate(flat))
    return np.mean(runs, 0), np.std(runs, 0, ddof=1) / np.sqrt(REPEATS)


def assert_conditionals(prior, mixture, table=DATA):
    estimate, error = estimated_moments(prior, table)
    truth = conditional_moments(mixture, table)
    # In units of the largest moments, which are of order 1 to 4.
    resolution = 0.25 * np.maximum(1.0, np.abs(truth)) + 0.25
    assert_within(
        estimate, truth, error, resolution=resolution, sigmas=SIGMAS, label="conditional moments"
    )


@pytest.mark.parametrize("mixture", [GAUSSIAN, UNEQUAL], ids=["Gaussian", "unequal mixture"])
def test_conditionals_over_random_missing_entries(mixture):
    assert_conditionals(prior_of(mixture), mixture)


@pytest.mark.parametrize("what", ["cross term of the wrong sign", "wrong masses"])
def test_the_check_detects(what):
    wrong = prior_of(UNEQUAL, flip=True)
    if what == "wrong masses":
        wrong = prior_of(Mixture(UNEQUAL.weights[::-1], UNEQUAL.means, UNEQUAL.covariances))
    with pytest.raises(AssertionError, match="is off"):
        assert_conditionals(wrong, UNEQUAL)


def worst_of_two_hundred_rows(prior, mixture):
    """Largest error of a mean, in its standard errors, and of a deviation, as a share of it."""
    rng = np.random.default_rng(1)
    table = mixture.draw(rng, 200)
    table[rng.random(table.shape) < 1 / 3] = np.nan
    runs = []
    for index in range(REPEATS):
        key = jax.random.fold_in(KEY, index)
        draws = disco.sample_conditional(key, prior, table, 1024, rows_at_once=200)
        runs.append(np.asarray(draws, float))
    means = np.mean(runs, axis=1)
    deviations = np.std(runs, axis=(0, 1))
    error = means.std(0, ddof=1) / np.sqrt(REPEATS)
    in_errors, as_share = [], []
    for row, mean, deviation, one in zip(table, means.mean(0), deviations, error, strict=True):
        seen, free = np.flatnonzero(~np.isnan(row)), np.isnan(row)
        if free.any():
            truth = mixture.condition(seen, row[seen])
            in_errors.extend(np.abs(mean[free] - truth.mean) / one[free])
            exact = np.sqrt(np.diagonal(truth.covariance))
            as_share.extend(np.abs(deviation[free] / exact - 1))
    return np.max(in_errors), np.max(as_share)


@pytest.mark.slow
@pytest.mark.parametrize("mixture", [GAUSSIAN, UNEQUAL], ids=["Gaussian", "unequal mixture"])
def test_two_hundred_rows(mixture):
    in_errors, as_share = worst_of_two_hundred_rows(prior_of(mixture), mixture)
    print(f"mean off by {in_errors:.2f} standard errors, deviation by {as_share:.2%} at most")
    assert in_errors < SIGMAS and as_share < 0.05
    in_errors, as_share = worst_of_two_hundred_rows(prior_of(mixture, flip=True), mixture)
    assert in_errors > 2 * SIGMAS and as_share > 0.05


def test_an_empty_row_is_a_draw_of_the_joint(prior):
    empty = np.full((ROWS, 3), np.nan)
    draws = draw(prior, empty)
    # Twenty rows are twenty independent runs of one conditional.
    means = draws.mean(axis=0)
    error = means.std(axis=0, ddof=1) / np.sqrt(ROWS)
    assert_within(
        means.mean(0), UNEQUAL.mean, error, resolution=0.3, sigmas=SIGMAS, label="joint mean"
    )
    with pytest.raises(AssertionError, match="is off"):
        assert_within(
            -means.mean(0), UNEQUAL.mean, error, resolution=0.3, sigmas=SIGMAS, label="sign"
        )


def cross_row_correlation(draws):
    """Mean correlation between neighbouring rows' draws, and its error over pairs of rows."""
    x = draws[:, :, 2]
    x = (x - x.mean(0)) / x.std(0)
    pairs = (x[:, 0::2] * x[:, 1::2]).mean(0)
    return pairs.mean(), pairs.std(ddof=1) / np.sqrt(len(pairs))


def test_rows_are_independent(prior):
    # The same conditional in every row: shared random numbers would make the rows' draws alike.
    table = np.tile([0.3, np.nan, np.nan], (ROWS, 1))
    draws = draw(prior, table)
    estimate, error = cross_row_correlation(draws)
    # Ten pairs: Student's t with 9 degrees of freedom, beyond 12 as rarely as a Gaussian beyond 5.
    assert_within(estimate, 0.0, error, resolution=0.5, sigmas=12, label="correlation of rows")
    # The broken twin: the same random numbers for every row.
    one = draw(prior, table[:1])
    estimate, error = cross_row_correlation(np.repeat(one, ROWS, axis=1))
    with pytest.raises(AssertionError, match="is off"):
        assert_within(estimate, 0.0, error, resolution=0.5, sigmas=12, label="one key")


def test_new_values_patterns_and_numbers_of_rows_do_not_compile_again():
    draw(prior_of(UNEQUAL))
    programs = compiled_blocks(), compiled_tempering()
    before = [program._cache_size() for program in programs]
    draw(prior_of(UNEQUAL), rows_with_missing_entries(seed=1))
    draw(prior_of(GAUSSIAN), rows_with_missing_entries(seed=2)[:7], jax.random.key(9))
    draw(prior_of(UNEQUAL).temper(1.5), np.full((ROWS, 3), np.nan))
    disco.impute(KEY, prior_of(GAUSSIAN), rows_with_missing_entries(3), 7, num_particles=DRAWS)
    disco.log_marginal(KEY, prior_of(UNEQUAL), {"a": 0.5}, num_particles=DRAWS)
    prior_of(UNEQUAL).sample(KEY, (100,))
    assert [program._cache_size() for program in programs] == before


@pytest.mark.parametrize(
    ("observed", "message"),
    [
        ({"redshift": 0.3}, r"`observed` names 'redshift'.*its names are \('a', 'b', 'c'\)"),
        (np.zeros((2, 2)), r"last axis of 3 for `observed`.*got shape \(2, 2\)"),
        (np.zeros((2, 2, 3)), r"\(D,\) or \(rows, D\) for `observed`; got shape \(2, 2, 3\)"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, "one batch shape in `observed`"),
        ({"a": np.inf}, "finite numbers, or NaN for what is free, in `observed`"),
        (pd.DataFrame({"a": ["high"]}), "Expected numbers for 'a' in `observed`"),
        (pd.DataFrame({"a": [1.0], "q": [2.0]}), "`observed` names 'q'"),
    ],
)
def test_invalid_observations(prior, observed, message):
    with pytest.raises(ValueError, match=message):
        disco.sample_conditional(KEY, prior, observed)


def test_invalid_counts_and_keys(prior):
    for bad in (0, -1, 2.5, True, "ten"):
        with pytest.raises(ValueError, match="`num_samples`"):
            disco.sample_conditional(KEY, prior, {"a": 0.0}, bad)
        with pytest.raises(ValueError, match="`num_imputations`"):
            disco.impute(KEY, prior, DATA, bad)
    with pytest.raises(ValueError, match="`num_particles` as draws, which are 100; got 10"):
        disco.sample_conditional(KEY, prior, {"a": 0.0}, 100, num_particles=10)
    with pytest.raises(ValueError, match="`rows_at_once`"):
        disco.sample_conditional(KEY, prior, {"a": 0.0}, rows_at_once=0)
    with pytest.raises(ValueError, match="random key.*jax.random.key"):
        disco.sample_conditional(0, prior, {"a": 0.0})
    with pytest.raises(ValueError, match="EnergyDistribution"):
        disco.sample_conditional(KEY, prior.reference, {"a": 0.0})


def test_a_row_out_of_reach_is_named(prior):
    # A conditional does not exist where the density is zero; the error names the rows.
    walled = prior_of(UNEQUAL, wall=5.0)
    table = DATA.copy()
    table[7] = [6.0, np.nan, np.nan]
    with pytest.raises(RuntimeError, match=r"1 of 20 conditionals \(rows \[7\]\).*-infinity"):
        draw(walled, table)
