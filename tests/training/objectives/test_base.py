"""Every objective trains through `fit`."""

import jax
import numpy as np
import pytest

import numpyro_disco as disco
from numpyro_disco.training.objectives import OBJECTIVES, Objective

pytestmark = pytest.mark.training

SMALL = {
    "network": disco.MLP(width=32, num_blocks=1),
    "batch_size": 256,
    "progress_bar": False,
}
NOISE_SCALE = 0.4


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    modes = rng.choice([-1.0, 1.0], size=(4000, 1), p=[0.3, 0.7])
    return np.concatenate([modes, -modes], axis=1) + 0.3 * rng.normal(size=(4000, 2))


def objective_of(name):
    kind = OBJECTIVES[name]
    return kind(noise_scale=NOISE_SCALE) if hasattr(kind, "noise_scale") else kind()


def test_every_objective_has_a_name():
    named = set(OBJECTIVES.values())
    assert all(issubclass(kind, Objective) for kind in named)
    exported = {getattr(disco, name) for name in disco.__all__}
    assert {
        kind for kind in exported if isinstance(kind, type) and issubclass(kind, Objective)
    } == (named)


# The default suite trains one objective of each family.
DEFAULT = ("disco", "disco_score", "denoising", "diffusion", "sliced", "contrastive", "joint")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in DEFAULT else pytest.mark.slow) for n in OBJECTIVES]
)
def test_objective_trains(rows, name):
    fit = disco.fit(
        jax.random.key(0),
        rows,
        objective=objective_of(name),
        reference="gaussian",
        network=disco.MLP(width=32, num_blocks=1, num_octaves=2),
        num_steps=300,
        optimizer=disco.AdamW(learning_rate=3e-3),
        batch_size=256,
        progress_bar=False,
    )
    history = fit.history
    gain = history.held_out_loss[0] - history.held_out_loss[history.step == fit.best_step][0]
    assert fit.best_step > 0 and gain > 2 * history.held_out_error[-1]
    score = fit.score(rows[:100])
    assert score.shape == (100, 2) and np.isfinite(score).all()
    if name == "disco_score":
        with pytest.raises(ValueError, match="score network, which learns a score only"):
            fit.distribution  # noqa: B018
        with pytest.raises(ValueError, match="score network, which learns a score only"):
            fit.report()
        return
    np.testing.assert_allclose(score, fit.distribution.score(rows[:100]), rtol=1e-3, atol=1e-3)
    smoothed = fit.distribution.noise_scale is not None
    exact = ("contrastive", "joint", "implicit", "hutchinson", "sliced", "likelihood")
    assert smoothed == (name not in exact)


@pytest.mark.slow
def test_a_score_network_learns_the_same_score_as_an_energy(rows):
    """Both approximate the score of the same smoothed rows."""
    fits = [
        disco.fit(
            jax.random.key(0),
            rows,
            objective=objective_of(name),
            num_steps=600,
            optimizer=disco.AdamW(learning_rate=5e-3),
            **SMALL,
        )
        for name in ("disco", "disco_score")
    ]
    one, other = (np.asarray(fit.score(rows[:500])) for fit in fits)
    assert np.sqrt(((one - other) ** 2).mean() / (one**2).mean()) < 0.2


def test_a_contrastive_fit_stops_when_patience_runs_out(rows):
    fit = disco.fit(
        jax.random.key(0),
        rows[:300],
        objective="contrastive",
        reference=disco.MixtureFit(max_components=4),
        num_steps=5000,
        patience=200,
        **SMALL,
    )
    assert fit.history.step[-1] == fit.best_step + 200 < 5000


def test_smoothing_is_undone_through_the_reference():
    """The rows are drawn from the reference, so the exact result is the reference itself."""
    truth = disco.MixtureReference([0.4, 0.6], [[-1.0], [1.0]], [[[0.02]], [[0.05]]])
    rows = np.asarray(truth.sample(jax.random.key(2), (3000,)))
    x = np.linspace(-1.5, 1.5, 61)[:, None]
    errors = []
    for undo in (True, False):
        fit = disco.fit(
            jax.random.key(0),
            rows,
            reference=truth,
            objective=disco.Disco(noise_scale=0.2, undo_smoothing=undo),
            num_steps=400,
            optimizer=disco.AdamW(learning_rate=3e-3),
            **SMALL,
        )
        found = np.asarray(fit.distribution.normalize(jax.random.key(3)).log_prob(x))
        errors.append(np.abs(np.exp(found) - np.exp(truth.log_prob(x))).mean())
    assert errors[0] < 0.5 * errors[1]


def test_whitened_units_shape_the_smoothing_like_the_data():
    """A narrow direction is smoothed in proportion to its own width, not to that of columns."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(3000, 1))
    rows = np.concatenate([base, base + 0.05 * rng.normal(size=(3000, 1))], axis=1)
    widths = []
    for whiten in (True, False):
        objective = disco.Disco(noise_scale=0.3, whiten=whiten)
        fit = disco.fit(jax.random.key(0), rows, objective=objective, num_steps=50, **SMALL)
        draws = np.asarray(fit.distribution.sample(jax.random.key(1), (2000,)))
        widths.append((draws[:, 1] - draws[:, 0]).std())
    assert widths[0] == pytest.approx(0.05 * np.sqrt(1 + 0.3**2), rel=0.1)
    assert widths[1] > 0.3
