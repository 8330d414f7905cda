"""What a finished sampler says of its runs."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers.smc import QUICK, tempered


def fails_below_zero(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(jnp.where(mu < 0, jnp.nan, mu), 1.0), obs=y)


@pytest.fixture(scope="module")
def run():
    return tempered(fails_below_zero, 0.5, num_chains=4, num_sweeps=0, non_finite="impossible")


def test_share_of_impossible_draws(run, capsys):
    np.testing.assert_allclose(run.impossible_share, 0.5, atol=5 * 0.5 / np.sqrt(32 * 512))
    assert (np.asarray(run.get_samples()["mu"]) > 0).all()
    run.print_summary()
    assert "NaN at 0.5 of the draws of the base" in capsys.readouterr().out


def test_the_evidence_of_each_draws_run(run):
    found = run.get_extra_fields(group_by_chain=True)["log_normalizer"]
    np.testing.assert_array_equal(found, np.repeat(run.log_normalizer[:, None], 512, axis=1))


def test_failures_name_the_option_and_the_share():
    run = tempered(fails_below_zero, 0.5, throw=False, **QUICK)
    assert "NaN at 0.5" in run.status_messages[0]
    assert 'non_finite="impossible"' in run.status_messages[0]

    def infinite():
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.factor("f", jnp.where(mu < 0, jnp.inf, 0.0))

    for non_finite in ("error", "impossible"):
        run = tempered(infinite, throw=False, non_finite=non_finite, **QUICK)
        assert "+infinity" in run.status_messages[0]
        assert "non_finite" not in run.status_messages[0]
