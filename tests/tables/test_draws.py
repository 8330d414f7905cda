"""Draws of other runs as rows of coordinates."""

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray
from helpers.variables import SUPPORTS, VARIABLES, draws_of_variables
from numpyro.distributions import constraints
from numpyro.infer import MCMC, NUTS

from numpyro_disco.tables.draws import read_draws

DRAWS = draws_of_variables(40)


def arviz_of(posterior):
    """An ArviZ object of any version, from arrays (chain, draw, ...)."""
    try:
        return az.from_dict(posterior=posterior)
    except TypeError:
        return az.from_dict({"posterior": posterior})


def by_chain(draws):
    return {name: value.reshape(2, 20, *value.shape[1:]) for name, value in draws.items()}


@pytest.fixture(scope="module")
def sampler():
    """A sampler of a model with a vector, a simplex, bounds, and a deterministic site."""

    def model(y=None):
        b = numpyro.sample("b", dist.Normal(0, 1).expand([2]).to_event(1))
        numpyro.sample("p", dist.Dirichlet(jnp.ones(3)))
        width = numpyro.sample("width", dist.Uniform(jnp.array([0.0, 1.0]), 3.0).to_event(1))
        numpyro.sample("angle", dist.VonMises(0.0, 1.0))
        numpyro.deterministic("norm", (b**2).sum())
        with numpyro.plate("rows", 2):
            numpyro.sample("share", dist.Beta(2, 2))
        numpyro.sample("y", dist.Normal(width.sum(), 1), obs=y)

    mcmc = MCMC(NUTS(model), num_warmup=10, num_samples=30, progress_bar=False)
    mcmc.run(jax.random.key(0), 1.0)
    return mcmc


def test_a_dict_of_arrays_with_given_supports():
    found = read_draws(DRAWS, None, SUPPORTS)
    assert found.variables == VARIABLES and tuple(found.columns) == VARIABLES.names
    np.testing.assert_array_equal(found.columns["b[1]"], DRAWS["b"][:, 1].astype(np.float64))
    x = np.stack(list(found.columns.values()), axis=1)
    np.testing.assert_allclose(VARIABLES.unpack(x)["L"], DRAWS["L"], atol=1e-6)
    assert found.supports["s2"] == constraints.positive


def test_series_of_draws_are_matched_by_their_index():
    a = pd.Series([1.0, 2.0], ["r", "s"])
    b = pd.DataFrame([[3.0, 4.0], [5.0, 6.0]], index=["s", "r"])
    found = read_draws({"a": a, "b": b}, None, None)
    assert found.columns["b[0]"].tolist() == [5, 3]
    with pytest.raises(ValueError, match="one index in `data` beside the arrays"):
        read_draws({"a": a, "c": a[::-1], "b": b.to_numpy()}, None, None)


def test_tables_are_left_to_others():
    assert read_draws({"a": np.zeros(3), "b": np.zeros(3)}, None, None) is None
    assert read_draws(np.zeros((3, 2)), None, None) is None
    table = xarray.DataArray(np.zeros((3, 2)), dims=("row", "column"))
    assert read_draws(table, None, None) is None
    assert read_draws(table.to_dataset(name="a"), None, None) is None


@pytest.mark.parametrize("form", ["object", "dataset", "group", "extracted"])
def test_arviz_and_xarray_objects_stack_chains(form):
    whole = arviz_of(by_chain(DRAWS))
    data = {
        "object": lambda: whole,
        "group": lambda: whole["posterior"],
        "dataset": lambda: (
            whole["posterior"].to_dataset()
            if hasattr(whole["posterior"], "to_dataset")
            else whole.posterior
        ),
        "extracted": lambda: az.extract(whole, keep_dataset=True),
    }[form]()
    found = read_draws(data, ("b", "s2", "p", "L"), SUPPORTS)
    assert found.variables == VARIABLES
    expected = read_draws(DRAWS, None, SUPPORTS)
    for name, column in expected.columns.items():
        np.testing.assert_allclose(found.columns[name], column, atol=1e-6)


def test_an_arviz_object_without_a_posterior_is_refused():
    try:
        data = az.from_dict(prior=by_chain(DRAWS))
    except TypeError:
        data = az.from_dict({"prior": by_chain(DRAWS)})
    with pytest.raises(ValueError, match="group `posterior`"):
        read_draws(data, None, None)
    assert read_draws(data["prior"], ("s2",), None).variables.shapes == {"s2": ()}


