"""`sample_conditional` and `impute` against closed forms, over many patterns of holes.

Every call here has the same number of rows, draws and particles wherever possible, so that all
targets and all patterns are one compiled program.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers.statistics import Mixture, assert_within
from jax.scipy.special import logsumexp

import numpyro_disco as disco
from numpyro_disco.energy.distribution import draw_conditionals
from numpyro_disco.tempering.settings import TemperingSettings

NAMES = ("a", "b", "c")
KEY = jax.random.key(3)
ROWS, DRAWS, REPEATS = 20, 256, 20
# The error comes from 20 runs: Student's t with 19 degrees of freedom is as rarely beyond 7.4 as a
# Gaussian is beyond 5.
SIGMAS = 7.4

GAUSSIAN = Mixture(
    [1.0, 1.0],
    [[0.5, -0.3, 0.2]] * 2,
    [[[1.0, 0.6, 0.2], [0.6, 1.5, -0.4], [0.2, -0.4, 0.8]]] * 2,
)
# Unequal in weight, place, width and correlation: a check on a symmetric target sees half of what
# can go wrong.
UNEQUAL = Mixture(
    [0.3, 0.7],
    [[-1.2, 0.4, 0.8], [1.0, -0.6, -0.5]],
    [
        [[0.5, 0.3, 0.0], [0.3, 0.6, -0.2], [0.0, -0.2, 0.4]],
        [[0.9, -0.4, 0.2], [-0.4, 0.7, 0.3], [0.2, 0.3, 1.1]],
    ],
)


def energy(parameters, x):
    """-log of an unnormalised mixture; +infinity beyond a wall in the first coordinate."""
    log_masses, means, precisions, wall = parameters
    residual = x - means
    quadratic = jnp.einsum("ki,kij,kj->k", residual, precisions, residual)
    inside = -logsumexp(log_masses - 0.5 * quadratic)
    return jnp.where(x[0] > wall, jnp.inf, inside)


def prior_of(mixture, flip=False, wall=np.inf):
    covariances = mixture.covariances
    if flip:
        # The broken twin: the cross term of b and c with its sign the wrong way round.
        covariances = covariances * np.array([[1, 1, 1], [1, 1, -1], [1, -1, 1]])
    precisions = np.linalg.inv(covariances)
    log_masses = np.log(mixture.weights) + 0.5 * np.linalg.slogdet(precisions)[1]
    parameters = tuple(
        jnp.asarray(a, jnp.float32) for a in (log_masses, mixture.means, precisions, wall)
    )
    reference = disco.GaussianReference(np.zeros(3), 6.0 * np.eye(3))
    return disco.EnergyDistribution(
        jax.tree_util.Partial(energy, parameters), reference, names=NAMES
    )


@pytest.fixture(scope="module")
def prior():
    return prior_of(UNEQUAL)


def table_with_holes(seed=0):
    """Rows of the unequal mixture; the first is whole, the second empty, the others at random."""
    rng = np.random.default_rng(seed)
    rows = UNEQUAL.draw(rng, ROWS)
    holes = rng.random((ROWS, 3)) < 0.5
    holes[0], holes[1] = False, True
    holes[2:5] = [[True, False, True], [False, True, False], [True, True, False]]
    return np.where(holes, np.nan, rows)


TABLE = table_with_holes()


def draw(prior, table=TABLE, key=KEY, num_samples=DRAWS):
    return np.asarray(disco.sample_conditional(key, prior, table, num_samples, num_particles=DRAWS))


# -- shapes and ways of saying what is observed ------------------------------------------------


def test_a_table_gives_draws_of_each_row(prior):
    draws = draw(prior)
    assert draws.shape == (DRAWS, ROWS, 3)
    there = ~np.isnan(TABLE)
    assert np.isfinite(draws).all()
    expected = np.broadcast_to(TABLE.astype(np.float32), draws.shape)
    np.testing.assert_array_equal(draws[:, there], expected[:, there])
    # Free entries vary; a whole row comes back as it is.
    assert (draws.std(axis=0)[~there] > 0.05).all()
    np.testing.assert_array_equal(draws[:, 0], expected[:, 0])


def test_frames_and_columns_are_the_same_table(prior):
    by_array = draw(prior)
    frame = pd.DataFrame(TABLE, columns=list(NAMES))
    # Names, not places, say which column is which.
    for same in (frame, frame[["c", "a", "b"]], {n: TABLE[:, i] for i, n in enumerate(NAMES)}):
        np.testing.assert_array_equal(draw(prior, same), by_array)
    # A column that is not there is free in every row.
    without = draw(prior, frame[["c", "a"]])
    table = TABLE.copy()
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
    # A clamped prior knows what it is clamped to; what is observed is observed as well.
    np.testing.assert_array_equal(draw(prior.clamp({"b": 0.5}), {}), by_name)
    both = draw(prior.clamp({"b": 0.5}), {"a": 0.25})
    np.testing.assert_array_equal(both[:, :2], np.tile([0.25, 0.5], (DRAWS, 1)))
    np.testing.assert_array_equal(draw(prior, {"a": 0.25, "b": 0.5}), both)
    # The estimate of Z has no say in draws.
    normalized = prior.replace(log_normalizer=jnp.asarray(1.0))
    np.testing.assert_array_equal(draw(normalized, {"b": 0.5}), by_name)
    # A legacy key is a key.
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
        KEY, prior, TABLE, DRAWS, num_particles=DRAWS, batch_size=ROWS // 2
    )
    # Whole rows apart, a flip by rounding may move a row's particles: most are the same.
    assert np.isclose(few, together, atol=1e-3).mean() > 0.8


# -- closed forms ------------------------------------------------------------------------------


def conditional_moments(mixture, table):
    """For each row: means of the free coordinates and of their products, flat over all rows."""
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
    """The same from draws: means over runs with different keys, and their standard errors.

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


