"""DISCO: its targets, and the rows that they are computed from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.fits import quick_fit

import numpyro_disco as disco
from numpyro_disco.training.rows.batches import TrainingRows


def test_draw_targets_train_as_well(few):
    objective = disco.Disco(noise_scale=0.3, target="draw")
    optimizer = disco.AdamW(learning_rate=5e-3)
    history = quick_fit(few, objective=objective, optimizer=optimizer).history
    drop = history.held_out_loss[0] - history.held_out_loss[-1]
    assert drop > 5 * history.held_out_error[-1] > 0


def test_a_posterior_over_few_rows_biases_targets_towards_the_row_behind_a_point(rows):
    """A posterior over a single row has that row as its target."""

    def distance(posterior_rows):
        objective = disco.Disco(noise_scale=0.3, posterior_rows=posterior_rows)
        batch = objective.noisy_batch(jax.random.key(0), TrainingRows(jnp.asarray(rows)), 2048)
        steps = (batch.points - batch.target) / batch.proposal_scale[:, None]
        return batch.target, float((steps**2).mean())

    alone, own = distance(1)
    assert (alone == alone[0]).all()
    few, every = distance(64)[1], distance(None)[1]
    # The distance to a point's own row has mean square one; nearer rows may be behind it as well.
    assert 0.9 < own < 1.1 and every < 0.8 * few < 0.7 * own


def test_near_rows_give_the_same_targets_as_all_rows(few):
    """All boxes count as near here. The points agree because the rows have the same order."""
    table = TrainingRows(jnp.asarray(few, jnp.float32))
    near, every = (
        disco.Disco(posterior_rows=which).noisy_batch(jax.random.key(0), table, 1024)
        for which in ("near", "all")
    )
    np.testing.assert_array_equal(near.points, every.points)
    np.testing.assert_allclose(near.target, every.target, atol=1e-4)
    np.testing.assert_allclose(near.log_density, every.log_density, rtol=1e-3, atol=1e-3)
    table = np.random.default_rng(0).normal(size=(50, 4))
    for objective in (disco.Disco(posterior_rows="near"), disco.Joint(posterior_rows="near")):
        with pytest.raises(ValueError, match="at most 3 columns"):
            quick_fit(table, objective=objective)


@pytest.mark.parametrize("noise_scale", [0.0, -0.1, np.nan, "much"])
def test_wrong_noise_scales_are_refused(noise_scale):
    with pytest.raises(ValueError, match="`noise_scale`"):
        disco.Disco(noise_scale=noise_scale)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"target": "median"}, "target"),
        ({"max_noise_scale": 0.01}, "max_noise_scale"),
        ({"posterior_rows": "some"}, "posterior_rows"),
        ({"density_weight": "some"}, "density_weight"),
        ({"whiten": "no"}, "whiten"),
        ({"undo_smoothing": 1}, "undo_smoothing"),
    ],
)
def test_wrong_settings_are_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        disco.Disco(**settings)


@pytest.mark.parametrize("objective", [disco.Implicit, disco.DiscoScore])
def test_objectives_without_a_smoothed_energy_cannot_undo_smoothing(objective):
    with pytest.raises(TypeError, match="undo_smoothing"):
        objective(undo_smoothing=True)
