"""Draws of a reference given some columns, and learning from rows ranked among them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.statistics import Mixture, assert_within, mean_and_error, moments
from scipy.stats import norm

import numpyro_disco as disco
from numpyro_disco.references.redraws import column_directions, redraw
from numpyro_disco.training.fit import _completed
from numpyro_disco.training.losses import ranking_loss
from numpyro_disco.training.objectives import OBJECTIVES, RowsAndDraws, _contrast
from numpyro_disco.training.settings import STEPS_PER_ROUND, TrainingSettings

NUM_DRAWS = 100_000
MIXTURE = Mixture(
    [0.2, 0.3, 0.5],
    [[-1.0, 0.5, 0.0], [0.5, -0.5, 1.0], [0.0, 0.5, -0.5]],
    [
        [[0.6, 0.3, 0.1], [0.3, 0.4, 0.0], [0.1, 0.0, 0.3]],
        [[0.2, -0.1, 0.0], [-0.1, 0.5, 0.2], [0.0, 0.2, 0.8]],
        [[1.5, 0.4, -0.6], [0.4, 0.9, 0.3], [-0.6, 0.3, 1.2]],
    ],
)
GAUSSIAN = Mixture([1.0], MIXTURE.means[:1], MIXTURE.covariances[2:])
POINT = np.array([0.3, -0.2, 0.6])


def reference_of(mixture):
    if len(mixture.weights) == 1:
        return disco.GaussianReference(mixture.means[0], mixture.covariances[0])
    return disco.MixtureReference(mixture.weights, mixture.means, mixture.covariances)


def choices(whitener, count=40):
    """Each as directions of their own, with the columns that are free."""
    found = column_directions(jax.random.key(0), jnp.asarray(whitener), count)
    for index in range(count):
        directions = jax.tree.map(lambda leaf, i=index: leaf[i], found)
        columns = np.linalg.inv(whitener) @ np.asarray(directions.rotation, np.float64)
        free = np.abs(columns[:, : int(directions.num_free)]).max(1) > 1e-5
        yield directions, tuple(np.flatnonzero(free))


def with_free(free):
    return next(directions for directions, found in choices(np.eye(3)) if found == free)


def conditional(mixture, free):
    held = [i for i in range(3) if i not in free]
    return held, mixture.condition(held, POINT[held])


def check(draws, truth):
    estimate, error = mean_and_error(moments(draws))
    assert_within(estimate, truth.moments, error, resolution=0.3, label="moments")


@pytest.mark.parametrize("mixture", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("free", [(0,), (2,), (0, 2), (1, 2)])
def test_redraws_are_those_of_the_conditional(mixture, free):
    points = jnp.asarray(np.stack([POINT + 1, POINT]), jnp.float32)
    draws = redraw(jax.random.key(1), reference_of(mixture), points, with_free(free), NUM_DRAWS)
    assert draws.shape == (2, NUM_DRAWS, 3)
    held, truth = conditional(mixture, free)
    np.testing.assert_allclose(draws[1][:, held], np.tile(POINT[held], (NUM_DRAWS, 1)), atol=1e-5)
    check(np.asarray(draws[1])[:, free], truth)


def test_shares_without_a_determinant_are_noticed():
    """The twin: components weighted by how far the held part is alone."""
    held, truth = conditional(MIXTURE, (0,))
    log_dets = np.linalg.slogdet(MIXTURE.covariances[:, held][:, :, held])[1]
    wrong = Mixture(truth.weights * np.exp(0.5 * log_dets), truth.means, truth.covariances)
    with pytest.raises(AssertionError, match="is off"):
        check(wrong.draw(np.random.default_rng(0), NUM_DRAWS), truth)


def test_free_directions_are_those_of_columns_in_the_rows_own_units():
    """Standardised units mix columns; what is drawn again is columns all the same."""
    whitener = np.array([[1.0, 0.4, 0.0], [0.4, 2.0, -0.3], [0.0, -0.3, 0.5]])
    point = jnp.asarray(POINT, jnp.float32)[None]
    seen = set()
    for directions, free in choices(whitener):
        draws = redraw(jax.random.key(1), reference_of(MIXTURE), point, directions, 4)
        moved = (np.asarray(draws[0], np.float64) - POINT) @ np.linalg.inv(whitener).T
        assert len(free) == int(directions.num_free)
        assert tuple(np.flatnonzero((np.abs(moved) > 1e-4).all(0))) == free
        assert (np.abs(np.delete(moved, free, axis=1)) < 1e-5).all()
        seen.add(free)
    assert seen == {(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)}


def test_one_column_is_drawn_from_the_reference():
    one = Mixture([0.3, 0.7], [[-1.0], [1.0]], [[[0.1]], [[0.4]]])
    directions = jax.tree.map(
        lambda leaf: leaf[0], column_directions(jax.random.key(0), np.eye(1), 1)
    )
    draws = redraw(jax.random.key(1), reference_of(one), jnp.zeros((1, 1)), directions, NUM_DRAWS)
    check(np.asarray(draws[0]), one)


def swapped_ranking_loss(of_row, of_draws):
    return ranking_loss(of_draws[0], jnp.append(of_draws[1:], of_row))


def test_ranking_loss_is_lowest_at_the_log_ratio_whatever_is_added():
    """Its slope along any direction vanishes there; looking for a draw instead, it does not."""
    grid = np.linspace(-6, 6, 241)
    p = 0.3 * norm.pdf(grid, -2, 0.5) + 0.7 * norm.pdf(grid, 1, 1)
    q = norm.pdf(grid, 0, 1.5)
    p, q = p / p.sum(), q / q.sum()
    truth = np.log(q) - np.log(p) + 1.7

    def slope(loss, direction):
        f = jnp.asarray(truth)
        pairs = jax.vmap(jax.vmap(jax.grad(loss, argnums=(0, 1)), (None, 0)), (0, None))
        of_row, of_draw = pairs(f, f[:, None])
        along = of_row * direction[:, None] + of_draw[..., 0] * direction
        return float(p @ along @ q)

    for direction in (np.tanh(grid), np.cos(3 * grid)):
        assert abs(slope(ranking_loss, direction)) < 1e-4
    assert abs(slope(swapped_ranking_loss, np.tanh(grid))) > 0.1
    assert float(ranking_loss(0.0, jnp.zeros(4))) == pytest.approx(np.log(5))
    assert float(ranking_loss(1.0, jnp.zeros(0))) == 0


@pytest.fixture(scope="module")
def few_steps():
    rows = MIXTURE.draw(np.random.default_rng(0), 2000)
    settings = {"width": 16, "num_blocks": 1, "num_steps": 50, "progress_bar": False}
    return disco.fit(
        jax.random.key(0), rows, objective="contrastive", reference="gaussian", **settings
    )


@pytest.mark.training
def test_held_out_rows_judge_many_choices_of_columns(few_steps):
    fit = few_steps
    assert fit.settings.num_redraws == 4
    assert fit.history.held_out_loss[0] > 2 * np.log(2)
    rows, repeats = jnp.asarray(fit._held_out[:15]), 16
    noise = OBJECTIVES["contrastive"].noise
    draws, redraws = noise(jax.random.key(0), rows, repeats, fit._model, fit.settings)
    assert draws.shape == (15, repeats, 3) and redraws.shape == (15, repeats, 4, 3)
    moved = np.asarray(redraws - rows[:, None, None], np.float64)
    moved = moved @ np.linalg.inv(np.asarray(fit._model.whitener, np.float64)).T
    free = (np.abs(moved) > 1e-3).any(2)
    # A row is asked about one choice after another, and none of its redraws is another row's.
    assert (np.abs(moved) < 1e-3).any(3).all()
    assert min(len(np.unique(of_row, axis=0)) for of_row in free) >= 3


@pytest.mark.training
def test_every_step_draws_its_own_rows_again_in_columns_of_its_own(few_steps):
    options = dataclasses.replace(few_steps.settings, batch_size=32)
    rows = jnp.asarray(few_steps._rows, jnp.float32)
    draws = jnp.zeros((32 * STEPS_PER_ROUND, 3))
    directions = column_directions(jax.random.key(1), few_steps._model.whitener, STEPS_PER_ROUND)
    data = RowsAndDraws(rows, draws, directions)
    batch_of, entries = _contrast(jax.random.key(0), data, few_steps._model, options)
    rows, _, redraws = jax.vmap(batch_of)(entries)
    assert redraws.shape == (STEPS_PER_ROUND, 32, 4, 3)

    def moved(rows):
        """Along the directions of each step, (steps, rows, redraws, directions)."""
        steps = jnp.einsum("sbmi,sij->sbmj", redraws - rows[:, :, None], directions.rotation)
        return np.abs(steps) > 1e-4

    free = np.arange(3) < np.asarray(directions.num_free)[:, None]
    expected = np.broadcast_to(free[:, None, None], redraws.shape)
    assert len(np.unique(free.sum(1))) == 2
    assert (moved(rows) == expected).mean() > 0.999  # chance may leave something where it was
    # The twins: redraws of the row beside, or in the columns of another step.
    assert (moved(jnp.roll(rows, 1, axis=1)) == expected).mean() < 0.9
    assert (moved(rows) == expected[::-1]).mean() < 0.9


@pytest.mark.training
def test_as_many_as_are_asked_for_beside_a_mixture():
    rows = MIXTURE.draw(np.random.default_rng(0), 200)
    settings = {"width": 8, "num_blocks": 1, "num_steps": 1, "progress_bar": False}
    fit = disco.fit(jax.random.key(0), rows, num_redraws=2, max_components=2, **settings)
    assert fit.settings.num_redraws == 2
    start = 2 * np.log(2) + np.log(3)
    assert fit.history.held_out_loss[0] == pytest.approx(start, abs=1e-5)


@pytest.mark.parametrize("wrong", [-1, True, 4.0, "4"])
def test_what_is_no_count_is_refused(wrong):
    with pytest.raises(ValueError, match=f"`num_redraws`; got {wrong!r}"):
        TrainingSettings(num_redraws=wrong)


@pytest.mark.parametrize("others", [{"reference": "gaussian"}, {"noise_scale": 0.1}])
@pytest.mark.parametrize(("name", "value"), [("num_redraws", 8), ("defensive_share", 0.1)])
def test_what_contrasts_alone_know_is_refused_without_one(others, name, value):
    rows = MIXTURE.draw(np.random.default_rng(0), 100)
    with pytest.raises(ValueError, match=f"`objective` with `{name}`.*'disco' and {value}"):
        disco.fit(jax.random.key(0), rows, **{name: value}, **others)


@pytest.mark.parametrize(
    ("objective", "reference", "expected"),
    [
        ("contrastive", GAUSSIAN, 4),
        ("joint", GAUSSIAN, 4),
        ("contrastive", MIXTURE, 0),
        ("disco", GAUSSIAN, 0),
    ],
)
def test_how_many_there_are_by_default(objective, reference, expected):
    options = TrainingSettings(objective=objective)
    assert _completed(options, reference_of(reference), 1000).num_redraws == expected


def test_of_one_column_there_are_none():
    options = TrainingSettings(objective="contrastive")
    reference = disco.GaussianReference(np.zeros(1), np.eye(1))
    assert _completed(options, reference, 1000).num_redraws == 0


@pytest.mark.training
def test_ranking_teaches_how_columns_hang_together_where_a_reference_is_far():
    """Total variation of a column given the others, of a mixture learned from one Gaussian."""
    rng = np.random.default_rng(0)
    means, factors = rng.uniform(-3, 3, (3, 6)), rng.normal(size=(3, 6, 6)) / 2
    truth = Mixture(np.full(3, 1 / 3), means, factors @ np.swapaxes(factors, 1, 2))
    rows, test = truth.draw(rng, 10_000), truth.draw(rng, 200)
    grid = np.linspace(-6, 6, 241)
    points = np.repeat(test[:, None], len(grid), axis=1)
    points[..., -1] = grid

    def shares(log_prob):
        """Of each cell of the grid, (200, 241)."""
        log_density = np.asarray(log_prob(points), np.float64)
        share = np.exp(log_density - log_density.max(1, keepdims=True))
        return share / share.sum(1, keepdims=True)

    def distances(num_redraws):
        prior = disco.fit(
            jax.random.key(0),
            rows,
            objective="contrastive",
            reference="gaussian",
            num_redraws=num_redraws,
            num_steps=400,
            batch_size=128,
            width=32,
            num_blocks=1,
            progress_bar=False,
        ).distribution
        wrong = shares(jax.jit(prior.log_prob)) - shares(truth.log_prob)
        return 0.5 * np.abs(wrong).sum(1)

    with_them, without = distances(4), distances(0)
    gain, error = mean_and_error(without - with_them)
    print(f"{with_them.mean():.3f} with, {without.mean():.3f} without")
    assert gain > 5 * error
    assert gain > 0.1 * without.mean()
