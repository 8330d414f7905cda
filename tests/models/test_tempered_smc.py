"""`TemperedSMC`: its settings, its results, and the runs that it refuses or reports as failed."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers.smc import QUICK, Y, check_evidence, conjugate, conjugate_evidence, tempered
from helpers.statistics import assert_within
from scipy.stats import norm

import numpyro_disco as disco
from numpyro_disco.tempering import status


@pytest.fixture(scope="module")
def from_prior():
    return tempered(conjugate, Y)


def test_evidence_from_the_priors(from_prior):
    check_evidence(from_prior, conjugate_evidence(Y))
    # The broken twin: one observation is forgotten.
    with pytest.raises(AssertionError, match="is off"):
        check_evidence(from_prior, conjugate_evidence(Y[:-1]))


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel": "mala", "base_draws": 1, "schedule": (0.1, 0.4, 1.0), "resampling": "residual"},
        {
            "kernel": "random_walk",
            "max_moves": 16,
            "particles_at_once": 100,
            "dense_mass": False,
            "resampling": "multinomial",
        },
        {"chain_length": 4},
    ],
    ids=["mala", "random_walk", "waste_free"],
)
def test_evidence_with_other_settings(settings):
    smc = tempered(conjugate, Y, **settings)
    check_evidence(smc, conjugate_evidence(Y))
    if "schedule" in settings:
        expected = np.broadcast_to(settings["schedule"], (8, 3))
        np.testing.assert_allclose(smc.history.inverse_temperature, expected, rtol=1e-6)


def test_mass_of_the_path_is_that_of_its_history(from_prior):
    last = np.asarray(from_prior.history.log_normalizer)
    steps = np.isfinite(last).sum(1)
    np.testing.assert_array_equal(
        last[np.arange(len(last)), steps - 1], from_prior.log_path_normalizer
    )


def test_plot_history(from_prior):
    pytest.importorskip("matplotlib")
    axes = from_prior.plot_history()
    assert [len(axis.lines) for axis in axes] == [8, 8, 8, 8]


def test_deterministic_sites_are_returned():
    def model():
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.deterministic("twice", 2 * mu)

    draws = tempered(model, **QUICK).get_samples()
    np.testing.assert_allclose(draws["twice"], 2 * draws["mu"], rtol=1e-6)


# -- failures ------------------------------------------------------------------------------------


def test_gradients_that_are_not_numbers():
    """The gradient is NaN everywhere, where the density is finite; the draws are right."""

    def model():
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        trap = jnp.where(mu > 1e9, jnp.sqrt(mu - 1e9), 0.0)
        numpyro.factor("sharp", -0.5 * ((mu - 1) / 0.1) ** 2 + trap)

    smc = tempered(model)
    check_evidence(smc, 0.5 * np.log(2 * np.pi * 0.01) + norm.logpdf(1.0, 0.0, np.sqrt(1.01)))
    means = np.asarray(smc.get_samples(group_by_chain=True)["mu"]).mean(1)
    assert_within(means.mean(), 1 / 1.01, 0.1 / np.sqrt(8 * 512 / 4), resolution=0.03)


def test_results_before_a_run_are_refused():
    smc = disco.TemperedSMC(conjugate)
    for call in (smc.get_samples, smc.get_extra_fields, smc.print_summary):
        with pytest.raises(RuntimeError, match="has not run yet"):
            call()


def test_a_density_that_is_not_a_number():
    def model():
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.sample("good", dist.Normal(mu, 1.0), obs=0.5)
        numpyro.factor("bad", jnp.log(mu))

    with pytest.raises(RuntimeError, match="NaN.*'bad'") as error:
        tempered(model, **QUICK)
    assert "'good'" not in str(error.value)


def test_a_base_that_does_not_reach_the_target():
    def model():
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.factor("far", jnp.where(mu > 30, 0.0, -jnp.inf))

    with pytest.raises(RuntimeError, match="every particle has weight zero"):
        tempered(model, **QUICK)


def test_a_run_that_makes_no_progress():
    def model():
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mu, 1e-3), obs=4.0)

    smc = tempered(model, throw=False, **QUICK | {"max_temperatures": 2})
    assert (smc.status == status.STUCK).all()
    assert "inverse temperature is only" in smc.status_messages[0]
    assert "max_temperatures" in smc.status_messages[0]


def test_runs_that_disagree_are_reported():
    """With two distant modes and a handful of particles, each run ends in one of them."""

    def model():
        x = numpyro.sample("x", dist.Normal(0.0, 5.0).expand([4]).to_event(1))
        modes = jnp.array([[9.0], [-9.0]])
        numpyro.factor("f", jax.nn.logsumexp(-0.5 * ((x - modes) ** 2).sum(1) / 0.1**2))

    with pytest.raises(RuntimeError, match="independent runs found different distributions"):
        tempered(model, num_particles=16, num_chains=6, num_sweeps=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_particles": 1},
        {"num_chains": 0},
        {"target_ess": 1.5},
        {"base_draws": 0},
        {"max_moves": 0},
        {"chain_length": 5},
        {"kernel": "nuts"},
        {"resampling": "none"},
        {"schedule": [0.5, 0.2, 1.0]},
        {"num_sweeps": -1},
        {"max_temperatures": 0},
        {"max_leapfrog": 2.5},
        {"non_finite": "ignore"},
    ],
)
def test_settings_that_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        disco.TemperedSMC(conjugate, **settings)


def test_a_failed_search_for_peaks_keeps_the_runs():
    @jax.custom_vjp
    def half_square(mu):
        return 0.5 * mu**2

    # The derivative in the backward pass has none of its own.
    once = jax.custom_vjp(lambda mu: mu)
    once.defvjp(lambda mu: (mu, None), lambda _, bar: 1 / 0)
    half_square.defvjp(lambda mu: (half_square(mu), mu), lambda mu, bar: (bar * once(mu),))

    def model():
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.factor("likelihood", -half_square(mu))

    smc = disco.TemperedSMC(
        model,
        num_particles=64,
        num_chains=1,
        num_sweeps=0,
        progress_bar=False,
        search_peaks=True,
    )
    with pytest.warns(UserWarning, match="search for peaks failed.*ZeroDivisionError"):
        smc.run(jax.random.key(0))
    assert smc.get_samples()["mu"].shape == (64,)


def test_a_search_for_peaks_needs_gradients():
    with pytest.raises(ValueError, match="another kernel than 'random_walk'"):
        disco.TemperedSMC(lambda: None, kernel="random_walk", search_peaks=True)


def test_healthy_runs_have_missed_no_peak():
    """A single run of few particles, whose own error is unknown."""
    smc = disco.TemperedSMC(
        conjugate, num_particles=64, num_chains=1, progress_bar=False, search_peaks=True
    )
    smc.run(jax.random.key(0), Y)
    assert (smc.status == status.CONVERGED).all()
