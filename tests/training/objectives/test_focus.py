"""A focus: its names, and the redraws of its columns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import numpyro_disco as disco
from numpyro_disco.tables.variables import Variable, Variables
from numpyro_disco.training.objectives.focus import check_focus, focus_on


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
    noise = fit.settings.objective.judging_noise(jax.random.key(0), rows, 1, model)
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
