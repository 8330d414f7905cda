"""Draws of a model whose table is an argument fit the model that they came from."""

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from helpers.models import nuts
from helpers.smc import QUICK, tempered
from helpers.three_coordinates import NUM_MISSING, PRIOR, TABLE
from numpyro.infer import Predictive, log_likelihood

import numpyro_disco as disco

KEY = jax.random.key(0)
Y = np.array([0.2, 0.1, -0.3, 0.4], np.float32)


def without_plates(table, y=None):
    x = disco.sample("x", PRIOR, obs=table)
    numpyro.sample("y", dist.Normal(x.sum(-1), 1.0), obs=y)


def with_plates(table, y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    with numpyro.plate("rows", len(table)):
        x = disco.sample("x", PRIOR, obs=table, deterministic=True)
        numpyro.sample("y", dist.Normal(slope * x[:, 0], 1.0), obs=y)


def in_a_scope(table, y=None):
    with numpyro.handlers.scope(prefix="inner", divider="."):
        x = disco.sample("x", PRIOR, obs=table)
    numpyro.sample("y", dist.Normal(x.sum(-1), 1.0), obs=y)


def padded_by_the_user(table, y=None):
    x = disco.sample("x", PRIOR, obs=table, padded=True)
    numpyro.sample("y", dist.Normal(x.sum(-1), 1.0), obs=y)


@pytest.mark.parametrize(
    "model, shape",
    [
        (with_plates, (NUM_MISSING,)),
        (in_a_scope, (NUM_MISSING,)),
        (padded_by_the_user, TABLE.shape),
    ],
)
def test_draws_fit_the_model(model, shape, capsys):
    smc = tempered(model, TABLE, Y, throw=False, **QUICK)
    draws = smc.get_samples()
    name = "inner.x.missing" if model is in_a_scope else "x.missing"
    assert draws[name].shape == (80, *shape)
    assert Predictive(model, draws)(KEY, TABLE)["y"].shape == (80, 4)
    assert log_likelihood(model, draws, TABLE, Y)["y"].shape == (80, 4)
    assert az.from_numpyro(smc)["posterior"][name].shape == (2, 40, *shape)
    smc.print_summary()
    assert f"{name}[{NUM_MISSING}]" not in capsys.readouterr().out
    if model is with_plates:
        # In the order of the table.
        np.testing.assert_array_equal(draws["x"][:, np.isnan(TABLE)], draws[name])
        np.testing.assert_array_equal(
            Predictive(model, draws)(KEY, TABLE)["x"][:, np.isnan(TABLE)], draws[name]
        )


def test_a_table_in_which_nothing_is_missing_has_no_site():
    table = np.nan_to_num(TABLE)
    smc = tempered(with_plates, table, Y, throw=False, **QUICK)
    assert set(smc.get_samples()) == {"slope", "x"}
    smc.print_summary()
    assert set(az.from_numpyro(smc)["posterior"].data_vars) == {"slope", "x"}


def test_draws_are_kept_if_the_model_fails_by_itself():
    def for_compiled_code(table, y=None):
        if not isinstance(table, jax.core.Tracer):
            raise ValueError("no concrete tables")
        without_plates(table, y)

    with pytest.warns(UserWarning, match=r"\['x.missing'\] keep a value.*no concrete tables"):
        smc = tempered(for_compiled_code, TABLE, Y, throw=False, **QUICK)
    assert smc.get_samples()["x.missing"].shape == (80, *TABLE.shape)


def test_draws_of_a_traced_table_as_a_base_are_refused():
    base = {"x.missing": np.zeros((20, NUM_MISSING))}
    with pytest.raises(ValueError, match="'x.missing'.*jit_model_args=False"):
        tempered(without_plates, TABLE, Y, base=base, **QUICK)


@pytest.mark.parametrize("columns", [False, True])
def test_a_table_that_a_model_makes_is_known(columns):
    def model():
        table = jnp.array(TABLE)
        if columns:
            table = {name: jnp.array(TABLE[:, i]) for i, name in enumerate(PRIOR.names)}
        disco.sample("x", PRIOR, obs=table)

    mcmc = nuts(model, num_warmup=5, num_samples=5)
    mcmc.run(KEY)
    assert mcmc.get_samples()["x.missing"].shape == (5, NUM_MISSING)