def test_supports_are_read_off_the_model(sampler):
    found = read_draws(sampler, None, None)
    shapes = {"angle": (), "b": (2,), "p": (3,), "share": (2,), "width": (2,)}
    assert found.variables.shapes == shapes
    assert "norm" not in found.variables.shapes
    assert found.variables["p"].joint_support == "simplex"
    assert found.supports["width[0]"] == constraints.interval(0.0, 3.0)
    assert found.supports["width[1]"] == constraints.interval(1.0, 3.0)
    assert found.supports["share[1]"] == constraints.unit_interval
    assert found.supports["angle"] == constraints.interval(-np.pi, np.pi)


def test_names_select_and_rename(sampler):
    found = read_draws(sampler, ("norm", "b"), {"norm": constraints.positive})
    assert found.variables.shapes == {"norm": (), "b": (2,)}
    assert found.supports["norm"] == constraints.positive
    renamed = read_draws(
        DRAWS, ("v", "w", "x", "y"), {"x": constraints.simplex, "y": SUPPORTS["L"]}
    )
    assert renamed.variables["x"].joint_support == "simplex"
    with pytest.raises(ValueError, match="some of the variables"):
        read_draws(DRAWS, ("b", "z"), None)


def test_the_prefix_of_a_learned_prior_is_dropped():
    draws = {f"theta.{name}": value for name, value in DRAWS.items()}
    assert read_draws(draws, None, SUPPORTS).variables == VARIABLES
    others = read_draws(
        draws | {"c": np.arange(40.0)}, None, {"theta.p": SUPPORTS["p"], "theta.L": SUPPORTS["L"]}
    )
    assert "theta.b" in others.variables.shapes


def test_supports_that_depend_on_other_sites_are_refused():
    def model():
        a = numpyro.sample("a", dist.HalfNormal(1.0))
        numpyro.sample("c", dist.Uniform(0, a))

    mcmc = MCMC(NUTS(model), num_warmup=1, num_samples=20, progress_bar=False)
    mcmc.run(jax.random.key(0))
    with pytest.raises(ValueError, match="'c' that does not depend on other sites"):
        read_draws(mcmc, None, None)
    assert read_draws(mcmc, None, {"c": constraints.positive}).supports["c"] == constraints.positive


def test_whole_numbers_have_the_support_of_their_range():
    draws = {"k": np.arange(20).reshape(10, 2) % 3, "on": np.arange(10) % 2 == 0}
    found = read_draws(draws, None, None)
    assert found.supports["k[1]"] == constraints.integer_interval(0, 2)
    assert found.supports["on"] == constraints.integer_interval(0, 1)
    wide = {"k": 100 * np.arange(20).reshape(10, 2)}
    assert read_draws(wide, None, None).supports["k[0]"] == constraints.nonnegative_integer
    given = read_draws(wide, None, {"k": constraints.integer_interval(0, 2000)})
    assert not read_draws(wide, None, {"k": constraints.real}).supports
    assert given.supports["k[0]"] == constraints.integer_interval(0, 2000)


@pytest.mark.parametrize(
    ("change", "supports", "message"),
    [
        ({}, {"L": SUPPORTS["L"]}, "'p' that do not determine each other; they always sum to 1"),
        ({"p": DRAWS["b"]}, {}, r"\['L\[0,0\]', 'L\[0,1\]'\] are constant.*corr_cholesky"),
        ({}, SUPPORTS | {"q": constraints.positive}, r"names \['q'\]"),
        ({"b": DRAWS["b"][:3]}, SUPPORTS, "equally many draws"),
        ({"b": DRAWS["b"] + 1j}, SUPPORTS, "real numbers for 'b'.*complex"),
        ({"p": DRAWS["p"] + 0.1}, SUPPORTS, "'p' in `data` strictly inside its support, simplex"),
        ({"p": np.eye(3)[np.arange(40) % 3]}, SUPPORTS, "strictly inside its support, simplex"),
        ({}, SUPPORTS | {"s2": constraints.simplex}, "1 axes besides the first"),
        ({}, SUPPORTS | {"b": "positive"}, "NumPyro constraint for 'b'"),
        ({}, SUPPORTS | {"b": constraints.sphere}, "map real numbers onto for 'b'"),
        ({}, SUPPORTS | {"b": constraints.interval(np.zeros(3), 1.0)}, "bounds fit its shape"),
    ],
)
def test_draws_that_do_not_fit_are_refused(change, supports, message):
    with pytest.raises(ValueError, match=message):
        read_draws(DRAWS | change, None, supports)
