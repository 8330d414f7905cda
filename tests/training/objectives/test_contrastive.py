"""The contrastive objective: redraws of rows, defaults, and the gain from redraws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.references import OVERLAPPING, reference_of
from helpers.statistics import Mixture, mean_and_error

import numpyro_disco as disco
from numpyro_disco.training.objectives.contrastive import contrastive_batches
from numpyro_disco.training.rows.batches import STEPS_PER_ROUND, rows_and_draws

GAUSSIAN = Mixture([1.0], OVERLAPPING.means[:1], OVERLAPPING.covariances[2:])


@pytest.fixture(scope="module")
def few_steps():
    rows = OVERLAPPING.draw(np.random.default_rng(0), 2000)
    return disco.fit(
        jax.random.key(0),
        rows,
        objective="contrastive",
        reference="gaussian",
        network=disco.MLP(width=16, num_blocks=1),
        num_steps=50,
        progress_bar=False,
    )


@pytest.mark.training
def test_held_out_rows_are_judged_on_many_sets_of_columns(few_steps):
    objective, model = few_steps.settings.objective, few_steps.evidence.model
    assert objective.num_redraws == 4
    assert few_steps.history.held_out_loss[0] > 2 * np.log(2)
    rows, repeats = jnp.asarray(few_steps.evidence.held_out[:15]), 16
    draws, redraws = objective.held_out_noise(jax.random.key(0), rows, repeats, model)
    assert draws.shape == (15, repeats, 3) and redraws.shape == (15, repeats, 4, 3)
    moved = np.asarray(redraws - rows[:, None, None], np.float64)
    moved = moved @ np.linalg.inv(np.asarray(model.whitener, np.float64)).T
    free = (np.abs(moved) > 1e-3).any(2)
    # Each row meets several sets of columns, and its redraws keep its own fixed columns.
    assert (np.abs(moved) < 1e-3).any(3).all()
    assert min(len(np.unique(sets, axis=0)) for sets in free) >= 3


@pytest.mark.training
def test_every_step_redraws_its_own_rows_in_its_own_columns(few_steps):
    model = few_steps.evidence.model
    data = rows_and_draws(jax.random.key(1), few_steps.evidence.training_rows, model, 32)
    directions = data.directions
    batch_of, entries = contrastive_batches(jax.random.key(0), data, model, 4)
    rows, _, redraws = jax.vmap(batch_of)(entries)
    assert redraws.shape == (STEPS_PER_ROUND, 32, 4, 3)

    def moved(rows):
        """Directions along which redraws differ: (steps, rows, redraws, directions)."""
        steps = jnp.einsum("sbmi,sij->sbmj", redraws - rows[:, :, None], directions.rotation)
        return np.abs(steps) > 1e-4

    free = np.arange(3) < np.asarray(directions.num_free)[:, None]
    expected = np.broadcast_to(free[:, None, None], redraws.shape)
    assert len(np.unique(free.sum(1))) == 2
    assert (moved(rows) == expected).mean() > 0.999  # a draw may happen to equal the row
    # Broken twins: redraws of the neighbouring row, or in another number of columns.
    assert (moved(jnp.roll(rows, 1, axis=1)) == expected).mean() < 0.9
    another = np.arange(3) < 3 - np.asarray(directions.num_free)[:, None]
    assert (moved(rows) == another[:, None, None]).mean() < 0.9


@pytest.mark.training
def test_redraws_with_a_mixture_are_made_on_request():
    rows = OVERLAPPING.draw(np.random.default_rng(0), 200)
    fit = disco.fit(
        jax.random.key(0),
        rows,
        objective=disco.Contrastive(num_redraws=2),
        reference=disco.MixtureFit(max_components=2),
        network=disco.MLP(width=8, num_blocks=1),
        num_steps=1,
        progress_bar=False,
    )
    assert fit.settings.objective.num_redraws == 2
    start = 2 * np.log(2) + np.log(3)
    assert fit.history.held_out_loss[0] == pytest.approx(start, abs=1e-5)


@pytest.mark.parametrize("wrong", [-1, True, 4.0, "4"])
def test_num_redraws_must_be_a_count(wrong):
    with pytest.raises(ValueError, match=f"`num_redraws`; got {wrong!r}"):
        disco.Contrastive(num_redraws=wrong)


@pytest.mark.parametrize("wrong", [1.0, -0.1, 0.5, "much"])
def test_defensive_share_must_be_less_than_half(wrong):
    with pytest.raises(ValueError, match="`defensive_share`"):
        disco.Contrastive(defensive_share=wrong)


@pytest.mark.parametrize("kind", [disco.Disco, disco.Denoising, disco.Implicit])
@pytest.mark.parametrize("setting", [{"num_redraws": 8}, {"defensive_share": 0.1}])
def test_other_objectives_have_no_settings_of_the_contrastive_one(kind, setting):
    with pytest.raises(TypeError, match=next(iter(setting))):
        kind(**setting)


@pytest.mark.parametrize(
    ("objective", "reference", "expected"),
    [
        (disco.Contrastive(), GAUSSIAN, (4, 0.0)),
        (disco.Joint(), GAUSSIAN, (4, 0.0)),
        (disco.Contrastive(), OVERLAPPING, (0, 0.001)),
        (disco.Joint(), OVERLAPPING, (0, 0.001)),
    ],
)
def test_defaults_follow_the_kind_of_reference(objective, reference, expected):
    resolved = objective.resolved(reference_of(reference), 1000)
    assert (resolved.num_redraws, resolved.defensive_share) == expected


def test_a_single_column_has_no_redraws():
    reference = disco.GaussianReference(np.zeros(1), np.eye(1))
    assert disco.Contrastive().resolved(reference, 1000).num_redraws == 0


@pytest.mark.slow
def test_redraws_improve_conditionals_if_the_reference_is_far_from_the_rows():
    """Total variation distance of a column's conditional, learned relative to one Gaussian."""
    rng = np.random.default_rng(0)
    means, factors = rng.uniform(-3, 3, (3, 6)), rng.normal(size=(3, 6, 6)) / 2
    truth = Mixture(np.full(3, 1 / 3), means, factors @ np.swapaxes(factors, 1, 2))
    rows, test = truth.draw(rng, 10_000), truth.draw(rng, 200)
    grid = np.linspace(-6, 6, 241)
    points = np.repeat(test[:, None], len(grid), axis=1)
    points[..., -1] = grid

    def shares(log_prob):
        """Probability of each cell of the grid, (200, 241)."""
        log_density = np.asarray(log_prob(points), np.float64)
        share = np.exp(log_density - log_density.max(1, keepdims=True))
        return share / share.sum(1, keepdims=True)

    def distances(num_redraws):
        prior = disco.fit(
            jax.random.key(0),
            rows,
            objective=disco.Contrastive(num_redraws=num_redraws),
            reference="gaussian",
            network=disco.MLP(width=32, num_blocks=1),
            num_steps=400,
            batch_size=128,
            progress_bar=False,
        ).distribution
        wrong = shares(jax.jit(prior.log_prob)) - shares(truth.log_prob)
        return 0.5 * np.abs(wrong).sum(1)

    ranked, unranked = distances(4), distances(0)
    gain, error = mean_and_error(unranked - ranked)
    print(f"{ranked.mean():.3f} with redraws, {unranked.mean():.3f} without")
    assert gain > 5 * error
    assert gain > 0.1 * unranked.mean()
