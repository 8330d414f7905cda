"""A focus: its names, and a conditional that is learned better for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.statistics import Mixture, mean_and_error

import numpyro_disco as disco
from numpyro_disco.tables.variable import Variable
from numpyro_disco.tables.variables import Variables
from numpyro_disco.training.objectives.focus import check_focus, focus_on

WIDTH = 0.3
MODES = Mixture(np.full(4, 0.25), 2.0 * np.eye(4), np.tile(0.05 * np.eye(4), (4, 1, 1)))
COLUMNS = ("theta", "a", "b", "c", "d")
SMALL = {
    "reference": "gaussian",
    "network": disco.MLP(width=32, num_blocks=1, num_octaves=2),
    "batch_size": 256,
    "num_steps": 300,
    "progress_bar": False,
}


def centre(x):
    """Mean of theta given x: the modes of x hide that it depends on two of its columns."""
    return np.sin(4 * x[:, 0]) * np.cos(4 * x[:, 1])


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    x = MODES.draw(rng, 5000)
    theta = centre(x) + WIDTH * rng.standard_normal(5000)
    return np.column_stack([theta, x])


@pytest.fixture(scope="module")
def focused(pairs):
    return learned(pairs[:4000], focus="theta", num_redraws=4)


def learned(rows, **settings):
    objective = disco.Contrastive(**settings)
    return disco.fit(jax.random.key(0), rows, names=COLUMNS, objective=objective, **SMALL)


def score_errors(fit, rows):
    """Squared errors of the score of theta given x, whose exact value is known, over its mean."""
    exact = (centre(rows[:, 1:]) - rows[:, 0]) / WIDTH**2
    return (np.asarray(fit.score(rows))[:, 0] - exact) ** 2 * WIDTH**2


@pytest.mark.training
def test_a_focus_improves_its_conditional(pairs, focused):
    test = pairs[4000:]
    errors = score_errors(focused, test)
    joint = score_errors(learned(pairs[:4000], num_redraws=0), test)
    elsewhere = score_errors(learned(pairs[:4000], focus=COLUMNS[1:], num_redraws=4), test)
    print(
        f"{errors.mean():.3f} with focus, {joint.mean():.3f} without, {elsewhere.mean():.3f} twin"
    )
    gain, error = mean_and_error(joint - errors)
    assert gain > 5 * error
    assert gain > 0.2 * joint.mean()
    # Broken twin: a focus on the columns that are given.
    gain, error = mean_and_error(joint - elsewhere)
    assert gain < 0.2 * joint.mean()


@pytest.mark.training
def test_all_redraws_are_of_the_columns_in_focus(focused):
    objective, model = focused.settings.objective, focused.evidence.model
    rows = jnp.asarray(focused.evidence.held_out[:8])
    _, judged = objective.held_out_noise(jax.random.key(0), rows, 2, model)
    data = objective.round_data(jax.random.key(1), focused.evidence.training_rows, model, 8)
    batch_of, entries = objective.batches(jax.random.key(2), data, model, 8)
    trained, _, redraws = jax.vmap(batch_of)(entries)
    for moved in (judged - rows[:, None, None], redraws - trained[:, :, None]):
        moved = np.abs(np.asarray(moved) @ np.linalg.inv(np.asarray(model.whitener)).T)
        assert moved[..., 1:].max() < 1e-4
        assert moved[..., 0].min() < moved[..., 0].max() > 0.1


@pytest.mark.training
def test_the_report_and_the_settings_name_the_focus(focused):
    line = focused.report()["focus"]
    assert line.verdict == "pass" and line.reason.startswith("log density of theta given")
    # The exact gain over the best Gaussian of theta: the entropy of a sum that WIDTH leaves.
    assert 0.2 < line.value < 1.5
    assert "focus=Focus(names=('theta',), places=(0,))" in str(focused.settings)


def test_levels_are_redrawn_like_other_columns():
    rng = np.random.default_rng(0)
    x = rng.normal(size=400)
    fit = disco.fit(
        jax.random.key(0),
        {"kind": rng.random(400) < 1 / (1 + np.exp(-x)), "theta": rng.normal(x), "x": x},
        objective=disco.Contrastive(focus=("kind", "theta"), num_redraws=2),
        reference=disco.MixtureFit(max_components=1),
        network=disco.MLP(width=8, num_blocks=1),
        num_steps=50,
        batch_size=32,
        progress_bar=False,
    )
    model, rows = fit.evidence.model, jnp.asarray(fit.evidence.held_out)
    noise = fit.settings.objective.held_out_noise(jax.random.key(0), rows, 1, model)
    redraws = noise[1][:, 0]
    assert len(np.unique(redraws[..., 0])) == 2
    moved = np.asarray(redraws - rows[:, None]) @ np.linalg.inv(np.asarray(model.whitener)).T
    assert np.abs(moved[..., 2]).max() < 1e-4 < np.abs(moved[..., 1]).min()


@pytest.mark.parametrize("wrong", [(), ("a", "a"), ("",), 3, ("a", 1)])
def test_a_focus_holds_names(wrong):
    with pytest.raises(ValueError, match="distinct names of columns or variables for `focus`"):
        disco.Contrastive(focus=wrong)


def test_a_focus_needs_redraws():
    with pytest.raises(ValueError, match="`num_redraws` with `focus`"):
        disco.Contrastive(focus="a", num_redraws=0)


@pytest.mark.parametrize(
    ("focus", "message"), [("z", "names 'z', which is not"), (("a", "b"), "leaves some of")]
)
def test_fit_refuses_a_focus_that_its_columns_do_not_have(focus, message):
    rows = np.random.default_rng(0).normal(size=(50, 2))
    with pytest.raises(ValueError, match=message):
        disco.fit(
            jax.random.key(0), rows, names=("a", "b"), objective=disco.Contrastive(focus=focus)
        )


def test_a_focus_names_variables_or_their_elements():
    variables = Variables((Variable("x", (2,)), Variable("p", (3,), "simplex")))
    found = focus_on(("p",), variables.names, variables)
    assert found.names == ("p",) and found.places == (2, 3)
    assert focus_on(("x[1]", "p"), variables.names, variables).places == (1, 2, 3)
    assert check_focus(found, "focus") is found
    with pytest.raises(ValueError, match="coupled by its support"):
        focus_on(("p[0]",), variables.names, variables)
    with pytest.raises(ValueError, match="neither a variable"):
        focus_on(("y",), variables.names, variables)
