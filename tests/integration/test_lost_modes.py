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
from numpyro_disco.models import programs
from numpyro_disco.tempering.status import CONVERGED, DISAGREE, MISSED

DIMENSION = 5
CENTRE = 0.6
PLATEAU = float(np.log(0.1))


def spiked(width):
    prior = dist.Normal(0.0, 1.0).expand([DIMENSION]).to_event(1)
    u = numpyro.sample("u", prior)
    plateau = jnp.log(0.1) + dist.Normal(0.0, 0.5).log_prob(u).sum()
    spike = jnp.log(0.9) + dist.Normal(CENTRE, width).log_prob(u).sum()
    numpyro.factor("likelihood", jnp.logaddexp(plateau, spike) - prior.log_prob(u))


@pytest.fixture(scope="module")
def sampler():
    """One sampler: runs with other widths and keys do not compile again."""
    return disco.TemperedSMC(spiked, progress_bar=False, throw=False)


def run(smc, width, seed=0):
    smc.run(jax.random.key(seed), width)
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


def test_a_spike_that_draws_met_and_particles_lost(sampler, monkeypatch):
    """Most runs that lose the spike with a small printed error say so."""
    lost, told = 0, 0
    for seed in range(8):
        pooled, error = run(sampler, 0.05, seed)
        if pooled < -1 and error < 0.5:
            lost += 1
            told += bool((sampler.status == MISSED).all() or (sampler.status == DISAGREE).all())
    assert lost >= 3
    assert told >= lost / 2
    monkeypatch.setattr(programs, "lost_a_mode", lambda *arrays: False)
    assert not (sampler.status == MISSED).any()


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