def assert_conditionals(prior, mixture, table=TABLE):
    estimate, error = estimated_moments(prior, table)
    truth = conditional_moments(mixture, table)
    # In units of the largest moments, which are of order 1 to 4.
    resolution = 0.25 * np.maximum(1.0, np.abs(truth)) + 0.25
    assert_within(
        estimate, truth, error, resolution=resolution, sigmas=SIGMAS, label="conditional moments"
    )


@pytest.mark.parametrize("mixture", [GAUSSIAN, UNEQUAL], ids=["Gaussian", "unequal mixture"])
def test_conditionals_over_random_holes(mixture):
    assert_conditionals(prior_of(mixture), mixture)


@pytest.mark.parametrize("mixture", [GAUSSIAN, UNEQUAL], ids=["Gaussian", "unequal mixture"])
def test_the_check_sees_a_cross_term_of_the_wrong_sign(mixture):
    with pytest.raises(AssertionError, match="is off"):
        assert_conditionals(prior_of(mixture, flip=True), mixture)


def test_the_check_sees_wrong_masses():
    swapped = Mixture(UNEQUAL.weights[::-1], UNEQUAL.means, UNEQUAL.covariances)
    with pytest.raises(AssertionError, match="is off"):
        assert_conditionals(prior_of(swapped), UNEQUAL)


def worst_of_two_hundred_rows(prior, mixture):
    """Largest error of a mean, in its standard errors, and of a deviation, as a share of it."""
    rng = np.random.default_rng(1)
    table = mixture.draw(rng, 200)
    table[rng.random(table.shape) < 1 / 3] = np.nan
    runs = []
    for index in range(REPEATS):
        key = jax.random.fold_in(KEY, index)
        draws = disco.sample_conditional(key, prior, table, 1024, batch_size=200)
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
    # The broken twin: one key for every row.
    values = jnp.where(jnp.isnan(table), 0.0, table)
    shared, _ = draw_conditionals(
        jnp.broadcast_to(KEY, (ROWS,)),
        prior,
        values,
        ~np.isnan(table),
        DRAWS,
        TemperingSettings(num_particles=DRAWS),
        64,
    )
    estimate, error = cross_row_correlation(np.asarray(shared))
    with pytest.raises(AssertionError, match="is off"):
        assert_within(estimate, 0.0, error, resolution=0.5, sigmas=12, label="one key")


# -- what compiles again -----------------------------------------------------------------------


def test_new_values_and_other_holes_compile_nothing():
    draw(prior_of(UNEQUAL))
    before = draw_conditionals._cache_size()
    draw(prior_of(UNEQUAL), table_with_holes(seed=1))
    draw(prior_of(GAUSSIAN), table_with_holes(seed=2), jax.random.key(9))
    draw(prior_of(UNEQUAL).temper(1.5), np.full((ROWS, 3), np.nan))
    disco.impute(KEY, prior_of(GAUSSIAN), table_with_holes(3), DRAWS, num_particles=DRAWS)
    assert draw_conditionals._cache_size() == before


# -- imputation --------------------------------------------------------------------------------


def test_imputed_tables(prior):
    for table in (TABLE, pd.DataFrame(TABLE, columns=list(NAMES)), jnp.asarray(TABLE)):
        filled = np.asarray(disco.impute(KEY, prior, table, DRAWS, num_particles=DRAWS))
        assert filled.shape == (DRAWS, ROWS, 3)
        there = ~np.isnan(TABLE)
        expected = np.broadcast_to(TABLE.astype(np.float32), filled.shape)
        np.testing.assert_array_equal(filled[:, there], expected[:, there])
        np.testing.assert_array_equal(filled, draw(prior))


