"""Finished samplers that are pickled, copied, and sent to other processes."""

import copy
import pickle

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers.smc import QUICK
from helpers.three_coordinates import NUM_MISSING, PRIOR, TABLE
from numpyro.infer import MCMC, NUTS

import numpyro_disco as disco

KEY = jax.random.key(0)


def plain(y):
    numpyro.sample("y", dist.Normal(numpyro.sample("m", dist.Normal(0, 1)), 1), obs=y)


def with_table(table):
    disco.sample("x", PRIOR, obs=table)


def make(model=plain, **settings):
    return disco.TemperedSMC(model, throw=False, **(QUICK | settings))


@pytest.fixture(scope="module")
def finished():
    smc = make(progress_bar=True)
    smc.run(KEY, 0.3)
    return smc


def through_pickle(sampler):
    return pickle.loads(pickle.dumps(sampler))


def check_same(found, expected):
    """Draws, fields and the evidence are equal bit for bit."""
    for take in (lambda s: s.get_samples(), lambda s: s.get_extra_fields()):
        assert take(found).keys() == take(expected).keys()
        for name, values in take(expected).items():
            np.testing.assert_array_equal(take(found)[name], values)
    np.testing.assert_array_equal(found.log_normalizer, expected.log_normalizer)
    assert found.status_messages == expected.status_messages


@pytest.mark.parametrize("through", [through_pickle, copy.deepcopy, copy.copy])
def test_a_copy_has_the_results_and_runs_again(finished, through):
    again = through(finished)
    check_same(again, finished)
    other = through(finished)
    other.run(jax.random.key(1), 0.3)
    assert (other.get_samples()["m"] != finished.get_samples()["m"]).any()
    other.run(KEY, 0.3)
    check_same(other, finished)
    # A run of a copy leaves the original alone.
    check_same(again, finished)


def test_a_sampler_that_has_not_run():
    smc = through_pickle(make(base={"m": dist.Normal(0.0, 2.0)}, progress_bar=False))
    with pytest.raises(RuntimeError, match="has not run yet"):
        smc.get_samples()
    smc.run(KEY, 0.3)
    assert smc.get_samples()["m"].shape == (80,)


def test_a_run_with_a_base_of_draws_on_given_devices():
    base = {"m": np.random.default_rng(0).normal(size=50)}
    smc = make(base=base, devices=jax.devices()[:1], progress_bar=False)
    smc.run(KEY, 0.3)
    again = through_pickle(smc)
    check_same(again, smc)
    again.run(KEY, 0.3)
    check_same(again, smc)


def test_a_run_over_missing_entries():
    smc = make(with_table, progress_bar=False)
    smc.run(KEY, TABLE)
    again = through_pickle(smc)
    assert again.get_samples()["x.missing"].shape == (80, NUM_MISSING)
    check_same(again, smc)


def test_a_run_in_another_process():
    joblib = pytest.importorskip("joblib")

    def model(y):  # sent by value, as it is not part of a module
        numpyro.sample("y", dist.Normal(numpyro.sample("m", dist.Normal(0, 1)), 1), obs=y)

    def run(smc, y):
        smc.run(KEY, y)
        return smc

    smc = disco.TemperedSMC(model, throw=False, progress_bar=False, **QUICK)
    # With one job, joblib would stay in this process.
    (found,) = joblib.Parallel(n_jobs=2)([joblib.delayed(run)(smc, 0.3)])
    expected = run(smc, 0.3)
    # Another process compiles with other options than these tests, so rounding differs.
    draws, evidence = found.get_samples()["m"], found.log_normalizer
    np.testing.assert_allclose(draws, expected.get_samples()["m"], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(evidence, expected.log_normalizer, rtol=1e-4)


def test_mcmc_with_fresh_rows():
    mcmc = MCMC(disco.RowRefresh(NUTS(with_table)), num_warmup=5, num_samples=5, progress_bar=False)
    mcmc.run(KEY, TABLE)
    for again in (through_pickle(mcmc), copy.deepcopy(mcmc)):
        for name, values in mcmc.get_samples().items():
            np.testing.assert_array_equal(again.get_samples()[name], values)
        again.run(KEY, TABLE)
        for name, values in mcmc.get_samples().items():
            np.testing.assert_array_equal(again.get_samples()[name], values)
