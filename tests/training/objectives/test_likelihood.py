"""Maximum likelihood of a normalised density."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import numpyro_disco as disco
from numpyro_disco.training import learning
from numpyro_disco.training.report.training import normalized_line

THIN = 0.01


def waves(num_rows):
    """Two normal columns, and one that is a wave of their sum but for a scale of THIN."""
    a, b, noise = np.random.default_rng(num_rows).normal(size=(3, num_rows))
    return np.stack([a, np.sin(2 * (a + b)) + THIN * noise, b], axis=1)


def log_density(rows):
    """The exact log density of `waves`."""
    a, wave, b = rows.T
    white = (wave - np.sin(2 * (a + b))) / THIN
    return -0.5 * (a**2 + b**2 + white**2) - np.log(THIN) - 1.5 * np.log(2 * np.pi)


WAVES = waves(2000)


def quick_fit(data, num_steps=1, focus=None, **settings):
    return disco.fit(
        jax.random.key(0),
        data,
        objective=disco.Likelihood(focus=focus),
        num_steps=num_steps,
        reference=disco.MixtureFit(max_components=1),
        network=disco.MLP(width=64, num_blocks=1),
        progress_bar=False,
        **settings,
    )


class Standard:
    """The energy of the standard normal, up to a constant."""

    @staticmethod
    def standardized(z):
        return 0.5 * (z**2).sum()


def test_the_loss_is_the_energy_of_a_row():
    objective, row = disco.Likelihood(), jnp.array([1.0, -2.0])
    assert float(objective.loss(Standard, row)) == 2.5
    noise = objective.held_out_noise(jax.random.key(0), jnp.zeros((5, 2)), 3, None)
    assert (
        noise.shape == (5, 1) and float(objective.held_out_loss(Standard, row, noise[0, 0])) == 2.5
    )
    assert objective.strict and not objective.whitens and not objective.smooths


def test_discrete_columns_are_refused():
    data = {"a": np.arange(40) % 2 == 0, "b": np.random.default_rng(0).normal(size=40)}
    with pytest.raises(ValueError, match="discrete columns.*levels have masses.*leave these"):
        disco.fit(jax.random.key(0), data, objective="likelihood")
    # Whole numbers without a declared support are levels, as for the contrastive objective.
    with pytest.raises(ValueError, match=r"discrete columns \['a'\]"):
        disco.fit(jax.random.key(0), data | {"a": np.arange(40) % 3}, objective="likelihood")


def test_columns_need_a_density():
    rng = np.random.default_rng(0)
    tied = {"a": np.round(rng.normal(size=400)), "b": rng.normal(size=400)}
    with pytest.raises(ValueError, match="'a' has the value 0 in .* of the rows"):
        disco.fit(jax.random.key(0), tied, objective="likelihood")
    spiked = np.where(rng.random(400) < 0.09, 7.0, rng.normal(size=400))
    with pytest.warns(UserWarning, match="'a'.*the value 7 in"):
        quick_fit(tied | {"a": spiked})


def test_a_network_for_arrays_is_refused():
    with pytest.raises(ValueError, match=r"`disco.MLP\(...\)` for `network`"):
        disco.fit(jax.random.key(0), WAVES, objective="likelihood", network=disco.UNet())


def test_columns_in_focus_are_drawn_last_and_exactly():
    prior = quick_fit(WAVES, focus="0").distribution
    assert prior.energy_fn.normalized_order[-1] == 0
    draws, info = disco.sample_conditional(
        jax.random.key(0), prior, observed={"1": 0.3, "2": 0.1}, num_samples=20, return_info=True
    )
    assert (info.method == "exact").all()
    draws = np.asarray(draws)
    assert draws[:, 0].std() > 0 and (draws[:, 1:] == np.float32([0.3, 0.1])).all()
    with pytest.raises(ValueError, match="'theta'"):
        quick_fit(WAVES, focus="theta")
    with pytest.raises(ValueError, match="a name or distinct names"):
        disco.Likelihood(focus=())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fits") / "fit"


@pytest.fixture(scope="module")
def fit(folder):
    return quick_fit(WAVES, num_steps=400, checkpoint=folder)


@pytest.mark.training
def test_a_thin_surface_is_learned_better_than_by_its_reference(fit):
    test = waves(1000)
    alone = np.asarray(fit.distribution.reference.log_prob(test))
    gain = np.asarray(fit.distribution.log_prob(test)) - alone
    assert gain.mean() - 5 * gain.std() / len(gain) ** 0.5 > 0.5
    assert gain.mean() < (log_density(test) - alone).mean()


@pytest.mark.training
def test_draws_are_exact_and_the_report_does_not_speak_of_the_reference(fit):
    report = fit.report()
    assert "reference" not in [line.name for line in report.lines]
    assert "log Z 0.000 +- 0" in report["log density"].reason


@pytest.mark.training
def test_the_report_compares_with_the_reference(fit):
    """Training lowers the loss of a new network even if it ends below the reference."""
    test = waves(1000)
    prior = fit.distribution
    gain = np.asarray(prior.log_prob(test) - prior.reference.log_prob(test)).mean()
    line = normalized_line(fit.evidence)
    assert line.verdict == "pass" and abs(line.value - gain) < 0.2
    a, b, noise = np.random.default_rng(0).normal(size=(3, 2000))
    line = normalized_line(quick_fit(np.stack([a, a + 0.1 * noise, b], axis=1)).evidence)
    assert line.verdict == "fail" and "relative to the reference" in line.reason


@pytest.mark.training
def test_a_checkpoint_keeps_the_order_of_columns(fit, folder, monkeypatch):
    """Weights of another order would be those of another density."""
    monkeypatch.setattr(learning, "column_order", lambda rows, last: (1, 0, 2))
    again, test = quick_fit(WAVES, num_steps=400, checkpoint=folder), waves(10)
    found, expected = (np.asarray(one.distribution.log_prob(test)) for one in (again, fit))
    np.testing.assert_array_equal(found, expected)