# -- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observed", "message"),
    [
        ({"redshift": 0.3}, r"`observed` names 'redshift'.*its names are \('a', 'b', 'c'\)"),
        (np.zeros((2, 2)), r"last axis of 3 for `observed`.*got shape \(2, 2\)"),
        (np.zeros((2, 2, 3)), r"\(D,\) or \(rows, D\) for `observed`; got shape \(2, 2, 3\)"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, "one batch shape in `observed`"),
        ({"a": np.inf}, "finite numbers, or NaN for what is free, in `observed`"),
        (pd.DataFrame({"a": ["high"]}), "Expected numbers in `observed`"),
        (pd.DataFrame({"a": [1.0], "q": [2.0]}), "`observed` names 'q'"),
    ],
)
def test_observed_that_makes_no_sense(prior, observed, message):
    with pytest.raises(ValueError, match=message):
        disco.sample_conditional(KEY, prior, observed)


def test_counts_and_keys_that_make_no_sense(prior):
    for bad in (0, -1, 2.5, True, "ten"):
        with pytest.raises(ValueError, match="`num_samples`"):
            disco.sample_conditional(KEY, prior, {"a": 0.0}, bad)
        with pytest.raises(ValueError, match="`num_imputations`"):
            disco.impute(KEY, prior, TABLE, bad)
    with pytest.raises(ValueError, match="at least `num_samples` = 100 particles; got 10"):
        disco.sample_conditional(KEY, prior, {"a": 0.0}, 100, num_particles=10)
    with pytest.raises(ValueError, match="`batch_size`"):
        disco.sample_conditional(KEY, prior, {"a": 0.0}, batch_size=0)
    with pytest.raises(ValueError, match="random key.*jax.random.key"):
        disco.sample_conditional(0, prior, {"a": 0.0})
    with pytest.raises(ValueError, match="EnergyDistribution"):
        disco.sample_conditional(KEY, prior.reference, {"a": 0.0})


def test_tables_that_cannot_be_imputed(prior):
    for table in (np.zeros(3), np.zeros((2, 2, 3))):
        with pytest.raises(ValueError, match=r"shape \(rows, D\) for `table`"):
            disco.impute(KEY, prior, table)
    with pytest.raises(ValueError, match="`table` names 'q'"):
        disco.impute(KEY, prior, {"q": np.zeros(3)})
    with pytest.raises(ValueError, match="finite numbers.*`table`"):
        disco.impute(KEY, prior, np.array([[np.inf, 0.0, 0.0]]))


def test_a_row_out_of_reach_is_named(prior):
    # Where the density is zero there is no conditional: the error names the rows.
    walled = prior_of(UNEQUAL, wall=5.0)
    table = TABLE.copy()
    table[7] = [6.0, np.nan, np.nan]
    with pytest.raises(RuntimeError, match=r"1 of 20 conditionals \(rows \[7\]\).*-infinity"):
        draw(walled, table)


# -- tables ------------------------------------------------------------------------------------


def test_frames_in_frames_out(prior):
    frame = pd.DataFrame(
        {"who": ["x", "y", "z"], "c": [0.1, np.nan, 0.3], "a": [np.nan, 1.2, 0.5], "b": 0.7},
        index=["i", "j", "k"],
    )
    filled = disco.impute(KEY, prior, frame[list(NAMES)], 3, like=frame)
    assert len(filled) == 3
    for one in filled:
        assert list(one.index) == list(frame.index) and list(one.columns) == list(frame.columns)
        assert one["who"].tolist() == ["x", "y", "z"] and not one.isna().any(axis=None)
        # What was there is there to the last bit, though draws are in single precision.
        for name in frame:
            known = frame[name].notna()
            assert one[name][known].tolist() == frame[name][known].tolist()
    assert filled[0].loc["i", "a"] != filled[1].loc["i", "a"]
    array = disco.impute(KEY, prior, frame[list(NAMES)], 3)
    np.testing.assert_allclose([f.loc["i", "a"] for f in filled], array[:, 0, 0], rtol=1e-6)


def test_a_table_in_arviz(prior):
    frame = pd.DataFrame([[0.1, np.nan, 0.2]], columns=list(NAMES), index=["first"])
    table = disco.impute(KEY, prior, frame, 4, like="arviz")["posterior"]["table"]
    assert table.dims == ("chain", "draw", "row", "column") and table.shape == (1, 4, 1, 3)
    assert table.coords["row"].values.tolist() == ["first"]
    assert table.sel(row="first", column="a").values == pytest.approx(0.1)


