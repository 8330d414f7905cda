"""`log_marginal` against closed forms."""

import jax
import numpy as np
import pytest
from helpers.conditional_targets import (
    DATA,
    GAUSSIAN,
    KEY,
    NAMES,
    ROWS,
    SIGMAS,
    UNEQUAL,
    draw,
    prior_of,
)
from helpers.statistics import assert_within

import numpyro_disco as disco


@pytest.fixture(scope="module")
def prior():
    return prior_of(UNEQUAL)


def observed_density(mixture, table):
    """Log density of the observed entries of each row, in closed form."""
    rows = []
    for row in table:
        seen = np.flatnonzero(~np.isnan(row))
        rows.append(mixture.marginal(seen).log_prob(row[seen]))
    return np.array(rows)


SEEN = DATA[~np.isnan(DATA).all(axis=1)]


@pytest.mark.statistics
@pytest.mark.parametrize("mixture", [GAUSSIAN, UNEQUAL], ids=["gaussian", "unequal"])
def test_marginals_over_random_missing_entries(mixture):
    found = disco.log_marginal(KEY, prior_of(mixture), SEEN, num_particles=256, num_chains=20)
    truth = observed_density(mixture, SEEN)
    assert found.log_density.shape == found.error.shape == (len(SEEN),)
    assert_within(
        found.log_density, truth, found.error, sigmas=SIGMAS, resolution=0.3, label="log marginal"
    )
    # log Z is shared, so its error is part of the error of every row.
    assert (found.error >= found.shared_error).all()
    # The broken twin: values half a unit off.
    twin = observed_density(mixture, SEEN + 0.5)
    with pytest.raises(AssertionError, match="is off"):
        assert_within(
            found.log_density, twin, found.error, sigmas=SIGMAS, resolution=0.3, label="twin"
        )


@pytest.mark.statistics
def test_marginals_of_a_normalised_and_of_a_clamped_prior():
    prior = prior_of(UNEQUAL).normalize(KEY)
    one = disco.log_marginal(KEY, prior, {"a": 0.3}, num_particles=256, num_chains=20)
    assert one.log_density.shape == () and one.shared_error == prior.log_normalizer_error
    clamped = prior_of(UNEQUAL).clamp({"b": 0.2})
    given = disco.log_marginal(KEY, clamped, {"a": 0.3}, num_particles=256, num_chains=20)
    truth = UNEQUAL.condition([1], [0.2]).marginal([0]).log_prob(np.array([0.3]))
    assert_within(
        given.log_density, truth, given.error, sigmas=SIGMAS, resolution=0.3, label="conditional"
    )


@pytest.mark.slow
def test_the_order_of_observation_does_not_matter_on_a_trained_network():
    """log p(a | b) + log p(b) = log p(b | a) + log p(a), for any learned density."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 3)) @ rng.normal(size=(3, 3)) + rng.exponential(size=(300, 3))
    network = disco.MLP(width=16, num_blocks=1)
    prior = disco.fit(
        KEY, rows, names=NAMES, network=network, num_steps=50, progress_bar=False
    ).distribution
    a, b = ({name: float(rows[7, place])} for place, name in enumerate("ab"))
    settings = dict(num_particles=256, num_chains=20)
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
    """Without free coordinates all weights are equal, and every run gives the same result."""
    rows = np.asarray(draw(prior, np.full((ROWS, 3), np.nan)))[:20].reshape(-1, 3)
    normalized = prior.normalize(KEY)
    found = disco.log_marginal(KEY, normalized, rows, num_particles=256, num_chains=2)
    np.testing.assert_allclose(found.log_density, normalized.log_prob(rows), atol=1e-4)
    np.testing.assert_allclose(found.error, found.shared_error, atol=1e-5)


def test_rows_without_observations_are_refused():
    with pytest.raises(ValueError, match="at least one number in every row.*row 1"):
        disco.log_marginal(KEY, prior_of(GAUSSIAN), {"a": [0.1, np.nan]})
    with pytest.raises(ValueError, match="clamped to a batch"):
        batch = prior_of(GAUSSIAN).clamp({"a": np.zeros(3)})
        disco.log_marginal(KEY, batch, {"b": 0.1})
