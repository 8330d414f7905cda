"""Settings of a fit: defaults, printing, and combinations that are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.fits import NETWORK, quick_fit

import numpyro_disco as disco
from numpyro_disco.training.optimizer import DECAY_ROWS
from numpyro_disco.training.settings import LARGE_ROWS, SMALL_ROWS, requested_settings

NOTHING = dict.fromkeys(
    (
        *("network", "optimizer", "supports", "transform", "missing"),
        *("num_steps", "batch_size", "held_out_fraction", "patience"),
    )
)


def requested(**given):
    """Settings as `fit` has them before it reads any data."""
    defaults = {"objective": None, "noise_scale": None, "reference": None}
    return requested_settings(None, **(NOTHING | defaults | given))


def test_settings_of_a_fit_have_no_open_defaults(few):
    settings = quick_fit(few, objective="contrastive", num_steps=50).settings
    assert settings.objective == disco.Contrastive(defensive_share=0.001, num_redraws=0)
    assert settings.network == disco.MLP(width=16, num_blocks=1, num_octaves=1)
    assert settings.optimizer == disco.AdamW(learning_rate=2e-3, weight_decay=1.0)
    assert settings.reference == disco.MixtureFit(max_components=128)
    assert (settings.batch_size, settings.patience) == (64, 500)
    printed = str(settings)
    assert f"objective          {settings.objective}" in printed
    assert all(getattr(settings, name) is not None for name in NOTHING if name != "transform")


def test_settings_of_a_disco_fit_have_no_open_defaults():
    gaussian = disco.GaussianReference(np.zeros(2), np.eye(2))
    objective = requested(noise_scale=0.05).resolved(gaussian, 540).objective
    chosen = {"target": "mean", "posterior_rows": "all", "density_weight": 0.3}
    assert objective == disco.Disco(noise_scale=0.05, **chosen)


def test_noise_scale_is_short_for_disco():
    assert requested(noise_scale=0.2).objective == disco.Disco(noise_scale=0.2)
    assert requested(noise_scale=0.2, objective="disco").objective.noise_scale == 0.2
    for objective in ("contrastive", disco.Contrastive(), disco.Disco(), "denoising"):
        with pytest.raises(ValueError, match="`noise_scale` without `objective`.*got"):
            requested(noise_scale=0.2, objective=objective)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"objective": "flow"}, "for `objective`; got 'flow'"),
        ({"objective": 3}, "for `objective`; got 3"),
        ({"network": 128}, r"disco.MLP\(.*for `network`; got 128"),
        ({"optimizer": 1e-3}, "optax optimiser.*for `optimizer`; got 0.001"),
        ({"reference": "flow"}, "for `reference`; got 'flow'"),
        ({"transform": "quantile"}, "for `transform`; got 'quantile'"),
        ({"num_steps": 0}, "`num_steps`; got 0"),
        ({"batch_size": 0}, "`batch_size`; got 0"),
        ({"held_out_fraction": 1.0}, "`held_out_fraction`; got 1.0"),
        ({"missing": "drop"}, "for `missing`; got 'drop'"),
        ({"patience": True}, "`patience`; got True"),
    ],
)
def test_wrong_settings_are_refused(given, named):
    with pytest.raises(ValueError, match=named):
        requested(**given)


def test_unknown_settings_are_refused_by_python():
    with pytest.raises(TypeError, match="colour"):
        disco.fit(jax.random.key(0), np.zeros((20, 2)), colour="blue")


def test_settings_accept_numpy_and_jax_numbers():
    optimizer = disco.AdamW(learning_rate=np.array(1e-3))
    settings = requested(noise_scale=jnp.asarray(0.3), optimizer=optimizer)
    assert type(settings.objective.noise_scale) is float
    assert settings.optimizer.learning_rate == 1e-3


def test_weights_decay_for_few_rows_with_a_mixture():
    """With a single Gaussian the network has to learn the whole shape, so nothing decays."""
    gaussian = disco.GaussianReference(np.zeros(2), np.eye(2))
    mixture = disco.MixtureReference([0.5, 0.5], np.eye(2), [np.eye(2)] * 2)
    learned = [
        ("contrastive", mixture, DECAY_ROWS),
        ("contrastive", mixture, DECAY_ROWS + 1),
        ("contrastive", gaussian, DECAY_ROWS),
        ("disco", mixture, DECAY_ROWS),
    ]
    decays = [
        requested(objective=objective).resolved(reference, num_rows).optimizer.weight_decay
        for objective, reference, num_rows in learned
    ]
    assert decays == [1.0, 0.0, 0.0, 0.0]


def test_batches_follow_the_number_of_rows_for_contrastive_objectives():
    sizes = {}
    reference = disco.GaussianReference(np.zeros(2), np.eye(2))
    for objective in ("contrastive", "disco"):
        for num_rows in (SMALL_ROWS, LARGE_ROWS, LARGE_ROWS + 1):
            for given in (None, 64):
                made = requested(objective=objective, batch_size=given).resolved(
                    reference, num_rows
                )
                sizes[objective, num_rows, given] = made.batch_size
    assert sizes.pop(("contrastive", LARGE_ROWS + 1, None)) == 2048
    assert sizes.pop(("contrastive", SMALL_ROWS, None)) == 512
    assert all(size == (given or 1024) for (*_, given), size in sizes.items())


def test_any_optax_optimiser_trains(few):
    fit = disco.fit(
        jax.random.key(0),
        few,
        noise_scale=0.3,
        network=NETWORK,
        optimizer=optax.adam(5e-3),
        num_steps=150,
        batch_size=64,
        progress_bar=False,
    )
    history = fit.history
    assert history.held_out_loss[0] - history.held_out_loss[-1] > 5 * history.held_out_error[-1]
    assert "an optax optimiser" in str(fit.settings)
