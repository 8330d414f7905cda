"""Exact draws from a reference given some columns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.mixed import TRUTH
from helpers.references import OVERLAPPING, reference_of
from helpers.statistics import Mixture, assert_within, mean_and_error, moments

from numpyro_disco.references.redraws import column_directions, redraw

NUM_DRAWS = 100_000
GAUSSIAN = Mixture([1.0], OVERLAPPING.means[:1], OVERLAPPING.covariances[2:])
POINT = np.array([0.3, -0.2, 0.6])


def choices(whitener, count=40):
    """Single sets of free directions, with the indices of the columns that they free."""
    sets = column_directions(jax.random.key(0), jnp.asarray(whitener), count)
    for index in range(count):
        directions = jax.tree.map(lambda leaf, i=index: leaf[i], sets)
        columns = np.linalg.inv(whitener) @ np.asarray(directions.rotation, np.float64)
        free = np.abs(columns[:, : int(directions.num_free)]).max(1) > 1e-5
        yield directions, tuple(np.flatnonzero(free))


def with_free(free):
    return next(directions for directions, columns in choices(np.eye(3)) if columns == free)


def conditional(mixture, free):
    held = [i for i in range(3) if i not in free]
    return held, mixture.condition(held, POINT[held])


def check(draws, truth):
    estimate, error = mean_and_error(moments(draws))
    assert_within(estimate, truth.moments, error, resolution=0.3, label="moments")


@pytest.mark.parametrize("mixture", [GAUSSIAN, OVERLAPPING], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("free", [(0,), (2,), (0, 2), (1, 2)])
def test_redraws_have_the_moments_of_the_conditional(mixture, free):
    points = jnp.asarray(np.stack([POINT + 1, POINT]), jnp.float32)
    draws = redraw(jax.random.key(1), reference_of(mixture), points, with_free(free), NUM_DRAWS)
    assert draws.shape == (2, NUM_DRAWS, 3)
    held, truth = conditional(mixture, free)
    np.testing.assert_allclose(draws[1][:, held], np.tile(POINT[held], (NUM_DRAWS, 1)), atol=1e-5)
    check(np.asarray(draws[1])[:, free], truth)


def test_weights_without_the_determinant_fail_the_moment_check():
    """Broken twin: weight components by the distance of the fixed part alone."""
    held, truth = conditional(OVERLAPPING, (0,))
    log_dets = np.linalg.slogdet(OVERLAPPING.covariances[:, held][:, :, held])[1]
    wrong = Mixture(truth.weights * np.exp(0.5 * log_dets), truth.means, truth.covariances)
    with pytest.raises(AssertionError, match="is off"):
        check(wrong.draw(np.random.default_rng(0), NUM_DRAWS), truth)


def test_redraws_change_whole_columns_in_the_rows_units():
    """Standardised units mix columns, but the free directions are still columns of the data."""
    whitener = np.array([[1.0, 0.4, 0.0], [0.4, 2.0, -0.3], [0.0, -0.3, 0.5]])
    point = jnp.asarray(POINT, jnp.float32)[None]
    seen = set()
    for directions, free in choices(whitener):
        draws = redraw(jax.random.key(1), reference_of(OVERLAPPING), point, directions, 4)
        moved = (np.asarray(draws[0], np.float64) - POINT) @ np.linalg.inv(whitener).T
        assert len(free) == int(directions.num_free)
        assert tuple(np.flatnonzero((np.abs(moved) > 1e-4).all(0))) == free
        assert (np.abs(np.delete(moved, free, axis=1)) < 1e-5).all()
        seen.add(free)
    assert seen == {(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)}


def test_redraws_of_a_single_column_come_from_the_reference():
    one = Mixture([0.3, 0.7], [[-1.0], [1.0]], [[[0.1]], [[0.4]]])
    directions = jax.tree.map(
        lambda leaf: leaf[0], column_directions(jax.random.key(0), np.eye(1), 1)
    )
    draws = redraw(jax.random.key(1), reference_of(one), jnp.zeros((1, 1)), directions, NUM_DRAWS)
    check(np.asarray(draws[0]), one)


def test_redraws_of_discrete_coordinates_have_the_masses_of_the_conditional():
    """Whichever of a level and two real coordinates are free, given the others."""
    reference, num_levels = TRUTH.reference(), TRUTH.num_levels
    point, seen = np.array([0.3, 1.0, -0.4, 1.0]), set()
    sets = column_directions(jax.random.key(3), np.eye(4), 200, num_levels)
    for index in range(200):
        directions = jax.tree.map(lambda leaf, i=index: leaf[i], sets)
        free = np.asarray(directions.free_levels).copy()
        moved = np.abs(np.asarray(directions.rotation)[:, : int(directions.num_free)])
        free |= moved.max(1, initial=0) > 1e-5
        if tuple(free) in seen or not np.asarray(directions.free_levels)[1]:
            continue
        seen.add(tuple(free))
        points = jnp.asarray(point, jnp.float32)[None]
        draws = np.asarray(redraw(jax.random.key(1), reference, points, directions, 20_000)[0])
        codes, masses, _ = TRUTH.conditional(point, ~free)
        drawn = draws[:, np.flatnonzero(free & np.isin(np.arange(4), TRUTH.discrete))]
        hits = (drawn[:, None] == codes[None]).all(2)
        estimate, error = mean_and_error(hits.astype(float))
        assert_within(estimate, masses, error, resolution=0.03, label=f"masses, free {free}")
        # The broken twin: masses of other levels.
        with pytest.raises(AssertionError, match="is off"):
            assert_within(estimate, np.roll(masses, 1), error, resolution=0.03, label="twin")
        np.testing.assert_allclose(
            draws[:, ~free], np.tile(point[~free], (len(draws), 1)), atol=1e-5
        )
        assert np.ptp(draws[:, free], axis=0).all()
    assert {(False, True, False, False), (True, True, False, False)} <= seen