def test_what_tables_cannot_be_like(prior):
    table = np.array([[0.1, np.nan, 0.2]])
    with pytest.raises(ValueError, match="a DataFrame or 'arviz' for `like`; got 'pandas'"):
        disco.impute(KEY, prior, table, like="pandas")
    with pytest.raises(ValueError, match="a DataFrame or 'arviz' for `like`; got list"):
        disco.impute(KEY, prior, table, like=[1])
    with pytest.raises(ValueError, match=r"1 rows with the columns.*got 1 rows, without \['c'\]"):
        disco.impute(KEY, prior, table, like=pd.DataFrame({"a": [1], "b": [2]}))


# -- marginals ---------------------------------------------------------------------------------


def observed_density(mixture, table):
    """Log density of what is there in each row, in closed form."""
    rows = []
    for row in table:
        seen = np.flatnonzero(~np.isnan(row))
        rows.append(mixture.marginal(seen).log_prob(row[seen]))
    return np.array(rows)


SEEN = TABLE[~np.isnan(TABLE).all(axis=1)]


@pytest.mark.statistics
@pytest.mark.parametrize("mixture", [GAUSSIAN, UNEQUAL], ids=["gaussian", "unequal"])
def test_marginals_over_random_holes(mixture):
    found = disco.log_marginal(KEY, prior_of(mixture), SEEN, num_particles=256, num_runs=20)
    truth = observed_density(mixture, SEEN)
    assert found.log_density.shape == found.error.shape == (len(SEEN),)
    assert_within(
        found.log_density, truth, found.error, sigmas=SIGMAS, resolution=0.3, label="log marginal"
    )
    # Log Z is shared, so rows are compared with less error than each has.
    assert (found.error >= found.shared_error).all()
    # Values half a unit off.
    twin = observed_density(mixture, SEEN + 0.5)
    with pytest.raises(AssertionError, match="is off"):
        assert_within(
            found.log_density, twin, found.error, sigmas=SIGMAS, resolution=0.3, label="twin"
        )


@pytest.mark.statistics
def test_marginals_of_a_normalised_and_of_a_clamped_prior():
    prior = prior_of(UNEQUAL).normalize(KEY)
    one = disco.log_marginal(KEY, prior, {"a": 0.3}, num_particles=256, num_runs=20)
    assert one.log_density.shape == () and one.shared_error == prior.log_normalizer_error
    clamped = prior_of(UNEQUAL).clamp({"b": 0.2})
    given = disco.log_marginal(KEY, clamped, {"a": 0.3}, num_particles=256, num_runs=20)
    truth = UNEQUAL.condition([1], [0.2]).marginal([0]).log_prob(np.array([0.3]))
    assert_within(
        given.log_density, truth, given.error, sigmas=SIGMAS, resolution=0.3, label="conditional"
    )


@pytest.mark.training
def test_the_order_of_observation_does_not_matter_on_a_trained_network():
    """log p(a | b) + log p(b) = log p(b | a) + log p(a), whatever has been learned."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 3)) @ rng.normal(size=(3, 3)) + rng.exponential(size=(300, 3))
    prior = disco.fit(
        KEY, rows, names=NAMES, num_steps=50, width=16, num_blocks=1, progress_bar=False
    ).distribution
    a, b = ({name: float(rows[7, place])} for place, name in enumerate("ab"))
    settings = dict(num_particles=256, num_runs=20)
    keys = jax.random.split(KEY, 4)
    totals, errors = [], []
    for first, second, key in ((a, b, 0), (b, a, 2)):
        conditional = disco.log_marginal(keys[key], prior.clamp(first), second, **settings)
        marginal = disco.log_marginal(keys[key + 1], prior, first, **settings)
        totals.append(conditional.log_density + marginal.log_density)
        errors.append(np.hypot(conditional.error, marginal.error))
    assert_within(
        totals[0], totals[1], np.hypot(*errors), sigmas=SIGMAS, resolution=0.3, label="order"
    )


@pytest.mark.statistics
def test_the_marginal_of_whole_rows_is_their_density(prior):
    """Nothing is left to integrate: all weights are equal, and every run says the same."""
    rows = np.asarray(draw(prior, np.full((ROWS, 3), np.nan)))[:20].reshape(-1, 3)
    normalized = prior.normalize(KEY)
    found = disco.log_marginal(KEY, normalized, rows, num_particles=256, num_runs=2)
    np.testing.assert_allclose(found.log_density, normalized.log_prob(rows), atol=1e-4)
    np.testing.assert_allclose(found.error, found.shared_error, atol=1e-5)


def test_rows_of_which_nothing_is_known_have_no_marginal():
    with pytest.raises(ValueError, match="at least one number in every row.*row 1"):
        disco.log_marginal(KEY, prior_of(GAUSSIAN), {"a": [0.1, np.nan]})
    with pytest.raises(ValueError, match="clamped to a batch"):
        batch = prior_of(GAUSSIAN).clamp({"a": np.zeros(3)})
        disco.log_marginal(KEY, batch, {"b": 0.1})
