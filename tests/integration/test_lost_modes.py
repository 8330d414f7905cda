"""Narrow modes that runs of TemperedSMC lose: what error, status and summary say, and what helps.

The prior is N(0, I) in five dimensions. The posterior is a plateau with a tenth of the mass and a
narrow spike with the rest, and the true evidence is 1. Whoever sees the plateau alone finds 0.1.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers.statistics import assert_within

import numpyro_disco as disco
from numpyro_disco.tempering.status import CONVERGED, MISSED

DIMENSION = 5
CENTRE = 0.6
PLATEAU = float(np.log(0.1))


def spiked(width, centre):
    prior = dist.Normal(0.0, 1.0).expand([DIMENSION]).to_event(1)
    u = numpyro.sample("u", prior)
    plateau = jnp.log(0.1) + dist.Normal(0.0, 0.5).log_prob(u).sum()
    spike = jnp.log(0.9) + dist.Normal(centre, width).log_prob(u).sum()
    numpyro.factor("likelihood", jnp.logaddexp(plateau, spike) - prior.log_prob(u))


@pytest.fixture(scope="module")
def sampler():
    """One sampler: runs with other widths and keys do not compile again."""
    return disco.TemperedSMC(spiked, progress_bar=False, throw=False)


@pytest.fixture(scope="module")
def searching():
    return disco.TemperedSMC(spiked, progress_bar=False, throw=False, search_peaks=True)


def run(smc, width, seed=0, centre=CENTRE):
    smc.run(jax.random.key(seed), width, centre)
    estimates = np.asarray(smc.log_normalizer, np.float64)
    pooled = np.log(np.mean(np.exp(estimates)))
    return pooled, float(smc.log_normalizer_error)


def test_a_wide_spike_is_found(sampler):
    pooled, error = run(sampler, 0.3)
    assert_within(pooled, 0.0, max(error, 0.005), resolution=0.1, label="log evidence")
    assert (sampler.status == CONVERGED).all()


def test_a_spike_that_no_draw_meets_is_a_stated_risk(sampler, capsys):
    """The error is small and the status good, so the summary says what they leave out."""
    pooled, error = run(sampler, 0.003)
    assert abs(pooled - PLATEAU) < 0.05 and error < 0.01
    assert (sampler.status == CONVERGED).all()
    sampler.print_summary()
    assert "leaves out modes that no run saw" in capsys.readouterr().out
    # About 1e-9 of the prior is near enough to the spike to be drawn to it.
    assert 1e-9 < sampler.unseen_share == 3 / (4 * 32 * 1024)


def test_a_spike_in_the_plateau_is_told(searching):
    """Particles pass the spike by, but their slopes lead into it."""
    pooled, error = run(searching, 0.01, centre=0.0)
    assert abs(pooled - PLATEAU) < 0.1 and error < 0.02
    assert (searching.status == MISSED).all()
    assert "missed a narrow mode" in searching.status_messages[0]


def test_the_summary_names_the_mass_of_the_peak(searching, capsys):
    run(searching, 0.01, centre=0.0)
    searching.print_summary()
    out = capsys.readouterr().out
    assert "found by climbing: -0.1" in out and "failed: inverse temperature 1" in out


def test_a_spike_that_was_found_is_no_alarm(searching):
    for seed in range(4):
        run(searching, 0.3, seed)
        assert (searching.status == CONVERGED).all()


def test_without_the_search_nothing_is_told(sampler):
    """The broken twin: the same runs, without the search."""
    pooled, _ = run(sampler, 0.01, centre=0.0)
    assert abs(pooled - PLATEAU) < 0.1
    assert (sampler.status == CONVERGED).all()


def test_a_base_with_draws_near_the_spike(sampler):
    """Draws of NUTS or of an optimiser's Gaussian, beside draws of the prior, are such a base."""
    rng = np.random.default_rng(0)
    near = CENTRE + 0.02 * rng.standard_normal((500, DIMENSION))
    draws = np.concatenate([near, rng.standard_normal((500, DIMENSION))])
    smc = disco.TemperedSMC(spiked, base={"u": draws}, progress_bar=False)
    pooled, error = run(smc, 0.01)
    assert_within(pooled, 0.0, max(error, 0.005), resolution=0.1, label="log evidence")
    inside = np.abs(np.asarray(smc.get_samples()["u"]) - CENTRE).max(1) < 0.1
    assert abs(inside.mean() - 0.9) < 0.05
