"""Where draws of the reference are far from the rows, a second stage learns the density."""

import jax
import numpy as np
import pytest

import numpyro_disco as disco

THIN = 0.01
RNG = np.random.default_rng(0)
QUICK = {
    "network": disco.MLP(width=64, num_blocks=1),
    "batch_size": 256,
    "progress_bar": False,
    "num_steps": 200,
    "reference": disco.MixtureFit(max_components=1),
    "objective": disco.Contrastive(stages=True),
}


def waves(num_rows):
    """Two normal columns, and one that is a wave of their sum but for a scale of THIN."""
    a, b, noise = RNG.normal(size=(3, num_rows))
    return np.stack([a, np.sin(2 * (a + b)) + THIN * noise, b], axis=1)


def log_density(rows):
    """The exact log density of `waves`."""
    a, wave, b = rows.T
    white = (wave - np.sin(2 * (a + b))) / THIN
    return -0.5 * (a**2 + b**2 + white**2) - np.log(THIN) - 1.5 * np.log(2 * np.pi)


@pytest.fixture(scope="module")
def rows():
    return waves(2000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fits") / "fit"


@pytest.fixture(scope="module")
def fit(rows, folder):
    return disco.fit(jax.random.key(0), rows, checkpoint=folder, **QUICK)


@pytest.mark.training
def test_the_second_stage_comes_nearer_to_the_truth(fit, rows):
    assert fit.settings.objective == disco.Likelihood()
    assert list(fit.components) == [1] and fit.history.step[-1] <= 400
    test = waves(1000)
    alone = np.asarray(fit.distribution.reference.log_prob(test))
    gain = np.asarray(fit.distribution.log_prob(test)) - alone
    assert gain.mean() - 5 * gain.std() / len(gain) ** 0.5 > 0.5
    assert gain.mean() < (log_density(test) - alone).mean()
    # Broken twin: without a second stage there are the first one's steps only.
    other = disco.fit(jax.random.key(0), rows, **(QUICK | {"objective": disco.Contrastive()}))
    assert isinstance(other.settings.objective, disco.Contrastive)
    assert (np.asarray(other.distribution.log_prob(test)) - alone).mean() < gain.mean()


@pytest.mark.training
def test_a_finished_fit_is_read_from_its_folder(fit, rows, folder):
    again = disco.fit(jax.random.key(0), rows, checkpoint=folder, **QUICK)
    test = waves(10)
    found, expected = (np.asarray(one.distribution.log_prob(test)) for one in (again, fit))
    np.testing.assert_array_equal(found, expected)
    assert again.components == fit.components


@pytest.mark.training
def test_a_second_stage_is_resumed(fit, rows):
    settings = {k: v for k, v in QUICK.items() if k not in ("num_steps", "reference", "objective")}
    longer = disco.fit(jax.random.key(0), rows, resume=fit, num_steps=450, **settings)
    assert longer.settings.objective == disco.Likelihood()
    assert longer.history.step[-1] == 450


@pytest.mark.training
def test_a_near_reference_needs_one_stage():
    near = disco.fit(jax.random.key(0), RNG.normal(size=(400, 2)), **QUICK)
    assert near.settings.objective.stages and isinstance(near.settings.objective, disco.Contrastive)


def test_a_gaussian_reference_has_one_stage():
    gaussian = disco.GaussianReference(np.zeros(2), np.eye(2))
    assert not disco.Contrastive(stages=True).resolved(gaussian, 1000).stages


def test_stages_is_a_flag():
    with pytest.raises(ValueError, match="`stages`; got"):
        disco.Contrastive(stages=1.5)
